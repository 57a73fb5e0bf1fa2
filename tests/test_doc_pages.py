"""The pages of docs/ say what is so: all that can be run is run, what cannot is looked at, and the reference has every public name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
from doc_pages import Block, Page, commands, missing_line, read_page, run_page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PLUGINS = ("ruvattn_sparse", "ruvattn_geometric", "ruvattn_graph", "ruvattn_example")
MODULES = (*PLUGINS, "ruvattn_graph.karate", "ruvattn.testing.strategies", "ruvattn.testing.benchmarks")
"""What is imported from these, besides the public modules of the core."""

if not DOCS.is_dir():
    pytest.skip("needs a checkout", allow_module_level=True)

PAGES = {
    str(path.relative_to(DOCS)): read_page(path)
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "_templates", "generated"} & set(path.relative_to(DOCS).parts)
}


def pages_with(*kinds: str, walkthrough: bool | None = None) -> pytest.MarkDecorator:
    names = [
        name
        for name, page in PAGES.items()
        if any(block.kind in kinds for block in page.blocks) and walkthrough in (None, page.walkthrough)
    ]
    return pytest.mark.parametrize("name", names)


# Pages ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_fence_of_a_page_is_of_a_kind_that_is_checked(name):
    assert PAGES[name].mistakes == []


@pages_with("python", walkthrough=False)
def test_the_python_of_a_page_runs_and_prints_what_it_says(name, tmp_path):
    run(PAGES[name], tmp_path)


@pages_with("console", walkthrough=True)
def test_a_walkthrough_can_be_followed_to_its_end(name, tmp_path):
    run(PAGES[name], tmp_path)


def run(page: Page, folder: Path) -> None:
    if any(importlib.util.find_spec(plugin) is None for plugin in PLUGINS):
        pytest.skip("needs the plugins: pip install ./plugins/ruvattn-*")
    done = run_page(page, folder)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


# Commands -------------------------------------------------------------------------------------------------------------------------


def commands_of(page: Page) -> list[tuple[int, list[str]]]:
    """The words of each command of a page, without variables before it."""
    found = []
    for block in page.blocks:
        if block.kind == "console":
            for line, command, _ in commands(block):
                for part in re.split(r"&&|\||;", command):
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words = words[1:]
                    if words:
                        found.append((line, words))
    return found


@pages_with("console")
def test_every_make_command_of_a_page_names_targets(name):
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line, words in commands_of(PAGES[name]):
        if words[0] == "make":
            assert [word for word in words[1:] if word not in targets and not re.match(r"[A-Z]+=", word)] == [], f"{name}:{line}"


@pages_with("console")
def test_every_ruvattn_command_of_a_page_parses(name):
    from ruvattn.cli import commands as group

    context = group.make_context("ruvattn", ["info"])
    for line, words in commands_of(PAGES[name]):
        if words[0] != "ruvattn" or len(words) == 1 or words[1].startswith("-"):
            continue
        command = group.get_command(context, words[1])
        assert command is not None, f"{name}:{line}: {words}"
        try:
            command.make_context(words[1], words[2:], parent=context, resilient_parsing="--help" in words).close()
        except Exception as error:
            pytest.fail(f"{name}:{line}: {' '.join(words)}: {error}")


@pages_with("console", walkthrough=False)
def test_every_path_in_a_command_of_a_page_exists(name):
    files = {block.path for block in PAGES[name].blocks if block.kind == "file"}
    for line, words in commands_of(PAGES[name]):
        for word in words[1:]:
            if re.match(r"(\./)?(tests|plugins|examples|scripts|asv_benchmarks|ruvattn|docs)/[\w./-]+$", word) and word not in files:
                assert (ROOT / word).exists(), f"{name}:{line}: {word}"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_path_in_the_prose_of_a_page_exists(name):
    text = re.sub(r"^(`{3,}).*?^\1", "", PAGES[name].path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    paths = re.findall(r"`((?:ruvattn|plugins|tests|scripts|docs|examples|asv_benchmarks)/[\w./-]+)`", text)
    made = {path for path in paths if re.search(r"/[._]", path)}  # by a command: caches, builds, results
    assert [path for path in paths if path not in made and not (ROOT / path).exists()] == []


# The reference --------------------------------------------------------------------------------------------------------------------


def documented() -> dict[int, str]:
    """The path of everything that autosummary lists in docs/reference, by the identity of the thing."""
    found = {}
    for page in DOCS.glob("reference/*.md"):
        text = page.read_text(encoding="utf-8")
        for module, listing in re.findall(r"^\.\. (?:current)?module:: (\S+)\n\n\.\. autosummary::\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for name in re.findall(r"^   ([A-Za-z_]\w*)$", listing, re.MULTILINE):
                if ".integrations." in module and importlib.util.find_spec("torch") is None:
                    continue
                thing = getattr(importlib.import_module(module), name)
                assert id(thing) not in found, f"{module}.{name} is {found[id(thing)]} again"
                found[id(thing)] = f"{module}.{name}"
    return found


@pytest.fixture(scope="module")
def checker():
    pytest.importorskip("numpydoc", reason="pip install 'ruvattn[lint]'")
    spec = importlib.util.spec_from_file_location("check_docstrings", ROOT / "scripts" / "check_docstrings.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_class_and_function(checker):
    pytest.importorskip("ruvattn_example")
    listed = documented()
    public = dict(checker.public_names(["ruvattn"]))
    for name in MODULES:
        module = importlib.import_module(name)
        public |= {id(getattr(module, part)): (f"{name}.{part}", getattr(module, part)) for part in module.__all__}
    missing = [path for identity, (path, thing) in public.items() if (inspect.isclass(thing) or inspect.isroutine(thing)) and identity not in listed]
    # The hook is documented once; each distribution implements it.
    assert [path for path in sorted(missing) if not path.endswith(".ruvattn_register")] == []


def test_the_reference_names_every_public_constant(checker):
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("reference/*.md"))
    for module in checker.modules("ruvattn"):
        for name in getattr(module, "__all__", ()):
            if name.isupper():
                assert name in text, f"{module.__name__}.{name}"


def test_the_reference_of_the_command_line_is_made_of_the_commands():
    assert "```{commands}" in (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")


def test_every_variable_that_is_read_stands_in_the_reference():
    source = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "ruvattn").rglob("*.py"))
    macros = set(re.findall(r'\(\s*"(RUVATTN_[A-Z_]+)", ', source)) - {"RUVATTN_ISA"}  # what build.py defines for C
    variables = set(re.findall(r'"(RUVATTN_[A-Z_]+)"', source)) - {"RUVATTN_API"} - macros
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    assert {"RUVATTN_ISA", "RUVATTN_LOAD_PLUGINS"} <= variables
    assert [name for name in sorted(variables) if name not in text] == []


# How pages are built ---------------------------------------------------------------------------------------------------------------


def extension(name: str):
    pytest.importorskip("sphinx", reason="pip install 'ruvattn[docs]'")
    spec = importlib.util.spec_from_file_location(f"doc_extension_{name}", DOCS / "_extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script defer src=//cdn.example/x.js></script>',
        '<img alt="" src="http://example.org/x.png">',
        '<link href="https://fonts.example/a.css" rel="stylesheet">',
        '<link rel="preload" as="font" href="https://fonts.example/a.woff2">',
    ],
)
def test_a_page_that_loads_from_the_network_is_seen(text):
    assert extension("offline").loads(text, ".html")


@pytest.mark.parametrize("text", ['<a href="https://example.org">', '<script src="_static/x.js"></script>', '<link rel="canonical" href="https://example.org">'])
def test_a_link_to_the_network_is_no_loading(text):
    assert extension("offline").loads(text, ".html") == []


def test_a_style_sheet_that_imports_from_the_network_is_seen():
    assert extension("offline").loads("@import url('https://fonts.example/a.css');", ".css") == ["https://fonts.example/a.css"]


def test_what_a_docstring_indents_stays_as_it_is_and_what_belongs_to_a_parameter_does_not():
    lines = ["Do it.", "", "    a ─► b", "", "Parameters", "----------", "x : int", "    One.", "", "    More.", ""]
    lines += ["Notes", "-----", "So:", "", "    c"]
    extension("docstring_names").keep_drawings(None, "", "", None, None, lines)
    literal = [lines[number + 2].strip() for number, line in enumerate(lines) if line == ".. code-block:: text"]
    assert literal == ["a ─► b", "c"]


@pytest.mark.parametrize(
    ("target", "cls", "found"),
    [
        ("forward_batch", "Attention", "ruvattn.Attention.forward_batch"),
        ("ruvattn.functional.attention", "", "ruvattn.attention"),
        ("backward", "SparseAttention", None),
        ("q", "Attention", None),
    ],
)
def test_a_name_in_a_docstring_leads_to_where_it_is_documented(target, cls, found):
    names_of = extension("docstring_names")
    paths = ["ruvattn.attention", "ruvattn.Attention", "ruvattn.Attention.forward_batch", "ruvattn.SparseAttention"]
    names = names_of.Names(SimpleNamespace(domains={"py": SimpleNamespace(objects=dict.fromkeys(paths))}))
    assert names_of.search(target, {"py:module": "ruvattn", "py:class": cls}, names)[1] == found


@pytest.mark.parametrize("path", sorted(DOCS.glob("drawings/*.svg")), ids=lambda path: path.stem)
def test_a_drawing_says_in_words_what_it_shows_and_takes_its_colours_from_the_theme(path):
    text = path.read_text(encoding="utf-8")
    assert re.search(r"<title id=.*>\w.*</title>\s*<desc id=.*>\w.*</desc>", text)
    assert not re.search(r"#[0-9a-f]{3,6}\b|(?:fill|stroke)=", text)
    sheet = (DOCS / "_static" / "ruvattn.css").read_text(encoding="utf-8")
    used = {name for names in re.findall(r'class="([^"]*)"', text) for name in names.split()} - {"drawing"}
    assert [name for name in sorted(used) if not re.search(rf"\.{name}\b", sheet)] == []


# The runner itself ----------------------------------------------------------------------------------------------------------------


def page_of(tmp_path: Path, text: str) -> Page:
    path = tmp_path / "page.md"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return read_page(path)


def test_a_snippet_that_fails_names_page_and_line(tmp_path):
    done = run_page(page_of(tmp_path, "# Page\n\n```python\nx = 1\nassert x == 2\n```\n"), tmp_path)
    assert done.returncode != 0
    assert re.search(r'page\.md", line 5', done.stderr)
    assert "assert x == 2" in done.stderr


def test_snippets_of_a_page_are_one_module_and_find_the_files_before_them(tmp_path):
    page = page_of(
        tmp_path,
        """
        ```{code-block} python
        :caption: helper.py

        VALUE = 3
        ```

        ```python
        import pickle
        from helper import VALUE

        class Thing:
            pass
        ```

        ```python
        assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)
        print(VALUE)
        ```
        ```text
        3
        ```
        """,
    )
    done = run_page(page, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n"


def test_output_that_differs_is_a_failure_with_both(tmp_path):
    done = run_page(page_of(tmp_path, "```python\nprint(2)\n```\n\n```text\n3\n```\n"), tmp_path)
    assert done.returncode == 1
    assert "page.md:2: is said to print\n    3\nand printed\n2" in done.stderr


def test_a_drawing_after_words_is_no_output(tmp_path):
    page = page_of(tmp_path, "```python\nprint(2)\n```\n\nA picture:\n\n```text\na ─► b\n```\n")
    assert [(block.kind, block.output) for block in page.blocks] == [("python", ""), ("text", "")]


def test_fences_inside_of_directives_are_found_with_their_lines(tmp_path):
    page = page_of(
        tmp_path,
        """
        ````{tab-set}
        ```{tab-item} One
        :sync: a

        ~~~python
        x = 1
        ~~~
        ```
        ````

        :::{note}
        ```python
        y = 1
        ```
        :::
        """,
    )
    assert [(block.kind, block.line, block.text) for block in page.blocks] == [("python", 7, "x = 1\n"), ("python", 14, "y = 1\n")]


@pytest.mark.parametrize("fence", ["```\nx\n```\n", "```toml\nx = 1\n```\n", "```{code-block} c\nint x;\n```\n"])
def test_a_fence_that_nobody_would_check_is_a_mistake(tmp_path, fence):
    assert len(page_of(tmp_path, fence).mistakes) == 1


def test_commands_go_on_after_a_backslash_and_keep_their_output():
    block = Block("console", 7, "$ one \\\n    two\nprinted\n\n$ three\n")
    assert list(commands(block)) == [(7, "one two", "printed\n"), (11, "three", "")]


@pytest.mark.parametrize(
    ("expected", "printed", "missing"),
    [
        ("a\nc", "a\nb\nc", None),
        ("c\na", "a\nb\nc", "a"),
        ("took ... ms", "took 3.5 ms", None),
        ("took ... ms", "took 3.5 s", "took ... ms"),
        ("...\nb", "a\nb", None),
        ("a   b", "a b", None),
        ("a", "ab", "a"),
    ],
)
def test_each_line_of_output_has_to_be_printed_in_its_order(expected, printed, missing):
    assert missing_line(expected, printed) == missing


def test_a_walkthrough_installs_what_the_reader_wrote(tmp_path):
    page = page_of(
        tmp_path,
        """\
        ---
        walkthrough: true
        ---

        ```{code-block} toml
        :caption: hello/pyproject.toml

        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"

        [project]
        name = "hello-doc-page"
        version = "1"

        [tool.setuptools]
        py-modules = ["hello_doc_page"]
        ```

        ```{code-block} python
        :caption: hello/hello_doc_page.py

        WORD = "hello"
        ```

        ```console
        $ python -m venv .venv
        $ . .venv/bin/activate
        $ pip install ./hello
        $ cd hello/build
        $ python -c 'import hello_doc_page, ruvattn; print(hello_doc_page.WORD)'
        hello
        $ ruvattn --version
        ruvattn ...
        $ ruvattn nonsense  # exit code 2
        ```

        ```python
        import hello_doc_page
        print(hello_doc_page.WORD)
        ```
        """,
    )
    done = run_page(page, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert importlib.util.find_spec("hello_doc_page") is None
