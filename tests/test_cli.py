"""The command line: what each command prints, and how mistakes, pipes and Ctrl-C end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

import ruvattn
from ruvattn.cli import _COMMANDS, main

ROOT = os.path.dirname(os.path.dirname(ruvattn.__file__))


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Call the command in this process, in an empty folder and without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as ended:
            main(args)
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=captured.out, err=captured.err)

    return call


def start(*args: str, stdout: int = subprocess.PIPE, **environment: str) -> subprocess.Popen:
    """Start the command in a process of its own."""
    path = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "ruvattn", *args],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def is_one_helpful_line(result: SimpleNamespace, *words: str) -> bool:
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert all(word in result.err for word in words), result.err
    return True


# The group ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(run, args):
    result = run(*args)
    assert result.code == 0
    for name in _COMMANDS:
        assert re.search(rf"^  {name}  +\w", result.out, re.MULTILINE)


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_explains_itself(run, name):
    result = run(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: ruvattn {name}")


def test_version(run):
    assert run("--version").out == f"ruvattn {ruvattn.__version__}\n"


def test_help_does_not_load_plugins_or_drawing(run):
    process = start("bench", "--help", RUVATTN_LOAD_PLUGINS="")
    assert process.communicate()[1] == b""
    code = "import sys, ruvattn.cli.bench, ruvattn.cli.demo; print([m for m in ('rich', 'numpy.testing', 'matplotlib') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert found.stdout == "[]\n", found.stderr


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["bnch"], ["'bnch'", "'bench'"]),
        (["frobnicate"], ["frobnicate", "demo, info, plugins, bench, test"]),
        (["--verison"], ["--verison", "--version"]),
        (["bench", "--dimm", "3"], ["--dimm", "--dim", "ruvattn bench --help"]),
        (["bench", "--dim", "0"], ["--dim", "0"]),
        (["bench", "--dim", "many"], ["--dim", "many"]),
        (["bench", "--num-keys", "-5"], ["--num-keys", "-5"]),
        (["bench", "--threads", "0"], ["--threads", "0"]),
        (["bench", "--iterations"], ["--iterations"]),
        (["bench", "extra"], ["extra"]),
        (["bench", "--attention-type", "standrd"], ["'standrd'", "'standard'"]),
        (["bench", "--dim", "10", "--num-heads", "3"], ["num_heads", "10", "3"]),
        (["bench", "--dim", "1000000", "--num-keys", "1000000000"], ["GiB", "--num-keys"]),
        (["demo", "100000"], ["from 1 to", "100000"]),
        (["demo", "skateboard"], ["skateboard"]),
        (["demo", "--attention-type", "multihaed"], ["'multihaed'", "'multihead'"]),
        (["demo", "--output", "/nowhere/at/all.png"], ["--output", "/nowhere/at"]),
        (["demo", "--output", ""], ["--output", "folder"]),
        (["demo", "--output", "/"], ["--output", "directory"]),
        (["demo", ""], ["sentence must be a number"]),
        (["demo", "-5"], ["-5", "ruvattn demo --help"]),
        (["info", "--jsn"], ["--jsn", "--json"]),
        (["plugins", "x"], ["x", "ruvattn plugins --help"]),
        (["test", "--suite", "speed"], ["--suite", "speed"]),
        (["test", "nothing-of-that-name"], ["nothing-of-that-name"]),
    ],
)
def test_a_mistake_ends_in_one_helpful_line(run, args, words):
    assert is_one_helpful_line(run(*args), *words)


def test_out_of_memory_is_one_line(run, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("Unable to allocate 3 TiB")

    monkeypatch.setattr("ruvattn.cli.bench.measure", fail)
    assert is_one_helpful_line(run("bench"), "out of memory", "3 TiB")


def test_our_own_bugs_keep_their_traceback(monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("ruvattn.cli.bench.measure", fail)
    with pytest.raises(ZeroDivisionError):
        main(["bench"])


def test_a_broken_plugin_is_one_line_of_warning(run, fake_plugins):
    fake_plugins.install("broken-one", "raise OSError('no [disk]\\nhere')")
    result = run("demo", "1", "--no-map", "--attention-type", "standard")
    assert result.code == 0
    assert result.err.startswith("ruvattn: warning: ")
    assert result.err.count("\n") == 1
    assert "broken-one" in result.err
    assert "no [disk] here" in result.err


FAULTY = """
def ruvattn_register(registry):
    from ruvattn.builtin.standard import StandardAttention

    class Faulty(StandardAttention):
        def attend(self, *args, **options):
            raise KeyError("no [such] thing")

    registry.variant("faulty", Faulty, summary="never works")
