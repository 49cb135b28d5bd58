"""Services whose peers speak a later or an earlier version of the contract (docs/versions.md).

A whole stack runs in this process, and every message between its services is altered on its way: to what a later
version might send (fields, events and values of enums that this one does not know, at every depth), or to what an
earlier one did (without what was added since). scripts/skew does the same with services of a real older commit.
"""

import asyncio
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.message import Message

from cotenant.frontend import errors
from cotenant.inference import inference_pb2 as pb
from cotenant.scheduler import codec
from cotenant.v1 import executor_pb2, predictor_pb2, scheduler_pb2, types_pb2

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
LATER = 536_870_900  # numbers of fields that no version will take
UNKNOWN = bytes.fromhex("a0feffff0f05a2feffff0f0161a5feffff0f00000000a1feffff0f0000000000000000")
# Fields of the contract that its first version did not have to send, by message.
ADDED = {
    "FrontendHello": ("version",),
    "Submit": ("tenant", "client_request_id", "traceparent"),
    "ConnectFrontendRequest": ("tenant_statistics",),
    "ConnectFrontendResponse": ("tenants",),
    "ModelState": ("labels", "load_ns", "memory_bytes"),
    "ModelLoaded": ("labels", "load_ns"),
    "RepositoryModel": ("fingerprint",),
    "ClassProfiled": ("spread", "basis", "kernel_ns", "phases"),
    "ClassEstimate": ("kernel_ns", "phases", "basis"),
    "Slice": ("co_runner_elapsed_ns",),
    "BatchFinished": ("timed", "input_ns", "output_ns"),
    "Refusal": ("retry_after_ns", "quota"),
    "Execution": ("slices", "forecast"),
    "WatchEstimatesResponse": ("learned_through",),
}


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("fuzz.services")


def parts(message: Message) -> Iterator[Message]:
    """A message and all in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        is_map = field.message_type.GetOptions().map_entry
        inner = list(value.values()) if is_map else list(value) if field.is_repeated else [value]
        for one in inner:
            if isinstance(one, Message):
                yield from parts(one)


class Later:
    """Makes messages what a later version might send."""

    def __init__(self) -> None:
        self.events = 0

    def __call__(self, message: Any) -> Any:
        if not ours(message):
            return message
        made = type(message)()
        made.CopyFrom(message)
        if hasattr(made, "events"):
            self._more_events(made)
        if hasattr(made, "acknowledged_sequence"):
            made.acknowledged_sequence //= 2
        for part in list(parts(made)):
            part.MergeFromString(UNKNOWN)
        return made

    def _more_events(self, frame: Any) -> None:
        """Before each event comes one that only a later version knows; they are numbered together."""
        told = list(frame.events)
        del frame.events[:]
        for event in told:
            self.events += 1
            frame.events.add(sequence=2 * event.sequence - 1, at_ns=event.at_ns)
            event.sequence *= 2
            frame.events.append(event)


def earlier(message: Any) -> Any:
    """Makes messages what an earlier version sent."""
    if not ours(message):
        return message
    made = type(message)()
    made.CopyFrom(message)
    for part in list(parts(made)):
        for name in ADDED.get(part.DESCRIPTOR.name, ()):
            part.ClearField(name)
    return made


def ours(message: Any) -> bool:
    """Whether services say it among themselves."""
    return isinstance(message, Message) and message.DESCRIPTOR.file.package == "cotenant.v1"


def request() -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="canary", id="mine")
    made.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 16])
    made.raw_input_contents.append(b"\1" * 64)
    made.parameters["cotenant_explain"].bool_param = True
    made.parameters["timeout"].int64_param = 20_000_000
    return made


def served(services: ModuleType, altered: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Has such a stack answer, load and unload; what the scheduler and the predictor know then."""

    async def play() -> tuple[Any, Any]:
        async with services.Services({}, altered=altered) as stack:
            await stack.ready()
            for _ in range(20):
                await stack.canary()
                answer = await stack.unary("ModelInfer", request())
                assert list(answer.raw_output_contents) == [b"\1" * 64]
            await stack.unary("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="canary"))
            await stack.unary("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="canary"))
            await stack.canary()
            await stack.questions()
            scheduler, predictor = stack.scheduler(), stack.predictor()
            for _ in range(200):
                if scheduler.shell.core.estimates_versions and predictor.knowledge.events > 20:
                    break
                await asyncio.sleep(0.05)
            assert stack.complaints.all() == []
            return scheduler, predictor

    return asyncio.run(play())


def test_peers_of_a_later_version_are_understood_as_far_as_they_can_be(services: ModuleType) -> None:
    later = Later()
    scheduler, predictor = served(services, later)
    assert later.events > 40, "none of the events was preceded by an unknown one"
    (device,) = predictor.knowledge.devices.values()
    assert device.batches > 20
    assert predictor.knowledge.missed == 0  # what is not known is counted as seen
    assert scheduler.predictor_connected
    assert sum(ledger.batches for ledger in scheduler.shell.ledger.models.values()) > 20


def test_peers_of_an_earlier_version_are_understood(services: ModuleType) -> None:
    scheduler, predictor = served(services, earlier)
    (device,) = predictor.knowledge.devices.values()
    assert device.batches > 20
    assert scheduler.predictor_connected


def test_the_unknown_fields_are_well_formed_and_unknown_everywhere() -> None:
    for module in (executor_pb2, predictor_pb2, scheduler_pb2, types_pb2):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            assert max((f.number for f in descriptor.fields), default=0) < LATER
            message = getattr(module, descriptor.name).FromString(UNKNOWN)
            assert message.SerializeToString() == UNKNOWN, "not kept, so not unknown"


def test_values_that_only_a_later_version_knows() -> None:
    refusal = errors.refused(99, "for reasons of its own")
    assert (refusal.code.name, refusal.reason, refusal.message) == ("INTERNAL", "UNKNOWN_99", "for reasons of its own")
    dropped = executor_pb2.ExecutorEvent(sequence=1)
    dropped.batch_dropped.batch_id = 1
    dropped.batch_dropped.reason = 99  # type: ignore[assignment]
    event: Any = codec.executor_event("gpu-0", dropped)
    assert event.reason == "UNKNOWN_99"  # for the core, one of the reasons to place it again
    profiled = executor_pb2.ClassProfiled(work_ns=1)
    profiled.basis = 99  # type: ignore[assignment]
    assert codec.profile(profiled).basis == ""
