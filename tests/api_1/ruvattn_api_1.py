"""A plugin written for version 1 of the plugin interface of ruvattn. Frozen: see README.md."""

import ctypes
import math
import os
from pathlib import Path

import numpy as np

import ruvattn
from ruvattn import (
    Aggregate,
    AttentionConfig,
    GeometricAttention,
    Gradients,
    GraphAttention,
    Manifold,
    Pattern,
    Score,
    SparseAttention,
    TrainableAttention,
)
from ruvattn.authoring import OpaqueContext, place_of_output, read_gradient, read_inputs, refuse_options
from ruvattn.demo import Demonstration
from ruvattn.errors import DimensionMismatchError, InvalidInputError
from ruvattn.headwise import HeadwiseAttention, merge_heads, split_heads
from ruvattn.hookspecs import hookimpl

RUVATTN_API = 1


# --- scores -----------------------------------------------------------------------------------------------------------


class Kernel(Score):
    """−‖q − k‖²/(2·length²) − rate·|i − j|: dots, terms of vectors and of positions, parameters of a head, domains."""

    domains = {"length": (0.0, math.inf)}
    edge_terms = 0

    def __init__(self, length=2.0, rate=0.25):
        self.params = {"length": length, "rate": rate}

    def row_terms(self, q, pos):
        return (q**2).sum(-1), np.asarray(pos, q.dtype)

    def col_terms(self, k, pos):
        return (k**2).sum(-1), np.asarray(pos, k.dtype)

    def row_terms_vjp(self, q, pos, dterms):
        return 2 * dterms[0][..., None] * q, {}

    def col_terms_vjp(self, k, pos, dterms):
        return 2 * dterms[0][..., None] * k, {}

    def logits(self, t):
        distance = t.rows[0] + t.cols[0] - 2 * t.dots[0]
        return -distance / (2 * t.params["length"] ** 2) - t.params["rate"] * np.abs(t.rows[1] - t.cols[1])

    def logits_vjp(self, t, dlogits):
        length, apart = t.params["length"], np.abs(t.rows[1] - t.cols[1])
        distance = t.rows[0] + t.cols[0] - 2 * t.dots[0]
        half = dlogits / (2 * length**2)
        rows, cols = -half.sum(1, keepdims=True), -half.sum(0, keepdims=True)
        moved = -dlogits * t.params["rate"] * np.sign(t.rows[1] - t.cols[1])
        dparams = {"length": np.sum(dlogits * distance) / length**3, "rate": -np.sum(dlogits * apart)}
        return (2 * half)[None], (rows, moved.sum(1, keepdims=True)), (cols, -moved.sum(0, keepdims=True)), dparams


