"""What is told of one request: the document of `cotenant explain --json`, which the sentences are made of too.

All times are in ms after the request's arrival, durations in ms; None where there is none or the log does not tell.
"""

from typing import Literal

import msgspec

Outcome = Literal["in time", "late", "answered", "refused", "failed", "cancelled", "waiting", "running", "unknown"]


class RunningBatch(msgspec.Struct):
    """A batch that ran when something was decided."""

    batch_class: str
    launched_ms: float
    expected_end_ms: float  # as was believed then


class Outlook(msgspec.Struct):
    """What was expected of the request on a device when a place for it was sought."""

    at_ms: float
    device_id: str
    running: list[RunningBatch]
    waiting: int  # other requests that waited for the device
    expected_answer_ms: float | None
    refused: str  # why the device would have refused it; empty if it would not


class Placement(msgspec.Struct):
    """The request was queued on a device."""

    at_ms: float
    device_id: str
    attempt: int


class Wait(msgspec.Struct):
    """Decisions in a row that passed the request over for the same reason."""

    from_ms: float
    to_ms: float
    decisions: int
    device_id: str
    why: str
    launched: dict[str, int]  # instead, by class
    running: list[RunningBatch]  # at the last of them


class Forecast(msgspec.Struct):
    """What a batch was launched on."""

    work_ms: float
    duration_ms: float
    bound_ms: float
    level: float
    co_runner_count: int
    estimates_version: int
    estimates_age_ms: float | None  # at the launch; None if neither the log nor the version tells


class Slice(msgspec.Struct):
    """A stretch in which the co-runners did not change."""

    duration_ms: float
    co_runners: list[str]


class Run(msgspec.Struct):
    """How a batch ran: inputs gathered before `started_ms`, outputs handed out after `ended_ms`."""

    started_ms: float
    duration_ms: float
    ended_ms: float
    input_ms: float
    output_ms: float
    slices: list[Slice]
    failed: bool


class Launch(msgspec.Struct):
    """The request was launched in a batch."""

    at_ms: float
    device_id: str
    batch_id: int
    batch_class: str
    requests: list[int]
    latest_start_ms: float | None
    batch_deadline_ms: float | None  # the most urgent one in it
    forecast: Forecast | None = None
    beside: list[RunningBatch] = []
    started_ms: float | None = None  # as the executor told while it ran
    run: Run | None = None
    dropped: str = ""  # why it did not run
    dropped_ms: float | None = None


class Refusal(msgspec.Struct):
    """The request was refused, or in observe-only mode would have been."""

    at_ms: float
    reason: str
    message: str
    predicted_answer_ms: float | None
    earliest_possible_ms: float | None


class Story(msgspec.Struct):
    """Everything."""

    request_id: int
    model: str
    version: str
    batch_size: int
    shape_bucket: str
    priority: int
    trace_id: str
    arrived_at: str  # date; empty if the log does not tell
    arrival_ns: int  # on the log's clock
    budget_ms: float | None
    policy: str
    level: float
    observe_only: bool
    decided_ms: float | None  # when the scheduler first saw it; None if that was before the log began
    outlooks: list[Outlook] = []
    placements: list[Placement] = []
    waits: list[Wait] = []
    launches: list[Launch] = []
    refusal: Refusal | None = None
    would_refuse: Refusal | None = None
    cancelled_ms: float | None = None
    outcome: Outcome = "unknown"
    ended_ms: float | None = None
    slack_ms: float | None = None  # what was left of the budget at the end; negative if it was late
    log_ends_ms: float = 0.0
    answer_overhead_ms: float | None = None  # between the end of a batch and its answers, as the scheduler reckoned
    remarks: list[str] = []
    client_request_id: str = ""
    live: bool = False  # told by a scheduler of what it remembers, not by a log
