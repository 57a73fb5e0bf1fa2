"""Hooks that are read rather than called, and what registration enters: each has the effect that docs/authors/hooks.md says.

`test_hooks.py` asks that there is a test here for each of them.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hook_page import PER_HEAD, E, K, Q, V, X, checkout

import ruvattn
from ruvattn import plugins, registry
from ruvattn.context import RecomputedContext
from ruvattn.errors import CheckpointError, DimensionMismatchError, InvalidInputError
from ruvattn.headwise import HeadwiseAttention
from ruvattn.scores import BoundScore
from ruvattn.testing import CheckFailure, check_variant, suite
from ruvattn.testing.runner import checks_of

pytestmark = checkout


@pytest.fixture
def registered(fake_plugins):
    """The status of a plugin that registers what the page's example does."""
    source = "import sys\npage = sys.modules['hook_examples']\nRUVATTN_API, ruvattn_register = page.RUVATTN_API, page.ruvattn_register"
    fake_plugins.install("ruvattn-hooks", source, api="")
    (status,) = [status for status in plugins.status() if status.distribution == "ruvattn-hooks"]
    return status


def made(base, **attributes):
    return type(base.__name__, (base,), attributes)


def check(name, subject, family):
    (found,) = [check for check in checks_of(family) if check.name == name]
    return found(subject)


# --- registration --------------------------------------------------------------------------------------------------------


def test_hook_RUVATTN_API(registered):  # noqa: N802
    assert registered.api == E.RUVATTN_API


def test_hook_ruvattn_register(registered):
    assert registered.error is None, registered.traceback
    assert registered.provides == {
        "variant": ("mean-hooks",), "score": ("manhattan-hooks",), "pattern": ("chunks-hooks",), "aggregate": ("rms-hooks",),
        "manifold": ("flat-hooks",), "demo": ("spread-hooks",),
    }  # fmt: skip


def test_hook_variant(registered):
    assert type(ruvattn.create("mean-hooks", embed_dim=8, num_heads=2)) is E.MeanAttention
    assert ruvattn.variants()["mean-hooks"].capabilities == ("trainable",)


def test_hook_score(registered):
    np.testing.assert_array_equal(ruvattn.attention(Q, K, V, score="manhattan-hooks"), ruvattn.attention(Q, K, V, score=E.Manhattan()))


def test_hook_pattern(registered):
    assert registry.get_pattern("chunks-hooks", sizes=(1, 2)).sizes == (1, 2)


def test_hook_aggregate(registered):
    np.testing.assert_array_equal(ruvattn.attention(Q, K, V, aggregate="rms-hooks"), ruvattn.attention(Q, K, V, aggregate=E.RootMeanSquare()))


def test_hook_manifold(registered):
    assert isinstance(registry.get_manifold("flat-hooks"), E.Flat)


def test_hook_demo(registered):
    assert registry.show_demo("spread-hooks").lines[0].startswith("Half of the weight")


# --- scores --------------------------------------------------------------------------------------------------------------


class Looking(ruvattn.Score):
    """Keeps the last tile."""

    def logits(self, t):
        self.tile = t
        return t.dots.sum(0)


def test_hook_score_splits():
    score = made(Looking, splits=(3, -1))()
    np.testing.assert_allclose(ruvattn.attention_logits(Q, K, score=score), Q @ K.swapaxes(1, 2))
    assert score.tile.dots.shape[0] == 2
    with pytest.raises(DimensionMismatchError, match="splits of Looking"):
        ruvattn.attention(Q, K, V, score=made(Looking, splits=(3, 4))())


@pytest.mark.parametrize("vectors", [False, True])
def test_hook_score_vectors(vectors):
    score = made(Looking, vectors=vectors)()
    ruvattn.attention(Q, K, V, score=score)
    assert (score.tile.q is not None) == (score.tile.k is not None) == vectors


def test_hook_score_params():
    score = made(Looking, params={"a": PER_HEAD, "b": np.arange(8.0).reshape(4, 2), "scale": 1.0})()
    seen = []
    score.logits = lambda t: seen.append(t.params) or t.dots[0] * t.params["scale"]
    np.testing.assert_allclose(ruvattn.attention_logits(Q, K, score=score, scale=0.5), 0.5 * Q @ K.swapaxes(1, 2))
    assert sorted({float(params["a"]) for params in seen}) == PER_HEAD.tolist()
    assert {params["b"].shape for params in seen} == {(2,)}


def test_hook_score_domains():
    with pytest.raises(InvalidInputError, match=r"weight must be in the open interval \(0, inf\) for Spacetime, got -0.5"):
        ruvattn.attention(Q, K, V, score=E.Spacetime(-0.5))


