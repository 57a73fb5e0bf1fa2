"""Attention in curved spaces as torch allows it: a matrix of distances from dots and norms, softmax, times the values.

    PLAIN   the formulas as they are read, ‖x−y‖² = ‖x‖² + ‖y‖² − 2x·y and arcosh, each step a new array
    TUNED   norms and factors as two more columns of the matrix product, then operations in place, of those that torch has in vector form:
            log1p and atan, but not arsinh, arcosh and arccos

Both hold arrays of queries × keys; neither knows near pairs from others, so what cancels in ‖x‖² + ‖y‖² − 2x·y is lost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from geometric_cases import CURVATURES
from torch import Tensor

__all__ = ["PLAIN", "TUNED", "attend", "prepare"]

Logits = Callable[[Tensor, Tensor], Tensor]


def attend(logits: Logits, q: Tensor, k: Tensor, values: Tensor, *, einstein: bool = False) -> Tensor:
    """Return the weighted sum of the values, or with values as `prepare` gives them the Einstein midpoint."""
    summed = torch.softmax(logits(q, k), -1) @ values
    if not einstein:
        return summed
    klein = summed[..., :-1] / summed[..., -1:]
    return klein / (1 + torch.sqrt(1 - _square(klein)))


def prepare(v: Tensor) -> Tensor:
    """Return what is summed for the Einstein midpoint of points of the ball: λx, and as last column the Lorentz factor λ − 1."""
    factor = 2 / (1 - _square(v))
    return torch.cat([factor * v, factor - 1], -1)


def _square(x: Tensor) -> Tensor:
    return (x * x).sum(-1, keepdim=True)


# --- as they are read -------------------------------------------------------------------------------------------------------------


def _gaps(q: Tensor, k: Tensor) -> Tensor:
    """‖x−y‖² of all pairs."""
    return (_square(q) + _square(k).mT - 2 * q @ k.mT).clamp(min=0)


def _ball(q: Tensor, k: Tensor) -> Tensor:
    return torch.acosh(1 + 2 * _gaps(q, k) / ((1 - _square(q)) * (1 - _square(k)).mT))


def _lorentz(q: Tensor, k: Tensor) -> Tensor:
    inner = q[..., 1:] @ k[..., 1:].mT - q[..., :1] * k[..., :1].mT
    return torch.acosh((-inner).clamp(min=1))


def _sphere(q: Tensor, k: Tensor) -> Tensor:
    return torch.acos((q @ k.mT).clamp(-1, 1))


def _product(q: Tensor, k: Tensor) -> Tensor:
    (a, b, c), (d, e, f) = (x.split((16, 16, 32), -1) for x in (q, k))
    return torch.sqrt(_ball(a, d) ** 2 + _sphere(b, e) ** 2 + _gaps(c, f))


def _mixed(q: Tensor, k: Tensor) -> Tensor:
    heads = []
    for head, curvature in enumerate(CURVATURES):
        x, y = q[..., head, :, :], k[..., head, :, :]
        chords = torch.sqrt(_gaps(x, y) / ((1 + curvature * _square(x)) * (1 + curvature * _square(y)).mT))
        root = abs(curvature) ** 0.5
        if curvature < 0:
            chords = torch.asinh(root * chords) / root
        elif curvature > 0:
            chords = torch.asin((root * chords).clamp(max=1)) / root
        heads.append(2 * chords)
    return torch.stack(heads, -3)


PLAIN: dict[str, Logits] = {
    "hyperbolic": lambda q, k: -_ball(q, k),
    "lorentz": lambda q, k: -_lorentz(q, k),
    "spherical": lambda q, k: -_sphere(q, k),
    "product": lambda q, k: -_product(q, k),
    "dual-space": lambda q, k: q[..., :32] @ k[..., :32].mT - _ball(q[..., 32:], k[..., 32:]),
    "mixed-curvature": lambda q, k: -_mixed(q, k),
}
"""By geometry."""


# --- as fast as they get ----------------------------------------------------------------------------------------------------------


def _minus_arcosh(beyond: Tensor) -> Tensor:
    """−arcosh(1 + z) = −log1p(z + √(z(z + 2))), which has no need of 1 + z; z is overwritten."""
    beyond.clamp_(min=0)
    root = (beyond + 2).mul_(beyond).sqrt_()
    return beyond.add_(root).log1p_().neg_()


def _fast_ball(q: Tensor, k: Tensor) -> Tensor:
    square_q, square_k = _square(q), _square(k)
    a, b = 2 / (1 - square_q), 1 / (1 - square_k)
    return _minus_arcosh(torch.cat([-2 * a * q, a * square_q, a], -1) @ torch.cat([b * k, b, b * square_k], -1).mT)


def _fast_lorentz(q: Tensor, k: Tensor) -> Tensor:
    one = torch.ones_like(q[..., :1])
    return _minus_arcosh(torch.cat([q[..., :1], -q[..., 1:], -one], -1) @ torch.cat([k, torch.ones_like(k[..., :1])], -1).mT)


def _fast_sphere(q: Tensor, k: Tensor) -> Tensor:
    cosine = q @ k.mT
    above = cosine + 1
    return cosine.neg_().add_(1).div_(above).clamp_(min=0).sqrt_().atan_().mul_(-2)  # the tangent of half the angle


TUNED: dict[str, Logits] = {"hyperbolic": _fast_ball, "lorentz": _fast_lorentz, "spherical": _fast_sphere}
"""By geometry, where somebody would take the trouble."""
