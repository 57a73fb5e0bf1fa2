"""The rules of plugins, each with its test. The plugins are real: modules and metadata on disk, found by their entry
points."""

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from pathlib import Path

import pytest

from ruvattn import hookspecs, plugins, registry
from ruvattn.errors import AttentionError, PluginError, UnknownVariantError

GOOD = """
    from ruvattn.scores import Dot

    def ruvattn_register(registry):
        registry.score("{name}", Dot)
"""

# Leaves a line in a file each time that it is imported or registers.
TELLTALE = """
    import os, time
    from pathlib import Path
    from ruvattn.scores import Dot

    log = Path(os.environ["TELLTALE"])

    def note(what):
        with log.open("a") as file:
            file.write(what + "\\n")

    note("imported")
    time.sleep(0.05)

    def ruvattn_register(registry):
        note("registered")
        time.sleep(0.05)
        registry.score("told", Dot)
"""


def status_of(distribution):
    """Return the one status of a distribution, loading without warnings."""
    (status,) = [status for status in plugins.status() if status.distribution == distribution]
    return status


@pytest.fixture
def telltale(tmp_path, monkeypatch):
    """The file in which TELLTALE leaves its lines."""
    path = tmp_path / "telltale"
    monkeypatch.setenv("TELLTALE", str(path))
    return path


# --- nothing is looked for before it is needed ---------------------------------------------------------------------


def test_import_and_builtin_names_neither_scan_nor_load(fake_plugins, telltale):
    fake_plugins.install("ruvattn-told", TELLTALE)
    result = fake_plugins.run(
        """
        import sys
        import ruvattn
        from ruvattn import registry

        ruvattn.create("standard", embed_dim=8, num_heads=2)
        registry.get_score("dot")
        registry.get_pattern("causal")
        registry.get_aggregate("weighted-sum")
        assert "importlib.metadata" not in sys.modules
        assert "pluggy" not in sys.modules
        """
    )
    assert result.returncode == 0, result.stderr
    assert not telltale.exists()


@pytest.mark.parametrize(
    "need",
    [
        "ruvattn.variants()",
        "ruvattn.registry.scores()",
        "ruvattn.registry.get_score('told')",
        "ruvattn.plugins.load()",
        "ruvattn.plugins.status()",
    ],
)
def test_the_first_need_loads(fake_plugins, telltale, need):
    fake_plugins.install("ruvattn-told", TELLTALE)
    result = fake_plugins.run(f"import ruvattn, ruvattn.registry, ruvattn.plugins; {need}")
    assert result.returncode == 0, result.stderr
    assert telltale.read_text().split() == ["imported", "registered"]


def test_many_threads_load_once_and_see_the_same(fake_plugins, telltale):
    fake_plugins.install("ruvattn-told", TELLTALE)
    start = threading.Barrier(8)
    seen = []

    def ask():
        start.wait()
        seen.append(sorted(registry.scores()))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert telltale.read_text().split() == ["imported", "registered"]
    assert len(seen) == 8
    assert all(names == seen[0] for names in seen)
    assert "told" in seen[0]


def test_reset_finds_what_was_installed_since(fake_plugins):
    assert "late" not in registry.scores()
    fake_plugins.install("ruvattn-late", GOOD.format(name="late"))
    assert "late" not in registry.scores()
    plugins.reset()
    assert "late" in registry.scores()


# --- a plugin that works -------------------------------------------------------------------------------------------


def test_a_plugin_that_loads_says_what_it_provides(fake_plugins):
    fake_plugins.install(
        "ruvattn-good",
        """
        from ruvattn.patterns import Causal
        from ruvattn.scores import Dot

        def ruvattn_register(registry):
            registry.score("good-b", Dot)
            registry.score("good-a", Dot)
            registry.pattern("good", Causal)
        """,
        version="2.1",
        entry_points="[ruvattn]\nshort = ruvattn_good\n",
    )
    assert status_of("ruvattn-good") == plugins.PluginStatus(
        name="short",
        distribution="ruvattn-good",
        version="2.1",
        loaded=True,
        provides={"score": ("good-a", "good-b"), "pattern": ("good",)},
        api=1,
    )


