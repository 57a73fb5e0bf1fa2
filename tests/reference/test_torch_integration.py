"""Tensors in and out of `ruvattn.attention` with gradients, and variants as modules of torch: one memory, one mode, torch's checks of gradients."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import ruvattn
from ruvattn import errors

pytest.importorskip("torch")
import torch

from ruvattn.integrations.torch import AttentionModule, attention, to_array, to_tensor


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def leaf(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def heads(dtype=torch.float64, *, lq=5, lk=7):
    """Queries, keys and values of 4 and 2 heads, the values wider."""
    return leaf(2, 4, lq, 3, dtype=dtype), leaf(2, 2, lk, 3, dtype=dtype), leaf(2, 2, lk, 4, dtype=dtype)


# --- memory -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int64], ids=str)
def test_an_array_shares_the_memory_of_its_tensor(dtype):
    tensor = torch.zeros(2, 3, 4, dtype=dtype).transpose(0, 2)
    array = to_array(tensor)
    assert array.shape == tensor.shape
    tensor[1, 2, 0] = 1
    assert array[1, 2, 0] == 1
    assert np.count_nonzero(array) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16], ids=lambda x: np.dtype(x).name)
def test_a_tensor_shares_the_memory_of_its_array(dtype):
    array = np.zeros((3, 4), dtype)
    tensor = to_tensor(array)
    array[1, 2] = 1
    assert tensor[1, 2] == 1
    assert str(tensor.dtype) == f"torch.{np.dtype(dtype).name}"


def test_bfloat16_keeps_its_numbers():
    tensor = torch.tensor([1.5, -2.25, 3e38], dtype=torch.bfloat16)
    np.testing.assert_array_equal(to_array(tensor).astype(np.float32), tensor.float().numpy())


# --- attention: values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_output_is_that_of_the_arrays(dtype):
    q, k, v = (x.detach() for x in heads(dtype))
    out, lse = attention(q, k, v, causal=True, softcap=2.0, return_lse=True)
    expected, expected_lse = ruvattn.attention(*map(to_array, (q, k, v)), causal=True, softcap=2.0, return_lse=True)
    assert out.dtype == dtype
    assert to_array(out).tobytes() == expected.tobytes()
    assert to_array(lse).tobytes() == expected_lse.tobytes()


def test_gradients_or_none_the_output_is_the_same_to_the_bit():
    q, k, v = heads(torch.float32)
    with torch.no_grad():
        bare = attention(q, k, v, causal=True)
    tracked = attention(q, k, v, causal=True)
    assert tracked.requires_grad
    assert not bare.requires_grad
    assert torch.equal(bare, tracked)


def test_options_are_taken_as_tensors():
    q, k, v = (x.detach() for x in heads())
    mask = torch.rand(2, 1, 5, 7) < 0.6
    lengths = torch.tensor([4, 6])
    found = attention(q, k, v, mask=mask, key_lengths=lengths, query_offset=torch.tensor([0, 2]), window=(3, 3))
    expected = ruvattn.attention(
        q.numpy(), k.numpy(), v.numpy(), mask=mask.numpy(), key_lengths=lengths.numpy(), query_offset=np.array([0, 2]), window=(3, 3)
    )
    np.testing.assert_array_equal(found.numpy(), expected)


def test_expanded_keys_are_not_copied_and_have_a_gradient_of_their_own_shape():
    q, k, v = heads()
    one = k[:, :1].detach().requires_grad_()
    attention(q, one.expand(-1, 2, -1, -1), v).sum().backward()
    many = one.detach().repeat(1, 2, 1, 1).requires_grad_()
    attention(q, many, v).sum().backward()
    torch.testing.assert_close(one.grad, many.grad.sum(1, keepdim=True))


def test_dropout_repeats_with_the_seed_of_torch():
    q, k, v = (x.detach() for x in heads(lk=40))
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(attention(q, k, v, dropout=0.5))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


# --- attention: gradients -----------------------------------------------------------------------------------------------------------

CALLS = {
    "plain": {},
    "causal": {"causal": True},
    "window and offset": {"window": (2, 1), "query_offset": 2},
    "softcap": {"softcap": 1.5},
    "lengths": {"key_lengths": torch.tensor([3, 7])},
    "mask": {"mask": torch.tensor([[True, False, True, True, False, True, True]])},
    "a row without keys": {"mask": torch.arange(5)[:, None] != torch.tensor([2])},
    "dropout": {"dropout": 0.4, "seed": 3},
}


@pytest.mark.parametrize("name", CALLS)
def test_gradcheck_passes(name):
    q, k, v = heads()
    assert torch.autograd.gradcheck(lambda *x: attention(*x, return_lse=name != "a row without keys", **CALLS[name]), (q, k, v))


def test_gradcheck_passes_for_bias_sinks_and_scale():
    q, k, v = heads()
    bias, sinks, scale = leaf(4, 1, 7), leaf(4), torch.rand(4, dtype=torch.float64).requires_grad_()

    def call(q, k, v, bias, sinks, scale):
        return attention(q, k, v, bias=bias, sinks=sinks, scale=scale, softcap=2.0, causal=True)

    assert torch.autograd.gradcheck(call, (q, k, v, bias, sinks, scale))


def test_gradcheck_passes_for_a_scale_of_all_heads():
    q, k, v = heads()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, scale: attention(q, k, v, scale=scale), (q, scale))


def test_only_what_asks_has_a_gradient():
    q, k, v = heads()
    k.requires_grad_(False)
    attention(q, k, v).sum().backward()
    assert k.grad is None
    assert q.grad.shape == q.shape
    assert v.grad.shape == v.shape


def test_gradients_are_those_of_torch():
    q, k, v = heads(torch.float32, lq=30, lk=30)
    found = torch.autograd.grad(attention(q, k, v, causal=True).square().sum(), (q, k, v))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = torch.autograd.grad(sdpa(*wide, is_causal=True, enable_gqa=True).square().sum(), wide)
    for gradient, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_have_the_narrow_dtype_of_their_inputs(dtype):
    q, k, v = heads(dtype)
    bias = leaf(4, 5, 7, dtype=dtype)
    attention(q, k, v, bias=bias).float().square().sum().backward()
    wide = [x.detach().double().requires_grad_() for x in (q, k, v, bias)]
    attention(*wide[:3], bias=wide[3]).square().sum().backward()
    for narrow, truth in zip((q, k, v, bias), wide, strict=True):
        assert narrow.grad.dtype == dtype
        torch.testing.assert_close(narrow.grad.double(), truth.grad, rtol=0.05, atol=0.05 * truth.grad.abs().max().item())


def test_a_second_derivative_is_an_error_that_says_so():
    q, k, v = heads()
    (gradient,) = torch.autograd.grad(attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(errors.UnsupportedError, match="has first derivatives only.*scaled_dot_product_attention"):
        gradient.sum().backward()


def test_an_input_that_was_written_to_is_an_error():
    q, k, v = heads()
    held = q * 1
    out = attention(held, k, v)
    held.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# --- attention: bad input -----------------------------------------------------------------------------------------------------------


def test_another_device_is_an_error_that_names_it():
    q, k, v = (x.detach() for x in heads())
    with pytest.raises(errors.UnsupportedError, match="k is on the device meta, and ruvattn computes on the CPU"):
        attention(q, k.to("meta"), v)


def test_another_dtype_is_an_error_that_names_it():
    q, k, v = (x.detach() for x in heads())
    with pytest.raises(errors.UnsupportedError, match="v has dtype torch.int64: use float32"):
        attention(q, k, v.long())


def test_a_sparse_tensor_is_an_error():
    q, k, v = (x.detach() for x in heads())
    with pytest.raises(errors.UnsupportedError, match="q is no plain tensor"):
        attention(q.to_sparse(), k, v)


def test_an_array_is_an_error_that_names_the_function_for_it():
    q, k, v = (x.detach() for x in heads())
    with pytest.raises(errors.InvalidInputError, match=r"q must be a tensor, got ndarray: ruvattn.attention takes arrays"):
        attention(q.numpy(), k, v)


def test_dtypes_that_differ_are_an_error():
    q, k, v = (x.detach() for x in heads())
    with pytest.raises(errors.UnsupportedError, match="must share one dtype, got q float64, k float32"):
        attention(q, k.float(), v)


def test_an_option_that_wants_a_gradient_is_an_error():
    q, k, v = heads()
    with pytest.raises(errors.UnsupportedError, match="softcap requires a gradient, and has none"):
        attention(q, k, v, softcap=torch.tensor(2.0, requires_grad=True))


def test_out_is_an_error():
    q, k, v = heads()
    with pytest.raises(errors.UnsupportedError, match="out is not taken for tensors"):
        attention(q, k, v, out=torch.empty(2, 4, 5, 4))


def test_a_transform_such_as_vmap_is_an_error():
    q, k, v = (x.detach() for x in heads())
    with pytest.raises(errors.UnsupportedError, match="q is no plain tensor"):
        torch.func.vmap(attention)(q, k, v)


# --- modules ------------------------------------------------------------------------------------------------------------------------


def layer(**options):
    return ruvattn.create("multihead", embed_dim=8, num_heads=2, bias=True, dtype="float64", **options)


def test_a_module_computes_what_its_variant_does():
    variant, x = layer(), torch.randn(3, 5, 8, dtype=torch.float64)
    np.testing.assert_array_equal(AttentionModule(variant)(x, causal=True).detach().numpy(), variant(x.numpy(), causal=True))


def test_parameters_are_the_arrays_of_the_variant():
    variant = layer()
    module = AttentionModule(variant)
    named = dict(module.named_parameters())
    assert set(named) == set(variant.parameters())
    for name, array in variant.parameters().items():
        assert np.shares_memory(named[name].detach().numpy(), array)


def test_a_step_of_torch_moves_the_variant():
    variant = layer()
    module = AttentionModule(variant)
    before = variant.parameters()["W_q"].copy()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    module(torch.randn(5, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    np.testing.assert_allclose(np.abs(variant.parameters()["W_q"] - before), 0.01, rtol=1e-3)


def test_what_the_variant_changes_moves_the_module():
    variant, x = layer(), torch.randn(5, 8, dtype=torch.float64)
    module = AttentionModule(variant)
    variant.parameters()["W_o"][...] = 0
    assert torch.equal(module(x), torch.zeros(5, 8, dtype=torch.float64))


@pytest.mark.parametrize("given", [1, 2, 3])
def test_gradcheck_passes_through_a_module(given):
    module = AttentionModule(layer())
    inputs = [leaf(2, 4, 8), leaf(2, 6, 8), leaf(2, 6, 8)][:given]
    assert torch.autograd.gradcheck(lambda *x: module(*x[:given], causal=True), (*inputs, *module.parameters()))


def test_a_training_loop_of_torch_learns():
    module = torch.nn.Sequential(AttentionModule(layer()), torch.nn.Linear(8, 1, dtype=torch.float64))
    x = torch.randn(16, 6, 8, dtype=torch.float64)
    target = x.mean((1, 2))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(module(x)[:, :, 0].mean(1), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_module_and_its_variant_have_one_mode():
    variant = layer(dropout_rate=0.5)
    model = torch.nn.Sequential(AttentionModule(variant))
    model.train()
    assert variant.training
    model.eval()
    assert not variant.training
    variant.training = True
    assert model[0].training


def test_dropout_of_a_module_repeats_with_the_seed_of_torch_and_stops_in_eval():
    module = AttentionModule(layer(dropout_rate=0.5)).train()
    x = torch.randn(9, 8, dtype=torch.float64)
    torch.manual_seed(1)
    first = module(x)
    torch.manual_seed(1)
    assert torch.equal(module(x), first)
    assert not torch.equal(module(x), first)
    module.eval()
    assert torch.equal(module(x), module(x))


def test_a_gradient_checkpoint_repeats_the_dropout():
    module = AttentionModule(layer(dropout_rate=0.5)).train()
    x = leaf(9, 8)
    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(module(x).sum(), x)
    torch.manual_seed(1)
    (found,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(module, x, use_reentrant=False).sum(), x)
    assert torch.equal(found, expected)


def test_a_state_dict_goes_from_one_module_to_another():
    one, other = AttentionModule(layer(seed=1)), AttentionModule(layer(seed=2))
    other.load_state_dict(one.state_dict())
    x = torch.randn(5, 8, dtype=torch.float64)
    assert torch.equal(one(x), other(x))
    np.testing.assert_array_equal(other.variant.parameters()["W_q"], one.variant.parameters()["W_q"])


def test_assigning_a_state_dict_is_an_error():
    model = torch.nn.Sequential(AttentionModule(layer()))
    with pytest.raises(errors.UnsupportedError, match="assign=True would take the parameters away"):
        model.load_state_dict(model.state_dict(), assign=True)


@pytest.mark.parametrize("convert", [lambda m: m.float(), lambda m: m.to("meta"), lambda m: m.bfloat16()], ids=["float", "meta", "bfloat16"])
def test_a_conversion_that_would_part_the_two_is_an_error_and_changes_nothing(convert):
    module = AttentionModule(layer())
    with pytest.raises(errors.UnsupportedError, match="is the variant's array, torch.float64 on the cpu"):
        convert(torch.nn.Sequential(module))
    module(torch.randn(5, 8, dtype=torch.float64))


@pytest.mark.parametrize("convert", [lambda m: m.double(), lambda m: m.to("cpu"), lambda m: m.cpu()], ids=["double", "to", "cpu"])
def test_a_conversion_to_what_it_is_keeps_the_memory(convert):
    module = convert(AttentionModule(layer()))
    assert np.shares_memory(module.W_q.detach().numpy(), module.variant.parameters()["W_q"])


def test_moving_to_shared_memory_is_an_error():
    with pytest.raises(errors.UnsupportedError, match="can't move to shared memory"):
        AttentionModule(layer()).share_memory()


def test_a_parameter_that_was_replaced_is_noticed():
    module = AttentionModule(layer())
    module.W_q.data = torch.zeros(8, 8, dtype=torch.float64)
    with pytest.raises(errors.InvalidInputError, match="'W_q' and the variant's array 'W_q' share no memory any more"):
        module(torch.randn(5, 8, dtype=torch.float64))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_has_a_variant_of_its_own(copied):
    module = AttentionModule(layer()).train()
    module.W_k.requires_grad_(False)
    other = copied(module)
    x = torch.randn(5, 8, dtype=torch.float64)
    expected = module(x)
    module.variant.parameters()["W_q"][...] = 0
    assert torch.equal(other(x), expected)
    assert other.training
    assert not other.W_k.requires_grad
    assert np.shares_memory(other.W_q.detach().numpy(), other.variant.parameters()["W_q"])


def test_a_dot_in_a_name_becomes_an_underscore():
    pytest.importorskip("ruvattn_geometric", reason="pip install ./plugins/ruvattn-geometric first")
    variant = ruvattn.create("standard", embed_dim=8, num_heads=2, score="cosine", learn=["score.temperature"])
    module = AttentionModule(variant)
    assert list(dict(module.named_parameters())) == ["score_temperature"]
    module(torch.randn(5, 8, dtype=torch.float64)).square().sum().backward()
    assert module.score_temperature.grad.abs().min() > 0


def test_what_is_learned_beside_weights_has_a_gradient():
    module = AttentionModule(layer(learn=["scale", "sinks"]))
    x = leaf(2, 5, 8)
    assert torch.autograd.gradcheck(lambda *given: module(given[0]), (x, *module.parameters()))


def test_a_second_derivative_through_a_module_is_an_error():
    module, x = AttentionModule(layer()), leaf(5, 8)
    (gradient,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    with pytest.raises(errors.UnsupportedError, match="AttentionModule of MultiHeadAttention has first derivatives only"):
        gradient.sum().backward()


GRAPH = torch.tensor([[0, 1, 2, 3, 3, 4, 0], [1, 2, 3, 1, 4, 0, 4]])


@pytest.mark.parametrize("name", ["gat", "graph-transformer", "gin"])
def test_gradcheck_passes_on_a_graph(name):
    pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
    module = AttentionModule(ruvattn.create(name, embed_dim=4, dtype="float64"))
    x = leaf(5, 4)
    assert torch.autograd.gradcheck(lambda *given: module.forward_graph(given[0], GRAPH), (x, *module.parameters()))


def test_features_of_edges_have_a_gradient():
    pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
    module = AttentionModule(ruvattn.create("edge-featured", embed_dim=4, num_heads=2, edge_dim=3, dtype="float64"))
    x, attr = leaf(5, 4), leaf(7, 3)
    assert torch.autograd.gradcheck(lambda x, attr: module.forward_graph(x, GRAPH, attr), (x, attr))


def test_a_graph_layer_becomes_a_module():
    graph = pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
    module = AttentionModule(graph.AttentionGNNLayer(4, attention="gat", activation="gelu", dtype="float64"))
    x = leaf(5, 4)
    assert torch.autograd.gradcheck(lambda *given: module.forward_graph(given[0], GRAPH), (x, *module.parameters()))


def test_a_variant_without_graphs_says_so():
    with pytest.raises(errors.UnsupportedError, match="MultiHeadAttention has no forward_graph"):
        AttentionModule(layer()).forward_graph(torch.randn(5, 8, dtype=torch.float64), GRAPH)


def test_two_sets_of_nodes_are_an_error():
    pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")
    module = AttentionModule(ruvattn.create("gat", embed_dim=4))
    with pytest.raises(errors.UnsupportedError, match="x must be one tensor"):
        module.forward_graph((torch.zeros(2, 4), torch.zeros(3, 4)), GRAPH)


def test_only_a_trainable_variant_becomes_a_module():
    with pytest.raises(errors.UnsupportedError, match=r"variant must be trainable, a ruvattn.TrainableAttention, got Linear"):
        AttentionModule(torch.nn.Linear(2, 2))


def test_an_option_of_a_module_that_wants_a_gradient_is_an_error():
    module = AttentionModule(layer())
    with pytest.raises(errors.UnsupportedError, match="bias requires a gradient, and has none through a variant"):
        module(torch.randn(5, 8, dtype=torch.float64), bias=leaf(2, 5, 5))


# --- import -------------------------------------------------------------------------------------------------------------------------


def test_without_torch_the_error_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\ntry:\n    import ruvattn.integrations.torch\nexcept ImportError as error:\n    print(error)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert found.strip() == "ruvattn.integrations.torch needs torch: pip install 'ruvattn[torch]'"
