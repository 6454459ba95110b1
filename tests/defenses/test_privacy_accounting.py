"""Epsilon against references that share no code with Opacus."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from robustsuite.core.errors import RequestError
from robustsuite.defenses.privacy_accounting import ACCOUNTANTS, ORDERS, noise_for, spent

# (N, B, sigma, epochs) -> epsilon at delta 1e-5 by the old and the improved conversion over integer orders 2 to 64.
PUBLISHED = [
    ((60_000, 240, 1.3, 15), 1.160, 0.922),
    ((60_000, 240, 1.1, 60), 2.905, 2.506),
    ((60_000, 240, 0.7, 45), 6.863, 6.113),
    ((60_000, 256, 1.1, 60), 3.009, 2.597),
]


def integer_rdp(q, sigma, order):
    """Mironov et al., arXiv:1908.10530, equation for integer orders, one step."""
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-q)
        + k * math.log(q)
        + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    most = max(terms)
    return (most + math.log(sum(math.exp(t - most) for t in terms))) / (order - 1)


def integrated_rdp(q, sigma, order):
    """The same divergence for any real order, from its definition by quadrature."""
    z = np.linspace(-30 * sigma, order + 30 * sigma, 40_001)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
    exponent = order * log_ratio + norm.logpdf(z, scale=sigma)
    most = exponent.max()
    return (most + math.log(np.trapezoid(np.exp(exponent - most), z))) / (order - 1)


def improved(rdp, order, delta):
    return rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def reference_epsilon(q, sigma, steps, delta):
    return min(improved(steps * integrated_rdp(q, sigma, a), a, delta) for a in ORDERS if a <= 64)


def composed_delta(epsilon, q, sigma, steps, width=1e-3, reach=40.0):
    """delta(epsilon) of the composition when one example is removed: its privacy loss, rounded up, convolved."""
    edges = np.arange(-reach, reach, width)
    # Loss of x is log((1 - q) + q exp((2x - 1) / 2 sigma^2)); invert it to get the mass between the edges.
    inner = np.expm1(edges) / q + 1
    x = np.where(inner > 0, sigma**2 * np.log(np.maximum(inner, 1e-300)) + 0.5, -np.inf)
    below = (1 - q) * norm.cdf(x, scale=sigma) + q * norm.cdf(x, loc=1, scale=sigma)
    mass = np.diff(below, prepend=0.0)
    start = len(edges) // 2
    spectrum = np.fft.rfft(np.roll(mass, -start))
    total = np.roll(np.fft.irfft(spectrum**steps, len(edges)), start)
    return float((np.maximum(total, 0) * np.maximum(0, -np.expm1(epsilon - edges))).sum())


@pytest.mark.parametrize(("setting", "old", "new"), PUBLISHED)
def test_references_give_the_published_figures(setting, old, new):
    n, b, sigma, epochs = setting
    q, steps, delta = b / n, int(n / b * epochs), 1e-5
    rdp = {order: steps * integer_rdp(q, sigma, order) for order in range(2, 65)}
    assert min(r - math.log(delta) / (a - 1) for a, r in rdp.items()) == pytest.approx(old, abs=1e-3)
    assert min(improved(r, a, delta) for a, r in rdp.items()) == pytest.approx(new, abs=1e-3)
    for order in (2, 9, 33):
        assert integrated_rdp(q, sigma, order) == pytest.approx(integer_rdp(q, sigma, order), rel=1e-6)


@pytest.mark.parametrize("setting", [s for s, _, _ in PUBLISHED] + [(1000, 100, 0.9, 4), (1297, 64, 2.5, 30)])
def test_rdp_epsilon_is_the_references(setting):
    n, b, sigma, epochs = setting
    q, steps = b / n, round(n / b) * epochs
    assert spent([(sigma, q, steps)], 1e-5, "rdp") == pytest.approx(reference_epsilon(q, sigma, steps, 1e-5), abs=1e-3)


def test_opacus_orders_improve_on_integer_ones():
    assert spent([(1.1, 0.004, 15_000)], 1e-5, "rdp") == pytest.approx(2.503, abs=1e-3)
    assert spent([(0.7, 0.004, 11_250)], 1e-5, "rdp") == pytest.approx(6.093, abs=1e-3)


@pytest.mark.parametrize(("sigma", "q", "steps"), [(1.0, 0.05, 40), (2.0, 0.1, 200), (0.8, 0.01, 500)])
def test_prv_epsilon_is_a_tight_upper_bound(sigma, q, steps):
    epsilon = spent([(sigma, q, steps)], 1e-5, "prv")
    # The reference rounds losses up by at most 1e-3 a step, so its delta at a shifted epsilon bounds from both sides.
    assert composed_delta(epsilon, q, sigma, steps, width=2e-5, reach=30.0) <= 1.02e-5
    assert composed_delta(epsilon - 0.03, q, sigma, steps, width=2e-5, reach=30.0) > 1e-5
    assert epsilon < spent([(sigma, q, steps)], 1e-5, "rdp")


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_without_subsampling_it_bounds_the_gaussian_mechanism(accountant):
    """T steps at q = 1 are one Gaussian mechanism with mu = sqrt(T) / sigma, whose delta is known in closed form."""
    sigma, steps = 4.0, 9
    mu = math.sqrt(steps) / sigma
    epsilon = spent([(sigma, 1.0, steps)], 1e-5, accountant)

    def delta(e):
        return norm.cdf(-e / mu + mu / 2) - math.exp(e) * norm.cdf(-e / mu - mu / 2)

    assert delta(epsilon) <= 1e-5
    assert delta(epsilon - {"rdp": 0.3, "prv": 0.03}[accountant]) > 1e-5


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_noise_meets_the_budget_and_hardly_more(epsilon, accountant):
    q, steps = 64 / 1300, 200
    sigma = noise_for(epsilon, 1e-5, q, steps, accountant)
    assert spent([(sigma, q, steps)], 1e-5, accountant) <= epsilon
    assert spent([(sigma * 0.99, q, steps)], 1e-5, accountant) > epsilon


def test_extremes():
    assert spent([], 1e-5, "rdp") == 0.0
    assert spent([(0.0, 0.1, 5)], 1e-5, "rdp") == math.inf
    assert 0 < spent([(1000.0, 0.05, 200)], 1e-5, "rdp") < 0.01
    with pytest.raises(RequestError, match="epsilon=1e-07"):
        noise_for(1e-7, 1e-9, 0.01, 1000, "rdp")
