"""A check that fails says with what: the smallest input that is found, as Python that shows the failure when it is run."""

from __future__ import annotations

import functools
import gc
import re
import threading
import unittest
import warnings

import numpy as np
import pytest
import test_testing as parts
import test_testing_gradients as of_gradients

import ruvattn
from ruvattn.errors import InvalidInputError
from ruvattn.testing import CheckFailure, check_score, layers, parametrize_with_checks, pasting, replay, run_checks, suite
from ruvattn.testing.pasting import literal, source_of
from ruvattn.testing.runner import Example, checks_of, family_of
from ruvattn.testing.shrinking import _kind, smallest
from ruvattn.testing.trial import Trial, drawn, limited, limited_heads, limited_lead, playing

BROKEN = {
    (family_of(subjects[0]), name): subjects[0]
    for table in (
        parts.BROKEN_SCORES, parts.BROKEN_PATTERNS, parts.BROKEN_AGGREGATES, parts.BROKEN_VARIANTS, parts.BROKEN_GRAPHS, of_gradients.BROKEN_PARTS,
        of_gradients.BROKEN_VARIANTS, of_gradients.BROKEN_GRAPHS,
    )
    for name, subjects in table.items()
    if subjects
}  # fmt: skip
"""One subject for each check, by family and name of the check: broken on purpose, each in one way."""

BY_CHANCE = {"parallel_calls_agree", "parallel_gradients_agree", "graph_parallel_calls_agree", "dropout_follows_its_seed", "gradients_follow_dropout",
             "weights_are_of_this_threads_last_call"}  # fmt: skip
"""Checks of subjects that go wrong now and then: threads that meet, and what is drawn anew."""


def check_of(family, name):
    return next(check for check in checks_of(family) if check.name == name)


def failure(family, name, subject):
    for _ in range(20 if name in BY_CHANCE else 1):
        try:
            check_of(family, name)._call(subject)
        except unittest.SkipTest:
            raise
        except Exception as error:
            return error
    raise AssertionError(f"{name} must fail")


def run(code, subject):
    """Run what was reported, as if it were pasted; return what it raises."""
    try:
        exec(code, {"subject": subject})
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize(("family", "name"), BROKEN)
def test_what_is_reported_fails_in_the_same_way(family, name):
    subject = BROKEN[family, name]
    error = failure(family, name, subject)
    found = smallest(check_of(family, name), subject, error, seconds=0.05)
    again = [run(found.code, subject) for _ in range(20 if name in BY_CHANCE else 1)]
    assert any(one is not None and _kind(one) == _kind(error) for one in again), found.code
    assert len(found.code) < 2500


# Small --------------------------------------------------------------------------------------------------------------


def example_of(subject, name):
    (result,) = run_checks([subject], only=[name])
    assert result.status == "failed"
    return result.example.partition("\n\n")[2].replace("\n", "").replace("    ", " ")


class Jump(parts.Distance):
    """A logit of zeros wherever there are three keys or more."""

    def logits(self, t):
        return np.full(t.dots.shape[1:], np.nan) if t.dots.shape[2] >= 3 else super().logits(t)


class Sign(ruvattn.Aggregate):
    """Wrong where a value is negative."""

    linear = False

    def reduce(self, weights, v):
        return weights @ v + (v < 0).any() * weights[:, :1] * len(weights)


def _refuse_wide(self, i, j, *, head=0, batch=0):
    return (j <= i).astype(bool) if np.size(i) < 3 else (j <= i).astype(np.int8)