def test_hook_score_symmetric():
    with pytest.raises(InvalidInputError, match="says that it is symmetric, and has 1 row terms and 0 column terms"):
        ruvattn.attention(Q, K, V, score=made(Looking, symmetric=True, row_terms=lambda self, q, pos: (q[..., 0],))())
    with pytest.raises(CheckFailure, match="symmetric"):
        check(
            "symmetric_if_it_says_so",
            made(Looking, symmetric=True, splits=(), logits=lambda self, t: t.q @ np.roll(t.k, 1, -1).T, vectors=True)(),
            "score",
        )


def test_hook_score_kernels():
    import ruvattn_example

    score = ruvattn_example.CompiledRbf()
    score.kernels = {"float32": score.kernels["float32"]}
    score.logits = None  # a call of the form in NumPy is an error
    assert ruvattn.attention(*(x.astype(np.float32) for x in (Q, K, V)), score=score).dtype == np.float32
    with pytest.raises(TypeError):
        ruvattn.attention(Q, K, V, score=score)


def edges(**options):
    q, k = (x[:, :6, :1] for x in (Q, K))
    return ruvattn.edge_attention(q, k, V[:, :6], np.arange(0, 13, 2), np.arange(12) % 6, **options)


def test_hook_score_edge_terms():
    import ruvattn_graph

    score = ruvattn_graph.AdditiveScore(edge_terms=2)
    terms = np.random.default_rng(0).standard_normal((12, 3))
    expected = edges(score=score, edge_terms=terms[:, :2])
    score.logits = None
    np.testing.assert_array_equal(edges(score=score, edge_terms=terms[:, :2]), expected)
    with pytest.raises(TypeError):  # three terms are for NumPy
        edges(score=score, edge_terms=terms)


def test_hook_score_leaky():
    import ruvattn_graph

    class CallsTheCompiledForm(ruvattn_graph.AdditiveScore):
        """What a class says of its own form says nothing of a subclass's."""

    classes = (ruvattn_graph.AdditiveScore, CallsTheCompiledForm)
    kinds = [BoundScore(cls(), Q[:, :, :1], K[:, :, :1], np.arange(50), cls().params).leaky for cls in classes]
    assert kinds == ["sum", None]
    np.testing.assert_allclose(edges(score=ruvattn_graph.AdditiveScore()), edges(score=CallsTheCompiledForm()), atol=1e-12)


# --- patterns ------------------------------------------------------------------------------------------------------------


def test_hook_pattern_by_head():
    own, same = E.Chunks(), made(E.Chunks, by_head=False)()
    weights = ruvattn.attention_weights(Q, K, mask=own) > 0
    assert [int(weights[head, 0].sum()) for head in range(4)] == [8, 8, 16, 32]
    assert (ruvattn.attention_weights(Q, K, mask=same) > 0).sum(-1)[:, 0].tolist() == [8] * 4


class FirstKeys(ruvattn.Pattern):
    """The first keys, one more in each batch entry."""

    def allowed(self, i, j, *, head=0, batch=0):
        return (j <= batch) | (i < -100)


@pytest.mark.parametrize(("by_batch", "counts"), [(True, [1, 2]), (False, [1, 1])])
def test_hook_pattern_by_batch(by_batch, counts):
    q = np.stack([Q, K])
    assert (ruvattn.attention_weights(q, q, mask=made(FirstKeys, by_batch=by_batch)()) > 0).sum(-1)[:, 0, 0].tolist() == counts


@pytest.mark.parametrize("row_block", [1, 7])
def test_hook_pattern_row_block(row_block):
    asked = []

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        asked.append(i0)
        return [0], [lk], [True]

    q = np.concatenate([Q, Q, Q, Q, Q, Q], 1)
    ruvattn.attention(q, K, V, mask=made(FirstKeys, row_block=row_block, ranges=ranges)())
    assert len(asked) > 1
    assert all(i0 % row_block == 0 for i0 in asked)


@pytest.mark.parametrize(("positional", "row"), [(True, 3), (False, 0)])
def test_hook_pattern_positional(positional, row):
    pattern = made(ruvattn.Pattern, positional=positional, allowed=lambda self, i, j, *, head=0, batch=0: i == j)()
    assert (ruvattn.attention_weights(Q, K, mask=pattern, query_offset=3) > 0)[0, 0].nonzero()[0].tolist() == [row]


@pytest.mark.parametrize("scattered", [True, False])
def test_hook_pattern_scattered(scattered):
    asked = []

    def pairs(self, i0, i1, lk, *, head=0, batch=0):
        asked.append(i0)
        return E.Listed.pairs(self, i0, i1, lk, head=head, batch=batch)

    ruvattn.attention(Q, K, V, mask=made(E.Listed, scattered=scattered, pairs=pairs)([[3, 7], [0]]))
    assert bool(asked) == scattered


