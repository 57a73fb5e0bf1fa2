"""The pages for authors say what is so, beyond what running their snippets shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hook_page import PER_HEAD, E, checkout

from ruvattn import plugins, registry
from ruvattn.scores import FORWARD_SIGNATURE, VJP_SIGNATURE, _normal, spelled
from ruvattn.testing import check_aggregate, check_pattern, check_score, check_variant

PAGES = Path(__file__).parents[1] / "docs" / "authors"
GUIDE = Path(__file__).parents[1] / "plugins" / "README.md"

pytestmark = checkout


def text_of(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


EXAMPLES = [
    (check_score, "Spacetime", ()),
    (check_score, "Spacetime", (PER_HEAD,)),
    (check_score, "Manhattan", ()),
    (check_pattern, "Chunks", ()),
    (check_pattern, "Listed", ([[3, 7], [0]],)),
    (check_pattern, "EveryOther", ()),
    (check_pattern, "Dilated", (3,)),
    (check_aggregate, "RootMeanSquare", ()),
    (check_aggregate, "Sharpened", ()),
    (check_variant, "MeanAttention", None),
    (check_variant, "Tempered", None),
    (check_variant, "Doubled", None),
    (check_variant, "Segments", None),
]


@pytest.mark.parametrize(("check", "name", "arguments"), EXAMPLES)
def test_the_examples_that_authors_copy_keep_every_promise(check, name, arguments):
    example = getattr(E, name)
    check(example if arguments is None else example(*arguments))


def test_the_signatures_of_compiled_scores_are_those_that_the_engine_calls():
    page = text_of("hooks").replace("\n" + " " * 15, " ")
    for label, signature in (("forward", FORWARD_SIGNATURE), ("vjp", VJP_SIGNATURE)):
        (written,) = re.findall(rf"^{label}: +(void \(.*\))$", page, re.MULTILINE)
        for real, dtype in (("float", "float32"), ("double", "float64")):
            given = re.sub(r"\bT\b", real, written)
            assert _normal(given) == _normal(spelled(signature, np.dtype(dtype)))


def test_the_version_of_the_interface_is_the_one_that_is_current():
    for page in ("tutorial", "hooks", "compatibility"):
        numbers = {int(number) for number in re.findall(r"^RUVATTN_API = (\d+)", text_of(page), re.MULTILINE)}
        assert numbers == {plugins.API_VERSION}, page


def test_the_entry_page_leads_to_every_page():
    page = text_of("index")
    (toctree,) = re.findall(r"^```\{toctree\}\n:hidden:\n\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    there = {path.stem for path in PAGES.glob("*.md")} - {"index"}
    assert there <= set(toctree.split())
    for name in toctree.split():
        assert f"[]({name}.md)" in page


def test_the_policy_names_every_stage_and_what_is_seen_of_it():
    page = text_of("compatibility")
    for name in ("OLDEST_API", "API_VERSION", "ADAPTERS", "DROPPED_IN"):
        assert name in page and hasattr(plugins, name)


def test_the_capabilities_that_the_tutorial_lists_are_those_in_use():
    listed = re.search(r"those that `ruvattn`'s own variants use are (.*?)\.", text_of("tutorial"), re.DOTALL).group(1)
    words = set(re.findall(r"`([\w-]+)`", listed))
    used = {word for info in registry.variants().values() if info.distribution.startswith("ruvattn") for word in info.capabilities}
    assert used <= words
    assert {"trainable", "masks", "scores"} <= words


def test_the_guide_of_the_folder_leads_to_the_pages():
    guide = GUIDE.read_text(encoding="utf-8")
    for name in ("tutorial", "hooks", "testing", "benchmarks", "compatibility"):
        assert f"../docs/authors/{name}.md" in guide
    assert "ruvattn new-plugin" in guide
