"""The variant: a layer made by name."""

from __future__ import annotations

import numpy as np
import ruvattn
from ruvattn.errors import DimensionMismatchError

from .score import Alibi, alibi_slopes


def alibi_attention(embed_dim, num_heads=1, *, slopes=None, scale=None, distance="symmetric", **options):
    """Return the variant ``alibi``: ``standard`` with the score ``alibi``, and with all its other options.

    Slopes and scale are numbers of its configuration from the beginning, so that ``learn=("score.slopes", "score.scale")`` makes parameters of them.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    slopes : float or sequence of num_heads floats, optional
        As for `Alibi`; `alibi_slopes` of `num_heads` when not given.
    scale : float or sequence of num_heads floats, optional
        As for `Alibi`; 1/√(embed_dim/num_heads) when not given.
    distance : {"symmetric", "causal"}, default "symmetric"
        As for `Alibi`.
    **options
        Those of ``standard``, ``causal=True`` among them.

    Returns
    -------
    ruvattn.Attention
        A new layer.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.
    DimensionMismatchError
        If slopes or scale are for another number of heads.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("alibi", embed_dim=8, num_heads=2, causal=True, learn=("score.slopes",))
    >>> layer(np.ones((5, 8))).shape
    (5, 8)
    >>> layer.parameters()["score.slopes"]
    array([0.0625    , 0.00390625])
    """
    ruvattn.AttentionConfig(embed_dim, num_heads)  # checks both, before anything is computed with them
    Alibi(slopes, scale, distance=distance)  # checks these
    score_options = {
        "slopes": _plain("slopes", alibi_slopes(num_heads) if slopes is None else slopes, num_heads),
        "scale": _plain("scale", (embed_dim / num_heads) ** -0.5 if scale is None else scale, num_heads),
        "distance": distance,
    }
    # By name, so that its configuration can be stored: ruvattn finds the score when it is made anew.
    return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, score="alibi", score_options=score_options, **options)


def _plain(name, numbers, heads):
    """Return one number for all heads, or one for each, as JSON has them."""
    if np.ndim(numbers) and len(numbers) != heads:
        raise DimensionMismatchError(f"{name} must be one number, or one for each of the {heads} heads, got {len(numbers)}")
    return np.asarray(numbers, float).tolist()
