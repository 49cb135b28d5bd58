"""Finds what a log tells of one request, from its arrival to its outcome. It knows the format, not the scheduler."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cotenant.cli import estimate_versions, report_log
from cotenant.cli import report_records as records
from cotenant.cli.explain_story import Forecast, Launch, Placement, Refusal, Run, Slice, Story

_FRONTEND_SHIFT = 33  # of request ids
_END = ("in time", "late", "answered", "refused", "failed", "cancelled")


@dataclass(slots=True)
class Found:
    """A request's story, and where in the log it lies."""

    story: Story
    arrival_ns: int
    deadline_ns: int
    parts: list[Path]  # those that tell of it, in order
    last_ns: int = 0  # of the last group that tells of it
    batches: dict[int, Launch] = field(default_factory=dict)
    pushed: list[tuple[int, str, int]] = field(default_factory=list)  # instant, device, version of estimates

    def ms(self, at_ns: int) -> float:
        """An instant after the arrival, in ms."""
        return (at_ns - self.arrival_ns) / 1e6


def find(path: Path, wanted: Callable[[records.Request], bool]) -> Found | None:
    """The first request that is wanted, followed through all parts of a log; None if it is not in it.

    Raises ValueError that names file and line where the log is none.
    """
    reader = _Reader(wanted)
    for part in report_log.parts(path):
        reader.take_part(part)
        if reader.ended:
            break
    return reader.finished()


def ids(path: Path, wanted: Callable[[records.Request], bool]) -> list[int]:
    """The ids of all requests that are wanted, in the order in which they came. Raises ValueError like `find`."""
    found: dict[int, None] = {}
    for part in report_log.parts(path):
        for record in report_log.records_of(part):
            arrivals = (told.request for told in _decoded(record) if isinstance(told, records.Arrived))
            there = (request for device in record.devices for request in device.queued)
            found.update((one.request_id, None) for one in (*record.unplaced, *there, *arrivals) if wanted(one))
    return list(found)


