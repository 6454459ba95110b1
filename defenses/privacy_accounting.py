"""What differentially private training has spent, and the noise that a budget asks for; computed by Opacus."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any, Final

from robustsuite.core import RequestError, checks

ACCOUNTANTS: Final = ("rdp", "prv")
ORDERS: Final = (*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 64, 80, 96, 128, 192, 256, 512, 1024)
"""Orders of Rényi divergence over which epsilon is minimised: Opacus's own and greater ones for loud noise."""

_PRV_ERROR: Final = 0.01  # greatest error of the PRV accountant's epsilon, which is reported as an upper bound
_CONVERSIONS: Final = {
    "rdp": (
        "improved (Balle et al., arXiv:1905.09982, theorem 21): epsilon is the least over the orders a of "
        "rdp(a) + log((a - 1) / a) - (log(delta) + log(a)) / (a - 1)"
    ),
    "prv": "upper bound of the composed privacy loss (Gopi et al., arXiv:2106.02848)",
}
_MOST_NOISE: Final = 2.0**13
_MOST_POINTS: Final = 1e7  # some seconds and 1 GB; usual trainings take 1e5 to 3e6


def spent(history: list[tuple[float, float, int]], delta: float, accountant: str) -> float:
    """Epsilon after these steps of a Poisson-subsampled Gaussian mechanism under add/remove of one example.

    Args:
        history: (noise multiplier, sampling rate, steps) of each stretch.
        delta: In (0, 1).
        accountant: `rdp` or `prv`.

    Returns:
        Epsilon, at least 0; infinite without noise, 0 without steps.

    Raises:
        RequestError: What the accountant cannot compute: a delta that is lost in rounding, or so little noise over so
            many steps that the grid of `prv` would not fit into memory.
    """
    from opacus.accountants import create_accountant

    steps = sum(count for _, _, count in history)
    if steps == 0:
        return 0.0
    if min(sigma for sigma, _, _ in history) == 0:
        return math.inf
    account = create_accountant(mechanism=accountant)
    account.history = list(history)
    with warnings.catch_warnings():  # that the best order is the last one costs tightness, never validity
        warnings.simplefilter("ignore")
        try:
            if accountant == "prv" and _grid_points(history, delta) > _MOST_POINTS:
                raise MemoryError(f"a grid of more than {_MOST_POINTS:.0e} points")
            return max(0.0, float(account.get_epsilon(delta, **_precision(accountant))))
        except (ArithmeticError, ValueError, RuntimeError, MemoryError) as error:
            raise _not_computed(accountant, history, delta, error) from error


def _grid_points(history: list[tuple[float, float, int]], delta: float) -> float:
    """Points of the grid on which Opacus composes privacy losses (Gopi et al., section 5), before it makes it."""
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV, compute_safe_domain_size

    share, steps = delta / 1000, [count for _, _, count in history]
    reach = compute_safe_domain_size(
        prvs=[PoissonSubsampledGaussianPRV(rate, sigma) for sigma, rate, _ in history],
        max_self_compositions=steps,
        eps_error=_PRV_ERROR,
        delta_error=share,
    )
    return 2 * float(reach) / _PRV_ERROR * math.sqrt(sum(steps) * math.log(12 / share) / 2)


def _not_computed(
    accountant: str, history: list[tuple[float, float, int]], delta: float, error: Exception
) -> RequestError:
    expected = f"a budget that the accountant {accountant} can compute at delta={delta:g}"
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    remedy = f"{type(error).__name__}: {reason}: " + ("choose accountant: rdp, " if accountant == "prv" else "")
    return checks.fail(
        expected, "(noise_multiplier, sample_rate, steps)", history, f"{remedy}more noise or fewer steps"
    )


def refuse_unreachable(epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str) -> None:
    """Refuse a budget that `noise_for` could not meet, at the cost of one look.

    Raises:
        RequestError: The greatest noise multiplier spends more.
    """
    if spent([(_MOST_NOISE, sample_rate, steps)], delta, accountant) > epsilon:
        raise _unreachable(epsilon, delta)


def _unreachable(epsilon: float, delta: float) -> RequestError:
    return checks.fail(f"a budget that noise can meet at delta={delta:g}", "epsilon", epsilon, "raise it")


@cache  # games that train again ask for the same noise each time
def noise_for(epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str) -> float:
    """The least noise multiplier, within 0.1 %, that spends at most `epsilon` in `steps` steps.

    Raises:
        RequestError: No noise multiplier up to 8,192 is enough.
    """
    refuse_unreachable(epsilon, delta, sample_rate, steps, accountant)

    def enough(sigma: float) -> bool:
        try:
            return spent([(sigma, sample_rate, steps)], delta, accountant) <= epsilon
        except RequestError:  # too little noise to say how little privacy is left
            return False

    high = 1.0
    while not enough(high):
        high *= 2
        if high > _MOST_NOISE:
            raise _unreachable(epsilon, delta)
    while high > 1e-2 and enough(high / 2):
        high /= 2
    low = high / 2
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def described(accountant: str) -> dict[str, Any]:
    """How epsilon was computed, for the record: enough to compute it again."""
    rdp = accountant == "rdp"
    return {
        "mechanism": "Poisson-subsampled Gaussian",
        "accountant": accountant,
        "conversion": _CONVERSIONS[accountant],
        "orders": [float(order) for order in ORDERS] if rdp else [],
        "accountant_error": 0.0 if rdp else _PRV_ERROR,
    }


def _precision(accountant: str) -> dict[str, Any]:
    return {"alphas": list(ORDERS)} if accountant == "rdp" else {"eps_error": _PRV_ERROR}
