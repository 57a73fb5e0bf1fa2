"""The guides have every variant, with what it is from; the how-tos are listed; the gallery has every example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ruvattn

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXAMPLES = DOCS.parent / "examples"
if not (DOCS / "guides").is_dir():
    pytest.skip("the documents are not here", allow_module_level=True)

OURS = ("ruvattn", "ruvattn-sparse", "ruvattn-geometric", "ruvattn-graph", "ruvattn-example")
GUIDES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "guides").glob("*.md")) if path.stem != "index"}


def variants() -> list[str]:
    return sorted(name for name, info in ruvattn.variants().items() if info.distribution in OURS)


@pytest.mark.parametrize("name", variants())
def test_a_guide_has_a_row_for_each_variant_that_says_what_it_is_from(name):
    rows = [line for text in GUIDES.values() for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line]
    assert rows, f"no guide has {name} in a table"
    assert any(re.search(r"\b(19|20)\d\d\b", row) for row in rows), f"no row with {name} has the year of a paper: {rows}"


def test_a_guide_has_each_of_our_distributions_that_has_variants():
    assert {info.distribution for info in ruvattn.variants().values() if info.distribution in OURS} >= {"ruvattn"}
    for name in ("ruvattn-sparse", "ruvattn-geometric", "ruvattn-graph"):
        assert any(name in text for text in GUIDES.values()), name


@pytest.mark.parametrize("name", sorted(GUIDES))
def test_a_guide_says_what_goes_wrong_and_what_it_costs_or_lacks(name):
    titles = re.findall(r"^## (.*)$", GUIDES[name], re.MULTILINE)
    wanted = {"integrations": r"Threads", "training": r"What there is not"}.get(name, r"What it costs")
    assert any(re.match(wanted, title) for title in titles), titles
    if name in ("dense", "sparse", "geometric", "graph"):
        assert any(re.match("Errors", title) for title in titles), titles


def test_the_index_of_how_tos_lists_each_of_them_once():
    listed = re.findall(r"^([a-z_]+)$", (DOCS / "howto" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (DOCS / "howto").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("path", sorted((DOCS / "howto").glob("*.md")), ids=lambda path: path.stem)
def test_a_how_to_is_short_and_shows_code(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert path.stem == "index" or re.search(r"^```py(thon)?$", text, re.MULTILINE)


def test_the_gallery_has_every_example_and_nothing_that_is_not_there():
    named = set(re.findall(r"`examples/(\w+)\.py`", (DOCS / "examples.md").read_text(encoding="utf-8")))
    programs = {path.stem for path in EXAMPLES.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")}
    assert named == programs


def test_every_picture_that_a_page_shows_is_there():
    for path in [*DOCS.glob("*.md"), *DOCS.glob("guides/*.md"), *DOCS.glob("howto/*.md")]:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / picture).is_file(), f"{path.name}: {picture}"
