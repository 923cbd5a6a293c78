"""Draw recorded dimuons over simulated ones, fit the Z peak in the data, write picture and numbers.

    plot.py --data data.root --mc merged.root --png z_peak.png --json z_peak.json

Selection, the same for both: each muon with pt > 20 GeV and |eta| < 2.4, and 60 < m < 120 GeV. The
simulation is scaled to the number of recorded events: only shapes are compared.

The uncertainty of the mass is statistical; none is estimated for the momentum scale or the shape
of the line. The same fit of the simulation is reported beside it. What it misses of the 91.188 GeV
that were generated is what photon radiation does to the peak, and is not corrected for.

A fit (see peak.py) that does not converge, or finds no significant peak, is an error: nothing is
written.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from dimuons import Array, chunks
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import AutoMinorLocator
from peak import CENTRES, EDGES, HIGH, LOW, Z_MASS, Z_WIDTH, Fit, FitError, fit_peak, goodness
from scipy.special import gammaincinv

PT_MIN, ETA_MAX = 20.0, 2.4  # GeV, 1
GROUP = 6  # bins of the fit in one of the picture
BINS = EDGES[::GROUP]  # 1.5 GeV
MIDDLES = (BINS[:-1] + BINS[1:]) / 2
RATIO_TOP = 3.0
SIMULATED = "Pythia 8, 13.6 TeV,\n$Z/\\gamma^{*}\\to\\mu^{+}\\mu^{-}$, smeared,\nscaled to the data"

BLUE, RED, GREY = "#a9cce3", "#c0392b", "#7f8c8d"
POINTS: dict[str, Any] = {"fmt": "o", "color": "black", "markersize": 5, "zorder": 3}
STYLE: Any = {
    "font.family": "STIXGeneral",  # comes with matplotlib, so that it looks the same everywhere
    "mathtext.fontset": "stix",
    "font.size": 15,
    "axes.labelsize": 18,
    "axes.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 14,
    **{f"{axis}tick.direction": "in" for axis in "xy"},
    **{f"{axis}tick.major.size": 8 for axis in "xy"},
    **{f"{axis}tick.minor.size": 4 for axis in "xy"},
    "xtick.top": True,
    "ytick.right": True,
}


@dataclass(frozen=True)
class Spectrum:
    """Selected events in the bins of the fit."""

    n_events: int
    content: Array  # sum of weights
    variance: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="ntuple of recorded events")
    parser.add_argument("--mc", type=Path, required=True, help="ntuple of simulated events")
    parser.add_argument("--png", type=Path, required=True, help="picture to write")
    parser.add_argument("--json", type=Path, required=True, help="numbers to write")
    args = parser.parse_args()

    data, mc = spectrum(args.data), spectrum(args.mc)
    fit = fit_or_exit(data, args.data)
    mc_fit = fit_or_exit(mc, args.mc)
    result = numbers(data, mc, fit, mc_fit)
    draw(args.png, data, mc, fit, result)
    args.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def spectrum(path: Path) -> Spectrum:
    n_events, content, variance = 0, np.zeros(len(EDGES) - 1), np.zeros(len(EDGES) - 1)
    for events in chunks(path, "events", ["mass", "pt1", "pt2", "eta1", "eta2", "weight"]):
        keep = (events["mass"] > LOW) & (events["mass"] < HIGH)
        for muon in "12":
            keep &= (events[f"pt{muon}"] > PT_MIN) & (np.abs(events[f"eta{muon}"]) < ETA_MAX)
        mass, weight = events["mass"][keep], events["weight"][keep]
        n_events += len(mass)
        content += np.histogram(mass, EDGES, weights=weight)[0]
        variance += np.histogram(mass, EDGES, weights=weight**2)[0]
    return Spectrum(n_events, content, variance)


def fit_or_exit(selected: Spectrum, path: Path) -> Fit:
    try:
        return fit_peak(selected.content)
    except FitError as error:
        raise SystemExit(f"error: the Z peak in {path} cannot be fitted: {error}") from None


def numbers(data: Spectrum, mc: Spectrum, fit: Fit, mc_fit: Fit) -> dict[str, Any]:
    chi2, ndf = goodness(data.content, fit)
    return {
        "mass_gev": round(fit.mass.value, 3),
        "mass_uncertainty_gev": round(fit.mass.uncertainty, 3),
        "mass_in_mc_gev": round(mc_fit.mass.value, 3),
        "mass_in_mc_uncertainty_gev": round(mc_fit.mass.uncertainty, 3),
        "mass_pdg_gev": Z_MASS,
        "width_gev": Z_WIDTH,
        "width_is_fixed": True,
        "resolution_gev": round(fit.resolution.value, 3),
        "resolution_uncertainty_gev": round(fit.resolution.uncertainty, 3),
        "n_signal": round(fit.n_signal.value, 1),
        "n_signal_uncertainty": round(fit.n_signal.uncertainty, 1),
        "n_background": round(fit.n_background.value, 1),
        "chi2": round(chi2, 2),
        "ndf": ndf,
        "chi2_ndf": round(chi2 / ndf, 3),
        "fit_range_gev": [LOW, HIGH],
        "n_data": data.n_events,
        "n_mc": mc.n_events,
    }


def draw(path: Path, data: Spectrum, mc: Spectrum, fit: Fit, result: dict[str, Any]) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 8), dpi=150)
        figure.subplots_adjust(left=0.12, right=0.965, bottom=0.095, top=0.945, hspace=0.05)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        draw_spectra(top, data, mc, fit)
        describe(top, result)
        draw_ratio(bottom, data, mc)
        for axes in (top, bottom):
            axes.xaxis.set_minor_locator(AutoMinorLocator())
            axes.yaxis.set_minor_locator(AutoMinorLocator())
        figure.align_ylabels()
        figure.savefig(path)


def draw_spectra(axes: Axes, data: Spectrum, mc: Spectrum, fit: Fit) -> None:
    counts, expected = grouped(data.content), grouped(mc.content) * scale(data, mc)
    points = axes.errorbar(MIDDLES, counts, poisson_errors(counts), **POINTS)
    simulated = axes.stairs(expected, BINS, fill=True, color=BLUE)
    (total,) = axes.plot(CENTRES, GROUP * (fit.signal + fit.background), color=RED, lw=2)
    (background,) = axes.plot(CENTRES, GROUP * fit.background, color=RED, lw=1.5, ls="--")
    legend: dict[str, Any] = {
        f"Data, {data.n_events:,} events": points,
        SIMULATED: simulated,
        "Fit: Voigt + exponential": total,
        "its exponential": background,
    }
    axes.legend(legend.values(), legend.keys(), loc="upper left", bbox_to_anchor=(0, 0.985))
    axes.set_xlim(LOW, HIGH)
    axes.set_ylim(1e-3, 1.2 * max(counts.max(), expected.max()))
    axes.set_ylabel(f"Events / {BINS[1] - BINS[0]:g} GeV")


def describe(axes: Axes, result: dict[str, Any]) -> None:
    """What the fit found, inside; where the data come from, above."""
    sigma = result["resolution_gev"]
    lines = (
        rf"$m_Z = {result['mass_gev']:.2f} \pm {result['mass_uncertainty_gev']:.2f}$ GeV",
        rf"$\sigma = {sigma:.2f} \pm {result['resolution_uncertainty_gev']:.2f}$ GeV",
        rf"$\Gamma = {result['width_gev']:.4f}$ GeV (fixed)",
        rf"$\chi^2/\mathrm{{ndf}} = {result['chi2']:.1f}\,/\,{result['ndf']}$",
        "(uncertainties: statistical)",
    )
    where: dict[str, Any] = {"transform": axes.transAxes}
    axes.text(0.97, 0.96, "\n".join(lines), ha="right", va="top", linespacing=1.35, **where)
    axes.text(0, 1.015, "CMS Open Data", weight="bold", size=19, **where)
    axes.text(0.3, 1.015, "not a CMS result", style="italic", **where)
    axes.text(1, 1.015, r"$pp$, $\sqrt{s}$ = 7 TeV (2010)", ha="right", **where)


def draw_ratio(axes: Axes, data: Spectrum, mc: Spectrum) -> None:
    """Data over simulation; the band is the statistical uncertainty of the simulation."""
    counts, simulated = grouped(data.content), np.maximum(grouped(mc.content), 1e-9)
    band = np.sqrt(grouped(mc.variance)) / simulated
    axes.stairs(1 + band, BINS, baseline=1 - band, fill=True, color=BLUE)
    axes.axhline(1, color=GREY, lw=1)
    expected = simulated * scale(data, mc)
    ratio, errors = counts / expected, poisson_errors(counts) / expected
    shown = (counts > 0) & (ratio < RATIO_TOP)
    axes.errorbar(MIDDLES[shown], ratio[shown], errors[:, shown], **POINTS)
    above = ratio >= RATIO_TOP
    axes.plot(MIDDLES[above], np.full(above.sum(), 0.93 * RATIO_TOP), "^", color="black", ms=7)
    axes.set_ylim(0, RATIO_TOP)
    axes.set_yticks([1, 2])
    axes.set_ylabel("Data / MC")
    axes.set_xlabel(r"$m_{\mu\mu}$ [GeV]")


def scale(data: Spectrum, mc: Spectrum) -> float:
    return float(data.content.sum() / mc.content.sum())


def grouped(content: Array) -> Array:
    return np.add.reduceat(content, range(0, len(content), GROUP))


def poisson_errors(counts: Array) -> Array:
    """Down and up: the central 68.3 % interval of F. Garwood, Biometrika 28 (1936) 437."""
    tail = 0.1587
    low = np.where(counts > 0, gammaincinv(np.maximum(counts, 1), tail), 0)
    return np.stack([counts - low, gammaincinv(counts + 1, 1 - tail) - counts])


if __name__ == "__main__":
    main()
