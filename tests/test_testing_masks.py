"""Variants that take some ways of hiding keys and refuse others are tried with those that they take."""

from __future__ import annotations

import re

import numpy as np
import pytest
import test_testing as parts
import test_testing_gradients as of_gradients

import ruvattn
from ruvattn import reference
from ruvattn.errors import UnsupportedError
from ruvattn.testing import run_checks, variant_masks
from ruvattn.testing.masking import maskings

MASKED = ("masked_has_no_influence", "empty_rows_are_zeros", "masks_hide_what_they_say")
OF_GRADIENTS = "gradients_of_what_is_masked_are_zero"


# What hides which keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (2,), (3, 1)])
@pytest.mark.parametrize(("lq", "lk"), [(1, 1), (1, 4), (5, 3), (6, 11)])
def test_every_masking_hides_what_the_oracle_says(lead, lq, lk):
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((*lead, 2, length, 3)) for length in (lq, lk))
    for masking in maskings(lead, lq, lk):
        seen = ~np.isneginf(reference.attention_logits(q, k, **masking.options))
        np.testing.assert_array_equal(masking.seen, seen[..., 0, :, :], str(masking))
        np.testing.assert_array_equal(masking.seen, seen[..., 1, :, :], str(masking))


def test_there_are_empty_rows_and_hidden_keys_of_every_kind_that_can_have_them():
    of_kind = {}
    for lead, lq, lk in (((2,), 5, 8), ((2,), 8, 5)):
        for masking in maskings(lead, lq, lk):
            empty, hidden = of_kind.get(masking.kind, (False, False))
            of_kind[masking.kind] = empty or bool((~masking.seen.any(-1)).any()), hidden or bool((~masking.seen.any(-2)).any())
    without = {kind for kind, found in of_kind.items() if not all(found)}
    # A causal row 0 sees key 0, the last one at the end sees all; the mask of each entry, here, shows some key.
    assert without == {"causal", 'causal with query_offset="end"', "mask of keys for each batch entry"}


# A variant that knows no pairs ----------------------------------------------------------------------------------------


def of_keys(base, **members):
    """Derive a variant that refuses what differs by query, other than causal."""

    def attend(self, q, k=None, v=None, *, mask=None, window=None, bias=None, **options):
        if isinstance(mask, ruvattn.Pattern) or np.shape(mask)[-2:-1] not in ((), (1,)):
            raise UnsupportedError("it has no mask of pairs")
        if window is not None or bias is not None:
            raise UnsupportedError("it has neither window nor bias")
        return base.attend(self, q, k, v, **({} if mask is None else {"mask": mask}), **options)

    return type("OfKeys", (base,), {"attend": attend, **members})


def outcomes(factory, names=None):
    return {result.name: result for result in run_checks([factory], only=names, shrink=False)}


def test_a_sound_one_is_tried_with_what_it_takes():
    found = outcomes(of_keys(parts.WithoutContext), MASKED)
    assert [result.status for result in found.values()] == ["passed"] * 3, found
    found = outcomes(of_keys(of_gradients.Sound), [OF_GRADIENTS])
    assert found[OF_GRADIENTS].status == "passed", found


def changed(change):
    """Derive a variant whose calls are those of a sound one with other options; nothing but influence can tell."""

    class Changed(parts.WithoutContext):
        def attend(self, q, k=None, v=None, **options):
            return super().attend(q, k, v, **change(options))

    return of_keys(Changed)


def _one_key_more(options):
    if options.get("causal") and not isinstance(options.get("query_offset", 0), str):
        options["query_offset"] = options.get("query_offset", 0) + 1
    return options


def _one_key_less(options):
    if options.get("causal") and not isinstance(options.get("query_offset", 0), str):
        options["query_offset"] = options.get("query_offset", 0) - 1
    return options


def _from_the_end(options):
    return {**options, "query_offset": "end"} if options.get("causal") else options


def _from_the_start(options):
    return {**options, "query_offset": 0} if isinstance(options.get("query_offset"), str) else options


def _first_offset(options):
    offset = options.get("query_offset", 0)
    return {**options, "query_offset": int(np.ravel(offset)[0])} if np.ndim(offset) else options


def _longest(options):
    lengths = options.get("key_lengths")
    return {**options, "key_lengths": int(np.max(lengths))} if np.ndim(lengths) else options


def _ignored(*names):
    return lambda options: {name: value for name, value in options.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_one_key_more, r"must not change with a key that it does not see \(causal\)"),
        (_one_key_less, r"must change with the value of a key that it sees \(causal\)"),
        (_ignored("causal"), r"does not see \(causal\)"),
        (_ignored("key_lengths"), r"does not see \(key_lengths\)"),
        (_ignored("query_offset"), r"\(causal with query_offset\)"),
        (_from_the_end, r"\(causal\)"),
        (_from_the_start, r'\(causal with query_offset="end"\)'),
        (_first_offset, r"\(causal with query_offset for each batch entry\)"),
        (_longest, r"\(key_lengths for each batch entry\)"),
        (_ignored("mask"), r"does not see \(mask of keys\)"),
    ],
)
def test_options_that_mean_something_else_are_found(change, says):
    result = outcomes(changed(change), ["masks_hide_what_they_say"])["masks_hide_what_they_say"]
    assert result.status == "failed"
    assert re.search(says, result.message), result.message