@pytest.mark.parametrize(
    ("subject", "name", "call"),
    [
        (
            Jump(),
            "logits_have_their_shape",
            "replay( Jump(sigma=1.5), 'logits_have_their_shape', limits={\"queries\": 1, \"keys\": 3, \"width\": 1}, "
            'arrays={"query": [[[0.0]]], "key": [[[0.0], [0.0], [0.0]]]},)',
        ),
        (
            parts.broken(parts.Distance, logits_vjp=parts._without_planes),
            "logits_vjp_matches_differences",
            "replay( subject, 'logits_vjp_matches_differences', limits={\"queries\": 1, \"keys\": 1, \"width\": 1}, "
            'arrays={"query": [[[0.0]]], "key": [[[0.0]]], "grad_output": [[1.0]]},)',
        ),
        (
            parts.broken(parts.Causal, allowed=_refuse_wide),
            "allowed_returns_booleans",
            "replay(subject, 'allowed_returns_booleans', limits={\"queries\": 2, \"keys\": 2})",  # as a list these are four
        ),
        (Sign(), "reduce_is_rowwise", "replay( Sign(), 'reduce_is_rowwise', limits={\"keys\": 1, \"value_width\": 1}, arrays={\"value\": [[-1.0]], "),
        (
            parts.attends(lambda self, out, inputs, _: out + (out.mean() if out.ndim > 2 else 0)),
            "batch_equals_singles",
            "replay( subject, 'batch_equals_singles', limits={\"batch\": 1, \"heads\": 1, \"queries\": 1, \"keys\": 1, \"width\": 1}, "
            'arrays={"query": [[[[0.0]]]], "key": [[[[0.0]]]], "value": [[[[1.0]]]]},)',
        ),
        (
            parts.BROKEN_GRAPHS["graph_neighborhood_is_a_row"][0],
            "graph_neighborhood_is_a_row",
            "replay( subject, 'graph_neighborhood_is_a_row', limits={\"heads\": 1, \"width\": 1, \"nodes\": 2, \"edges\": 1}, "
            'arrays={"query": [[1.0], [0.0]]},)',
        ),
    ],
    ids=["a score", "a vjp", "a pattern", "an aggregate", "a variant", "a graph"],
)
def test_lengths_and_numbers_are_as_small_as_can_be(subject, name, call, monkeypatch):
    monkeypatch.setattr("ruvattn.testing.shrinking.SECONDS", 60.0)  # however busy the machine is
    assert example_of(subject, name).startswith(call)


class Forgetful(parts.Causal):
    """A row of a later block misses the first key."""

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        return ([int(i0 > 0)], [min(i1, lk)], [False]) if min(i1, lk) > (i0 > 0) else ([], [], [])


def test_a_long_input_is_cut_to_the_row_from_which_it_fails():
    name = "gradients_equal_those_of_the_dense_mask"
    found = smallest(check_of("pattern", name), Forgetful(), failure("pattern", name, Forgetful()), seconds=60.0)
    assert found.limits["queries"] == 33  # the second block begins there
    assert found.limits["keys"] <= 2


class Whole(ruvattn.Score):
    """One column of its own, and all others; minus the largest logit of a tile."""

    splits = (1, -1)

    def logits(self, t):
        logits = t.dots[1] - t.dots[0]
        return logits - logits.max(1, keepdims=True)


def test_widths_stay_those_that_splits_allow(monkeypatch):
    monkeypatch.setattr("ruvattn.testing.shrinking.SECONDS", 60.0)
    (result,) = run_checks([Whole()], only=["logits_are_elementwise"])
    assert result.message.startswith("a part of a tile must have the logits of the whole")
    assert 'limits={"queries": 1, "keys": 2, "width": 2},' in result.example
    assert '"key": [[[' in result.example


def test_widths_stay_those_that_the_subject_names(monkeypatch):
    monkeypatch.setattr("ruvattn.testing.shrinking.SECONDS", 60.0)
    subject = parts.broken(Whole, conformance_widths=(12, 9))
    (result,) = run_checks([subject], only=["logits_are_elementwise"])
    assert '"width": 9}' in result.example


def test_sizes_stay_those_that_a_factory_names(monkeypatch):
    monkeypatch.setattr("ruvattn.testing.shrinking.SECONDS", 60.0)
    subject = parts.attends(lambda self, out, inputs, _: out + (out.mean() if out.ndim > 2 else 0))
    subject.conformance_sizes = ((12, 3), (8, 4))
    (result,) = run_checks([subject], only=["batch_equals_singles"])
    assert '"heads": 4, ' in result.example
    assert '"width": 8}' in result.example


def test_a_promise_is_the_same_with_and_without_draws():
    words = "the output must agree with the oracle{}: got 1.0 instead of 0.0 at [0]"
    assert _kind(CheckFailure(words.format(""))) == _kind(CheckFailure(words.format(" (the first index counts the draws)")))


class Ageing(parts.Distance):
    def logits(self, t):
        warnings.warn("I am old", UserWarning, stacklevel=1)
        return super().logits(t)


