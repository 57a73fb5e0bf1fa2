"""Pages of docs/: what their snippets are, and running them as a reader would, from top to bottom.

    page.md ──► read_page ──► blocks: Python, files, commands, outputs
                                │
                                └─► run_page ──► a process of its own, in an empty folder ──► doc_pages.py as a script: step by step

What a fence is:

    ```python                       runs; all of a page are one module
    ```py                           the same, where torch is there
    ```{code-block} X + :caption:   a file: written under that path before what follows runs
    ```console                      commands after "$ ", and what they print; run in a page whose front matter says ``walkthrough: true``,
                                    elsewhere only looked at: see test_doc_pages.py
    ```text                         a drawing; where it follows a block of Python with no word between, or output in a console: what is printed.
                                    Each of its lines has to be printed, in that order; others may stand between, and ``...`` is anything

In a walkthrough there is an environment around it in which the package and its tools are installed already, where ``pip install`` puts what the
reader writes, with nothing from the network. Lines that would make or enter an environment are passed over. A command with the comment
``# exit code 1`` has to fail so.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import linecache
import os
import re
import shlex
import site
import subprocess
import sys
import sysconfig
import types
import venv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

TOOLS = ("pip", "pytest", "ruvattn", "asv")
"""Programs that are modules as well: in the environment of a walkthrough each is run by its own interpreter."""

PIP_OPTIONS = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "-q"]

LANGUAGES = {"python", "py", "console", "text"}
"""Of a fence that is no file. What else there is to show is a file, or an inclusion of one."""

ENVIRONMENTS = re.compile(r"(python3? -m venv\b|\.\s|source\s|deactivate\b)")


@dataclass
class Block:
    """A fence of a page: its kind, the number of its first line of content, and that content; of a file, its path."""

    kind: str
    line: int
    text: str
    path: str = ""
    output: str = ""  # of Python, what the text block right after it says is printed


@dataclass
class Page:
    """A page as it is written."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    walkthrough: bool = False
    mistakes: list[str] = field(default_factory=list)


# Reading --------------------------------------------------------------------------------------------------------------------------


def read_page(path: Path) -> Page:
    """Return the page with all its fences, those inside of directives too."""
    from markdown_it import MarkdownIt

    text = path.read_text(encoding="utf-8")
    page = Page(path)
    front = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
    if front:
        page.walkthrough = re.search(r"^walkthrough:\s*true\s*$", front.group(1), re.MULTILINE) is not None
        text = "\n" * front.group().count("\n") + text[front.end() :]
    _read(MarkdownIt("commonmark"), text, 0, page)
    return page


def _read(parser, text: str, offset: int, page: Page) -> None:
    after_python = False
    for token in parser.parse(text):
        if token.type != "fence":
            # Closing a paragraph or a list is no word between two blocks.
            after_python = after_python and token.nesting < 0
            continue
        line = offset + token.map[0] + 2
        info = token.info.strip()
        directive = re.fullmatch(r"\{([\w-]+)\}\s*(.*)", info)
        where = f"{page.path.name}:{line - 1}"
        if directive is None:
            if info not in LANGUAGES:
                kinds = ", ".join(sorted(LANGUAGES))
                page.mistakes.append(f"{where}: a fence of {info or 'no language'!r}; there are {kinds}, and files with a caption")
            if info == "text" and after_python:
                page.blocks[-1].output = token.content
            else:
                page.blocks.append(Block(info, line, token.content))
        elif directive.group(1) in {"code-block", "code"}:
            options = re.match(r"(?::[\w-]+:.*\n)*\n?", token.content).group()
            caption = re.search(r"^:caption:\s*`?([^`\n]+?)`?\s*$", options, re.MULTILINE)
            if caption is None:
                page.mistakes.append(f"{where}: a code-block without :caption: is checked by nobody; name its file, or make it a plain fence")
            else:
                page.blocks.append(Block("file", line + options.count("\n"), token.content[len(options) :], caption.group(1)))
        elif directive.group(1) not in {"eval-rst", "include", "literalinclude", "toctree", "glossary", "commands"}:
            _read(parser, token.content, line - 1, page)
        after_python = directive is None and info in {"python", "py"}


def commands(block: Block) -> Iterator[tuple[int, str, str]]:
    """Yield (line, command, what it prints) of a console block; a backslash at the end goes on in the next line."""
    command, line, printed = "", 0, []
    for number, text in enumerate(block.text.splitlines(), block.line):
        if command.endswith("\\"):
            command = f"{command[:-1].rstrip()} {text.strip()}"
        elif text.startswith("$ "):
            if command:
                yield line, command, "\n".join(printed)
            command, line, printed = text[2:].strip(), number, []
        elif command:
            printed.append(text)
        elif text.strip():
            raise ValueError(f"line {number}: a console block starts with '$ '")
    if command:
        yield line, command, "\n".join(printed)


