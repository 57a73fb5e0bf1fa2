"""Which commits a dashboard is of, or a comparison of two, and what git says about the checkout. Nothing here changes either."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruvattn.errors import InvalidInputError

__all__ = ["STEPS", "Commit", "branches", "changes", "describe", "find", "fork_point", "head", "newest_first", "select", "unpack"]

STEPS = 10
"""How many commits of a long range are measured unless another number is asked for."""

BUILT_FROM = ("ruvattn", "plugins", "setup.py", "pyproject.toml", "MANIFEST.in", "asv_benchmarks/benchmarks")
"""What wheels are made of, and what measures them: changes elsewhere don't change what is measured."""


@dataclass(frozen=True)
class Commit:
    """A commit.

    Attributes
    ----------
    hash, subject : str
        Its name, and the first line of its message.
    """

    hash: str
    subject: str

    @property
    def short(self) -> str:
        """The beginning of its name."""
        return self.hash[:8]


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # "status" would write the index anew without this.
    command = ["git", "--no-optional-locks", *arguments]
    try:
        return subprocess.run(
            command, cwd=repository, check=False, capture_output=True, encoding="utf-8", errors="replace", env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise InvalidInputError("there is no git on the PATH, and without it there are no commits to measure") from error


def head(repository: Path) -> Commit:
    """Return the newest commit of the checkout.

    Parameters
    ----------
    repository : Path
        The checkout.

    Returns
    -------
    Commit
        What HEAD is.

    Raises
    ------
    InvalidInputError
        If this is no git tree, or one without commits.
    """
    top = _git(repository, "rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.strip()).resolve() != repository.resolve():
        raise InvalidInputError(f"{repository} is not a git tree, and a dashboard is of commits: clone the repository instead of copying its files")
    found = _git(repository, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if found.returncode:
        raise InvalidInputError(f"{repository} has no commits yet")
    return describe(repository, [found.stdout.strip()])[0]


def describe(repository: Path, hashes: Sequence[str]) -> list[Commit]:
    """Return commits with their subjects, in the order given.

    Parameters
    ----------
    repository : Path
        The checkout.
    hashes : sequence of str
        Names of commits; those that are not in the repository are left out.

    Returns
    -------
    list of Commit
        The commits.
    """
    commits = []
    for name in hashes:
        shown = _git(repository, "show", "--no-patch", "--format=%H%x09%s", "--end-of-options", name)
        if shown.returncode == 0:
            whole, _, subject = shown.stdout.strip().partition("\t")
            commits.append(Commit(whole, subject))
    return commits


def select(repository: Path, specs: Sequence[str], steps: int | None = None) -> tuple[list[Commit], int]:
    """Find the commits that are asked for.

    Parameters
    ----------
    repository : Path
        The checkout.
    specs : sequence of str
        Ranges such as ``main~3..main``, of which the first parents count, and names of single commits; empty: HEAD.
    steps : int, optional
        How many at most, spread evenly over all of them, the newest and the oldest included; 0: all.

    Returns
    -------
    commits : list of Commit
        The newest first.
    total : int
        How many there are.

    Raises
    ------
    InvalidInputError
        If this is no git tree, a commit is unknown or a range is empty.
    """
    newest = head(repository)
    hashes: list[str] = []
    for spec in " ".join(specs).split() or [newest.hash]:
        hashes += _range(repository, spec) if ".." in spec else [_commit(repository, spec)]
    hashes = list(dict.fromkeys(hashes))
    hashes = newest_first(repository, hashes)
    most = STEPS if steps is None else steps or len(hashes)
    return describe(repository, _spread(hashes, most)), len(hashes)


def newest_first(repository: Path, hashes: Sequence[str]) -> list[str]:
    """Return commits in their order: none before one that came out of it, and otherwise by date, which may be the same.

    Parameters
    ----------
    repository : Path
        The checkout.
    hashes : sequence of str
        Names of commits; those that are not in the repository come last.

    Returns
    -------
    list of str
        All of them.
    """
    wanted = list(dict.fromkeys(hashes))
    known = [name for name in wanted if _git(repository, "cat-file", "-e", f"{name}^{{commit}}").returncode == 0]
    if not known:
        return wanted
    place = {name: i for i, name in enumerate(_git(repository, "rev-list", "--date-order", *known, "--").stdout.split())}
    return sorted(wanted, key=lambda name: place.get(name, len(place)))


def _spread(hashes: list[str], most: int) -> list[str]:
    if len(hashes) <= most:
        return hashes
    if most == 1:
        return hashes[:1]
    return [hashes[round(i * (len(hashes) - 1) / (most - 1))] for i in range(most)]


def find(repository: Path, name: str, option: str) -> Commit:
    """Return the one commit that a name stands for.

    Parameters
    ----------
    repository : Path
        The checkout.
    name : str
        A branch, a tag, ``HEAD~2``, a hash.
    option : str
        Where it was given, for the message.

    Returns
    -------
    Commit
        The commit.

    Raises
    ------
    InvalidInputError
        If there is none of that name, or it stands for several.
    """
    found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    names = found.stdout.split()
    if found.returncode or not names or names[-1].startswith("^"):  # of what is left out, git says ^ and the hash
        raise InvalidInputError(f"{option} {name}: the repository has no such commit{_shallow(repository)}; `git log --oneline` lists what there is")
    return describe(repository, names[-1:])[0]


def _commit(repository: Path, name: str) -> str:
    return find(repository, name, "--commits").hash


def fork_point(repository: Path, commit: Commit, branch: str) -> str | None:
    """Return where a commit left a branch; None where there is no such branch, or nothing that both have.

    Parameters
    ----------
    repository : Path
        The checkout.
    commit : Commit
        The commit.
    branch : str
        The branch.

    Returns
    -------
    str or None
        The name of a commit.
    """
    found = _git(repository, "merge-base", branch, commit.hash)
    return found.stdout.strip() if found.returncode == 0 else None


def unpack(repository: Path, commit: Commit, target: Path) -> None:
    """Write the files of a commit to a folder.

    Parameters
    ----------
    repository : Path
        The checkout, which stays as it is.
    commit : Commit
        The commit.
    target : Path
        The folder, which is made.

    Raises
    ------
    InvalidInputError
        If git can't give the files, or one of them would lie elsewhere.
    """
    result = subprocess.run(["git", "-C", str(repository), "archive", "--format=tar", commit.hash], check=False, capture_output=True)
    if result.returncode:
        raise InvalidInputError(f"git archive {commit.short}: {result.stderr.decode(errors='replace').strip()}")
    try:
        with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
            archive.extractall(target, filter="data")
    except tarfile.TarError as error:  # a link out of the tree, for example
        raise InvalidInputError(f"the files of {commit.short} {commit.subject} cannot be unpacked: {error}") from None


def _range(repository: Path, spec: str) -> list[str]:
    first, dots, last = spec.partition("...") if "..." in spec else spec.partition("..")
    if dots == "...":
        raise InvalidInputError(f"--commits {spec}: three dots mean two branches at once; write {first or 'HEAD'}..{last or 'HEAD'}")
    first, last = (_commit(repository, name or "HEAD") for name in (first, last))
    found = _git(repository, "rev-list", "--first-parent", f"{first}..{last}", "--").stdout.split()
    if not found:
        before, _, after = spec.partition("..")
        before, after = before or "HEAD", after or "HEAD"
        reverse = _git(repository, "rev-list", "-n1", f"{last}..{first}").stdout
        hint = f"; the other way round, {after}..{before}, has some" if reverse else ""
        raise InvalidInputError(f"--commits {spec} is empty: {after} has no commits that {before} lacks{hint}")
    return found


def _shallow(repository: Path) -> str:
    shallow = _git(repository, "rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    return " (it is a shallow clone: `git fetch --unshallow` brings the others)" if shallow else ""


def branches(repository: Path, commits: Sequence[Commit]) -> list[str]:
    """Return what the pages are to call branches: the one that is checked out, and what is needed beside it to reach every commit.

    Parameters
    ----------
    repository : Path
        The checkout.
    commits : sequence of Commit
        Those that are measured, the newest first.

    Returns
    -------
    list of str
        Names of branches and commits.
    """
    current = _git(repository, "symbolic-ref", "--short", "--quiet", "HEAD").stdout.strip() or "HEAD"
    names = [current]
    for commit in commits:
        if not any(commit.hash in _first_parents(repository, name) for name in names):
            names.append(commit.hash)
    return names


def _first_parents(repository: Path, name: str) -> set[str]:
    return set(_git(repository, "rev-list", "--first-parent", name, "--").stdout.split())


def changes(repository: Path) -> list[str]:
    """Return the files that matter to what is measured and that differ from the newest commit, new ones included.

    Parameters
    ----------
    repository : Path
        The checkout.

    Returns
    -------
    list of str
        Their paths within it.
    """
    lines = _git(repository, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *BUILT_FROM).stdout.split("\0")
    return sorted(line[3:] for line in lines if line)