@pytest.mark.parametrize("mark", ["", "@hookimpl", "@hookimpl(tryfirst=True)"])
def test_the_hook_is_known_by_its_name_and_the_marker_is_optional(fake_plugins, mark):
    fake_plugins.install(
        "ruvattn-marked",
        f"""
        from ruvattn.hookspecs import hookimpl
        from ruvattn.scores import Dot

        {mark}
        def ruvattn_register(registry):
            registry.score("marked", Dot)
        """,
    )
    assert status_of("ruvattn-marked").provides == {"score": ("marked",)}


def test_an_entry_point_may_name_an_object_in_a_module(fake_plugins):
    fake_plugins.install(
        "ruvattn-object",
        """
        from ruvattn.scores import Dot

        class Plugin:
            RUVATTN_API = 1

            def ruvattn_register(self, registry):
                registry.score("from-object", Dot)

        plugin = Plugin()
        """,
        entry_points="[ruvattn]\nobject = ruvattn_object:plugin\n",
        api="",
    )
    assert status_of("ruvattn-object").provides == {"score": ("from-object",)}


def test_a_distribution_may_have_several_entry_points(fake_plugins):
    fake_plugins.install(
        "ruvattn-twin",
        """
        from types import SimpleNamespace
        from ruvattn.scores import Dot

        def plugin(name):
            def ruvattn_register(registry):
                registry.score(name, Dot)
            return SimpleNamespace(RUVATTN_API=1, ruvattn_register=ruvattn_register)

        left, right = plugin("left"), plugin("right")
        """,
        entry_points="[ruvattn]\nleft = ruvattn_twin:left\nright = ruvattn_twin:right\n",
    )
    twins = [status for status in plugins.status() if status.distribution == "ruvattn-twin"]
    assert [(twin.name, twin.provides) for twin in twins] == [
        ("left", {"score": ("left",)}),
        ("right", {"score": ("right",)}),
    ]


def test_a_hook_may_use_builtin_names(fake_plugins):
    fake_plugins.install(
        "ruvattn-user",
        """
        from ruvattn.registry import get_score

        def ruvattn_register(registry):
            registry.score("user", type(get_score("dot")))
        """,
    )
    assert status_of("ruvattn-user").loaded


# --- a plugin that fails is isolated -------------------------------------------------------------------------------

BAD_IMPORTS = {
    "missing module": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named"),
    "syntax error": ("def broken(:", "SyntaxError"),
    "exception": ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line second line"),
    "exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "base exception": ("class Odd(BaseException): pass\nraise Odd", "Odd"),
    "unprintable": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        "Mute: (its message cannot be shown)",
    ),
}

BAD_HOOKS = {
    "raises": ("def ruvattn_register(registry): 1 / 0", "ZeroDivisionError: division by zero"),
    "exits": ("def ruvattn_register(registry): raise SystemExit", "SystemExit"),
    "absent": ("", "ruvattn_bad has no function ruvattn_register(registry)"),
    "not a function": ("ruvattn_register = 3", "ruvattn_bad has no function ruvattn_register(registry)"),
    "wrong argument": ("def ruvattn_register(register): pass", "PluginValidationError"),
    "unknown hook": (
        "from ruvattn.hookspecs import hookimpl\n@hookimpl\ndef ruvattn_unregister(): pass\n"
        "def ruvattn_register(registry): pass",
        "PluginValidationError: unknown hook 'ruvattn_unregister'",
    ),
    "generator": ("def ruvattn_register(registry): yield", "must return None, got generator: make it a plain function"),
    "returns": ("def ruvattn_register(registry): return 3", "must return None, got int"),
}