def test_hook_pattern_passing():
    """What is made of a pattern for one call is for one call too, so that nobody plans ahead for it."""
    for passing in (True, False):
        pattern = made(FirstKeys, passing=passing)()
        assert (pattern & ruvattn.Causal()).passing == (~pattern).passing == passing


# --- aggregates ----------------------------------------------------------------------------------------------------------


def test_hook_aggregate_linear():
    np.testing.assert_allclose(ruvattn.attention(Q, K, V, aggregate=made(E.Sharpened, linear=True)()), ruvattn.attention(Q, K, V))
    assert not np.allclose(ruvattn.attention(Q, K, V, aggregate=E.Sharpened()), ruvattn.attention(Q, K, V))


def test_hook_aggregate_params():
    aggregate = E.RootMeanSquare(PER_HEAD)
    out, lse = ruvattn.attention(Q, K, V, aggregate=aggregate, return_lse=True)
    found = ruvattn.attention_backward(out, Q, K, V, out, lse, aggregate=aggregate, wrt=("aggregate.floor",))
    assert found["aggregate.floor"].shape == (4,)
    with pytest.raises(InvalidInputError, match="ceiling"):
        ruvattn.attention_backward(out, Q, K, V, out, lse, aggregate=aggregate, wrt=("aggregate.ceiling",))


# --- variants ------------------------------------------------------------------------------------------------------------


def test_hook_variant_training():
    layer = E.OnFlat(8, 2, dropout_rate=0.5)
    np.testing.assert_array_equal(layer(X), layer(X))
    layer.training = True
    assert not np.array_equal(layer(X), layer(X))


@pytest.mark.parametrize("cache", [True, False])
def test_hook_variant_gradient_cache(cache):
    layer = E.OnFlat(8, 2)
    layer.gradient_cache = cache
    assert isinstance(layer.forward_with_context(X)[1], RecomputedContext) == (not cache)


def test_hook_variant_checkpoint_options(tmp_path):
    E.Tempered(8, 2, max_keys=50).save_checkpoint(tmp_path / "layer")
    E.Tempered(8, 2, max_keys=60).load_checkpoint(tmp_path / "layer")
    strict = type("Strict", (E.Tempered,), {"checkpoint_options": ("max_keys",)})
    strict(8, 2, max_keys=50).load_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="max_keys"):
        strict(8, 2, max_keys=60).load_checkpoint(tmp_path / "layer")


def test_hook_variant_initial_options(tmp_path):
    E.Tempered(8, 2, reach=3).save_checkpoint(tmp_path / "layer")
    with pytest.raises(CheckpointError, match="reach"):
        E.Tempered(8, 2, reach=4).load_checkpoint(tmp_path / "layer")
    type("Lenient", (E.Tempered,), {"initial_options": ("reach",)})(8, 2, reach=4).load_checkpoint(tmp_path / "layer")


def test_hook_variant_manifold():
    class Elsewhere(E.Flat):
        def exp_map(self, base, tangent):
            return np.full(np.shape(base), 7.0)

    assert (made(E.OnFlat, manifold=Elsewhere())(8).exp_map(X, X) == 7).all()


# --- variants of heads ---------------------------------------------------------------------------------------------------


def test_hook_heads_attention_type():
    assert E.Doubled(8).config.attention_type == "doubled-hooks"


@pytest.mark.parametrize(("positional", "place"), [(True, "end"), (False, 0)])
def test_hook_heads_positional(positional, place):
    layer, x = made(E.Tempered, positional=positional)(8, 2, reach=2), X[0]
    np.testing.assert_allclose(layer.forward(x[0], x, x), layer(x[:1], x, x, query_offset=place)[0])


def test_hook_heads_common_options():
    assert "score" in E.Doubled(8).config.options
    assert set(made(E.Doubled, common_options=("softcap", "check_finite"))(8).config.options) == {"softcap", "check_finite"}


def test_hook_heads_splits_width():
    class Wide(HeadwiseAttention):
        attention_type = "wide-hooks"
        splits_width = False

        def project_inputs(self, q, k, v):
            return np.tile(q, 2), np.tile(k, 2), np.tile(v, 2)

    assert Wide(9, 2)(np.ones((4, 9)), np.ones((4, 9)), np.ones((4, 6))).shape == (4, 12)
    with pytest.raises(InvalidInputError, match="num_heads must divide embed_dim, which is 9, got 2"):
        made(Wide, splits_width=True)(9, 2)


def test_hook_heads_learns_itself():
    assert made(E.Doubled, learns_itself=("own",))(8, learn=("own",)).config.options["learn"] == ("own",)
    with pytest.raises(InvalidInputError, match="learn must name parameters, got 'own'"):
        E.Doubled(8, learn=("own",))


