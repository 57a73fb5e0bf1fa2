"""The checks of gradients and of training find what they are there for: for each there is a subject that breaks just that promise.

Parts are sound ones with a flaw in a vjp, or sound ones in an engine with a flaw. Variants are a sound one with a flaw in its backward pass.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

import ruvattn
from ruvattn.backward import attention_backward
from ruvattn.builtin.multihead import MultiHeadAttention
from ruvattn.errors import CheckpointError, InvalidInputError, UnsupportedError
from ruvattn.interfaces import AttentionConfig, Gradients
from ruvattn.testing import CheckFailure, gradients, graph_training, run_checks, suite, training
from ruvattn.testing.slopes import curve_of, require_gradients
from ruvattn.threads import resolve_threads


def outcome(subject, name):
    (result,) = run_checks([subject], only=[name], shrink=False)
    return result


def assert_found(subject, name):
    result = outcome(subject, name)
    assert result.status == "failed", result


# Slopes -------------------------------------------------------------------------------------------------------------


def cubes(at):
    return float(sum((array**3).sum() for array in at.values()))


def cubes_slope(at):
    return {name: 3 * array**2 for name, array in at.items()}


@pytest.mark.parametrize("shape", [(), (3,), (40, 7)])
def test_a_right_gradient_passes(shape):
    at = {"x": np.random.default_rng(0).standard_normal(shape), "y": np.ones((2, 2))}
    require_gradients(cubes, at, cubes_slope(at))


@pytest.mark.parametrize("shape", [(), (3,), (40, 7)])
@pytest.mark.parametrize("flaw", [lambda g: g * (1 + 1e-5), lambda g: g + 1e-4, lambda g: -g, np.zeros_like])
def test_a_wrong_gradient_is_found(shape, flaw):
    at = {"x": np.random.default_rng(0).standard_normal(shape) + 2}
    with pytest.raises(CheckFailure, match="the gradient of x.* must agree with finite differences"):
        require_gradients(cubes, at, {"x": flaw(np.asarray(cubes_slope(at)["x"]))})


def test_one_wrong_entry_of_many_shows_along_a_direction():
    at = {"x": np.random.default_rng(0).standard_normal((30, 30))}
    wrong = cubes_slope(at)
    wrong["x"][11, 7] += 0.1
    with pytest.raises(CheckFailure, match="along a random direction"):
        require_gradients(cubes, at, wrong)


def test_a_gradient_of_another_shape_or_that_is_not_finite_is_found():
    at = {"x": np.ones(3)}
    for wrong, words in ((np.ones(4), "shape"), (np.array([3, 3, np.nan]), "finite")):
        with pytest.raises(CheckFailure, match=words):
            require_gradients(cubes, at, {"x": wrong})
    with pytest.raises(CheckFailure, match="there must be a gradient of x"):
        require_gradients(cubes, at, {})


def test_parameters_in_float32_are_compared_with_where_they_have_been():
    at = {"x": np.random.default_rng(0).standard_normal(50).astype(np.float32)}
    require_gradients(lambda at: cubes({"x": at["x"].astype(np.float64)}), at, cubes_slope(at))


def hinge(at):
    return float(np.maximum(at["x"], 0).sum())


def test_a_kink_nearby_is_looked_at_from_closer():
    require_gradients(hinge, {"x": np.array([1e-4, -2e-6, 1.0])}, {"x": np.array([1.0, 0.0, 1.0])})
    with pytest.raises(CheckFailure):
        require_gradients(hinge, {"x": np.array([1e-4, -2e-6, 1.0])}, {"x": np.array([1.0, 0.5, 1.0])})


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_at_a_kink_any_slope_between_the_sides_will_do(slope):
    require_gradients(hinge, {"x": np.zeros(1)}, {"x": np.array([slope])})


@pytest.mark.parametrize("slope", [-0.5, 1.5])
def test_at_a_kink_no_other_slope_will_do(slope):
    with pytest.raises(CheckFailure):
        require_gradients(hinge, {"x": np.zeros(1)}, {"x": np.array([slope])})


class OnACircle:
    def conformance_inputs(self, rng, role, shape):
        drawn = rng.normal(0.0, 1.0, shape)
        return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


def test_points_of_a_domain_move_along_it():
    curve = curve_of(OnACircle(), "key", (4, 2))
    here, there = curve(np.zeros((4, 2))), curve(np.eye(4, 2))
    assert np.allclose(np.linalg.norm(there, axis=-1), 1)
    assert (here != there).any(-1).tolist() == [True, True, False, False]

    def loss(at):
        assert np.allclose(np.linalg.norm(at["x"], axis=-1), 1)
        return float((at["x"] ** 3).sum())

    require_gradients(loss, {"x": here}, {"x": 3 * here**2 + 5 * here}, curves={"x": curve})  # off the circle nobody can tell
    with pytest.raises(CheckFailure):
        require_gradients(loss, {"x": here}, {"x": 3.1 * here**2}, curves={"x": curve})


def test_what_may_be_anywhere_needs_no_curve():
    assert curve_of(object(), "key", (4, 2)) is None


# Scores, aggregates and patterns --------------------------------------------------------------------------------------


class Distance(ruvattn.Score):
    """−‖q − k‖² / (2σ²)."""

    def __init__(self, sigma=1.5):
        self.params = {"sigma": sigma}

    def row_terms(self, q, pos):
        return ((q * q).sum(-1),)

    def col_terms(self, k, pos):
        return ((k * k).sum(-1),)

    def row_terms_vjp(self, q, pos, dterms):
        return 2 * dterms[0][..., None] * q, {}

    def col_terms_vjp(self, k, pos, dterms):
        return 2 * dterms[0][..., None] * k, {}

    def logits(self, t):
        return (2 * t.dots[0] - t.rows[0] - t.cols[0]) * (0.5 / t.params["sigma"] ** 2)

    def logits_vjp(self, t, dlogits):
        sigma = t.params["sigma"]
        g = dlogits * (0.5 / sigma**2)
        dsigma = -2 / sigma * np.sum(g * (2 * t.dots[0] - t.rows[0] - t.cols[0]))
        return (2 * g)[None], (-g.sum(1, keepdims=True),), (-g.sum(0, keepdims=True),), {"sigma": dsigma}


class Powers(ruvattn.Aggregate):
    """Σ p·v^a, of positive values: linear, with a parameter."""

    def __init__(self, exponent=1.5):
        self.params = {"exponent": exponent}

    def conformance_inputs(self, rng, role, shape):
        return np.exp(0.3 * rng.standard_normal(shape))

    def values(self, v):
        return v ** v.dtype.type(self.params["exponent"])

    def values_vjp(self, v, dvalues):
        a = self.params["exponent"]
        return np.where(dvalues == 0, 0, dvalues * a * v ** v.dtype.type(a - 1))

    def values_params_vjp(self, v, dvalues):
        return {"exponent": np.sum(np.where(dvalues == 0, 0, dvalues * self.values(v) * np.log(v)))}


class NoGradient(Distance):
    def logits_vjp(self, t, dlogits):
        raise UnsupportedError("it has none")


def broken(base, **members):
    return type(f"Broken{base.__name__}", (base,), members)()


def _without_sigma(self, t, dlogits):
    return (*Distance.logits_vjp(self, t, dlogits)[:3], {"sigma": 0.0})


def _steeper(self, t, dlogits):
    found = Distance.logits_vjp(self, t, dlogits)
    return (found[0] * 1.001, *found[1:])


def _coarse(self, t, dlogits):
    found = Distance.logits_vjp(self, t, dlogits)
    return (found[0].astype(np.float16).astype(found[0].dtype) if t.dots.dtype == np.float32 else found[0], *found[1:])


def _moves_all_keys(self, k, pos, dterms):
    return 2 * dterms[0][..., None] * k + 1e-3, {}


BROKEN_PARTS = {
    "gradients_through_attention_match_differences": [
        broken(Distance, logits_vjp=_without_sigma),
        broken(Distance, row_terms_vjp=lambda self, q, pos, dterms: (dterms[0][..., None] * q, {})),
        broken(Distance, logits_vjp=_steeper),
    ],
    "gradients_through_attention_follow_their_dtype": [broken(Distance, logits_vjp=_coarse)],
    "masked_has_no_influence_on_gradients": [broken(Distance, col_terms_vjp=_moves_all_keys)],
    "aggregate_gradients_match_differences": [
        broken(Powers, values_vjp=lambda self, v, dvalues: 1.001 * Powers.values_vjp(self, v, dvalues)),
        broken(Powers, values_params_vjp=lambda self, v, dvalues: {}),
        broken(Powers, __init__=lambda self: setattr(self, "params", ["exponent"])),
    ],
    "aggregate_gradients_follow_their_dtype": [
        broken(Powers, values_vjp=lambda self, v, dvalues: Powers.values_vjp(self, v, dvalues) * (1.01 if v.dtype == np.float32 else 1)),
    ],
    "masked_has_no_influence_on_aggregate_gradients": [
        broken(Powers, values=lambda self, v: Powers.values(self, v) * (1 if np.isfinite(v).all() else 1.01)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "subject"), [(name, subject) for name, subjects in BROKEN_PARTS.items() for subject in subjects])
def test_a_broken_part_is_found(name, subject):
    assert_found(subject, name)


def _by_threads(found, options):
    return {name: array * array.dtype.type(1 + 1e-6 * (options["threads"] or 0)) for name, array in found.items()}


def _in_float64(found, options):
    return {name: array.astype(np.float64) for name, array in found.items()}


def _by_pattern(found, options):
    return {name: array * (1 if isinstance(options.get("mask"), np.ndarray) else 1.001) for name, array in found.items()}


def _leaks(found, options):
    return {name: array + 1e-6 for name, array in found.items()}


BROKEN_ENGINES = {
    "gradients_are_the_same_for_any_number_of_threads": (Distance(), _by_threads),
    "aggregate_gradients_are_the_same_for_any_number_of_threads": (Powers(), _by_threads),
    "gradients_by_pattern_are_the_same_for_any_number_of_threads": (ruvattn.Causal(), _by_threads),
    "gradients_through_attention_follow_their_dtype": (Distance(), _in_float64),
    "aggregate_gradients_follow_their_dtype": (Powers(), _in_float64),
    "gradients_equal_those_of_the_dense_mask": (ruvattn.Causal(), _by_pattern),
    "masked_has_no_influence_on_gradients": (Distance(), _leaks),
    "masked_has_no_influence_on_aggregate_gradients": (Powers(), _leaks),
}


@pytest.mark.parametrize("name", BROKEN_ENGINES)
def test_a_faulty_engine_is_found(name, monkeypatch):
    subject, change = BROKEN_ENGINES[name]
    monkeypatch.setattr(gradients, "attention_backward", lambda *args, **options: change(attention_backward(*args, **options), options))
    assert_found(subject, name)


def test_forms_of_a_score_whose_gradients_differ_are_found(monkeypatch):
    def flawed(*args, score="dot", **options):
        found = attention_backward(*args, score=score, **options)
        return found if type(score) is ruvattn.Dot else {name: 1.001 * array for name, array in found.items()}

    monkeypatch.setattr(gradients, "attention_backward", flawed)
    result = outcome(ruvattn.Dot(), "gradients_through_attention_match_differences")
    assert result.status == "failed"
    assert "the NumPy form" in result.message


@pytest.mark.parametrize("subject", [Distance(), Distance(np.array([0.7, 2.0])), Powers(), ruvattn.Window(2, 1)], ids=str)
def test_sound_parts_pass(subject):
    names = {check.name for checks in (gradients.SCORES, gradients.AGGREGATES, gradients.PATTERNS) for check in checks}
    results = [result for result in run_checks([subject]) if result.name in names]
    assert results
    assert {result.status for result in results} == {"passed"}, results


def test_a_part_without_gradients_is_not_asked_for_them():
    result = outcome(NoGradient(), "gradients_through_attention_match_differences")
    assert (result.status, result.message) == ("skipped", "it has none")


# Variants -------------------------------------------------------------------------------------------------------------


class Sound(MultiHeadAttention):
    """A sound variant, to derive the broken ones from."""

    conformance_sizes = ((4, 1), (8, 2))


def variant(**members):
    return type("Broken", (Sound,), members)


def goes_back(change):
    """Change what backward returns: change(self, gradients, context) -> gradients."""

    def backward(self, grad_output, context=None, **options):
        return change(self, Sound.backward(self, grad_output, context, **options), context)

    return variant(backward=backward)


def _params(change):
    return goes_back(lambda self, found, _: found._replace(params=change(found.params)))


def _drawn_anew(self, grad_output, context=None, **options):
    context = self._remembered() if context is None else context
    if "dropout" in context.options:
        context.options["seed"] = int(time.perf_counter_ns() % 2**32)
    return Sound.backward(self, grad_output, context, **options)


def _by_training(self, grad_output, context=None, **options):
    found = Sound.backward(self, grad_output, context, **options)
    return found if self.training else found._replace(query=0 * found.query)


def _loses_output_dropout(self, grad_output, context=None, **options):
    context = self._remembered() if context is None else context
    kept, context.output_dropout = context.output_dropout, 0.0
    found = Sound.backward(self, grad_output, context, **options)
    context.output_dropout = kept
    return found


def _lost_mask(self, grad_output, context=None, **options):
    context = self._remembered() if context is None else context
    kept, context.options = context.options, {name: value for name, value in context.options.items() if name != "causal"}
    found = Sound.backward(self, grad_output, context, **options)
    context.options = kept
    return found


def _anything_goes(self, grad_output, context=None, **options):
    if self._remembered() is None:
        return Gradients(grad_output, grad_output, grad_output, {})
    return Sound.backward(self, grad_output, context, **options)


def _broadcasts(self, grad_output, context=None, **options):
    shape = (context or self._remembered()).shape
    if isinstance(grad_output, np.ndarray) and grad_output.dtype == np.float64 and grad_output.shape != shape:
        grad_output = np.ones(shape)
    return Sound.backward(self, grad_output, context, **options)


def _takes_nan(self, grad_output, context=None, **options):
    if isinstance(grad_output, np.ndarray) and grad_output.dtype == np.float64:
        grad_output = np.nan_to_num(grad_output, posinf=0, neginf=0)
    return Sound.backward(self, grad_output, context, **options)


def _steps_anyway(self, optimizer):
    optimizer.step(self.parameters(), self._memory_of_thread().gradients)


def _through_self(self, grad_output, context=None, **options):
    self.context = self._remembered() if context is None else context
    time.sleep(1e-4)
    return Sound.backward(self, grad_output, self.context, **options)


def _last_call(self, grad_output, context=None, **options):
    last = self._remembered()
    return Sound.backward(self, grad_output, context if last is None or last.shape != context.shape else last, **options) if context else (
        Sound.backward(self, grad_output, None, **options)
    )  # fmt: skip


def _only_of_this_thread(self, grad_output, context=None, **options):
    if self._remembered() is None:
        raise InvalidInputError("no call")
    return Sound.backward(self, grad_output, context, **options)


def _writes_gradient(self, grad_output, context=None, **options):
    found = Sound.backward(self, grad_output, context, **options)
    next(iter(self.parameters().values()))[...] += 1e-9
    return found


def _needs_writable(self, grad_output, context=None, **options):
    if isinstance(grad_output, np.ndarray):
        grad_output.flags.writeable = True  # raises where it may not be
        grad_output *= 2
    return Sound.backward(self, grad_output, context, **options)


def _copies(self):
    return {name: array.copy() for name, array in Sound.parameters(self).items()}


def _keeps_ascending(self, gradients):
    Sound.keep_gradients(self, {name: -array for name, array in gradients.items()})


def _reads_nothing(self, path):
    with open(path, "rb") as file:
        if len(file.read()) < 500:
            raise CheckpointError("cut off")


def _new_arrays(self, path):
    self._arrays = {name: array.copy() for name, array in self._arrays.items()}
    Sound.load_checkpoint(self, path)


def _half_reads(self, path):
    first = next(iter(self.parameters().values()))
    first += 1
    Sound.load_checkpoint(self, path)


def _cached_twice(self, found, _):
    return found if self.gradient_cache else found._replace(query=2 * found.query)


def _learns_double(self, context, found):
    return {name: 2 * array for name, array in found.items()}


BROKEN_VARIANTS = {
    "gradients_match_differences": [
        goes_back(lambda self, found, _: found._replace(query=1.001 * found.query)),
        goes_back(lambda self, found, _: found._replace(keys=found.values, values=found.keys)),
        goes_back(lambda self, found, _: found._replace(query=found.query[None])),
        goes_back(lambda self, found, _: list(found)),
        goes_back(lambda self, found, context: found._replace(keys=0 * found.keys) if found.query.ndim == 1 else found),
        _params(lambda params: {**params, "W_k": 0 * params["W_k"]}),
        _params(lambda params: {name: array for name, array in params.items() if name != "W_k"}),
        variant(backward=_lost_mask),
    ],
    "gradients_of_learned_numbers_match_differences": [variant(learned_vjp=_learns_double)],
    "gradients_follow_dropout": [variant(backward=_drawn_anew), variant(backward=_by_training), variant(backward=_loses_output_dropout)],
    "gradients_have_the_dtype_of_the_inputs": [
        goes_back(lambda self, found, _: found._replace(values=found.values.astype(np.float64))),
        goes_back(lambda self, found, _: found._replace(keys=found.keys[..., :1, :])),
        _params(lambda params: {name: array.astype(np.float32) for name, array in params.items()}),
        goes_back(lambda self, found, _: found._replace(query=found.query * (1.01 if found.query.dtype == np.float32 else 1))),
    ],
    "gradients_of_what_is_masked_are_zero": [
        goes_back(lambda self, found, _: found._replace(keys=found.keys + 1e-9)),
        goes_back(lambda self, found, _: found._replace(query=found.query + np.where(found.query == 0, np.nan, 0))),
    ],
    "gradients_are_the_same_for_any_number_of_threads": [
        goes_back(lambda self, found, _: found._replace(values=found.values * np.float32(1 + 1e-6 * resolve_threads(None)))),
    ],
    "gradients_without_a_cache_agree": [goes_back(_cached_twice), variant(gradient_cache=False)],
    "backward_before_forward_is_refused": [
        variant(backward=_anything_goes),
        variant(reset=lambda self: None),
        variant(update_parameters=lambda self, optimizer: None),
    ],
    "wrong_gradients_are_refused": [
        variant(backward=_broadcasts),
        variant(backward=_takes_nan),
        variant(update_parameters=_steps_anyway),
    ],
    "backward_of_an_earlier_context": [
        variant(backward=_only_of_this_thread),
        goes_back(lambda self, found, context: found if context is None else found._replace(query=2 * found.query)),
    ],
    "parallel_gradients_agree": [variant(backward=_through_self)],
    "backward_writes_nothing": [variant(backward=_writes_gradient), variant(backward=_needs_writable)],
    "parameters_are_live": [variant(parameters=_copies), variant(num_parameters=3)],
    "update_parameters_descends": [
        variant(keep_gradients=_keeps_ascending),
        variant(keep_gradients=lambda self, gradients: Sound.keep_gradients(self, {name: 3 * array for name, array in gradients.items()})),
        variant(update_parameters=_steps_anyway),
    ],
    "checkpoint_round_trip": [
        variant(load_checkpoint=_reads_nothing),
        variant(load_checkpoint=_new_arrays),
        variant(load_checkpoint=_half_reads),
        variant(save_checkpoint=lambda self, path: path.write_bytes(b"nothing at all")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "factory"), [(name, factory) for name, factories in BROKEN_VARIANTS.items() for factory in factories])
def test_a_broken_variant_is_found(name, factory):
    assert_found(factory, name)


def test_a_sound_variant_passes():
    names = [check.name for check in training.CHECKS]
    wrong = [result for result in run_checks([Sound], only=names) if result.status == "failed"]
    assert wrong == []


class Untrainable(ruvattn.Attention):
    """A variant that has no gradients."""

    def __init__(self, embed_dim, num_heads=1):
        self._config = AttentionConfig(embed_dim, num_heads)

    @property
    def config(self):
        return self._config

    def attend(self, q, k=None, v=None, **options):
        raise UnsupportedError("nothing")


def test_a_variant_that_is_not_trainable_is_not_asked():
    results = run_checks([Untrainable], only=[check.name for check in (*training.CHECKS, *graph_training.CHECKS)])
    assert {result.status for result in results} == {"skipped"}


def test_a_variant_whose_step_has_no_way_back_is_not_asked():
    half = variant(project_output=lambda self, merged, dtype, out: 2 * Sound.project_output(self, merged, dtype, out))
    result = outcome(half, "gradients_match_differences")
    assert result.status == "skipped"
    assert "project_output" in result.message


@pytest.mark.parametrize("subject", suite("variants", distributions=["ruvattn"]), ids=lambda subject: subject.name)
def test_every_built_in_variant_is_trainable(subject):
    names = ["gradients_match_differences", "gradients_of_learned_numbers_match_differences", "update_parameters_descends"]
    results = run_checks([subject], only=names)
    assert [result.status for result in results] == ["passed"] * 3, results


# Along the edges of a graph -------------------------------------------------------------------------------------------


class SumOfNeighbours(ruvattn.TrainableAttention, ruvattn.GraphAttention):
    """(x_i + Σ_j x_j) · W over the sources j of the incoming edges, weighted by the edge's features if there are any."""

    conformance_sizes = ((4, 1),)
    edge_dim = 1

    def __init__(self, embed_dim, num_heads=1):
        self._config = AttentionConfig(embed_dim, num_heads)
        self.W = np.random.default_rng(0).standard_normal((embed_dim, embed_dim))

    @property
    def config(self):
        return self._config

    def parameters(self):
        return {"W": self.W}

    def attend(self, q, k=None, v=None, **options):
        raise UnsupportedError("it is called with a graph")

    def forward_with_edges(self, query, keys, values, edge_index, edge_attr=None):
        return self.along((query, keys, values), edge_index, edge_attr)

    def forward_graph(self, x, edge_index, edge_attr=None):
        return self.along((x, x, x), edge_index, edge_attr)

    def forward_neighborhood(self, node, x, edge_index):
        return self.along((x, x, x), edge_index, None, node)

    def forward_k_hop(self, node, x, edge_index, k):
        return self.along((x, x, x), np.empty((2, 0), np.int64), None, node)

    def along(self, inputs, edges, attr, node=None):
        edges = np.asarray(edges).reshape(2, -1)
        share = np.ones((edges.shape[1], 1)) if attr is None else attr
        total = inputs[0].astype(np.float64)
        np.add.at(total, edges[1], share * inputs[2][edges[0]])
        self._memory_of_thread().graph = (inputs, edges, attr, share, total, node)
        out = (total @ self.W).astype(inputs[0].dtype)
        return out if node is None else out[node]

    def backward(self, grad_output, context=None):
        inputs, edges, attr, share, total, node = self._memory_of_thread().graph
        upstream = grad_output
        if node is not None:
            upstream = np.zeros(total.shape)
            upstream[node] = grad_output
        dtotal = upstream @ self.W.T
        values = np.zeros(inputs[2].shape)
        np.add.at(values, edges[0], share * dtotal[edges[1]])
        dtype = inputs[0].dtype
        found = OfGraph(dtotal.astype(dtype), np.zeros(inputs[1].shape, dtype), values.astype(dtype), {"W": total.T @ upstream})
        found.edge_attr = None if attr is None else (dtotal[edges[1]] * inputs[2][edges[0]]).sum(-1, keepdims=True).astype(dtype)
        return found


