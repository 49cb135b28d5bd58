"""What an evaluation found: one document, which is what `--json` writes and the table and plots are made of."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from cotenant.cli import evaluate_changes, evaluate_metrics
from cotenant.cli.evaluate_changes import Recovery, Windows
from cotenant.cli.evaluate_log import Ran
from cotenant.cli.evaluate_metrics import Bound, Errors, Floats, Mask
from cotenant.cli.evaluate_run import Judged


class Scores(msgspec.Struct, frozen=True):
    """One predictor over some batches; None where it said nothing."""

    launch: Errors | None
    explained: Errors | None
    bounds: list[Bound]  # of the forecasts at launch


class Cost(msgspec.Struct, frozen=True):
    """CPU time of a step, and its ratio to the reference of `evaluate_cost`."""

    update_ns: float
    predict_ns: float
    update_ratio: float
    predict_ratio: float


class Series(msgspec.Struct, frozen=True):
    """For plots: percentiles 0 to 100 of relative errors; rolling medians and coverage as (batch, value)."""

    launch_percentiles: list[float]
    explained_percentiles: list[float]
    launch_signed_percentiles: list[float]  # of (predicted - measured) / measured
    explained_signed_percentiles: list[float]
    launch: list[tuple[int, float]]
    explained: list[tuple[int, float]]
    coverage: list[list[tuple[int, float]]]  # by level


class PredictorResult(msgspec.Struct, frozen=True):
    """One predictor."""

    name: str
    all: Scores
    alone: Scores  # batches that never met anyone
    beside: Scores  # batches that did
    classes: dict[str, Scores]
    windows: list[Windows]
    class_windows: dict[str, list[Windows]]
    launch_recovery: list[Recovery]
    explained_recovery: list[Recovery]
    cost: Cost | None
    series: Series
    remarks: list[str]


class EvaluationResult(msgspec.Struct, frozen=True):
    """Everything."""

    software: str
    machine: dict[str, str]
    logs: list[str]
    trained_on: list[str]
    protocol: str
    frozen: bool
    solo_percentile: float
    levels: list[float]
    batches: int
    not_used: dict[str, int]  # events that make no sense, by reason
    reference_update_ns: float
    repeat_noise: dict[str, Errors | None]  # all, alone, beside
    changes: dict[int, str]
    predictors: list[PredictorResult]


@dataclass(slots=True)
class Scored:
    """The batches that count, and what all predictors are judged by."""

    batches: list[Ran]
    levels: tuple[float, ...]
    changed: Mapping[int, str]
    actual: Floats = field(init=False)
    work: Floats = field(init=False)
    alone: Mask = field(init=False)
    repeats: Floats = field(init=False)  # what the best knowledge of a repeated co-location predicts

    def __post_init__(self) -> None:
        """Fills the columns."""
        self.actual = np.array([float(ran.seen.duration_ns) for ran in self.batches])
        self.work = np.array([ran.work_ns for ran in self.batches])
        self.alone = np.array([all(not s.co_runners for s in ran.seen.slices) for ran in self.batches], dtype=bool)
        eras = np.cumsum([self.changed.get(i) == "" for i in range(len(self.batches))])
        groups = [
            (ran.device_id, ran.batch_class, ran.seen.slices[0].co_runners, int(era)) if len(sets) == 1 else None
            for ran, era in zip(self.batches, eras, strict=True)
            for sets in [{part.co_runners for part in ran.seen.slices}]
        ]
        self.repeats = evaluate_metrics.repeats(groups, self.actual)

    def noise(self) -> dict[str, Errors | None]:
        """The floor of what is explained: spread of durations round their median where a co-location repeats."""
        return {
            name: evaluate_metrics.errors(self.repeats[kept], self.actual[kept], self.work[kept])
            for name, kept in (
                ("all", self.repeats > 0),
                ("alone", self._repeated(True)),
                ("beside", self._repeated(False)),
            )
        }

    def _repeated(self, alone: bool) -> Mask:
        kept: Mask = (self.repeats > 0) & (self.alone == alone)
        return kept

    def by_class(self) -> dict[str, Mask]:
        """Batches of each class, over all devices."""
        names = np.array([str(ran.batch_class) for ran in self.batches])
        return {str(name): names == name for name in dict.fromkeys(names.tolist())}

    def scores(self, judged: Judged, kept: Mask) -> Scores:
        """Over some batches."""
        actual, work = self.actual[kept], self.work[kept]
        bounds = [
            evaluate_metrics.bound(level, judged.bounds_ns[i][kept], actual, work)
            for i, level in enumerate(self.levels)
        ]
        return Scores(
            evaluate_metrics.errors(judged.launch_ns[kept], actual, work),
            evaluate_metrics.errors(judged.explained_ns[kept], actual, work),
            [b for b in bounds if b],
        )


def results(
    scored: Scored, judged: Mapping[str, Judged], costs: Mapping[str, Cost | None], remarks: Mapping[str, list[str]]
) -> list[PredictorResult]:
    """All predictors; the best of them is the floor that the others' recovery at launch is measured by."""
    stretches = evaluate_changes.stretches(scored.batches, scored.changed)
    launch = {name: evaluate_metrics.relative(j.launch_ns, scored.actual) for name, j in judged.items()}
    explained = {name: evaluate_metrics.relative(j.explained_ns, scored.actual) for name, j in judged.items()}
    launch_floors = [_least(evaluate_changes.settled(s, errors) for errors in launch.values()) for s in stretches]
    noise = evaluate_metrics.relative(scored.repeats, scored.actual)
    all_noise = float(np.nanmedian(noise)) if (scored.repeats > 0).any() else float("nan")
    noise_floors = [_noise(noise[s.batches], all_noise) for s in stretches]
    found: list[PredictorResult] = []
    classes = scored.by_class()
    everything = np.ones(len(scored.batches), dtype=bool)
    for name, own in judged.items():
        back = [evaluate_changes.recovery(s, launch[name], f) for s, f in zip(stretches, launch_floors, strict=True)]
        again = [evaluate_changes.recovery(s, explained[name], f) for s, f in zip(stretches, noise_floors, strict=True)]
        found.append(
            PredictorResult(
                name,
                scored.scores(own, everything),
                scored.scores(own, scored.alone),
                scored.scores(own, ~scored.alone),
                {known: scored.scores(own, kept) for known, kept in classes.items()},
                _windows(scored, own, None),
                {known: _windows(scored, own, kept) for known, kept in classes.items()},
                [r for r in back if r],
                [r for r in again if r],
                costs[name],
                _series(scored, own, launch[name], explained[name]),
                remarks[name],
            )
        )
    return found


