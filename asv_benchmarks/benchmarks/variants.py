"""Every variant that the project maintains, in the core and in the plugins of the same repository, through the object interface."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from .common import THREADS, normal

VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {},
    "multihead": {},
    "cross": {},
    "rbf": {},
    "rbf-compiled": {},
}
"""By name, with options of `ruvattn.create` beside ``embed_dim`` and ``num_heads``. A new variant needs a line here, which a test asks for."""

WIDTH, HEADS, KEYS, QUERIES = 256, 8, 1024, 32


@cache
def _created(name: str) -> Any:
    import ruvattn

    if name not in ruvattn.variants():
        raise NotImplementedError(f"variant {name!r} isn't installed")
    return ruvattn.create(name, embed_dim=WIDTH, num_heads=HEADS, **VARIANTS[name])


class Variant:
    """A sequence of 1024 with a width of 256 in 8 heads; one query and 32 queries on its 1024 keys."""

    params: ClassVar = [list(VARIANTS), list(THREADS)]
    param_names: ClassVar = ["variant", "threads"]

    def setup(self, variant: str, threads: int) -> None:
        self.variant = _created(variant)
        import ruvattn

        self.threads_before = ruvattn.get_num_threads()
        ruvattn.set_num_threads(threads)
        self.keys, self.values = normal((KEYS, WIDTH), seed=1), normal((KEYS, WIDTH), seed=2)
        self.queries = normal((KEYS, WIDTH), seed=0)
        self.few = self.queries[:QUERIES]
        self.query = self.queries[0]

    def teardown(self, variant: str, threads: int) -> None:
        import ruvattn

        # asv calls this too after a setup that skipped.
        if hasattr(self, "threads_before"):
            ruvattn.set_num_threads(self.threads_before)

    def time_sequence(self, variant: str, threads: int) -> None:
        self.variant(self.queries, self.keys, self.values)

    def peakmem_sequence(self, variant: str, threads: int) -> None:
        self.variant(self.queries, self.keys, self.values)

    def time_forward(self, variant: str, threads: int) -> None:
        self.variant.forward(self.query, self.keys, self.values)

    def time_forward_batch(self, variant: str, threads: int) -> None:
        self.variant.forward_batch(self.few, self.keys, self.values)

    def time_weights(self, variant: str, threads: int) -> None:
        _, context = self.variant.forward_with_context(self.queries, self.keys, self.values)
        self.variant.get_attention_weights(context)


class Create:
    """What making an instance takes, with its parameters."""

    params: ClassVar = [list(VARIANTS)]
    param_names: ClassVar = ["variant"]

    def setup(self, variant: str) -> None:
        import ruvattn

        _created(variant)
        self.create = ruvattn.create

    def time_create(self, variant: str) -> None:
        self.create(variant, embed_dim=WIDTH, num_heads=HEADS, **VARIANTS[variant])
