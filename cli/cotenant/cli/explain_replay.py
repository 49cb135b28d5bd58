"""Asks a replayed core what each decision meant for one request: what ran, what waited, why it was passed over.

The log is fed to a fresh core, as `cotenant replay` does, under a policy that does what the recorded one does and
notes what it was asked. So the books are those that the decision was made on. Where a replay goes another way than
the record, as with another version of the software, it ends there, and what is left stands on the log alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cotenant.cli.explain_why import Passed, why
from cotenant.scheduler import record, snapshot
from cotenant.scheduler.books import Device
from cotenant.scheduler.core import Core
from cotenant.scheduler.events import Request
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.policy import Outlook, Policy, Turn

_OTHER_WAY = "Decisions are told up to where a replay goes another way than the log, in"
_OTHER_SOFTWARE = "other software, or another policy of that name, has written it."


class Beside(NamedTuple):
    """A batch that runs; instants in ns."""

    batch_class: str
    launched_ns: int
    expected_end_ns: int


class Sought(NamedTuple):
    """A device that was considered for the request."""

    now_ns: int
    device_id: str
    running: list[Beside]
    waiting: int
    finish_ns: int
    refused: str


class Turned(NamedTuple):
    """A turn of the policy on the device that the request waited for. `passed` is None if it was launched by it."""

    now_ns: int
    device_id: str
    running: list[Beside]
    passed: Passed | None


class Watch:
    """A policy that does as another, and notes what that meant for one request."""

    def __init__(self, policy: Policy, request_id: int) -> None:
        self.name = policy.name
        self.sought: list[Sought] = []
        self.turned: list[Turned] = []
        self._policy, self._request_id = policy, request_id

    def __getattr__(self, name: str) -> Any:
        """What else a policy may have."""
        return getattr(self._policy, name)

    def outlook(self, device: Device, request: Request, now_ns: int) -> Outlook:
        """See `Policy`."""
        found = self._policy.outlook(device, request, now_ns)
        if request.request_id == self._request_id:
            refused = found.rejection.message if found.rejection else ""
            waiting = device.queued - 1
            running = beside(device, now_ns)
            self.sought.append(Sought(now_ns, device.spec.device_id, running, waiting, found.finish_ns, refused))
        return found

    def turn(self, device: Device, now_ns: int) -> Turn:
        """See `Policy`."""
        return self._note(self._policy.turn, device, now_ns, may_launch=True)

    def doomed(self, device: Device, now_ns: int) -> Turn:
        """See `Policy`."""
        return self._note(self._policy.doomed, device, now_ns, may_launch=False)

    def forget_from(self, now_ns: int) -> None:
        """Drops what was noted from an instant on."""
        self.sought = [one for one in self.sought if one.now_ns < now_ns]
        self.turned = [one for one in self.turned if one.now_ns < now_ns]

    def _note(self, decide: Callable[[Device, int], Turn], device: Device, now_ns: int, *, may_launch: bool) -> Turn:
        turn = decide(device, now_ns)
        request = next((r for q in device.queues.values() for r in q if r.request_id == self._request_id), None)
        if request and not any(rejection.request.request_id == self._request_id for rejection in turn.rejections):
            launched = turn.launch is not None and request in turn.launch.requests
            passed = None if launched else why(self._policy, device, request, turn, now_ns, may_launch=may_launch)
            self.turned.append(Turned(now_ns, device.spec.device_id, beside(device, now_ns), passed))
        return turn


def beside(device: Device, now_ns: int) -> list[Beside]:
    """What runs on a device, and when it is believed to end."""
    ends = device.finish_offsets()
    return [
        Beside(str(body.batch_class), body.launched_ns, now_ns + offset)
        for body, offset in zip(device.running.values(), ends, strict=True)
    ]


class Replayed(NamedTuple):
    """What a replay found. `remarks` tell where it ended early, and why."""

    sought: list[Sought]
    turned: list[Turned]
    answer_overhead_ns: int | None
    remarks: list[str]


def replayed(parts: list[Path], request_id: int, last_ns: int) -> Replayed:
    """Replays these parts of a log up to an instant."""
    found = Replayed([], [], None, [])
    for part in parts:
        try:
            watch, core, remark = _replay(part, request_id, last_ns)
        except ValueError as error:
            found.remarks.append(f"Decisions cannot be replayed: {error}.")
            continue
        found.sought.extend(watch.sought)
        found.turned.extend(watch.turned)
        found = found._replace(answer_overhead_ns=core.margin.overhead_ns)
        found.remarks.extend([remark] if remark else [])
    return found


def _replay(part: Path, request_id: int, last_ns: int) -> tuple[Watch, Core, str]:
    """One part. Raises ValueError if it cannot be replayed at all."""
    core: Core | None = None
    watch: Watch | None = None
    for entry in record.read(part):
        if isinstance(entry, snapshot.Snapshot):
            name, level = entry.config.policy, entry.config.level
            if name not in POLICIES:
                raise ValueError(f"{part} was decided by policy '{name}', which is not known here")
            watch = Watch(POLICIES[name](level), request_id)
            core = snapshot.restore(entry, watch)
        elif isinstance(entry, record.Group):
            if core is None or watch is None:
                raise ValueError(f"{part}: a group of events stands before the snapshot")
            if entry.now_ns > last_ns:
                break
            if tuple(core.handle(entry.now_ns, entry.events)) != entry.actions:
                watch.forget_from(entry.now_ns)
                return watch, core, f"{_OTHER_WAY} {part.name} at {entry.now_ns} ns: {_OTHER_SOFTWARE}"
    if core is None or watch is None:
        raise ValueError(f"{part} has no snapshot")
    return watch, core, ""
