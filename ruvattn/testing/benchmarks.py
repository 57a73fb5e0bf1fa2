"""Benchmarks for the asv suite of a plugin: the same work, under the same names, as the variants of the project itself are measured by.

    from ruvattn.testing.benchmarks import ScoreBenchmarks, VariantBenchmarks

    class Tempered(VariantBenchmarks):          time_sequence     1024 queries on 1024 keys, a width of 256 in 8 heads
        variant = "tempered"                    time_forward      one query on these keys
        options = {"temperature": 2.0}          time_forward_batch   32 queries on them
                                                time_weights      the weights of the sequence
    class TemperedScore(ScoreBenchmarks):       peakmem_sequence  the memory of the process in which the sequence is computed
        score = "tempered"                      each on 1 and on 2 threads

asv finds these classes in the modules of a folder ``benchmarks/``. What is not installed, or not in the version that is measured, is skipped: the
graph has a gap there.

This file imports nothing of ruvattn before a benchmark is set up. A suite has to be importable whichever version is installed, and the suite of the
project loads this file by its path, so that one definition measures every commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar

import numpy as np

__all__ = ["PatternBenchmarks", "ScoreBenchmarks", "VariantBenchmarks"]

WIDTH, HEADS, KEYS, QUERIES = 256, 8, 1024, 32
"""The work: a sequence of `KEYS`, of a width of `WIDTH` in `HEADS` heads; `QUERIES` are few queries."""

THREADS = (1, 2)
"""A parameter of every benchmark. A literal, for results of two machines must be of the same things."""


@cache
def normal(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Return normal numbers, the same array for the same arguments: asv may call `setup` before every sample."""
    numbers = np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float64 if dtype == "float64" else np.float32)
    return numbers.astype(dtype, copy=False)


class _Benchmarks(ABC):
    """What the three have in common: a name, its options, parameters of asv, and one instance a process.

    Abstract classes are what asv leaves out where it looks for benchmarks, so that a module may import these.
    """

    kind: ClassVar[str]  # the name of the attribute that holds the name
    options: ClassVar[Mapping[str, Any]] = {}
    params: ClassVar[list[list[Any]]]
    param_names: ClassVar[list[str]]

    def __init_subclass__(cls) -> None:
        name = getattr(cls, getattr(cls, "kind", ""), None)
        if isinstance(name, property) or name is None or "params" in vars(cls):
            return  # still abstract, or with parameters of its own
        if not isinstance(name, str) or not name:
            raise TypeError(f"{cls.__name__}.{cls.kind} is {name!r}: it has to be the name that is registered, as in {cls.kind} = 'demo-x'")
        cls.params = [[name], list(THREADS)]
        cls.param_names = [cls.kind, "threads"]

    @abstractmethod
    def make(self, name: str) -> Any:
        """Return what is benchmarked."""

    def options_of(self, name: str) -> dict[str, Any]:
        """Return the options that a name is made with.

        Parameters
        ----------
        name : str
            The registered name.

        Returns
        -------
        dict
            `options`; an option that is a function without arguments is called for its value, so that nothing is made before it is needed.
        """
        return {option: value() if callable(value) else value for option, value in self.options.items()}

    def made(self, name: str) -> Any:
        """Return what is benchmarked, the same instance throughout a process.

        Parameters
        ----------
        name : str
            The registered name.

        Returns
        -------
        object
            What `make` returned the first time.
        """
        key = (type(self), name)
        if key not in _MADE:
            _MADE[key] = self.make(name)
        return _MADE[key]

    def teardown(self, name: str, threads: int) -> None:
        """Leave everything as it was before `setup`; called by asv.

        Parameters
        ----------
        name, threads : object
            As for `setup`.
        """
        # asv calls this too after a setup that skipped. Parts are told in each call how many threads to use: there is nothing to undo.
        if hasattr(self, "threads_before"):
            import ruvattn

            ruvattn.set_num_threads(self.threads_before)


_MADE: dict[tuple[type, str], Any] = {}


