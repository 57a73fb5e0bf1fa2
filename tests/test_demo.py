"""The demo's computation: the sentences that ship, finding one of them, attending, drawing, and what plugins demonstrate."""

from __future__ import annotations

import sys
import textwrap
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import ruvattn
from ruvattn import demo, reference
from ruvattn.errors import InvalidInputError, UnknownVariantError


@pytest.fixture(scope="module")
def sentences():
    return demo.load_sentences()


# The data ---------------------------------------------------------------------------------------------------------


def test_the_data_takes_less_than_400_kb():
    folder = resources.files("ruvattn") / "data"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 400_000


def test_every_sentence_has_a_topic_and_an_embedding_of_length_one(sentences):
    assert len(sentences) == len(sentences.texts) == len(sentences.topics) == len(sentences.embeddings) > 200
    assert sentences.embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(sentences.embeddings, axis=1), 1, rtol=1e-6)


def test_sentences_are_distinct_and_end_like_sentences(sentences):
    assert len(set(sentences.texts)) == len(sentences)
    assert all(text[-1] in ".!" and text.isascii() and text == text.strip() for text in sentences.texts)


def test_sentences_of_a_topic_follow_each_other(sentences):
    changes = sum(a != b for a, b in zip(sentences.topics, sentences.topics[1:], strict=False))
    assert changes == len(set(sentences.topics)) - 1


def test_the_nearest_sentence_is_mostly_of_the_same_topic(sentences):
    cosines = sentences.embeddings @ sentences.embeddings.T
    np.fill_diagonal(cosines, -1)
    same = [sentences.topics[i] == sentences.topics[j] for i, j in enumerate(cosines.argmax(1))]
    assert np.mean(same) > 0.75  # 0.13 by chance


def test_the_embeddings_cannot_be_changed_by_accident(sentences):
    with pytest.raises(ValueError, match="read-only"):
        sentences.embeddings[0, 0] = 1


def test_sources_and_licences_are_recorded(sentences):
    readme = (resources.files("ruvattn") / "data" / "README.md").read_text(encoding="utf-8")
    assert f"{len(sentences)} English sentences" in readme
    assert all(topic in readme for topic in set(sentences.topics))


# Finding a sentence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [1, "1", " 01 ", "+1"])
def test_a_number_counts_from_one(sentences, wanted):
    assert sentences.find(wanted) == [0]


def test_words_are_found_in_any_order_and_case(sentences):
    row = sentences.find("Lake Baikal")[0]
    assert sentences.find("BAIKAL deepest") == [row]


def test_a_word_may_be_cut_short_but_not_at_its_beginning(sentences):
    assert sentences.find("baik") == sentences.find("baikal")
    with pytest.raises(InvalidInputError, match="none has the words 'aikal'"):
        sentences.find("aikal")


def test_sentences_with_the_very_phrase_come_first(sentences):
    rows = sentences.find("active volcano")
    phrase = ["active volcano" in sentences.texts[row].lower() for row in rows]
    assert True in phrase
    assert phrase == sorted(phrase, reverse=True)


@pytest.mark.parametrize("number", [0, -1, 10**9, "1" * 5000])
def test_a_number_out_of_range_names_the_range(sentences, number):
    with pytest.raises(InvalidInputError, match=rf"sentence must be a number from 1 to {len(sentences)}, got {str(number)[:50]}"):
        sentences.find(number)


@pytest.mark.parametrize("wanted", ["x" * 5000, "1" * 5000, "?" * 5000])
def test_a_message_does_not_repeat_more_than_a_line(sentences, wanted):
    with pytest.raises(InvalidInputError) as raised:
        sentences.find(wanted)
    assert len(str(raised.value)) < 300


def test_text_that_is_not_there_is_answered_with_what_is_close(sentences):
    with pytest.raises(InvalidInputError, match="cannot be embedded.*did you mean 'volcano'"):
        sentences.find("volcanoo")


