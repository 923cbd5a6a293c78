"""The fit of the Z peak in a histogram of dimuon masses.

A binned Poisson likelihood. Signal: a Breit–Wigner whose width is the Z's as the Particle Data
Group gives it, folded with a Gaussian resolution: a Voigt profile. Background, with the continuum
and the tail of muons that radiated a photon in it: an exponential. Free are the mass, the
resolution, the two yields and the slope. Uncertainties are statistical, from the Fisher
information.
"""

from dataclasses import dataclass

import numpy as np
from dimuons import Array
from scipy.optimize import least_squares
from scipy.special import voigt_profile, xlogy

# GeV; S. Navas et al. (Particle Data Group), Review of Particle Physics, PRD 110 (2024) 030001.
Z_MASS = 91.1880
Z_WIDTH = 2.4955

LOW, HIGH = 60.0, 120.0  # GeV
EDGES = np.linspace(LOW, HIGH, 241)  # 0.25 GeV: narrow beside width and resolution
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2

FEW_EVENTS = 50  # below this nobody should believe the fit
SIGNIFICANT = 5.0  # σ, of the signal's yield


class FitError(Exception):
    """The fit gives no result that one may quote."""


@dataclass(frozen=True)
class Parameter:
    name: str
    unit: str
    value: float
    uncertainty: float
    low: float
    high: float

    @property
    def is_determined(self) -> bool:
        """Known, and not held by one of its bounds."""
        room = min(self.value - self.low, self.high - self.value)
        return bool(np.isfinite(self.uncertainty)) and room > 1e-3 * (self.high - self.low)

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.4g} ± {self.uncertainty:.2g} {self.unit}"


@dataclass(frozen=True)
class Fit:
    """The result; `n_signal` and `n_background` are events between LOW and HIGH."""

    signal: Array  # expected events in each bin
    background: Array
    n_signal: Parameter
    mass: Parameter
    resolution: Parameter
    n_background: Parameter
    slope: Parameter


def fit_peak(observed: Array) -> Fit:
    """Fit the counts in the bins between EDGES."""
    total = observed.sum()
    if total < FEW_EVENTS:
        raise FitError(f"{total:.0f} events between {LOW:g} and {HIGH:g} GeV are too few to fit")
    median = EDGES[np.searchsorted(observed.cumsum(), total / 2)]
    #              n_signal    mass    resolution  n_background  slope
    low = np.array([0, LOW, 0.05, 0, -0.5])
    start = np.array([0.9 * total, median, 2.0, 0.1 * total, -0.03])
    high = np.array([2 * total, HIGH, 15.0, 2 * total, 0.5])
    found = least_squares(
        lambda values: deviance(observed, expected(values)),
        start,
        bounds=(low, high),
        x_scale=(total, 1, 1, total, 0.05),
    )
    if not found.success:
        raise FitError(f"no convergence: {found.message}")

    names = ("n_signal", "mass", "resolution", "n_background", "slope")
    units = ("events", "GeV", "GeV", "events", "1/GeV")
    with np.errstate(divide="ignore", invalid="ignore"):  # not finite is judged below
        uncertainties = np.sqrt(np.diag(covariance(found.x)))
    numbers = [values.tolist() for values in (found.x, uncertainties, low, high)]
    fit = Fit(*model(found.x), *map(Parameter, names, units, *numbers))
    for parameter in (fit.n_signal, fit.mass, fit.resolution):
        if not parameter.is_determined:
            raise FitError(f"no convergence: {parameter}")
    if fit.n_signal.value < SIGNIFICANT * fit.n_signal.uncertainty:
        raise FitError(f"no significant peak: {fit.n_signal} of {total:.0f}")
    return fit


def model(values: Array) -> tuple[Array, Array]:
    """Expected events of signal and background in each bin."""
    n_signal, mass, resolution, n_background, slope = values
    peak: Array = voigt_profile(CENTRES - mass, resolution, Z_WIDTH / 2)
    tail: Array = np.exp(slope * (CENTRES - Z_MASS))
    return n_signal * peak / peak.sum(), n_background * tail / tail.sum()


def expected(values: Array) -> Array:
    mu: Array = np.maximum(np.add(*model(values)), 1e-9)
    return mu


def deviance(n: Array, mu: Array) -> Array:
    """Signed roots of the terms of -2 ln λ; S. Baker and R. D. Cousins, NIM 221 (1984) 437."""
    terms: Array = 2 * (mu - n + xlogy(n, n / mu))
    roots: Array = np.copysign(np.sqrt(terms.clip(min=0)), n - mu)
    return roots


def covariance(values: Array) -> Array:
    """Inverse of the Fisher information of Poisson counts; the model's slopes by differences."""
    steps = np.diag(1e-4 * np.maximum(np.abs(values), 1e-2))
    slopes = [(expected(values + h) - expected(values - h)) / (2 * h.sum()) for h in steps]
    information = np.array(slopes) / expected(values) @ np.transpose(slopes)
    unit = np.sqrt(np.diag(information))  # yields and slope differ by 10⁵: invert without units
    unit = np.outer(unit, unit)
    try:
        inverse: Array = np.linalg.inv(information / unit) / unit
    except np.linalg.LinAlgError:
        raise FitError("no convergence: the parameters cannot be told apart") from None
    return inverse


def goodness(observed: Array, fit: Fit) -> tuple[float, int]:
    """Pearson's χ² and its degrees of freedom, over groups of bins that expect about 5 events."""
    mu = fit.signal + fit.background
    starts = np.flatnonzero(np.diff(mu.cumsum() // 5, prepend=-1))
    n, mu = np.add.reduceat(observed, starts), np.add.reduceat(mu, starts)
    return float(((n - mu) ** 2 / mu).sum()), len(starts) - 5
