"""`ruvattn.attention` on arrays, subject by subject. A case that changes gets a new name: its old results are of something else."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .common import THREADS, Problem, _Engine, coin, normal


class Dense(_Engine):
    """Every query meets every key: lengths and widths."""

    cases: ClassVar = {
        "8x256x64": lambda: Problem((8, 256, 64)),
        "8x1024x32": lambda: Problem((8, 1024, 32)),
        "8x1024x64": lambda: Problem((8, 1024, 64)),
        "8x1024x80": lambda: Problem((8, 1024, 80)),
        "8x1024x128": lambda: Problem((8, 1024, 128)),
        "8x2048x64": lambda: Problem((8, 2048, 64)),
        "values of 256": lambda: Problem((8, 1024, 64), v=(8, 1024, 256)),
        "odd width 67": lambda: Problem((8, 1024, 67)),
        "strided output": lambda: Problem((8, 1024, 64), options={"out": lambda: np.empty((1024, 8, 64), np.float32).swapaxes(0, 1)}),
    }


class Causal(_Engine):
    """Half of the pairs."""

    cases: ClassVar = {
        "8x1024x64": lambda: Problem((8, 1024, 64), options={"causal": True}),
        "8x2048x64": lambda: Problem((8, 2048, 64), options={"causal": True}),
        "256 queries at the end of 2048 keys": lambda: Problem((8, 256, 64), (8, 2048, 64), options={"causal": True, "query_offset": "end"}),
    }


class GroupedQueries(_Engine):
    """Several query heads share a key head."""

    cases: ClassVar = {
        "16/4": lambda: Problem((16, 1024, 64), (4, 1024, 64)),
        "16/1": lambda: Problem((16, 1024, 64), (1, 1024, 64)),
        "16/4 causal": lambda: Problem((16, 1024, 64), (4, 1024, 64), options={"causal": True}),
    }


class Mask(_Engine):
    """Explicit masks and those that are patterns."""

    cases: ClassVar = {
        "bool, one for all heads": lambda: Problem((8, 1024, 64), options={"mask": lambda: coin((1024, 1024))}),
        "bool, one a head": lambda: Problem((8, 1024, 64), options={"mask": lambda: coin((8, 1024, 1024))}),
        "bool, lower half": lambda: Problem((8, 1024, 64), options={"mask": lambda: np.tri(1024, dtype=bool)}),
        "key lengths": lambda: Problem((8, 4, 512, 64), options={"key_lengths": lambda: np.arange(64, 513, 64)}),
        "sparse, 1 %": lambda: Problem((8, 1024, 64), options={"mask": lambda: _sparse(1024, 0.01)}),
        "sparse, blocks": lambda: Problem((8, 1024, 64), options={"mask": lambda: _sparse_blocks(1024, 64)}),
        "pattern without ranges": lambda: Problem((8, 1024, 64), options={"mask": _every_other}),
    }


class Window(_Engine):
    """A band around the diagonal: time should grow with its width, not with the length."""

    cases: ClassVar = {
        "L=2048, 128 on both sides": lambda: Problem((8, 2048, 64), options={"window": (128, 128)}),
        "L=8192, 128 on both sides": lambda: Problem((4, 8192, 64), options={"window": (128, 128)}),
        "L=8192, 255 before, causal": lambda: Problem((4, 8192, 64), options={"window": (255, -1), "causal": True}),
    }


class Bias(_Engine):
    """What changes logits."""

    cases: ClassVar = {
        "bias, one a head": lambda: Problem((8, 1024, 64), options={"bias": lambda: normal((8, 1024, 1024))}),
        "bias, one a key": lambda: Problem((8, 1024, 64), options={"bias": lambda: normal((1, 1024))}),
        "softcap": lambda: Problem((8, 1024, 64), options={"softcap": 20.0}),
        "sinks": lambda: Problem((8, 1024, 64), options={"sinks": lambda: np.zeros(8, np.float32)}),
        "dropout": lambda: Problem((8, 1024, 64), options={"dropout": 0.1, "seed": 0}),
        "lse": lambda: Problem((8, 1024, 64), options={"return_lse": True}),
    }


class Decode(_Engine):
    """Few queries on many keys."""

    cases: ClassVar = {
        "16x1 on 4096x128": lambda: Problem((16, 1, 128), (16, 4096, 128)),
        "32/8x1 on 4096x128": lambda: Problem((32, 1, 128), (8, 4096, 128)),
        "8x16 on 4096x64": lambda: Problem((8, 16, 64), (8, 4096, 64)),
        "1x1 on 65536x64": lambda: Problem((1, 1, 64), (1, 65536, 64)),
    }


class ShortBatches(_Engine):
    """Many short sequences."""

    cases: ClassVar = {
        "4x8x128x64": lambda: Problem((4, 8, 128, 64)),
        "16x8x77x64": lambda: Problem((16, 8, 77, 64)),
        "32x12x128x32": lambda: Problem((32, 12, 128, 32)),
        "256x4x16x32": lambda: Problem((256, 4, 16, 32)),
    }


class TinyCall(_Engine):
    """What a call costs beside its arithmetic."""

    cases: ClassVar = {
        "1x8x16x64": lambda: Problem((1, 8, 16, 64)),
        "1x8x16x64 with every check": lambda: Problem((1, 8, 16, 64), options={"causal": True, "scale": 0.1, "key_lengths": 16}),
        "1x1 on 1024x128": lambda: Problem((1, 128), (1024, 128)),
    }


class Dtype(_Engine):
    """float64, and the narrow dtypes that compute in float32."""

    cases: ClassVar = {
        "float64": lambda: Problem((8, 1024, 64), dtype="float64"),
        "float16": lambda: Problem((8, 1024, 64), dtype="float16"),
        "bfloat16": lambda: Problem((8, 1024, 64), dtype=_bfloat16()),
    }


class NumpyScore(_Engine):
    """A score without a compiled form, which streams through the same engine tile by tile."""

    cases: ClassVar = {
        "dots only": lambda: Problem((8, 1024, 64), options={"score": lambda: _score(terms=False, vectors=False)}),
        "row and column terms": lambda: Problem((8, 1024, 64), options={"score": lambda: _score(terms=True, vectors=False)}),
        "vectors": lambda: Problem((2, 256, 16), options={"score": lambda: _score(terms=False, vectors=True)}),
    }


class _AllPairs:
    """The functions whose result has a number for every pair."""

    function_name: ClassVar[str]
    params: ClassVar = [["8x1024x64"], list(THREADS)]
    param_names: ClassVar = ["case", "threads"]

    def setup(self, case: str, threads: int) -> None:
        import ruvattn

        if not hasattr(ruvattn, self.function_name):
            raise NotImplementedError(f"this version has no {self.function_name}")
        self.function = getattr(ruvattn, self.function_name)
        self.q, self.k = normal((8, 1024, 64), seed=0), normal((8, 1024, 64), seed=1)

    def time_call(self, case: str, threads: int) -> None:
        self.function(self.q, self.k, threads=threads)

    def peakmem_call(self, case: str, threads: int) -> None:
        self.function(self.q, self.k, threads=threads)


class Logits(_AllPairs):
    """The logits of all pairs."""

    function_name = "attention_logits"


class Weights(_AllPairs):
    """The weights of all pairs."""

    function_name = "attention_weights"


class MergeStates:
    """Partial results over disjoint keys into one."""

    params: ClassVar = [[2, 8]]
    param_names: ClassVar = ["parts"]

    def setup(self, parts: int) -> None:
        import ruvattn

        if not hasattr(ruvattn, "merge_states"):
            raise NotImplementedError("this version has no merge_states")
        self.merge = ruvattn.merge_states
        self.accs = [normal((8, 512, 64), seed=i) for i in range(parts)]
        self.lses = [normal((8, 512), seed=i) for i in range(parts)]

    def time_merge(self, parts: int) -> None:
        self.merge(self.accs, self.lses)

    def peakmem_merge(self, parts: int) -> None:
        self.merge(self.accs, self.lses)


def _bfloat16() -> str:
    import ml_dtypes  # registers the name with NumPy

    return np.dtype(ml_dtypes.bfloat16).name


def _sparse(length: int, share: float) -> Any:
    from scipy.sparse import csr_array

    return csr_array(coin((length, length), share))


def _sparse_blocks(length: int, block: int) -> Any:
    from scipy.sparse import csr_array

    blocks = coin((length // block, length // block), 0.25)
    return csr_array(np.kron(blocks, np.ones((block, block), bool)))


def _every_other() -> Any:
    import ruvattn

    class EveryOther(ruvattn.Pattern):
        def allowed(self, i: np.ndarray, j: np.ndarray, *, head: int = 0, batch: int = 0) -> np.ndarray:
            return (i - j) % 2 == 0

    return EveryOther()


def _score(*, terms: bool, vectors: bool) -> Any:
    import ruvattn

    class Score(ruvattn.Score):
        def row_terms(self, q: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
            return ((q * q).sum(-1),) if terms else ()

        def col_terms(self, k: np.ndarray, pos: np.ndarray) -> tuple[np.ndarray, ...]:
            return ((k * k).sum(-1),) if terms else ()

        def logits(self, t: Any) -> np.ndarray:
            if vectors:
                return -np.abs(t.q[:, None, :] - t.k[None, :, :]).sum(-1)
            logits = t.dots[0]
            logits *= 0.125
            if terms:
                logits -= t.rows[0]
                logits -= t.cols[0]
            return logits

    Score.vectors = vectors
    return Score()
