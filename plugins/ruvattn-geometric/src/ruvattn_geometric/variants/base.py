"""What the geometric variants share: heads whose queries, keys and values are points, what comes in and goes out as tangent vectors, and the checks.

    q, k, v ─┬─ points ──► check, or project ─┬──────────────────────────────────────► score ─► softmax ─► aggregate ─► points ─► out
             └─ tangent vectors at the origin ┴─ log₀ ─► W_q, W_k, W_v ─► exp₀ ─► points ──┘            points ─► log₀ ─► W_o ─► exp₀ ─► out

A layer of projections is linear in the tangent space at the origin (Ganea et al., 2018, "Hyperbolic Neural Networks", section 3.2): log₀ ahead of it
and exp₀ after it, for each head on its own. Nothing is clamped in silence: `GeometricVariant.num_projected` tells how many points have been moved.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from ruvattn import Context, GeometricAttention, attention_weights, registry
from ruvattn.errors import InvalidInputError
from ruvattn.headwise import split_heads
from ruvattn.validation import check_bool, check_int

from ..geometric_score import GeometricScore
from ..manifolds import GeometricManifold
from ..parameters import per_head
from .checks import COUNTED, CallGeometry, LastCall, heads_last
from .learned import FOLLOWING, LearnedGeometry

__all__ = ["GeometricVariant", "head_width"]

SIDES = ("manifold", "tangent")
"""What points are given and returned as."""

PLAIN = "weighted-sum"
"""The aggregate whose values are vectors, and not points."""

OF_SCORE = {"temperature": 1.0, "squared": False}
"""Options of a variant that are its score's, with their defaults."""


def head_width(embed_dim: Any, num_heads: Any) -> int:
    """Return how many coordinates a head has.

    Parameters
    ----------
    embed_dim, num_heads : int
        As a variant takes them.

    Returns
    -------
    int
        The quotient.

    Raises
    ------
    InvalidInputError
        If they are no such ints, or one doesn't divide the other.
    """
    width, heads = check_int(embed_dim, "embed_dim", 1), check_int(num_heads, "num_heads", 1)
    if width % heads:
        raise InvalidInputError(f"num_heads must divide embed_dim, which is {width}, got {heads}")
    return width // heads


