"""What the registry keeps of each name: where it comes from, what it says about itself, and the factory behind it.

    registry.py, plugins.py ─► Entry ─► Origin          the distribution that registered it
                                 └────► VariantInfo, ComponentInfo     what listings show
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "REQUIRED", "ComponentInfo", "Entries", "Entry", "Origin", "VariantInfo", "signature_options"]

# Each kind with the class that its factories must return an instance of.
KINDS = {
    "variant": ("ruvattn.interfaces", "Attention"),
    "score": ("ruvattn.scores", "Score"),
    "pattern": ("ruvattn.patterns", "Pattern"),
    "aggregate": ("ruvattn.aggregates", "Aggregate"),
    "manifold": ("ruvattn.interfaces", "Manifold"),
    "demo": ("ruvattn.demo", "Demonstration"),
}


class _Required:
    """The default of an option that has none."""

    def __repr__(self) -> str:
        return "<required>"

    def __reduce__(self) -> str:  # pickles and copies as the one instance
        return "REQUIRED"


REQUIRED = _Required()
"""Stands for the default, in ``VariantInfo.options``, of an option that must be given."""


@dataclass(frozen=True)
class ComponentInfo:
    """What a score, pattern, aggregate, manifold or demonstration says about itself.

    Attributes
    ----------
    name : str
        The name it is looked up by.
    summary : str
        One line of description, possibly empty.
    distribution, version : str
        The installed distribution that registered it.
    options : dict of str to object
        Options of its factory with their defaults; `REQUIRED` stands for none.
    """

    name: str
    summary: str
    distribution: str
    version: str
    options: dict[str, Any]


@dataclass(frozen=True)
class VariantInfo:
    """What a variant says about itself.

    Attributes
    ----------
    name : str
        The name that `create` takes.
    summary : str
        One line of description.
    distribution, version : str
        The installed distribution that registered it.
    capabilities : tuple of str
        What it can do beyond attending, in the words of its documentation.
    options : dict of str to object
        Options beside ``embed_dim`` and ``num_heads`` with their defaults; `REQUIRED` stands for none.
    """

    name: str
    summary: str
    distribution: str
    version: str
    capabilities: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a registration comes from; its ``str`` names it in messages."""

    distribution: str
    version: str
    entry_point: str | None = None  # None: built in

    def __str__(self) -> str:
        how = "built in" if self.entry_point is None else f"entry point {self.entry_point!r}"
        return f"{self.distribution} {self.version} ({how})"


@dataclass(frozen=True)
class Entry:
    """One registration."""

    kind: str
    origin: Origin
    factory: Callable[..., Any]
    info: VariantInfo | ComponentInfo


Entries = dict[tuple[str, str], Entry]


def signature_options(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a factory with their defaults; `REQUIRED` stands for none."""
    import inspect

    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a callable written in C may not tell
        return {}
    return {
        p.name: REQUIRED if p.default is p.empty else p.default
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
