"""The snippets of docs/ that need torch run, after those before them on the same page."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import read_page, run_page

pytest.importorskip("torch")
pytest.importorskip("transformers")

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {str(path.relative_to(DOCS)): read_page(path) for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts}


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if any(block.kind == "py" for block in page.blocks)])
def test_the_torch_of_a_page_runs_and_prints_what_it_says(name, tmp_path):
    done = run_page(PAGES[name], tmp_path, torch=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