def test_a_warning_that_is_an_error_fails_again():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = run_checks([Ageing()], only=["logits_have_their_shape"])
    assert result.status == "failed" and result.message.startswith("raised UserWarning: I am old")
    assert "it does not fail each time" not in result.example
    assert '"queries": 1, "keys": 1' in result.example


def test_the_message_is_of_the_smallest_input():
    (result,) = run_checks([Jump()], only=["logits_have_their_shape"])
    assert result.message == "logits of ordinary inputs must be finite; the case: m=1, n=3, width=1, dtype='float32'"


def test_an_input_at_which_something_sound_fails_too_is_not_reported():
    # With one key the weight is 1 whatever the scale: the smallest input that shows anything has two.
    assert '"keys": 2' in example_of(parts.Hidden(), "scale_is_taken_or_refused")


def test_a_check_without_arrays_says_so():
    (result,) = run_checks([parts.broken(parts.Causal, row_block=0)], only=["declaration"])
    assert "# no arrays are drawn here: it is the subject itself\n" in result.example
    (result,) = run_checks([parts.BROKEN_PATTERNS["ranges_are_well_formed"][0]], only=["ranges_are_well_formed"])
    assert "or the lengths and positions it is asked about" in result.example


def test_points_of_a_domain_stay_in_it():
    (result,) = run_checks([of_gradients.BROKEN_PARTS["aggregate_gradients_follow_their_dtype"][0]], only=["aggregate_gradients_follow_their_dtype"])
    assert "drawn by the subject's own conformance_inputs" in result.example
    value = float(re.search(r'"value": \[\[\[([\d.]+)', result.example).group(1))
    assert value > 0 and value != 1  # as it was drawn: exp of something


def test_what_fails_by_chance_is_said_to():
    left = [True]

    class Once(parts.Distance):
        def logits(self, t):
            return parts.Distance.logits(self, t) * (np.nan if left and left.pop() else 1.0)

    (result,) = run_checks([Once()], only=["logits_have_their_shape"])
    assert result.status == "failed"
    assert "# it does not fail each time: try it several times" in result.example


def test_the_search_stops(monkeypatch):
    tries = []
    monkeypatch.setattr(Trial, "__init__", _counting(Trial.__init__, tries))
    error = failure("score", "logits_have_their_shape", Jump())
    smallest(check_of("score", "logits_have_their_shape"), Jump(), error, seconds=0.0)
    assert len(tries) <= 20  # what it makes up to try, and gives up without running


def _counting(init, tries):
    def counted(self, *args, **options):
        tries.append(args)
        init(self, *args, **options)

    return counted


def test_no_input_is_looked_for_if_it_is_not_wanted():
    (result,) = run_checks([Jump()], only=["logits_have_their_shape"], shrink=False)
    assert (result.status, result.example) == ("failed", None)


def test_an_expected_failure_is_not_looked_into():
    (result,) = run_checks([Jump()], only=["logits_have_their_shape"], expected_failures={"logits_have_their_shape": "it jumps"})
    assert (result.status, result.example) == ("xfailed", None)
    cases = parametrize_with_checks([Jump()], expected_failures={"logits_have_their_shape": "it jumps"}).args[1]
    assert {case.values[1].name for case in cases if not case.values[1].shrinks} == {"logits_have_their_shape"}


# Where it is shown ----------------------------------------------------------------------------------------------------


def test_the_exception_of_a_check_holds_it_as_a_note():
    with pytest.raises(CheckFailure) as raised:
        check_of("score", "logits_have_their_shape")(Jump())
    (note,) = (note for note in raised.value.__notes__ if isinstance(note, Example))
    assert "\n    replay(\n        Jump(sigma=1.5),\n" in note


def test_check_functions_show_it_below_each_failure(monkeypatch):
    monkeypatch.setattr("ruvattn.testing.shrinking.SECONDS", 0.05)
    with pytest.raises(CheckFailure, match=r"logits_have_their_shape: .*\n\n      from ruvattn.testing import replay\n"):
        check_score(Jump())


def test_the_command_shows_it(capsys, fake_plugins, monkeypatch):
    monkeypatch.setattr("ruvattn.testing.shrinking.SECONDS", 0.05)
    from ruvattn.cli import main

    fake_plugins.install("broken-patterns", parts.BROKEN_PLUGIN)
    with pytest.raises(SystemExit):
        main(["test", "lying"])
    out = capsys.readouterr().out
    assert "the smallest input found at which it fails:" in out
    assert "\n    from ruvattn.registry import get_pattern\n" in out
    assert "get_pattern('lying')," in out


