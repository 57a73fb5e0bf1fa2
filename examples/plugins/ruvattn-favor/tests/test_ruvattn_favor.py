"""What the conformance suite cannot know: the formula, masks, that the error falls, that memory is linear, and what is refused."""

import math
import tracemalloc

import numpy as np
import pytest
import ruvattn
from ruvattn.errors import CheckpointError, DimensionMismatchError, InputTooLargeError, InvalidInputError, UnsupportedError
from ruvattn.training import Adam

from ruvattn_favor import FavorAttention, orthogonal_projections, sums

BATCH, HEADS, ROWS, KEYS, WIDTH, VALUE_WIDTH = 2, 2, 9, 11, 6, 4
BEFORE_7 = np.arange(KEYS) < 7
OF_HEADS = np.random.default_rng(7).random((BATCH, HEADS, 1, KEYS)) < 0.6

# The options of a call, and for (batch entry, head, row, key) whether that row sees that key.
CALLS = {
    "all": ({}, lambda b, h, i, j: True),
    "causal": ({"causal": True}, lambda b, h, i, j: j <= i),
    "causal, later": ({"causal": True, "query_offset": 3}, lambda b, h, i, j: j <= i + 3),
    "causal, before the keys": ({"causal": True, "query_offset": -4}, lambda b, h, i, j: j <= i - 4),
    "causal, beyond the keys": ({"causal": True, "query_offset": 50}, lambda b, h, i, j: True),
    "causal, at places": ({"causal": True, "query_offset": np.array([1, -2])}, lambda b, h, i, j: j <= i + (1, -2)[b]),
    "lengths": ({"key_lengths": np.array([4, 0])}, lambda b, h, i, j: j < (4, 0)[b]),
    "one length": ({"key_lengths": 5}, lambda b, h, i, j: j < 5),
    "causal to the end": (
        {"causal": True, "key_lengths": np.array([10, 3]), "query_offset": "end"},
        lambda b, h, i, j: j < (10, 3)[b] and j <= i + (1, -6)[b],
    ),
    "mask": ({"mask": BEFORE_7}, lambda b, h, i, j: BEFORE_7[j]),
    "mask that was repeated": ({"mask": np.broadcast_to(BEFORE_7, (BATCH, HEADS, ROWS, KEYS))}, lambda b, h, i, j: BEFORE_7[j]),
    "mask of heads, causal": ({"mask": OF_HEADS, "causal": True}, lambda b, h, i, j: OF_HEADS[b, h, 0, j] and j <= i),
    "mask and lengths": (
        {"mask": OF_HEADS, "key_lengths": np.array([9, 6])},
        lambda b, h, i, j: OF_HEADS[b, h, 0, j] and j < (9, 6)[b],
    ),
}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def call_inputs(dtype=np.float64):
    return [
        x.astype(dtype)
        for x in (
            numbers(BATCH, ROWS, HEADS * WIDTH),
            numbers(BATCH, KEYS, HEADS * WIDTH, seed=1),
            numbers(BATCH, KEYS, HEADS * VALUE_WIDTH, seed=2),
        )
    ]


def seen_pairs(sees):
    return np.array([[[[bool(sees(b, h, i, j)) for j in range(KEYS)] for i in range(ROWS)] for h in range(HEADS)] for b in range(BATCH)])


def split(x, heads):
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def plain(q, k, v, projections, log_scale, seen=True):
    """The definition, with an array of all queries × all keys, from features as the paper has them: no maximum is subtracted."""
    heads, count = projections.shape[:2]
    q, k, v = (split(x, heads) for x in (q, k, v))
    root = np.exp(np.asarray(log_scale) / 2)[:, None, None]

    def features(x):
        x = root * x
        return np.exp(np.einsum("...hld,hmd->...hlm", x, projections) - (x**2).sum(-1, keepdims=True) / 2) / math.sqrt(count)

    weights = np.einsum("...im,...jm->...ij", features(q), features(k)) * seen
    total = weights.sum(-1, keepdims=True)
    out = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ v
    return out.swapaxes(-3, -2).reshape(*out.shape[:-3], out.shape[-2], -1)