def test_text_that_is_half_there_is_answered_with_the_half(sentences):
    with pytest.raises(InvalidInputError, match="some have 'volcano'"):
        sentences.find("volcano skateboard")


@pytest.mark.parametrize("wanted", ["", "   ", "?!", "\x00"])
def test_text_without_words_is_an_error(sentences, wanted):
    with pytest.raises(InvalidInputError, match="a few words of one of them"):
        sentences.find(wanted)


# Attending ----------------------------------------------------------------------------------------------------------


def softmax_of_cosines(sentences, row):
    others = np.delete(np.arange(len(sentences)), row)
    x = sentences.embeddings.astype(np.float64)
    weights = reference.attention_weights(x[[row]], x[others], scale=demo.SCALE)[0]
    return dict(zip(others.tolist(), weights.tolist(), strict=True))


def test_standard_gives_the_best_five_of_the_oracle(sentences):
    row = sentences.find(demo.DEFAULT)[0]
    result = demo.attend(sentences, row, ruvattn.variants()["standard"])
    expected = sorted(softmax_of_cosines(sentences, row).items(), key=lambda item: -item[1])[: demo.BEST]
    assert [row for row, _ in result.best] == [row for row, _ in expected]
    np.testing.assert_allclose([weight for _, weight in result.best], [w for _, w in expected], rtol=1e-4)
    assert result.note == ""


def test_weights_of_several_heads_are_said_to_be_averages(sentences):
    assert demo.attend(sentences, 0, ruvattn.variants()["multihead"]).note == f"{demo.HEADS} heads, averaged"


@pytest.mark.parametrize("name", ["standard", "multihead", "cross"])
def test_what_is_built_in_is_timed_and_agrees_with_the_oracle(sentences, name):
    result = demo.attend(sentences, 0, ruvattn.variants()[name])
    assert result.distribution == "ruvattn"
    assert len(result.best) == demo.BEST
    assert 0 < result.seconds < 1
    assert 0 <= result.error < 1e-5


def test_weights_are_those_of_all_other_sentences(sentences):
    for info in demo.choose_variants(["standard", "multihead", "cross"]):
        result = demo.attend(sentences, 7, info)
        weights = [weight for _, weight in result.best]
        assert 7 not in [row for row, _ in result.best]
        assert weights == sorted(weights, reverse=True)
        assert 0 < sum(weights) <= 1 + 1e-6


def test_a_variant_that_fails_is_told_and_not_raised(sentences, fake_plugins):
    fake_plugins.install(
        "sullen",
        """
        from ruvattn.interfaces import Attention

        def broken(**options):
            raise RuntimeError("no\\n mood [today]")

        def ruvattn_register(registry):
            registry.variant("sullen", broken, summary="never works")
        """,
    )
    result = demo.attend(sentences, 0, ruvattn.variants()["sullen"])
    assert result.note == "RuntimeError: no mood [today]"
    assert result.best == ()
    assert result.seconds is None
    assert result.error is None


NEAR = """
    import numpy as np
    from ruvattn import Score, create

    class Near(Score):
        def row_terms(self, q, pos):
            {check}
            return (np.vecdot(q, q),)

        def col_terms(self, k, pos):
            return (np.vecdot(k, k),)

        def logits(self, t):
            return t.dots[0] - t.rows[0] / 2 - t.cols[0] / 2

    def near(embed_dim, num_heads=1):
        return create("standard", embed_dim=embed_dim, num_heads=num_heads, score="near")

    def ruvattn_register(registry):
        registry.score("near", Near)
        registry.variant("near", near, summary="by distance")
"""


def test_a_score_without_a_scale_gets_longer_vectors_instead(sentences, fake_plugins):
    """On vectors of one length, minus half a squared distance is a dot product and a constant."""
    fake_plugins.install("near", NEAR.format(check="pass"))
    found = demo.attend(sentences, 3, ruvattn.variants()["near"])
    expected = demo.attend(sentences, 3, ruvattn.variants()["standard"])
    assert [row for row, _ in found.best] == [row for row, _ in expected.best]
    np.testing.assert_allclose([w for _, w in found.best], [w for _, w in expected.best], rtol=1e-3)
    assert found.note == "query and keys 4.5 times as long, for it has no scale"
    assert found.error < 1e-5


