"""Agreement with PyTorch: scaled_dot_product_attention, nn.MultiheadAttention, small compositions; and both libraries in one process.

The truth is torch in float64. A float64 result has to be within 1e-10 of it, in units of the largest value; a narrower one within the project's
bounds: twice the RMS error and four times the largest error of a naive float32 implementation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn import reference
from ruvattn.testing.cases import accuracy_bounds

torch = pytest.importorskip("torch")
F = torch.nn.functional


def arrays(*shapes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def tensors(*given):
    """Return the arrays as float64 tensors."""
    return [torch.from_numpy(np.asarray(array, np.float64)) for array in given]


def assert_within_bounds(found, truth, naive=None):
    truth = truth.numpy() if isinstance(truth, torch.Tensor) else truth
    assert found.shape == truth.shape
    wrong = np.abs(found.astype(np.float64) - truth)
    if found.dtype == np.float64:
        assert wrong.max(initial=0.0) <= 1e-10 * max(1.0, np.abs(truth).max(initial=0.0))
        return
    rms, largest = accuracy_bounds(truth, naive, found.dtype)
    assert np.sqrt(np.mean(np.square(wrong))) <= rms
    assert wrong.max(initial=0.0) <= largest


# --- scaled_dot_product_attention -------------------------------------------------------------------------------------------------


def mask(*shape, share=0.5):
    """Return a random mask that leaves every row a key."""
    allowed = np.random.default_rng(1).random(shape) < share
    allowed[..., 0] = True
    return allowed


def bias(*shape):
    return np.random.default_rng(2).standard_normal(shape)


SDPA = {
    # name: shapes of q, k, v; options of torch; options of ruvattn
    "one head": (((9, 16), (13, 16), (13, 16)), {}, {}),
    "heads": (((3, 9, 16), (3, 13, 16), (3, 13, 16)), {}, {}),
    "two batch axes": (((2, 3, 4, 9, 16), (2, 3, 4, 13, 16), (2, 3, 4, 13, 16)), {}, {}),
    "one key": (((2, 3, 9, 16), (2, 3, 1, 16), (2, 3, 1, 16)), {}, {}),
    "decode": (((2, 4, 1, 64), (2, 4, 1500, 64), (2, 4, 1500, 64)), {}, {}),
    "long": (((1, 2, 300, 64), (1, 2, 700, 64), (1, 2, 700, 64)), {}, {}),
    "narrow and wide values": (((2, 3, 40, 5), (2, 3, 50, 5), (2, 3, 50, 33)), {}, {}),
    "wide keys": (((2, 3, 40, 130), (2, 3, 50, 130), (2, 3, 50, 7)), {}, {}),
    "scale": (((2, 3, 40, 16), (2, 3, 50, 16), (2, 3, 50, 16)), {"scale": 0.07}, {"scale": 0.07}),
    "negative scale": (((2, 3, 40, 16), (2, 3, 50, 16), (2, 3, 50, 16)), {"scale": -0.5}, {"scale": -0.5}),
    "causal": (((2, 3, 150, 32), (2, 3, 150, 32), (2, 3, 150, 32)), {"is_causal": True}, {"causal": True}),
    "causal, fewer queries": (((2, 3, 40, 32), (2, 3, 150, 32), (2, 3, 150, 32)), {"is_causal": True}, {"causal": True}),
    "causal, fewer keys": (((2, 3, 150, 32), (2, 3, 40, 32), (2, 3, 40, 32)), {"is_causal": True}, {"causal": True}),
    "grouped": (((2, 8, 40, 16), (2, 2, 50, 16), (2, 2, 50, 16)), {"enable_gqa": True}, {}),
    "grouped, one key head": (((2, 8, 40, 16), (2, 1, 50, 16), (2, 1, 50, 16)), {"enable_gqa": True}, {}),
    "grouped, causal": (((2, 8, 90, 16), (2, 4, 90, 16), (2, 4, 90, 24)), {"enable_gqa": True, "is_causal": True}, {"causal": True}),
    "grouped decode": (((2, 8, 1, 64), (2, 2, 1500, 64), (2, 2, 1500, 64)), {"enable_gqa": True}, {}),
}
for name, allowed in {
    "mask, 2-D": mask(40, 50),
    "mask, a head": mask(3, 40, 50),
    "mask, a batch entry": mask(2, 1, 40, 50),
    "mask, all": mask(2, 3, 40, 50),
    "mask, keys only": mask(2, 1, 1, 50),
    "mask, nearly empty": mask(2, 3, 40, 50, share=0.02),
}.items():
    SDPA[name] = (((2, 3, 40, 16), (2, 3, 50, 16), (2, 3, 50, 16)), {"attn_mask": allowed}, {"mask": allowed})
for name, added in {
    "bias, 2-D": bias(40, 50),
    "bias, a head": bias(3, 40, 50),
    "bias, all": bias(2, 3, 40, 50),
    "bias, keys only": bias(2, 1, 1, 50),
    "bias with -inf": np.where(mask(2, 3, 40, 50), bias(2, 3, 40, 50), -np.inf),
}.items():
    SDPA[name] = (((2, 3, 40, 16), (2, 3, 50, 16), (2, 3, 50, 16)), {"attn_mask": added}, {"bias": added})
SDPA["grouped, mask, scale"] = (
    ((2, 8, 40, 16), (2, 2, 50, 16), (2, 2, 50, 16)),
    {"attn_mask": mask(2, 8, 40, 50), "enable_gqa": True, "scale": 0.3},
    {"mask": mask(2, 8, 40, 50), "scale": 0.3},
)
SDPA["grouped, bias"] = (
    ((2, 8, 40, 16), (2, 2, 50, 16), (2, 2, 50, 16)),
    {"attn_mask": bias(8, 40, 50), "enable_gqa": True},
    {"bias": bias(8, 40, 50)},
)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", SDPA)
def test_sdpa(name, dtype, threads):
    shapes, theirs, ours = SDPA[name]
    q, k, v = arrays(*shapes, dtype=dtype)
    # Both get what the narrow dtype holds, so that only the computation is compared.
    ours = {key: value.astype(dtype) if key == "bias" else value for key, value in ours.items()}
    if "bias" in ours:
        theirs = {**theirs, "attn_mask": ours["bias"].astype(np.float64)}
    theirs = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in theirs.items()}
    tq, tk, tv = tensors(q, k, v)
    truth = F.scaled_dot_product_attention(tq, tk, tv, **theirs)
    found = ruvattn.attention(q, k, v, threads=threads, **ours)
    assert found.dtype == dtype
    assert_within_bounds(found, truth, reference.attention(q, k, v, precision=np.float32, **ours))


def test_lower_right_causal_is_an_offset_of_end():
    from torch.nn.attention.bias import causal_lower_right

    for lq, lk in ((5, 30), (30, 30)):
        q, k, v = arrays((2, 3, lq, 16), (2, 3, lk, 16), (2, 3, lk, 16))
        truth = F.scaled_dot_product_attention(*tensors(q, k, v), attn_mask=causal_lower_right(lq, lk))
        assert_within_bounds(ruvattn.attention(q, k, v, causal=True, query_offset="end"), truth)


def test_rows_without_a_key_are_zeros():
    q, k, v = arrays((3, 20, 16), (3, 30, 16), (3, 30, 16))
    allowed = mask(20, 30)
    allowed[[4, 11]] = False
    truth = F.scaled_dot_product_attention(*tensors(q, k, v), attn_mask=torch.from_numpy(allowed))
    found = ruvattn.attention(q, k, v, mask=allowed)
    assert not found[:, [4, 11]].any()
    assert_within_bounds(found, torch.nan_to_num(truth))  # NaN in some versions of torch


def test_float32_is_as_near_the_truth_as_torch():
    """On shapes that torch has its own kernels for; each is allowed the last bit of the largest value."""
    q, k, v = arrays((2, 4, 256, 64), (2, 4, 256, 64), (2, 4, 256, 64), dtype=np.float32)
    truth = F.scaled_dot_product_attention(*tensors(q, k, v)).numpy()
    torch_rms, ours_rms = (
        np.sqrt(np.mean(np.square(found - truth)))
        for found in (F.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v))).numpy(), ruvattn.attention(q, k, v))
    )
    assert ours_rms <= 2 * torch_rms + np.finfo(np.float32).eps * np.abs(truth).max()


# --- what torch composes ----------------------------------------------------------------------------------------------------------


def compose(q, k, v, *, softcap=None, added=None, allowed=None, sinks=None):
    """Attention in whole matrices of torch, in float64; returns output, weights, lse and logits."""
    q, k, v = tensors(q, k, v)
    logits = q @ k.mT / q.shape[-1] ** 0.5
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if added is not None:
        logits = logits + torch.from_numpy(added)
    if allowed is not None:
        logits = logits.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    joined = logits
    if sinks is not None:
        column = torch.from_numpy(sinks)[:, None, None].expand(*logits.shape[:-1], 1)
        joined = torch.cat([logits, column], -1)
    weights = torch.softmax(joined, -1)[..., : k.shape[-2]]
    return weights @ v, weights, torch.logsumexp(joined, -1), logits


def band(lq, lk, left, right):
    i, j = np.arange(lq)[:, None], np.arange(lk)
    return (i - j <= left) & (j - i <= right)


COMPOSED = {
    "plain": ({}, {}),
    "bias": ({"added": bias(3, 70, 90)}, {"bias": bias(3, 70, 90)}),
    "softcap": ({"softcap": 1.5}, {"softcap": 1.5}),
    "softcap before bias": ({"softcap": 1.5, "added": bias(3, 70, 90)}, {"softcap": 1.5, "bias": bias(3, 70, 90)}),
    "window": ({"allowed": band(70, 90, 10, 5)}, {"window": (10, 5)}),
    "window, left only": ({"allowed": band(70, 90, 20, 10**6)}, {"window": (20, -1)}),
    "window and causal": ({"allowed": band(70, 90, 12, 0)}, {"window": (12, -1), "causal": True}),
    "sinks": ({"sinks": np.array([-1.0, 0.0, 2.0])}, {"sinks": np.array([-1.0, 0.0, 2.0])}),
    "sinks, window, softcap": (
        {"sinks": np.array([0.5, -0.5, 3.0]), "allowed": band(70, 90, 9, 0), "softcap": 2.0},
        {"sinks": np.array([0.5, -0.5, 3.0]), "window": (9, 0), "softcap": 2.0},
    ),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", COMPOSED)
def test_compositions(name, dtype):
    theirs, ours = COMPOSED[name]
    q, k, v = arrays((2, 3, 70, 16), (2, 3, 90, 16), (2, 3, 90, 24), dtype=dtype)
    # Both get what the narrow dtype holds: the bounds are for the computation, not for what they are given.
    ours = {key: value.astype(dtype) if isinstance(value, np.ndarray) else value for key, value in ours.items()}
    theirs = {key: value.astype(dtype).astype(np.float64) if key in ("added", "sinks") else value for key, value in theirs.items()}
    output, weights, lse, logits = compose(q, k, v, **theirs)
    naive_output, naive_lse = reference.attention(q, k, v, return_lse=True, precision=np.float32, **ours)
    found, found_lse = ruvattn.attention(q, k, v, return_lse=True, **ours)
    assert_within_bounds(found, output, naive_output)
    assert_within_bounds(found_lse, lse, naive_lse)
    naive = reference.attention_weights(q, k, precision=np.float32, **ours)
    assert_within_bounds(ruvattn.attention_weights(q, k, **ours), weights, naive)
    ours.pop("sinks", None)
    found, naive = ruvattn.attention_logits(q, k, **ours), reference.attention_logits(q, k, precision=np.float32, **ours)
    seen = torch.isfinite(logits).numpy()
    assert np.array_equal(np.isfinite(found), seen)
    assert_within_bounds(found[seen], logits.numpy()[seen], naive[seen])


def test_key_lengths_are_a_mask_of_keys():
    q, k, v = arrays((3, 2, 20, 16), (3, 2, 30, 16), (3, 2, 30, 16))
    lengths = np.array([30, 7, 1])
    allowed = (np.arange(30) < lengths[:, None])[:, None, None, :]
    truth = F.scaled_dot_product_attention(*tensors(q, k, v), attn_mask=torch.from_numpy(allowed))
    assert_within_bounds(ruvattn.attention(q, k, v, key_lengths=lengths), truth)


def test_merged_parts_are_attention_over_all_keys():
    q, k, v = arrays((4, 20, 16), (4, 60, 16), (4, 60, 16))
    parts = [ruvattn.attention(q, k[:, keys], v[:, keys], return_lse=True) for keys in (slice(0, 7), slice(7, 50), slice(50, 60))]
    found, lse = ruvattn.merge_states(*zip(*parts, strict=True))
    output, _, expected_lse, _ = compose(q, k, v)
    assert_within_bounds(found, output)
    assert_within_bounds(lse, expected_lse)


# --- nn.MultiheadAttention --------------------------------------------------------------------------------------------------------


def copy_weights(module, layer):
    """Copy the weights of a torch module to a layer of ours: torch multiplies by transposed matrices."""
    if module.in_proj_weight is None:
        projections = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    else:
        projections = list(module.in_proj_weight.chunk(3))
    biases = [] if module.in_proj_bias is None else [*module.in_proj_bias.chunk(3), module.out_proj.bias]
    parameters = layer.parameters()
    assert len(parameters) == 4 + len(biases)
    for name, weight in zip("qkvo", [*projections, module.out_proj.weight], strict=True):
        parameters[f"W_{name}"][...] = weight.detach().numpy().T
    for name, weight in zip("qkvo", biases, strict=bool(biases)) if biases else ():
        parameters[f"b_{name}"][...] = weight.detach().numpy()


def pair(name, *, embed_dim=48, num_heads=4, bias=True, **widths):
    """Return a torch module and our layer with the same weights, biases not zero."""
    torch.manual_seed(0)
    own = {"key_dim": "kdim", "value_dim": "vdim"}
    module = torch.nn.MultiheadAttention(
        embed_dim, num_heads, bias=bias, batch_first=True, dtype=torch.float64, **{own[key]: value for key, value in widths.items()}
    ).eval()
    if bias:
        torch.nn.init.normal_(module.in_proj_bias)
        torch.nn.init.normal_(module.out_proj.bias)
    layer = ruvattn.create(name, embed_dim=embed_dim, num_heads=num_heads, bias=bias, dtype="float64", **widths)
    copy_weights(module, layer)
    return module, layer


def run_module(module, *given, **options):
    with torch.no_grad():
        return module(*tensors(*given), average_attn_weights=False, **options)


@pytest.mark.parametrize("bias", [True, False])
def test_multihead_self_attention(bias):
    module, layer = pair("multihead", bias=bias)
    (x,) = arrays((3, 20, 48))
    output, weights = run_module(module, x, x, x)
    found, context = layer.forward_with_context(x, x, x)
    assert_within_bounds(found, output)
    assert_within_bounds(layer.get_attention_weights(context), weights)


def test_multihead_with_masks():
    module, layer = pair("multihead")
    x, keys, values = arrays((3, 20, 48), (3, 25, 48), (3, 25, 48))
    allowed = mask(20, 25)
    lengths = np.array([25, 9, 2])
    padding = np.arange(25) >= lengths[:, None]
    output, _ = run_module(module, x, keys, values, attn_mask=torch.from_numpy(~allowed))  # in torch's module, True hides
    assert_within_bounds(layer(x, keys, values, mask=allowed), output)
    output, _ = run_module(module, x, keys, values, key_padding_mask=torch.from_numpy(padding))
    assert_within_bounds(layer(x, keys, values, key_lengths=lengths), output)
    hidden = torch.ones(20, 25, dtype=torch.bool).triu(1)
    output, _ = run_module(module, x, keys, values, attn_mask=hidden)
    assert_within_bounds(layer(x, keys, values, causal=True), output)


def test_multihead_in_float32():
    module, layer = pair("multihead")
    (x,) = arrays((2, 30, 48), dtype=np.float32)
    with torch.no_grad():
        truth = module(*tensors(x, x, x))[0].numpy()
        narrow = module.float()
        theirs = narrow(*[torch.from_numpy(x)] * 3)[0].numpy()
    # Not torch's bits, for the products of both go through libraries with orders of their own: the bounds allow four times its error.
    assert_within_bounds(layer(x, x, x), truth, theirs)


def test_cross_attention_with_widths_of_its_own():
    module, layer = pair("cross", key_dim=20, value_dim=36)
    x, keys, values = arrays((3, 20, 48), (3, 25, 20), (3, 25, 36))
    output, _ = run_module(module, x, keys, values)
    assert_within_bounds(layer(x, keys, values), output)


def test_single_queries_are_rows_of_the_module():
    module, layer = pair("multihead")
    queries, keys, values = arrays((6, 48), (25, 48), (25, 48))
    output, _ = run_module(module, queries, keys, values)
    assert_within_bounds(layer.forward_batch(queries, keys, values), output)
    assert_within_bounds(layer.forward(queries[2], keys, values), output[2])


# --- both in one process ----------------------------------------------------------------------------------------------------------
# torch brings an OpenMP runtime of its own beside the system's, which the kernels use.

SIZE = (1, 4, 512, 64)  # large enough for a team of threads in both


def in_process(code, **environment):
    """Run code in a fresh interpreter; return what it prints."""
    path = os.pathsep.join([str(Path(ruvattn.__file__).parents[1]), *filter(None, sys.path)])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


SETUP = f"""
    import numpy as np
    q, k, v = np.random.default_rng(0).standard_normal((3, *{SIZE}), dtype=np.float32)

    def ours(threads=2):
        return ruvattn.attention(q, k, v, threads=threads)

    def theirs():
        return torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v))).numpy()
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import torch, ruvattn",
        "import ruvattn, torch",
        "import numpy, ruvattn; ruvattn.attention(*numpy.ones((3, 512, 64)), threads=2); import torch",
    ],
)
def test_either_may_be_imported_first(imports):
    code = f"""
    {imports}
    torch.set_num_threads(2)
    {SETUP}
    for _ in range(3):
        print(bool(np.abs(ours() - theirs()).max() < 1e-5))
    """
    assert in_process(code, OMP_NUM_THREADS="2").split() == ["True"] * 3