"""


def test_a_variant_of_a_plugin_that_fails_is_one_line_that_names_the_plugin(run, fake_plugins):
    fake_plugins.install("faulty-one", FAULTY, version="3.1")
    words = ("variant 'faulty' of faulty-one 3.1 failed", "KeyError", "no [such] thing")
    assert is_one_helpful_line(run("bench", "--attention-type", "faulty"), *words)


@pytest.mark.parametrize("command", [["info"], ["demo", "1", "--no-map"], ["bench"]])
def test_a_wrong_instruction_set_is_one_line(command):
    process = start(*command, RUVATTN_ISA="abacus")
    out, err = (text.decode() for text in process.communicate(timeout=60))
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("ruvattn: RUVATTN_ISA='abacus' is not available on this machine: use one of ")
    assert err.count("\n") == 1


# Pipes, Ctrl-C, terminals -------------------------------------------------------------------------------------------


def test_a_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    process = start("demo", "--list", stdout=write)
    os.close(write)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("command", [["demo", "--list"], ["info", "--json"], ["plugins"], ["--help"]])
def test_a_full_disk_is_one_line(command):
    with open("/dev/full", "w") as full:
        process = start(*command, stdout=full.fileno())
        err = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 2
    assert err == "ruvattn: cannot write the output: No space left on device\n"


def test_without_any_output_nothing_fails():
    closed = "import sys; sys.stdout = sys.stderr = None; from ruvattn.cli import main; main(sys.argv[1:])"
    for command, code in ((["info"], 0), (["demo", "--list"], 0), (["frobnicate"], 2)):
        process = subprocess.run([sys.executable, "-c", closed, *command], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True)
        assert (process.returncode, process.stdout, process.stderr) == (code, b"", b"")


def test_ctrl_c_is_quiet():
    process = start("bench", "--iterations", "1000000", "--no-scalar")
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == b""
    assert err.strip() == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_fits_the_encoding(tmp_path, encoding):
    process = start("demo", "1", f"--output={tmp_path / 'map.png'}", PYTHONIOENCODING=encoding, COLUMNS="60")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    text = out.decode(encoding)
    assert "?" not in text
    assert ("█" in text) == (encoding == "utf-8")
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 60 or str(tmp_path) in text


def test_progress_waits_a_second_and_leaves_nothing(monkeypatch):
    from io import StringIO

    from rich.console import Console

    from ruvattn.cli import console

    screen = StringIO()
    monkeypatch.setenv("TERM", "xterm")
    terminal = Console(file=screen, force_terminal=True, width=60)
    monkeypatch.setattr(console, "make_console", lambda stderr: terminal)
    monkeypatch.setattr(console, "PATIENCE", 0.2)
    with console.progress("quick", 2) as step:
        step()
        step()
    assert screen.getvalue() == ""
    with console.progress("slow", 2) as step:
        time.sleep(0.5)
        assert "slow" in screen.getvalue()
        step()
    assert screen.getvalue().endswith("\x1b[2K")  # the line is erased


def test_progress_is_not_for_pipes_and_dumb_terminals(monkeypatch):
    from io import StringIO

    from rich.console import Console

    from ruvattn.cli import console

    monkeypatch.setattr(console, "PATIENCE", 0.0)
    for terminal, term in ((False, "xterm"), (True, "dumb")):
        monkeypatch.setenv("TERM", term)
        screen = StringIO()
        made = Console(file=screen, force_terminal=terminal, width=60)
        monkeypatch.setattr(console, "make_console", lambda stderr, made=made: made)
        with console.progress("slow", 2) as step:
            time.sleep(0.1)
            step()
        assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 us"),
        (1.234e-6, "1.23 us"),
        (9.996e-6, "10.0 us"),
        (123e-6, "123 us"),
        (999.6e-6, "1.00 ms"),
        (0.0456, "45.6 ms"),
        (0.9996, "1.00 s"),
        (61, "61.00 s"),
    ],
)
def test_durations_have_three_digits(seconds, text):
    from ruvattn.cli.console import duration

    assert duration(seconds) == text


# demo ---------------------------------------------------------------------------------------------------------------


def test_demo_shows_every_variant_with_five_sentences_time_and_error(run):
    result = run("demo", "--no-map")
    assert result.code == 0
    for name in ruvattn.variants():
        assert re.search(rf"^{name}  \S+ \S+  .*s  .*(error \d|oracle)", result.out, re.MULTILINE), name
    percents = re.findall(r"^ +[\d.]+%", result.out, re.MULTILINE)
    assert len(percents) >= 5 * 3


def test_demo_takes_words_and_says_what_else_it_found(run):
    result = run("demo", "active", "volcano", "--no-map", "--attention-type", "standard")
    assert "active volcano" in result.out.splitlines()[0]
    assert "Also found" in result.out


def test_demo_lists_the_sentences(run):
    result = run("demo", "--list")
    assert re.search(r"^ +1  \w", result.out, re.MULTILINE)
    assert re.search(r"^  418  \w", result.out, re.MULTILINE)


def test_demo_writes_the_map(run, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("demo", "2", "--attention-type", "standard", "--output", "new map.png")
    assert result.code == 0
    assert "new map.png" in result.out
    assert (tmp_path / "new map.png").read_bytes().startswith(b"\x89PNG")


def test_demo_without_matplotlib_says_how_to_get_it(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    result = run("demo", "2", "--attention-type", "standard")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "No heat map, for matplotlib is not installed: pip install 'ruvattn[demo]'"
    assert list(tmp_path.iterdir()) == []


def test_demo_says_in_one_line_that_the_map_cannot_be_written(run, monkeypatch):
    pytest.importorskip("matplotlib")

    def fail(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ruvattn.demo.draw_map", fail)
    result = run("demo", "2", "--attention-type", "standard")
    assert result.code == 2
    assert result.err == "ruvattn: cannot write the heat map to 'ruvattn-demo.png': Permission denied\n"


SHOWING = """
    from ruvattn.demo import Demonstration

    def show(folder):
        if folder is None:
            return Demonstration(["only [text], 2 · 3", "  █▌ a bar"], note="drew nothing")
        (folder / "ruvattn-demo-showing.png").write_bytes(b"picture")
        return Demonstration(["drawn"], [folder / "ruvattn-demo-showing.png"])

    def fail(folder):
        raise RuntimeError("no mood")

    def lack(folder):
        raise ImportError("needs brushes: pip install brushes")

    def ruvattn_register(registry):
        registry.demo("aaa-failing", fail)
        registry.demo("aaa-lacking", lack)
        registry.demo("showing", show, summary="A show.")
