"""The checks of what is trainable: gradients of calls by every input and parameter, what they go by, steps of an optimiser, and checkpoints.

    a call ─► Σ dout · out ─► backward(dout) ─► Gradients ─► finite differences, in float64

The subject is the factory of a variant, and these checks skip one that makes no `TrainableAttention`, or whose backward pass refuses with
UnsupportedError. Parameters are tried in float64 where an option ``dtype`` makes them so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import AttentionError, CheckpointError, DimensionMismatchError, InvalidInputError, UnsupportedError
from ..interfaces import Gradients, TrainableAttention
from ..threads import threads_of_call
from .cases import case, float_dtypes, in_threads, require, require_close, require_same_bits
from .layers import LENGTHS, Arrays, Factory, _arrays, _described, _make, _sizes, _supported, _widths
from .masking import Tried
from .parts import THREAD_COUNTS, expect_error
from .runner import CheckList, NotApplicable
from .slopes import Curve, curve_of, require_gradients
from .trial import drawn
from .variant_masks import _maskings
from .variants import _option_sets

CHECKS = CheckList("variant")

ROLES = ("query", "keys", "values")

LEARNED = ("scale", "sinks", "curvature", "temperature")
"""What variants with an option ``learn`` are asked to make parameters of, beside ``score.<parameter>``."""


# --- a variant, its calls, and their gradients ------------------------------------------------------------------------


def _trainable(factory: Factory, size: tuple[int, int] | None = None, **options: Any) -> TrainableAttention:
    """Return a variant with parameters in float64, if it can have them."""
    layer = _make(factory, size)
    if not isinstance(layer, TrainableAttention):
        raise NotApplicable("it is no TrainableAttention")
    if "dtype" in layer.config.options:
        options.setdefault("dtype", "float64")
    if options:
        layer = _make(factory, size, **options)
    assert isinstance(layer, TrainableAttention)
    return layer


def _back(layer: TrainableAttention, *args: Any, **options: Any) -> Gradients:
    """Go back through a call, or skip the check where the variant says that it can't."""
    try:
        return layer.backward(*args, **options)
    except UnsupportedError as error:
        raise NotApplicable(str(error)) from None


def _upstream(out: np.ndarray, seed: int = 7) -> np.ndarray:
    return drawn("grad_output", np.random.default_rng(seed).standard_normal(out.shape).astype(out.dtype))


def _near(found: Any, expected: np.ndarray, promise: str, roundings: float = 4096) -> None:
    eps = float(np.finfo(np.float64 if expected.dtype == np.float64 else np.float32).eps)
    require_close(found, expected, roundings * eps * max(1.0, float(np.abs(expected).max(initial=0.0))), promise)


def _all(gradients: Gradients) -> dict[str, np.ndarray]:
    return dict(zip(ROLES, gradients[:3], strict=True)) | {f"parameter {name}": array for name, array in gradients.params.items()}


class _Call(NamedTuple):
    """A way to call a variant."""

    words: str
    arrays: dict[str, np.ndarray]
    run: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    gradients: Callable[[Gradients], dict[str, np.ndarray]]
    curves: dict[str, Curve]


def _of_roles(gradients: Gradients) -> dict[str, np.ndarray]:
    return dict(zip(ROLES, gradients[:3], strict=True))


KINDS = {"x": "query", "query": "query", "keys": "key", "values": "value"}


def _curves(layer: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Curve]:
    """Return how to move samples of a variant that takes points of a domain."""
    found = {name: curve_of(layer, KINDS[name], array.shape) for name, array in arrays.items() if name in KINDS}
    return {name: curve for name, curve in found.items() if curve is not None}


def _call(layer: TrainableAttention, arrays: Arrays, **options: Any) -> _Call:
    given = dict(zip(ROLES, arrays, strict=True))
    return _Call("a call", given, lambda at: layer(*(at[role] for role in ROLES), **options), _of_roles, _curves(layer, given))