def in_logarithms(q, k, v, projections, log_scale, seen=True):
    """The same for inputs of any size, with an array of queries × keys × features."""
    heads = len(projections)
    q, k, v = (split(x, heads) for x in (q, k, v))
    root = np.exp(np.asarray(log_scale) / 2)[:, None, None]
    a, b = (np.einsum("hld,hmd->hlm", root * x, projections) for x in (q, k))
    b = b - np.square(root * k).sum(-1, keepdims=True) / 2
    logs = np.logaddexp.reduce(a[:, :, None] + b[:, None], axis=-1)
    logs = np.where(seen, logs, -np.inf)
    weights = np.exp(logs - logs.max(-1, keepdims=True))
    out = weights / weights.sum(-1, keepdims=True) @ v
    return out.swapaxes(0, 1).reshape(out.shape[1], -1)


def slopes(function, arrays, dout, step=1e-6):
    """The gradients of Σ dout · function(*arrays), number by number."""
    found = []
    for n, array in enumerate(arrays):
        gradient = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            there, here = array.copy(), array.copy()
            there[place] += step
            here[place] -= step
            changed = (function(*arrays[:n], x, *arrays[n + 1 :]) for x in (there, here))
            high, low = (np.sum(y * dout) for y in changed)
            gradient[place] = (high - low) / (2 * step)
        found.append(gradient)
    return found


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(sums, "CHUNK", 4)