BAD_REGISTRATIONS = {
    "upper case": ('registry.score("Bad", Dot)', "name of a score must be lower-case"),
    "empty name": ('registry.score("", Dot)', "name of a score must be lower-case letters"),
    "name with a space": ('registry.score("a b", Dot)', "got 'a b'"),
    "name with a newline": (r'registry.score("a\n", Dot)', "name of a score must be"),
    "name of another type": ("registry.score(3, Dot)", "got 3"),
    "no factory": ('registry.score("bad", None)', "factory of score 'bad' must be callable, got NoneType"),
    "an instance": ('registry.aggregate("bad", Dot())', "factory of aggregate 'bad' must be callable, got Dot"),
    "no summary": ('registry.variant("bad", Dot)', "TypeError"),
    "empty summary": ('registry.variant("bad", Dot, summary=" ")', "summary of variant 'bad' must be a line of text"),
    "summary of another type": ('registry.score("bad", Dot, summary=3)', "summary of score 'bad' must be a str"),
    "capabilities as str": (
        'registry.variant("bad", Dot, summary="x", capabilities="graph")',
        "got the str 'graph': write ('graph',)",
    ),
    "capabilities as numbers": ('registry.variant("bad", Dot, summary="x", capabilities=[1])', "got [1]"),
    "one capability": ('registry.variant("bad", Dot, summary="x", capabilities=1)', "must be a sequence of str, got 1"),
    "options as names": ('registry.variant("bad", Dot, summary="x", options=["k"])', "must be a mapping of names to defaults, got ['k']"),
    "twice": (
        'registry.score("bad", Dot); registry.score("bad", Dot)',
        "score 'bad' is registered by both ruvattn-bad 1.0 (entry point 'ruvattn-bad') and ruvattn-bad 1.0",
    ),
    "taken by the core": (
        'registry.score("dot", Dot)',
        "score 'dot' is registered by both ruvattn {core} (built in) and ruvattn-bad 1.0 (entry point 'ruvattn-bad')",
    ),
    "unknown kind": ('registry.kernel("bad", Dot)', "AttributeError"),
}


def check_isolated(fake_plugins, source, message, **install):
    """Install the source between two good plugins: it alone fails, with its message and its traceback."""
    fake_plugins.install("ruvattn-first", GOOD.format(name="first"))
    fake_plugins.install("ruvattn-bad", source, **install)
    fake_plugins.install("ruvattn-last", GOOD.format(name="last"))
    bad = status_of("ruvattn-bad")
    assert not bad.loaded
    assert not bad.skipped
    assert message in bad.error
    assert "\n" not in bad.error
    assert bad.traceback.startswith("Traceback (most recent call last)")
    assert bad.provides == {}
    assert {"dot", "first", "last"} <= registry.scores().keys()
    assert registry.get_score("dot") is not None
    assert registry.get_score("first") is not None
    assert registry.get_score("last") is not None
    assert status_of("ruvattn-first").error is None
    return bad


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_a_plugin_that_cannot_be_imported_harms_no_other(fake_plugins, case):
    source, message = BAD_IMPORTS[case]
    bad = check_isolated(fake_plugins, source, message)
    assert "ruvattn_bad.py" in bad.traceback


@pytest.mark.parametrize("case", BAD_HOOKS)
def test_a_hook_that_fails_harms_no_other(fake_plugins, case):
    check_isolated(fake_plugins, *BAD_HOOKS[case])


@pytest.mark.parametrize("case", BAD_REGISTRATIONS)
def test_a_plugin_that_registers_badly_harms_no_other(fake_plugins, case):
    import ruvattn

    statement, message = BAD_REGISTRATIONS[case]
    source = f"from ruvattn.scores import Dot\ndef ruvattn_register(registry): {statement}"
    bad = check_isolated(fake_plugins, source, message.replace("{core}", ruvattn.__version__))
    assert statement.split(";")[0].strip() in bad.traceback


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_hook_that_is_a_coroutine_is_refused(fake_plugins):
    check_isolated(fake_plugins, "async def ruvattn_register(registry): pass", "must return None, got coroutine")


