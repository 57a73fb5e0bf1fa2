"""The variants: every promise of the conformance suite, the pairs that each sees, and what a mask of its own means for the rest of the interface."""

import copy
import json
import pickle
import re
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import ruvattn
from ruvattn import demo, reference
from ruvattn.errors import DimensionMismatchError, InputTooLargeError, InvalidInputError
from ruvattn.testing import parametrize_with_checks

pytest.importorskip("ruvattn_sparse", reason="pip install ./plugins/ruvattn-sparse first")
import ruvattn_sparse
from ruvattn_sparse import COO, BigBird, BlockSparse, Streaming, Windowed

NAMES = (
    "bigbird", "block-sparse", "coo", "csr", "dilated", "fixed", "local-global", "streaming", "strided", "topk", "windowed",
)  # fmt: skip
FACTORIES = {variant.attention_type: variant for variant in vars(ruvattn_sparse).values() if hasattr(variant, "attention_type")}
WIDTH, HEADS = 12, 3


def of(name, embed_dim=WIDTH, num_heads=HEADS, **options):
    return ruvattn.create(name, embed_dim=embed_dim, num_heads=num_heads, **options)


def sequences(lq, lk=None, *, lead=(), width=WIDTH, dtype=np.float64, seed=0):
    rng = np.random.default_rng([seed, lq, lk or lq, *lead])
    lengths = (lq, lk or lq, lk or lq)
    return tuple(rng.standard_normal((*lead, length, width)).astype(dtype) for length in lengths)


def split(x, heads=HEADS):
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-3, -2)


def oracle(q, k, v, seen, heads=HEADS, **options):
    """Attention over the pairs of a dense mask, (Lq, Lk) or (heads, Lq, Lk), of inputs that are not split into heads."""
    out = reference.attention(split(q, heads), split(k, heads), split(v, heads), mask=seen, **options)
    return out.swapaxes(-3, -2).reshape(*q.shape[:-1], -1)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# --- what each sees, pair by pair, by the words of its documentation --------------------------------------------------


def windowed(i, j, head):
    return abs(i - j) <= 3 or j in (0, 9) or i in (0, 9)


def strided(i, j, head):
    return abs(i - j) <= 2 or (i - j) % 7 == 0


def strided_by_default(i, j, head):
    return abs(i - j) < 5 or (i - j) % 5 == 0


def fixed(i, j, head):
    return i // 6 == j // 6 or j % 6 >= 4


def dilated(i, j, head):
    step = (1, 2, 5)[head]
    return any(j == i + n * step for n in range(-2, 3))


def streaming(i, j, head):
    return j <= i and (j < 2 or j > i - 4)


def local_global(i, j, head):
    return abs(i - j) <= 2 or j < 2 or 0 <= i < 2


BLOCKS = [(0, 1), (1, 0), (2, 3), (3, 3), (5, 0), (0, 5)]
PAIRS = [(0, 0), (3, 7), (3, 2), (17, 20), (22, 1), (22, 22), (5, 5)]


