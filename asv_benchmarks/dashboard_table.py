"""The page that asv has none of: every variant on the same work, side by side, at the newest commit that has a result of it; and what failed.

    results of the machine, by commit ─► rows: a variant (a third-party score, a third-party pattern), its distribution, its times ─► variants.html
    logs of what failed ───────────────► the list of commits below ──► logs/

Of one commit there may be results from several environments: one that was built, and interpreters that were there. The newest time counts.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dashboard_suite import FOLDER, Suite
from history import describe, newest_first
from reporting import duration

__all__ = ["Row", "collect", "write"]

BUILT_IN = "variants.Variant."
"""What the names of the project's own benchmarks of variants begin with."""

KINDS = {"variant": "variants", "score": "scores", "pattern": "patterns"}
"""The first parameter of benchmarks made with ruvattn.testing.benchmarks, and what the page calls several of them."""

COLUMNS = {
    ("time_sequence", 1): "sequence, 1 thread",
    ("time_sequence", 2): "sequence, 2 threads",
    ("time_forward", 1): "one query",
    ("time_forward_batch", 1): "32 queries",
    ("time_weights", 1): "weights",
}
"""By benchmark and threads, the times in the table."""


@dataclass
class Row:
    """A variant, score or pattern, with its times.

    Attributes
    ----------
    kind, name : str
        What it is, and the name under which it is registered.
    benchmark : str
        The name of its benchmarks without the last part.
    distribution : str
        What brings it.
    third_party : bool
        Whether that is a plugin of somebody else.
    seconds : dict
        Benchmark and threads to the time of a call.
    commits : dict
        Benchmark and threads to the commit that the time is of.
    """

    kind: str
    name: str
    benchmark: str
    distribution: str
    third_party: bool
    seconds: dict[tuple[str, int], float] = field(default_factory=dict)
    commits: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        """The commit of the time of the whole sequence, on the fewest threads; empty where there is none."""
        threads = sorted(column for column in self.commits if column[0] == "time_sequence")
        return self.commits[threads[0]] if threads else ""


def _distributions() -> dict[str, str]:
    """Return which distribution brings which variant, as far as they are installed here."""
    import ruvattn

    return {name: info.distribution for name, info in ruvattn.variants().items()}


def _values(benchmark: dict[str, Any], result: Any) -> Iterator[tuple[str, int, float]]:
    """Yield the name, the threads and the time of what was measured; what failed or was skipped is left out."""
    values = result.get_result_value(benchmark["name"], benchmark["params"])
    for (name, threads), value in zip(itertools.product(*benchmark["params"]), values, strict=True):
        if value is not None and not math.isnan(value):
            yield name.strip("'\""), int(threads), value


def _newest(results: list[Any], name: str) -> list[Any]:
    """Return results in the order of their commits, those of one commit by when this benchmark was run, the newest first."""
    order = {commit: i for i, commit in enumerate(dict.fromkeys(result.commit_hash for result in results))}
    return sorted(results, key=lambda result: (order[result.commit_hash], -(result.started_at.get(name) or result.date or 0)))


def collect(results: list[Any], known: dict[str, Any], plugins: dict[str, str]) -> list[Row]:
    """Make the rows of a machine.

    Parameters
    ----------
    results : list of asv.results.Results
        Its results, the newest commit first, those of one commit in any order.
    known : dict
        The benchmarks by name, as asv describes them.
    plugins : dict of str to str
        What the names of a third-party plugin's benchmarks begin with to its distribution.

    Returns
    -------
    list of Row
        The fastest first; those without a time of the whole sequence are left out.
    """
    bundled = _distributions()
    rows: dict[tuple[str, str], Row] = {}
    for name, benchmark in sorted(known.items()):
        if benchmark["param_names"] not in [[kind, "threads"] for kind in KINDS]:
            continue
        prefix, method = name.partition(".")[0], name.rpartition(".")[2]
        third_party = prefix in plugins
        if not (third_party or name.startswith(BUILT_IN)) or not any(method == column for column, _ in COLUMNS):
            continue
        for result in _newest(results, name):
            if name not in result.get_result_keys({name: benchmark}):
                continue
            for subject, threads, seconds in _values(benchmark, result):
                home = name.rpartition(".")[0]
                distribution = plugins[prefix] if third_party else bundled.get(subject, "")
                row = rows.setdefault((home, subject), Row(benchmark["param_names"][0], subject, home, distribution, third_party))
                if (method, threads) not in row.seconds:
                    row.seconds[method, threads], row.commits[method, threads] = seconds, result.commit_hash
    first = next(iter(COLUMNS))
    whole = [row for row in rows.values() if row.commit]
    return sorted(whole, key=lambda row: row.seconds.get(first, math.inf))