class Shared(HeadwiseAttention):
    """One head of keys and values for all heads of queries, keys of half the width."""

    attention_type = "shared-hooks"

    def __init__(self, embed_dim, num_heads=2, **options):
        super().__init__(embed_dim, num_heads, **options)
        self.key_dim, self.value_dim, self.num_kv_heads = embed_dim // num_heads, 3, 1


def test_hook_heads_num_kv_heads():
    layer = Shared(8, 2)
    _, context = layer.forward_with_context(X, X[..., :4], X[..., :3])
    assert (context.q.shape[1], context.k.shape[1], context.v.shape[1]) == (2, 1, 1)


def test_hook_heads_key_dim():
    with pytest.raises(DimensionMismatchError, match="k must have width 4, got 8"):
        Shared(8, 2)(X, X, X[..., :3])


def test_hook_heads_value_dim():
    with pytest.raises(DimensionMismatchError, match="v must have width 3, got 8"):
        Shared(8, 2)(X, X[..., :4], X)


# --- how a subject is tried ----------------------------------------------------------------------------------------------


def test_hook_conformance_inputs():
    roles = set()

    def drawn(self, rng, role, shape):
        roles.add(role)
        return rng.standard_normal(shape)

    check("agrees_with_oracle", made(E.OnTheSphere, conformance_inputs=drawn)(), "score")
    assert roles == {"query", "key"}


def test_hook_conformance_widths():
    check("agrees_with_oracle", E.Spacetime(), "score")
    with pytest.raises(DimensionMismatchError, match="and q has width 1"):
        check("agrees_with_oracle", made(E.Spacetime, conformance_widths=(1,))(), "score")


def test_hook_conformance_heads():
    check("agrees_with_oracle", made(E.RootMeanSquare, conformance_heads=3)(np.array([0.1, 0.2, 0.3])), "aggregate")
    with pytest.raises(ValueError, match="broadcast"):
        check("agrees_with_oracle", made(E.RootMeanSquare, conformance_heads=2)(np.array([0.1, 0.2, 0.3])), "aggregate")


def test_hook_conformance_shape():
    check("agrees_with_oracle", E.Chunks(), "pattern")
    with pytest.raises(DimensionMismatchError, match="Chunks has sizes for 4 heads"):
        check("agrees_with_oracle", made(E.Chunks, conformance_shape=None)(), "pattern")


def test_hook_conformance_sizes():
    tried = set()

    def factory(embed_dim, num_heads=1):
        tried.add((embed_dim, num_heads))
        return E.MeanAttention(embed_dim, num_heads)

    factory.conformance_sizes = ((4, 1), (6, 2))
    check_variant(factory)
    assert {size for size in tried if all(isinstance(number, int) and number > 0 for number in size)} == {(4, 1), (6, 2)}


def test_hook_conformance_options(fake_plugins):
    fake_plugins.install(
        "ruvattn-needs",
        """
        from ruvattn.patterns import Window

        class Told(Window):
            conformance_options = ({"left": 1, "right": 0}, {"left": 2, "right": 2})

        def ruvattn_register(registry):
            registry.pattern("told", Told)
            registry.pattern("untold", Window)
        """,
    )
    subjects = {subject.name: subject for subject in suite("patterns", distributions=["ruvattn-needs"])}
    assert [subject.target is not None for name, subject in subjects.items() if name.startswith("told")] == [True, True]
    assert subjects["untold"].target is None


def test_hook_edge_dim():
    """Where a variant says so, its edges have features: this one has no use for them, and says so."""
    check("graph_shapes_and_dtypes", E.ByEdges, "variant")
    seen = []

    class Featured(E.ByEdges):
        edge_dim = 3

        def forward_with_edges(self, query, keys, values, edge_index, edge_attr=None):
            seen.append(None if edge_attr is None else np.shape(edge_attr)[1])
            return super().forward_with_edges(query, keys, values, edge_index)

    check("graph_shapes_and_dtypes", Featured, "variant")
    assert 3 in seen


def test_hook_neighborhood_hops():
    check("graph_nodes_see_their_neighborhood", E.ByEdges, "variant")

    class TwoHops(E.ByEdges):
        def forward_graph(self, x, edge_index, edge_attr=None):
            once = super().forward_graph(x, edge_index)
            return once + super().forward_graph(once, edge_index)

    with pytest.raises(CheckFailure):
        check("graph_nodes_see_their_neighborhood", TwoHops, "variant")
    TwoHops.neighborhood_hops = 2
    check("graph_nodes_see_their_neighborhood", TwoHops, "variant")


def test_partial_factories_can_say_how_they_are_tried():
    factory = functools.partial(E.MeanAttention)
    factory.conformance_sizes = ((4, 2),)
    check("can_be_made", factory, "variant")