def test_a_score_that_takes_neither_keeps_its_own_temperature(sentences, fake_plugins):
    check = "if np.max(np.vecdot(q, q)) > 1.01: raise ruvattn.errors.InvalidInputError('outside the ball')"
    fake_plugins.install("near", "import ruvattn\n" + textwrap.dedent(NEAR.format(check=check)))
    result = demo.attend(sentences, 3, ruvattn.variants()["near"])
    assert result.note == "at a temperature of its own"
    assert len(result.best) == demo.BEST
    assert 0 < result.best[0][1] < 0.01


def test_a_variant_that_goes_by_positions_stands_at_its_own_and_one_that_is_told_pairs_says_which(sentences, fake_plugins):
    fake_plugins.install(
        "placed",
        """
        import numpy as np
        from ruvattn import Window
        from ruvattn.headwise import HeadwiseAttention

        class Near(HeadwiseAttention):
            attention_type = "near"
            positional = True

            def own_mask(self, lq, lk, single):
                return Window(3, 3)

        class Told(HeadwiseAttention):
            attention_type = "told"

            def demo_options(self, row, topics):
                return {"mask": np.arange(len(topics) - 1)[None] < 9}, "the first nine"

        def ruvattn_register(registry):
            registry.variant("near", Near, summary="sees three on either side")
            registry.variant("told", Told, summary="sees what it is told")
        """,
    )
    near = demo.attend(sentences, 100, ruvattn.variants()["near"])
    assert {row for row, _ in near.best} < {97, 98, 99, 101, 102, 103, 104}
    assert near.note == f"stands at its own place, 101 of {len(sentences)}"
    told = demo.attend(sentences, 100, ruvattn.variants()["told"])
    assert max(row for row, _ in told.best) < 9
    assert told.note == "the first nine"
    assert near.error < 1e-5
    assert told.error < 1e-5


def test_the_error_is_that_of_the_output(sentences, fake_plugins):
    """A variant whose arithmetic is a little off shows it; one that is made of other parts has no oracle."""
    fake_plugins.install(
        "off",
        """
        import dataclasses
        from ruvattn.builtin.standard import StandardAttention

        class Off(StandardAttention):
            def attend(self, *args, **options):
                out, context = super().attend(*args, **options)
                top = abs(context.out).max()
                return out, dataclasses.replace(context, out=context.out + 0.25 * top)

        class Other(StandardAttention):
            def attend(self, *args, **options):
                out, context = super().attend(*args, **options)
                return out, dataclasses.replace(context, options={"temperature": 3})

            def get_attention_weights(self, context=None):
                return None

        def ruvattn_register(registry):
            registry.variant("off", Off, summary="a quarter off")
            registry.variant("other", Other, summary="of other parts")
        """,
    )
    assert demo.attend(sentences, 0, ruvattn.variants()["off"]).error == pytest.approx(0.25, rel=1e-4)
    other = demo.attend(sentences, 0, ruvattn.variants()["other"])
    assert other.error is None
    assert other.best == ()
    assert other.seconds > 0


def test_all_variants_are_chosen_with_standard_first_and_plugins_last(fake_plugins):
    fake_plugins.install(
        "early",
        """
        def ruvattn_register(registry):
            from ruvattn.builtin.standard import StandardAttention
            registry.variant("aaa", StandardAttention, summary="first in the alphabet")
        """,
    )
    infos = demo.choose_variants()
    assert infos[0].name == "standard"
    origins = [info.distribution == "ruvattn" for info in infos]
    assert origins == sorted(origins, reverse=True)
    assert "aaa" in {info.name for info in infos if info.distribution == "early"}
    assert {info.name for info in infos} == set(ruvattn.variants())


