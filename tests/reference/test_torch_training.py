"""Agreement of optimisers, schedules and losses with PyTorch, step by step in float64, to 1e-12."""

from __future__ import annotations

import numpy as np
import pytest

from ruvattn import training

torch = pytest.importorskip("torch")
F = torch.nn.functional

OPTIMIZERS = {
    "SGD": (lambda: training.SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "SGD, momentum": (
        lambda: training.SGD(0.05, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
    ),
    "SGD, Nesterov": (
        lambda: training.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "Adam": (
        lambda: training.Adam(0.05, betas=(0.8, 0.95), weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.8, 0.95), weight_decay=0.1),
    ),
    "Adam, AMSGrad": (lambda: training.Adam(0.05, amsgrad=True), lambda p: torch.optim.Adam(p, 0.05, amsgrad=True)),
    "AdamW": (lambda: training.AdamW(0.05, weight_decay=0.2), lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.2)),
    "AdamW, AMSGrad": (lambda: training.AdamW(0.05, amsgrad=True), lambda p: torch.optim.AdamW(p, 0.05, amsgrad=True)),
    "RMSprop": (lambda: training.RMSprop(0.05, weight_decay=0.1), lambda p: torch.optim.RMSprop(p, 0.05, weight_decay=0.1)),
    "RMSprop, centred, momentum": (
        lambda: training.RMSprop(0.05, alpha=0.9, centered=True, momentum=0.8),
        lambda p: torch.optim.RMSprop(p, 0.05, alpha=0.9, centered=True, momentum=0.8),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers_take_the_same_steps(ours, theirs):
    rng = np.random.default_rng(0)
    parameters = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal(5)}
    tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in parameters.values()]
    mine, other = ours(), theirs(tensors)
    for _ in range(30):
        gradients = {name: rng.standard_normal(p.shape) for name, p in parameters.items()}
        mine.step(parameters, gradients)
        for tensor, gradient in zip(tensors, gradients.values(), strict=True):
            tensor.grad = torch.from_numpy(gradient)
        other.step()
        for p, tensor in zip(parameters.values(), tensors, strict=True):
            np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12, atol=1e-12)


def rates_of_torch(make, count):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "make", "count"),
    [
        (training.OneCycle(1.0, 40), lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=40), 39),
        (
            training.OneCycle(1.0, 40, warmup_share=0.5, initial_divisor=10, final_divisor=100),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=40, pct_start=0.5, div_factor=10, final_div_factor=100),
            39,
        ),
        (training.StepDecay(1.0, 7, 0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5), 40),
        (training.WarmupCosine(1.0, 0, 40, 0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, 0.1), 40),
    ],
    ids=["one cycle", "one cycle, options", "steps", "cosine"],
)
def test_schedules_have_the_same_rates(schedule, make, count):
    np.testing.assert_allclose([schedule(step) for step in range(count)], rates_of_torch(make, count), rtol=1e-12)


def assert_same_loss(found, theirs, inputs):
    """Compare value and gradients; `theirs` takes tensors by the names of the inputs."""
    value, gradients = found
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in inputs.items()}
    expected = theirs(**tensors)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-12)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(getattr(gradients, name), tensor.grad.numpy(), rtol=1e-11, atol=1e-13, err_msg=name)


RNG = np.random.default_rng(1)
LOGITS, CLASSES = RNG.standard_normal((8, 5)), np.array([0, 1, 4, 4, 2, 3, 1, 0])
WEIGHT = RNG.uniform(0.1, 2, 5)
PROBABILITIES = np.exp(LOGITS[::-1]) / np.exp(LOGITS[::-1]).sum(axis=-1, keepdims=True)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum"])


@reductions
def test_squared_errors_agree(reduction):
    inputs = {"predictions": LOGITS, "targets": PROBABILITIES}
    found = training.mse_loss(**inputs, reduction=reduction)
    assert_same_loss(found, lambda predictions, targets: F.mse_loss(predictions, targets, reduction=reduction), inputs)


@reductions
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored", [None, 4])
def test_cross_entropies_of_indices_agree(reduction, weight, smoothing, ignored):
    options = {"label_smoothing": smoothing, "reduction": reduction}
    found = training.cross_entropy_loss(LOGITS, CLASSES, weight=weight, ignore_index=ignored, **options)
    w = None if weight is None else torch.from_numpy(weight)
    index = -100 if ignored is None else ignored
    assert_same_loss(
        found, lambda logits: F.cross_entropy(logits, torch.from_numpy(CLASSES), weight=w, ignore_index=index, **options), {"logits": LOGITS}
    )