"""


@pytest.fixture
def showing(fake_plugins, monkeypatch):
    """Only one plugin, with one demonstration that works and two that don't."""
    fake_plugins.install("showing", SHOWING, version="1.5")
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "showing")
    return fake_plugins


def test_demo_ends_with_what_plugins_demonstrate_each_on_its_own(run, showing):
    result = run("demo", "2", "--no-map")
    assert result.code == 0, result.err
    _, _, shown = result.out.partition("aaa-failing  showing 1.5\n")
    assert shown.splitlines() == [
        "RuntimeError: no mood", "",
        "aaa-lacking  showing 1.5", "needs brushes: pip install brushes", "",
        "showing  showing 1.5  ·  A show.", "drew nothing", "only [text], 2 · 3", "  █▌ a bar",
    ]  # fmt: skip


def test_demo_puts_the_pictures_of_plugins_beside_its_own(run, showing, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "pictures"
    folder.mkdir()
    result = run("demo", "2", "--output", "pictures/map.png")
    assert result.code == 0, result.err
    assert result.out.splitlines()[-2:] == ["drawn", f"Picture: {os.path.join('pictures', 'ruvattn-demo-showing.png')}"]
    assert sorted(os.listdir(folder)) == ["map.png", "ruvattn-demo-showing.png"]


def test_demo_of_named_variants_shows_nothing_else(run, showing):
    assert "showing" not in run("demo", "2", "--no-map", "--attention-type", "standard").out


def test_what_plugins_say_fits_the_encoding(showing):
    code = "from ruvattn.cli import main; main(['demo', '2', '--no-map'])"
    result = showing.run(code, PYTHONIOENCODING="ascii", RUVATTN_LOAD_PLUGINS="showing")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-3:] == ["drew nothing", "only [text], 2 | 3", "  ## a bar"]


