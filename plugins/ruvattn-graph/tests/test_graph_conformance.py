"""Every promise of the conformance suite, for each variant and score of the plugin, in the forms that their options give them."""

import functools

import pytest

import ruvattn
from ruvattn.testing import parametrize_with_checks

pytest.importorskip("ruvattn_graph", reason="pip install ./plugins/ruvattn-graph first")

NAMES = ("edge-featured", "gat", "gatv2", "gin", "graph-rope", "graph-transformer", "sage")
OPTIONS = ({}, {"head_dim": 5}, {"head_dim": 3, "dtype": "float64", "bias": False})
OWN = {
    "edge-featured": {"edge_dim": 3, "concat": False},
    "gat": {"residual": True, "edge_dim": 2, "key_dim": 7},
    "gatv2": {"share_weights": True, "concat": False},
    "gin": {"hidden_dim": 3, "train_eps": True, "eps": 0.5},
    "graph-rope": {"max_hops": 1, "root_weight": False, "key_dim": 7},
    "graph-transformer": {"beta": True, "key_dim": 7, "concat": False},
    "sage": {"aggregation": "attention", "normalize": True},
}


def subjects():
    """Each variant plain, and with options of all and of its own."""
    aggregations = [("sage", {"aggregation": how}) for how in ("max", "pool")]
    for name, options in [*((each, options) for each in NAMES for options in (*OPTIONS, OWN[each])), *aggregations]:
        called = " ".join([name, *(f"{option}={value}" for option, value in options.items())])
        yield called, functools.partial(ruvattn.create, name, **options)


@parametrize_with_checks(dict(subjects()))
def test_conformance(subject, check):
    check(subject)
