"""Sequences: requests of one correlation id run one after another, with the state each left for the next.

State lies here between two requests and travels with them, so every device can run every request. Requests of a
sequence run in the order in which they came to this frontend; a client keeps a sequence on one frontend, as its
connection does by itself. For the event loop's thread only.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from cotenant.frontend.catalogue import ModelView
from cotenant.frontend.checking import Checked
from cotenant.frontend.dispatch import Answered
from cotenant.frontend.errors import invalid
from cotenant.frontend.parameters import Parameters
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import sequences
from cotenant.runtime.clock import now_ns
from cotenant.runtime.datatypes import NUMPY, join_bytes
from cotenant.runtime.staging import aligned
from cotenant.v1 import types_pb2

IDLE_US = 1_000_000  # Triton's default of max_sequence_idle_microseconds
_KINDS = sequences.Control

Key = tuple[str, str, str, int | str]  # model, version, tenant, correlation id


@dataclass(slots=True)
class _State:
    """One state of a sequence."""

    shape: tuple[int, ...]
    content: bytes


@dataclass(slots=True)
class Sequence:
    """One sequence that began and has not ended."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served
    states: dict[str, _State] = field(default_factory=dict)  # by the input they go into
    used_ns: int = 0
    waiting: int = 0


class Sequences:
    """Those of all models."""

    def __init__(self, clock: Callable[[], int] = now_ns) -> None:
        self.open: dict[Key, Sequence] = {}
        self._clock = clock

    def join(self, model: ModelView, asked: Parameters, tenant: str) -> Sequence:
        """The sequence of a tenant's request, begun where it says so. Raises RequestError where it belongs to none."""
        if not asked.sequence_id:
            raise invalid(
                f"inference request to model '{model.name}' must specify a non-zero or non-empty correlation ID"
            )
        self._forget_idle(model)
        key = (model.name, model.version, tenant, asked.sequence_id)
        if asked.sequence_start:  # also where an earlier one did not end: its requests finish with their own state
            self.open[key] = Sequence()
        found = self.open.get(key)
        if found is None:
            raise invalid(
                f"inference request for sequence {asked.sequence_id} to model '{model.name}' must specify the START "
                "flag on the first request of the sequence"
            )
        if asked.sequence_end:
            del self.open[key]
        found.used_ns = self._clock()
        return found

    def _forget_idle(self, model: ModelView) -> None:
        limit_ns = (model.config.sequence_batching.max_sequence_idle_microseconds or IDLE_US) * 1000
        before_ns = self._clock() - limit_ns
        for key in [k for k, s in self.open.items() if k[:2] == (model.name, model.version)]:
            if self.open[key].used_ns < before_ns and not self.open[key].waiting:
                del self.open[key]

    @contextmanager
    def using(self, sequence: Sequence) -> Iterator[None]:
        """Keeps a sequence from being forgotten while a request of it waits or runs."""
        sequence.waiting += 1
        try:
            yield
        finally:
            sequence.waiting -= 1
            sequence.used_ns = self._clock()


def extend(checked: Checked, model: ModelView, sequence: Sequence, asked: Parameters) -> None:
    """Adds control inputs and states to a request. Raises RequestError for a batch."""
    if model.max_batch_size and checked.batch_size != 1:
        raise invalid(
            f"inference request to model '{model.name}' must specify batch-size 1 due to requirements of sequence "
            "batcher"
        )
    header = types_pb2.TensorSet.FromString(checked.header)
    batch = (1,) if model.max_batch_size else ()
    for name, control in sequences.controls(model.config):
        view = model.hidden[name]
        _add(checked, header, name, view.datatype, (*batch, 1), _control(control, view.datatype, asked))
    for state in model.config.sequence_batching.state:
        view = model.hidden[state.input_name]
        held = sequence.states.get(state.input_name) or _initial(state, view.datatype, batch)
        _add(checked, header, state.input_name, view.datatype, held.shape, held.content)
        if header.requested_outputs and state.output_name not in header.requested_outputs:
            header.requested_outputs.append(state.output_name)
    checked.header = header.SerializeToString()


def keep(model: ModelView, sequence: Sequence, answered: Answered) -> None:
    """Keeps the states that a request left."""
    inputs = {state.output_name: state.input_name for state in model.config.sequence_batching.state}
    for tensor, content in zip(answered.answer.outputs.tensors, answered.outputs, strict=True):
        if name := inputs.get(tensor.name):
            sequence.states[name] = _State(tuple(tensor.shape), content)


def _add(
    checked: Checked, header: types_pb2.TensorSet, name: str, datatype: str, shape: tuple[int, ...], content: bytes
) -> None:
    size = len(content)
    header.tensors.add(name=name, datatype=datatype, shape=shape, offset=checked.data_bytes, byte_size=size)
    checked.buffers.append(content)
    checked.data_bytes += aligned(size)


def _control(control: "sequences.Control", datatype: str, asked: Parameters) -> bytes:
    if control.kind == _KINDS.CONTROL_SEQUENCE_CORRID:
        return _correlation_id(asked.sequence_id, datatype)
    true = {
        _KINDS.CONTROL_SEQUENCE_START: asked.sequence_start,
        _KINDS.CONTROL_SEQUENCE_END: asked.sequence_end,
        _KINDS.CONTROL_SEQUENCE_READY: True,
    }[control.kind]
    return np.array([sequences.false_true(control)[int(true)]], NUMPY[datatype]).tobytes()


def _correlation_id(sequence_id: int | str, datatype: str) -> bytes:
    if datatype == "BYTES":
        return join_bytes([str(sequence_id)])
    try:
        return np.array([sequence_id], NUMPY[datatype]).tobytes()
    except (OverflowError, ValueError) as error:
        raise invalid(f"correlation ID '{sequence_id}' does not fit the model's type {datatype}") from error


def _initial(state: "pb.ModelSequenceBatching.State", datatype: str, batch: tuple[int, ...]) -> _State:
    """Zeros, or empty words; a variable length is 1, unless the configuration tells that of the beginning."""
    told = state.initial_state[0].dims if state.initial_state else state.dims
    shape = (*batch, *(max(1, size) if size < 0 else size for size in told))
    elements = int(np.prod(shape, dtype=np.int64))
    content = join_bytes([b""] * elements) if datatype == "BYTES" else bytes(elements * NUMPY[datatype].itemsize)
    return _State(shape, content)