def test_plugins_lists_demonstrations(run, showing):
    assert "demo: aaa-failing, aaa-lacking, showing" in run("plugins").out
    assert json.loads(run("info", "--json").out)["plugins"]["showing 1.5 (showing)"] == {"demo": ["aaa-failing", "aaa-lacking", "showing"]}


# info ---------------------------------------------------------------------------------------------------------------


def test_info_shows_the_configuration(run):
    result = run("info")
    assert result.code == 0
    for key in ("compiler", "isa", "openmp", "threads", "numpy"):
        assert re.search(rf"^{key} +\S", result.out, re.MULTILINE), result.out


def test_info_as_json_is_the_configuration(run):
    assert json.loads(run("info", "--json").out) == json.loads(json.dumps(ruvattn.config_info(), default=str))


# plugins ------------------------------------------------------------------------------------------------------------

GOOD = """
def ruvattn_register(registry):
    from ruvattn.scores import Dot
    registry.score("other-dot", Dot, summary="dot again")
"""


def test_plugins_shows_what_is_built_in_what_loaded_and_what_failed(run, fake_plugins):
    fake_plugins.install("good-one", GOOD, version="2.5")
    fake_plugins.install("bad-one", "def ruvattn_register(registry):\n    raise RuntimeError('out of [luck]')")
    result = run("plugins")
    assert result.code == 0
    assert re.search(r"\(built in\) +ruvattn .*variant: .*standard", result.out)
    assert re.search(r"good-one +good-one 2\.5 .*score: other-dot", result.out)
    assert "bad-one: RuntimeError: out of [luck]" in result.out
    assert "Traceback" not in result.out
    assert "--verbose" in result.out


def test_plugins_verbose_shows_the_traceback(run, fake_plugins):
    fake_plugins.install("bad-one", "def ruvattn_register(registry):\n    raise RuntimeError('out of [luck]')")
    result = run("plugins", "--verbose")
    assert "Traceback (most recent call last)" in result.out
    assert "bad_one.py" in result.out


def test_plugins_says_what_was_left_out(run, fake_plugins, monkeypatch):
    fake_plugins.install("good-one", GOOD)
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "")
    assert re.search(r"good-one .*left out", run("plugins").out)


def test_plugins_as_json(run, fake_plugins):
    fake_plugins.install("good-one", GOOD)
    listed = json.loads(run("plugins", "--json").out)
    assert "standard" in listed["built_in"]["variant"]
    (plugin,) = (plugin for plugin in listed["plugins"] if plugin["name"] == "good-one")
    assert plugin["loaded"] is True
    assert plugin["provides"] == {"score": ["other-dot"]}


