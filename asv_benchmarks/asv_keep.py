"""A plugin of asv, which `dashboard_suite.py` asks for in asv's configuration: results are saved one by one, so that Ctrl-C loses none.

asv itself saves the results of a commit when the last of them is there, which may be an hour later.
"""

from __future__ import annotations

from typing import Any

from asv.results import Results

_load, _add, _save = Results.load_data, Results.add_result, Results.save


def _load_data(self: Results, result_dir: str) -> None:
    _load(self, result_dir)
    self._saved_to = result_dir


def _add_result(self: Results, benchmark: dict[str, Any], result: Any, **options: Any) -> None:
    _add(self, benchmark, result, **options)
    folder = getattr(self, "_saved_to", None)  # None: nothing is to be saved
    if folder is not None:
        _save(self, folder)


def setup() -> None:
    """Put the two in their places; called by asv."""
    Results.load_data, Results.add_result = _load_data, _add_result
