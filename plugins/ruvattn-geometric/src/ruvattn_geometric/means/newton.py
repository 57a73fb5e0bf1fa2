"""Newton's method for many rows of weights at once, whose equations conjugate gradients solve."""

from __future__ import annotations

from typing import Any

import numpy as np

from .models import Model, Pairs


def solved(model: Model, x: np.ndarray, pairs: Pairs, weights: np.ndarray, right: np.ndarray, tolerance: Any, max_iterations: int) -> np.ndarray:
    """Solve H p = right for every row, by conjugate gradients; as far as one comes where H is not positive."""
    solution, residual = np.zeros_like(right), right.copy()
    direction = right.copy()
    square = np.vecdot(residual, residual)
    least = np.square(tolerance) * square
    running = square > 0
    for iteration in range(max_iterations):
        product = model.hessian(x, pairs, weights, direction)
        curvature = np.vecdot(direction, product)
        positive = running & (curvature > 0)
        if iteration == 0:  # downhill in any case
            solution[running & ~positive] = right[running & ~positive]
        running = positive
        step = np.where(running, square / np.where(running, curvature, 1.0), 0.0)[:, None]
        solution += step * direction
        residual -= step * product
        before, square = square, np.vecdot(residual, residual)
        running &= square > least
        if not running.any():
            break
        direction = residual + np.where(running, square / np.where(running, before, 1.0), 0.0)[:, None] * direction
    return solution


def minimised(
    model: Model, weights: np.ndarray, tolerance: np.ndarray, absolute: bool, max_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimise Σ w d²/2 for every row of weights, which add up to 1: Newton's steps, and safe ones where those lead uphill."""
    x = model.start(weights)
    found, residuals, iterations = x.copy(), np.zeros(len(x)), np.zeros(len(x), np.int64)
    rows = np.flatnonzero(model.vectors(x).any(-1)) if model.sign > 0 else np.arange(len(x))
    if not len(rows):
        return found, residuals, iterations
    model, weights, x, tolerance = model.take(rows), weights[rows], x[rows], tolerance[rows]
    before = np.full(len(rows), np.inf)
    pairs = model.pairs(x)
    for iteration in range(max_iterations + 1):
        gradient = model.gathered(x, pairs, weights)
        residual = np.sqrt(np.vecdot(gradient, gradient))
        energy = np.vecdot(weights, pairs.square)
        noise = model.rounding(x, pairs, weights)
        # Near what rounding leaves, a step that brings little is the last one.
        done = residual <= np.maximum(tolerance if absolute else tolerance * np.sqrt(energy), noise)
        done |= (residual <= 16 * noise) & (residual > before / 2)
        if iteration == max_iterations:
            done[:] = True
        if done.any():
            found[rows[done]], residuals[rows[done]], iterations[rows[done]] = x[done], residual[done], iteration
            kept = np.flatnonzero(~done)
            if not len(kept):
                break
            model, rows, weights, x, tolerance = model.take(kept), rows[kept], weights[kept], x[kept], tolerance[kept]
            gradient, residual, energy = gradient[kept], residual[kept], energy[kept]
            pairs = Pairs(pairs.chord[kept], pairs.ratio[kept], pairs.bend[kept], pairs.square[kept])
        before = residual
        # As exact as makes convergence quadratic.
        step = solved(model, x, pairs, weights, gradient, np.minimum(0.1, residual / np.sqrt(np.maximum(energy, 1e-300))), 50)
        trial = model.moved(x, step)
        there = model.pairs(trial)
        uphill = ~(np.vecdot(weights, there.square) <= energy + 8 * np.finfo(x.dtype).eps * (energy + np.sqrt(energy)))
        if uphill.any():
            trial[uphill] = model.moved(x[uphill], model.safe_step(gradient, weights, pairs)[uphill])
            there = model.pairs(trial)
        x, pairs = trial, there
    return found, residuals, iterations