@reductions
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropies_of_probabilities_agree(reduction, weight, smoothing):
    options = {"label_smoothing": smoothing, "reduction": reduction}
    inputs = {"logits": LOGITS, "targets": PROBABILITIES}
    w = None if weight is None else torch.from_numpy(weight)
    found = training.cross_entropy_loss(**inputs, weight=weight, **options)
    assert_same_loss(found, lambda logits, targets: F.cross_entropy(logits, targets, weight=w, **options), inputs)


@reductions
@pytest.mark.parametrize("log_targets", [False, True])
def test_divergences_agree(reduction, log_targets):
    log_p = np.log(PROBABILITIES)[::-1].copy()
    inputs = {"log_inputs": log_p, "targets": np.log(PROBABILITIES) if log_targets else PROBABILITIES}
    found = training.kl_loss(**inputs, log_targets=log_targets, reduction=reduction)
    theirs = {"mean": "batchmean", "sum": "sum"}[reduction]
    assert_same_loss(found, lambda log_inputs, targets: F.kl_div(log_inputs, targets, reduction=theirs, log_target=log_targets), inputs)


@reductions
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_triplet_losses_agree(reduction, p):
    inputs = {"anchors": LOGITS, "positives": LOGITS[::-1].copy(), "negatives": LOGITS + 0.2 * PROBABILITIES}
    found = training.triplet_loss(**inputs, p=p, margin=0.7, reduction=reduction)

    def theirs(anchors, positives, negatives):
        return F.triplet_margin_loss(anchors, positives, negatives, margin=0.7, p=p, eps=0.0, reduction=reduction)

    assert_same_loss(found, theirs, inputs)


@reductions
def test_triplet_losses_of_cosines_agree(reduction):
    inputs = {"anchors": LOGITS, "positives": LOGITS[::-1].copy(), "negatives": LOGITS + 0.2 * PROBABILITIES}
    found = training.triplet_loss(**inputs, distance="cosine", margin=0.7, reduction=reduction)

    def theirs(anchors, positives, negatives):
        def distance(x, y):
            return 1 - F.cosine_similarity(x, y)

        return F.triplet_margin_with_distance_loss(
            anchors, positives, negatives, distance_function=distance, margin=0.7, reduction=reduction
        )

    assert_same_loss(found, theirs, inputs)


@reductions
@pytest.mark.parametrize("form", ["batch", "symmetric", "shared", "own"])
def test_info_nce_is_cross_entropy_of_cosines(reduction, form):
    inputs = {"queries": LOGITS, "positives": LOGITS[::-1] + PROBABILITIES, "temperature": np.array(0.2)}
    if form in ("shared", "own"):
        inputs["negatives"] = RNG.standard_normal((6, 5) if form == "shared" else (8, 3, 5))
    found = training.info_nce_loss(**inputs, symmetric=form == "symmetric", reduction=reduction)

    def theirs(queries, positives, temperature, negatives=None):
        q, p = F.normalize(queries, dim=-1), F.normalize(positives, dim=-1)
        if negatives is None:
            logits, labels = q @ p.T / temperature, torch.arange(8)
            loss = F.cross_entropy(logits, labels, reduction=reduction)
            return (loss + F.cross_entropy(logits.T, labels, reduction=reduction)) / 2 if form == "symmetric" else loss
        n = F.normalize(negatives, dim=-1)
        far = q @ n.T if n.ndim == 2 else torch.einsum("nd,nmd->nm", q, n)
        logits = torch.cat([(q * p).sum(-1, keepdim=True), far], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(8, dtype=torch.long), reduction=reduction)

    assert_same_loss(found, theirs, inputs)


def test_gradients_are_clipped_to_the_same_norm():
    gradients = {"a": RNG.standard_normal((4, 4)), "b": RNG.standard_normal(3)}
    tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients.values()]
    for tensor, g in zip(tensors, gradients.values(), strict=True):
        tensor.grad = torch.from_numpy(g.copy())
    expected = torch.nn.utils.clip_grad_norm_(tensors, 0.5)
    assert training.clip_gradients(gradients, 0.5) == pytest.approx(float(expected), rel=1e-13)
    for tensor, g in zip(tensors, gradients.values(), strict=True):  # torch divides by the norm plus 1e-6
        np.testing.assert_allclose(g, tensor.grad.numpy(), rtol=1e-6)