def _ways(layer: TrainableAttention, arrays: Arrays) -> Iterator[_Call]:
    """Yield ways to call a variant with arrays of two axes, other than with all three and many queries."""
    query, keys, values = arrays
    named = dict(zip(ROLES, arrays, strict=True))
    curves = _curves(layer, named)
    if len(set(_widths(layer))) == 1:
        x = {"x": query}
        yield _Call("self-attention", x, lambda at: layer(at["x"]), lambda found: {"x": found.total()}, _curves(layer, x))
    if keys.shape == values.shape:
        both = {"query": query, "keys": keys}
        yield _Call("keys that are the values", both, lambda at: layer(at["query"], at["keys"]),
                    lambda found: {"query": found.query, "keys": found.keys + found.values}, _curves(layer, both))  # fmt: skip
    alone = dict(curves)
    if "query" in curves:

        def first(shift: np.ndarray) -> np.ndarray:
            whole = np.zeros(query.shape)
            whole[0] = shift
            return curves["query"](whole)[0]

        alone["query"] = first
    yield _Call("forward", {**named, "query": query[0]}, lambda at: layer.forward(at["query"], at["keys"], at["values"]), _of_roles, alone)
    yield _Call("forward_batch", named, lambda at: layer.forward_batch(at["query"], at["keys"], at["values"]), _of_roles, curves)


def _require_slopes(layer: TrainableAttention, call: _Call, only: Sequence[str] | None = None, **amounts: int) -> None:
    """Compare the gradients of a call by its inputs and by all parameters, or only by some parameters, with differences."""
    parameters = layer.parameters()
    kept = {name: array.copy() for name, array in parameters.items()}
    out = call.run(call.arrays)
    dout = _upstream(out)
    found = _back(layer, dout)
    require(isinstance(found, Gradients), f"backward must return Gradients, got {type(found).__name__}")
    require(set(found.params) == set(kept), f"params must have a gradient for each parameter, {sorted(kept)}, got {sorted(found.params)}")
    arrays = {**call.arrays, **{f"parameter {name}": array for name, array in kept.items()}}
    tried = arrays
    if only is not None:
        tried = {f"parameter {name}": kept[name] for name in only}
    gradients = {**call.gradients(found), **{f"parameter {name}": array for name, array in found.params.items()}}

    def loss(at: Mapping[str, np.ndarray]) -> float:
        try:
            for name, array in parameters.items():
                array[...] = at[f"parameter {name}"]
            return float((dout * call.run(at)).sum())
        finally:
            for name, array in parameters.items():
                array[...] = kept[name]

    require_gradients(lambda at: loss({**arrays, **at}), tried, gradients, curves=call.curves, **amounts)


# --- gradients --------------------------------------------------------------------------------------------------------


@CHECKS
def gradients_match_differences(factory: Factory) -> None:
    """Gradients by queries, keys, values and every parameter agree with finite differences to a millionth, in float64, in every form of a call."""
    sizes = _sizes(factory)
    for at, (lead, lq, lk) in enumerate(LENGTHS[1:4]):
        layer = _trainable(factory, sizes[min(at, len(sizes) - 1)])
        arrays = _arrays(layer, lead, lq, lk, np.float64)
        with case(**_described(layer, arrays)):
            _require_slopes(layer, _call(layer, arrays), directions=1, entries=2)
    layer = _trainable(factory)
    arrays = _arrays(layer, (2,), 4, 6, np.float64)
    for options in _option_sets(layer, arrays):
        with case(**_described(layer, arrays), **options):
            if _supported(layer, *arrays, **options) is not None:
                _require_slopes(layer, _call(layer, arrays, **options), directions=1, entries=0)
    arrays = _arrays(layer, (), 3, 5, np.float64)
    for call in _ways(layer, arrays):
        with case(call.words, **_described(layer, arrays)):
            _require_slopes(layer, call, directions=1, entries=1)


@CHECKS
def gradients_of_learned_numbers_match_differences(factory: Factory) -> None:
    """So do those of what the option ``learn`` makes parameters of."""
    layer = _trainable(factory)
    if "learn" not in layer.config.options:
        raise NotApplicable("it has no option learn")
    arrays = _arrays(layer, (), 4, 6, np.float64)
    _, context = layer.forward_with_context(*arrays)
    score = getattr(context, "options", {}).get("score")
    names = [*LEARNED, *(f"score.{name}" for name in getattr(score, "params", {}))]
    tried = 0
    for name in names:
        try:
            learner = _trainable(factory, learn=(name,))
        except AttentionError:  # it has no such number
            continue
        tried += 1
        with case(learn=name, **_described(learner, arrays)):
            gained = [parameter for parameter in learner.parameters() if parameter not in layer.parameters()]
            require(gained, "what is learned must be a parameter")
            plans: list[dict[str, Any]] = [{}, {"causal": True, "dropout": 0.25, "seed": 5}]
            for options in plans:
                if _supported(learner, *arrays, **options) is not None:
                    _require_slopes(learner, _call(learner, arrays, **options), gained, directions=1, entries=2)
    if not tried:
        raise NotApplicable("it has nothing to learn but its parameters")