def failures_of(factory):
    return {name for name, result in outcomes(factory).items() if result.status == "failed"}


def test_no_other_check_finds_a_causal_that_leaks_one_key():
    assert failures_of(changed(_one_key_more)) - failures_of(of_keys(parts.WithoutContext)) == set(MASKED)


def influenced(after):
    """Derive a variant whose rows, where such an option is given, have something of all values."""

    class Influenced(parts.WithoutContext):
        def attend(self, q, k=None, v=None, **options):
            out, context = super().attend(q, k, v, **options)
            if after in options:
                out = out + np.nan_to_num(v, nan=9.0, posinf=9.0).mean().astype(out.dtype)
            return out, context

    return of_keys(Influenced)


@pytest.mark.parametrize(("option", "kind"), [("causal", "causal"), ("key_lengths", "key_lengths"), ("mask", "mask of keys")])
def test_what_is_hidden_by_what_it_takes_must_have_no_influence(option, kind):
    result = outcomes(influenced(option), ["masked_has_no_influence"])["masked_has_no_influence"]
    assert result.status == "failed"
    assert f"what is masked must have no influence ({kind})" in result.message


@pytest.mark.parametrize("option", ["key_lengths", "mask", "query_offset"])
def test_rows_that_see_nothing_by_what_it_takes_must_be_zeros(option):
    class Fills(parts.WithoutContext):
        def attend(self, q, k=None, v=None, **options):
            out, context = super().attend(q, k, v, **options)
            return (np.where(out == 0, out.dtype.type(0.5), out), context) if option in options else (out, context)

    result = outcomes(of_keys(Fills), ["empty_rows_are_zeros"])["empty_rows_are_zeros"]
    assert result.status == "failed"
    assert "a row that may attend to nothing must be zeros, got [0.5" in result.message
    assert f"{option}=" in result.message


@pytest.mark.parametrize("option", ["causal", "key_lengths", "mask"])
def test_gradients_of_what_is_hidden_by_what_it_takes_must_be_zero(option):
    class Leaks(of_gradients.Sound):
        def backward(self, grad_output, context=None, **options):
            context = self._remembered() if context is None else context
            found = super().backward(grad_output, context, **options)
            return found._replace(values=found.values + 1e-9) if option in context.options else found

    result = outcomes(of_keys(Leaks), [OF_GRADIENTS])[OF_GRADIENTS]
    assert result.status == "failed"
    assert "values that no query sees must have gradients of zero" in result.message


# Nothing to look at ---------------------------------------------------------------------------------------------------


def takes(*names):
    """Derive a variant that takes these options and no others that hide keys."""

    class Takes(of_gradients.Sound):
        def attend(self, q, k=None, v=None, **options):
            for name in ("mask", "bias", "causal", "window", "key_lengths", "query_offset"):
                if name in options and name not in names:
                    raise UnsupportedError(f"it has no {name}")
            return super().attend(q, k, v, **options)

    return Takes


def test_a_variant_that_takes_nothing_is_not_asked_and_is_told_what_was_tried():
    found = outcomes(takes(), [*MASKED, OF_GRADIENTS])
    assert {result.status for result in found.values()} == {"skipped"}
    for result in found.values():
        assert result.message.startswith("it takes nothing that hides keys; tried, and refused by it: mask")
        assert 'causal with query_offset="end"' in result.message
        assert "key_lengths for each batch entry" in result.message


def test_what_it_takes_that_shows_nothing_is_said():
    found = outcomes(takes("causal"), [*MASKED, OF_GRADIENTS])
    assert [name for name, result in found.items() if result.status == "skipped"] == ["empty_rows_are_zeros"]
    assert found["empty_rows_are_zeros"].message.startswith("nothing that it takes leaves a query without keys; it takes causal, and refuses mask")


def test_what_follows_may_cut_off_a_change_and_is_no_flaw(monkeypatch):
    class Cuts(parts.WithoutContext):
        def attend(self, q, k=None, v=None, **options):
            out, context = super().attend(q, k, v, **options)
            return out * (out.mean(-1, keepdims=True) > 0), context

    assert outcomes(Cuts, ["masks_hide_what_they_say"])["masks_hide_what_they_say"].status == "passed"
    monkeypatch.setattr(variant_masks, "_still_unmoved", lambda rows, *_, **options: rows)
    assert outcomes(Cuts, ["masks_hide_what_they_say"])["masks_hide_what_they_say"].status == "failed"  # with one draw that is all there is to see


def test_a_pattern_of_its_own_hides_more_and_is_no_flaw():
    def factory(embed_dim, num_heads=1, **options):
        return parts.Variant(embed_dim, num_heads, causal=True, window=(1, 0), **options)

    assert {result.status for result in outcomes(factory, MASKED).values()} == {"passed"}
