"""Solo times that slowdowns are told over: of the log, and so the same for every predictor.

The last measurement told before a batch starts; for a class without one, that percentile of its batches that never
met anyone, wherever in the log; with fewer than three of those, a line between the measured sizes of its model.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from cotenant.cli import report_records as records
from cotenant.predictor.observations import Observation
from cotenant.runtime.estimates import BatchClass

_LEAST_ALONE = 3
Measured = dict[tuple[str, str, str, str], dict[int, float]]  # by device, model, version, bucket; then by batch size


def work_ns(told: records.Profile, percentile: float) -> int:
    """A measurement's median, or its 95th percentile as its spread tells it."""
    return round(told.work_ns * (1.0 + max(0.0, told.spread))) if percentile > 50.0 else told.work_ns


class SoloTimes:
    """See the module's text."""

    def __init__(self, percentile: float, batches: Iterable[tuple[str, Observation]], measured: Measured) -> None:
        """`batches` are all of the log, with their devices; `measured` is what earlier logs told, and is added to."""
        alone: dict[tuple[str, BatchClass], list[int]] = defaultdict(list)
        for device_id, seen in batches:
            if all(not part.co_runners for part in seen.slices):
                alone[device_id, seen.batch_class].append(seen.duration_ns)
        self._alone = {
            key: float(np.percentile(durations, percentile))
            for key, durations in alone.items()
            if len(durations) >= _LEAST_ALONE
        }
        self._measured = measured

    def measured(self, device_id: str, known: BatchClass, work_ns: int) -> None:
        """Takes a measurement, from now on."""
        sizes = self._measured.setdefault((device_id, known.model, known.version, known.shape_bucket), {})
        sizes[known.batch_size] = float(work_ns)

    def of(self, device_id: str, known: BatchClass) -> float:
        """Solo time of a class in ns; 0 if nothing tells it."""
        sizes = self._measured.get((device_id, known.model, known.version, known.shape_bucket), {})
        if known.batch_size in sizes:
            return sizes[known.batch_size]
        return self._alone.get((device_id, known)) or _between(sizes, known.batch_size)


def _between(sizes: Mapping[int, float], size: int) -> float:
    """Linear between the nearest measured sizes, 0 beyond them."""
    below = max((s for s in sizes if s <= size), default=0)
    above = min((s for s in sizes if s >= size), default=0)
    if not (below and above):
        return 0.0
    part = (size - below) / (above - below)
    return sizes[below] + (sizes[above] - sizes[below]) * part