def missing_line(expected: str, printed: str) -> str | None:
    """Return the first line of ``expected`` that ``printed`` does not have in its place, or None."""
    lines = iter(_words(printed).splitlines())
    for wanted in _words(expected).splitlines():
        if wanted.strip(". …") == "":
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in re.split(r"\.\.\.|…", wanted)))
        if not any(pattern.fullmatch(line) for line in lines):
            return wanted
    return None


def _words(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


# Running --------------------------------------------------------------------------------------------------------------------------


def run_page(page: Page, folder: Path, *, torch: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a page in a process of its own, in an empty folder; with ``torch``, its ``py`` blocks as well."""
    wanted = {"python", "file"} | ({"py"} if torch else set()) | ({"console"} if page.walkthrough else set())
    steps = []
    for block in page.blocks:
        if block.kind not in wanted:
            continue
        step = asdict(block)
        if block.kind == "console":
            step["commands"] = list(commands(block))
        steps.append(step)
    work = folder / "work"
    work.mkdir()
    environment = {**os.environ, "MPLBACKEND": "Agg", "NO_COLOR": "1", "COLUMNS": "120", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8"}
    python = sys.executable
    if page.walkthrough:
        python, prefix = _make_environment(folder / "environment")
        environment |= {"PATH": f"{prefix}{os.pathsep}{os.environ['PATH']}", "RUVATTN_BUILD_ISAS": _active_isa()}
        environment.pop("PYTHONPATH", None)
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"page": str(page.path), "steps": steps}), encoding="utf-8")
    command = [python, str(Path(__file__).resolve()), str(plan)]
    return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=900, check=False)


def _active_isa() -> str:
    from ruvattn.isa import active_isa

    return active_isa()


def _make_environment(prefix: Path) -> tuple[str, Path]:
    """Make an environment that has what this one has, and its own place for what is installed into it."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(prefix)
    programs = prefix / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    library = Path(sysconfig.get_path("purelib", "venv", {"base": str(prefix), "platbase": str(prefix)}))
    outer = [sysconfig.get_path("purelib"), *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)]
    # addsitedir, so that what is installed there as editable is found as well.
    (library / "outer.pth").write_text("".join(f"import site; site.addsitedir({entry!r})\n" for entry in outer), encoding="utf-8")
    for tool in TOOLS:
        # Without the folder of the program, which Python puts first: what lies there is no module.
        lines = [f"#!{python}", "import runpy, sys", "del sys.path[0]"]
        if tool == "pip":
            lines += ["if sys.argv[1:2] == ['install']:", f"    sys.argv[2:2] = {PIP_OPTIONS!r}"]
        lines += [f"runpy.run_module({tool!r}, run_name='__main__', alter_sys=True)", ""]
        with open(programs / tool, "x", encoding="utf-8") as script:  # x: never through a link to a program outside
            script.write("\n".join(lines))
        (programs / tool).chmod(0o755)
    return str(python), programs


class Failure(Exception):
    """What a reader would stumble over; its text has the page and the line."""


def main(plan: str) -> int:
    """Do the steps of a plan; the first that fails is told with page and line."""
    told = json.loads(Path(plan).read_text(encoding="utf-8"))
    page = told["page"]
    sys.path[0] = os.getcwd()
    name = re.sub(r"\W", "_", Path(page).stem) + "_page"
    module = types.ModuleType(name)  # what it defines can be pickled
    module.__file__ = page
    sys.modules[name] = module
    linecache.checkcache(page)
    try:
        for step in told["steps"]:
            if step["kind"] == "file":
                path = Path(step["path"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step["text"], encoding="utf-8")
            elif step["kind"] == "console":
                for line, command, expected in step["commands"]:
                    _run_command(page, line, command, expected)
            else:
                _run_python(page, step, module)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


def _run_python(page: str, step: dict, module: types.ModuleType) -> None:
    # Line numbers are those of the page, so that a traceback leads into it.
    code = compile("\n" * (step["line"] - 1) + step["text"], page, "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, module.__dict__)
    print(printed.getvalue(), end="")
    wrong = missing_line(step["output"], printed.getvalue())
    if wrong is not None:
        raise Failure(f"{page}:{step['line']}: is said to print\n    {wrong}\nand printed\n{printed.getvalue()}")


def _run_command(page: str, line: int, command: str, expected: str) -> None:
    words = shlex.split(command, comments=True)
    if not words or ENVIRONMENTS.match(command):
        return
    if words[0] == "cd" and len(words) == 2:
        os.chdir(words[1])
        sys.path[0] = os.getcwd()
        return
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", check=False)
    print(f"$ {command}\n{done.stdout}", end="", flush=True)
    told = re.search(r"#\s*exit code (\d+)", command)
    if done.returncode != int(told.group(1) if told else 0):
        raise Failure(f"{page}:{line}: exit code {done.returncode} of\n    {command}\n{done.stdout}")
    wrong = missing_line(expected, done.stdout)
    if wrong is not None:
        raise Failure(f"{page}:{line}: is said to print\n    {wrong}\nand printed\n{done.stdout}")
    if words[0] == "pip":  # what has been installed as editable is on the path of interpreters that start now: of this one too
        site.addsitedir(sysconfig.get_path("purelib"))
        importlib.invalidate_caches()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