class Planes(Score):
    """Planes of dots over the first column and over the others, the L1 distance, and column terms that a parameter of the head enters."""

    splits = (1, -1)
    vectors = True
    symmetric = False
    conformance_widths = (3, 8)

    def __init__(self, weight=0.5, scale=0.25):
        self.params = {"weight": weight, "scale": scale}

    def _weight(self, heads):
        return np.broadcast_to(self.params["weight"], (heads,))[:, None]

    def col_terms(self, k, pos):
        heads = max(np.size(self.params["weight"]), k.shape[-3])
        return (self._weight(heads) * np.repeat(k.sum(-1), heads // k.shape[-3], -2),)

    def col_terms_vjp(self, k, pos, dterms):
        group = dterms[0].shape[-2] // k.shape[-3]
        dsum = dterms[0] * self._weight(dterms[0].shape[-2])
        dsum = dsum.reshape(*dsum.shape[:-2], -1, group, dsum.shape[-1]).sum(-2)
        products = (dterms[0] * np.repeat(k.sum(-1), group, -2)).sum(-1)
        by_head = products.reshape(-1, products.shape[-1]).sum(0)
        return np.repeat(dsum[..., None], k.shape[-1], -1), {"weight": by_head if np.ndim(self.params["weight"]) else by_head.sum()}

    def logits(self, t):
        return t.params["scale"] * (t.dots[1] - t.dots[0]) - 0.1 * np.abs(t.q[:, None] - t.k[None]).sum(-1) + t.cols[0]

    def logits_vjp(self, t, dlogits):
        scaled = t.params["scale"] * dlogits
        signs = 0.1 * np.sign(t.q[:, None] - t.k[None]) * dlogits[..., None]
        dparams = {"scale": np.sum(dlogits * (t.dots[1] - t.dots[0]))}
        return np.stack([-scaled, scaled]), (), (dlogits.sum(0, keepdims=True),), dparams, -signs.sum(1), signs.sum(0)


class CompiledKernel(Kernel):
    """`Kernel` with the functions of score.inc, once they have been compiled: float32 by ctypes, float64 by a capsule."""


def attach_library(path):
    """Give `CompiledKernel` the functions of a shared library, in the two ways that version 1 takes them: as ctypes functions and as capsules."""
    from scipy import LowLevelCallable

    library = ctypes.CDLL(os.fspath(path))
    pointer, size = ctypes.POINTER(ctypes.c_float), ctypes.c_ssize_t
    library.forward_float32.argtypes = [pointer, size, size, size, *[pointer] * 5, size, ctypes.c_void_p]
    library.vjp_float32.argtypes = [pointer, pointer, size, size, size, *[pointer] * 5, size, *[pointer] * 5, ctypes.c_void_p]
    library.forward_float32.restype = library.vjp_float32.restype = None
    forward = b"void (double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double *, double *, double *, double *, double *, Py_ssize_t, void *)"
    vjp = (
        b"void (double *, double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, double *, double *, double *, double *, double *, Py_ssize_t, "
        b"double *, double *, double *, double *, double *, void *)"
    )
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    CompiledKernel.names = (forward, vjp)  # a capsule does not copy its name
    capsules = [new(ctypes.cast(function, ctypes.c_void_p), name, None)
                for function, name in ((library.forward_float64, forward), (library.vjp_float64, vjp))]  # fmt: skip
    CompiledKernel.library = library
    CompiledKernel.kernels = {
        "float32": (LowLevelCallable(library.forward_float32), LowLevelCallable(library.vjp_float32)),
        "float64": tuple(LowLevelCallable(capsule) for capsule in capsules),
    }


# --- patterns ---------------------------------------------------------------------------------------------------------


class Chunks(Pattern):
    """Keys of the query's own chunk, whose size differs by head; all its keys are seen, so that ranges are full."""

    by_head = True
    row_block = 4
    conformance_shape = (None, 2, None, None)

    def __init__(self, sizes=(4, 8)):
        self.sizes = tuple(sizes)

    def check_fits(self, lead, heads, lq, lk):
        if heads != len(self.sizes):
            raise DimensionMismatchError(f"Chunks is for {len(self.sizes)} heads, and the call has {heads}")

    def allowed(self, i, j, *, head=0, batch=0):
        return i // self.sizes[head] == j // self.sizes[head]

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        size = self.sizes[head]
        first, last = i0 // size, (i1 - 1) // size
        start, stop = max(first * size, 0), min((last + 1) * size, lk)
        return ([start], [stop], [first == last]) if start < stop else ([], [], [])


class Prefix(Pattern):
    """Every query of batch entry b sees the first lengths[b] keys, and those up to its own position."""

    by_batch = True
    conformance_shape = (2, None, None, None)

    def __init__(self, lengths=(3, 6)):
        self.lengths = tuple(lengths)

    def check_fits(self, lead, heads, lq, lk):
        if math.prod(lead) != len(self.lengths):
            raise DimensionMismatchError(f"Prefix is for {len(self.lengths)} batch entries, and the call has leading axes {lead}")

    def allowed(self, i, j, *, head=0, batch=0):
        return (j < self.lengths[batch]) | (j <= i)

    def ranges(self, i0, i1, lk, *, head=0, batch=0):
        whole = min(max(self.lengths[batch], i0 + 1), lk)
        pieces = [(0, whole, True), (whole, min(max(i1, whole), lk), False)]
        return tuple(zip(*(piece for piece in pieces if piece[0] < piece[1]), strict=True)) or ((), (), ())


class Listed(Pattern):
    """Explicit keys of each row, by the row's number."""

    positional = False
    scattered = True

    def __init__(self, keys=((0, 5), (), (2,), (1, 2, 3))):
        self.keys = tuple(tuple(row) for row in keys)

    def allowed(self, i, j, *, head=0, batch=0):
        i, j = np.broadcast_arrays(i, j)
        return np.array([0 <= a < len(self.keys) and b in self.keys[a] for a, b in zip(i.ravel(), j.ravel(), strict=True)], bool).reshape(i.shape)

    def pairs(self, i0, i1, lk, *, head=0, batch=0):
        rows = [[j for j in self.keys[i] if j < lk] if 0 <= i < len(self.keys) else [] for i in range(i0, i1)]
        return np.cumsum([0, *map(len, rows)]), np.array([j for row in rows for j in row], int)


class EveryOther(Pattern):
    """Keys at an even distance, as a dense problem for even and one for odd rows."""

    _parts = ((2, ruvattn.Window(-1, -1)),)

    def allowed(self, i, j, *, head=0, batch=0):
        return (i - j) % 2 == 0

    def strided_parts(self, head=0):
        return self._parts


# --- aggregates -------------------------------------------------------------------------------------------------------


class RootMeanSquare(Aggregate):
    """√(Σ p·v² + floor²), with a floor for each head of the values: linear between `values` and `finish`."""

    def __init__(self, floor=0.5):
        self.params = {"floor": floor}

    def for_head(self, head):
        return RootMeanSquare(float(self.params["floor"][head])) if np.ndim(self.params["floor"]) else self

    def _floor(self, v):
        floor = np.asarray(self.params["floor"], v.dtype)
        return floor[:, None, None] if floor.ndim else floor

    def values(self, v):
        return v**2 + self._floor(v) ** 2

    def values_vjp(self, v, dvalues):
        return 2 * v * dvalues

    def values_params_vjp(self, v, dvalues):
        by_head = (2 * self._floor(v) * dvalues).sum((-1, -2))
        return {"floor": by_head.reshape(-1, by_head.shape[-1]).sum(0) if np.ndim(self.params["floor"]) else by_head.sum()}

    def finish(self, acc):
        return np.sqrt(acc)

    def finish_vjp(self, acc, dout):
        return dout / (2 * np.sqrt(acc))

    def finish_params_vjp(self, acc, dout):
        return {}


class Sharpened(Aggregate):
    """gain · Σ p² v / Σ p²: not linear."""

    linear = False

    def __init__(self, gain=1.0):
        self.params = {"gain": gain}

    def _shares(self, weights):
        squared = weights**2
        return squared / np.maximum(squared.sum(1, keepdims=True), np.finfo(weights.dtype).tiny)

    def reduce(self, weights, v):
        shares = self._shares(weights)[:, :, None]
        return self.params["gain"] * np.where(shares > 0, shares * v, 0).sum(1)

    def reduce_vjp(self, weights, v, out, dout):
        gain, shares = self.params["gain"], self._shares(weights)
        along = np.where(weights > 0, gain * dout @ v.T, 0)
        mean = (shares * along).sum(1, keepdims=True)
        size = np.maximum((weights**2).sum(1, keepdims=True), np.finfo(weights.dtype).tiny)
        return 2 * weights / size * (along - mean), shares.T @ (gain * dout)

    def reduce_params_vjp(self, weights, v, out, dout):
        return {"gain": (dout * out).sum() / self.params["gain"]}


# --- a manifold -------------------------------------------------------------------------------------------------------


class Circle(Manifold):
    """The unit circle, in two coordinates."""

    curvature = 0.0

    def _angle(self, x):
        return np.arctan2(x[..., 1], x[..., 0])

    def _turned(self, base, angle):
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos * base[..., 0] - sin * base[..., 1], sin * base[..., 0] + cos * base[..., 1]], -1)

    def _speed(self, base, tangent):
        return base[..., 0] * tangent[..., 1] - base[..., 1] * tangent[..., 0]

    def _between(self, x, y):
        return (self._angle(np.asarray(y)) - self._angle(np.asarray(x)) + np.pi) % (2 * np.pi) - np.pi

    def distance(self, x, y):
        return np.abs(self._between(x, y))

    def inner_product(self, base, u, v):
        return np.vecdot(u, v)

    def exp_map(self, base, tangent):
        return self._turned(np.asarray(base), self._speed(np.asarray(base), np.asarray(tangent)))

    def log_map(self, base, point):
        base = np.asarray(base)
        return self._between(base, point)[..., None] * np.stack([-base[..., 1], base[..., 0]], -1)

    def project(self, x):
        return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

    def project_tangent(self, point, base):
        return np.asarray(point) - np.vecdot(point, base)[..., None] * base

    def riemannian_gradient(self, point, gradient):
        return self.project_tangent(gradient, point)

    def transport(self, tangent, base, point):
        return self._turned(np.asarray(tangent), self._between(base, point))

    def mean(self, points, weights):
        return self.project(np.sum(np.asarray(weights)[..., None] * points, -2))


