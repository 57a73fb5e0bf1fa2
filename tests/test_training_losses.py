"""Losses: values against formulas written out, gradients of every input against finite differences, extremes, and bad input."""

import math

import ml_dtypes
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from ruvattn.errors import DimensionMismatchError, InvalidInputError, UnsupportedError
from ruvattn.training import cross_entropy_loss, info_nce_loss, kl_loss, mse_loss, triplet_loss

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape)


LOGITS, PROBABILITIES, CLASSES = normal(6, 4), softmax(normal(6, 4), axis=-1), np.array([0, 3, 1, 1, 2, 3])
WEIGHT = np.array([0.5, 2.0, 0.0, 1.5])
Q, P, N, OWN_N = normal(5, 3), normal(5, 3), normal(4, 3), normal(5, 2, 3)

# Each with its loss as a function of the inputs that have gradients, by the names of these.
CASES = {
    "mse": (mse_loss, {"predictions": normal(3, 4), "targets": normal(3, 4)}, {}),
    "cross-entropy, indices": (cross_entropy_loss, {"logits": LOGITS}, {"targets": CLASSES}),
    "cross-entropy, weights": (cross_entropy_loss, {"logits": LOGITS, "weight": WEIGHT}, {"targets": CLASSES}),
    "cross-entropy, all options": (
        cross_entropy_loss,
        {"logits": LOGITS, "weight": WEIGHT},
        {"targets": CLASSES, "label_smoothing": 0.3, "ignore_index": 1},
    ),
    "cross-entropy, probabilities": (cross_entropy_loss, {"logits": LOGITS, "targets": PROBABILITIES}, {}),
    "cross-entropy, probabilities, all options": (
        cross_entropy_loss,
        {"logits": LOGITS, "targets": PROBABILITIES, "weight": WEIGHT},
        {"label_smoothing": 0.2},
    ),
    "cross-entropy, more axes": (cross_entropy_loss, {"logits": LOGITS.reshape(2, 3, 4)}, {"targets": CLASSES.reshape(2, 3)}),
    "kl": (kl_loss, {"log_inputs": log_softmax(LOGITS, axis=-1), "targets": PROBABILITIES}, {}),
    "kl, log targets": (kl_loss, {"log_inputs": log_softmax(LOGITS, axis=-1), "targets": np.log(PROBABILITIES)}, {"log_targets": True}),
    "InfoNCE": (info_nce_loss, {"queries": Q, "positives": P, "temperature": np.array(0.3)}, {}),
    "InfoNCE, symmetric": (info_nce_loss, {"queries": Q, "positives": P, "temperature": np.array([0.3])}, {"symmetric": True}),
    "InfoNCE, dot products": (info_nce_loss, {"queries": Q, "positives": P, "temperature": np.array(0.7)}, {"normalize": False}),
    "InfoNCE, negatives": (info_nce_loss, {"queries": Q, "positives": P, "negatives": N, "temperature": np.array(0.3)}, {}),
    "InfoNCE, own negatives": (info_nce_loss, {"queries": Q, "positives": P, "negatives": OWN_N, "temperature": np.array(0.3)}, {}),
    "triplet": (triplet_loss, {"anchors": Q, "positives": P, "negatives": Q + 0.1 * P}, {}),
    "triplet, p=3": (triplet_loss, {"anchors": Q, "positives": P, "negatives": Q + 0.1 * P}, {"p": 3.0, "margin": 0.5}),
    "triplet, p=1": (triplet_loss, {"anchors": Q, "positives": P, "negatives": Q + 0.1 * P}, {"p": 1}),
    "triplet, cosine": (triplet_loss, {"anchors": Q, "positives": P, "negatives": Q + 0.1 * P}, {"distance": "cosine"}),
}
every_case = pytest.mark.parametrize(("loss", "inputs", "options"), CASES.values(), ids=CASES)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])