# --- HTML -------------------------------------------------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 86rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; font-weight: 600; } td { border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th.text, td.text { text-align: left; } td.wide { white-space: normal; width: 60%; }
tr.other td { background: #fff6dd; } .tag { background: #f2c14e; color: #222; border-radius: .6rem; padding: .05rem .5rem; font-size: .8rem; }
td.bar { min-width: 9rem; background: linear-gradient(to right, #bcd4ec var(--share), transparent var(--share)); }
tr.other td.bar { background: linear-gradient(to right, #f2cf6b var(--share), #fff6dd var(--share)); }
.failed { color: #b00020; } .note { color: #666; }
"""


def write(pages: Path, suite: Suite) -> None:
    """Write the page beside those of asv, and a link to it in their bar.

    Parameters
    ----------
    pages : Path
        What ``asv publish`` wrote.
    suite : Suite
        Where the results are.
    """
    from asv.results import iter_results

    known, plugins = {name: found for name, found in suite.known().items() if isinstance(found, dict)}, suite.remember_names()
    machines: dict[str, list[Any]] = {}
    for result in iter_results(str(suite.results)):
        machines.setdefault(result.params["machine"], []).append(result)
    body = []
    order = newest_first(FOLDER.parent, [result.commit_hash for results in machines.values() for result in results])
    for machine, results in sorted(machines.items()):
        results.sort(key=lambda result: order.index(result.commit_hash))
        body += [f"<h2>{escape(machine)}</h2>", *_table(collect(results, known, plugins), results), *_commits(results, known, suite.logs, pages)]
    work = "A sequence of 1024 queries and keys with a width of 256 in 8 heads, in float32; one query, and 32 of them, on the same keys."
    (pages / "variants.html").write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Variants side by side</title><style>{_STYLE}</style></head><body>'
        f'<p><a href="index.html">Graphs over commits</a></p><h1>Variants side by side</h1><p>{work} '
        f'<span class="tag">third party</span> marks what plugins of others bring.</p>{"".join(body)}</body></html>\n',
        encoding="utf-8",
    )
    # asv lists every benchmark of the suite; what no commit has a result of would be an empty box.
    measured = {name for results in machines.values() for result in results for name in result.get_result_keys(known)}
    listing = json.loads((pages / "index.json").read_text())
    listing["benchmarks"] = {name: found for name, found in listing["benchmarks"].items() if name in measured}
    (pages / "index.json").write_text(json.dumps(listing, separators=(",", ":")))
    index = pages / "index.html"
    place = '<li id="nav-li-graphdisplay">'
    index.write_text(index.read_text().replace(place, f'<li><a href="variants.html">Variants side by side</a></li>\n        {place}', 1))


def _table(rows: list[Row], results: list[Any]) -> Iterator[str]:
    if not rows:
        yield '<p class="note">No times of whole sequences yet.</p>'
        return
    first = next(iter(COLUMNS))
    slowest = max(row.seconds.get(first, 0.0) for row in rows)
    standard = next((row for row in rows if row.name == "standard" and not row.third_party), None)
    titles = "".join(f"<th>{escape(title)}</th>" for title in COLUMNS.values())
    yield f'<table><tr><th class="text">name</th><th class="text">from</th>{titles}<th>× standard</th><th class="text">commit</th></tr>'
    for row in rows:
        address = f"index.html#{row.benchmark}.time_sequence?p-{row.kind}={quote(repr(row.name))}"
        tags = f' <span class="note">{row.kind}</span>' if row.kind != "variant" else ""
        origin = escape(row.distribution) + (' <span class="tag">third party</span>' if row.third_party else "")
        times = "".join(f"<td>{duration(row.seconds[column]) if column in row.seconds else '–'}</td>" for column in COLUMNS)
        time = row.seconds.get(first)
        # Two commits differ in more than the variant, so that is no comparison.
        together = standard is not None and first in standard.seconds and standard.commits[first] == row.commits.get(first)
        ratio = f"{time / standard.seconds[first]:.2f}" if time and together else "–"
        share = 100 * time / slowest if time and slowest else 0
        commit = row.commit[:8] if row.commit == results[0].commit_hash else f'<span class="failed">{row.commit[:8]}, none since</span>'
        yield (
            f'<tr{" class=other" if row.third_party else ""}><td class="text"><a href="{escape(address)}">{escape(row.name)}</a>{tags}</td>'
            f'<td class="text">{origin}</td>{times}<td class="bar" style="--share: {share:.1f}%">{ratio}</td><td class="text">{commit}</td></tr>'
        )
    yield "</table>"


def _commits(results: list[Any], known: dict[str, Any], logs: Path, pages: Path) -> Iterator[str]:
    """Yield the list of commits, with the logs of what failed, which are copied beside the page."""
    hashes = list(dict.fromkeys(result.commit_hash for result in results))
    subjects = {commit.hash: commit.subject for commit in describe(FOLDER.parent, hashes)}
    yield '<h2>Commits</h2><table><tr><th class="text">commit</th><th class="text">subject</th><th class="text">benchmarks</th></tr>'
    for name in hashes:
        measured = set()
        for result in (result for result in results if result.commit_hash == name):
            for key in result.get_result_keys(known):
                values = result.get_result_value(key, known[key]["params"])
                if any(value is not None and not math.isnan(value) for value in values):  # neither failed nor skipped
                    measured.add(key)
        said = [f"{len(measured)} measured"] if measured else []
        for log in sorted(logs.glob(f"{name}*.txt")):
            plugin = log.stem.removeprefix(name).removeprefix("-")
            if plugin or not measured:
                (pages / "logs").mkdir(exist_ok=True)
                shutil.copyfile(log, pages / "logs" / log.name)
                words = f"{plugin} doesn't go with it" if plugin else "doesn't build"
                said.append(f'<a class="failed" href="logs/{escape(log.name)}">{escape(words)}</a>')
        for log in sorted((logs / "benchmarks").glob(f"{name}-*.txt")):
            if not (logs / log.name).exists():  # otherwise the reason stands there
                (pages / "logs" / "benchmarks").mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, pages / "logs" / "benchmarks" / log.name)
                words = f"{log.stem.removeprefix(name + '-')}'s benchmarks can't be imported"
                said.append(f'<a class="failed" href="logs/benchmarks/{escape(log.name)}">{escape(words)}</a>')
        status = ", ".join(said) or '<span class="failed">nothing measured</span>'
        yield f'<tr><td class="text">{name[:8]}</td><td class="text wide">{escape(subjects.get(name, ""))}</td><td class="text">{status}</td></tr>'
    yield "</table>"