# --- variants ---------------------------------------------------------------------------------------------------------


def kernel_attention(embed_dim, num_heads=1, *, length=2.0, **options):
    """`standard` with the score ``api-1-kernel``."""
    score = {"score": "api-1-kernel", "score_options": {"length": length}}
    return ruvattn.create("standard", embed_dim=embed_dim, num_heads=num_heads, **score, **options)


class Steps(HeadwiseAttention, SparseAttention, GraphAttention, GeometricAttention):
    """Every step of a variant of heads overridden, there and back, and every question that only some variants can be asked."""

    attention_type = "api-1-steps"
    positional = True
    manifold = Circle()

    def __init__(self, embed_dim, num_heads=1, *, reach=6, **options):
        super().__init__(embed_dim, num_heads, own={"reach": reach}, **options)
        self._arrays = {"temperature": np.ones(embed_dim), "gain": np.ones(1)}
        self._mask = ruvattn.Window(reach, reach)

    def part_options(self, part):
        return super().part_options(part)

    def own_mask(self, lq, lk, single):
        return self._mask

    def keys_attended(self, lk, options):
        return min(lk, 2 * self.config.options["reach"] + 1)

    def keys_seen(self, lq, lk, width, options):
        return None

    def output_dim(self, value_width):
        return 2 * value_width

    def project_inputs(self, q, k, v):
        q, k, v = (x.astype(np.result_type(x, np.float32), copy=False) for x in (q, k, v))
        return q * self._arrays["temperature"].astype(q.dtype), k, v

    def project_inputs_vjp(self, context, dq, dk, dv):
        query = context.inputs[0].astype(dq.dtype, copy=False)
        dtemperature = (dq * query).reshape(-1, query.shape[-1]).sum(0)
        return (dq * self._arrays["temperature"].astype(dq.dtype), dk, dv), {"temperature": dtemperature}

    def attend_heads(self, q, k, v, options, out, threads):
        options = {"softcap": 30.0, **options}
        return *ruvattn.attention(q, k, v, return_lse=True, threads=threads, out=out, **options), options

    def attend_heads_vjp(self, context, dout, wrt, threads):
        return super().attend_heads_vjp(context, dout, wrt, threads)

    def learned_vjp(self, context, found):
        return super().learned_vjp(context, found)

    def complete(self, merged, inputs, out):
        residual = inputs[2][..., :1, :].astype(merged.dtype, copy=False)
        return self.project_output(merged + residual, inputs[0].dtype, out)

    def complete_vjp(self, context, grad_output):
        dmade, dparams = self.project_output_vjp(context, grad_output)
        dvalues = np.zeros(context.inputs[2].shape, dmade.dtype)
        dvalues[..., 0, :] = dmade.sum(-2)
        return dmade, (*(np.zeros(x.shape, dmade.dtype) for x in context.inputs[:2]), dvalues), dparams

    def project_output(self, merged, dtype, out):
        made = np.concatenate([merged, self._arrays["gain"].astype(merged.dtype) * merged], -1).astype(dtype)
        if out is None:
            return made
        out[...] = made
        return out

    def project_output_vjp(self, context, grad_output):
        first, second = np.split(grad_output.astype(context.out.dtype, copy=False), 2, axis=-1)
        made = self.merged_heads(context) + context.inputs[2][..., :1, :]
        return first + self._arrays["gain"].astype(first.dtype) * second, {"gain": np.array([(second * made).sum()])}

    def recompute(self, context):
        return super().recompute(context)

    def check_parameters(self, parameters):
        super().check_parameters(parameters)
        if not parameters["gain"][0] > 0:
            raise InvalidInputError(f"gain must be above 0, got {parameters['gain'][0]}")

    def demo_options(self, row, topics):
        return {"query_offset": row}, f"stands at its own place, {row + 1} of {len(topics)}"

    def forward_sparse(self, query, keys, values, mask):
        return self(query, keys, values, mask=mask)

    def forward_windowed(self, query, keys, values, window_size):
        return self(query, keys, values, window=(window_size, window_size))

    def forward_strided(self, query, keys, values, window_size, stride):
        return self(query, keys, values, mask=ruvattn.Window(window_size, window_size) | EveryOther())

    def forward_topk(self, query, keys, values, k):
        heads = (split_heads(x, self.num_heads) for x in (query, keys, values))
        return merge_heads(ruvattn.topk_attention(*heads, top_k=k))

    def forward_with_edges(self, query, keys, values, edge_index, edge_attr=None):
        edges, _ = ruvattn.Adjacency.from_edges(*np.asarray(edge_index), len(query), len(keys))
        heads = (split_heads(x, self.num_heads) for x in (query, keys, values))
        return merge_heads(ruvattn.edge_attention(*heads, edges.indptr, edges.indices))

    def forward_graph(self, x, edge_index, edge_attr=None):
        return self.forward_with_edges(x, x, x, edge_index, edge_attr)

    def forward_neighborhood(self, node, x, edge_index):
        return self.forward_graph(x, edge_index)[node]

    def forward_k_hop(self, node, x, edge_index, k):
        return self.forward_neighborhood(node, x, edge_index)

    def forward_geometric(self, query, keys, values):
        return self(query, keys, values)

    def compute_manifold_weights(self, query, keys):
        return self.get_attention_weights(self.forward_with_context(query, keys)[1])