@every_case
@reductions
def test_gradients_of_every_input_are_those_of_finite_differences(loss, inputs, options, reduction):
    def value(changed):
        return loss(**changed, **options, reduction=reduction)[0]

    gradients = loss(**inputs, **options, reduction=reduction)[1]._asdict()
    assert {name for name, gradient in gradients.items() if gradient is not None} == set(inputs)
    for name, array in inputs.items():
        expected, step = np.empty(array.shape), 1e-5
        for at in np.ndindex(array.shape):
            shifted = [array.copy(), array.copy()]
            shifted[0][at] += step
            shifted[1][at] -= step
            if name == "weight" and array[at] == 0:  # which may not be negative
                shifted[1][at] = 0
            above, below = (value({**inputs, name: one}) for one in shifted)
            expected[at] = (above - below) / (shifted[0][at] - shifted[1][at])
        tolerance = 1e-3 if name == "weight" and (array == 0).any() else 1e-7
        np.testing.assert_allclose(gradients[name], expected, rtol=tolerance, atol=tolerance * np.abs(expected).max(), err_msg=name)


@every_case
def test_the_sum_is_a_multiple_of_the_mean(loss, inputs, options):
    mean, of_mean = loss(**inputs, **options)
    total, of_sum = loss(**inputs, **options, reduction="sum")
    factor = total / mean
    assert factor > 1
    for name in inputs:
        if name != "weight":  # which the mean is divided by
            np.testing.assert_allclose(getattr(of_sum, name), factor * getattr(of_mean, name), rtol=1e-12, atol=1e-13)


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["float32", "float16", "bfloat16"])
def test_gradients_have_the_dtypes_and_shapes_of_their_inputs(loss, inputs, options, dtype):
    narrow = {name: array.astype(dtype) for name, array in inputs.items()}
    value, gradients = loss(**narrow, **options)
    wide = loss(**{name: array.astype(np.float64) for name, array in narrow.items()}, **options)
    assert type(value) is float
    assert value == wide[0]
    for name, array in narrow.items():
        found = getattr(gradients, name)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, getattr(wide[1], name).astype(dtype))


@every_case
def test_inputs_are_not_written_to(loss, inputs, options):
    before = {name: array.copy() for name, array in inputs.items()}
    loss(**inputs, **options)
    for name, array in before.items():
        np.testing.assert_array_equal(inputs[name], array)


@every_case
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_named(loss, inputs, options, value):
    for name in inputs:
        changed = {key: array.copy() for key, array in inputs.items()}
        changed[name].reshape(-1)[0] = value
        with pytest.raises(InvalidInputError, match=name):
            loss(**changed, **options)


@every_case
def test_an_unknown_reduction_is_an_error(loss, inputs, options):
    with pytest.raises(InvalidInputError, match="reduction must be 'mean' or 'sum', got 'none'"):
        loss(**inputs, **options, reduction="none")


@every_case
def test_empty_and_foreign_arrays_are_named(loss, inputs, options):
    name = next(iter(inputs))
    with pytest.raises((InvalidInputError, DimensionMismatchError), match=name):
        loss(**{**inputs, name: inputs[name][:0]}, **options)
    with pytest.raises(UnsupportedError, match=f"{name} has dtype complex128"):
        loss(**{**inputs, name: inputs[name].astype(complex)}, **options)
    with pytest.raises((InvalidInputError, UnsupportedError), match=name):
        loss(**{**inputs, name: None}, **options)


# --- values -----------------------------------------------------------------------------------------------------------------------


def test_the_squared_error_is_what_it_says():
    assert mse_loss([1.0, 2.0, 3.0], [1.0, 0.0, 0.0])[0] == pytest.approx(13 / 3)


def test_cross_entropy_is_minus_the_logarithm_of_the_probability():
    expected = -log_softmax(LOGITS, axis=-1)[np.arange(6), CLASSES]
    assert cross_entropy_loss(LOGITS, CLASSES)[0] == pytest.approx(expected.mean())
    assert cross_entropy_loss(LOGITS, CLASSES, reduction="sum")[0] == pytest.approx(expected.sum())


