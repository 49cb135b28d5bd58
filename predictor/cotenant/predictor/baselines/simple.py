"""Two that know nothing of co-runners: nothing slows anything, and the longest of the last ten."""

from collections import deque
from collections.abc import Mapping, Sequence

import msgspec

from cotenant.predictor.baselines.known import KnownClasses
from cotenant.predictor.observations import Observation, Profile, Running, Slice
from cotenant.runtime.estimates import BatchClass

_LAST = 10


class Ignore(KnownClasses):
    """Slowdown 1, always."""

    def learn_batch(self, seen: Observation) -> None:
        """See `Learner.learn_batch`."""
        self.see(seen)

    def explain(self, batch_class: BatchClass, slices: Sequence[Slice]) -> float:  # noqa: ARG002
        """See `Learner.explain`."""
        return 1.0

    def forecast(self, batch_class: BatchClass, running: Sequence[Running]) -> float:  # noqa: ARG002
        """See `Learner.forecast`."""
        return 1.0

    def slowdown(self, batch_class: BatchClass, co_runners: Sequence[BatchClass]) -> float:  # noqa: ARG002
        """See `Learner.slowdown`."""
        return 1.0

    def sensitivity(self) -> tuple[float, ...]:
        """None to anything; the contract continues it with zeros."""
        return (0.0,)


class Clockwork(Ignore):
    """The longest of a class's last ten durations, as estimate and as bound (Clockwork, OSDI 2020).

    Whoever ran beside it is not asked, so what is told as `work_ns` contains its usual slowdown, which then is 1.
    """

    def __init__(self, name: str, resources: int) -> None:
        super().__init__(name, resources)
        self._last: dict[BatchClass, deque[int]] = {}

    def learn_profile(self, profile: Profile) -> None:
        """See `Learner.learn_profile`."""
        super().learn_profile(profile)
        self._last.pop(profile.batch_class, None)

    def learn_batch(self, seen: Observation) -> None:
        """See `Learner.learn_batch`."""
        self.see(seen)
        self._last.setdefault(seen.batch_class, deque(maxlen=_LAST)).append(seen.duration_ns)

    def work_ns(self, batch_class: BatchClass) -> float:
        """See `Learner.work_ns`."""
        last = self._last.get(batch_class)
        return float(max(last)) if last else super().work_ns(batch_class)

    def bound_ns(self, batch_class: BatchClass, running: Sequence[Running]) -> float:  # noqa: ARG002
        """Its own bound of a batch that starts now: the estimate itself."""
        return self.work_ns(batch_class)

    def forget(self, batch_class: BatchClass) -> None:
        """See `Learner.forget`."""
        super().forget(batch_class)
        self._last.pop(batch_class, None)

    def dump_class(self, batch_class: BatchClass) -> bytes:
        """See `Learner.dump_class`."""
        return msgspec.msgpack.encode((super().dump_class(batch_class), list(self._last.get(batch_class, ()))))

    def restore(self, device: bytes, classes: Mapping[BatchClass, bytes]) -> None:
        """See `Learner.restore`."""
        kept = {c: msgspec.msgpack.decode(blob, type=tuple[bytes, list[int]]) for c, blob in classes.items()}
        super().restore(device, {c: facts for c, (facts, _) in kept.items()})
        self._last = {c: deque(last, maxlen=_LAST) for c, (_, last) in kept.items() if last}