class Mean(TrainableAttention):
    """The mean of the values times a gain: a variant that is a class of its own, with nothing but what version 1 says of it."""

    def __init__(self, embed_dim, num_heads=1, *, gain=1.0):
        self._config = AttentionConfig(embed_dim, num_heads, attention_type="api-1-mean", options={"gain": gain})
        self._gain = np.full(1, float(gain))

    @property
    def config(self):
        return self._config

    def attend(self, q, k=None, v=None, *, out=None, threads=None, **others):
        refuse_options("api-1-mean", others, "every key counts alike")
        inputs = read_inputs(q, k, v, embed_dim=self.config.embed_dim, num_heads=self.config.num_heads)
        made = place_of_output(out, (*inputs[0].shape[:-1], inputs[2].shape[-1]), inputs)
        made[...] = self._gain * inputs[2].mean(-2, keepdims=True)
        return made, OpaqueContext(self, inputs, made.shape, gain=self._gain.copy())

    def parameters(self):
        return {"gain": self._gain}

    def backward(self, grad_output, context=None):
        context, upstream = read_gradient(self, grad_output, context)
        query, keys, values = context.inputs
        total = upstream.sum(-2, keepdims=True)
        params = {"gain": np.array([(total * values.mean(-2, keepdims=True)).sum()])}
        self.keep_gradients(params)
        dquery = np.zeros_like(query)
        dvalues = np.broadcast_to(context.extra["gain"] * total / keys.shape[-2], values.shape)
        return Gradients(dquery[0] if context.single else dquery, np.zeros_like(keys), dvalues, params)