def _windows(scored: Scored, own: Judged, kept: Mask | None) -> list[Windows]:
    return [
        evaluate_changes.windows(level, own.bounds_ns[i], scored.actual, scored.changed, kept)
        for i, level in enumerate(scored.levels)
    ]


def _least(values: Iterable[float]) -> float:
    return min((v for v in values if not math.isnan(v)), default=math.nan)


def _noise(own: Floats, otherwise: float) -> float:
    """The floor of a class: its own repeat noise where enough repeated, else that of all."""
    own = own[~np.isnan(own)]
    return float(np.median(own)) if len(own) >= evaluate_changes.RECOVERY_BATCHES else otherwise


def _series(scored: Scored, own: Judged, launch: Floats, explained: Floats) -> Series:
    covered = [np.where(b > 0.0, (scored.actual <= b).astype(float), np.nan) for b in own.bounds_ns]
    return Series(
        _percentiles(launch),
        _percentiles(explained),
        _percentiles(_signed(own.launch_ns, scored.actual)),
        _percentiles(_signed(own.explained_ns, scored.actual)),
        evaluate_metrics.rolling(launch, median=True),
        evaluate_metrics.rolling(explained, median=True),
        [evaluate_metrics.rolling(c, median=False, neighbours=501) for c in covered],
    )


def _signed(predicted: Floats, actual: Floats) -> Floats:
    return np.where(predicted > 0.0, predicted / actual - 1.0, np.nan)


def _percentiles(values: Floats) -> list[float]:
    values = values[~np.isnan(values)]
    found: list[float] = np.percentile(values, range(101)).round(5).tolist() if len(values) else []
    return found
