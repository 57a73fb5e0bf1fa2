"""Old names and old arguments work and say so; what was to be gone by now is gone."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import ruvattn
from ruvattn import deprecation, registry
from ruvattn.deprecation import (
    RuvattnDeprecationWarning,
    renamed_argument,
    renamed_method,
    warn_deprecated,
)
from ruvattn.errors import InvalidInputError

# --- old arguments ---------------------------------------------------------------------------------------------------------


@renamed_argument("sigma", "width", since="ruvattn 0.2", until="ruvattn 0.4", convert=float)
def kernel(width=1.0, *, power=2):
    """A function one of whose arguments has a new name."""
    return width, power


def test_an_argument_is_taken_by_its_old_name_and_says_so_in_the_caller_s_line():
    message = "argument 'sigma' of kernel is deprecated since ruvattn 0.2 and will be gone in ruvattn 0.4: use 'width'"
    with pytest.warns(RuvattnDeprecationWarning, match=f"^{message}$") as caught:
        assert kernel(sigma="3", power=1) == (3.0, 1)
    assert Path(caught[0].filename) == Path(__file__)


def test_an_argument_by_its_new_name_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernel(2.0) == kernel(width=2.0) == (2.0, 2)


@pytest.mark.parametrize("call", [lambda: kernel(1.0, sigma=2.0), lambda: kernel(width=1.0, sigma=2.0)])
def test_an_argument_by_both_names_is_an_error(call):
    with pytest.raises(InvalidInputError, match="kernel was given both 'width' and 'sigma', its name before ruvattn 0.2: leave out 'sigma'"):
        call()


def test_listings_and_messages_have_the_new_name_only(fake_plugins):
    fake_plugins.install(
        "ruvattn-renamed",
        """
        import ruvattn
        from ruvattn.deprecation import renamed_argument
        from ruvattn.scores import Dot

        class Scaled(Dot):
            @renamed_argument("factor", "scale", since="1.1", until="2.0")
            def __init__(self, scale=0.5):
                super().__init__(scale)

        def ruvattn_register(registry):
            registry.score("scaled", Scaled)
        """,
    )
    assert registry.scores()["scaled"].options == {"scale": 0.5}
    with pytest.warns(RuvattnDeprecationWarning, match="argument 'factor' of Scaled is deprecated"):
        assert registry.get_score("scaled", factor=0.25).params == {"scale": 0.25}
    with pytest.raises(InvalidInputError, match="score 'scaled' has no option 'fcator'; its options: scale"):
        registry.get_score("scaled", fcator=1)


@pytest.mark.parametrize(("old", "new"), [("a", "missing"), ("width", "power")])
def test_names_of_arguments_that_do_not_fit_the_function_are_told_where_it_is_decorated(old, new):
    with pytest.raises(TypeError, match=f"must have an argument '{new}' and none called '{old}'"):
        renamed_argument(old, new, since="1", until="2")(lambda width, power: None)


# --- old names -------------------------------------------------------------------------------------------------------------


def test_a_name_of_a_module_leads_to_the_new_one_and_says_so(fake_plugins):
    module = fake_plugins.install(
        "renamed-names",
        """
        from ruvattn.deprecation import Renamed, renamed_names

        class New: pass

        __getattr__ = renamed_names(__name__, {
            "Old": Renamed("New", "ruvattn 0.2", "ruvattn 0.4"),
            "Gone": Renamed("ruvattn.scores:Dot", "ruvattn 0.2", "ruvattn 0.4"),
        })
        """,
        entry_points="",
    )
    names = importlib.import_module(module)
    old = "renamed_names.Old is deprecated since ruvattn 0.2 and will be gone in ruvattn 0.4: use renamed_names.New"
    with pytest.warns(RuvattnDeprecationWarning, match=f"^{old}$") as caught:
        assert names.Old is names.New
    assert Path(caught[0].filename) == Path(__file__)
    with pytest.warns(RuvattnDeprecationWarning, match="use ruvattn.scores.Dot"):
        assert names.Gone is ruvattn.Dot
    with pytest.raises(AttributeError, match="module 'renamed_names' has no attribute 'Never'"):
        names.Never  # noqa: B018


@pytest.fixture
def base():
    """A class one of whose methods has a new name."""

    @renamed_method("weigh", "score_of", since="ruvattn 0.2", until="ruvattn 0.4")
    class Base:
        def score_of(self, x):
            return x

        def total(self, xs):
            return sum(map(self.score_of, xs))

    return Base


def test_a_method_is_called_by_its_old_name(base):
    class New(base):
        def score_of(self, x):
            return 3 * super().score_of(x)

    with pytest.warns(RuvattnDeprecationWarning, match="Base.weigh is deprecated since ruvattn 0.2 and will be gone in ruvattn 0.4: call 'score_of'"):
        assert New().weigh(2) == 6


def test_a_subclass_that_overrides_the_old_name_is_called_by_the_new_one(base):
    with pytest.warns(RuvattnDeprecationWarning, match="Old.weigh is deprecated since ruvattn 0.2 .*: override 'score_of'") as caught:

        class Old(base):
            def weigh(self, x):
                return 2 * x

    assert Path(caught[0].filename) == Path(__file__)
    assert Old().total([1, 2]) == 6


def test_an_old_override_may_ask_its_base_by_the_old_name(base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuvattnDeprecationWarning)

        class Old(base):
            def weigh(self, x):
                return 2 * super().weigh(x)

        assert Old().total([1, 2]) == 6


def test_a_new_override_on_top_of_an_old_one_has_both_called_once(base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuvattnDeprecationWarning)

        class Old(base):
            def weigh(self, x):
                return 2 * super().weigh(x)

        class New(Old):
            def score_of(self, x):
                return 1 + super().score_of(x)

        assert New().total([3]) == 7


def test_a_subclass_with_both_names_has_the_new_one_called(base):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Both(base):
            def score_of(self, x):
                return 5 * x

            def weigh(self, x):
                raise AssertionError("for older versions of the core only")

    assert Both().total([1, 2]) == 15


def test_a_subclass_of_an_old_subclass_is_told_by_itself(base):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Old(base):
            def weigh(self, x):
                return 2 * x

        class Older(Old):
            def weigh(self, x):
                return 10 * x

    assert [str(warning.message).split()[0] for warning in caught] == ["Old.weigh", "Older.weigh"]
    assert Older().total([1]) == 10


def test_what_a_class_does_with_its_subclasses_is_still_done():
    @renamed_method("weigh", "score_of", since="1", until="2")
    class Base:
        seen = []

        def score_of(self, x):
            return x

        def __init_subclass__(cls, mark, **options):
            super().__init_subclass__(**options)
            cls.seen.append((cls.__name__, mark))

    class Sub(Base, mark=3):
        pass

    assert Base.seen == [("Sub", 3)]


def test_a_class_without_the_new_name_is_told_where_it_is_decorated():
    with pytest.raises(TypeError, match="Empty must have a method 'new' and none called 'old'"):
        renamed_method("old", "new", since="1", until="2")(type("Empty", (), {}))


def test_the_warning_by_itself_names_the_line_of_its_caller():
    with pytest.warns(RuvattnDeprecationWarning, match="^reading old files is deprecated since 1 and will be gone in 2: write them anew$") as caught:
        warn_deprecated("reading old files", since="1", until="2", instead="write them anew")
    assert Path(caught[0].filename) == Path(__file__)


def test_the_warning_is_one_that_everyone_sees_and_the_pending_one_is_not(tmp_path):
    (tmp_path / "between.py").write_text(
        "import warnings\nfrom ruvattn.deprecation import RuvattnDeprecationWarning, RuvattnPendingDeprecationWarning\n"
        "warnings.warn('seen', RuvattnDeprecationWarning)\nwarnings.warn('hidden', RuvattnPendingDeprecationWarning)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": ""}
    done = subprocess.run([sys.executable, "-c", "import between"], env=environment, capture_output=True, text=True, check=True)
    assert "RuvattnDeprecationWarning: seen" in done.stderr
    assert "hidden" not in done.stderr


def overdue(source, version):
    """Return the lines on which something is deprecated until a release of ruvattn that has come."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in deprecation.__all__:
            texts = [word.value.value for word in node.keywords if word.arg == "until" and isinstance(word.value, ast.Constant)]
            texts += [arg.value for arg in node.args[2:3] if isinstance(arg, ast.Constant)]  # Renamed(new, since, until)
            until = [re.fullmatch(r"ruvattn ([\d.]+)", text) for text in texts if isinstance(text, str)]
            found += [node.lineno for match in until if match and tuple(map(int, match[1].split("."))) <= version]
    return found


def test_what_was_to_be_gone_by_now_is_gone():
    version = tuple(map(int, re.match(r"[\d.]+", ruvattn.__version__)[0].strip(".").split(".")))
    late = {path.name: overdue(path.read_text(encoding="utf-8"), version) for path in Path(ruvattn.__file__).parent.rglob("*.py")}
    assert {name: lines for name, lines in late.items() if lines} == {}
    source = """
a = Renamed("New", "ruvattn 0.2", "ruvattn 0.4")
@renamed_argument("a", "b", since="ruvattn 0.2", until="ruvattn 0.5")
def f(b): pass
"""
    assert overdue(source, (0, 3)) == []
    assert overdue(source, (0, 4)) == [2]
    assert sorted(overdue(source, (0, 5, 1))) == [2, 3]