@pytest.mark.parametrize("value", ["no_such_module_here", "ruvattn_bad:absent", "not a reference!"])
def test_an_entry_point_that_leads_nowhere_harms_no_other(fake_plugins, value):
    fake_plugins.install("ruvattn-bad", "", entry_points=f"[ruvattn]\nbad = {value}\n")
    fake_plugins.install("ruvattn-last", GOOD.format(name="last"))
    assert not status_of("ruvattn-bad").loaded
    assert status_of("ruvattn-bad").error
    assert "last" in registry.scores()


def test_half_done_registrations_are_rolled_back(fake_plugins):
    fake_plugins.install(
        "ruvattn-half",
        """
        from ruvattn.scores import Dot

        def ruvattn_register(registry):
            registry.score("half", Dot)
            registry.variant("half", Dot, summary="x")
            raise RuntimeError("and no further")
        """,
    )
    assert status_of("ruvattn-half").error == "RuntimeError: and no further"
    assert "half" not in registry.scores()
    assert "half" not in registry.variants()
    with pytest.raises(UnknownVariantError, match="failed to load: ruvattn-half 1.0 .RuntimeError: and no further"):
        registry.get_score("half")


def test_a_name_that_was_rolled_back_is_free(fake_plugins):
    fake_plugins.install(
        "ruvattn-half",
        "def ruvattn_register(registry):\n    registry.score('contested', dict)\n    raise RuntimeError",
    )
    fake_plugins.install("ruvattn-whole", GOOD.format(name="contested"))
    assert status_of("ruvattn-whole").error is None
    assert registry.scores()["contested"].distribution == "ruvattn-whole"


def test_the_registry_is_closed_after_the_hook(fake_plugins):
    module = fake_plugins.install(
        "ruvattn-late",
        """
        from ruvattn.scores import Dot

        kept = []

        def ruvattn_register(registry):
            kept.append(registry)
        """,
    )
    plugins.load()
    (kept,) = sys.modules[module].kept
    with pytest.raises(PluginError, match="registers the score 'late' after its ruvattn_register has returned"):
        kept.score("late", dict)
    assert "late" not in registry.scores()


@pytest.mark.parametrize("when", ["import", "hook"])
def test_a_plugin_cannot_ask_for_plugins_while_they_are_loaded(fake_plugins, when):
    ask = "import ruvattn; ruvattn.variants()"
    hook = f"def ruvattn_register(registry): {ask}"
    source = f"{ask}\ndef ruvattn_register(registry): pass" if when == "import" else hook
    check_isolated(fake_plugins, source, "look names up when they are used, not while the plugin is imported")


def test_an_interrupt_is_no_fault_of_the_plugin_and_loading_can_be_tried_again(fake_plugins, tmp_path, monkeypatch):
    flag = tmp_path / "interrupted"
    monkeypatch.setenv("FLAG", str(flag))
    fake_plugins.install("ruvattn-first", GOOD.format(name="first"))
    fake_plugins.install(
        "ruvattn-slow",
        """
        import os
        from pathlib import Path
        from ruvattn.scores import Dot

        flag = Path(os.environ["FLAG"])
        if not flag.exists():
            flag.touch()
            raise KeyboardInterrupt

        def ruvattn_register(registry):
            registry.score("slow", Dot)
        """,
    )
    with pytest.raises(KeyboardInterrupt):
        plugins.load()
    assert status_of("ruvattn-slow").loaded
    assert {"first", "slow"} <= registry.scores().keys()


