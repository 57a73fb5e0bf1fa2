"""A plugin of one file, from an idea to a name that everyone can use: a score, a pattern, and a layer of both. This file is the plugin.

    python examples/writing_a_plugin.py                needs ruvattn, and pip and setuptools for the last step; ten seconds

    StudentT  (score)   ─┐                                     check_score, check_pattern     do they keep the promises?
    Doubling  (pattern) ─┼─► ruvattn_register(registry) ─► pip install ─► ruvattn.create("doubling"), score="student-t", ruvattn plugins
    doubling  (variant) ─┘

The score is the kernel of Student's t-distribution, which t-SNE made known (van der Maaten and Hinton, 2008): the logit −(ν + 1)/2 · log(1 + ‖q −
k‖²/ν) falls with the logarithm of a distance where that of a Gaussian falls with its square, so that what is far away still counts. The pattern
lets each query see itself and the keys 1, 2, 4, 8, … before it: a logarithm of the length, and any two tokens are a few such steps apart (Li et
al., 2019, "LogSparse").

What is printed, in this order:

* Both in use as objects, with nothing registered: a key far away gets more than a hundred times the weight that a Gaussian leaves it, and of 4,096
  tokens the last sees 13.
* Gradients, which the score has because it has the ``_vjp`` methods: beside finite differences.
* The conformance suite: how many checks ran, and that a score with an error in its gradient does not pass.
* Installation into a folder of its own, as ``pip install`` does it, and the names in use in another process, which knows nothing of this file.

`ruvattn new-plugin` writes such a package with tests, benchmark and workflow; the author's tutorial goes on to Cython and to layers that are more
than their parts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

import ruvattn
from ruvattn.headwise import HeadwiseAttention
from ruvattn.testing import check_pattern, check_score, run_checks

RUVATTN_API = 1


# --- the plugin -------------------------------------------------------------------------------------------------------------------


class StudentT(ruvattn.Score):
    """The logit −(ν + 1)/2 · log(1 + ‖q − k‖²/ν).

    Parameters
    ----------
    nu : float or array of shape (Hq,), default 1.0
        The degrees of freedom, above 0: the more, the more like a Gaussian.
    """

    domains = {"nu": (1e-3, 1e6)}  # values outside of it are an error of the call

    def __init__(self, nu: Any = 1.0) -> None:
        self.params = {"nu": nu}

    def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return ‖q‖² of every query; the engine brings the dots, and ‖q − k‖² = ‖q‖² + ‖k‖² − 2 q·k."""
        return ((q * q).sum(-1),)

    def col_terms(self, k: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return ‖k‖² of every key."""
        return ((k * k).sum(-1),)

    def logits(self, t: ruvattn.Tile) -> np.ndarray:
        """Return the logits of m queries and n keys, (m, n)."""
        nu = t.params["nu"]
        squares = np.maximum(t.rows[0] + t.cols[0] - 2 * t.dots[0], 0)  # rounding may take them below 0
        return -(nu + 1) / 2 * np.log1p(squares / nu)

    # From here on, what makes it trainable.

    def row_terms_vjp(self, q: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of q: that of ‖q‖² is 2q."""
        return 2 * dterms[0][..., None] * q, {}

    def col_terms_vjp(self, k: np.ndarray, pos: np.ndarray, dterms: tuple[np.ndarray, ...]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the gradient of k."""
        return 2 * dterms[0][..., None] * k, {}

    def logits_vjp(self, t: ruvattn.Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradients of dots, row term, column term and nu."""
        nu = t.params["nu"]
        squares = np.maximum(t.rows[0] + t.cols[0] - 2 * t.dots[0], 0)
        of_squares = -(nu + 1) / 2 * dlogits / (nu + squares)
        of_nu = np.sum(dlogits * ((nu + 1) / 2 * squares / (nu * (nu + squares)) - np.log1p(squares / nu) / 2))
        return (-2 * of_squares)[None], (of_squares.sum(1, keepdims=True),), (of_squares.sum(0, keepdims=True),), {"nu": of_nu}  # type: ignore[return-value]


class Doubling(ruvattn.Pattern):
    """A query sees itself, and the keys 1, 2, 4, 8, … places before it."""

    scattered = True  # its pairs lie here and there: where they are few, the engine computes only them

    def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
        """Tell which pairs there are: those whose distance is 0 or a power of two, which has one bit."""
        distance = i - j
        return (distance >= 0) & (distance & (distance - 1) == 0)


class DoublingAttention(HeadwiseAttention):
    """Attention by `StudentT` to the keys of `Doubling`, in heads that split the width.

    Parameters
    ----------
    embed_dim, num_heads : int
        As for every variant.
    nu : float, default 1.0
        Of the score.
    **options
        Those that all variants have: causal, window, dropout_rate and so on.
    """

    attention_type = "doubling"  # the name that it is registered by
    positional = True  # the pattern goes by positions

    def __init__(self, embed_dim: int, num_heads: int = 1, *, nu: float = 1.0, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, own={"nu": nu}, **{"score": "student-t", **options})
        self._pattern = Doubling()

    def part_options(self, part: str) -> dict[str, Any]:
        """Return what the score is made with."""
        own = {"nu": self.config.options["nu"]} if part == "score" and self.config.options["score"] == "student-t" else {}
        return own | super().part_options(part)

    def own_mask(self, lq: int, lk: int, single: bool) -> ruvattn.Pattern:
        """Return the pattern: the same object each time, since what is planned for it is kept with it."""
        return self._pattern


def ruvattn_register(registry: Any) -> None:
    """Enter the names; ruvattn calls this when it first needs the names of plugins."""
    registry.score("student-t", StudentT, summary="Student's t kernel of the distance.")
    registry.pattern("doubling", Doubling, summary="Itself, and the keys 1, 2, 4, 8, … before.")
    summary = "Student's t kernel, on keys 1, 2, 4, 8, … before the query."
    registry.variant("doubling", DoublingAttention, summary=summary, capabilities=("trainable",))


# --- what is printed --------------------------------------------------------------------------------------------------------------


class Gaussian(StudentT):
    """The logit −‖q − k‖²/2, for comparison."""

    def logits(self, t: ruvattn.Tile) -> np.ndarray:
        """Return the logits."""
        return t.dots[0] - (t.rows[0] + t.cols[0]) / 2


class WithAnError(StudentT):
    """A score as it is when it is written for the first time: its gradient has lost a factor."""

    def logits_vjp(self, t: ruvattn.Tile, dlogits: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return gradients, that of the dots half as large as it is."""
        ddots, *others = super().logits_vjp(t, dlogits)
        return ddots / 2, *others


def show_objects() -> None:
    """Use score and pattern with nothing registered."""
    q = np.zeros((1, 1), dtype=np.float64)
    k = np.array([[0.0], [0.5], [4.0]])  # near, near, and far
    shares = [ruvattn.attention_weights(q, k, score=score)[0, 2] for score in (StudentT(), Gaussian())]
    times = shares[0] / shares[1]
    print(f"weight of a key 4 away, beside one at 0 and one at 0.5: {shares[0]:.4f}, of a Gaussian {shares[1]:.5f}: {times:.0f} times as much")
    q, k, v = np.random.default_rng(0).standard_normal((3, 2, 4096, 16), dtype=np.float32)
    out = ruvattn.attention(q, k, v, score=StudentT(nu=3.0), mask=Doubling())
    seen = Doubling().allowed(np.array([[4095]]), np.arange(4096))
    print(f"2 heads of 4,096 tokens: {out.shape}; the last token sees {seen.sum()} of them")


def show_gradients() -> None:
    """Compare a gradient with finite differences."""
    rng = np.random.default_rng(1)
    q, k, v, dout = rng.standard_normal((4, 1, 20, 4))

    def loss(nu: float) -> float:
        return float((ruvattn.attention(q, k, v, score=StudentT(nu)) * dout).sum())

    out, lse = ruvattn.attention(q, k, v, score=StudentT(2.0), return_lse=True)
    found = ruvattn.attention_backward(dout, q, k, v, out, lse, score=StudentT(2.0), wrt=("q", "k", "v", "score.nu"))
    difference = (loss(2.0 + 1e-5) - loss(2.0 - 1e-5)) / 2e-5
    print(f"\ngradient of nu {float(found['score.nu']):.6f}, by finite differences {difference:.6f}")


def show_conformance() -> None:
    """Run the conformance suite, on what is right and on what is not."""
    for subject, check in ((StudentT(), check_score), (Doubling(), check_pattern)):
        results = check(subject)
        passed = sum(result.status == "passed" for result in results)
        print(f"{type(subject).__name__}: {passed} checks passed, {len(results) - passed} have nothing to check")
    failed = [result for result in run_checks([WithAnError()]) if result.status == "failed"]
    print(f"WithAnError: does not pass; {', '.join(result.name for result in failed)}")


PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "ruvattn-doubling"
version = "0.1.0"
dependencies = ["ruvattn"]

[project.entry-points.ruvattn]
doubling = "writing_a_plugin"

[tool.setuptools]
py-modules = ["writing_a_plugin"]
"""
"""All that there is to a package beside the module."""

USER = """
import numpy as np, ruvattn
layer = ruvattn.create("doubling", embed_dim=32, num_heads=4, nu=2.0)
print("ruvattn.create makes", type(layer).__name__, "from", layer(np.ones((2, 100, 32), dtype=np.float32)).shape, "numbers")
print(ruvattn.variants()["doubling"].distribution, "·", ruvattn.variants()["doubling"].summary)
"""
"""What a user writes who has installed the package."""


def show_installation(folder: Path) -> None:
    """Install this file as a package, into a folder of its own, and use its names elsewhere."""
    source, site = folder / "source", folder / "site"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    shutil.copy(__file__, source / "writing_a_plugin.py")
    # --target leaves your environment as it is; the other options do without the network: setuptools and ruvattn are there.
    how = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--target", str(site)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *how, str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pip could not install the package; it takes setuptools, too: python -m pip install setuptools\n{done.stderr[-2000:]}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))}
    print("\ninstalled; in another process:")
    for what, arguments in (("python", ["-c", USER]), ("ruvattn test doubling", ["-m", "ruvattn", "test", "doubling", "--suite", "variants"])):
        user = subprocess.run([sys.executable, *arguments], env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if user.returncode:
            raise SystemExit(f"{what} fails with the installed package:\n{user.stdout[-2000:]}{user.stderr[-2000:]}")
        print(textwrap.indent(user.stdout.strip(), "  "))


def main(arguments: list[str] | None = None) -> None:
    """Use, check, install, print."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args(arguments)
    show_objects()
    show_gradients()
    show_conformance()
    with tempfile.TemporaryDirectory() as folder:
        show_installation(Path(folder))


if __name__ == "__main__":
    main()
