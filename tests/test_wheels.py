"""How wheels are made fit for other machines, and what is configured to make them; scripts/check_wheels.sh installs and uses what comes out."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ruvattn

ROOT = Path(ruvattn.__file__).parents[1]
SCRIPTS = ROOT / "scripts"

pytestmark = pytest.mark.skipif(not (SCRIPTS / "repair_wheel.py").exists(), reason="needs a checkout")


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


PLUGINS = {described(path.parent)["project"]["name"]: path.parent for path in sorted((ROOT / "plugins").glob("*/pyproject.toml"))}
COMPILED = {name for name, folder in PLUGINS.items() if (folder / "setup.py").exists()}
PUBLISHED = set(PLUGINS) - {"ruvattn-example"}  # which is for reading


@pytest.fixture
def repair(monkeypatch):
    """scripts/repair_wheel.py, with what it tells the tools to do instead of the tools."""
    module = script("repair_wheel")
    told = []

    def run(*command):
        told.append(command)
        return ""

    monkeypatch.setattr(module, "run", run)
    module.told = told
    return module


def empty_wheel(folder, name):
    with zipfile.ZipFile(folder / name, "w") as file:
        file.writestr("a.py", "")
    return folder / name


# Repair -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_a_wheel_without_compiled_modules_stays_as_it_is(repair, monkeypatch, tmp_path, system):
    monkeypatch.setattr(repair.sys, "platform", system)
    wheel = empty_wheel(tmp_path, "a-1-py3-none-any.whl")
    repair.main(wheel, tmp_path / "out")
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
    assert repair.told == []


def on_linux(repair, tmp_path, shown):
    wheel = empty_wheel(tmp_path, "a-1-cp311-cp311-linux_x86_64.whl")
    (tmp_path / "out").mkdir()

    def run(*command):
        if command[1] == "repair":
            shutil.copy(wheel, tmp_path / "out" / "a-1-cp311-cp311-manylinux_2_28_x86_64.whl")
            return ""
        return shown

    repair.run = run
    repair.on_linux(wheel, tmp_path / "out")


def test_on_linux_the_tag_that_auditwheel_finds_is_told(repair, tmp_path, capsys):
    on_linux(repair, tmp_path, 'a-1 is consistent\nwith the following platform tag:\n"manylinux_2_28_x86_64".\n')
    assert capsys.readouterr().out == "a-1-cp311-cp311-manylinux_2_28_x86_64.whl: consistent with manylinux_2_28_x86_64\n"


def test_on_linux_a_wheel_for_this_machine_only_is_refused(repair, tmp_path):
    with pytest.raises(SystemExit, match="a-1-cp311-cp311-linux_x86_64.whl: auditwheel finds it consistent with linux_x86_64 only"):
        on_linux(repair, tmp_path, 'the following platform tag: "linux_x86_64".')


def test_on_macos_the_core_brings_libomp_along(repair, tmp_path):
    repair.on_macos(tmp_path / "ruvattn-1-cp311-cp311-macosx_14_0_arm64.whl", tmp_path / "out")
    ((tool, *arguments),) = repair.told
    assert tool == "delocate-wheel"
    assert "--exclude" not in arguments


def test_on_macos_a_plugins_module_is_pointed_at_the_cores_libomp(repair, tmp_path):
    linked = "mod.so:\n\t/opt/homebrew/opt/libomp/lib/libomp.dylib (compatibility version 5.0.0)\n\t/usr/lib/libSystem.B.dylib (compatibility 1)\n"
    told = []

    def run(*command):
        told.append(command)
        return linked if command[0] == "otool" else ""

    repair.run = run
    repair.use_the_cores_libomp(tmp_path / "mod.so", "../")
    tool, *changes = told[1]
    assert tool == "install_name_tool"
    assert changes[:3] == ["-change", "/opt/homebrew/opt/libomp/lib/libomp.dylib", "@rpath/libomp.dylib"]
    assert changes[3:5] == ["-add_rpath", "@loader_path/../ruvattn/.dylibs"]
    assert told[2][0] == "codesign"


def test_on_macos_a_module_without_openmp_is_not_touched(repair, tmp_path):
    repair.use_the_cores_libomp(tmp_path / "mod.so", "../")
    assert [command[0] for command in repair.told] == ["otool"]


def test_on_windows_libomp_is_looked_for_beside_clang_cl(repair, monkeypatch, tmp_path):
    program = tmp_path / "LLVM" / "bin" / "clang-cl"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PROGRAMFILES", str(tmp_path))
    repair.on_windows(tmp_path / "a.whl", tmp_path / "out")
    assert repair.told == [("delvewheel", "repair", "--add-path", str(program.parent), "-w", str(tmp_path / "out"), str(tmp_path / "a.whl"))]


def test_a_tool_that_is_missing_is_named_with_the_way_to_get_it():
    with pytest.raises(SystemExit, match=r"no-such-tool is missing: pip install 'ruvattn\[wheels\]'"):
        script("repair_wheel").run("no-such-tool")


def test_a_tool_that_fails_is_heard():
    with pytest.raises(SystemExit, match="(?s)told you.*failed with exit code 7"):
        script("repair_wheel").run(sys.executable, "-c", "print('told you'); raise SystemExit(7)")


# Environments of cibuildwheel ---------------------------------------------------------------------------------------


def test_a_plugins_environment_gets_the_core_from_the_folder_of_wheels(monkeypatch, tmp_path):
    module = script("wheel_environment")
    told = []
    monkeypatch.setattr(module, "pip", lambda *arguments: told.append(arguments))
    (tmp_path / "ruvattn-1-cp311-cp311-linux_x86_64.whl").write_text("")
    module.main("test", PLUGINS["ruvattn-graph"], tmp_path)
    assert told == [("--no-index", "--no-deps", "--find-links", str(tmp_path), "ruvattn"), ("ruvattn",)]
    told.clear()
    module.main("test", ROOT, tmp_path)
    assert told == []


def test_without_the_cores_wheel_the_order_is_told(monkeypatch, tmp_path):
    module = script("wheel_environment")
    monkeypatch.setattr(module, "pip", lambda *arguments: None)
    with pytest.raises(SystemExit, match="no wheel of the core in .*made before the plugins'"):
        module.main("build", PLUGINS["ruvattn-graph"], tmp_path)


@pytest.mark.parametrize(("system", "tool"), [("win32", "delvewheel"), ("darwin", "delocate"), ("linux", "Cython")])
def test_a_build_environment_has_the_tool_of_its_system(monkeypatch, tmp_path, system, tool):
    module = script("wheel_environment")
    told = []
    monkeypatch.setattr(module, "pip", lambda *arguments: told.extend(arguments))
    monkeypatch.setattr(module.sys, "platform", system)
    module.main("build", ROOT, tmp_path)
    assert any(word.startswith(tool) for word in told)


# What is configured -------------------------------------------------------------------------------------------------


def test_the_extra_all_names_every_published_plugin():
    assert {word for word in described(ROOT)["project"]["optional-dependencies"]["all"] if word.startswith("ruvattn-")} == PUBLISHED


def test_core_and_plugins_have_one_version():
    versions = {name: described(folder)["project"]["version"] for name, folder in {"ruvattn": ROOT, **PLUGINS}.items()}
    assert set(versions.values()) == {ruvattn.__version__}, versions


def test_the_workflow_makes_wheels_of_every_published_plugin():
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    for name in PUBLISHED & COMPILED:
        assert f"cibuildwheel --config-file cibuildwheel.toml --output-dir wheelhouse plugins/{name}\n" in text
    for name in PUBLISHED - COMPILED:
        assert f"python -m build --wheel --no-isolation --outdir wheelhouse plugins/{name}\n" in text
    (sdists,) = [line for line in text.splitlines() if line.strip().startswith("for project in")]
    assert set(sdists.replace(";", "").split()) >= {".", *(f"plugins/{name}" for name in PUBLISHED)}


def test_cibuildwheels_steps_call_scripts_that_are_there():
    settings = tomllib.loads((ROOT / "cibuildwheel.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    for step in ("before-build", "repair-wheel-command", "before-test"):
        called = settings[step].split()[1]
        assert (ROOT / called.replace("{project}/", "")).is_file(), called


def test_wheels_are_made_for_every_python_that_the_core_supports():
    settings = tomllib.loads((ROOT / "cibuildwheel.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    lowest = described(ROOT)["project"]["requires-python"].removeprefix(">=").replace(".", "")
    assert settings["build"][0] == f"cp{lowest}-*"


# One OpenMP runtime -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_core_and_plugins_share_one_openmp_runtime():
    result = subprocess.run([sys.executable, SCRIPTS / "check_threads.py"], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("one OpenMP runtime, ")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_runtime_that_is_elsewhere_than_it_should_be_is_told(tmp_path):
    result = subprocess.run([sys.executable, SCRIPTS / "check_threads.py", tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert f"outside {tmp_path}: the wheels do not bring it" in result.stderr