def test_a_failure_is_warned_of_once(fake_plugins):
    fake_plugins.install("ruvattn-bad", "raise RuntimeError('of no use')")
    with pytest.warns(RuntimeWarning) as caught:
        registry.variants()
    (message,) = [str(warning.message) for warning in caught if "ruvattn-bad" in str(warning.message)]
    assert message == (
        "ruvattn plugin 'ruvattn-bad' of ruvattn-bad 1.0 is not usable: RuntimeError: of no use "
        "(see `ruvattn plugins`)"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.variants()


def test_a_warning_turned_into_an_error_does_not_undo_the_loading(fake_plugins):
    fake_plugins.install("ruvattn-bad", "raise RuntimeError")
    fake_plugins.install("ruvattn-last", GOOD.format(name="last"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            registry.scores()
        assert "last" in registry.scores()


# --- broken and odd metadata ---------------------------------------------------------------------------------------


def test_a_malformed_entry_points_file_harms_no_other(fake_plugins):
    fake_plugins.install("unrelated", "", entry_points="[console_scripts]\nno value here\n")
    fake_plugins.install("ruvattn-bad", "", entry_points="[ruvattn]\nno value here\n")
    fake_plugins.install("ruvattn-last", GOOD.format(name="last"))
    assert not status_of("ruvattn-bad").loaded
    assert status_of("ruvattn-bad").error
    assert "unrelated" not in {status.distribution for status in plugins.status()}
    assert "last" in registry.scores()


def test_a_distribution_without_metadata_is_still_loaded(fake_plugins):
    fake_plugins.install("ruvattn-bare", GOOD.format(name="bare"))
    (fake_plugins.folders[0] / "ruvattn_bare-1.0.dist-info" / "METADATA").unlink()
    assert registry.get_score("bare") is not None
    assert registry.scores()["bare"].distribution == "(unnamed distribution)"


def test_a_distribution_without_a_version_is_still_loaded(fake_plugins):
    fake_plugins.install("ruvattn-bare", GOOD.format(name="bare"))
    metadata = fake_plugins.folders[0] / "ruvattn_bare-1.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: ruvattn-bare\n")
    assert registry.scores()["bare"].version == "(unknown version)"
    assert status_of("ruvattn-bare").version == "(unknown version)"


def test_a_distribution_without_metadata_is_still_loaded_where_the_backport_finds_it(fake_plugins):
    """A library that imports importlib_metadata puts its finder in the place of the standard one, for the whole process."""
    pytest.importorskip("importlib_metadata")
    fake_plugins.install("ruvattn-bare", GOOD.format(name="bare"))
    (fake_plugins.folders[0] / "ruvattn_bare-1.0.dist-info" / "METADATA").unlink()
    code = "import importlib_metadata; from ruvattn import registry; print(registry.scores()['bare'].distribution)"
    path = os.pathsep.join(map(str, [*fake_plugins.folders, *filter(None, sys.path)]))
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True, text=True)
    assert result.stdout.strip() == "(unnamed distribution)", result.stderr


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(fake_plugins):
    fake_plugins.install("ruvattn-copy", GOOD.format(name="new-name"), version="2.0")
    fake_plugins.install("ruvattn-copy", GOOD.format(name="old-name"), version="1.0")
    assert status_of("ruvattn-copy").version == "2.0"
    assert status_of("ruvattn-copy").error is None
    assert "new-name" in registry.scores()
    assert "old-name" not in registry.scores()


def test_a_shadowed_copy_does_not_bring_back_a_plugin_that_is_gone(fake_plugins):
    fake_plugins.install("ruvattn-copy", "", version="2.0", entry_points="[console_scripts]\ncopy = ruvattn_copy:main\n")
    fake_plugins.install("ruvattn-copy", GOOD.format(name="old-name"), version="1.0")
    assert "ruvattn-copy" not in {status.distribution for status in plugins.status()}


# --- a name has one owner or none ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [("alpha", "beta"), ("beta", "alpha")])
def test_a_name_registered_twice_belongs_to_neither_whatever_the_order(fake_plugins, order):
    for name in order:
        fake_plugins.install(
            f"ruvattn-{name}",
            f"""
            from ruvattn.scores import Dot

            def ruvattn_register(registry):
                registry.score("shared", Dot)
                registry.score("{name}", Dot)
            """,
        )
    message = (
        "score 'shared' is registered by ruvattn-alpha 1.0 (entry point 'ruvattn-alpha') and ruvattn-beta 1.0 (entry "
        "point 'ruvattn-beta'), so neither is used: uninstall all but one, or list the plugins to load in "
        "RUVATTN_LOAD_PLUGINS"
    )
    for name in order:
        status = status_of(f"ruvattn-{name}")
        assert status.loaded
        assert status.error == message
        assert status.traceback is None
        assert status.provides == {"score": (name,)}
        assert registry.get_score(name) is not None
    assert "shared" not in registry.scores()
    with pytest.raises(PluginError) as caught:
        registry.get_score("shared")
    assert str(caught.value) == message
    assert isinstance(caught.value, AttentionError)


def test_a_name_registered_twice_is_warned_of(fake_plugins):
    for name in ("alpha", "beta"):
        fake_plugins.install(f"ruvattn-{name}", GOOD.format(name="shared"))
    with pytest.warns(RuntimeWarning, match="score 'shared' is registered by ruvattn-alpha 1.0 .* and ruvattn-beta"):
        registry.scores()


def test_the_environment_can_settle_whose_name_it_is(fake_plugins, monkeypatch):
    for name in ("alpha", "beta"):
        fake_plugins.install(f"ruvattn-{name}", GOOD.format(name="shared"))
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "ruvattn-beta")
    assert registry.scores()["shared"].distribution == "ruvattn-beta"


