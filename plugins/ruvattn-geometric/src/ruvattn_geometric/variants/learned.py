"""Curvatures, temperatures and weights that are learned, wherever they enter.

    log_curvature ─► κ = ±exp(…) ─┬─► score      "score.curvature"       ─┐
                                  ├─► aggregate  "aggregate.curvature"   ─┼─► ∂/∂κ ─► · κ ─► gradient of log_curvature
                                  └─► exp₀, log₀, project                ─┘

What has a sign is the logarithm of a magnitude, so that no step of an optimiser can lead to 0 or beyond; a curvature that may have either sign is
a parameter itself. Manifold, score and aggregate hold numbers that nobody writes to: a call whose parameters aren't those that they were made with
makes them anew, so that the context of an earlier call goes on meaning what it meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ruvattn.context import Context
from ruvattn.errors import InvalidInputError, UnsupportedError
from ruvattn.scores import Score

from ..manifolds import GeometricManifold
from .checks import CallGeometry
from .steps import PointSteps

__all__ = ["FOLLOWING", "LearnedGeometry"]

FOLLOWING = ("_constant", "_manifold", "_rows", "_options", "_slopes", "_made_of")
"""What is made of the parameters."""

TEMPERATURE = "temperature"


@dataclass(frozen=True)
class Learnable:
    """A number of the configuration that can be learned.

    Attributes
    ----------
    parameter : str
        The name of the parameter.
    kind : str
        For a curvature that of its space, as a signature names it; else empty.
    component : int
        For a curvature, of which component of the manifold; else −1.
    option : str
        The option that has it; of a curvature, "curvature".
    number : float or tuple of float
        What the configuration has.
    """

    parameter: str
    kind: str
    component: int
    option: str
    number: Any

    @property
    def raw(self) -> bool:
        """Whether the parameter is the number itself, of either sign."""
        return self.kind == "stereographic"

    def initial(self, dtype: Any) -> np.ndarray:
        """Return the parameter as it is at first, () or (num_heads,)."""
        number = np.asarray(self.number, np.float64)
        if not self.raw:
            number = np.log(number) * (-2 if self.kind == "spherical" else 1)  # 1/R²
        return number.astype(dtype)

    def number_of(self, array: np.ndarray) -> Any:
        """Return the number that a parameter stands for, as the configuration would have it."""
        if np.array_equal(array, self.initial(array.dtype)):
            return self.number  # without the rounding of a logarithm
        self.check(array)
        number = self._read(array)
        return tuple(number.tolist()) if number.ndim else float(number)

    def check(self, array: np.ndarray) -> None:
        """Raise where a parameter stands for no such number."""
        number = self._read(array)
        least, most = 1e-150, 1e150  # squares and their reciprocals are numbers as well
        wrong = ~np.isfinite(number) if self.raw else ~((number > least) & (number < most))
        if wrong.any() and not np.array_equal(array, self.initial(array.dtype)):
            raise InvalidInputError(
                f"parameter {self.parameter!r} has gone where there is no such {self.option}: {array.flat[int(wrong.argmax())]}; "
                "set it back, and learn at a smaller rate"
            )

    def _read(self, array: np.ndarray) -> np.ndarray:
        number = array.astype(np.float64)
        if self.raw:
            return number
        with np.errstate(all="ignore"):
            return np.asarray(np.exp(number / (-2 if self.kind == "spherical" else 1)))

    def slope(self, number: Any) -> np.ndarray:
        """Return the derivative of what gradients are of, a sectional curvature or the number, by the parameter."""
        if self.raw:
            return np.ones(np.shape(number))
        array = np.asarray(number, np.float64)
        return 1 / np.square(array) if self.kind == "spherical" else -array if self.kind else array


class LearnedGeometry(PointSteps):
    """What a geometric variant learns of its geometry.

    The option ``learn`` takes, beside what `ruvattn.headwise.HeadwiseAttention` knows, "curvature" and "temperature", and in a product "curvature_0"
    and so on for one component alone. They make the parameters ``log_curvature``, the logarithm of its magnitude, ``log_temperature``, and in a
    product ``log_curvature_0`` and so on; in stereographic coordinates, where it may have either sign, ``curvature`` itself. Each is a number, or one
    for each head where the option is.
    """

    curved: ClassVar[tuple[int, str, str]]
    """The curved component of the manifold, its kind as a signature names it, and the option that has its number."""
    carriers: ClassVar[Set[str]] = frozenset()
    """Further options that a curvature comes to a score or an aggregate by."""
    weights: ClassVar[tuple[str, ...]] = ()
    """Options beside the temperature that are positive numbers of the score, by the same name."""

    _manifold: GeometricManifold
    _rows: GeometricManifold
    _options: Mapping[str, Any]
    _handed: dict[str, Set[str]]
    _slopes: dict[str, np.ndarray]
    _made_of: dict[str, np.ndarray]

    # --- what a variant says of itself ----------------------------------------------------------------------------------------------

    def curved_numbers(self) -> dict[int, tuple[str, Any]]:
        """Return the curved components of the manifold: by their number, the kind of each and the number that the configuration has for it.

        Returns
        -------
        dict of int to (str, float or tuple of float)
            Kinds as a signature has them, such as "hyperbolic", whose number is c.
        """
        component, kind, option = self.curved
        return {component: (kind, self._config.options[option])}

    def with_curved_numbers(self, options: Mapping[str, Any], numbers: Mapping[int, Any]) -> dict[str, Any]:
        """Return options with other numbers for some of the curved components.

        Parameters
        ----------
        options : mapping
            Of the variant.
        numbers : mapping of int to float or tuple of float
            By component.

        Returns
        -------
        dict
            New options.
        """
        component, _, option = self.curved
        return {**options, option: numbers[component]} if component in numbers else {**options}

    def curvature_name(self, component: int) -> str:
        """Return what the curvature of a component is called in the names of parameters.

        Parameters
        ----------
        component : int
            Its number.

        Returns
        -------
        str
            Here, "curvature".
        """
        return "curvature"

    # --- the table of what can be learned -------------------------------------------------------------------------------------------

    def _table(self) -> dict[str, list[Learnable]]:
        """Return what each name in ``learn`` that this class sees to stands for."""
        table: dict[str, list[Learnable]] = {"curvature": []}
        for component, (kind, number) in self.curved_numbers().items():
            name = self.curvature_name(component)
            one = Learnable(name if kind == "stereographic" else f"log_{name}", kind, component, "curvature", number)
            table["curvature"].append(one)
            table.setdefault(name, [one])
        for name in (TEMPERATURE, *self.weights):
            table[name] = [Learnable(f"log_{name}", "", -1, name, self._config.options[name])]
        return {name: entries for name, entries in table.items() if entries}

    @property
    def learns_itself(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names in ``learn`` that this class sees to."""
        return tuple(self._table())

    def _wanted(self) -> list[Learnable]:
        """Return what is learned of the geometry."""
        learn: Sequence[str] = self._config.options.get("learn", ())
        if not learn:
            return []
        table = self._table()
        found = [entry for name in learn for entry in table.get(name, ())]
        names = [entry.parameter for entry in found]
        if len(set(names)) < len(names):
            again = next(name for at, name in enumerate(names) if name in names[:at])
            raise InvalidInputError(f"learn must name each parameter once, got {again!r} again: {tuple(learn)!r}")
        return found

    # --- from parameters to parts ---------------------------------------------------------------------------------------------------

    def _follow_arrays(self) -> None:
        """Read the parameters, as far as there are any yet: the options that they stand for take the place of those of the configuration."""
        self._made_of, self._slopes = {}, {}
        options, curvatures = dict(self._config.options), {}
        for entry in self._wanted():
            number = entry.number
            array = self._arrays.get(entry.parameter)
            if array is not None:
                self._made_of[entry.parameter] = array = array.copy()
                number = entry.number_of(array)
            self._slopes[entry.parameter] = entry.slope(number)
            if entry.component >= 0:
                curvatures[entry.component] = number
            else:
                options[entry.option] = number
        self._options = self.with_curved_numbers(options, curvatures)

    def _make_learned(self, score: Score) -> None:
        """Make the parameters, and see to it that nobody makes others of what they stand for."""
        wanted = self._wanted()
        for name in self._config.options.get("learn", ()):
            own = name.removeprefix("score.")
            if own != name and self._is_own(own, score):
                better = own if own in self._table() else "curvature"
                raise InvalidInputError(f"learn must name {better!r} instead of {name!r}: it is not the score's alone")
        super()._make_learned(score)
        dtype = self._config.options["dtype"]
        for entry in wanted:
            if not np.all(np.asarray(entry.number) > 0) and not entry.raw:
                raise InvalidInputError(f"{entry.option} must be above 0 to be learned, got {entry.number!r}: learning begins there")
            if entry.kind in ("lorentz", "spherical") and self._config.options["inputs"] == "manifold" and not self._projecting:
                raise InvalidInputError(
                    f"learn must not name {entry.option!r} with inputs that are points, which are none of another {entry.kind} space: "
                    "create the variant with inputs='tangent', or with project=True"
                )
            if entry.parameter not in self._arrays:
                self._arrays[entry.parameter] = np.array(entry.initial(dtype))
                self._made_of[entry.parameter] = self._arrays[entry.parameter].copy()
            self._learned[entry.parameter] = f"variant.{entry.parameter}"

    def _is_own(self, name: str, score: Score) -> bool:
        """Tell whether a parameter of the score comes from an option of the variant."""
        if name not in score.params:
            return False
        handed = self._handed["score"]
        return name in handed or (name.startswith("curvature") and bool(handed & self._carriers()))

    def _carriers(self) -> Set[str]:
        return {self.curved[2], *self.carriers}

    def check_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """See that parameters stand for numbers that there are, as `ruvattn.TrainableAttention` has it."""
        super().check_parameters(parameters)
        for entry in self._wanted():
            if entry.parameter in parameters:
                entry.check(parameters[entry.parameter])

    def _beginnings(self) -> set[str]:
        own = {entry.option for entry in self._wanted() if entry.component < 0}
        component, _, option = self.curved
        if any(entry.component == component >= 0 for entry in self._wanted()):  # the curvatures of a product are in its signature, with much else
            own.add(option)
        return super()._beginnings() | own

    def _find_sources(self) -> None:
        """Find out by what parameters of score and aggregate each learned one enters there."""
        self._sources: dict[str, list[str]] = {}
        for entry in self._wanted():
            self._sources[f"variant.{entry.parameter}"] = sources = []
            if entry.component < 0:
                if entry.option not in self._handed["score"] or entry.option not in self._constant["score"].params:
                    raise InvalidInputError(
                        f"learn must not name {entry.option!r} with score {self._config.options['score']!r}, which has no such parameter of its own, "
                        "or is told another in score_options"
                    )
                sources.append(f"score.{entry.option}")
                continue
            for part in ("score", "aggregate"):
                if not self._handed[part] & self._carriers():
                    continue  # it is told another curvature, or knows of none
                params = self._constant[part].params
                name = next((name for name in (f"curvature_{entry.component}", "curvature") if name in params), None)
                if name is None:
                    raise UnsupportedError(
                        f"learn must not name 'curvature' with {part} {self._config.options[part]!r}: it is made with one, and has no parameter "
                        f"'curvature' that would have a gradient; its parameters: {', '.join(params) or 'none'}"
                    )
                sources.append(f"{part}.{name}")

    def _follow(self) -> None:
        """Make the parts anew if a parameter has changed since."""
        if all(np.array_equal(self._arrays[name], array) for name, array in self._made_of.items()):
            return
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._make_parts()
        self.__dict__.update((name, other.__dict__[name]) for name in FOLLOWING)

    def _options_of_call(self) -> dict[str, Any]:
        """Return the variant's own options for a call, with learned numbers as they are now."""
        self._follow()
        self._call.geometry = CallGeometry(self._rows, self._call.points, self._slopes)
        return super()._options_of_call()

    # --- back -----------------------------------------------------------------------------------------------------------------------

    def attend_heads_vjp(self, context: Context, dout: np.ndarray, wrt: Sequence[str], threads: int | None) -> dict[str, np.ndarray]:
        """Return the gradients of what the heads take; of a learned number the sum of those of score and aggregate.

        Parameters
        ----------
        context : Context
            Of the call.
        dout : ndarray, (..., H, Lq, Do)
            Gradient of the heads.
        wrt : sequence of str
            Of what gradients are wanted.
        threads : int, optional
            How many threads to use at most.

        Returns
        -------
        dict of str to ndarray
            One for each name.
        """
        own = [name for name in wrt if name in self._sources]
        asked = [name for name in wrt if name not in self._sources]
        found = super().attend_heads_vjp(context, dout, [*asked, *(source for name in own for source in self._sources[name])], threads)
        for name in own:
            zero = np.zeros(self._arrays[name.removeprefix("variant.")].shape)
            found[name] = sum((found[source].astype(np.float64) for source in self._sources[name]), zero)
        return found

    def learned_vjp(self, context: Context, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the gradients of learned parameters, given those of the numbers that they stand for.

        Parameters
        ----------
        context : Context
            Of the call.
        found : mapping of str to ndarray
            By the names of the parameters.

        Returns
        -------
        dict of str to ndarray
            In their shapes; with one axis where they have none, for a sum of such arrays is no array.
        """
        slopes = context.extra["geometry"].slopes
        return {name: np.atleast_1d(gradient * slopes.get(name, 1.0)) for name, gradient in super().learned_vjp(context, found).items()}

    def _add_curvatures(self, params: dict[str, np.ndarray], found: list[list[np.ndarray]], slopes: Mapping[str, np.ndarray]) -> None:
        for entry in self._wanted():
            if entry.component < 0:
                continue
            shape = self._arrays[entry.parameter].shape
            total = params.get(entry.parameter, np.zeros(shape))
            for of in found:
                if of:
                    total = total + np.reshape(of[entry.component], shape) * slopes[entry.parameter]
            params[entry.parameter] = np.atleast_1d(total)
