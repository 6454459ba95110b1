"""What differentially private training has spent, and the noise that a budget asks for; computed by Opacus."""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import Any, Final

from robustsuite import checks
from robustsuite.errors import RequestError

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


def spent(history: list[tuple[float, float, int]], delta: float, accountant: str) -> float:
    """Epsilon after these steps of a Poisson-subsampled Gaussian mechanism under add/remove of one example.

    Args:
        history: (noise multiplier, sampling rate, steps) of each stretch.
        delta: In (0, 1).
        accountant: `rdp` or `prv`.

    Returns:
        Epsilon, at least 0; infinite without noise, 0 without steps.
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
        return max(0.0, float(account.get_epsilon(delta, **_precision(accountant))))


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

    def enough(sigma: float) -> bool:
        return spent([(sigma, sample_rate, steps)], delta, accountant) <= epsilon

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