@CHECKS
def gradients_follow_dropout(factory: Factory) -> None:
    """In training, the gradients of a call are those with what that call has dropped, whatever is called, or set, afterwards."""
    layer = _trainable(factory)
    options: dict[str, Any] = {"dropout_rate": 0.4}
    if "output_dropout" in layer.config.options:
        options["output_dropout"] = 0.3
    arrays = _arrays(layer, (2,), 7, 20, np.float64)
    if _supported(layer, *arrays, dropout=0.4, seed=1) is None:
        raise NotApplicable("it has no dropout")
    layer = _trainable(factory, **options)
    plain = _back(layer, _upstream(layer(*arrays)))
    layer.training = True
    with case("training", **options, **_described(layer, arrays)):
        out, context = layer.forward_with_context(*arrays)
        dout = _upstream(out)
        found = _all(_back(layer, dout, context))
        require(not np.allclose(found["values"], plain.values), "dropout must show in the gradients")
        layer(*arrays)
        layer.training = False
        for name, again in _all(_back(layer, dout, context)).items():
            require_same_bits(again, found[name], f"the gradient of {name} must be that of what the call has dropped")
        layer.training = True
        seeded = _call(layer, arrays, seed=5)
        _require_slopes(layer, seeded, directions=1, entries=1)


@CHECKS
def gradients_have_the_dtype_of_the_inputs(factory: Factory) -> None:
    """Gradients have the shapes and the dtype of the inputs, for float32, float64, float16 and bfloat16, and those of float32 are close."""
    exact: dict[str, np.ndarray] = {}
    for dtype in (np.dtype(np.float64), *float_dtypes()):
        layer = _trainable(factory, _sizes(factory)[-1])
        arrays = _arrays(layer, (2,), 4, 6, dtype)
        with case(**_described(layer, arrays)):
            out = layer(*arrays)
            gradients = _back(layer, _upstream(out))
            for name, array, gradient in zip(ROLES, arrays, gradients[:3], strict=True):
                require(gradient.shape == array.shape, f"the gradient of {name} must have shape {array.shape}, got {gradient.shape}")
                require(gradient.dtype == dtype, f"the gradient of {name} must have the dtype of the inputs, {dtype}, got {gradient.dtype}")
            for name, parameter in layer.parameters().items():
                gradient = gradients.params[name]
                right = (gradient.shape, gradient.dtype) == (parameter.shape, parameter.dtype)
                require(right, f"the gradient of parameter {name} must be like it, {parameter.shape} {parameter.dtype}, got "
                               f"{gradient.shape} {gradient.dtype}")  # fmt: skip
            found = _all(gradients)
            exact = exact or found
            if dtype == np.float32:
                for name, wanted in exact.items():
                    size = max(1.0, float(np.abs(wanted).max(initial=0.0)))
                    require_close(found[name], wanted, 1e-3 * size, f"the gradient of {name} must be close to that in float64")


