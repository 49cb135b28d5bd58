"""Checks what executors send before anything is learned from it. What makes no sense is counted and dropped.

Only plain arithmetic on what is inside one event; whether an event was seen before is `knowledge`'s business.
"""

import math
from collections import Counter
from collections.abc import Sequence

from cotenant.predictor.observations import Clocks, Observation, Profile, Slice, timed_slices
from cotenant.runtime.estimates import BatchClass, Phase, sound_phases
from cotenant.v1 import executor_pb2, types_pb2

LONGEST_NS = 3_600_000_000_000  # an hour: no batch takes longer
MAX_TEXT = 512  # characters of a class's names together
MAX_SLICES = 10_000  # of one batch
MAX_CO_RUNNERS = 256  # of one slice; devices run a handful of batches at once
MAX_MET = 65_536  # co-runners of all slices of one batch together
MAX_PHASES = 64  # of one class
MAX_DEMAND = 2.0  # of one resource; counters round, but nobody uses twice what there is
MAX_RATIO = 1000.0  # a forecast so far off was none
MAX_REASONS = 64  # why clocks are not at their most
# What a driver may tell of a device, by field; wide enough for devices of years to come.
STATES = {
    "memory_used_bytes": (0, 1 << 53),
    "memory_total_bytes": (1, 1 << 53),
    "sm_clock_mhz": (1, 100_000),
    "sm_clock_max_mhz": (1, 100_000),
    "memory_clock_mhz": (1, 1_000_000),
    "memory_clock_max_mhz": (1, 1_000_000),
    "power_w": (0.0, 1e6),
    "power_limit_w": (0.0, 1e6),
    "temperature_c": (-273, 1000),
    "utilisation": (0.0, 1.0),
    "mps_active_thread_percentage": (0.0, 100.0),
}
SLICES_TOLERANCE, SLICES_TOLERANCE_NS = 0.01, 10_000
CLOCK_TOLERANCE_NS = 1_000_000