def test_named_variants_are_chosen_once_each():
    assert [info.name for info in demo.choose_variants(["multihead", "multihead"])] == ["multihead"]


def test_an_unknown_variant_is_an_error():
    with pytest.raises(UnknownVariantError, match="standrad"):
        demo.choose_variants(["standrad"])


def test_random_projections_are_switched_off():
    assert demo.plain_options(ruvattn.variants()["multihead"]) == {"projections": False}
    assert demo.plain_options(ruvattn.variants()["standard"]) == {}


# The map ------------------------------------------------------------------------------------------------------------


def test_the_map_holds_what_each_sentence_pays_to_the_others(sentences):
    weights = demo.attention_map(sentences)
    assert weights.shape == (len(sentences), len(sentences))
    assert not weights.diagonal().any()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    expected = softmax_of_cosines(sentences, 3)
    np.testing.assert_allclose([weights[3, j] for j in expected], list(expected.values()), rtol=1e-3, atol=1e-9)


def test_the_map_is_drawn_to_a_png_file_without_a_display(sentences, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("DISPLAY", raising=False)
    path = tmp_path / "map.png"
    demo.draw_map(sentences, demo.attention_map(sentences), 64, path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size > 50_000
    assert "matplotlib.pyplot" not in sys.modules


# What plugins demonstrate -------------------------------------------------------------------------------------------


def test_a_demonstration_is_lines_and_pictures():
    shown = demo.Demonstration(["one", "two\nthree", ""], ["a.png"])
    assert shown == demo.Demonstration(("one", "two", "three", ""), (Path("a.png"),), note="")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lines": "one"}, "lines of a Demonstration must be a list or tuple of str, got 'one'"),
        ({"lines": ["one", 2]}, r"lines of a Demonstration must be a list or tuple of str, got \['one', 2\]"),
        ({"lines": (), "pictures": "a.png"}, "pictures of a Demonstration must be a list or tuple of Path, got 'a.png'"),
        ({"lines": (), "pictures": [None]}, "pictures of a Demonstration must be a list or tuple of Path"),
        ({"lines": (), "note": None}, "note of a Demonstration must be a str, got None"),
    ],
)
def test_a_demonstration_of_something_else_is_an_error(fields, message):
    with pytest.raises(InvalidInputError, match=message):
        demo.Demonstration(**fields)


SHOWING = """
    from ruvattn.demo import Demonstration

    def show(folder):
        {body}

    def ruvattn_register(registry):
        registry.demo("showing", show, summary="Shows.")
"""


def test_a_plugin_shows_what_it_has_and_gets_the_folder(fake_plugins, tmp_path):
    fake_plugins.install("showing", SHOWING.format(body="return Demonstration([repr(folder)], [folder / 'a.png'] if folder else ())"))
    assert demo.demonstrate("showing", tmp_path) == demo.Demonstration((repr(tmp_path),), (tmp_path / "a.png",))
    assert demo.demonstrate("showing") == demo.Demonstration(("None",))


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("raise RuntimeError('no\\n mood [today]')", "RuntimeError: no mood [today]"),
        ("raise ImportError('the picture needs brushes: pip install brushes')", "the picture needs brushes: pip install brushes"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("return Demonstration('text')", "lines of a Demonstration must be a list or tuple of str, got 'text'"),
        ("raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})", "Mute: (its message cannot be shown)"),
    ],
)
def test_a_demonstration_that_fails_is_told_and_not_raised(fake_plugins, body, note):
    fake_plugins.install("showing", SHOWING.replace("{body}", body))
    assert demo.demonstrate("showing") == demo.Demonstration((), note=note)


def test_a_demonstration_that_returns_something_else_is_the_plugins_fault(fake_plugins):
    fake_plugins.install("showing", SHOWING.format(body="return ['text']"))
    note = demo.demonstrate("showing").note
    assert note == "demo 'showing' from showing 1.0 (entry point 'showing') returned list, not a ruvattn.demo.Demonstration"