@CHECKS
def gradients_of_what_is_masked_are_zero(factory: Factory) -> None:
    """Keys and values that no query sees have gradients of zero, and gradients are finite where a query sees nothing."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (2,), 5, 8, np.float64)
    tried = Tried()
    for masking in _maskings(arrays):
        hidden = ~masking.seen.any(-2)
        with case(**_described(layer, arrays), **masking.options):
            out = tried.call(layer, *arrays, masking=masking)
            if out is None or (masking.seen.any(-1).all() and not hidden.any()):
                continue
            tried.used = True
            gradients = _back(layer, _upstream(out))
            for name, gradient in (("keys", gradients.keys), ("values", gradients.values)):
                require(not gradient[hidden].any(), f"{name} that no query sees must have gradients of zero ({masking.kind})")
            for name, gradient in _all(gradients).items():
                require(np.isfinite(gradient).all(), f"the gradient of {name} must be finite ({masking.kind})")
    tried.require_some("hides all keys from a query, or a key from all queries")


@CHECKS
def gradients_are_the_same_for_any_number_of_threads(factory: Factory) -> None:
    """Gradients are the same to the bit for 1, 2 and 7 threads."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (), 150, 180)
    out, context = layer.forward_with_context(*arrays)
    results = []
    for threads in THREAD_COUNTS:
        with threads_of_call(threads):
            results.append(_all(_back(layer, _upstream(out), context)))
    for threads, found in zip(THREAD_COUNTS[1:], results[1:], strict=True):
        with case(threads=threads, **_described(layer, arrays)):
            for name, wanted in results[0].items():
                require_same_bits(found[name], wanted, f"the gradient of {name} must be the same for any number of threads")


@CHECKS
def gradients_without_a_cache_agree(factory: Factory) -> None:
    """With ``gradient_cache`` set to False, what forward made is made again, and gradients are the same."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (2,), 5, 8, np.float64)
    require(layer.gradient_cache is True, f"gradient_cache must be True at first, got {layer.gradient_cache!r}")
    with case(**_described(layer, arrays)):
        tried: list[dict[str, Any]] = [{}, {"dropout": 0.25, "seed": 5}]
        for options in tried:
            out = _supported(layer, *arrays, **options)
            if out is None:
                continue
            expected = _all(_back(layer, _upstream(out)))
            layer.gradient_cache = False
            again = layer(*arrays, **options)
            require_same_bits(again, out, "a call without a cache must give the same output")
            for name, found in _all(_back(layer, _upstream(again))).items():
                _near(found, expected[name], f"the gradient of {name} must be the same without a cache")
            layer.gradient_cache = True


# --- calls and their contexts -----------------------------------------------------------------------------------------


@CHECKS
def backward_before_forward_is_refused(factory: Factory) -> None:
    """Without a call to go back through, or a backward pass to take a step by, InvalidInputError; so too after reset()."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (), 3, 4, np.float64)
    out = layer(*arrays)
    _back(layer, out)  # skips what has no gradients
    layer = _trainable(factory)
    expect_error(InvalidInputError, "backward before a call", layer.backward, out)
    expect_error(InvalidInputError, "update_parameters before backward", layer.update_parameters, _Descent(0.1))
    layer(*arrays)
    expect_error(InvalidInputError, "update_parameters after a call alone", layer.update_parameters, _Descent(0.1))
    layer.reset()
    expect_error(InvalidInputError, "backward after reset()", layer.backward, out)
    layer(*arrays)
    found = in_threads(lambda _: _refuses(layer, out), 1)
    require(found[0], "backward in a thread that has made no call must raise InvalidInputError")


def _refuses(layer: TrainableAttention, out: np.ndarray) -> bool:
    try:
        layer.backward(out)
    except InvalidInputError:
        return True
    return False