@pytest.mark.parametrize(("options", "sees"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_the_output_is_the_formula(options, sees, dtype, tolerance, short_chunks):
    layer = FavorAttention(HEADS * WIDTH, HEADS, num_features=20, seed=5)
    inputs = call_inputs(dtype)
    out = layer(*inputs, **options)
    assert out.dtype == dtype
    exact = plain(*(x.astype(float) for x in inputs), layer.projections, layer.parameters()["log_scale"], seen_pairs(sees))
    np.testing.assert_allclose(out, exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
def test_so_it_is_over_many_chunks_and_without_leading_axes(causal):
    layer = FavorAttention(10, 2, num_features=7, scale=0.7)
    q, k, v = numbers(3, 3 * sums.CHUNK + 5, 10)
    seen = np.tri(len(q), dtype=bool) if causal else True
    expected = plain(q, k, v, layer.projections, np.log([0.7, 0.7]), seen)
    np.testing.assert_allclose(layer(q, k, v, causal=causal), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("options", "sees"), CALLS.values(), ids=CALLS)
def test_gradients_are_the_slopes_of_the_formula(options, sees, short_chunks):
    layer = FavorAttention(HEADS * WIDTH, HEADS, num_features=5, seed=5)
    inputs, seen, log_scale = call_inputs(), seen_pairs(sees), layer.parameters()["log_scale"].copy()
    dout = numbers(BATCH, ROWS, HEADS * VALUE_WIDTH, seed=3)
    layer(*inputs, **options)
    *found, params = layer.backward(dout)
    expected = slopes(lambda q, k, v, s: plain(q, k, v, layer.projections, s, seen), [*inputs, log_scale], dout)
    for gradient, slope in zip([*found, params["log_scale"]], expected, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=1e-7)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_in_float32_are_those_in_float64(causal):
    layer = FavorAttention(16, 2, num_features=64)
    q, k, v, dout = numbers(4, 150, 16)
    layer(q, k, v, causal=causal)
    expected = layer.backward(dout)
    layer.gradient_cache = False
    layer(*(x.astype(np.float32) for x in (q, k, v)), causal=causal)
    found = layer.backward(dout.astype(np.float32))
    for gradient, exact in zip(found[:3], expected[:3], strict=True):
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.params["log_scale"], expected.params["log_scale"], rtol=1e-4)


def test_pairs_whose_features_underflow_count_all_the_same():
    layer = FavorAttention(4, 2, num_features=3, scale=0.5)
    q, k, v, dout = numbers(4, 7, 4)
    q, k = 60 * q, 60 * k
    seen = np.tri(7, dtype=bool)
    log_scale = layer.parameters()["log_scale"].copy()
    assert (plain(q, k, v, layer.projections, log_scale, seen) == 0).any()  # the formula as it is written has 0/0 here
    expected = in_logarithms(q, k, v, layer.projections, log_scale, seen)
    np.testing.assert_allclose(layer(q, k, v, causal=True), expected, rtol=0, atol=1e-9)
    *found, params = layer.backward(dout)
    by_slopes = slopes(lambda *x: in_logarithms(*x[:3], layer.projections, x[3], seen), [q, k, v, log_scale], dout)
    for gradient, slope in zip([*found, params["log_scale"]], by_slopes, strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1e-30, 1e3, 1e10, 3e38])
def test_weights_sum_to_1_whatever_the_size(dtype, causal, size):
    layer = FavorAttention(8, 2, num_features=16)
    q, k = np.clip(numbers(2, 130, 8), -1, 1).astype(dtype) * dtype(size)
    ones = np.ones((130, 8), dtype)
    np.testing.assert_allclose(layer(q, k, ones, causal=causal), ones, rtol=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in layer.backward(ones)[:3])


@pytest.mark.parametrize(("options", "sees"), CALLS.values(), ids=CALLS)
def test_the_lse_is_the_logarithm_of_the_denominator(options, sees, short_chunks):
    layer = FavorAttention(HEADS * WIDTH, HEADS, num_features=20, seed=5)
    q, k, v = call_inputs()
    _, lse = layer(q, k, v, return_lse=True, **options)
    root = np.exp(layer.parameters()["log_scale"] / 2)[:, None, None]
    scaled = [root * split(x, HEADS) for x in (q, k)]
    of_queries, of_keys = (
        np.exp(x @ layer.projections.swapaxes(-1, -2) - np.square(x).sum(-1, keepdims=True) / 2) / math.sqrt(20) for x in scaled
    )
    with np.errstate(divide="ignore"):
        expected = np.log((of_queries @ of_keys.swapaxes(-1, -2) * seen_pairs(sees)).sum(-1))
    np.testing.assert_allclose(lse, expected, rtol=0, atol=1e-11)


def test_results_over_parts_of_the_keys_are_merged_by_their_lse():
    layer = FavorAttention(8, 2, num_features=32)
    q, k, v = numbers(3, 40, 8)
    parts = [layer(q, k[part], v[part], return_lse=True) for part in (slice(0, 13), slice(13, 40))]
    merged, _ = ruvattn.merge_states([split(out, 2) for out, _ in parts], [lse for _, lse in parts])
    np.testing.assert_allclose(merged, split(layer(q, k, v), 2), rtol=0, atol=1e-12)


def test_no_row_sees_what_comes_after_it():
    layer = FavorAttention(8, 2, num_features=32)
    q, k, v = numbers(3, 200, 8)
    before = layer(q, k, v, causal=True)
    k[150:], v[150:] = 40.0, 1e6
    np.testing.assert_allclose(layer(q, k, v, causal=True)[:150], before[:150], rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"causal": True}], ids=["all", "causal"])
def test_the_error_falls_as_one_over_the_root_of_the_features(options):
    q, k, v = numbers(3, 32, 16)
    q, k = q / 2, k / 2  # the variance of a pair's kernel is about exp(s‖q+k‖²)/M of its square: it takes that many features to begin
    exact = ruvattn.create("standard", embed_dim=16, num_heads=2)(q, k, v, **options)
    counts = np.array([16, 64, 256, 1024])
    errors = []
    for count in counts:
        layers = (FavorAttention(16, 2, num_features=int(count), seed=seed) for seed in range(10))
        errors.append(math.sqrt(np.mean([np.mean((layer(q, k, v, **options) - exact) ** 2) for layer in layers])))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4, (slope, errors)
    assert errors[-1] < 0.02


def test_features_estimate_the_kernel_without_bias_and_better_where_they_are_orthogonal():
    x, y = numbers(2, 8) / 3
    exact = math.exp(x @ y)
    estimates = {}
    for orthogonal in (True, False):
        w = FavorAttention(8 * 4000, 4000, num_features=8, orthogonal=orthogonal).projections  # a head is a draw
        estimates[orthogonal] = np.exp(w @ (x + y) - (x @ x + y @ y) / 2).mean(-1)
    for values in estimates.values():
        assert abs(values.mean() - exact) < 5 * values.std() / math.sqrt(len(values))
    assert estimates[True].var() < 0.8 * estimates[False].var()


