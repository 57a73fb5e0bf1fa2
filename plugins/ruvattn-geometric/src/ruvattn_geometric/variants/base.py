"""What the geometric variants share: heads whose queries, keys and values are points, what comes in and goes out as tangent vectors, and the checks.

    q, k, v ─┬─ points ──► check, or project ─┬──────────────────────────────────────► score ─► softmax ─► aggregate ─► points ─► out
             └─ tangent vectors at the origin ┴─ log₀ ─► W_q, W_k, W_v ─► exp₀ ─► points ──┘            points ─► log₀ ─► W_o ─► exp₀ ─► out

A layer of projections is linear in the tangent space at the origin (Ganea et al., 2018, "Hyperbolic Neural Networks", section 3.2): log₀ ahead of it
and exp₀ after it, for each head on its own. Nothing is clamped in silence: `GeometricVariant.num_projected` tells how many points have been moved.
"""

from __future__ import annotations

import copy
import inspect
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from ruvattn import Context, GeometricAttention, attention, attention_weights, registry
from ruvattn.builtin.multihead import MultiHeadAttention
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.headwise import HeadwiseAttention, split_heads
from ruvattn.running import narrowed
from ruvattn.validation import check_bool, check_int

from ..geometric_score import GeometricScore
from ..manifolds import GeometricManifold, Product
from ..parameters import per_head
from ..vectors import EPSILON
from .origin import exp_at_origin, log_at_origin

__all__ = ["GeometricVariant", "head_width", "heads_last"]

SIDES = ("manifold", "tangent")
"""What points are given and returned as."""

ROLES = ("q", "k", "v")
COUNTED = (*ROLES, "out")

PLAIN = "weighted-sum"
"""The aggregate whose values are vectors, and not points."""

OF_SCORE = {"temperature": 1.0, "squared": False}
"""Options of a variant that are its score's, with their defaults."""

TANGENT = 8
"""By how many times the rounding of its largest coordinate a tangent vector may stick out of the tangent space."""

MASKING = ("mask", "causal", "window", "key_lengths")
"""Options of `ruvattn.attention` that say which pairs there are; a bias does so too."""


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


class _Call(threading.local):
    """What a thread's last call is about."""

    def __init__(self) -> None:
        self.points = False  # whether it takes and returns points, whatever the options say
        self.alone = False  # whether each query stands at the last key
        self.moved = dict.fromkeys(COUNTED, 0)
        self.strange: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {}  # rows that nobody sees, and rows that are no numbers


def heads_last(manifold: GeometricManifold) -> GeometricManifold:
    """Return a manifold for points (..., H, L, D) as one for points (..., L, H, D), which is how inputs come.

    Parameters
    ----------
    manifold : Manifold
        Whose curvature is a number, or has shape (H, 1).

    Returns
    -------
    Manifold
        Of a number, or of shape (H,).
    """
    if not manifold._parameter.ndim:
        return manifold
    other = copy.copy(manifold)
    other._parameter = manifold._parameter[..., 0]
    if isinstance(other, Product):
        other.components = [(heads_last(part), width) for part, width in other.components]
    return other