@pytest.mark.parametrize("mark", ["@hookimpl(tryfirst=True)", "@hookimpl(trylast=True)"])
def test_hook_options_win_no_contest(fake_plugins, mark):
    fake_plugins.install("ruvattn-alpha", GOOD.format(name="shared"))
    fake_plugins.install(
        "ruvattn-beta",
        f"""
        from ruvattn.hookspecs import hookimpl
        from ruvattn.scores import Dot

        {mark}
        def ruvattn_register(registry):
            registry.score("shared", Dot)
        """,
    )
    assert status_of("ruvattn-alpha").provides == status_of("ruvattn-beta").provides == {}


@pytest.mark.parametrize("position", ["first", "last"])
def test_a_plugin_that_takes_a_builtin_name_is_rejected_whole(fake_plugins, position):
    thief = """
        from ruvattn.scores import Dot

        class Stolen(Dot):
            pass

        def ruvattn_register(registry):
            registry.score("own", Stolen)
            registry.score("dot", Stolen)
    """
    good = GOOD.format(name="honest")
    for name, source in [("thief", thief), ("honest", good)][:: 1 if position == "first" else -1]:
        fake_plugins.install(f"ruvattn-{name}", source)
    status = status_of("ruvattn-thief")
    assert not status.loaded
    assert "(built in) and ruvattn-thief 1.0" in status.error
    assert "own" not in registry.scores()
    assert registry.scores()["dot"].distribution == "ruvattn"
    assert type(registry.get_score("dot")).__name__ == "Dot"
    assert "honest" in registry.scores()


# --- RUVATTN_LOAD_PLUGINS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "loaded"),
    [
        ("", set()),
        (" , ", set()),
        ("ruvattn-alpha", {"alpha"}),
        ("Ruvattn_Alpha", {"alpha"}),
        ("entry.beta", {"beta"}),
        (" ruvattn-alpha , entry-beta ", {"alpha", "beta"}),
    ],
)
def test_the_environment_restricts_loading(fake_plugins, monkeypatch, value, loaded):
    for name in ("alpha", "beta"):
        module = f"ruvattn_{name}"
        fake_plugins.install(
            f"ruvattn-{name}", GOOD.format(name=name), entry_points=f"[ruvattn]\nentry-{name} = {module}\n"
        )
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", value)
    assert registry.scores().keys() & {"alpha", "beta"} == loaded
    assert "dot" in registry.scores()
    for name in ("alpha", "beta"):
        status = status_of(f"ruvattn-{name}")
        assert status.loaded == (name in loaded)
        assert status.skipped == (name not in loaded)
        assert status.error is None
        assert (f"ruvattn_{name}" in sys.modules) == (name in loaded)


