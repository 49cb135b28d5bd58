"""The records of a log (docs/log-format.md), as far as `report`, `evaluate` and `explain` need them: what they use.

What later versions add is passed over: fields that are not named here, and records, events and actions of other types,
which are counted.
"""

import msgspec

from cotenant.runtime.estimates import BatchClass, ClassEstimate, Phase, SetEstimate

FORMAT, VERSION = "cotenant-log", 1


class Device(msgspec.Struct, frozen=True):
    """A device as its executor introduced it."""

    device_id: str
    kind: str = ""
    name: str = ""
    max_concurrency: int = 1
    memory_bytes: int = 0
    resources: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True):
    """A request as a frontend submitted it; instants on the scheduler's clock, 0 for none."""

    request_id: int
    model: str
    version: str = ""
    batch_size: int = 1
    arrival_ns: int = 0
    deadline_ns: int = 0
    attempt: int = 1
    priority: int = 0
    shape_bucket: str = ""
    traceparent: str = ""
    client_request_id: str = ""


class Forecast(msgspec.Struct, frozen=True):
    """What was expected of a batch; durations in ns."""

    work_ns: int = 0
    duration_ns: int = 0
    bound_ns: int = 0
    level: float = 0.0
    estimates_version: int = 0
    co_runner_count: int = 0


class Slice(msgspec.Struct, frozen=True):
    """A stretch in which the co-runners did not change."""

    duration_ns: int
    co_runners: tuple[BatchClass, ...] = ()
    co_runner_elapsed_ns: tuple[int, ...] = ()


class Finished(msgspec.Struct, frozen=True):
    """A batch that has run."""

    device_id: str
    batch_id: int
    at_ns: int
    started_ns: int
    duration_ns: int
    batch_class: BatchClass
    slices: tuple[Slice, ...] = ()
    input_ns: int = 0
    output_ns: int = 0
    forecast: Forecast | None = None
    failed: bool = False

    @property
    def answered_ns(self) -> int:
        """When its outputs had been handed out. Executors of ours tell in `at_ns` when it ended on the device."""
        return max(self.at_ns, self.started_ns + self.duration_ns + self.output_ns)


class Batch(msgspec.Struct):
    """A batch as it was ordered."""

    batch_id: int
    requests: tuple[Request, ...] = ()
    batch_class: BatchClass | None = None
    forecast: Forecast | None = None
    latest_start_ns: int = 0
    deadline_ns: int = 0


class Spec(msgspec.Struct):
    """What the scheduler knows of a version of a model."""

    model: str
    slo_ns: int = 0


class Profile(msgspec.Struct):
    """A solo measurement."""

    batch_class: BatchClass
    work_ns: int
    samples: int = 0
    demand: tuple[float, ...] = ()
    spread: float = 0.0
    kernel_ns: float = 0.0
    phases: tuple[Phase, ...] = ()


class Table(msgspec.Struct):
    """What is believed of one device, at the start of a part."""

    device_id: str
    classes: tuple[ClassEstimate, ...] = ()
    sets: tuple[SetEstimate, ...] = ()


class Held(msgspec.Struct):
    """A batch that ran at the start of a part."""

    batch: Batch
    launched_ns: int = 0
    started_ns: int = 0


class SnapshotDevice(msgspec.Struct):
    """A device, at the start of a part."""

    device: Device
    models: tuple[Spec, ...] = ()
    profiles: tuple[Profile, ...] = ()
    queued: tuple[Request, ...] = ()
    running: tuple[Held, ...] = ()


class Config(msgspec.Struct):
    """How the scheduler was set up."""

    policy: str = ""
    level: float = 0.0
    observe_only: bool = False


class Arrived(msgspec.Struct):
    """A request arrived."""

    request: Request


class Joined(msgspec.Struct):
    """An executor's introduction."""

    device: Device
    loaded: tuple[Spec, ...] = ()
    profiles: tuple[Profile, ...] = ()