class _Reader:
    """Takes lines in order."""

    def __init__(self, wanted: Callable[[records.Request], bool]) -> None:
        self._wanted = wanted
        self._found: Found | None = None
        self._config = records.Config()
        self._unix_offset_ns = 0
        self._pushed: list[tuple[int, str, int]] = []
        self._now_ns = 0
        self._part = Path()

    @property
    def ended(self) -> bool:
        """Whether nothing more can come of it."""
        return self._found is not None and self._found.story.outcome in _END

    def take_part(self, part: Path) -> None:
        """The records of a part, until the request's end is known."""
        self._part = part
        for record in report_log.records_of(part):
            if self.ended:
                break
            self._now_ns = max(self._now_ns, record.now_ns)
            if record.type == "Header":
                self._unix_offset_ns = record.unix_ns - record.monotonic_ns if record.unix_ns else 0
            elif record.type == "Snapshot":
                self._snapshot(record)
            elif record.type == "Group":
                for told in _decoded(record):
                    self._take(record.now_ns, told)

    def _snapshot(self, record: records.Line) -> None:
        self._config = record.config or self._config
        for request in (*record.unplaced, *(r for device in record.devices for r in device.queued)):
            self._meet(request, None)
        for device in record.devices:
            for held in device.running:
                for request in held.batch.requests:
                    if self._meet(request, None):
                        self._launch(held.launched_ns, records.Launched(device.device.device_id, held.batch))
                        if (launch := self._batch(held.batch.batch_id)) and held.started_ns and self._found:
                            launch.started_ms = self._found.ms(held.started_ns)

    def _meet(self, request: records.Request, decided_ns: int | None) -> bool:
        """Whether it is the request; remembers where it was met, and begins its story with the first time."""
        if self._found is None and self._wanted(request):
            self._found = self._begin(request, decided_ns)
        found = self._found
        if found is None or request.request_id != found.story.request_id:
            return False
        if self._part not in found.parts:
            found.parts.append(self._part)
        return True

    def _begin(self, request: records.Request, decided_ns: int | None) -> Found:
        arrival_ns = request.arrival_ns or decided_ns or self._now_ns
        deadline_ns = request.deadline_ns
        date = ""
        if self._unix_offset_ns:
            moment = datetime.fromtimestamp((arrival_ns + self._unix_offset_ns) / 1e9, UTC)
            date = f"{moment:%Y-%m-%d %H:%M:%S.%f} UTC"
        story = Story(
            request.request_id,
            request.model,
            request.version,
            request.batch_size,
            request.shape_bucket,
            request.priority,
            request.traceparent[3:35],
            date,
            arrival_ns,
            (deadline_ns - arrival_ns) / 1e6 if deadline_ns else None,
            self._config.policy,
            self._config.level,
            self._config.observe_only,
            (decided_ns - arrival_ns) / 1e6 if decided_ns else None,
            client_request_id=request.client_request_id,
        )
        return Found(story, arrival_ns, deadline_ns, [])

    # ---- events and actions

    def _take(self, now_ns: int, told: object) -> None:
        match told:
            case records.Arrived():
                if self._meet(told.request, now_ns):
                    self._touch(now_ns)
            case records.Pushed():
                self._pushed.append((now_ns, told.device_id, told.version))
                del self._pushed[:-10_000]
            case records.Launched():
                if any(self._meet(request, now_ns) for request in told.batch.requests):
                    self._launch(now_ns, told)
            case _:
                if self._found and not self.ended:
                    self._follow(self._found, now_ns, told)

    def _touch(self, now_ns: int) -> None:
        assert self._found
        self._found.last_ns = now_ns

    def _batch(self, batch_id: int) -> Launch | None:
        return self._found.batches.get(batch_id) if self._found else None

    def _launch(self, now_ns: int, told: records.Launched) -> None:
        assert self._found
        found, batch = self._found, told.batch
        if batch.batch_id in found.batches:
            return
        launch = Launch(
            found.ms(now_ns),
            told.device_id,
            batch.batch_id,
            str(batch.batch_class or f"{found.story.model}:{found.story.version}"),
            [request.request_id for request in batch.requests],
            found.ms(batch.latest_start_ns) if batch.latest_start_ns else None,
            found.ms(batch.deadline_ns) if batch.deadline_ns else None,
            self._forecast(now_ns, told.device_id, batch.forecast) if batch.forecast else None,
        )
        found.batches[batch.batch_id] = launch
        found.story.launches.append(launch)
        found.story.outcome = "running"
        self._touch(now_ns)

    def _forecast(self, now_ns: int, device_id: str, told: records.Forecast) -> Forecast:
        version = told.estimates_version
        pushed = (at_ns for at_ns, device, known in reversed(self._pushed) if (device, known) == (device_id, version))
        age_ms: float | None = None
        if version and (at_ns := next(pushed, None)) is not None:
            age_ms = (now_ns - at_ns) / 1e6
        elif version and self._unix_offset_ns:
            age_s = estimate_versions.age_s(version, (now_ns + self._unix_offset_ns) / 1e9)
            age_ms = None if age_s is None else 1e3 * age_s
        return Forecast(
            told.work_ns / 1e6,
            told.duration_ns / 1e6,
            told.bound_ns / 1e6,
            told.level,
            told.co_runner_count,
            version,
            age_ms,
        )

    def _follow(self, found: Found, now_ns: int, told: object) -> None:
        """What else may concern the request."""
        story = found.story
        match told:
            case records.Assigned() if told.request_id == story.request_id:
                story.placements.append(Placement(found.ms(now_ns), told.device_id, told.attempt))
                story.outcome = "waiting"
                self._touch(now_ns)
            case records.Refused() if told.request_id == story.request_id:
                self._refused(found, now_ns, told)
            case records.Cancelled() if told.request_id == story.request_id:
                story.cancelled_ms = found.ms(now_ns)
                self._touch(now_ns)
            case records.FrontendGone() if told.frontend_id == story.request_id >> _FRONTEND_SHIFT:
                if story.outcome in ("waiting", "unknown"):
                    story.outcome, story.ended_ms = "cancelled", found.ms(now_ns)
                    story.remarks.append("The stream of its frontend broke while it waited, so it was dropped.")
                    self._touch(now_ns)
            case records.Started() if launch := found.batches.get(told.batch_id):
                launch.started_ms = found.ms(told.at_ns)
                self._touch(now_ns)
            case records.Dropped() if launch := found.batches.get(told.batch_id):
                launch.dropped, launch.dropped_ms = told.reason, found.ms(told.at_ns)
                story.outcome = "waiting"
                self._touch(now_ns)
            case records.Finished() if launch := found.batches.get(told.batch_id):
                self._ran(found, launch, told)
                self._touch(now_ns)

    def _refused(self, found: Found, now_ns: int, told: records.Refused) -> None:
        refusal = Refusal(
            found.ms(now_ns),
            told.reason,
            told.message,
            found.ms(told.predicted_finish_ns) if told.predicted_finish_ns else None,
            found.ms(told.earliest_possible_ns) if told.earliest_possible_ns else None,
        )
        story = found.story
        if isinstance(told, records.WouldRefuse):
            story.would_refuse = refusal
        else:
            story.refusal, story.ended_ms = refusal, refusal.at_ms
            story.outcome = "cancelled" if told.reason == "CANCELLED" else "refused"
        self._touch(now_ns)

    def _ran(self, found: Found, launch: Launch, told: records.Finished) -> None:
        slices = [Slice(part.duration_ns / 1e6, list(map(str, part.co_runners))) for part in told.slices]
        launch.run = Run(
            found.ms(told.started_ns),
            told.duration_ns / 1e6,
            found.ms(told.started_ns + told.duration_ns),
            told.input_ns / 1e6,
            told.output_ns / 1e6,
            slices,
            told.failed,
        )
        story = found.story
        story.ended_ms = found.ms(told.answered_ns)
        if told.failed:
            story.outcome = "failed"
        elif story.cancelled_ms is not None:
            story.outcome = "cancelled"
        elif not found.deadline_ns:
            story.outcome = "answered"
        else:
            story.outcome = "late" if told.answered_ns > found.deadline_ns else "in time"

    def finished(self) -> Found | None:
        """What was found."""
        if (found := self._found) is None:
            return None
        story = found.story
        story.log_ends_ms = found.ms(self._now_ns)
        if story.budget_ms is not None and story.ended_ms is not None:
            story.slack_ms = story.budget_ms - story.ended_ms
        if not self.ended:
            found.last_ns = self._now_ns
        return found


def _decoded(record: records.Line) -> Iterator[object]:
    """Events, then actions; what a later version means by a known name is passed over."""
    for raw in (*record.events, *record.actions):
        if decoder := records.DECODERS.get(records.kind(raw)):
            try:
                yield decoder.decode(raw)
            except (msgspec.ValidationError, UnicodeDecodeError):
                continue