class OfGraph(Gradients):
    edge_attr = None


def along_edges(change):
    """Change what backward returns: change(self, gradients) -> gradients."""

    def backward(self, grad_output, context=None):
        found = SumOfNeighbours.backward(self, grad_output, context)
        changed = change(self, found)
        made = OfGraph(*changed[:4])
        made.edge_attr = getattr(changed, "edge_attr", None) if changed is not found and isinstance(changed, OfGraph) else found.edge_attr
        return made

    return type("Broken", (SumOfNeighbours,), {"backward": backward})


def _doubled_attr(self, grad_output, context=None):
    found = SumOfNeighbours.backward(self, grad_output, context)
    if found.edge_attr is not None:
        found.edge_attr = 2 * found.edge_attr
    return found


def _wrong_of_one_node(self, found):
    return found._replace(query=2 * found.query) if self._memory_of_thread().graph[-1] is not None else found


BROKEN_GRAPHS = {
    "graph_gradients_match_differences": [
        along_edges(lambda self, found: found._replace(values=1.001 * found.values)),
        along_edges(lambda self, found: found._replace(params={"W": 2 * found.params["W"]})),
        type("Broken", (SumOfNeighbours,), {"backward": _doubled_attr}),
    ],
    "graph_gradients_of_other_calls_match_differences": [
        along_edges(_wrong_of_one_node),
        along_edges(lambda self, found: found._replace(keys=found.query)),
    ],
    "graph_gradients_are_the_same_for_any_number_of_threads": [
        along_edges(lambda self, found: found._replace(query=found.query * np.float32(1 + 1e-6 * resolve_threads(None)))),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "factory"), [(name, factory) for name, factories in BROKEN_GRAPHS.items() for factory in factories])
def test_broken_gradients_along_edges_are_found(name, factory):
    assert_found(factory, name)


@pytest.mark.parametrize("name", BROKEN_GRAPHS)
def test_sound_gradients_along_edges_pass(name):
    result = outcome(SumOfNeighbours, name)
    assert result.status == "passed", result


# No check without a test that it can fail -----------------------------------------------------------------------------


def test_every_check_has_something_that_it_finds():
    lists = (gradients.SCORES, gradients.AGGREGATES, gradients.PATTERNS, training.CHECKS, graph_training.CHECKS)
    names = {check.name for checks in lists for check in checks}
    assert names == {*BROKEN_PARTS, *BROKEN_ENGINES, *BROKEN_VARIANTS, *BROKEN_GRAPHS}