def test_interleaved_calls_change_no_bit():
    q, k, v = arrays(SIZE, SIZE, SIZE, dtype=np.float32)
    given = list(map(torch.from_numpy, (q, k, v)))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone, alone_torch = ruvattn.attention(q, k, v, threads=1), F.scaled_dot_product_attention(*given)
        for threads in (2, 1, 3, 2, 7, 2):
            found_torch = F.scaled_dot_product_attention(*given)
            assert np.array_equal(ruvattn.attention(q, k, v, threads=threads), alone)
            assert torch.equal(found_torch, alone_torch)
    finally:
        torch.set_num_threads(before)


def test_both_at_once_from_python_threads():
    q, k, v = arrays(SIZE, SIZE, SIZE, dtype=np.float32)
    given = list(map(torch.from_numpy, (q, k, v)))
    alone = ruvattn.attention(q, k, v, threads=2)
    theirs = F.scaled_dot_product_attention(*given)
    wrong = []

    def work(call, expected):
        for _ in range(10):
            if not np.array_equal(call(), expected):
                wrong.append(call)  # noqa: PERF401 - the call is what is tested

    team = [
        threading.Thread(target=work, args=(lambda: ruvattn.attention(q, k, v, threads=2), alone)),
        threading.Thread(target=work, args=(lambda: F.scaled_dot_product_attention(*given).numpy(), theirs.numpy())),
        threading.Thread(target=work, args=(lambda: ruvattn.attention(q, k, v, threads=2), alone)),
    ]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert not wrong