def test_indices_and_certain_probabilities_are_the_same():
    one, of_one = cross_entropy_loss(LOGITS, CLASSES, label_smoothing=0.1)
    other, of_other = cross_entropy_loss(LOGITS, np.eye(4)[CLASSES], label_smoothing=0.1)
    assert one == pytest.approx(other, rel=1e-14)
    np.testing.assert_allclose(of_one.logits, of_other.logits, rtol=1e-13)


def test_ignored_rows_count_for_nothing():
    targets = CLASSES.copy()
    targets[[1, 4]] = -100
    some, gradients = cross_entropy_loss(LOGITS, targets, ignore_index=-100)
    kept = [0, 2, 3, 5]
    assert some == pytest.approx(cross_entropy_loss(LOGITS[kept], CLASSES[kept])[0])
    assert not gradients.logits[[1, 4]].any()


@pytest.mark.parametrize("weight", [None, np.zeros(4)], ids=["all ignored", "no weight"])
def test_where_no_row_counts_the_loss_is_0(weight):
    value, gradients = cross_entropy_loss(LOGITS, np.full(6, -1), ignore_index=-1, weight=weight)
    assert value == 0
    assert not gradients.logits.any()


def test_classes_that_are_out_of_the_question_may_have_logits_of_minus_infinity():
    logits = LOGITS.copy()
    logits[:, 0] = -np.inf
    value, gradients = cross_entropy_loss(logits[:, :], np.full(6, 2))
    assert value == pytest.approx(cross_entropy_loss(logits[:, 1:], np.full(6, 1))[0])
    assert not gradients.logits[:, 0].any()


def test_the_divergence_is_what_it_says_and_0_for_equals():
    log_p = log_softmax(LOGITS, axis=-1)
    expected = (PROBABILITIES * (np.log(PROBABILITIES) - log_p)).sum(axis=-1)
    assert kl_loss(log_p, PROBABILITIES)[0] == pytest.approx(expected.mean())
    assert kl_loss(log_p, np.exp(log_p))[0] == pytest.approx(0, abs=1e-15)


def test_targets_of_0_have_no_part_in_the_divergence():
    value, gradients = kl_loss(np.array([[-np.inf, 0.0]]), np.array([[0.0, 1.0]]))
    assert value == 0
    assert np.isfinite(gradients.log_inputs).all()
    assert np.isfinite(gradients.targets).all()


def test_info_nce_is_the_cross_entropy_of_similarities():
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (Q, P, N)]
    in_batch = unit[0] @ unit[1].T / 0.1
    assert info_nce_loss(Q, P, temperature=0.1)[0] == pytest.approx(cross_entropy_loss(in_batch, np.arange(5))[0])
    near = (unit[0] * unit[1]).sum(axis=-1, keepdims=True)
    given = np.concatenate([near, unit[0] @ unit[2].T], axis=1) / 0.1
    assert info_nce_loss(Q, P, N, temperature=0.1)[0] == pytest.approx(cross_entropy_loss(given, np.zeros(5, int))[0])
    both = (info_nce_loss(Q, P)[0] + info_nce_loss(P, Q)[0]) / 2
    assert info_nce_loss(Q, P, symmetric=True)[0] == pytest.approx(both)


def test_negatives_of_each_query_may_be_the_same():
    shared, of_shared = info_nce_loss(Q, P, N)
    repeated, of_repeated = info_nce_loss(Q, P, np.broadcast_to(N, (5, 4, 3)))
    assert repeated == pytest.approx(shared, rel=1e-14)
    np.testing.assert_allclose(of_repeated.negatives.sum(axis=0), of_shared.negatives, rtol=1e-12, atol=1e-15)