class Intake:
    """Turns events into observations, or into a count of why not, with the last example of each reason."""

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def reject(self, reason: str, example: object) -> None:
        """Counts something that was not learned. Reasons are a fixed few words, never what a peer sent."""
        self.rejected[reason] += 1
        self.examples[reason] = str(example)[:200]

    def batch_class(self, message: types_pb2.BatchClass) -> BatchClass | None:
        """A class, or None if it cannot be one."""
        if not message.model or not 1 <= message.batch_size <= 1_000_000:
            self.reject("class", f"'{message.model[:100]}' x{message.batch_size}")
            return None
        if len(message.model) + len(message.version) + len(message.shape_bucket) > MAX_TEXT:
            self.reject("class", f"names of more than {MAX_TEXT} characters: '{message.model[:100]}'")
            return None
        return BatchClass(message.model, message.version, message.batch_size, message.shape_bucket)

    def profile(self, message: executor_pb2.ClassProfiled, resources: int | None = None) -> Profile | None:
        """A solo measurement: class, work in ns, demand in [0, 1] of each of the device's `resources`, or of none."""
        known = self.batch_class(message.batch_class)
        if known is None:
            return None
        if not 0 < message.work_ns <= LONGEST_NS:
            self.reject("work", f"{known}: {message.work_ns} ns")
            return None
        if resources is not None and len(message.demand) not in (0, resources):
            self.reject("resources", f"{known}: demand of {len(message.demand)}, the device has {resources}")
            return None
        if any(not (math.isfinite(d) and 0.0 <= d <= MAX_DEMAND) for d in message.demand):
            self.reject("demand", f"{known}: {list(message.demand)}")
            return None
        demand = tuple(min(1.0, d) for d in message.demand)
        kernel_ns = message.kernel_ns if 0.0 <= message.kernel_ns <= LONGEST_NS else 0.0
        return Profile(known, message.work_ns, demand, message.samples, kernel_ns, self._phases(known, message))

    def _phases(self, known: BatchClass, message: executor_pb2.ClassProfiled) -> tuple[Phase, ...]:
        """The phases told, or none if they cannot be: the class is known by its means then."""
        few = message.phases[: MAX_PHASES + 1]
        told = [Phase(p.end, tuple(min(1.0, d) for d in p.demand), p.kernel_ns) for p in few]
        if len(told) > MAX_PHASES or not sound_phases(told, len(message.demand)):
            self.reject("phases", f"{known}: {len(message.phases)} that end at {[p.end for p in told]}")
            return ()
        return tuple(told)

    def device_state(self, message: executor_pb2.DeviceState) -> Clocks | None:
        """Clocks of a device, if all that is told of it can be."""
        for name, (least, most) in STATES.items():
            value = getattr(message, name)
            if message.HasField(name) and not least <= value <= most:  # neither holds for what is not a number
                self.reject("device state", f"{name}: {value}")
                return None
        if len(message.throttle_reasons) > MAX_REASONS:
            self.reject("device state", f"{len(message.throttle_reasons)} throttle reasons")
            return None
        reasons = frozenset(map(int, message.throttle_reasons)) if message.throttle_reasons_known else None
        return Clocks(message.sm_clock_mhz, reasons)

    def finished(self, message: executor_pb2.BatchFinished, at_ns: int = 0) -> Observation | None:
        """A batch that ran well, with consistent slices; `at_ns` is when it was told to have ended, 0 if unknown."""
        known = self.batch_class(message.batch_class)
        if known is None or message.failed:
            return None
        if not 0 < message.duration_ns <= LONGEST_NS:
            self.reject("duration", f"{known}: {message.duration_ns} ns")
            return None
        lasted = at_ns - message.started_ns
        if at_ns > 0 and message.started_ns > 0 and message.duration_ns > lasted + CLOCK_TOLERANCE_NS:
            self.reject("clock", f"{known}: {message.duration_ns} ns between two instants {lasted} ns apart")
            return None
        slices = self._slices(known, message)
        if slices is None:
            return None
        expected = message.forecast
        return Observation(
            known,
            message.duration_ns,
            slices,
            self._forecast_ns(known, message),
            expected.work_ns if expected.work_ns <= LONGEST_NS else 0,
            min(expected.co_runner_count, MAX_CO_RUNNERS),
        )

    def _slices(self, known: BatchClass, message: executor_pb2.BatchFinished) -> tuple[Slice, ...] | None:
        met = [len(part.co_runners) for part in message.slices]
        if len(met) > MAX_SLICES or max(met, default=0) > MAX_CO_RUNNERS or sum(met) > MAX_MET:
            self.reject("slices", f"{known}: {len(met)} slices, up to {max(met)} co-runners in one, {sum(met)} in all")
            return None
        told_ns = sum(part.duration_ns for part in message.slices)
        tolerance_ns = max(SLICES_TOLERANCE_NS, SLICES_TOLERANCE * message.duration_ns)
        if abs(told_ns - message.duration_ns) > tolerance_ns or not told_ns:
            self.reject("slices", f"{known}: slices of {told_ns} ns for a batch of {message.duration_ns} ns")
            return None
        told: list[tuple[int, list[BatchClass], Sequence[int]]] = []
        for part in message.slices:
            others: list[BatchClass] = []
            for name in part.co_runners:
                if (other := self.batch_class(name)) is None:
                    return None
                others.append(other)
            if part.duration_ns:
                told.append((part.duration_ns, others, part.co_runner_elapsed_ns))
        return timed_slices(message.started_ns, told)

    def _forecast_ns(self, known: BatchClass, message: executor_pb2.BatchFinished) -> int:
        """What the batch was launched on; 0 if nothing that can be judged: the batch teaches its times all the same."""
        forecast_ns = message.forecast.duration_ns
        if not forecast_ns or not message.forecast.work_ns or message.timed:
            return 0
        if not 1.0 / MAX_RATIO <= message.duration_ns / forecast_ns <= MAX_RATIO:
            self.reject("forecast", f"{known}: {forecast_ns} ns forecast, {message.duration_ns} ns measured")
            return 0
        return forecast_ns