# --- registration -----------------------------------------------------------------------------------------------------


def show(folder):
    """Tell how far attention spreads; draw where there is a folder."""
    lines = ["A demonstration for version 1."]
    if folder is None:
        return Demonstration(lines)
    path = Path(folder) / "ruvattn-demo-api-1.txt"
    path.write_text("no picture, but a file\n")
    return Demonstration(lines, [path], note="a note")


@hookimpl
def ruvattn_register(registry):
    registry.score("api-1-kernel", Kernel, summary="A Gaussian kernel, and recency.")
    registry.score("api-1-planes", Planes)
    registry.score("api-1-compiled", CompiledKernel)
    registry.pattern("api-1-chunks", Chunks, summary="Chunks.")
    registry.pattern("api-1-prefix", Prefix)
    registry.pattern("api-1-listed", Listed)
    registry.pattern("api-1-every-other", EveryOther)
    registry.aggregate("api-1-rms", RootMeanSquare, summary="√(Σ p v² + floor²).")
    registry.aggregate("api-1-sharpened", Sharpened)
    registry.manifold("api-1-circle", Circle, summary="The circle.")
    registry.variant("api-1-kernel", kernel_attention, summary="Standard attention by the kernel.", capabilities=("trainable",))
    registry.variant("api-1-steps", Steps, summary="All steps.", capabilities=["trainable", "parameters"], options={"reach": 6})
    registry.variant("api-1-mean", Mean, summary="The mean.", capabilities=())
    registry.demo("api-1", show, summary="What a demonstration is")
