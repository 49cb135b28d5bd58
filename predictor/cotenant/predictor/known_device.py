"""One device as the predictor knows it: what its executor said of it, what was learned, what is news."""

import contextlib
from dataclasses import dataclass, field

import msgspec

from cotenant.predictor.announcing import Announcing
from cotenant.predictor.contract import DEVICE_PREFIX
from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.observations import Profile
from cotenant.predictor.sets import SeenSets, SetKey
from cotenant.runtime.estimates import BatchClass, ClassEstimate
from cotenant.v1 import types_pb2

MAX_RESOURCES = 64
MAX_NAME = 256
BASIS_SIBLING = 4  # `Basis` of the contract


@dataclass(frozen=True)
class DeviceSpec:
    """What an executor says of its device."""

    device_id: str
    kind: str = ""
    name: str = ""
    resources: tuple[str, ...] = ()

    @property
    def passing(self) -> bool:
        """Whether somebody only tries the predictor: it is never stored, and forgotten soon after its streams end."""
        return self.device_id.startswith(DEVICE_PREFIX)

    def like(self, other: "DeviceSpec") -> bool:
        """Whether both are of one make, as their drivers tell it."""
        return bool(self.name) and (self.kind, self.name, self.resources) == (other.kind, other.name, other.resources)


def read_spec(message: types_pb2.Device) -> DeviceSpec:
    """A device as it is introduced. Raises ValueError, with what is wrong."""
    names = (message.device_id, message.kind, message.name, *message.resources)
    if not message.device_id:
        raise ValueError("the first frame must carry a hello with a device_id")
    if len(message.resources) > MAX_RESOURCES or any(len(name) > MAX_NAME for name in names):
        raise ValueError(f"a device has at most {MAX_RESOURCES} resources, and names of at most {MAX_NAME} characters")
    return DeviceSpec(message.device_id, message.kind, message.name, tuple(message.resources))


@dataclass
class KnownDevice:
    """One device."""

    spec: DeviceSpec
    model: DeviceModel
    sources: dict[int, int] = field(default_factory=dict)  # incarnation -> last sequence, least recently heard of first
    inherited: set[BatchClass] = field(default_factory=set)  # known from a sibling, not yet seen beside others here
    sets: SeenSets = field(default_factory=SeenSets)
    streams: int = 0  # executors that are connected
    left_s: float = 0.0  # when the last of them went, on our clock
    batches: int = 0  # learned from
    announcing: Announcing = field(default_factory=Announcing)
    at_ns: int = 0  # when the last event happened, on the executor's clock
    ran: set[BatchClass] = field(default_factory=set)  # since estimates were last told
    _tells_sets: bool | None = None

    @property
    def tells_sets(self) -> bool:
        """Whether the contract's vectors cannot express what its learner believes, which any of its classes tells."""
        if self._tells_sets is None:
            for some in self.model.classes:
                with contextlib.suppress(Exception):  # a learner may be anybody's
                    self._tells_sets = not self.model.learner.estimate(some).sensitivity
                    break
        return bool(self._tells_sets)

    def estimate(self, batch_class: BatchClass, levels: tuple[float, ...]) -> ClassEstimate:
        """What is believed of a class. Raises KeyError for one never heard of."""
        believed = self.model.estimate(batch_class, levels)
        if batch_class in self.inherited:
            return msgspec.structs.replace(believed, basis=BASIS_SIBLING)
        return believed

    def news(self) -> tuple[list[BatchClass], set[BatchClass]]:
        """Classes whose estimates changed, and classes that ran or were measured, since the last call."""
        ran, self.ran = self.ran, set()
        return self.model.changed(), ran

    def slowdown(self, key: SetKey) -> float:
        """Slowdown while exactly these run: finite and at least 1, whatever the learner says."""
        told = self.model.learner.slowdown(key.victim, key.co_runners)
        return min(50.0, max(1.0, told)) if told == told else 1.0  # noqa: PLR0124 (not a number differs from itself)


def solo_times(model: DeviceModel) -> list[Profile]:
    """What any learner can start from."""
    estimates = [model.learner.estimate(batch_class) for batch_class in list(model.classes)]
    return [
        Profile(e.batch_class, e.work_ns, e.demand, e.sample_count, e.kernel_ns, e.phases)
        for e in estimates
        if e.work_ns > 0
    ]