def test_info_nce_has_the_same_bits_on_any_number_of_threads():
    import ruvattn

    q, p = (np.random.default_rng(seed).standard_normal((200, 48)) for seed in (1, 2))
    before = ruvattn.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            ruvattn.set_num_threads(threads)
            value, gradients = info_nce_loss(q, p)
            found.append((value, gradients.queries.tobytes(), gradients.positives.tobytes()))
    finally:
        ruvattn.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_a_triplet_that_is_far_enough_apart_has_no_loss_and_no_gradient():
    value, gradients = triplet_loss([[0.0, 0.0]], [[0.0, 1.0]], [[5.0, 0.0]], margin=1.0)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


def test_the_triplet_loss_is_what_it_says():
    assert triplet_loss([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0]], margin=0.5)[0] == pytest.approx(5 - 1 + 0.5)
    assert triplet_loss([[0.0, 0.0]], [[3.0, 4.0]], [[1.0, 0.0]], margin=0.5, p=1)[0] == pytest.approx(7 - 1 + 0.5)
    assert triplet_loss([[1.0, 0.0]], [[0.0, 4.0]], [[1.0, 0.0]], margin=0.5, distance="cosine")[0] == pytest.approx(1 - 0 + 0.5)


# --- extremes ---------------------------------------------------------------------------------------------------------------------

EXTREMES = [0.0, 1.0, -1.0, 1e-300, 5e-324, 1e150, -1e150, 1.7e308, -1.7e308]
FLOAT32 = [0.0, 1e-45, 1e-30, -1e20, 3.4e38, -3.4e38, 1.0, -1.0, 1e-10]


def assert_all_finite(found):
    value, gradients = found
    assert math.isfinite(value)
    for name, gradient in gradients._asdict().items():
        if gradient is not None:
            assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize(("numbers", "dtype"), [(EXTREMES, np.float64), (FLOAT32, np.float32)], ids=["float64", "float32"])
@pytest.mark.parametrize("seed", range(8))
def test_finite_input_gives_finite_losses_and_gradients(numbers, dtype, seed):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.choice(np.array(numbers, dtype), shape)

    classes = rng.integers(0, 5, 6)
    assert_all_finite(mse_loss(draw(6, 5), draw(6, 5)))
    assert_all_finite(cross_entropy_loss(draw(6, 5), classes, label_smoothing=0.1))
    assert_all_finite(cross_entropy_loss(draw(6, 5), np.eye(5, dtype=dtype)[classes], weight=np.array([0, 1, 2, 3, 1e-300])))
    assert_all_finite(kl_loss(draw(6, 5), np.eye(5, dtype=dtype)[classes]))
    assert_all_finite(kl_loss(draw(6, 5), np.minimum(draw(6, 5), 0), log_targets=True))
    for negatives in (None, draw(4, 5), draw(6, 2, 5)):
        assert_all_finite(info_nce_loss(draw(6, 5), draw(6, 5), negatives, temperature=1e-3))
    for options in ({}, {"p": 1}, {"p": 7.5}, {"distance": "cosine"}):
        assert_all_finite(triplet_loss(draw(6, 5), draw(6, 5), draw(6, 5), **options))


def test_equal_vectors_and_zeros_have_no_gradient_of_their_distance():
    x = np.zeros((2, 3))
    for options in ({}, {"p": 1}, {"p": 3}, {"distance": "cosine"}):
        value, gradients = triplet_loss(x, x, x, **options)
        assert value == 1
        assert not any(gradient.any() for gradient in gradients)