# bench --------------------------------------------------------------------------------------------------------------

SMALL = ("--dim", "32", "--num-keys", "64", "--num-queries", "16", "--iterations", "3")


def test_bench_prints_time_rate_and_speed_up(run):
    result = run("bench", *SMALL)
    assert result.code == 0, result.err
    for key in ("time", "GFLOP/s", "queries/s", "speed-up"):
        assert re.search(rf"^{key} +[\d.,]+", result.out, re.MULTILINE), result.out


def test_bench_as_json_is_consistent(run):
    result = run("bench", *SMALL, "--threads", "1", "--attention-type", "multihead", "--num-heads", "4", "--json")
    figures = json.loads(result.out)
    assert figures["attention_type"] == "multihead"
    assert (figures["num_queries"], figures["num_keys"], figures["dim"], figures["num_heads"]) == (16, 64, 32, 4)
    assert figures["threads"] == 1
    assert figures["seconds_min"] <= figures["seconds"] <= figures["seconds_max"]
    assert figures["gflops"] == pytest.approx(4 * 16 * 64 * 32 / figures["seconds"] / 1e9)
    assert figures["queries_per_second"] == pytest.approx(16 / figures["seconds"])
    assert figures["speed_up"] == pytest.approx(figures["scalar_seconds"] / figures["seconds"])


def test_bench_leaves_the_number_of_threads_as_it_was(run):
    before = ruvattn.get_num_threads()
    assert json.loads(run("bench", *SMALL, "--threads", "2", "--no-scalar", "--json").out)["threads"] == 2
    assert ruvattn.get_num_threads() == before


def test_bench_can_leave_the_scalar_build_alone(run):
    figures = json.loads(run("bench", *SMALL, "--no-scalar", "--json").out)
    assert figures["scalar_seconds"] is None
    assert figures["speed_up"] is None


def test_bench_says_that_no_scalar_build_is_installed(run, monkeypatch):
    monkeypatch.setattr("ruvattn.isa.supported_isas", lambda: ("baseline",))
    result = run("bench", *SMALL, "--json")
    assert result.err == (
        "ruvattn bench: warning: no scalar build is installed to compare with: ruvattn was built with RUVATTN_BUILD_ISAS, which left it out\n"
    )
    assert json.loads(result.out)["speed_up"] is None


@pytest.mark.skipif(os.name == "nt", reason="a script of a POSIX shell")
def test_bench_says_why_the_scalar_build_could_not_be_timed(run, monkeypatch, tmp_path):
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho a warning >&2\necho 'ruvattn: demo-x is broken' >&2\nexit 2\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    result = run("bench", *SMALL)
    assert (result.code, result.err) == (0, "ruvattn bench: warning: the scalar build could not be timed: demo-x is broken\n")


def test_bench_says_that_a_plugin_was_built_without_a_scalar_build(run, fake_plugins, tmp_path):
    fake_plugins.install("demo-x", """
        import ruvattn

        if ruvattn.isa.active_isa() == "scalar":
            ruvattn.load_kernels("demo_x._score")

        def ruvattn_register(registry):
            registry.variant("demo-x", lambda **options: ruvattn.create("standard", **options), summary="x")
    """)  # fmt: skip
    result = run("bench", *SMALL, "--attention-type", "demo-x")
    assert result.code == 0
    assert result.err == (
        "ruvattn bench: warning: the scalar build could not be timed: demo_x._score has none, for it was built with RUVATTN_BUILD_ISAS, "
        "which left it out\n"
    )


def test_bench_goes_on_when_the_scalar_build_cannot_be_had(run, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    result = run("bench", *SMALL)
    assert result.code == 0
    assert result.err == "ruvattn bench: warning: the scalar build could not be timed\n"
    assert "speed-up" not in result.out