class VariantBenchmarks(_Benchmarks):
    """Benchmarks of a variant: a subclass names it.

    Attributes
    ----------
    variant : str
        The name under which it is registered.
    options : mapping of str to object
        Options of `ruvattn.create` beside ``embed_dim`` and ``num_heads``. A value that is a function without arguments is called for the option.
    params, param_names : list
        The parameters of asv: the variant, and 1 and 2 threads.

    Examples
    --------
    >>> class Standard(VariantBenchmarks):
    ...     variant = "standard"
    >>> Standard.params
    [['standard'], [1, 2]]
    >>> benchmark = Standard()
    >>> benchmark.setup("standard", 1)
    >>> benchmark.time_sequence("standard", 1)
    >>> benchmark.teardown("standard", 1)
    """

    kind = "variant"

    @property
    @abstractmethod
    def variant(self) -> str:
        """The name under which the variant is registered."""

    def make(self, name: str) -> Any:
        """Create the variant.

        Parameters
        ----------
        name : str
            The registered name.

        Returns
        -------
        Attention
            The variant.

        Raises
        ------
        NotImplementedError
            If it is not installed: asv then skips the benchmark.
        """
        return self.factory(name)()

    def factory(self, name: str) -> Callable[[], Any]:
        """Return what creates the variant, if there is such a variant.

        Parameters
        ----------
        name : str
            The registered name.

        Returns
        -------
        callable
            ``ruvattn.create`` with all that it needs.

        Raises
        ------
        NotImplementedError
            If the variant is not installed: asv then skips the benchmark.
        """
        import ruvattn

        if name not in ruvattn.variants():
            raise NotImplementedError(f"variant {name!r} isn't installed")
        options = self.options_of(name)
        return lambda: ruvattn.create(name, embed_dim=WIDTH, num_heads=HEADS, **options)

    def setup(self, variant: str, threads: int) -> None:
        """Make the variant and the data; called by asv.

        Parameters
        ----------
        variant : str
            The registered name.
        threads : int
            How many threads compute.
        """
        self.made_variant = self.made(variant)
        import ruvattn

        self.threads_before = ruvattn.get_num_threads()
        ruvattn.set_num_threads(threads)
        self.keys, self.values = normal((KEYS, WIDTH), seed=1), normal((KEYS, WIDTH), seed=2)
        self.queries = normal((KEYS, WIDTH), seed=0)
        self.few = self.queries[:QUERIES]
        self.query = self.queries[0]

    def time_sequence(self, variant: str, threads: int) -> None:
        """Time the sequence.

        Parameters
        ----------
        variant, threads : object
            As for `setup`.
        """
        self.made_variant(self.queries, self.keys, self.values)

    def peakmem_sequence(self, variant: str, threads: int) -> None:
        """Measure the memory of a process that computes the sequence.

        Parameters
        ----------
        variant, threads : object
            As for `setup`.
        """
        self.made_variant(self.queries, self.keys, self.values)

    def time_forward(self, variant: str, threads: int) -> None:
        """Time one query.

        Parameters
        ----------
        variant, threads : object
            As for `setup`.
        """
        self.made_variant.forward(self.query, self.keys, self.values)

    def time_forward_batch(self, variant: str, threads: int) -> None:
        """Time few queries.

        Parameters
        ----------
        variant, threads : object
            As for `setup`.
        """
        self.made_variant.forward_batch(self.few, self.keys, self.values)

    def time_weights(self, variant: str, threads: int) -> None:
        """Time the sequence with its weights.

        Parameters
        ----------
        variant, threads : object
            As for `setup`.
        """
        _, context = self.made_variant.forward_with_context(self.queries, self.keys, self.values)
        self.made_variant.get_attention_weights(context)