# replay -------------------------------------------------------------------------------------------------------------


def test_replay_passes_where_the_check_does():
    replay(parts.Distance(), "logits_have_their_shape", limits={"keys": 3})
    replay(Jump(), "logits_have_their_shape", limits={"keys": 2})
    with pytest.raises(CheckFailure):
        replay(Jump(), "logits_have_their_shape", limits={"keys": 3})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("speed",), "check 'speed' is none of"),
        (("declaration", {"rows": 3}), "limits names 'rows', which is none of batch, heads"),
        (("declaration", {"keys": 0}), r"limits\['keys'\] must be an int of at least 1, got 0"),
        (("declaration", {"keys": 2.0}), "got 2.0"),
        (("declaration", None, {"queries": [1.0]}), "arrays names 'queries', which is none of query, key"),
    ],
)
def test_replay_refuses_what_makes_no_sense(arguments, words):
    name, limits, arrays = (*arguments, None, None)[:3]
    with pytest.raises(InvalidInputError, match=words):
        replay(parts.Distance(), name, limits=limits, arrays=arrays)


# Trials -------------------------------------------------------------------------------------------------------------


def test_without_a_trial_everything_is_as_it_is():
    assert limited("keys", 41) == 41
    assert limited_lead((2, 3)) == (2, 3)
    assert limited_heads(4, 2) == (4, 2)
    array = np.ones(3)
    assert drawn("key", array) is array


def test_a_trial_limits_lengths_and_notes_them():
    with playing(Trial({"keys": 3, "batch": 1, "heads": 3})) as trial:
        assert [limited("keys", length) for length in (1, 3, 41)] == [1, 3, 3]
        assert limited_lead((2, 3)) == (1, 1)
        assert limited_heads(4, 2) == (3, 1)  # heads of queries share those of keys evenly
        assert limited_heads(2, 2) == (2, 2)
        assert limited("keys", 41, among=(41, 2, 1)) == 2
        assert limited("keys", 41, among=(5, 41)) == 5  # the least that there is
        assert limited("keys", 4, among=(5, 41)) == 4
    assert trial.asked == {"keys": 5, "batch": 1, "heads": 3}
    with playing(Trial({"batch": 0})):
        assert limited_lead((2, 3)) == ()
    assert limited("keys", 41) == 41


def test_arrays_of_a_trial_take_the_place_of_those_of_their_shape():
    with playing(Trial(arrays={"key": [1.0, 2.0]})) as trial:
        assert drawn("key", np.zeros(2, np.float32)).tolist() == [1.0, 2.0]
        assert drawn("key", np.zeros(3)).tolist() == [0.0, 0.0, 0.0]
        assert drawn("query", np.zeros(2)).tolist() == [0.0, 0.0]
    assert {role: array.shape for role, array in trial.drawn.items()} == {"key": (3,), "query": (2,)}


# Python that makes the subject ----------------------------------------------------------------------------------------


class Widths(ruvattn.Score):
    def __init__(self, widths):
        self.params = {"widths": np.asarray(widths)}


class Secretive(parts.Distance):
    def __init__(self):
        super().__init__()
        self.secret = 3


class Guarded(ruvattn.Causal):
    """Says itself how it is made, and holds what cannot be compared."""

    def __init__(self, width):
        self.width, self.lock, self.rule = width, threading.Lock(), lambda: width

    def __repr__(self):
        return f"guarded({self.width})"


def guarded(width):
    return Guarded(width)


class Documents(ruvattn.Causal):
    """Says nothing of what it holds."""

    def __init__(self, lengths=(1,)):
        self.lengths = tuple(lengths)

    def __repr__(self):
        return "Documents()"


HERE = __name__


