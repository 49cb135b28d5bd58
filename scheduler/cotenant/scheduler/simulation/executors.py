"""One executor in virtual time: takes orders, drops what comes too late, runs batches on its device, tells what ran."""

from typing import NamedTuple

from cotenant.executor.batch import REPORT_START_NS
from cotenant.executor.timeline import Timeline
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.devices import SimulatedDevice

WINDOW_PASSED = "WINDOW_PASSED"
RESOURCES = ("sm", "l2", "dram")


def spec(number: int, concurrency: int) -> ev.DeviceSpec:
    """A device as it is introduced."""
    return ev.DeviceSpec(f"emulated-{number}", "emulated", "simulated", 16 * 2**30, concurrency, RESOURCES)


class Done(NamedTuple):
    """A batch that has run, and what is told of it."""

    batch: ev.Batch
    finished: ev.BatchFinished


class SimulatedExecutor:
    """See the module's text."""

    def __init__(self, spec: ev.DeviceSpec, device: SimulatedDevice) -> None:
        self.spec = spec
        self.device = device
        self.watched_ns = 0  # when the device will be looked at next
        self.busy_ns = 0  # sum of the durations of all that ran
        self.co_runner_ns = 0  # the time they shared, once for each co-runner
        self._timeline = Timeline()
        self._running: dict[int, tuple[ev.Batch, int]] = {}  # by batch id, with the instant it began
        self._since_ns = 0

    def start(self, batch: ev.Batch, now_ns: int) -> ev.BatchStarted | ev.BatchDropped | None:
        """Begins a batch, or drops it if its latest start has passed; returns what the scheduler is told, if anything.

        Batches that are expected to end at once are not announced, as by the real executor.
        """
        if 0 < batch.latest_start_ns < now_ns:
            return ev.BatchDropped(self.spec.device_id, batch.batch_id, now_ns, WINDOW_PASSED)
        self._count(now_ns)
        self._running[batch.batch_id] = batch, now_ns
        self._timeline.begin(batch.batch_id, batch.batch_class, now_ns)
        self.device.start(now_ns, batch.batch_id, batch.batch_class)
        if batch.forecast.duration_ns < REPORT_START_NS:
            return None
        return ev.BatchStarted(self.spec.device_id, batch.batch_id, now_ns)

    def ended(self, now_ns: int) -> list[Done]:
        """What has ended by now."""
        found: list[Done] = []
        for key, at_ns in self.device.ended(now_ns):
            self._count(at_ns)
            ended_ns, slices = self._timeline.end(key, at_ns)
            batch, started_ns = self._running.pop(key)
            told = tuple([ev.Slice(*part) for part in slices])
            finished = ev.BatchFinished(
                self.spec.device_id,
                batch.batch_id,
                ended_ns,
                started_ns,
                ended_ns - started_ns,
                batch.batch_class,
                told,
                forecast=batch.forecast,
            )
            found.append(Done(batch, finished))
        return found

    def _count(self, now_ns: int) -> None:
        passed_ns, count = now_ns - self._since_ns, len(self._running)
        self._since_ns = now_ns
        self.busy_ns += passed_ns * count
        self.co_runner_ns += passed_ns * count * (count - 1)