def test_projections_are_orthogonal_in_blocks_and_as_long_as_gaussian_ones():
    w = orthogonal_projections(14, 6, np.random.default_rng(0))
    assert w.shape == (14, 6)
    for block in (w[:6], w[6:12], w[12:]):
        products = block @ block.T
        np.testing.assert_allclose(products, np.diag(np.diag(products)), rtol=0, atol=1e-12)
    many = orthogonal_projections(30000, 6, np.random.default_rng(1))
    squares = np.square(many).sum(-1)  # chi-squared: mean 6, variance 12
    assert abs(squares.mean() - 6) < 0.1
    assert abs(squares.var() - 12) < 0.6
    np.testing.assert_allclose(many.T @ many / len(many), np.eye(6), rtol=0, atol=0.05)


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_and_features_of_all_positions_are_not_kept(causal):
    layer = FavorAttention(16, 1, num_features=1024)

    def peak(length):
        x = numbers(length, 16).astype(np.float32)
        tracemalloc.start()
        try:
            layer.backward(layer(x, causal=causal))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            layer.reset()

    growth = (peak(2000) - peak(1000)) / 1000  # bytes for each position
    assert growth < 1024 * 4 / 2  # its features would take 1024 float32, and its pairs 1500


def test_a_layer_is_made_again_from_its_configuration():
    x = numbers(20, 8)
    layer = ruvattn.create("favor", embed_dim=8, num_heads=2, seed=11)
    np.testing.assert_array_equal(layer.config.create()(x), layer(x))
    assert not np.array_equal(ruvattn.create("favor", embed_dim=8, num_heads=2)(x), layer(x))
    assert not layer.projections.flags.writeable


def test_projections_can_be_drawn_anew():
    x, dout = numbers(2, 20, 8)
    layer = FavorAttention(8, 2, seed=3)
    before, context = layer.forward_with_context(x)
    gradient = layer.backward(dout, context).total()
    layer.redraw()
    assert layer.config.options["seed"] == 4
    assert not np.array_equal(layer(x), before)
    np.testing.assert_array_equal(layer.config.create()(x), layer(x))
    np.testing.assert_array_equal(layer.backward(dout, context).total(), gradient)  # by the features that the call had
    layer.redraw(3)
    np.testing.assert_array_equal(layer(x), before)
    with pytest.raises(InvalidInputError, match="seed must be an int from 0"):
        layer.redraw(-1)


def test_it_learns_a_scale_and_keeps_it_in_a_checkpoint(tmp_path):
    q, k, v = numbers(3, 40, 8)
    q, k = q / 2, k / 2
    goal = ruvattn.create("standard", embed_dim=8, num_heads=2)(q, k, v, scale=np.array([0.2, 0.6]))
    layer, optimizer = FavorAttention(8, 2, num_features=2048, scale=0.35), Adam(0.05)
    for _ in range(40):
        layer.backward(layer(q, k, v) - goal)
        layer.update_parameters(optimizer)
        layer.redraw()
    np.testing.assert_allclose(np.exp(layer.parameters()["log_scale"]), [0.2, 0.6], rtol=0.25)
    pytest.importorskip("safetensors")
    layer.save_checkpoint(tmp_path / "favor.safetensors")
    again = ruvattn.AttentionConfig.from_json(layer.config.to_json()).create()
    again.load_checkpoint(tmp_path / "favor.safetensors")
    np.testing.assert_array_equal(again(q), layer(q))


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"seed": 8}, "seed 7, and this one has 8"), ({"num_features": 17}, "num_features 16, and"), ({"orthogonal": False}, "orthogonal True, and")],
)
def test_a_checkpoint_of_other_projections_is_refused(tmp_path, changed, says):
    pytest.importorskip("safetensors")
    options = {"num_features": 16, "seed": 7}
    FavorAttention(8, **options).save_checkpoint(tmp_path / "favor.safetensors")
    layer = FavorAttention(8, **{**options, **changed})
    before = layer.parameters()["log_scale"].copy()
    with pytest.raises(CheckpointError, match=f"is of a variant with {says}"):
        layer.load_checkpoint(tmp_path / "favor.safetensors")
    np.testing.assert_array_equal(layer.parameters()["log_scale"], before)


