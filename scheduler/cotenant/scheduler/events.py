"""The whole vocabulary of the core: what happens (events) and what is to be done (actions).

Every type is immutable data of plain integers and strings. All instants are on the scheduler's monotonic clock, in
nanoseconds; 0 stands for none. Encoded as JSON these types *are* the log (docs/log-format.md), so a change here is a
change of its format. They never refer to each other in circles, so the garbage collector need not walk through them.
"""

from typing import TypeAlias

import msgspec

from cotenant.runtime.estimates import BatchClass, ClassEstimate, Phase, SetEstimate
from cotenant.scheduler.settings import Settings

LOG_VERSION = 1

# Reasons are those of the contract (`RejectReason`), by name, because the core knows no protobuf.
QUEUE_FULL = "QUEUE_FULL"
EXPIRED_IN_QUEUE = "EXPIRED_IN_QUEUE"
PREDICTED_MISS = "PREDICTED_MISS"
MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
EXECUTOR_LOST = "EXECUTOR_LOST"
SHUTTING_DOWN = "SHUTTING_DOWN"
CANCELLED = "CANCELLED"
EXECUTION_FAILED = "EXECUTION_FAILED"
QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
INPUTS_MISSING = "INPUTS_MISSING"


class _Data(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Plain data within events and actions."""


class _Tagged(msgspec.Struct, frozen=True, tag=True, tag_field="type", gc=False):
    """An event or action; in the log its `type` tells which."""


# ---- Things --------------------------------------------------------------------------------------------------------


class Tensors(_Data, frozen=True):
    """Where a request's tensors lie in shared memory. The core passes it on and never looks."""

    segment: str
    offset: int
    byte_size: int


class Request(_Data, frozen=True):
    """A request without its tensors.

    `order_ns`, where set, stands in for the deadline in the queue's order. One that is to run `alone` shares no batch.
    """

    request_id: int
    attempt: int
    model: str
    version: str
    batch_size: int
    arrival_ns: int
    deadline_ns: int = 0
    priority: int = 0
    shape_bucket: str = ""
    tensors: Tensors | None = None
    traceparent: str = ""
    order_ns: int = 0
    alone: bool = False
    client_request_id: str = ""  # what its client calls it; not unique
    tenant: str = ""


class Need(_Data, frozen=True):
    """What a batch needs of a resource of the rate limiter while it runs; of a `shared` one all devices have a part."""

    name: str
    count: int
    shared: bool = False


class ModelSpec(_Data, frozen=True):
    """What the scheduler must know of one version of a model; it follows from its configuration."""

    model: str
    version: str
    max_batch_size: int = 1
    batching: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_ns: int = 0
    max_queue_size: int = 0
    priority_levels: int = 0
    default_priority: int = 0
    max_instances: int = 0
    slo_ns: int = 0
    idempotent: bool = True
    resources: tuple[Need, ...] = ()  # of the rate limiter
    # By level of priority, where its policy is another than the default: how many may wait; 0 for any number.
    queue_sizes: dict[int, int] = {}


class Profile(_Data, frozen=True):
    """A solo measurement of a class. `basis` is what its demand rests on (`ProfileBasis`, by name; empty: not told)."""

    batch_class: BatchClass
    work_ns: int
    samples: int = 0
    demand: tuple[float, ...] = ()
    spread: float = 0.0
    basis: str = ""
    kernel_ns: float = 0.0
    phases: tuple[Phase, ...] = ()


class DeviceSpec(_Data, frozen=True):
    """What one executor serves."""

    device_id: str
    kind: str
    name: str
    memory_bytes: int
    max_concurrency: int
    resources: tuple[str, ...] = ()


class Forecast(_Data, frozen=True):
    """What was expected of a batch when it was launched; all but `level` durations or counts."""

    work_ns: int
    duration_ns: int
    bound_ns: int
    level: float
    estimates_version: int = 0
    co_runner_count: int = 0


class Slice(_Data, frozen=True):
    """A stretch in which the co-runners did not change."""

    duration_ns: int
    co_runners: tuple[BatchClass, ...] = ()
    co_runner_elapsed_ns: tuple[int, ...] = ()  # how long each had run when it began; empty if not told


class Batch(_Data, frozen=True):
    """A batch as it was ordered."""

    batch_id: int
    batch_class: BatchClass
    requests: tuple[Request, ...]
    forecast: Forecast
    latest_start_ns: int = 0
    deadline_ns: int = 0


# ---- Events --------------------------------------------------------------------------------------------------------


class RequestArrived(_Tagged, frozen=True):
    """A frontend submitted a request."""

    request: Request


class RequestCancelled(_Tagged, frozen=True):
    """The client of a request has gone."""

    request_id: int


class FrontendLost(_Tagged, frozen=True):
    """Its stream broke. What it had queued is dropped; it submits again what it still wants."""

    frontend_id: int


class AnswerOverheadMeasured(_Tagged, frozen=True):
    """95th percentile of the time between the end of a batch and its answers on the wire, a duration."""

    overhead_ns: int


class DeviceJoined(_Tagged, frozen=True):
    """An executor's stream stands. `held` names launches it holds, with the instant each started (0: not yet)."""

    device: DeviceSpec
    incarnation: int
    loaded: tuple[ModelSpec, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    profiles: tuple[Profile, ...] = ()
    repository: tuple[str, ...] = ()
    held: tuple[Batch, ...] = ()
    held_started_ns: tuple[int, ...] = ()


class DeviceSuspended(_Tagged, frozen=True):
    """An executor's stream broke; its lease still runs."""

    device_id: str
    incarnation: int


class DeviceLost(_Tagged, frozen=True):
    """An executor's lease ended, or it told that it leaves."""

    device_id: str
    incarnation: int


class BatchStarted(_Tagged, frozen=True):
    """A batch began to run."""

    device_id: str
    batch_id: int
    at_ns: int


class BatchFinished(_Tagged, frozen=True):
    """A batch has run. `duration_ns` is what its forecast was about; copies are apart."""

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


class BatchDropped(_Tagged, frozen=True):
    """A launch did not run: its window passed, tensors of some requests were not there, or it failed as a whole."""

    device_id: str
    batch_id: int
    at_ns: int
    reason: str
    missing: tuple[int, ...] = ()


class KernelTiming(_Data, frozen=True):
    """One kernel or operator: offset from the start of its batch, and duration."""

    name: str
    offset_ns: int
    duration_ns: int


class KernelTimings(_Tagged, frozen=True):
    """Timings inside one sampled batch. The core does not use them; they are in the log for those who do."""

    device_id: str
    batch_id: int
    batch_class: BatchClass
    kind: str
    kernels: tuple[KernelTiming, ...] = ()


class Readings(_Data, frozen=True):
    """What a device's driver tells; None where it does not. Reasons are those of `ThrottleReason`, by name."""

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    sm_clock_mhz: int | None = None
    sm_clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    memory_clock_max_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    utilisation: float | None = None
    mig_enabled: bool | None = None
    mig_gpu_instance_id: int | None = None
    mig_compute_instance_id: int | None = None
    mps_active_thread_percentage: float | None = None


class DeviceState(_Tagged, frozen=True):
    """The state of a device. The core does not use it; it is in the log for those who do."""

    device_id: str
    at_ns: int
    readings: Readings


class ModelLoaded(_Tagged, frozen=True):
    """A version of a model can serve on a device."""

    device_id: str
    spec: ModelSpec
    memory_bytes: int = 0
    load_ns: int = 0


class ModelLoadFailed(_Tagged, frozen=True):
    """A version of a model cannot be loaded on a device."""

    device_id: str
    model: str
    version: str
    message: str


class ModelLoadEnded(_Tagged, frozen=True):
    """A device has done with a load. `versions` are those that its policy wants; others are to go."""

    device_id: str
    model: str
    versions: tuple[str, ...] = ()


class ModelUnloaded(_Tagged, frozen=True):
    """A version of a model is gone from a device."""

    device_id: str
    model: str
    version: str


class ClassProfiled(_Tagged, frozen=True):
    """A class was measured alone."""

    device_id: str
    profile: Profile


class WindowRequested(_Tagged, frozen=True):
    """An executor wants its device to itself for so long."""

    device_id: str
    window_id: int
    duration_ns: int
    model: str = ""


class WindowReleased(_Tagged, frozen=True):
    """An executor no longer needs a window."""

    device_id: str
    window_id: int


class RepositoryScanned(_Tagged, frozen=True):
    """What an executor's repository holds."""

    device_id: str
    models: tuple[str, ...] = ()


class LoadRequested(_Tagged, frozen=True):
    """Someone asks for a model; `ticket` identifies who waits."""

    model: str
    ticket: int


class UnloadRequested(_Tagged, frozen=True):
    """Someone wants a model gone; `ticket` identifies who waits."""

    model: str
    ticket: int


class EstimatesPushed(_Tagged, frozen=True):
    """What the predictor pushed for one device."""

    device_id: str
    version: int
    complete: bool = False
    classes: tuple[ClassEstimate, ...] = ()
    sets: tuple[SetEstimate, ...] = ()


class SettingsChanged(_Tagged, frozen=True):
    """Someone changed settings; these hold from now on, all of them. `ticket` identifies who waits."""

    settings: Settings
    ticket: int = 0


class DrainRequested(_Tagged, frozen=True):
    """The service stops: nothing new is admitted."""


Event: TypeAlias = (
    RequestArrived
    | RequestCancelled
    | FrontendLost
    | AnswerOverheadMeasured
    | DeviceJoined
    | DeviceSuspended
    | DeviceLost
    | BatchStarted
    | BatchFinished
    | BatchDropped
    | KernelTimings
    | DeviceState
    | ModelLoaded
    | ModelLoadFailed
    | ModelLoadEnded
    | ModelUnloaded
    | ClassProfiled
    | WindowRequested
    | WindowReleased
    | RepositoryScanned
    | LoadRequested
    | UnloadRequested
    | EstimatesPushed
    | SettingsChanged
    | DrainRequested
)


# ---- Actions -------------------------------------------------------------------------------------------------------


class Assign(_Tagged, frozen=True):
    """A request's tensors belong on this device; if they are `staged`, an executor on their host can read them."""

    request_id: int
    attempt: int
    device_id: str
    staged: bool = False


class Launch(_Tagged, frozen=True):
    """A batch is to run."""

    device_id: str
    batch: Batch


class QuotaExcess(_Data, frozen=True):
    """A quota that a request would have exceeded. `retry_after_ns` is 0 where that depends on when others end."""

    tenant: str
    quota: str
    retry_after_ns: int = 0


class Refuse(_Tagged, frozen=True):
    """A request will not run. `earliest_possible_ns` is what an empty device would have allowed."""

    request_id: int
    attempt: int
    reason: str
    message: str
    predicted_finish_ns: int = 0
    earliest_possible_ns: int = 0
    excess: QuotaExcess | None = None


class WouldRefuse(_Tagged, frozen=True):
    """In observe-only mode: what would have been refused, and runs all the same."""

    request_id: int
    model: str
    reason: str
    message: str
    predicted_finish_ns: int = 0
    earliest_possible_ns: int = 0


class LoadModel(_Tagged, frozen=True):
    """A device is to load a model."""

    device_id: str
    model: str


class UnloadModel(_Tagged, frozen=True):
    """A device is to unload a version; nothing of it runs any more."""

    device_id: str
    model: str
    version: str


class GrantWindow(_Tagged, frozen=True):
    """A device is its executor's alone until then."""

    device_id: str
    window_id: int
    until_ns: int


class ModelChanged(_Tagged, frozen=True):
    """A version of a model came, changed or went."""

    model: str
    version: str
    availability: str
    reason: str = ""
    device_ids: tuple[str, ...] = ()


NOT_IN_REPOSITORY, NOT_LOADABLE, NO_DEVICE = "NOT_IN_REPOSITORY", "NOT_LOADABLE", "NO_DEVICE"


class TicketDone(_Tagged, frozen=True):
    """A load or unload that someone waits for has ended; `error` is empty if well.

    `cause` is NOT_IN_REPOSITORY (or not readably), NOT_LOADABLE (versions of it) or NO_DEVICE.
    """

    ticket: int
    error: str = ""
    cause: str = ""


class WakeAt(_Tagged, frozen=True):
    """Call again at this instant if nothing happens before."""

    at_ns: int


Action: TypeAlias = (
    Assign | Launch | Refuse | WouldRefuse | LoadModel | UnloadModel | GrantWindow | ModelChanged | TicketDone | WakeAt
)