# --- bad input --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mse_loss(np.zeros((2, 3)), np.zeros(3)), DimensionMismatchError, r"targets must have the shape of predictions, \(2, 3\)"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES[:5]), DimensionMismatchError, r"targets must have shape \(6,\) for indices"),
        (lambda: cross_entropy_loss(LOGITS, PROBABILITIES[:, :3]), DimensionMismatchError, "targets must have the shape of logits"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES + 1), InvalidInputError, "indices from 0 to 3, got 4 in row 1"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES - 1), InvalidInputError, "indices from 0 to 3, got -1 in row 0"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES > 1), UnsupportedError, "targets has dtype bool"),
        (lambda: cross_entropy_loss(LOGITS, PROBABILITIES, ignore_index=0), InvalidInputError, "ignore_index"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES, ignore_index=0.5), InvalidInputError, "ignore_index"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES, label_smoothing=1.0), InvalidInputError, "label_smoothing"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES, weight=np.ones(3)), DimensionMismatchError, "weight must have shape"),
        (lambda: cross_entropy_loss(LOGITS, CLASSES, weight=-np.ones(4)), InvalidInputError, "weight must be at least 0"),
        (lambda: cross_entropy_loss(np.full((2, 3), -np.inf), [0, 1]), InvalidInputError, "row 0 are all"),
        (lambda: cross_entropy_loss(np.array(1.0), np.array(0)), DimensionMismatchError, "axis of classes"),
        (lambda: kl_loss(LOGITS, -PROBABILITIES), InvalidInputError, "targets must be at least 0"),
        (lambda: kl_loss(LOGITS, PROBABILITIES[:5]), DimensionMismatchError, "targets must have the shape of log_inputs"),
        (lambda: kl_loss(np.array(1.0), np.array(1.0)), DimensionMismatchError, "axis of classes"),
        (lambda: info_nce_loss(Q, P[:4]), DimensionMismatchError, "positives must have the shape of queries"),
        (lambda: info_nce_loss(Q[0], P[0]), DimensionMismatchError, r"queries must have shape \(N, D\)"),
        (lambda: info_nce_loss(Q, P, N[:, :2]), DimensionMismatchError, r"negatives must have shape \(M, 3\)"),
        (lambda: info_nce_loss(Q, P, OWN_N[:4]), DimensionMismatchError, "negatives must have shape"),
        (lambda: info_nce_loss(Q, P, temperature=0), InvalidInputError, "temperature"),
        (lambda: info_nce_loss(Q, P, temperature=-1.0), InvalidInputError, "temperature"),
        (lambda: info_nce_loss(Q, P, temperature=[0.1, 0.2]), InvalidInputError, "temperature"),
        (lambda: info_nce_loss(Q, P, temperature="warm"), InvalidInputError, "temperature"),
        (lambda: info_nce_loss(Q, P, temperature=True), InvalidInputError, "temperature"),
        (lambda: info_nce_loss(Q * 1e200, P * 1e200, normalize=False), InvalidInputError, "normalize=True"),
        (lambda: info_nce_loss(Q, P, N, symmetric=True), InvalidInputError, "symmetric"),
        (lambda: triplet_loss(Q, P, N), DimensionMismatchError, "negatives must have the shape of anchors"),
        (lambda: triplet_loss(Q, P, Q, margin=-1), InvalidInputError, "margin"),
        (lambda: triplet_loss(Q, P, Q, p=0.5), InvalidInputError, "p must be at least 1"),
        (lambda: triplet_loss(Q, P, Q, p=math.inf), InvalidInputError, "p must be a finite number"),
        (lambda: triplet_loss(Q, P, Q, distance="manhattan"), InvalidInputError, "distance"),
        (lambda: triplet_loss(Q, P, Q, distance="cosine", p=1), InvalidInputError, "p is for distance='euclidean'"),
        (lambda: triplet_loss(1.0, 1.0, 1.0), DimensionMismatchError, "axis of coordinates"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_indices_may_be_a_list_and_of_any_integer_dtype():
    expected = cross_entropy_loss(LOGITS, CLASSES)[0]
    assert cross_entropy_loss(LOGITS.tolist(), CLASSES.tolist())[0] == expected
    assert cross_entropy_loss(LOGITS, CLASSES.astype(np.uint8))[0] == expected


def test_numbers_may_be_lists_of_ints():
    assert mse_loss([1, 2], [3, 2])[0] == 2