def test_a_checkpoint_brings_its_scale_wherever_that_began(tmp_path):
    pytest.importorskip("safetensors")
    layer, other = FavorAttention(8, scale=0.25, max_keys=50), FavorAttention(8, scale=2.0)
    layer.save_checkpoint(tmp_path / "favor.safetensors")
    other.load_checkpoint(tmp_path / "favor.safetensors")
    np.testing.assert_array_equal(other(numbers(5, 8)), layer(numbers(5, 8)))


def test_a_step_to_a_scale_that_no_features_fit_is_taken_back():
    layer = FavorAttention(8)
    with pytest.raises(InvalidInputError, match="log_scale must be from −30 to 30"):
        layer.check_parameters({"log_scale": np.array([31.0])})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask": np.ones((9, 9), bool)}, r"'mask' of shape \(9, 9\): .* a mask of keys, the same for all queries"),
        ({"mask": ruvattn.Window(2, 2)}, "'mask' that is a Window: .* no single pairs"),
        ({"window": (2, 2)}, "'window': .* there is causal=True"),
        ({"bias": np.zeros((1, 9))}, "'bias': .* no single pairs"),
        ({"dropout": 0.1}, "'dropout': .* no single pairs"),
        ({"seed": 1}, "'seed': it has no dropout"),
        ({"softcap": 5.0}, "'softcap': features are those of exp"),
        ({"sinks": np.zeros(2)}, "'sinks': its rows are sums over keys"),
        ({"scale": 0.5}, "'scale': it is an option of the variant"),
    ],
)
def test_what_it_cannot_do_is_refused(options, says):
    with pytest.raises(UnsupportedError, match=f"variant 'favor' has no {says}"):
        FavorAttention(8, 2)(np.ones((9, 8)), **options)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"mask": np.ones(9)}, InvalidInputError, "mask must be boolean"),
        ({"mask": np.ones(8, bool)}, DimensionMismatchError, "mask must broadcast to"),
        ({"key_lengths": 10}, InvalidInputError, "key_lengths must be at most the number of keys, 9, got 10"),
        ({"key_lengths": 2.0}, InvalidInputError, "key_lengths must be an int"),
        ({"key_lengths": np.array([1, 2])}, DimensionMismatchError, r"key_lengths must be .* \(3,\), got shape \(2,\)"),
        ({"query_offset": "last"}, InvalidInputError, "query_offset must be an int, an int for each batch entry, or 'end'"),
        ({"query_offset": 0.5}, InvalidInputError, "query_offset must be an int"),
        ({"causal": 1}, InvalidInputError, "causal must be True or False"),
        ({"threads": 0}, InvalidInputError, "threads must be an int"),
        ({"flash": True}, InvalidInputError, "has no option 'flash'"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        FavorAttention(8, 2)(np.ones((3, 9, 8)), **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"num_features": value} for value in (0, -1, 65537, 1.5, "many", True, None)),
        *({"orthogonal": value} for value in (1, None, "yes")),
        *({"scale": value} for value in (0, -1.0, math.nan, math.inf, "1", True, 1j, [0.5, 0.5])),
        *({"seed": value} for value in (-1, 2**64, 0.5, None, True)),
        *({"max_keys": value} for value in (0, 1.5, True)),
    ],
    ids=repr,
)
def test_an_option_that_makes_no_sense_is_refused(options):
    (name,) = options
    with pytest.raises(InvalidInputError, match=f"{name} must be "):
        ruvattn.create("favor", embed_dim=8, **options)


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(InvalidInputError, match="num_heads must divide embed_dim, which is 8, got 3"):
        FavorAttention(8, 3)
    with pytest.raises(InvalidInputError, match="width must be an int from 1"):
        orthogonal_projections(4, 0, np.random.default_rng(0))
    with pytest.raises(InputTooLargeError):
        FavorAttention(8, max_keys=4)(np.ones((5, 8)))