def blocks(i, j, head):
    return (i // 5, j // 5) in BLOCKS


def pairs(i, j, head):
    return (i, j) in PAIRS


def pairs_of_heads(i, j, head):
    return head == 1 and (i, j) in PAIRS


ROWS = sparse.csr_array(
    (np.zeros(len(PAIRS)), tuple(np.array(PAIRS).T)),
    shape=(29, 29),
)

RULES = {
    "windowed": ("windowed", {"window_size": 3, "global_tokens": [0, 9]}, windowed),
    "strided": ("strided", {"stride": 7, "window_size": 2}, strided),
    "strided by default": ("strided", {"stride": 5}, strided_by_default),
    "fixed": ("fixed", {"block_size": 6, "summary": 2}, fixed),
    "dilated": ("dilated", {"window_size": 2, "dilation": [1, 2, 5]}, dilated),
    "streaming": ("streaming", {"first": 2, "window": 4}, streaming),
    "local-global": ("local-global", {"window_size": 2, "global_tokens": 2}, local_global),
    "block-sparse": ("block-sparse", {"block_size": 5, "active_blocks": BLOCKS}, blocks),
    "coo": ("coo", {"pairs": PAIRS}, pairs),
    "coo of heads": ("coo", {"pairs": [(1, *pair) for pair in PAIRS], "shape": (3, 29, 29)}, pairs_of_heads),
    "csr": ("csr", {"matrix": ROWS}, pairs),
}
by_rule = pytest.mark.parametrize(("name", "options", "rule"), RULES.values(), ids=RULES)
POSITIONAL = [case for case in RULES.values() if case[0] not in ("block-sparse", "coo", "csr")]


def dense(rule, lq, lk, offset=0):
    return np.array([[[bool(rule(i + offset, j, head)) for j in range(lk)] for i in range(lq)] for head in range(HEADS)])


@by_rule
@pytest.mark.parametrize("causal", [False, True])
def test_a_variant_sees_the_pairs_of_its_rule(name, options, rule, causal):
    q, k, v = sequences(29, lead=(2,))
    seen = dense(rule, 29, 29)
    assert_close(of(name, **options)(q, k, v, causal=causal), oracle(q, k, v, seen, causal=causal))


@by_rule
def test_the_masks_of_a_call_are_added_to_its_own(name, options, rule):
    q, k, v = sequences(29, lead=(2,))
    extra = np.random.default_rng(0).random((29, 29)) < 0.7
    given = {"key_lengths": [29, 25], "window": (20, 20), "softcap": 3.0}
    expected = oracle(q, k, v, dense(rule, 29, 29) & extra, **given)
    assert_close(of(name, **options)(q, k, v, mask=extra, **given), expected)
    assert_close(of(name, **options)(q, k, v, mask=sparse.csr_array(extra), **given), expected)


@by_rule
def test_the_weights_are_those_of_the_pairs(name, options, rule):
    q, k, v = sequences(29)
    layer = of(name, **options)
    layer(q, k, v)
    weights = layer.get_attention_weights()
    assert_close(weights, reference.attention_weights(split(q), split(k), mask=dense(rule, 29, 29)))
    assert not weights[~dense(rule, 29, 29)].any()


@pytest.mark.parametrize(("name", "options", "rule"), POSITIONAL)
@pytest.mark.parametrize(("lq", "lk", "offset"), [(7, 40, 20), (40, 7, 0), (9, 30, -4), (5, 11, 30)])
def test_queries_stand_where_query_offset_says(name, options, rule, lq, lk, offset):
    q, k, v = sequences(lq, lk)
    found = of(name, **options)(q, k, v, query_offset=offset)
    assert_close(found, oracle(q, k, v, dense(rule, lq, lk, offset)))


@pytest.mark.parametrize(("name", "options", "rule"), POSITIONAL)
def test_a_single_query_stands_at_the_last_key(name, options, rule):
    q, k, v = sequences(4, 23)
    expected = [oracle(row[None], k, v, dense(rule, 1, 23, 22))[0] for row in q]
    layer = of(name, **options)
    assert_close(layer.forward_batch(q, k, v), expected)
    assert_close(layer.forward(q[2], k, v), expected[2])


@pytest.mark.parametrize(
    ("name", "options", "row"),
    [
        ("coo", {"pairs": PAIRS}, 22),
        ("coo", {"pairs": PAIRS, "shape": (24, 29)}, 23),
        ("csr", {"indptr": [0, 2, 3, 3], "indices": [4, 0, 9]}, 2),
        ("csr", {"indptr": [0, 2, 3], "indices": [4, 0, 9], "num_keys": 29}, 1),
        ("block-sparse", {"block_size": 5, "active_blocks": BLOCKS}, 25),
        ("coo", {"pairs": [(0, 0, 1), (1, 1, 28), (2, 1, 4)], "shape": (3, 2, 29)}, 1),
    ],
)
def test_a_single_query_is_the_last_row_of_explicit_pairs(name, options, row):
    layer = of(name, **options)
    q, k, v = sequences(2, 29)
    # A mask of another form says which pairs these are.
    mask = layer.config.options
    if name == "block-sparse":
        seen = np.array([(row // 5, j // 5) in BLOCKS for j in range(29)])
    elif name == "csr":
        seen = np.isin(np.arange(29), mask["indices"][mask["indptr"][row] : mask["indptr"][row + 1]])
    elif len(mask["pairs"][0]) == 3:
        seen = np.array([[[(head, row, j) in mask["pairs"] for j in range(29)]] for head in range(HEADS)])
    else:
        seen = np.array([(row, j) in mask["pairs"] for j in range(29)])
    expected = oracle(q, k, v, np.broadcast_to(seen, (HEADS, 2, 29)))
    assert_close(layer.forward_batch(q, k, v), expected)
    assert_close(layer.forward(q[1], k, v), expected[1])


def test_bigbird_sees_its_window_the_global_blocks_and_as_many_others_as_it_draws():
    layer = of("bigbird", block_size=4, random_blocks=2, seed=5)
    q, k, v = sequences(61)
    layer(q, k, v)
    seen = layer.get_attention_weights() > 0
    grid = np.array([[[seen[h, i * 4, j * 4] for j in range(16)] for i in range(16)] for h in range(HEADS)])
    assert (np.kron(grid, np.ones((4, 4), bool))[:, :61, :61] == seen).all()
    for i in range(16):
        near = {j for j in range(16) if abs(i - j) <= 1 or j == 0}
        for h in range(HEADS):
            row = set(np.flatnonzero(grid[h, i]))
            assert near <= row
            assert len(row - near) == (2 if i else 16 - len(near))
    assert not (grid[0] == grid[1]).all()
    assert_close(layer(q, k, v), oracle(q, k, v, seen))


def test_bigbird_with_a_length_keeps_its_draw_while_a_sequence_grows():
    fixed_length, free = (of("bigbird", block_size=4, random_blocks=2, length=length) for length in (200, None))
    q, k, v = sequences(120)
    seen = {}
    for layer in (fixed_length, free):
        for n in (60, 120):
            layer(q[:n], k[:n], v[:n])
            seen[layer, n] = layer.get_attention_weights()[:, :60, :60] > 0
    assert (seen[fixed_length, 60] == seen[fixed_length, 120]).all()
    assert not (seen[free, 60] == seen[free, 120]).all()
    with pytest.raises(DimensionMismatchError, match="200 keys"):
        fixed_length(*sequences(201))


def best_keys(logits, k=None, share=None):
    """The choice of each row, by sorting it."""
    seen = np.zeros(logits.shape, bool)
    for index in np.ndindex(logits.shape[:-1]):
        row = logits[index]
        order = sorted((j for j in range(len(row)) if row[j] > -np.inf), key=lambda j: (-row[j], j))
        if share is not None and order:
            weights = np.exp(row - row[order[0]])
            mass = np.cumsum(weights[order]) / weights.sum()
            order = order[: int(np.argmax(mass >= share * (1 - 1e-12))) + 1]
        for j in order[:k]:
            seen[(*index, j)] = True
    return seen


@pytest.mark.parametrize(("options", "choice"), [
    ({"top_k": 4}, {"k": 4}),
    ({"top_k": 1000}, {"k": None}),
    ({"top_k": None, "top_p": 0.6}, {"share": 0.6}),
    ({"top_k": 3, "top_p": 0.9}, {"k": 3, "share": 0.9}),
])  # fmt: skip
@pytest.mark.parametrize("given", [{}, {"causal": True}, {"window": (6, 1), "key_lengths": [20, 31]}, {"softcap": 1.0, "query_offset": "end"}])
def test_topk_sees_the_keys_with_the_largest_logits_of_those_that_the_masks_leave(options, choice, given):
    q, k, v = sequences(25, 31, lead=(2,))
    logits = reference.attention_logits(split(q), split(k), **given)
    expected = oracle(q, k, v, best_keys(logits, **choice), **given)
    layer = of("topk", **options)
    assert_close(layer(q, k, v, **given), expected)
    kept = (layer.get_attention_weights() > 0).sum(-1)
    assert kept.max() <= (choice.get("k") or 31)


def test_topk_chooses_for_a_single_query():
    q, k, v = sequences(3, 40)
    layer = of("topk", top_k=5)
    assert_close(layer.forward_batch(q, k, v), oracle(q, k, v, best_keys(reference.attention_logits(split(q), split(k)), 5)))
    assert ((layer.get_attention_weights() > 0).sum(-1) == 5).all()


# --- the conformance suite --------------------------------------------------------------------------------------------


def small(name, label, **options):
    """A factory whose variants leave something out of even short sequences."""

    def factory(embed_dim, num_heads, **others):
        return FACTORIES[name](embed_dim, num_heads, **options, **others)

    factory.__name__ = f"{label}-{name}"
    return factory


@parametrize_with_checks([
    *(FACTORIES[name] for name in ("block-sparse", "coo", "csr")),
    small("windowed", "narrow", window_size=1, global_tokens=[2]),
    small("strided", "narrow", stride=4, window_size=1),
    small("fixed", "narrow", block_size=3, summary=1),
    small("dilated", "narrow", window_size=1, dilation=3),
    small("bigbird", "narrow", block_size=2, window_blocks=1, random_blocks=1),
    small("streaming", "narrow", first=1, window=2),
    small("local-global", "narrow", window_size=1, global_tokens=1),
    small("block-sparse", "one-block", block_size=64, active_blocks=[(0, 0)]),
    small("topk", "two", top_k=2),
    small("topk", "share", top_k=None, top_p=0.5),
    small("windowed", "causal", causal=True, window_size=2, score="rbf"),
])  # fmt: skip
def test_variants_keep_every_promise(subject, check):
    check(subject)


def test_they_are_found_by_name_and_say_what_they_are():
    found = {name: info for name, info in ruvattn.variants().items() if info.distribution == "ruvattn-sparse"}
    assert sorted(found) == sorted(NAMES)
    for name, info in found.items():
        assert isinstance(of(name), ruvattn.SparseAttention), name
        assert "sparse" in info.capabilities
        assert info.summary.endswith(".")
    assert found["windowed"].options == {"window_size": 128, "global_tokens": 0}


def test_every_variant_is_in_the_readme_with_its_options_and_their_defaults():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([a-z-]+) \| `([^`]+)` \|$", readme, flags=re.M))
    assert sorted(rows) == sorted(NAMES)
    for name, row in rows.items():
        assert row == ", ".join(f"{option}={default!r}" for option, default in ruvattn.variants()[name].options.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_demo_shows_it(name):
    sentences = demo.load_sentences()
    row = sentences.find("Lake Baikal")[0]
    result = demo.attend(sentences, row, ruvattn.variants()[name])
    assert len(result.best) == demo.BEST
    assert result.error < 1e-5
    topics = {sentences.topics[best] for best, _ in result.best}
    if name in ("block-sparse", "coo", "csr"):
        assert topics == {"geography"}
        assert result.note == f"its pairs: the {sentences.topics.count('geography') - 1} others on geography"
    elif name == "topk":
        assert result.note == ""
    else:
        assert result.note == f"stands at its own place, {row + 1} of {len(sentences)}"
    if name in ("windowed", "local-global"):
        assert max(abs(best - row) for best, _ in result.best) <= 129  # the query is not among the keys, which have closed up
    if name == "streaming":
        assert max(best for best, _ in result.best) <= row + 1


# --- other masks for a call -------------------------------------------------------------------------------------------

every_variant = pytest.mark.parametrize(
    "layer",
    [pytest.param((name, options), id=label) for label, (name, options, _) in RULES.items()]
    + [pytest.param(("topk", {"top_k": 2}), id="topk"), pytest.param(("bigbird", {"block_size": 4}), id="bigbird")],
)


@every_variant
def test_forward_sparse_attends_to_the_mask_instead(layer):
    name, options = layer
    q, k, v = sequences(29, lead=(2, 1))
    seen = np.random.default_rng(1).random((29, 29)) < 0.2
    expected = oracle(q, k, v, seen)
    variant = of(name, **options)
    for mask in (seen, sparse.coo_array(seen), np.argwhere(seen), COO.from_dense(seen), ruvattn.BoolMask(seen)):
        assert_close(variant.forward_sparse(q, k, v, mask), expected)
    assert_close(variant.get_attention_weights(), reference.attention_weights(split(q), split(k), mask=seen))


@every_variant
def test_forward_windowed_forward_strided_and_forward_topk_attend_to_theirs_instead(layer):
    name, options = layer
    q, k, v = sequences(29, 40, lead=(2,))
    variant = of(name, **options)
    near = np.array([[abs(i - j) <= 4 for j in range(40)] for i in range(29)])
    far = np.array([[abs(i - j) <= 1 or (i - j) % 9 == 0 for j in range(40)] for i in range(29)])
    assert_close(variant.forward_windowed(q, k, v, 4), oracle(q, k, v, near))
    assert_close(variant.forward_strided(q, k, v, 1, 9), oracle(q, k, v, far))
    assert_close(variant.forward_strided(q, k, v, window_size=1, stride=9), oracle(q, k, v, far))
    assert_close(variant.forward_topk(q, k, v, 6), oracle(q, k, v, best_keys(reference.attention_logits(split(q), split(k)), 6)))
    assert ((variant.get_attention_weights() > 0).sum(-1) == 6).all()
    # Its own is what it was.
    same = of(name, **options)
    x = sequences(29)
    np.testing.assert_array_equal(variant(*x), same(*x))


def test_the_other_options_of_a_variant_hold_for_masks_of_a_call_too():
    q, k, v = sequences(29)
    layer = of("windowed", window_size=1, causal=True, scale=0.3, softcap=2.0)
    common = {"causal": True, "scale": 0.3, "softcap": 2.0}
    assert_close(layer.forward_sparse(q, k, v, np.ones((29, 29), bool)), oracle(q, k, v, None, **common))
    logits = reference.attention_logits(split(q), split(k), **common)
    assert_close(layer.forward_topk(q, k, v, 3), oracle(q, k, v, best_keys(logits, 3), **common))
    near = np.array([[abs(i - j) <= 4 for j in range(29)] for i in range(29)])
    assert_close(layer.forward_windowed(q, k, v, 4, key_lengths=20), oracle(q, k, v, near, key_lengths=20, **common))
    extra = np.random.default_rng(3).random((29, 29)) < 0.8
    assert_close(layer.forward_windowed(q, k, v, 4, mask=extra), oracle(q, k, v, near & extra, **common))
    logits = np.where(extra, logits, -np.inf)
    assert_close(layer.forward_topk(q, k, v, 3, mask=extra), oracle(q, k, v, best_keys(logits, 3), **common))


def test_a_streaming_variant_takes_windows_of_a_call():
    q, k, v = sequences(29)
    layer = of("streaming", first=1, window=3)
    near = np.array([[abs(i - j) <= 4 for j in range(29)] for i in range(29)])
    assert_close(layer.forward_windowed(q, k, v, 4), oracle(q, k, v, near))
    assert_close(layer(q, k, v, window=(1, 0)), oracle(q, k, v, [[j <= i and i - j < 2 for j in range(29)] for i in range(29)]))


def test_dropout_of_a_variant_in_training_holds_for_masks_of_a_call():
    q, k, v = sequences(29)
    layer = of("windowed", dropout_rate=0.5)
    whole = layer.forward_windowed(q, k, v, 10)
    layer.training = True
    assert not np.allclose(layer.forward_windowed(q, k, v, 10), whole)
    again = [layer.forward_windowed(q, k, v, 10, dropout=0.5, seed=3) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    np.testing.assert_array_equal(layer.forward_windowed(q, k, v, 10, dropout=0.0), whole)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_follows_its_seed_whatever_the_number_of_threads(name):
    q, k, v = sequences(60)
    layer = of(name)
    first = layer(q, k, v, dropout=0.3, seed=7, threads=1)
    np.testing.assert_array_equal(layer(q, k, v, dropout=0.3, seed=7, threads=2), first)
    assert not np.array_equal(layer(q, k, v, dropout=0.3, seed=8), first)


# --- true positions ---------------------------------------------------------------------------------------------------


def at_positions(stand, lk):
    return np.array([[local_global(p, j, 0) for j in range(lk)] for p in stand])


def test_local_global_places_each_query_of_a_call():
    q, k, v = sequences(6, 40, lead=(2,))
    layer = of("local-global", window_size=2, global_tokens=2)
    stand = [30, 0, 7, 7, 39, -5]
    assert_close(layer(q, k, v, positions=stand), oracle(q, k, v, at_positions(stand, 40)))
    each = np.array([stand, [1, 2, 3, 38, 20, 90]], np.uint8 if min(stand) >= 0 else np.int16)
    expected = [oracle(q[b], k[b], v[b], at_positions(each[b].tolist(), 40)) for b in range(2)]
    assert_close(layer(q, k, v, positions=each), expected)
    weights = layer.get_attention_weights()
    assert ((weights[1] > 0) == at_positions(each[1].tolist(), 40)).all()
    nested = (x[:, None] for x in (q, k, v))
    assert_close(layer(*nested, positions=each[:, None]), np.array(expected)[:, None])


def test_the_masks_of_a_call_are_added_to_positions():
    q, k, v = sequences(6, 40)
    stand = np.array([30, 0, 7, 7, 39, 11])
    extra = np.random.default_rng(0).random((6, 40)) < 0.7
    found = of("local-global", window_size=2, global_tokens=2, scale=0.2)(q, k, v, positions=stand, mask=extra, key_lengths=35)
    assert_close(found, oracle(q, k, v, at_positions(stand, 40) & extra, key_lengths=35, scale=0.2))


def test_a_single_query_may_stand_anywhere():
    q, k, v = sequences(4, 40)
    layer = of("local-global", window_size=2, global_tokens=2)
    stand = [20, 0, 39, 3]
    expected = oracle(q, k, v, at_positions(stand, 40))
    assert_close(layer.forward_batch(q, k, v, positions=stand), expected)
    for row, position in enumerate(stand):
        assert_close(layer.forward(q[row], k, v, position=position), expected[row])
    assert_close(layer.forward(q[2], k, v), expected[2])


def test_a_causal_query_at_a_position_sees_what_is_before_it():
    q, k, v = sequences(2, 40)
    layer = of("local-global", window_size=3, causal=True)
    seen = [[abs(p - j) <= 3 and j <= p for j in range(40)] for p in (10, 30)]
    assert_close(layer.forward_batch(q, k, v, positions=[10, 30]), oracle(q, k, v, seen))


# --- configuration, copies, threads -----------------------------------------------------------------------------------

ARRAYS = {
    "windowed": {"global_tokens": np.array([3, 0], np.int32), "window_size": np.int64(2)},
    "dilated": {"dilation": np.array([1, 2, 4]), "window_size": 2},
    "bigbird": {"block_size": 4, "length": np.int64(99)},
    "streaming": {"first": 1, "window": 3},
    "block-sparse": {"block_size": 10, "active_blocks": np.tri(3, dtype=bool)},
    "block-sparse ": {"block_size": 10, "active_blocks": np.array([(0, 0, 1), (2, 1, 1)], np.uint8), "shape": (3, 3, 3)},
    "coo": {"pairs": np.array(PAIRS, np.int32)},
    "coo ": {"pairs": sparse.coo_array(np.eye(29))},
    "coo  ": {"pairs": np.ones((3, 29, 29), bool)},
    "csr": {"matrix": ROWS},
    "csr ": {"indptr": np.array([0, 1, 3], np.int32), "indices": np.array([7, 2, 1], np.uint8)},
    "topk": {"top_k": np.int16(4), "top_p": np.float32(0.5)},
}


@pytest.mark.parametrize(("name", "options"), [(name.strip(), options) for name, options in ARRAYS.items()], ids=ARRAYS)
def test_options_survive_json_pickling_and_copying(name, options):
    layer = of(name, **options, causal=True)
    q, k, v = sequences(29)
    expected = layer(q, k, v)
    text = layer.config.to_json()
    json.loads(text)
    made = ruvattn.AttentionConfig.from_json(text).create()
    assert made.config == layer.config
    for other in (made, pickle.loads(pickle.dumps(layer)), copy.copy(layer), copy.deepcopy(layer)):
        np.testing.assert_array_equal(other(q, k, v), expected)
        np.testing.assert_array_equal(other.forward_batch(q, k, v), layer.forward_batch(q, k, v))
        assert other.config == layer.config


def test_a_configuration_lists_each_pair_once_in_order():
    options = of("coo", pairs=[(5, 1), (0, 2), (5, 1), (5, 0)]).config.options
    assert options["pairs"] == ((0, 2), (5, 0), (5, 1))
    assert options["shape"] is None
    options = of("coo", pairs=sparse.coo_array(([0.0, 1.0], ([1, 0], [2, 0])), shape=(4, 5))).config.options
    assert (options["pairs"], options["shape"]) == (((0, 0), (1, 2)), (4, 5))
    options = of("csr", indptr=[0, 3, 3, 4], indices=[4, 1, 4, 0]).config.options
    assert (options["indptr"], options["indices"], options["num_keys"], options["matrix"]) == ((0, 2, 2, 3), (1, 4, 0), None, None)


def test_a_variant_keeps_what_it_was_made_of():
    pairs_given, tokens = np.array(PAIRS), np.array([0, 9])
    layers = of("coo", pairs=pairs_given), of("windowed", window_size=3, global_tokens=tokens)
    x = sequences(29)
    before = [layer(*x) for layer in layers]
    pairs_given[:], tokens[:] = 1, 5
    for layer, expected in zip(layers, before, strict=True):
        np.testing.assert_array_equal(layer(*x), expected)


def test_many_pairs_are_no_python_objects_until_somebody_asks():
    rows, keys = np.divmod(np.arange(0, 10**6, 10), 1000)
    given = np.stack([rows, keys], 1)
    tracemalloc.start()
    layer = of("coo", pairs=given)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 16 * len(given)  # a tuple of two ints takes 56, and its place in another one
    assert len(layer.config.options["pairs"]) == len(given)


@pytest.mark.parametrize("name", NAMES)
def test_its_own_mask_is_the_same_object_for_the_same_lengths(name):
    layer = of(name, **({"pairs": [(0, 0)]} if name == "coo" else {}))
    for single in (False, True):
        assert layer.own_mask(9, 40, single) is layer.own_mask(9, 40, single)


def test_patterns_that_are_made_for_a_call_are_kept_and_let_go():
    layer = of("bigbird", block_size=4)
    first = layer.own_mask(8, 8, False)
    assert layer.own_mask(8, 7, False) is first  # as many blocks
    for blocks in range(3, 200):
        assert layer.own_mask(8, 4 * blocks, False) is not first
    assert layer.own_mask(8, 8, False) is not first  # let go
    assert len(layer._kept._things) < 50


def test_threads_that_make_the_same_pattern_at_once_get_the_same_object():
    layer = of("bigbird", block_size=4)
    barrier, found = threading.Barrier(8), []

    def ask():
        barrier.wait()
        found.append(layer.own_mask(64, 64, False))

    team = [threading.Thread(target=ask) for _ in range(8)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


# --- how much it costs, and how much is too much -----------------------------------------------------------------------


def poisoned(lk, seen, width=64):
    """Keys of which all but those that are seen hold NaN: whoever reads one of them shows it."""
    k = np.full((lk, width), np.nan, np.float32)
    k[seen] = np.random.default_rng(0).standard_normal((len(seen), width))
    return k


@pytest.mark.parametrize(("name", "options", "seen"), [
    ("streaming", {"first": 4, "window": 100}, [0, 1, 2, 3, *range(19_900, 20_000)]),
    ("windowed", {"window_size": 50, "global_tokens": 2}, [0, 1, *range(19_949, 20_000)]),
    ("local-global", {"window_size": 50}, list(range(19_949, 20_000))),
    ("fixed", {"block_size": 100, "summary": 0}, list(range(19_900, 20_000))),
    ("strided", {"stride": 500, "window_size": 20}, [*range(499, 19_979, 500), *range(19_979, 20_000)]),
    ("dilated", {"window_size": 50, "dilation": 11}, list(range(19_449, 20_000, 11))),
])  # fmt: skip
def test_a_query_at_the_end_of_a_long_sequence_reads_the_keys_that_it_sees(name, options, seen):
    k = poisoned(20_000, seen)
    q = np.ones((1, 64), np.float32)
    layer = of(name, 64, 4, **options)
    expected = of("coo", 64, 4).forward(q[0], k[seen], k[seen])
    np.testing.assert_allclose(layer.forward(q[0], k, k), expected, atol=1e-5)
    np.testing.assert_allclose(layer(q, k, k, query_offset="end")[0], expected, atol=1e-5)
    np.testing.assert_allclose(layer(q[None], k[None], k[None], query_offset=19_999)[0, 0], expected, atol=1e-5)


def test_what_a_query_sees_is_checked_and_named_by_its_own_index():
    k = poisoned(20_000, range(20_000))
    k[19_950, 3] = np.nan
    layer = of("streaming", 64, 4, first=4, window=100)
    with pytest.raises(InvalidInputError, match=r"keys must be finite, got nan at index \(19950, 3\)"):
        layer.forward(np.ones(64, np.float32), k, k)


@pytest.mark.parametrize(("name", "options", "most"), [
    ("windowed", {"window_size": 3}, 7),
    ("strided", {"stride": 10, "window_size": 2}, 5 + 10),
    ("fixed", {"block_size": 10, "summary": 2}, 10 + 20),
    ("dilated", {"window_size": 3, "dilation": 4}, 7),
    ("streaming", {"first": 2, "window": 5}, 7),
    ("local-global", {"window_size": 3}, 7),
    ("bigbird", {"block_size": 5, "global_blocks": 0, "random_blocks": 1}, 20),
    ("coo", {"pairs": [(0, j) for j in range(9)]}, 9),
    ("csr", {"indptr": [0, 9], "indices": list(range(9))}, 9),
    ("block-sparse", {"block_size": 5, "active_blocks": [(0, 0), (0, 3), (1, 1)]}, 10),
    ("topk", {"top_k": 6}, 6),
])  # fmt: skip
def test_max_keys_counts_what_a_row_sees(name, options, most):
    q, k, v = sequences(100)
    of(name, **options, max_keys=most)(q, k, v)
    with pytest.raises(InputTooLargeError, match=f"a row would attend to {most}, and max_keys is {most - 1}"):
        of(name, **options, max_keys=most - 1)(q, k, v)


def test_a_global_query_sees_all_keys():
    with pytest.raises(InputTooLargeError, match="would attend to 100"):
        of("windowed", window_size=3, global_tokens=[0], max_keys=99)(*sequences(100))


@pytest.mark.parametrize(
    "mask", [Streaming(1, 4), Windowed(2) & ruvattn.Causal(), BlockSparse(50, [(0, 0), (1, 1)]), BigBird(5, global_blocks=0, length=100)]
)
def test_max_keys_counts_the_mask_of_a_call(mask):
    q, k, v = sequences(100)
    of("coo", max_keys=50)(q, k, v, mask=mask)
    of("coo", max_keys=50).forward_sparse(q, k, v, mask)
    with pytest.raises(InputTooLargeError):
        of("coo", max_keys=4)(q, k, v, mask=mask)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options", "message"), [
    ("windowed", {"window_size": -1}, "window_size must be an int from 0, got -1"),
    ("windowed", {"window_size": 2.5}, "window_size must be an int from 0, got 2.5"),
    ("windowed", {"global_tokens": [-3]}, "global_tokens must be positions from 0, got -3"),
    ("strided", {"stride": 0}, "stride must be an int from 1, got 0"),
    ("strided", {"window_size": -2}, "window_size must be an int from 0, got -2"),
    ("fixed", {"block_size": 4, "summary": 5}, "summary must be an int from 0 to 4, got 5"),
    ("dilated", {"dilation": 0}, "dilation must be an int from 1, got 0"),
    ("bigbird", {"window_blocks": 2}, "window_blocks must be odd"),
    ("bigbird", {"length": 0}, "length must be an int from 1, got 0"),
    ("streaming", {"first": -1}, "first must be an int from 0, got -1"),
    ("streaming", {"window": 0}, "window must be an int from 1, got 0"),
    ("streaming", {"window": (3, 0)}, r"window must be an int from 1, got \(3, 0\)"),
    ("topk", {"top_k": 0}, "top_k must be an int from 1, got 0"),
    ("topk", {"top_k": 2.0}, "top_k must be an int from 1, got 2.0"),
    ("topk", {"top_p": 1.5}, "top_p must be more than 0 and at most 1, got 1.5"),
    ("topk", {"top_p": 0}, "top_p must be a positive finite number, got 0"),
    ("topk", {"top_k": None}, "top_k or top_p must be given"),
    ("coo", {"pairs": [(0, 1), (2, 9)], "shape": (3, 9)}, r"pairs\[1\] is \(2, 9\), which is outside of \(3, 9\)"),
    ("coo", {"pairs": [(0, -1)]}, r"pairs\[0\] is \(0, -1\), which is below 0"),
    ("coo", {"pairs": [(0.5, 1.0)]}, "pairs must be ints"),
    ("coo", {"pairs": "all"}, "pairs must be ints"),
    ("coo", {"shape": (3, 3)}, r"shape must come with pairs, got \(3, 3\) alone"),
    ("csr", {"indptr": [0, 1, 2], "indices": [0, 9], "num_keys": 9}, r"indices\[1\] is 9, in row 1, which is outside of the 9 keys"),
    ("csr", {"indptr": [0, 0, 1], "indices": [-2]}, r"indices\[0\] is -2, in row 1, which is negative"),
    ("csr", {"indptr": [0, 2, 1, 3], "indices": [0, 1, 2]}, r"indptr must not fall, got indptr\[2\] = 1 after 2"),
    ("csr", {"indptr": [0, 4], "indices": [0, 1]}, "indptr must go from 0 to 2, the number of indices, got 0 to 4"),
    ("csr", {"indptr": [], "indices": []}, "indptr must go from 0 to 0, the number of indices, got nothing"),
    ("csr", {"indptr": [0, 1]}, "indptr and indices must both be given, got no indices"),
    ("csr", {"num_keys": 3}, "num_keys must come with indptr and indices"),
    ("csr", {"indptr": [0.0, 1.0], "indices": [0]}, "indptr must be ints in one axis"),
    ("csr", {"matrix": np.eye(3)}, "matrix must be a scipy.sparse array of two axes, got ndarray"),
    ("csr", {"matrix": ROWS, "num_keys": 29}, "matrix must stand alone"),
    ("block-sparse", {"block_size": 0}, "block_size must be an int from 1, got 0"),
    ("block-sparse", {"block_size": 4, "active_blocks": [(0, 2)], "shape": (2, 2)}, r"active_blocks\[0\] is \(0, 2\), which is outside of \(2, 2\)"),
    ("block-sparse", {"shape": (2, 2)}, "shape must come with active_blocks"),
    ("local-global", {"window_size": None}, "window_size must be an int from 0, got None"),
    ("windowed", {"window": 3}, "window must be a pair"),
    ("windowed", {"windowsize": 3}, "variant 'windowed' has no option 'windowsize'; its options: embed_dim, num_heads, window_size, global_"),
])  # fmt: skip
def test_an_option_that_makes_no_sense_is_named_when_a_variant_is_made(name, options, message):
    with pytest.raises(InvalidInputError, match=message):
        of(name, **options)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("dilated", {"dilation": [1, 2]}, "num_heads must be 2, .* got 3"),
    ("coo", {"pairs": [(0, 0, 0)], "shape": (2, 4, 4)}, "num_heads must be 2, .* got 3"),
    ("block-sparse", {"active_blocks": np.ones((4, 2, 2), bool)}, "num_heads must be 4, .* got 3"),
    ("coo", {"pairs": sparse.coo_array(np.eye(3)), "shape": (3, 4)}, r"shape must be that of pairs, \(3, 3\), got \(3, 4\)"),
    ("coo", {"pairs": np.eye(3, dtype=bool), "shape": 3}, r"shape must be that of pairs, \(3, 3\), got 3"),
    ("block-sparse", {"active_blocks": np.ones((2, 2), bool), "shape": (2, 3)}, "shape must be that of active_blocks"),
])  # fmt: skip
def test_a_mask_of_other_heads_or_another_shape_is_refused_when_a_variant_is_made(name, options, message):
    with pytest.raises(DimensionMismatchError, match=message):
        of(name, **options)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("coo", {"pairs": PAIRS, "shape": (29, 30)}, r"mask must be for \(Lq, Lk\) = \(10, 12\), got a COO for \(29, 30\)"),
    ("coo", {"pairs": PAIRS}, r"mask has the pair \(17, 20\), which is outside"),
    ("csr", {"matrix": ROWS}, r"mask must be for \(Lq, Lk\) = \(10, 12\)"),
    ("block-sparse", {"block_size": 4, "active_blocks": np.ones((3, 4), bool)}, "active_blocks has 4 blocks of keys, and 12 keys are 3 blocks of 4"),
    ("bigbird", {"length": 11}, "mask draws its blocks from 11 keys, and there are 12"),
])  # fmt: skip
def test_a_call_that_a_mask_is_not_for_is_refused(name, options, message):
    with pytest.raises(DimensionMismatchError, match=message):
        of(name, **options)(*sequences(10, 12))


@pytest.mark.parametrize("name", ["coo", "csr", "block-sparse"])
def test_keys_that_the_last_row_is_not_for_are_refused(name):
    options = {
        "coo": {"pairs": PAIRS, "shape": (29, 29)},
        "csr": {"matrix": ROWS},
        "block-sparse": {"block_size": 4, "active_blocks": np.ones((3, 4), bool)},
    }[name]
    q, k, v = sequences(1, 12)
    with pytest.raises(DimensionMismatchError):
        of(name, **options).forward(q[0], k, v)


def test_blocks_need_not_divide_the_length():
    q, k, v = sequences(10, 13)
    active = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]], bool)
    seen = np.array([[active[i // 4, j // 4] for j in range(13)] for i in range(10)])
    assert_close(of("block-sparse", block_size=4, active_blocks=active)(q, k, v), oracle(q, k, v, seen))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda layer, x: layer.forward_windowed(*x, -1), InvalidInputError, "window_size must be an int from 0, got -1"),
    (lambda layer, x: layer.forward_strided(*x, 2, 0), InvalidInputError, "stride must be an int from 1, got 0"),
    (lambda layer, x: layer.forward_strided(*x, -2, 3), InvalidInputError, "window_size must be an int from 0, got -2"),
    (lambda layer, x: layer.forward_topk(*x, 0), InvalidInputError, "k must be an int from 1, got 0"),
    (lambda layer, x: layer.forward_sparse(*x, np.ones((10, 11), bool)), DimensionMismatchError, "mask must broadcast"),
    (lambda layer, x: layer.forward_sparse(*x, sparse.csr_array((9, 12))), DimensionMismatchError, "mask must be for"),
    (lambda layer, x: layer.forward_sparse(*x, np.ones((10, 12))), InvalidInputError, "mask must be a SparseMask, a Pattern"),
    (lambda layer, x: layer.forward_sparse(*x, None), InvalidInputError, "mask must be a SparseMask"),
    (lambda layer, x: layer.forward_sparse(*x, [(0, 12)]), DimensionMismatchError, r"pair \(0, 12\)"),
    (lambda layer, x: layer(*x, positions=[1, 2]), DimensionMismatchError, "positions must be one for each of the 10 queries"),
    (lambda layer, x: layer(*x, positions=np.zeros((2, 10), int)), DimensionMismatchError, r"positions must be one for each query"),
    (lambda layer, x: layer(*x, positions=np.zeros(10)), InvalidInputError, "positions must be ints"),
    (lambda layer, x: layer([[1.0, 2.0], [3.0]], *x[1:], positions=[0]), InvalidInputError, "q is no array of numbers"),
    (lambda layer, x: layer.forward(x[0][0], *x[1:], position=1.5), InvalidInputError, "position must be an int"),
    (lambda layer, x: layer.forward_batch(*x, positions=[0] * 9), DimensionMismatchError, "positions must be one for each of the 10 queries"),
    (lambda layer, x: layer.forward_batch(*x, positions=["a"] * 10), InvalidInputError, "positions must be ints"),
])  # fmt: skip
def test_an_argument_of_a_call_that_makes_no_sense_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(of("local-global"), sequences(10, 12))


def test_more_keys_than_there_are_is_all_of_them():
    q, k, v = sequences(10, 12)
    assert_close(of("topk", top_k=10**9)(q, k, v), oracle(q, k, v, None))
    assert_close(of("windowed").forward_topk(q, k, v, 10**30), oracle(q, k, v, None))