@CHECKS
def wrong_gradients_are_refused(factory: Factory) -> None:
    """A gradient of another shape is a DimensionMismatchError, one of another kind or not finite an InvalidInputError; no parameter changes."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (2,), 3, 4, np.float64)
    out = layer(*arrays)
    _back(layer, out)
    kept = {name: array.copy() for name, array in layer.parameters().items()}
    for what, wrong in {
        "a gradient of a narrower output": out[..., :-1],
        "a gradient of fewer rows": out[..., :-1, :],
        "a gradient of one batch entry": out[0],
        "a number": np.float64(1.0),
    }.items():
        expect_error(DimensionMismatchError, what, layer.backward, wrong)
    others: dict[str, Any] = {"integers": np.ones(out.shape, np.int64), "None": None, "text": "gradient", "float32": out.astype(np.float32)}
    for what, other in others.items():
        expect_error((InvalidInputError, UnsupportedError), f"a gradient that is {what}", layer.backward, other)
    for value in (np.nan, np.inf, -np.inf):
        wrong = out.copy()
        wrong.flat[-1] = value
        message = expect_error(InvalidInputError, f"{value} in grad_output", layer.backward, wrong)
        require("grad_output" in message, f"the error of {value} in grad_output must name it, got {message!r}")
    expect_error(InvalidInputError, "a context that is none", layer.backward, out, "context")
    for name, array in layer.parameters().items():
        gradients = {other: np.zeros_like(kept[other]) for other in kept}
        gradients[name].flat[0] = np.nan
        layer.keep_gradients(gradients)
        message = expect_error(InvalidInputError, f"a gradient of {name} that is NaN", layer.update_parameters, _Descent(0.1))
        require(name in message, f"the error must name the parameter {name}, got {message!r}")
        require_same_bits(array, kept[name], f"a step that is refused must not change {name}")


@CHECKS
def backward_of_an_earlier_context(factory: Factory) -> None:
    """With its context, the gradients of a call are the same after other calls, and from another thread; backward may be asked again."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (2,), 5, 8, np.float64)
    with case(**_described(layer, arrays)):
        out, context = layer.forward_with_context(*arrays)
        expected = _all(_back(layer, _upstream(out)))
        layer(*_arrays(layer, (), 3, 4, np.float64, seed=9))
        later = _all(layer.backward(_upstream(out), context))
        (elsewhere,) = in_threads(lambda _: _all(layer.backward(_upstream(out), context)), 1)
        for name, wanted in expected.items():
            require_same_bits(later[name], wanted, f"the gradient of {name} must be the same after other calls")
            require_same_bits(elsewhere[name], wanted, f"the gradient of {name} must be the same from another thread")


@CHECKS
def parallel_gradients_agree(factory: Factory) -> None:
    """Eight threads that share an instance get the gradients of their own calls."""
    layer = _trainable(factory)
    inputs = [_arrays(layer, (), 5, 9, np.float64, seed=seed) for seed in range(8)]

    def work(i: int) -> dict[str, np.ndarray]:
        return _all(_back(layer, _upstream(layer(*inputs[i]))))

    expected = [work(i) for i in range(8)]
    for i, rounds in enumerate(in_threads(lambda i: [work(i) for _ in range(4)])):
        for found in rounds:
            with case("8 threads at once", seed=i, **_described(layer, inputs[i])):
                for name, wanted in expected[i].items():
                    require_same_bits(found[name], wanted, f"the gradient of {name} must be of this thread's call")


@CHECKS
def backward_writes_nothing(factory: Factory) -> None:
    """Neither the caller's arrays, nor the gradient of the output, nor parameters are written, and read-only arrays are taken."""
    layer = _trainable(factory)
    arrays = _arrays(layer, (2,), 5, 8, np.float64)
    with case(**_described(layer, arrays)):
        out = layer(*arrays)
        dout = _upstream(out)
        given = {**dict(zip(ROLES, arrays, strict=True)), "grad_output": dout}
        before = {name: array.copy() for name, array in given.items()}
        kept = {name: array.copy() for name, array in layer.parameters().items()}
        for array in given.values():
            array.flags.writeable = False
        _back(layer, dout)
        for name, was in before.items():
            require_same_bits(given[name], was, f"{name} must not be written")
        for name, was in kept.items():
            require_same_bits(layer.parameters()[name], was, f"the parameter {name} must not be written by backward")


# --- parameters -------------------------------------------------------------------------------------------------------


def _with_parameters(factory: Factory, **options: Any) -> TrainableAttention:
    layer = _trainable(factory, **options)
    for name in ("temperature", "scale", "sinks") if "learn" in layer.config.options else ():
        if layer.parameters():
            break
        try:
            layer = _trainable(factory, learn=(name,), **options)
        except AttentionError:  # it has no such number
            continue
    if not layer.parameters():
        raise NotApplicable("it has no parameters")
    return layer


@CHECKS
def parameters_are_live(factory: Factory) -> None:
    """parameters() are the arrays themselves: what is written to one shows in the next call."""
    layer = _with_parameters(factory)
    arrays = _arrays(layer, (2,), 5, 8, np.float64)
    parameters = layer.parameters()
    require(layer.num_parameters == sum(array.size for array in parameters.values()), f"num_parameters is wrong: {layer.num_parameters}")
    expected = layer(*arrays)
    gradients = _back(layer, _upstream(expected))
    for name, array in parameters.items():
        with case(parameter=name, **_described(layer, arrays)):
            require(isinstance(array, np.ndarray) and array.dtype.kind == "f", "a parameter must be an array of floats")
            require(array.flags.writeable, "a parameter must be writable")
            require(layer.parameters()[name] is array or np.shares_memory(layer.parameters()[name], array), "it must be the same array each time")
            if not gradients.params[name].any():
                continue
            was = array.copy()
            array += 0.25
            changed = layer(*arrays)
            array[...] = was
            require(not np.array_equal(changed, expected), "what is written to a parameter must show in the next call")
            require_same_bits(layer(*arrays), expected, "written back, it must give what it gave")


