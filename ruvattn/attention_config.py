"""The configuration of a variant: what `ruvattn.create` takes, in a form that survives JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InvalidInputError
from .validation import check_int, check_probability

if TYPE_CHECKING:
    from .interfaces import Attention

__all__ = ["AttentionConfig"]


@dataclass(frozen=True)
class AttentionConfig:
    """What makes a variant, in a form that survives JSON.

    Parameters
    ----------
    embed_dim : int
        Width of the queries, at least 1.
    num_heads : int, default 1
        Number of heads, at least 1.
    dropout_rate : float, default 0
        Share of the weights that is dropped while training, in [0, 1).
    attention_type : str, default "standard"
        The name that `ruvattn.create` takes.
    options : mapping of str to object
        The variant's other options: registered names, numbers, booleans, None, and sequences or mappings of these. Sequences and arrays become
        tuples.

    Raises
    ------
    InvalidInputError
        If a value is none of these.

    Examples
    --------
    >>> config = AttentionConfig(64, 4, attention_type="multihead", options={"num_kv_heads": 2})
    >>> AttentionConfig.from_json(config.to_json()) == config
    True
    >>> config.create().config.options["num_kv_heads"]
    2
    """

    embed_dim: int
    num_heads: int = 1
    dropout_rate: float = 0.0
    attention_type: str = "standard"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the way in for what is frozen
        set_field(self, "embed_dim", check_int(self.embed_dim, "embed_dim", 1))
        set_field(self, "num_heads", check_int(self.num_heads, "num_heads", 1))
        set_field(self, "dropout_rate", check_probability(self.dropout_rate, "dropout_rate"))
        if not isinstance(self.attention_type, str) or not self.attention_type:
            raise InvalidInputError(f"attention_type must be the name of a variant, got {self.attention_type!r}")
        set_field(self, "options", _plain(self.options, "options"))
        if not isinstance(self.options, dict):
            raise InvalidInputError(f"options must be a mapping of names to values, got {self.options!r}")
        own = [name for name in self.options if name in _CONFIG_FIELDS]
        if own:
            raise InvalidInputError(f"options must not hold {own[0]!r}, which is a field of its own")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict of plain Python objects.

        Returns
        -------
        dict
            What `from_dict` takes; the caller's own.
        """
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AttentionConfig:
        """Make a configuration of what `to_dict` returned.

        Parameters
        ----------
        values : mapping of str to object
            The fields; those with a default may be missing.

        Returns
        -------
        AttentionConfig
            Equal to the one that the mapping came from.

        Raises
        ------
        InvalidInputError
            If a field is unknown, missing or has a value that makes no sense.
        """
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"a configuration must be a mapping of {', '.join(_CONFIG_FIELDS)}, got {type(values).__name__}")
        unknown = [name for name in values if name not in _CONFIG_FIELDS]
        if unknown:
            raise InvalidInputError(f"a configuration has no field {unknown[0]!r}; its fields: {', '.join(_CONFIG_FIELDS)}")
        if "embed_dim" not in values:
            raise InvalidInputError("a configuration needs embed_dim")
        return cls(**values)

    def to_json(self) -> str:
        """Return the fields as JSON on one line.

        Returns
        -------
        str
            What `from_json` takes.
        """
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> AttentionConfig:
        """Make a configuration of what `to_json` returned.

        Parameters
        ----------
        text : str or bytes
            A JSON object.

        Returns
        -------
        AttentionConfig
            Equal to the one that the text came from.

        Raises
        ------
        InvalidInputError
            If it is no JSON, or no configuration.
        """
        try:
            values = json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInputError(f"a configuration must be JSON: {error}") from None
        return cls.from_dict(values)

    def create(self) -> Attention:
        """Create the variant.

        Returns
        -------
        Attention
            A new instance; parameters are initialised anew, from the seed in the options.

        Raises
        ------
        UnknownVariantError
            If no variant of that name is installed.
        InvalidInputError
            If it has no such option.
        """
        from .registry import create

        options = dict(self.options)
        if self.dropout_rate:  # not every variant knows dropout
            options["dropout_rate"] = self.dropout_rate
        return create(self.attention_type, embed_dim=self.embed_dim, num_heads=self.num_heads, **options)


_CONFIG_FIELDS = tuple(entry.name for entry in fields(AttentionConfig))


def _plain(value: Any, name: str) -> Any:
    """Return a value of a configuration as plain Python objects, or raise and name it."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInputError(f"{name} must be finite, got {value!r}")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{name} must have names as keys, got {key!r}")
        return {key: _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(item, f"{name}[{i}]") for i, item in enumerate(value))
    raise InvalidInputError(f"{name} must be a name, a number, a boolean, None, or a sequence or mapping of these, got {type(value).__name__}")