def test_without_the_variable_every_plugin_is_loaded(fake_plugins):
    for name in ("alpha", "beta"):
        fake_plugins.install(f"ruvattn-{name}", GOOD.format(name=name))
    assert {"alpha", "beta"} <= registry.scores().keys()


def test_a_word_that_fits_no_plugin_is_reported(fake_plugins, monkeypatch):
    fake_plugins.install("ruvattn-alpha", GOOD.format(name="alpha"))
    monkeypatch.setenv("RUVATTN_LOAD_PLUGINS", "ruvattn-alpha,ruvattn-alhpa")
    (wrong,) = [status for status in plugins.status() if status.error]
    assert wrong.name == "ruvattn-alhpa"
    assert not wrong.loaded
    assert wrong.error == (
        "RUVATTN_LOAD_PLUGINS names 'ruvattn-alhpa', which is neither a distribution nor an entry point of a plugin"
    )
    assert "alpha" in registry.scores()


# --- RUVATTN_API ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("api", "message"),
    [
        ("", "ruvattn-bad 1.0 (entry point 'ruvattn-bad') does not say which plugin interface it is written for: set "
             "RUVATTN_API = 1 in ruvattn_bad"),
        ("2", "ruvattn-bad 1.0 (entry point 'ruvattn-bad') is written for version 2 of the plugin interface, and this "
              "ruvattn has version 1: upgrade ruvattn"),
        ("0", "is written for version 0 of the plugin interface, and this ruvattn has version 1: upgrade ruvattn-bad"),
        ("'1'", "RUVATTN_API must be an int, got '1'"),
    ],
)  # fmt: skip
def test_a_plugin_for_another_interface_is_refused_before_its_hook_runs(fake_plugins, telltale, api, message):
    source = "import os\ndef ruvattn_register(registry): open(os.environ['TELLTALE'], 'w').close()"
    check_isolated(fake_plugins, source, message, api=api)
    assert not telltale.exists()


# --- the documentation keeps up ------------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[1] / "plugins" / "README.md"


def test_the_guide_names_every_hook_and_every_method_of_the_registry():
    guide = GUIDE.read_text()
    hooks = [name for name in vars(hookspecs) if name.startswith("ruvattn_")]
    assert hooks == ["ruvattn_register"]
    methods = [name for name, value in vars(registry.Registry).items() if inspect.isfunction(value) and name[0] != "_"]
    assert set(methods) == set(registry.KINDS)
    for name in [*hooks, *(f"registry.{method}(" for method in methods), "RUVATTN_API", plugins.LOAD_VARIABLE]:
        assert name in guide, name


def test_the_plugin_in_the_guide_works_as_it_stands(fake_plugins):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    (source,) = [block for block in blocks if "RUVATTN_API = 1" in block]
    fake_plugins.install("ruvattn-guide", source, api="")
    status = status_of("ruvattn-guide")
    assert status.error is None, status.traceback
    registered = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert sum(map(len, status.provides.values())) == sum(
        isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", None) == "registry"
        for call in registered
    )
    for name in status.provides.get("score", ()):
        assert registry.get_score(name) is not None
    for name in status.provides.get("pattern", ()):
        assert registry.get_pattern(name) is not None


def test_the_rest_of_the_guide_runs_and_its_checks_pass(fake_plugins):
    source, use, checks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)
    fake_plugins.install("ruvattn-guide", source, api="")
    names = {}
    exec(use, names)
    assert names["out"].shape == (4, 100, 64)
    assert names["y"].shape == (2, 100, 64)
    names = {}
    exec(checks, names)
    tests = [name for name in names if name.startswith("test_")]
    assert len(tests) == 3
    for name in tests:
        names[name]()


def test_blocks_of_the_guide_are_valid_python():
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S):
        compile(textwrap.dedent(block), str(GUIDE), "exec")