class Loaded(msgspec.Struct):
    """A model can serve."""

    spec: Spec


class Profiled(msgspec.Struct):
    """A class was measured alone."""

    device_id: str
    profile: Profile


class State(msgspec.Struct):
    """What a device's driver tells, by the contract's names; None where it does not."""

    device_id: str
    at_ns: int
    readings: dict[str, bool | int | float | tuple[str, ...] | None]


class Pushed(msgspec.Struct):
    """Estimates came."""

    device_id: str
    version: int = 0
    complete: bool = False
    classes: tuple[ClassEstimate, ...] = ()
    sets: tuple[SetEstimate, ...] = ()


class Launched(msgspec.Struct):
    """A batch was ordered."""

    device_id: str
    batch: Batch


class Refused(msgspec.Struct):
    """A request was refused; instants 0 for none."""

    request_id: int
    reason: str = ""
    message: str = ""
    predicted_finish_ns: int = 0
    earliest_possible_ns: int = 0


class WouldRefuse(Refused):
    """A request would have been refused, but for observe-only mode."""


class Assigned(msgspec.Struct):
    """A request was queued on a device."""

    request_id: int
    device_id: str
    attempt: int = 1


class Started(msgspec.Struct):
    """A batch began to run."""

    device_id: str
    batch_id: int
    at_ns: int


class Dropped(msgspec.Struct):
    """A batch did not run."""

    device_id: str
    batch_id: int
    at_ns: int
    reason: str = ""
    missing: tuple[int, ...] = ()


class FrontendGone(msgspec.Struct):
    """The stream of a frontend broke."""

    frontend_id: int


class Cancelled(msgspec.Struct):
    """The client of a request has gone."""

    request_id: int


KINDS = {
    "RequestArrived": Arrived,
    "RequestCancelled": Cancelled,
    "DeviceJoined": Joined,
    "BatchFinished": Finished,
    "DeviceState": State,
    "ModelLoaded": Loaded,
    "ClassProfiled": Profiled,
    "EstimatesPushed": Pushed,
    "Launch": Launched,
    "Refuse": Refused,
    "WouldRefuse": WouldRefuse,
    "Assign": Assigned,
    "BatchStarted": Started,
    "BatchDropped": Dropped,
    "FrontendLost": FrontendGone,
}
DECODERS = {name: msgspec.json.Decoder(kind) for name, kind in KINDS.items()}
# All that version 1 of the format has, used here or not: what is none of it comes from a later one.
RECORDS = frozenset(("Header", "Snapshot", "Group"))
TYPES = frozenset(
    (
        *KINDS,
        *("AnswerOverheadMeasured", "DeviceSuspended", "DeviceLost", "KernelTimings", "ModelLoadFailed"),
        *("ModelLoadEnded", "ModelUnloaded", "RepositoryScanned", "WindowRequested", "WindowReleased"),
        *("LoadRequested", "UnloadRequested", "SettingsChanged", "DrainRequested"),
        *("LoadModel", "UnloadModel", "GrantWindow", "ModelChanged", "TicketDone", "WakeAt"),
    )
)


class Kind(msgspec.Struct):
    """What an event or action is."""

    type: str = ""


class Line(msgspec.Struct):
    """Any record; which fields are there depends on its type."""

    type: str
    format: str = ""
    version: int = 0
    software: str = ""
    unix_ns: int = 0
    monotonic_ns: int = 0
    clock_id: str = ""
    now_ns: int = 0
    events: tuple[msgspec.Raw, ...] = ()
    actions: tuple[msgspec.Raw, ...] = ()
    config: Config | None = None
    devices: tuple[SnapshotDevice, ...] = ()
    tables: tuple[Table, ...] = ()
    unplaced: tuple[Request, ...] = ()


_kind = msgspec.json.Decoder(Kind)
line = msgspec.json.Decoder(Line)


def kind(raw: msgspec.Raw) -> str:
    """The type of an event or action; empty for what is none."""
    try:
        return _kind.decode(raw).type
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
