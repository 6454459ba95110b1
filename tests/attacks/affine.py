"""What the best attack on an affine model reaches, and models at the border of what it reaches."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import nn


def greatest_margin(weight, bias, x, y, target, ball):
    """The greatest margin (positive: broken) of logits `weight x + bias` in the ball around one sample `x (D,)`.

    Untargeted that is the greatest over wrong classes of a maximum with a closed form; for a target, a maximum of the
    least of its margins over all others.
    """
    logits = weight @ x + bias
    if target is None:
        gaps, slopes = np.delete(logits - logits[y], y), np.delete(weight - weight[y], y, axis=0)
        return max(gap + rise(slope, x, ball) for gap, slope in zip(gaps, slopes, strict=True))
    gaps = np.delete(logits[target] - logits, target)
    slopes = np.delete(weight[target] - weight, target, axis=0)
    return least_of_several(gaps, slopes, x, ball)


def rise(slope, x, ball):
    """The most by which `slope . x` grows within the ball and its bounds."""
    size, room = np.abs(slope), _room(slope, x, ball)
    if ball.norm == "linf":
        return float(size @ np.minimum(room, ball.radius))
    if ball.norm == "l1":  # a knapsack: the steepest coordinates first, each as far as it goes
        order = np.argsort(-size)
        spent = np.minimum(np.cumsum(np.minimum(room[order], ball.radius)), ball.radius)
        return float(size[order] @ np.diff(spent, prepend=0.0))
    if np.linalg.norm(np.minimum(room, 1e9)[size > 0]) <= ball.radius:
        return float(size @ np.where(size > 0, room, 0))
    low, high = 0.0, 1.0
    while np.linalg.norm(np.minimum(high * size, room)) < ball.radius:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        short = np.linalg.norm(np.minimum(middle * size, room)) < ball.radius
        low, high = (middle, high) if short else (low, middle)
    return float(size @ np.minimum(low * size, room))


def _room(slope, x, ball):
    if ball.bounds is None:
        return np.full_like(x, np.inf)
    return np.where(slope > 0, ball.bounds[1] - x, x - ball.bounds[0])


def least_of_several(gaps, slopes, x, ball):
    """The greatest that the least of `gaps + slopes d` becomes for a change `d` within the ball and its bounds."""
    count, width = slopes.shape
    low, high = (-np.inf, np.inf) if ball.bounds is None else (ball.bounds[0] - x, ball.bounds[1] - x)
    if ball.norm == "l2":
        return _by_sequential_programmes(gaps, slopes, np.broadcast_to(low, width), np.broadcast_to(high, width), ball)
    up, down = np.minimum(high, ball.radius), np.minimum(-low, ball.radius)  # of d = rise - fall
    sides = [(0, limit) for limit in (*np.broadcast_to(up, width), *np.broadcast_to(down, width))]
    matrix = np.hstack([-slopes, slopes, np.ones((count, 1))])
    limits = gaps
    if ball.norm == "l1":
        matrix, limits = np.vstack([matrix, [*np.ones(2 * width), 0]]), np.append(gaps, ball.radius)
    found = linprog([*np.zeros(2 * width), -1], matrix, limits, bounds=[*sides, (None, None)], method="highs")
    assert found.status == 0
    return -found.fun


def _by_sequential_programmes(gaps, slopes, low, high, ball):
    width = slopes.shape[1]
    scale = ball.radius  # in units of which the change is sought
    inside = {"type": "ineq", "fun": lambda v: 1 - v[:-1] @ v[:-1], "jac": lambda v: np.append(-2 * v[:-1], 0)}
    above = np.hstack([scale * slopes, -np.ones((len(gaps), 1))])
    over = {"type": "ineq", "fun": lambda v: gaps + above @ v, "jac": lambda _: above}
    found = minimize(
        lambda v: -v[-1],
        np.append(np.zeros(width), gaps.min()),
        jac=lambda _: np.append(np.zeros(width), -1.0),
        bounds=[*zip(low / scale, high / scale, strict=True), (None, None)],
        constraints=[inside, over],
        options={"ftol": 1e-13, "maxiter": 500},
    )
    d = np.clip(scale * found.x[:-1], low, high)
    d *= min(1.0, scale / max(np.linalg.norm(d), 1e-300))
    return float((gaps + slopes @ d).min())


class Many(nn.Module):
    """An affine model for each sample, told by the binary number that its first coordinates spell.

    No weight is on these, and no ball of a radius below a half changes what they spell.
    """

    def __init__(self, weight, bias):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        self.bits = (len(bias) - 1).bit_length()

    def forward(self, x):
        number = ((x[:, : self.bits].detach() > 0.5) * 2 ** torch.arange(self.bits)).sum(1)
        return torch.einsum("nkd,nd->nk", self.weight[number], x[:, self.bits :]) + self.bias[number]


def at_the_border(n, classes, width, ball, *, targeted, seed):
    """Samples that can be broken, by a margin of 1e-6 to .1 of the clean one: model, inputs, labels, targets."""
    random = np.random.default_rng(seed)
    weight, bias = random.normal(size=(n, classes, width)), random.normal(size=(n, classes))
    weight *= np.exp(random.normal(size=(n, 1, width)))  # so that some coordinates matter far more than others
    x = np.where(random.random((n, width)) < 0.3, random.integers(0, 2, (n, width)), random.random((n, width)))
    bias -= np.einsum("nkd,nd->nk", weight, x)
    raised = [1] if targeted else list(range(1, classes))
    for i in range(n):
        # Raising all wrong logits, or the target's, raises every margin alike.
        logits, share = weight[i] @ x[i] + bias[i], 10 ** random.uniform(-6, -1)
        clean = logits[1] - np.delete(logits, 1).max() if targeted else logits[1:].max() - logits[0]
        best = greatest_margin(weight[i], bias[i], x[i], 0, 1 if targeted else None, ball)
        bias[i, raised] += share * (best - clean) / (1 + share) - best
    logits = torch.einsum("nkd,nd->nk", torch.tensor(weight), torch.tensor(x)) + torch.tensor(bias)
    number = (torch.arange(n)[:, None] >> torch.arange((n - 1).bit_length())) % 2
    target = torch.ones(n, dtype=torch.int64) if targeted else None
    return (
        Many(torch.tensor(weight), torch.tensor(bias)),
        torch.cat([number, torch.tensor(x)], dim=1),
        logits.argmax(1),
        target,
    )