class _PartBenchmarks(_Benchmarks):
    """A part of `ruvattn.attention`, in calls of it on `HEADS` heads: what a variant of this part does, less what the object interface costs."""

    option: ClassVar[str]  # of a call, by which it gets the part
    few_options: ClassVar[dict[str, Any]] = {}  # of calls with fewer queries than keys

    def make(self, name: str) -> Any:
        """Make the part.

        Parameters
        ----------
        name : str
            The registered name.

        Returns
        -------
        Score or Pattern
            The part.

        Raises
        ------
        NotImplementedError
            If it is not installed: asv then skips the benchmark.
        """
        return _registered(self.kind, name, self.options_of(name))

    def setup(self, name: str, threads: int) -> None:
        """Make the part and the data; called by asv.

        Parameters
        ----------
        name : str
            The registered name.
        threads : int
            How many threads compute.
        """
        import ruvattn

        part = self.made(name)
        # Rows of another kind than any numbers, points of a manifold for example, are drawn as the part's conformance tests draw them.
        draw = getattr(part, "conformance_inputs", None)
        shape = (HEADS, KEYS, WIDTH // HEADS)

        def rows(role: str, seed: int) -> np.ndarray:
            if draw is None:
                return normal(shape, seed=seed)
            return np.asarray(draw(np.random.default_rng([seed, *shape]), role, shape), dtype=np.float32)

        self.q, self.k, self.v = (rows(role, seed) for seed, role in enumerate(("query", "key", "value")))
        self.attend, self.weigh = ruvattn.attention, ruvattn.attention_weights
        self.call = {self.option: part, "threads": threads}

    def time_sequence(self, name: str, threads: int) -> None:
        """Time the sequence.

        Parameters
        ----------
        name, threads : object
            As for `setup`.
        """
        self.attend(self.q, self.k, self.v, **self.call)

    def peakmem_sequence(self, name: str, threads: int) -> None:
        """Measure the memory of a process that computes the sequence.

        Parameters
        ----------
        name, threads : object
            As for `setup`.
        """
        self.attend(self.q, self.k, self.v, **self.call)

    def time_forward(self, name: str, threads: int) -> None:
        """Time one query.

        Parameters
        ----------
        name, threads : object
            As for `setup`.
        """
        self.attend(self.q[:, -1:], self.k, self.v, **self.call, **self.few_options)

    def time_forward_batch(self, name: str, threads: int) -> None:
        """Time few queries.

        Parameters
        ----------
        name, threads : object
            As for `setup`.
        """
        self.attend(self.q[:, -QUERIES:], self.k, self.v, **self.call, **self.few_options)

    def time_weights(self, name: str, threads: int) -> None:
        """Time the weights of the sequence.

        Parameters
        ----------
        name, threads : object
            As for `setup`.
        """
        self.weigh(self.q, self.k, **self.call)


def _registered(kind: str, name: str, options: dict[str, Any]) -> Any:
    """Return the score or pattern of a name; skip the benchmark where no version or plugin that is installed has it."""
    try:
        from ruvattn import registry

        known, get = getattr(registry, f"{kind}s"), getattr(registry, f"get_{kind}")
    except (ImportError, AttributeError) as error:
        raise NotImplementedError(f"not in this version: {error}") from error
    if name not in known():
        raise NotImplementedError(f"{kind} {name!r} isn't installed")
    return get(name, **options)


class ScoreBenchmarks(_PartBenchmarks):
    """Benchmarks of a score in calls of `ruvattn.attention`: a subclass names it.

    A score with a method ``conformance_inputs`` gets the rows that this draws.

    Attributes
    ----------
    score : str
        The name under which it is registered.
    options : mapping of str to object
        Its options. A value that is a function without arguments is called for the option.
    params, param_names : list
        The parameters of asv: the score, and 1 and 2 threads.

    Examples
    --------
    >>> class Dot(ScoreBenchmarks):
    ...     score = "dot"
    >>> benchmark = Dot()
    >>> benchmark.setup("dot", 1)
    >>> benchmark.time_forward("dot", 1)
    """

    kind = option = "score"

    @property
    @abstractmethod
    def score(self) -> str:
        """The name under which the score is registered."""


class PatternBenchmarks(_PartBenchmarks):
    """Benchmarks of a pattern in calls of `ruvattn.attention`: a subclass names it.

    One query, and few of them, stand at the end of the keys, as they do in decoding. What planning a pattern takes is in none of the times: calls
    before have planned it.

    Attributes
    ----------
    pattern : str
        The name under which it is registered.
    options : mapping of str to object
        Its options. A value that is a function without arguments is called for the option.
    params, param_names : list
        The parameters of asv: the pattern, and 1 and 2 threads.

    Examples
    --------
    >>> class Causal(PatternBenchmarks):
    ...     pattern = "causal"
    >>> benchmark = Causal()
    >>> benchmark.setup("causal", 1)
    >>> benchmark.time_forward_batch("causal", 1)
    """

    kind, option = "pattern", "mask"
    few_options = {"query_offset": "end"}

    @property
    @abstractmethod
    def pattern(self) -> str:
        """The name under which the pattern is registered."""