class GeometricVariant(MultiHeadAttention, GeometricAttention):
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
        **options: Any,
    ) -> None:
        if not isinstance(inputs, str) or inputs not in SIDES:
            raise InvalidInputError(f"inputs must be 'manifold' or 'tangent', got {inputs!r}")
        if outputs is not None and (not isinstance(outputs, str) or outputs not in SIDES):
            raise InvalidInputError(f"outputs must be 'manifold', 'tangent' or None, for the same as the inputs, got {outputs!r}")
        if isinstance(aggregate, str) and aggregate == PLAIN and outputs is not None:
            raise InvalidInputError(f"outputs must be left out with aggregate {PLAIN!r}, which makes plain vectors of plain vectors, got {outputs!r}")
        own = {
            **geometry, "temperature": per_head(temperature, "temperature", num_heads), "squared": check_bool(squared, "squared"), "inputs": inputs,
            "outputs": outputs, "project": check_bool(project, "project"),
        }  # fmt: skip
        self._init_projected(
            embed_dim, num_heads, embed_dim, embed_dim, num_kv_heads, projections, bias, seed, dtype, own, score=score, aggregate=aggregate, **options
        )
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
        value = self._config.options[name]
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
        return {"manifold": self.manifold_name, **{name: self._config.options[name] for name in self.geometry}}

    def part_options(self, part: str) -> Mapping[str, Any]:
        """Return what the score or the aggregate is made with: those of the variant's own options that it has, unless it is told otherwise."""
        options = self._config.options
        name, given = options[part], options[f"{part}_options"]
        listed = registry.scores() if part == "score" else registry.aggregates()
        if name not in listed:
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
        return {**{option: value for option, value in own.items() if option in known}, **given}

    def _make_parts(self) -> None:
        options = self._config.options
        self._mean = options["aggregate"] != PLAIN
        self._projecting = options["project"]
        self._manifold = self.make_manifold()
        self._rows = heads_last(self._manifold)
        self._call = _Call()
        super()._make_parts()
        if isinstance(self._constant.get("score"), GeometricScore):  # which does not look at positions
            self._positional = self.positional or self._causal or self._window is not None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        for name in ("_manifold", "_rows", "_call"):
            state.pop(name, None)
        return state

    @property
    def manifold(self) -> GeometricManifold:
        """The manifold of one head; where heads differ, its curvature has shape (num_heads, 1), for points (..., num_heads, L, D)."""
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
        self._call.moved, self._call.strange = dict.fromkeys(COUNTED, 0), {}

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
        options = {name: value for name, value in self._constant.items() if name != "aggregate"}
        if self._causal:
            options["causal"] = True
        if self._window is not None:
            options["window"] = self._window
        self._call.alone = False
        with self._of_points():
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

    def _tangent(self, side: str) -> bool:
        """Tell whether inputs or outputs are tangent vectors."""
        if self._call.points:
            return False
        options = self._config.options
        return (options[side] or options["inputs"]) == "tangent"

    # --- what comes in --------------------------------------------------------------------------------------------------------------

    def _attend(
        self, inputs: Any, options: dict[str, Any], out: np.ndarray | None, threads: int | None, names: tuple[str, str, str], alone: bool = False
    ) -> tuple[np.ndarray, Context]:
        self._call.alone = alone
        return super()._attend(inputs, options, out, threads, names, alone)

    def _check_numbers(self, inputs: tuple[np.ndarray, np.ndarray, np.ndarray], options: dict[str, Any], names: tuple[str, str, str]) -> None:
        """Check that what somebody sees is on the manifold, too; `_points` is told what else there is."""
        super()._check_numbers(inputs, options, names)
        least = (1 + self._manifold._extra) * self.num_kv_heads
        if self._mean and inputs[2].shape[-1] < least:
            raise DimensionMismatchError(f"{names[2]} must have points for each head, a width of at least {least}, got shape {inputs[2].shape}")
        self._call.moved = dict.fromkeys(COUNTED, 0)
        self._call.strange = strange = {}
        for role, x, name in zip(ROLES, inputs, names, strict=True):
            if role == "v" and not self._mean:
                continue
            rows = self._split(x)
            off = np.zeros(rows.shape[:-1], bool) if self._projecting else self._off(rows)
            unreal = None
            if not self._check_finite:
                unreal = ~np.isfinite(rows).all(-1)
                off &= ~unreal
            some = off if unreal is None else off | unreal
            if not some.any():
                continue
            if role != "q" and not self._seen(some, inputs, options):
                strange[role] = some, None
                continue
            if off.any():
                seen = off if role == "q" else self._first_seen(off, inputs, options)
                if seen is not None:
                    self._refuse(rows, seen, name)
            strange[role] = off, unreal

    def _off(self, rows: np.ndarray) -> np.ndarray:
        """Tell which rows (..., L, H, D) are no points, or no tangent vectors."""
        if not self._tangent("inputs"):
            return self._rows.outside(rows)
        axis = self._axis(rows.shape[-1])
        if not axis.size:
            return np.zeros(rows.shape[:-1], bool)
        with np.errstate(all="ignore"):
            along = np.abs(rows[..., axis]).max(-1)
            return along > TANGENT * EPSILON[rows.dtype.name] * np.abs(rows).max(-1)

    def _refuse(self, rows: np.ndarray, seen: np.ndarray, name: str) -> None:
        """Raise what says which row is off, and how far."""
        name = f"{name} (…, length, head)"
        if not self._tangent("inputs"):
            self._rows.check(np.where(seen[..., None], rows, self._rows.origin(rows.shape[-1], rows.dtype)), name)
        along = np.where(seen, np.abs(rows[..., self._axis(rows.shape[-1])]).max(-1), 0)
        at = tuple(int(i) for i in np.unravel_index(int(along.argmax()), along.shape))
        axis = ", ".join(map(str, self._axis(rows.shape[-1]).tolist()))
        raise InvalidInputError(
            f"{name}: row {at} is not tangent at the origin: coordinate {axis} has to be 0 there, and is {along[at]:g}; zero it, "
            "or create the variant with project=True"
        )

    def _seen(self, rows: np.ndarray, inputs: tuple[np.ndarray, ...], options: Mapping[str, Any]) -> bool:
        """Tell whether some query of a call attends to one of the rows (..., Lk, H) of keys or values."""
        if not _masks(options):
            return bool(rows.any())
        if self._projects:  # which give every head a part of all the columns
            rows = np.broadcast_to(rows.any(-1, keepdims=True), rows.shape)
        q = inputs[0]
        told = {name: options[name] for name in (*MASKING, "query_offset") if name in options}
        if "bias" in options:
            hides = np.isneginf(np.asarray(options["bias"]).astype(np.float32))
            told["bias"] = np.where(hides, np.float32(-np.inf), np.float32(0))
        # All pairs weigh the same, and the values are 1 where a row is meant: a mean above 0 has seen one. No array of Lq × Lk is made.
        values = np.ascontiguousarray(rows.swapaxes(-1, -2)[..., None], np.float32)
        queries = np.zeros((*q.shape[:-2], self.num_heads, 1 if self._call.alone else q.shape[-2], 1), np.float32)
        return bool(attention(queries, np.zeros_like(values), values, **told).any())

    def _first_seen(self, rows: np.ndarray, inputs: tuple[np.ndarray, ...], options: Mapping[str, Any]) -> np.ndarray | None:
        """Return the first of the rows that some query attends to, as a mask; all of them where there are no masks, and None where none is seen."""
        if not self._seen(rows, inputs, options):
            return None
        if not _masks(options):
            return rows
        places = np.flatnonzero(rows)
        one = np.zeros(rows.size, bool)
        low, high = 0, len(places)  # one of the first `high` is seen, none of the first `low` is
        while high - low > 1:
            middle = (low + high) // 2
            one[:] = False
            one[places[low:middle]] = True
            if self._seen(one.reshape(rows.shape), inputs, options):
                high = middle
            else:
                low = middle
        one[:] = False
        one[places[low]] = True
        return one.reshape(rows.shape)

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return points of the heads, given points or tangent vectors; plain values as they are, or multiplied by W_v.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k, v : ndarray
            In the compute dtype, or the inputs themselves where nothing is to be done.
        """
        made: list[np.ndarray] = []
        for at, (role, x) in enumerate(zip(ROLES, (q, k, v), strict=True)):
            same = next((other for other in range(at) if (q, k, v)[other] is x), None)
            shares = same is not None and not self._projects and not self._call.strange
            if role == "v" and not self._mean:
                made.append(self._project(x, "v") if self._projects else x)
            elif shares and same is not None:
                made.append(made[same])
                self._call.moved[role] = self._call.moved[ROLES[same]]
            else:
                made.append(self._points(x, role))
        dtype = np.result_type(*made)  # some of them may be as narrow as they came
        a, b, c = (x.astype(dtype, copy=False) for x in made)
        return a, b, c

    def _points(self, x: np.ndarray, role: str) -> np.ndarray:
        """Return the points of the heads, (..., L, heads · D)."""
        tangent = self._tangent("inputs")
        hidden, unreal = self._call.strange.get(role, (None, None))
        if not (tangent or self._projects or self._projecting or hidden is not None or unreal is not None):
            return x
        rows = self._split(x)
        off = self._off(rows) & np.isfinite(rows).all(-1) if self._projecting else None  # by the rounding of the dtype that came
        if rows.dtype.itemsize < 4:
            rows = rows.astype(np.float32)
        origin = self._rows.origin(rows.shape[-1], rows.dtype)
        if hidden is not None and hidden.any():
            rows = np.where(hidden[..., None], np.zeros_like(origin) if tangent else origin, rows)
        if unreal is not None and unreal.any():
            rows = np.where(unreal[..., None], rows.dtype.type(np.nan), rows)
        with np.errstate(all="ignore"):  # of rows that are no numbers, which only those feel that see them
            if off is not None:
                rows = self._moved(rows, off, role, tangent)
            if self._projects:
                if not tangent:
                    rows = log_at_origin(self._rows, rows)
                rows = self._split(self._project(rows.reshape(x.shape), role), self.num_heads if role == "q" else self.num_kv_heads)
            if tangent or self._projects:
                rows = self._exp(rows, role)
        return rows.reshape(*x.shape[:-1], -1)

    def _moved(self, rows: np.ndarray, off: np.ndarray, role: str, tangent: bool = False) -> np.ndarray:
        """Return rows of which some are brought to the manifold, or to the tangent space at the origin, and count these."""
        count = int(np.count_nonzero(off))
        if not count:
            return rows
        self._call.moved[role] += count
        return np.where(off[..., None], self._along(rows) if tangent else self._rows.project(rows), rows)

    def _along(self, rows: np.ndarray) -> np.ndarray:
        """Return vectors with nothing along the origin."""
        rows = rows.copy()
        rows[..., self._axis(rows.shape[-1])] = 0
        return rows

    def _exp(self, tangents: np.ndarray, role: str) -> np.ndarray:
        """Return the points that tangent vectors at the origin lead to, and count those that would be further out than the dtype has points."""
        points, beyond = exp_at_origin(self._rows, tangents)
        if beyond is not None:
            self._call.moved[role] += int(np.count_nonzero(beyond & np.isfinite(tangents).all(-1)))
        return points

    def _axis(self, width: int) -> np.ndarray:
        """Return the coordinates that the origin has, which are those that a tangent vector there does not have."""
        return np.flatnonzero(self._rows.origin(width).reshape(-1, width).any(0))

    def _split(self, x: np.ndarray, heads: int | None = None) -> np.ndarray:
        """Return a view (..., L, H, D)."""
        heads = self.num_heads if heads is None else heads
        return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)

    # --- what goes out ---------------------------------------------------------------------------------------------------------------

    def project_output(self, merged: np.ndarray, dtype: np.dtype[Any], out: np.ndarray | None) -> np.ndarray:
        """Return the output: points, or tangent vectors at the origin, after W_o where there is one; zeros for a head that attends to nothing.

        Parameters
        ----------
        merged : ndarray, (..., Lq, num_heads·Do)
            The points of the heads beside each other.
        dtype : dtype
            Of the output.
        out : ndarray, optional
            Where to write it, checked.

        Returns
        -------
        ndarray, (..., Lq, V')
            The output, or `out`.
        """
        if not self._mean:
            return super().project_output(merged, dtype, out)
        tangent = self._tangent("outputs")
        rows = self._split(merged)
        if tangent or self._projects:
            if rows.dtype.itemsize < 4:
                rows = rows.astype(np.float32)
            nothing = ~rows.any(-1, keepdims=True)
            with np.errstate(all="ignore"):
                rows = log_at_origin(self._rows, np.where(nothing, self._rows.origin(rows.shape[-1], rows.dtype), rows))
                if self._projects:
                    made = self._split(super().project_output(rows.reshape(merged.shape), rows.dtype, None))
                    rows = self._along(made) if tangent else self._exp(made, "out")
        rows = narrowed(rows, dtype)
        if not tangent:  # a row of zeros attends to nothing; for the others, rounding may have led off
            rows = self._moved(rows, self._rows.outside(rows) & rows.any(-1) & np.isfinite(rows).all(-1), "out")
        return HeadwiseAttention.project_output(self, rows.reshape(*merged.shape[:-1], -1), dtype, out)

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
        return (rows if self._tangent("inputs") else self._rows.exp_map0(rows)).reshape(shape)


def _masks(options: Mapping[str, Any]) -> bool:
    return "bias" in options or any(name in options for name in MASKING)
