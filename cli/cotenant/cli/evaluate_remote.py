"""Judges any server of `cotenant.v1.PredictorService`: streams a log's events to it, uses what it pushes.

What it pushed is evaluated by the scheduler's own books, so a forecast is the one that the scheduler would have acted
on. Before each forecast everything known at that instant has been sent, and the predictor has said that it learned
it; with one that takes long to say so, only before every so many, and a remark says how many.
"""

import math
import statistics
import time
from collections.abc import Mapping

from cotenant.cli.evaluate_link import INCARNATION, Link
from cotenant.cli.evaluate_log import Ran, Stated, Told
from cotenant.cli.evaluate_run import NOTHING, Forecast
from cotenant.predictor.rates import RateLearner
from cotenant.runtime.estimates import BatchClass, EstimateTable, Stage
from cotenant.scheduler import codec
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running
from cotenant.v1 import executor_pb2, types_pb2
from cotenant.v1 import predictor_pb2 as pb

WAITING_BUDGET_S = 120.0  # for a whole log; beyond it, waits are shared by several batches
_TIMED_WAITS = 20


class _Rates(RateLearner):
    """Slowdowns of whole lives, by a device's estimates."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def stages(self, batch_class: BatchClass) -> tuple[Stage, ...]:
        """See `RateLearner`."""
        return self._device.table.stages(batch_class)

    def mean(self, batch_class: BatchClass) -> Stage:
        """See `RateLearner`."""
        return self._device.table.mean(batch_class)

    def rate(self, own: Stage, others: tuple[Stage, ...]) -> float:
        """See `RateLearner`."""
        return self._device.table.rate(own, others)

    def work_ns(self, batch_class: BatchClass) -> float:
        """See `RateLearner`."""
        return float(self._device.work_ns(batch_class))


class Remote:
    """See the module's text, and `evaluate_run.Predictor`."""

    def __init__(
        self, address: str, devices: Mapping[str, types_pb2.Device], levels: tuple[float, ...], batches: int
    ) -> None:
        """`batches` are those to come in all. Raises ValueError if nobody answers."""
        self._link = Link(address, devices, levels)
        self._levels, self._left = levels, batches
        self._books: dict[str, Device] = {}
        for device_id, device in devices.items():
            name = self._link.sources[device_id].device_id
            spec = ev.DeviceSpec(name, device.kind, device.name, 0, 1, tuple(device.resources))
            self._books[device_id] = Device(spec, INCARNATION, EstimateTable(), 0)
        self._rates = {device_id: _Rates(book) for device_id, book in self._books.items()}
        self._by_name = {book.spec.device_id: book for book in self._books.values()}
        self._ends: dict[int, int] = {}  # of what runs, by the key it has in its book
        self._waits_s: list[float] = []
        self._unwaited = 0  # events sent since the last wait
        self.every = 1  # events per wait

    # ---- what is pushed

    def _catch_up(self, now_ns: int) -> None:
        """Waits until everything sent is learned, and uses what was pushed meanwhile."""
        if self._unwaited < self.every:
            return
        self._unwaited = 0
        began_s = time.monotonic()
        self._link.learned(lambda push: self._use(push, now_ns))
        self._waits_s.append(time.monotonic() - began_s)
        if len(self._waits_s) == _TIMED_WAITS:
            expected_s = statistics.median(self._waits_s) * self._left
            self.every = max(1, math.ceil(expected_s / WAITING_BUDGET_S))

    def _use(self, push: pb.WatchEstimatesResponse, now_ns: int) -> None:
        """As the scheduler does: what has passed, passed at the old rates."""
        for pushed in codec.estimates(push, list(self._by_name)):
            if book := self._by_name.get(pushed.device_id):
                self._end_until(book, now_ns)
                book.table.update(pushed.classes, pushed.sets, complete=pushed.complete)

    def _end_until(self, book: Device, now_ns: int) -> None:
        """Takes out what has ended by then, each at its instant: those that stay were faster from then on."""
        for ended_ns, key in sorted((self._ends[key], key) for key in book.running):
            if ended_ns > now_ns:
                break
            book.advance(ended_ns)
            book.end(key)
            del self._ends[key]
        book.advance(now_ns)

    # ---- the verbs

    def _send(self, device_id: str, event: executor_pb2.ExecutorEvent) -> None:
        self._link.sources[device_id].send(event)
        self._unwaited += 1

    def tell(self, told: Told) -> None:
        """See `Predictor`."""
        self._send(told.device_id, executor_pb2.ExecutorEvent(at_ns=told.at_ns, class_profiled=told.message))
        profile = told.profile
        self._books[told.device_id].add_profile(
            ev.Profile(profile.batch_class, profile.work_ns, profile.samples, profile.demand)
        )

    def state(self, stated: Stated) -> None:
        """See `Predictor`."""
        self._send(stated.device_id, executor_pb2.ExecutorEvent(at_ns=stated.at_ns, device_state=stated.message))

    def forecast(self, ran: Ran) -> Forecast:
        """See `Predictor`."""
        self._left -= 1
        self._catch_up(ran.started_ns)
        book = self._books[ran.device_id]
        self._end_until(book, ran.started_ns)
        work_ns = book.work_ns(ran.batch_class)
        forecast = self._forecast(book, ran, work_ns) if work_ns else NOTHING
        kept = ev.Forecast(work_ns, round(forecast.duration_ns), 0, 0.0, 0, len(ran.running))
        batch = ev.Batch(id(ran), ran.batch_class, (), kept)  # an id of the log may come twice
        book.begin(Running(batch, ran.started_ns, float(work_ns), ran.started_ns))
        self._ends[id(ran)] = ran.ended_ns
        return forecast

    def _forecast(self, book: Device, ran: Ran, work_ns: int) -> Forecast:
        duration_ns = book.finish_offsets(ran.batch_class, work_ns)[-1]
        beside = [body.batch_class for body in book.running.values()]
        factors = (book.bound_factor(ran.batch_class, level, len(beside), beside) for level in self._levels)
        return Forecast(float(duration_ns), tuple(float(int(duration_ns * factor)) for factor in factors))

    def explain(self, ran: Ran) -> float:
        """See `Predictor`."""
        self._catch_up(ran.ended_ns)
        rates = self._rates[ran.device_id]
        return rates.work_ns(ran.batch_class) * rates.explain(ran.batch_class, ran.seen.slices)

    def learn(self, ran: Ran, forecast: Forecast) -> None:
        """See `Predictor`: the batch as if it had been launched on this forecast."""
        event = executor_pb2.ExecutorEvent(at_ns=ran.ended_ns, batch_finished=ran.message)
        told = event.batch_finished.forecast
        told.work_ns = self._books[ran.device_id].work_ns(ran.batch_class)
        told.duration_ns, told.co_runner_count = round(forecast.duration_ns), len(ran.running)
        self._send(ran.device_id, event)

    def remarks(self) -> list[str]:
        """What is to be said of how it was judged."""
        wait_ms = 1e3 * statistics.median(self._waits_s) if self._waits_s else 0.0
        found = [f"{wait_ms:.1f} ms from an event to estimates that know it"]
        if self.every > 1:
            found.append(f"estimates were waited for only every {self.every} events, to end in time")
        if not self._link.tells:
            found.append("it does not say up to which event it has learned; its acknowledgements were taken for that")
        return found

    def close(self) -> None:
        """Ends all streams."""
        self._link.close()