class _Descent:
    """Gradient descent, with nothing else to it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def step(self, parameters: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> None:
        for name, array in parameters.items():
            array -= (self.rate * gradients[name]).astype(array.dtype)


@CHECKS
def update_parameters_descends(factory: Factory) -> None:
    """A small step against the gradients lowers a loss by as much as they promise; one that leads to NaN is taken back."""
    layer = _with_parameters(factory)
    arrays = _arrays(layer, (2,), 5, 8, np.float64)
    with case(**_described(layer, arrays)):
        out = layer(*arrays)
        target = out + np.random.default_rng(5).standard_normal(out.shape)
        gradients = _back(layer, out - target).params
        steepness = float(sum(np.square(gradient.astype(np.float64)).sum() for gradient in gradients.values()))
        require(steepness > 0, "the gradients of the parameters must not all be zero")
        before = float(np.square(out - target).sum()) / 2
        rate = 1e-5 * before / steepness
        layer.update_parameters(_Descent(rate))
        fallen = (before - float(np.square(layer(*arrays) - target).sum()) / 2) / (rate * steepness)
        require(0.5 < fallen < 1.5, f"a small step must lower the loss by as much as the gradients promise, and it fell by {fallen:.3g} times that")
        kept = {name: array.copy() for name, array in layer.parameters().items()}
        _back(layer, out - target)
        expect_error(InvalidInputError, "a step to NaN", layer.update_parameters, _Descent(np.nan))
        expect_error(InvalidInputError, "an optimizer without step", layer.update_parameters, "adam")
        for name, was in kept.items():
            require_same_bits(layer.parameters()[name], was, f"a step that is refused must not change {name}")


@CHECKS
def checkpoint_round_trip(factory: Factory) -> None:
    """What save_checkpoint wrote, load_checkpoint reads to the bit; a file that is cut off, or of another variant, is refused and changes nothing."""
    try:
        import safetensors  # noqa: F401
    except ImportError:
        raise NotApplicable("checkpoints need safetensors: pip install 'ruvattn[training]'") from None
    layer = _with_parameters(factory)
    arrays = _arrays(layer, (), 4, 6, np.float64)
    rng = np.random.default_rng(5)
    for array in layer.parameters().values():
        array += 0.1 * rng.standard_normal(array.shape)
    expected = layer(*arrays)
    other = _with_parameters(factory)
    with tempfile.TemporaryDirectory() as folder, case(**_described(layer, arrays)):
        path = Path(folder) / "checkpoint.safetensors"
        layer.save_checkpoint(path)
        live = other.parameters()
        other.load_checkpoint(path)
        require_same_bits(other(*arrays), expected, "a variant that has read the checkpoint must give the same")
        for name, array in live.items():
            require_same_bits(array, layer.parameters()[name], f"load_checkpoint must write to the live parameter {name}")
        whole = path.read_bytes()
        for name, content in {"cut off": whole[: len(whole) - 5], "empty": b"", "of something else": b"no checkpoint" * 9}.items():
            path.write_bytes(content)
            expect_error(CheckpointError, f"a file that is {name}", other.load_checkpoint, path)
            require_same_bits(other(*arrays), expected, f"a file that is {name} must change nothing")
        expect_error(CheckpointError, "a file that isn't there", other.load_checkpoint, Path(folder) / "none")
        sizes = _sizes(factory)
        if len(sizes) > 1:
            layer = _with_parameters(lambda **options: factory(**{**options, "embed_dim": sizes[0][0], "num_heads": sizes[0][1]}))
            layer.save_checkpoint(path)
            expect_error(CheckpointError, "a file of another size", other.load_checkpoint, path)
            require_same_bits(other(*arrays), expected, "a file of another size must change nothing")
