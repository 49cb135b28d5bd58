"""Errors of forecasts, bounds from a calibration share, and the floor that repeating a measurement sets."""

from typing import Any

import numpy as np

from .dataset import Floats, Groups, Ints

LEVELS = (0.95, 0.99)
MANY = 8  # repeats of a configuration from which the floor is told


def errors(measured: Floats, forecast: Floats) -> dict[str, Any]:
    """Relative to what was measured."""
    off = forecast / measured - 1.0
    size = np.abs(off)
    p95, p99 = np.quantile(size, (0.95, 0.99))
    return {
        "rows": len(off),
        "mape": float(size.mean()),
        "median": float(np.median(size)),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(size.max()),
        "bias": float(off.mean()),
    }


def conformal_factor(ratios: Floats, level: float) -> float:
    """The split-conformal factor: forecasts times this cover a new row with at least that probability."""
    rank = int(np.ceil((len(ratios) + 1) * level))
    return float(np.sort(ratios)[rank - 1]) if rank <= len(ratios) else float("inf")


def bounds(
    groups: Groups, calibration: Ints, forecast_calibration: Floats, test: Ints, forecast_test: Floats
) -> dict[str, Any]:
    """Coverage and mean relative width of upper bounds with one factor for all rows; the least covered pair beside."""
    ratios = groups.makespan_us[calibration] / forecast_calibration
    told: dict[str, Any] = {}
    for level in LEVELS:
        factor = conformal_factor(ratios, level)
        covered = groups.makespan_us[test] <= factor * forecast_test
        campaigns = groups.campaign[test]
        told[f"{level:.0%}"] = {
            "factor": factor,
            "coverage": float(covered.mean()),
            "least_covered_pair": min(float(covered[campaigns == c].mean()) for c in np.unique(campaigns)),
            "width": factor - 1.0,
        }
    return told


def repeat_floor(groups: Groups, rows: Ints) -> dict[str, float]:
    """Errors of the median of all *other* measurements of the same configuration, where there are many."""
    order = rows[np.argsort(groups.configuration[rows], kind="stable")]
    _, begins, counts = np.unique(groups.configuration[order], return_index=True, return_counts=True)
    measured: list[float] = []
    others: list[float] = []
    for begin, count in zip(begins, counts, strict=True):
        if count >= MANY:
            values = groups.makespan_us[order[begin : begin + count]]
            measured.extend(values)
            others.extend(float(np.median(np.delete(values, i))) for i in range(count))
    if not measured:
        return {}
    found = errors(np.array(measured), np.array(others))
    return {key: found[key] for key in ("rows", "mape", "median", "p95", "p99")}