@pytest.mark.parametrize(
    ("subject", "expression", "lines"),
    [
        (ruvattn.Dot(0.3), "Dot(scale=0.3)", ("from ruvattn import Dot",)),
        (ruvattn.Window(2, 1) & ruvattn.Causal(), None, ("from ruvattn import Window", "from ruvattn import Causal")),
        (Widths([1.0, 2.0]), "Widths(widths=array([1., 2.]))", (f"from {HERE} import Widths", "from numpy import array")),
        (Widths, "Widths", (f"from {HERE} import Widths",)),
        (
            functools.partial(ruvattn.create, "standard", causal=True),
            "functools.partial(create, 'standard', causal=True)",
            ("import functools", "from ruvattn import create"),
        ),
        (Secretive(), "subject", ("# subject: the Secretive that was checked, which its repr does not make",)),
        (parts.broken(parts.Distance), "subject", ("# subject: the BrokenDistance that was checked, which its repr does not make",)),
        (Guarded(2.0), "guarded(2.0)", (f"from {HERE} import guarded",)),
        (ruvattn.Dot(np.float64(0.5)), "Dot(scale=np.float64(0.5))", ("from ruvattn import Dot", "import numpy as np")),
        (lambda embed_dim, num_heads: None, "subject", ("# subject: the <lambda> that was checked, which no import leads to",)),
    ],
)
def test_a_subject_is_made_by_its_name_or_its_repr(subject, expression, lines):
    found = source_of(subject)
    assert found.lines == lines
    if expression is not None:
        assert found.expression == expression
    if found.expression != "subject":
        space = {}
        exec("\n".join(found.lines), space)
        made = eval(found.expression, space)
        assert type(made) is type(subject) and repr(made) == repr(subject)


def test_a_repr_that_leaves_something_out_is_not_taken():
    assert source_of(parts.EveryOther((3, ruvattn.Causal()))).expression == "subject"  # its repr has no arguments
    assert source_of(Documents()).expression == "Documents()"
    assert source_of(Documents((2, 3))).expression == "subject"  # nor has that of its author


REGISTERED = """
import ruvattn

class Near(ruvattn.Dot):
    def __init__(self, reach, scale=None):
        super().__init__(scale)
        self.reach = reach

class Sized:
    conformance_options = ({"reach": 2, "scale": 0.25},)

    def __call__(self, reach, scale=None):
        return Near(reach, scale)

class Layer:
    conformance_sizes = ((6, 2),)

    def __call__(self, embed_dim, num_heads=1):
        return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads)

def ruvattn_register(registry):
    registry.score("near", Sized())
    registry.variant("near", Layer(), summary="Like standard.")
"""


def test_what_a_suite_made_is_made_by_its_registered_name(fake_plugins):
    fake_plugins.install("near", REGISTERED)
    subjects = {subject.family: subject.target for subject in suite(distributions=["near"])}
    assert source_of(subjects["score"]) == ("get_score('near', reach=2, scale=0.25)", ("from ruvattn.registry import get_score",))
    assert source_of(subjects["variant"]) == ("functools.partial(create, 'near')", ("import functools", "from ruvattn import create"))
    another = ruvattn.registry.get_score("near", reach=2, scale=0.25)
    assert source_of(another).expression == "subject"  # nobody has seen how that was made


def test_what_a_suite_made_is_forgotten_with_it(fake_plugins):
    fake_plugins.install("near", REGISTERED)
    before = set(pasting._made_by)
    subjects = suite("scores", distributions=["near"])
    assert len(set(pasting._made_by) - before) == 1
    del subjects
    gc.collect()
    assert set(pasting._made_by) <= before


def test_a_registered_variant_is_tried_with_its_sizes_when_it_is_pasted(fake_plugins):
    fake_plugins.install("near", REGISTERED)
    assert layers._sizes(functools.partial(ruvattn.create, "near")) == ((6, 2),)


def test_a_repr_is_not_run_if_it_is_more_than_calls():
    class Sly(ruvattn.Causal):
        def __repr__(self):
            return "Causal().__class__.__mro__[0]()"

    assert source_of(Sly()).expression == "subject"


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array([[0.0, -1.0], [0.25, 1e-42]]), "[[0.0, -1.0], [0.25, 1e-42]]"),
        (np.array([0.1], np.float32), "[0.1]"),
        (np.array(1e15), "1000000000000000.0"),
        (np.array([np.nan, np.inf]), "[float('nan'), float('inf')]"),
        (np.zeros((2, 0)), "[[], []]"),
    ],
)
def test_arrays_are_written_so_that_they_read_the_same(array, text):
    assert literal(array) == text
    np.testing.assert_array_equal(np.array(eval(text), array.dtype).reshape(array.shape), array)
