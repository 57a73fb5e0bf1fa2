"""Every hook is documented, with its signature and an example, and tested: the core calls it, and what it says has an effect.

    members of the base classes ──► rows of the tables in docs/authors/hooks.md      one missing, or with another signature: a test fails
    rows that don't "follow"    ──► CALLED, a scenario in which the hook is called   one in neither: a test fails
                                ├─► ABSTRACT, without which no instance can be made
                                └─► test_hook_<name> in test_hook_attributes.py

A hook that is called is tested by taking it away: in a scenario that works, the same class with a hook that raises has to raise that.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from hook_page import PER_HEAD, E, K, Q, V, X, checkout, page, rows

import ruvattn
from ruvattn import (
    Aggregate,
    Attention,
    GeometricAttention,
    GraphAttention,
    Manifold,
    Pattern,
    Score,
    SparseAttention,
    TrainableAttention,
    hookspecs,
    reference,
    registry,
    testing,
)
from ruvattn.headwise import HeadwiseAttention
from ruvattn.registry import Registry
from ruvattn.training import RiemannianAdam, RiemannianSGD

pytestmark = checkout

SECTIONS = {
    "Registration": [Registry],
    "Scores": [Score],
    "Patterns": [Pattern],
    "Aggregates": [Aggregate],
    "Manifolds": [Manifold],
    "Variants": [Attention, TrainableAttention, SparseAttention, GraphAttention, GeometricAttention],
    "Variants of heads": [HeadwiseAttention],
    "How a subject is tried": [],
}
"""The sections of the page, and the classes whose members each has to have."""


# --- what there is -------------------------------------------------------------------------------------------------------


def own_members(cls):
    """The public members of a class that plugins can override or set, but those that `object` and its other bases have as well."""
    names = {**getattr(cls, "__annotations__", {}), **vars(cls)}
    return {name for name in names if not name.startswith("_")}


def members(cls):
    """Those of a class, and of what only puts it together."""
    if cls is not HeadwiseAttention:
        return own_members(cls)
    bases = [base for base in cls.__mro__ if base.__module__.startswith("ruvattn.") and base not in (Attention, TrainableAttention)]
    return set().union(*map(own_members, bases))


# --- documented ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_every_member_has_a_row_in_its_section(section):
    documented = {row.name for row in rows(section)}
    for cls in SECTIONS[section]:
        assert members(cls) - documented == set(), cls.__name__
    if section == "Registration":
        hooks = {name for name in vars(hookspecs) if name.startswith("ruvattn_")}
        assert {*hooks, "RUVATTN_API", *registry.KINDS} <= documented
    if section == "How a subject is tried":
        wanted = set(re.findall(r"^    (\w+) {2,}of|^    (conformance_\w+)", testing.__doc__, re.MULTILINE))
        assert {name for pair in wanted for name in pair if name} <= documented


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_is_of_something_that_there_is(section):
    known = set().union(*map(members, SECTIONS[section])) | {"RUVATTN_API", "ruvattn_register"}
    if SECTIONS[section]:
        assert {row.name for row in rows(section)} <= known


@pytest.mark.parametrize("section", [section for section in SECTIONS if section != "How a subject is tried"])
def test_every_row_has_the_signature_and_says_when_and_what(section):
    for row in rows(section):
        assert len(row.cells) == 2 and all(len(cell) > 3 for cell in row.cells), row.name
        owners = [cls for cls in SECTIONS[section] if hasattr(cls, row.name)] or ([hookspecs] if row.name == "ruvattn_register" else [])
        things = [getattr(owner, row.name) for owner in owners]
        functions = [thing for thing in things if inspect.isfunction(thing)]
        assert (row.parameters is not None) == bool(functions), f"{row.name}: a method is written with its parameters, an attribute without"
        if functions:
            wanted = [name for name in inspect.signature(functions[0]).parameters if name != "self"]
            given = [part.split("=")[0].strip("* ") for part in re.split(r",\s*(?![^(]*\))", row.parameters) if part.strip()]
            assert given == wanted, row.name


@pytest.mark.parametrize("section", SECTIONS)
def test_every_hook_has_an_example(section):
    python = page()[section].python
    elsewhere = {"edge_dim", "neighborhood_hops"}  # of graphs: what the plugin of graphs has
    common = {"common_options", "splits_width", "learns_itself", "key_dim", "value_dim", "num_kv_heads", "recompute", "learned_vjp", "keys_seen",
              "part_options", "save_checkpoint", "load_checkpoint", "update_parameters", "config", "parameters", "check_parameters", "attend",
              "forward", "forward_batch", "backward", "embed_dim", "num_heads"}  # fmt: skip
    for row in rows(section):
        if row.name in elsewhere or (row.name in common and section == "Variants of heads") or row.follows:
            continue
        assert re.search(rf"\b{row.name}\b", python), row.name


# --- called --------------------------------------------------------------------------------------------------------------


def with_(*args, **options):
    """How to make one."""
    return lambda cls: cls(*args, **options)


def attend(**options):
    return lambda made: ruvattn.attention(Q, K, V, **{name: made if value is ... else value for name, value in options.items()})


def back(part, wrt=("q", "k", "v")):
    def scenario(made):
        out, lse = ruvattn.attention(Q, K, V, return_lse=True, **{part: made})
        ruvattn.attention_backward(out, Q, K, V, out, lse, wrt=wrt, **{part: made})

    return scenario


def trained(**options):
    def scenario(made):
        out = made(X, **options)
        made.backward(out)
        made.update_parameters(ruvattn.training.SGD(1e-3))

    return scenario


def without_cache(made):
    made.gradient_cache = False
    made.backward(made(X))


def stepped(made):
    for optimizer in (RiemannianAdam(0.1, manifolds={"p": made}), RiemannianSGD(0.1, manifolds={"p": made}, momentum=0.5)):
        for _ in range(2):
            optimizer.step({"p": np.array([1.0, 2.0])}, {"p": np.array([0.5, 0.5])})


def reduced_by_head(made):
    """The oracle takes heads by themselves."""
    reference.attention(Q, K, V, aggregate=made)


# Class of an example, what it is made with, how it is used, and the hooks that this has to call.
CALLED = {
    "Scores": [
        ("Spacetime", with_(PER_HEAD), attend(score=...), ("logits", "row_terms", "col_terms")),
        ("Spacetime", with_(PER_HEAD), back("score"), ("logits_vjp", "row_terms_vjp", "col_terms_vjp")),
    ],
    "Patterns": [
        ("Chunks", with_(), attend(mask=...), ("ranges", "check_fits")),
        ("Dilated", with_(3), attend(mask=...), ("allowed",)),
        ("Listed", with_([[3, 7], [0]]), attend(mask=...), ("pairs",)),
        ("EveryOther", with_(), attend(mask=...), ("strided_parts",)),
    ],
    "Aggregates": [
        ("RootMeanSquare", with_(PER_HEAD), attend(aggregate=...), ("values", "finish")),
        ("RootMeanSquare", with_(PER_HEAD), reduced_by_head, ("for_head",)),
        ("RootMeanSquare", with_(PER_HEAD), back("aggregate", ("v", "aggregate.floor")),
         ("values_vjp", "finish_vjp", "values_params_vjp", "finish_params_vjp")),
        ("Sharpened", with_(), attend(aggregate=...), ("reduce",)),
        ("Sharpened", with_(), back("aggregate", ("v", "aggregate.gain")), ("reduce_vjp", "reduce_params_vjp")),
    ],
    "Manifolds": [
        ("Flat", with_(), stepped, ("exp_map", "project", "transport", "inner_product")),
        ("Flat", with_(), stepped, ("riemannian_gradient",)),
    ],
    "Variants": [
        ("MeanAttention", with_(8), trained(), ("attend", "backward", "parameters", "check_parameters")),
        ("MeanAttention", with_(8), repr, ("config",)),
    ],
    "Variants of heads": [
        ("Tempered", with_(8, 2), trained(), ("own_mask", "project_inputs", "attend_heads", "complete")),
        ("Tempered", with_(8, 2), trained(), ("project_inputs_vjp", "attend_heads_vjp", "complete_vjp", "learned_vjp")),
        ("Tempered", with_(8, 2), lambda made: made(X), ("keys_seen",)),
        ("Doubled", with_(8, 2), lambda made: made.backward(made(X)), ("project_output", "output_dim", "project_output_vjp")),
        ("Tempered", with_(8, 2), without_cache, ("recompute",)),
        ("Tempered", with_(8, 2), copy.copy, ("part_options",)),  # made anew from the configuration
        ("Tempered", with_(8, 2, reach=3, max_keys=8), lambda made: made(X), ("keys_attended",)),
    ],
}  # fmt: skip


class Called(Exception):
    """What a hook raises in the place of what it does."""


def cases():
    for section, entries in CALLED.items():
        for name, arguments, scenario, hooks in entries:
            for hook in hooks:
                yield pytest.param(name, arguments, scenario, hook, id=f"{section}-{hook}")


@pytest.mark.parametrize(("name", "arguments", "scenario", "hook"), list(cases()))
def test_the_core_calls_the_hook_and_needs_what_it_returns(name, arguments, scenario, hook):
    working = getattr(E, name)
    scenario(arguments(working))

    def broken(self, *args, **options):
        raise Called(hook)

    made = arguments(working)
    made.__class__ = type(name, (working,), {hook: property(broken) if hook == "config" else broken})
    with pytest.raises(Called, match=hook):
        scenario(made)


ABSTRACT = [
    (cls, name)
    for cls in ("Flat", "AnyPairs", "ByEdges", "OnFlat", "MeanAttention")
    for base in (Manifold, SparseAttention, GraphAttention, GeometricAttention, TrainableAttention)
    if issubclass(getattr(E, cls, type(None)), base)
    for name in sorted(base.__abstractmethods__)
    if name in vars(getattr(E, cls))
]


@pytest.mark.parametrize(("name", "hook"), ABSTRACT)
def test_a_class_that_lacks_the_hook_cannot_be_made(name, hook):
    working = getattr(E, name)
    lacking = {key: value for key, value in vars(working).items() if key not in (hook, "__dict__", "__weakref__", "__abstractmethods__", "_abc_impl")}
    make = type(working)(name, working.__bases__, lacking)
    arguments = () if issubclass(working, Manifold) else (8,)
    assert isinstance(working(*arguments), working)
    with pytest.raises(TypeError, match=rf"abstract method '?{hook}"):
        make(*arguments)


def test_every_hook_that_does_not_follow_is_tested():
    attributes = ast.parse((Path(__file__).parent / "test_hook_attributes.py").read_text(encoding="utf-8"))
    named = {node.name.removeprefix("test_hook_") for node in attributes.body if isinstance(node, ast.FunctionDef)}
    abstract = {hook for _, hook in ABSTRACT}
    for section in SECTIONS:
        called = {hook for *_, hooks in CALLED.get(section, ()) for hook in hooks}
        for row in rows(section):
            key = row.name if section in ("Registration", "How a subject is tried") else f"{_singular(section)}_{row.name}"
            assert row.follows or row.name in called or row.name in abstract or key in named, (
                f"{section}: {row.name} is tested by nobody: enter it in CALLED, or write test_hook_{key} in test_hook_attributes.py"
            )


def _singular(section):
    return {"Scores": "score", "Patterns": "pattern", "Aggregates": "aggregate", "Manifolds": "manifold", "Variants": "variant",
            "Variants of heads": "heads"}[section]  # fmt: skip