class GeometricVariant(LearnedGeometry, GeometricAttention):
    """Attention of heads each of which lives on a manifold of its own: the score falls with the distance, the aggregate is a mean of points.

    Each head's slice of a query, key or value, embed_dim / num_heads wide, is a point, or a tangent vector at the origin. A subclass names its
    default score and aggregate, the options that are its geometry in `geometry`, and makes the manifold in `make_manifold`. All options of
    `ruvattn.headwise.HeadwiseAttention` are taken as well.

    Parameters
    ----------
    embed_dim : int
        Width of the queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    geometry : mapping
        The options of the subclass, checked, for its configuration.
    score : str
        The name of a registered score. Options of the variant that it has too, by name, are handed to it.
    aggregate : str
        The name of a registered aggregate; likewise. With "weighted-sum" the values are plain vectors, of any width that the number of heads
        divides, and so is the output.
    temperature : float or sequence of num_heads floats, default 1.0
        What the score is divided by, above 0.
    squared : bool, default False
        Whether the score goes by the square of the distance.
    inputs : {"manifold", "tangent"}, default "manifold"
        Whether queries, keys and values are points or tangent vectors at the origin.
    outputs : {"manifold", "tangent"}, optional
        What the output is; as the inputs when not given.
    project : bool, default False
        Whether what is off the manifold, or not tangent, is moved there and counted; else it is an error.
    num_kv_heads, projections, bias, seed, dtype : optional
        As for `ruvattn.builtin.multihead.MultiHeadAttention`, but without projections by default. Fewer key heads than query heads share their
        curvature, which has to be one number then.
    learn : sequence of str, default ()
        As for `ruvattn.headwise.HeadwiseAttention`; also "curvature" and "temperature", which make the parameters ``log_curvature``, of the curvature
        without its sign, and ``log_temperature``. A curvature of the Lorentz model or of a sphere can be learned where inputs are tangent vectors,
        or are projected: points of one are none of another.
    **options
        Those of `ruvattn.headwise.HeadwiseAttention`.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    DimensionMismatchError
        If the width of a head does not fit the manifold.
    UnknownVariantError
        If the score or aggregate isn't registered.
    """

    geometry: ClassVar[tuple[str, ...]] = ()
    manifold_name: ClassVar[str]
    __signature__: ClassVar[inspect.Signature]
    any_value_width: ClassVar[bool] = True
    """Whether values may be points of the same kind of manifold, but of another dimension."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A subclass names its own options, and hands on those below: listings show them all.
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
            named = {parameter.name for parameter in own}
            shared = inspect.signature(GeometricVariant.__init__).parameters.values()
            own[-1:-1] = [parameter for parameter in shared if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in named]
        cls.__signature__ = inspect.Signature(own)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        geometry: Mapping[str, Any],
        *,
        score: str,
        aggregate: str,
        temperature: Any = 1.0,
        squared: bool = False,
        inputs: str = "manifold",
        outputs: str | None = None,
        project: bool = False,
        num_kv_heads: int | None = None,
        projections: bool = False,
        bias: bool = False,
        seed: int = 0,
        dtype: Any = "float32",
        learn: Sequence[str] = (),
        **options: Any,
    ) -> None:
        if not isinstance(inputs, str) or inputs not in SIDES:
            raise InvalidInputError(f"inputs must be 'manifold' or 'tangent', got {inputs!r}")
        if outputs is not None and (not isinstance(outputs, str) or outputs not in SIDES):
            raise InvalidInputError(f"outputs must be 'manifold', 'tangent' or None, for the same as the inputs, got {outputs!r}")
        if isinstance(aggregate, str) and aggregate == PLAIN and outputs is not None:
            raise InvalidInputError(f"outputs must be left out with aggregate {PLAIN!r}, which makes plain vectors of plain vectors, got {outputs!r}")
        if (outputs or inputs) == "manifold" and isinstance(aggregate, str) and aggregate != PLAIN:
            dropped = options.pop("output_dropout", 0.0)
            if not isinstance(dropped, int | float) or dropped != 0:
                raise InvalidInputError(
                    "output_dropout must be left out where the output are points, which are none without some of their coordinates: "
                    "use outputs='tangent', or dropout_rate for the weights"
                )
            self.common_options = tuple(name for name in self.common_options if name != "output_dropout")  # type: ignore[misc]
        own = {
            **geometry, "temperature": per_head(temperature, "temperature", num_heads), "squared": check_bool(squared, "squared"), "inputs": inputs,
            "outputs": outputs, "project": check_bool(project, "project"),
        }  # fmt: skip
        self._init_projected(
            embed_dim, num_heads, embed_dim, embed_dim, num_kv_heads, projections, bias, seed, dtype, own, score=score, aggregate=aggregate,
            learn=learn, **options,
        )  # fmt: skip
        least, width = 1 + self._manifold._extra, self.embed_dim // self.num_heads
        if width < least:
            raise InvalidInputError(
                f"embed_dim must be at least {least} for each of the {self.num_heads} heads, whose points have {least} coordinates or more, "
                f"got {embed_dim}"
            )
        if self._mean and not self.any_value_width:
            self.value_dim = self.embed_dim
        if self.num_kv_heads != self.num_heads:
            differing = [name for name in self.geometry if self.differs(name)]
            if differing:
                raise InvalidInputError(
                    f"{differing[0]} must not differ from head to head where num_kv_heads, {self.num_kv_heads}, is not num_heads, {self.num_heads}: "
                    "queries meet keys on a manifold that they share"
                )

    # --- its parts ----------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def make_manifold(self) -> GeometricManifold:
        """Return the manifold of a head.

        Returns
        -------
        Manifold
            A new one, whose options are those that `of_heads` gives; asked when the variant is made and when it is unpickled.
        """

    def differs(self, name: str) -> bool:
        """Tell whether an option of the geometry differs from head to head.

        Parameters
        ----------
        name : str
            One of `geometry`.

        Returns
        -------
        bool
            Whether it is not one number.
        """
        return isinstance(self._config.options[name], tuple)

    def of_heads(self, name: str) -> Any:
        """Return an option that is a number, or one for each head.

        Parameters
        ----------
        name : str
            The option.

        Returns
        -------
        float or ndarray
            The number, or an array (num_heads, 1), for points (..., num_heads, L, D).
        """
        value = self._options[name]
        return np.reshape(value, (-1, 1)) if isinstance(value, tuple) else value

    def geometry_options(self, part: str) -> dict[str, Any]:
        """Return what the score or the aggregate is told of the manifold, where it has options of these names.

        Parameters
        ----------
        part : {"score", "aggregate"}
            Which of them.

        Returns
        -------
        dict of str to object
            Here, the options in `geometry`, and ``manifold``, the name that a signature has for it.
        """
        return {"manifold": self.manifold_name, **{name: self._options[name] for name in self.geometry}}

    def part_options(self, part: str) -> Mapping[str, Any]:
        """Return what the score or the aggregate is made with: those of the variant's own options that it has, unless it is told otherwise."""
        options = self._options
        name, given = options[part], options[f"{part}_options"]
        listed = registry.scores() if part == "score" else registry.aggregates()
        if name not in listed:
            self._handed[part] = set()
            return given  # it will be looked for, and not found
        known = listed[name].options
        own = self.geometry_options(part)
        if part == "score":
            own.update((option, options[option]) for option in OF_SCORE)
            for option, default in OF_SCORE.items():
                if option not in known and options[option] != default:
                    raise InvalidInputError(
                        f"{option} must be left out with score {name!r}, which has no such option, got {options[option]!r}; "
                        f"its options: {', '.join(known) or 'none'}"
                    )
        own = {option: value for option, value in own.items() if option in known}
        self._handed[part] = own.keys() - given.keys()
        return {**own, **given}

    def _make_parts(self) -> None:
        options = self._config.options
        self._mean = options["aggregate"] != PLAIN
        self._projecting = options["project"]
        self._handed: dict[str, Set[str]] = {}
        self._follow_arrays()
        self._manifold = self.make_manifold()
        self._rows = heads_last(self._manifold)
        if "_call" not in self.__dict__:
            self._call = LastCall(self._rows)
        super()._make_parts()
        self._find_sources()
        if isinstance(self._constant.get("score"), GeometricScore):  # which does not look at positions
            self._positional = self.positional or self._causal or self._window is not None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_call", "_handed", "_rows", *FOLLOWING):
            state.pop(name, None)
        return state

    @property
    def manifold(self) -> GeometricManifold:
        """The manifold of one head; where heads differ, its curvature has shape (num_heads, 1), for points (..., num_heads, L, D)."""
        self._follow()
        return self._manifold

    @property
    def num_projected(self) -> dict[str, int]:
        """How many points of this thread's last call have been moved: "q", "k" and "v" of what came in, "out" of what went out.

        A point is the slice of a head. Counted are those that ``project=True`` brought to the manifold, or to its tangent space at the origin, and,
        with or without it, those that tangent vectors put further out than the dtype has points, at the edge of the ball, or where the
        coordinates on the hyperboloid grow too large. What nobody attends to counts too.
        """
        return dict(self._call.moved)

    def reset(self) -> None:
        """Forget this thread's last call, and with it the arrays that it refers to."""
        super().reset()
        self._call.moved, self._call.geometry = dict.fromkeys(COUNTED, 0), CallGeometry(self._rows)

    # --- the questions of geometric attention ----------------------------------------------------------------------------------------

    def forward_geometric(self, query: Any, keys: Any, values: Any, **options: Any) -> np.ndarray:
        """Attend with points over points, whatever ``inputs`` and ``outputs`` say.

        Parameters
        ----------
        query : array, (..., Lq, embed_dim)
            Points of all heads, beside each other.
        keys : array, (..., Lk, embed_dim)
            Points.
        values : array, (..., Lk, V)
            Points; with the aggregate "weighted-sum" vectors.
        **options
            Those of a call: mask, causal and so on.

        Returns
        -------
        ndarray, (..., Lq, V')
            Points; zeros for a head that attends to nothing. With "weighted-sum" vectors.

        Raises
        ------
        AttentionError
            As for a call.
        """
        if self.training and self._output_dropout and self._mean:
            raise InvalidInputError("forward_geometric returns points, of which output_dropout would drop coordinates: set training to False for it")
        with self._of_points():
            out: np.ndarray = self(query, keys, values, **options)
        return out

    def compute_manifold_weights(self, query: Any, keys: Any) -> np.ndarray:
        """Return the attention weights of points, dense, whatever ``inputs`` says.

        Parameters
        ----------
        query : array, (..., Lq, embed_dim)
            Points of all heads, beside each other.
        keys : array, (..., Lk, embed_dim)
            Points.

        Returns
        -------
        ndarray, (..., num_heads, Lq, Lk)
            Rows sum to 1, or to 0 where there is no key to attend to.

        Raises
        ------
        AttentionError
            As for a call.
        """
        names = ("query", "keys", "keys")
        self._call.alone = False
        with self._of_points():
            options = {name: value for name, value in self._options_of_call().items() if name != "aggregate"}
            if self._causal:
                options["causal"] = True
            if self._window is not None:
                options["window"] = self._window
            q, k, _ = self._read_inputs(query, keys, keys, names)
            own = self.own_mask(q.shape[-2], k.shape[-2], False)
            if own is not None:
                options["mask"] = own
            self._check_numbers((q, k, k), options, names)
            a, b = self._points(q, "q"), self._points(k, "k")
        return attention_weights(split_heads(a, self.num_heads), split_heads(b, self.num_kv_heads), **options)

    @contextmanager
    def _of_points(self) -> Iterator[None]:
        """Take points and return points, in this thread, for the time being."""
        self._call.points = True
        try:
            yield
        finally:
            self._call.points = False

    def _attend(
        self, inputs: Any, options: dict[str, Any], out: np.ndarray | None, threads: int | None, names: tuple[str, str, str], alone: bool = False
    ) -> tuple[np.ndarray, Context]:
        self._call.alone = alone
        made, context = super()._attend(inputs, options, out, threads, names, alone)
        context.extra["geometry"] = self._call.geometry
        return made, context

    # --- for the conformance suite ---------------------------------------------------------------------------------------------------

    def conformance_inputs(self, rng: np.random.Generator, role: str, shape: tuple[int, ...]) -> np.ndarray:
        """Draw points, tangent vectors or plain values for `ruvattn.testing`.

        Parameters
        ----------
        rng : Generator
            The source.
        role : str
            "query", "key" or "value".
        shape : tuple of int
            The last axis is the width of all heads together.

        Returns
        -------
        ndarray
            In float64.
        """
        drawn = rng.standard_normal(shape)
        if role == "value" and not self._mean:
            return drawn
        rows = self._split(drawn)
        # At a distance of about 1 or 2 from the origin, whatever the width.
        rows = self._along(rows / np.sqrt(rows.shape[-1]))
        return (rows if self._config.options["inputs"] == "tangent" else self._rows.exp_map0(rows)).reshape(shape)
