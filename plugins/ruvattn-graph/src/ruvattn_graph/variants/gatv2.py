"""``gatv2``: graph attention whose ranking of the neighbours depends on the node that asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from ruvattn.errors import InvalidInputError
from ruvattn.headwise import split_heads
from ruvattn.validation import check_bool

from ..scores import AdditiveV2Score
from .base import GraphVariant
from .parameters import per_head, per_head_vjp
from .state import StateDict, heads_of

__all__ = ["GATv2Attention"]


class GATv2Attention(GraphVariant):
    """Graph attention, second version (Brody et al., 2022, "How Attentive are Graph Attention Networks?", eq. 7).

    ``α_ij = softmax_j a·LeakyReLU(W_src x_j + W_dst x_i + W_edge e_ij)`` over the incoming edges j → i of node i, and
    ``out_i = Σ_j α_ij W_src x_j``, for each head; then the heads beside each other or their mean, plus a bias. It equals torch-geometric's
    ``GATv2Conv``, whose ``out_channels`` is `head_dim` here.

    Parameters
    ----------
    embed_dim : int
        Width of the features of a node.
    num_heads : int, default 1
        Number of heads H.
    negative_slope : float, default 0.2
        Of the LeakyReLU, at least 0.
    share_weights : bool, default False
        Whether sources and destinations share one matrix, ``W_src``.
    residual : bool, default False
        Whether W_res x_i is added to the output.
    add_self_loops : bool, default True
        Whether every node attends to itself in `forward_graph`, instead of along the self-loops that the graph has.
    head_dim, key_dim, edge_dim, concat, bias, seed, dtype, dropout_rate, softcap, check_finite, max_keys, output_dropout : optional
        As for `ruvattn_graph.GraphVariant`; the bias is added to what W_src and W_dst make, too.

    Raises
    ------
    InvalidInputError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> import numpy as np, ruvattn
    >>> layer = ruvattn.create("gatv2", embed_dim=3, num_heads=2, head_dim=4, concat=False)
    >>> layer.forward_graph(np.eye(3, dtype=np.float32), [(0, 1), (1, 2)]).shape
    (3, 4)
    """

    attention_type = "gatv2"

    def __init__(
        self, embed_dim: int, num_heads: int = 1, *, negative_slope: float = 0.2, share_weights: bool = False, residual: bool = False,
        add_self_loops: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        self._slope = AdditiveV2Score(negative_slope=negative_slope).params["negative_slope"]
        self._shared, self._residual = check_bool(share_weights, "share_weights"), check_bool(residual, "residual")
        own = {"negative_slope": self._slope, "share_weights": self._shared, "residual": self._residual}
        super().__init__(embed_dim, num_heads, add_self_loops=add_self_loops, own=own, **options)

    def make_parameters(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        """Fill ``W_src``, ``W_dst`` and their biases, the vectors ``a``, ``W_edge``, ``W_res`` and ``b``."""
        if self._shared and self.key_dim != self.embed_dim:
            raise InvalidInputError(f"share_weights must be False where key_dim, {self.key_dim}, is not embed_dim, {self.embed_dim}")
        self.add_weights("W_src", rng, (self.key_dim, self.width), dtype)
        if not self._shared:
            self.add_weights("W_dst", rng, (self.embed_dim, self.width), dtype)
        self.add_weights("a", rng, (self.num_heads, self.head_dim), dtype)
        if self.edge_dim is not None:
            self.add_weights("W_edge", rng, (self.edge_dim, self.width), dtype)
        if self._residual:
            self.add_weights("W_res", rng, (self.embed_dim, self.output_dim(0)), dtype)
        if self.config.options["bias"]:
            for name in ("b_src",) if self._shared else ("b_src", "b_dst"):
                self.add_bias(name, self.width, dtype)
            self.add_bias("b", self.output_dim(0), dtype)

    def project_inputs(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return W_dst q + b_dst, W_src k + b_src and W_src v + b_src.

        Parameters
        ----------
        q, k, v : ndarray, (..., L, width)
            The inputs, checked.

        Returns
        -------
        q, k, v : ndarray, (..., L, H·C)
            In the compute dtype.
        """
        q, k, v = self.projected((q, k, v), self._weights)
        return q, k, v

    @property
    def _weights(self) -> tuple[str, str, str]:
        return ("W_src" if self._shared else "W_dst", "W_src", "W_src")

    def project_inputs_vjp(
        self, context: Any, dq: np.ndarray, dk: np.ndarray, dv: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]:
        """Return the gradients of the inputs, and of W_dst and W_src with their biases."""
        dinputs, dparams = self.projected_vjp(context.inputs, self._weights, (dq, dk, dv))
        return dinputs, dparams  # type: ignore[return-value]  # as many as inputs

    def make_score(self) -> AdditiveV2Score:
        """Return the score with the vectors as they are now."""
        return AdditiveV2Score(self._arrays["a"], negative_slope=self._slope)

    def _make_learned(self, score: Any) -> None:
        """Have the gradient of a come with those of queries, keys and values, in a call without a graph."""
        super()._make_learned(score)
        self._learned["a"] = "score.a"

    def along_edges(self, q: np.ndarray, attr: np.ndarray | None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the queries, and the features of edges, which join the keys; the score multiplies them by W_edge."""
        if attr is None:
            return q, {"score": self.make_score()}
        heads, rows, width = q.shape
        wide = split_heads(np.zeros((rows, heads * (width + attr.shape[1])), q.dtype), heads)
        wide[..., :width] = q
        score = AdditiveV2Score(self._arrays["a"], per_head(self._arrays["W_edge"], heads), negative_slope=self._slope)
        return wide, {"score": score, "edge_attr": attr, "edge_attr_to": "key"}

    def wrt_of_edges(self, options: dict[str, Any]) -> tuple[str, ...]:
        """Return the parameters of the score, and the features of edges where there are any."""
        return ("score.a", "score.edge_weights", "edge_attr") if "edge_attr" in options else ("score.a",)

    def along_edges_vjp(self, context: Any, found: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray | None]:
        """Return the gradients of the queries, of a and W_edge, and of the features of the edges."""
        dparams = {"a": found["score.a"]}
        if "score.edge_weights" in found:
            dparams["W_edge"] = per_head_vjp(found["score.edge_weights"])
        return found["q"][..., : self.head_dim], dparams, found.get("edge_attr")

    def complete(self, merged: np.ndarray, inputs: Any, out: np.ndarray | None) -> np.ndarray:
        """Return the heads beside each other or their mean, plus W_res x_i and the bias."""
        return self.with_residual(merged, inputs, out) if self._residual else super().complete(merged, inputs, out)

    def complete_vjp(self, context: Any, grad_output: np.ndarray) -> Any:
        """Return the gradients of the heads, of W_res, x_i and the bias."""
        return self.with_residual_vjp(context, grad_output) if self._residual else super().complete_vjp(context, grad_output)

    def translate_state(self, state: StateDict) -> dict[str, np.ndarray]:
        """Return parameters by our names, given the state dict of a ``GATv2Conv``."""
        found = {"W_src": state.matrix("lin_l.weight"), "a": heads_of(state.take("att"), (self.num_heads, self.head_dim))}
        if "b_src" in self._arrays:
            found["b_src"] = state.take("lin_l.bias")
        if not self._shared:
            found["W_dst"] = state.matrix("lin_r.weight")
            if "b_dst" in self._arrays:
                found["b_dst"] = state.take("lin_r.bias")
        else:  # where both names stand for one thing
            for name in ("lin_r.weight", "lin_r.bias"):
                state.drop(name)
        return {**found, **self.common_state(state)}
