"""Fixtures that several test modules share."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# A shell that starts the tests in the background has SIGINT ignored in them and in what they start; those of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def write_distribution(folder: Path, name: str, source: str, *, version: str, entry_points: str) -> None:
    """Write a module ``<name>.py`` and its metadata as an installer leaves them."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(source))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))


class FakePlugins:
    """Distributions on disk and on ``sys.path``, in the order they were installed in; nothing is mocked."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = tmp_path / "site"
        self.folders: list[Path] = []
        self.modules: list[str] = []
        self._monkeypatch = monkeypatch

    def install(
        self, name: str, source: str, *, version: str = "1.0", entry_points: str | None = None, api: str = "1"
    ) -> str:
        """Install the distribution ``name`` whose module is ``source``, and return the module's name.

        ``RUVATTN_API = <api>`` is put before the source unless ``api`` is empty.
        """
        module = name.replace("-", "_")
        if api:
            source = f"RUVATTN_API = {api}\n" + textwrap.dedent(source)
        if entry_points is None:
            entry_points = f"[ruvattn]\n{name} = {module}\n"
        folder = self.root / str(len(self.folders))
        write_distribution(folder, module, source, version=version, entry_points=entry_points)
        self.folders.append(folder)
        self.modules.append(module)
        self._monkeypatch.setattr(sys, "path", [*map(str, self.folders), *self._others()])
        importlib.invalidate_caches()
        return module

    def _others(self) -> list[str]:
        return [entry for entry in sys.path if not entry.startswith(str(self.root))]

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in a fresh interpreter that has the distributions on its path."""
        path = os.pathsep.join([*map(str, self.folders), *filter(None, sys.path)])
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def fake_plugins(tmp_path, monkeypatch):
    """Install throw-away plugins with ``fake_plugins.install(name, source)``; the registry starts and ends unloaded."""
    from ruvattn import plugins

    monkeypatch.delenv(plugins.LOAD_VARIABLE, raising=False)
    plugins.reset()
    fakes = FakePlugins(tmp_path, monkeypatch)
    yield fakes
    plugins.reset()
    for module in fakes.modules:
        sys.modules.pop(module, None)
