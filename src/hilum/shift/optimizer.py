"""L-BFGS on many smooth convex problems at once, one column each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from hilum.shift.samples import Floats

Objective = Callable[[Floats], tuple[Floats, Floats]]


def minimize(
    objective: Objective, start: Floats, *, tolerance: float = 1e-5, iterations: int = 500, memory: int = 10
) -> tuple[Floats, int]:
    """Return the minimizers (d, P) of P problems, from ``start`` (d, P), and how often the objective was asked.

    ``objective`` maps points (d, P) to values (P,) and gradients (d, P). A column rests once no entry of its
    gradient exceeds ``tolerance``. Limited-memory BFGS (Liu and Nocedal 1989) with halving until the decrease is
    sufficient (Armijo); columns share nothing but the calls.
    """
    w = start
    value, gradient = objective(w)
    calls = 1
    past: deque[tuple[Floats, Floats, Floats]] = deque(maxlen=memory)
    for _ in range(iterations):
        active = np.abs(gradient).max(axis=0) > tolerance
        if not active.any():
            break
        direction = np.where(active, -_two_loop(gradient, past), 0)
        slope = np.einsum("dp,dp->p", gradient, direction)
        step = np.ones(w.shape[1]) if past else 1 / np.maximum(1, np.abs(gradient).sum(axis=0))
        for _ in range(30):
            new_value, new_gradient = objective(w + step * direction)
            calls += 1
            good = new_value <= value + 1e-4 * step * slope + 1e-14
            if good.all():
                break
            step = np.where(good, step, step / 2)
        step = np.where(good, step, 0)
        move = step * direction
        change = np.where(good, new_gradient - gradient, 0)
        curvature = np.einsum("dp,dp->p", move, change)
        past.append((move, change, np.divide(1, curvature, out=np.zeros_like(curvature), where=curvature > 1e-16)))
        w = w + move
        value, gradient = np.where(good, new_value, value), gradient + change
    return w, calls


def _two_loop(gradient: Floats, past: deque[tuple[Floats, Floats, Floats]]) -> Floats:
    """Return the inverse Hessian, as the past steps tell it, times the gradient."""
    q = gradient.copy()
    shares = []
    for move, change, inverse in reversed(past):
        share = inverse * np.einsum("dp,dp->p", move, q)
        q -= share * change
        shares.append(share)
    scale = np.ones(gradient.shape[1])
    for _, change, inverse in past:
        lengths = np.einsum("dp,dp->p", change, change)
        scale = np.where(inverse > 0, 1 / np.maximum(inverse * lengths, 1e-300), scale)
    q *= scale
    for (move, change, inverse), share in zip(past, reversed(shares), strict=True):
        q += move * (share - inverse * np.einsum("dp,dp->p", change, q))
    return q