@pytest.mark.parametrize("order", ["ours(); theirs()", "theirs(); ours()"], ids=["torch last", "ruvattn last"])
def test_a_child_forked_after_both_computes(order):
    """libgomp's threads don't survive a fork: a child that waited for them would hang."""
    code = f"""
    import os, sys, time
    import torch, ruvattn
    torch.set_num_threads(2)
    {SETUP}
    expected = ours(1)
    {order}
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(ours(threads), expected) for threads in (2, 1, 2)) else 3)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        sys.exit("the child hangs")
    print(os.waitstatus_to_exitcode(status))
    print(bool(np.array_equal(ours(), expected)), bool(np.abs(theirs() - expected).max() < 1e-5))
    """
    assert in_process(code, OMP_NUM_THREADS="2").split() == ["0", "True", "True"]


def test_neither_changes_the_others_number_of_threads():
    code = """
    import torch, ruvattn, numpy as np
    torch.set_num_threads(1)
    ruvattn.set_num_threads(2)
    ruvattn.attention(*np.ones((3, 4, 512, 64), np.float32))
    ruvattn.attention(*np.ones((3, 4, 512, 64), np.float32), threads=3)
    print(torch.get_num_threads(), ruvattn.get_num_threads())
    torch.set_num_threads(3)
    print(torch.get_num_threads(), ruvattn.get_num_threads())
    """
    assert in_process(code).split() == ["1", "2", "3", "2"]


def test_tensors_share_their_memory_with_arrays():
    """``numpy()`` of a tensor goes in without a copy, and ``out=`` writes into a tensor."""
    q, k, v = (torch.from_numpy(array) for array in arrays((4, 20, 16), (4, 30, 16), (4, 30, 16), dtype=np.float32))
    out = torch.zeros(4, 20, 16)
    assert ruvattn.attention(q.numpy(), k.numpy(), v.numpy(), out=out.numpy()) is not None
    assert_within_bounds(
        out.numpy(), F.scaled_dot_product_attention(q.double(), k.double(), v.double()), F.scaled_dot_product_attention(q, k, v).numpy()
    )
