"""The variant: attention within documents, which are told to it once or with each call."""

from __future__ import annotations

import numpy as np
from ruvattn.authoring import read_inputs
from ruvattn.errors import InvalidInputError
from ruvattn.headwise import HeadwiseAttention

from .pattern import Documents, read_lengths


class DocumentAttention(HeadwiseAttention):
    """Scaled dot-product attention in which a query sees the keys of its own document only.

    out[i] = Σ_j softmax_j(q[i]·k[j]/√D) · v[j], over the j with d(j) = d(i); see `Documents`. Where the documents are told neither to the
    layer nor to the call, a row is one document.

    Parameters
    ----------
    embed_dim : int
        Width of queries and keys; `num_heads` divides it.
    num_heads : int, default 1
        Number of heads.
    lengths : sequence of int, optional
        How many tokens each document has, where this is always the same. What comes behind them is padding. Fewer tokens are the beginning
        of such a row.
    **options
        Those of `ruvattn.headwise.HeadwiseAttention`.

    Raises
    ------
    InvalidInputError
        If `lengths` are no such numbers.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("documents", embed_dim=8, num_heads=2, causal=True)
    >>> x = np.random.default_rng(0).standard_normal((2, 9, 8))
    >>> packed = layer(x, lengths=[[4, 5], [2, 6]])  # position 8 of the second entry is padding
    >>> np.allclose(packed[1, 2:8], layer(x[1, 2:8])), packed[1, 8].any()
    (True, np.False_)
    """

    attention_type = "documents"  # the name that it is registered by
    positional = True  # documents go by position: a single query stands at the last key
    conformance_options = ({}, {"lengths": (2, 3, 4)})  # what the conformance suite tries

    def __init__(self, embed_dim, num_heads=1, *, lengths=None, **options):
        if lengths is not None:
            rows, by_batch = read_lengths(lengths)
            if by_batch or not sum(rows[0]):
                raise InvalidInputError(
                    f"the option lengths is one sequence of ints, not all 0, for every batch entry, got {lengths!r}; "
                    "lengths of each entry go with a call: layer(x, lengths=…)"
                )
            lengths = tuple(rows[0])
        self._lengths = lengths
        self._documents = None if lengths is None else Documents(lengths)
        super().__init__(embed_dim, num_heads, own={"lengths": lengths}, **options)

    def attend(self, q, k=None, v=None, *, lengths=None, ids=None, mask=None, **options):
        """Compute attention of the heads within documents.

        Parameters
        ----------
        q, k, v : array, (..., L, width)
            As for `ruvattn.headwise.HeadwiseAttention.attend`.
        lengths, ids : optional
            The documents of this call, as for `Documents`; at most one of the two. What comes behind the lengths is padding.
        mask : optional
            ANDed with the documents.
        **options
            All others of `ruvattn.headwise.HeadwiseAttention.attend`.

        Returns
        -------
        out : ndarray, (..., Lq, V)
            Zero for padding.
        context : Context
            For the backward pass.

        Raises
        ------
        InvalidInputError
            If the documents are described wrongly, or were told to the layer already.
        DimensionMismatchError
            If they are those of another batch, or of shorter rows.
        """
        if lengths is None and ids is None:
            return super().attend(q, k, v, mask=mask, **options)
        if self._lengths is not None:
            raise InvalidInputError(f"the layer was made with lengths={self._lengths}: make one without, to give the documents with each call")
        q, k, v = read_inputs(
            q,
            k,
            v,
            embed_dim=self.embed_dim,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            num_heads=self.num_kv_heads,
            finite=False,
            max_keys=None,
        )
        documents = Documents.shared(lengths, ids=ids, length=None if lengths is None else k.shape[-2])
        return super().attend(q, k, v, mask=documents if mask is None else documents & mask, **options)

    def own_mask(self, lq, lk, single):
        """Return the documents that the layer was made with, in rows of at least lq and lk positions."""
        if self._documents is None or max(lq, lk) <= self._documents.length:
            return self._documents
        return Documents.shared(self._lengths, length=max(lq, lk))

    def keys_attended(self, lk, options):
        """Return how many keys a row sees at most, for the option ``max_keys``."""
        documents = [mask for mask in (self._documents, options.get("mask")) if isinstance(mask, Documents)]
        return min([super().keys_attended(lk, options), *(mask.longest for mask in documents)])

    def demo_options(self, row, topics):
        """Return what ``ruvattn demo`` calls it with: sentences of one topic as a document, in pieces."""
        names, ids = np.unique(topics, return_inverse=True)
        others = np.delete(ids, row)  # the sentence that asks is none of the keys: it stands behind them
        note = f"sees the {np.sum(others == ids[row])} other sentences of its own topic, of {len(names)}"
        return {"ids": np.append(others, ids[row]), "query_offset": others.size}, note
