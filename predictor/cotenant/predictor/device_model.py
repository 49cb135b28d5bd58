"""What is known of one device: a learner, bounds round its forecasts, and how well they held."""

from collections import deque
from collections.abc import Collection, Mapping

import msgspec

from cotenant.predictor import learners
from cotenant.predictor.bounds import Bounds
from cotenant.predictor.observations import Observation, Profile
from cotenant.runtime.estimates import BatchClass, ClassEstimate


class _Kept(msgspec.Struct):
    learner: str
    resources: int
    state: bytes
    pooled: list[list[float]]


class _KeptClass(msgspec.Struct):
    state: bytes
    bounds: list[list[float]]


class DeviceModel:
    """See the module's text."""

    def __init__(self, device_id: str, resources: int, learner: str = learners.DEFAULT) -> None:
        """Raises ValueError for a learner that is not known."""
        self.device_id, self.resources, self.learner_name = device_id, resources, learner
        self.learner = learners.make(learner, resources)
        self.bounds: dict[BatchClass, Bounds] = {}
        self.pooled = Bounds()
        self.errors: deque[float] = deque(maxlen=512)  # |forecast - actual| / actual of recent batches
        self._rebound: dict[BatchClass, None] = {}

    @property
    def classes(self) -> Collection[BatchClass]:
        """Every class heard of and not forgotten."""
        return self.learner.classes

    def learn_profile(self, profile: Profile) -> None:
        """Takes a solo measurement."""
        self.learner.learn_profile(profile)

    def learn_batch(self, seen: Observation) -> None:
        """Takes a finished batch."""
        if seen.forecast_ns:
            ratio = seen.duration_ns / seen.forecast_ns
            own = self.bounds.setdefault(seen.batch_class, Bounds())
            own.learn(ratio, seen.co_runner_count)
            self.pooled.learn(ratio, seen.co_runner_count)
            self.errors.append(abs(ratio - 1.0) / ratio)
            self._rebound[seen.batch_class] = None
        self.learner.learn_batch(seen)

    def expect_pace(self, ratio: float | None) -> None:
        """See `FollowsPace.expect_pace`; nothing for a learner that follows none."""
        if isinstance(self.learner, learners.FollowsPace):
            self.learner.expect_pace(ratio)

    def changed(self) -> list[BatchClass]:
        """Classes whose estimates may differ from those at the last call."""
        changed = dict.fromkeys(self.learner.changed()) | self._rebound
        self._rebound.clear()
        return list(changed)

    def estimate(self, batch_class: BatchClass, levels: tuple[float, ...]) -> ClassEstimate:
        """What is believed of a class. Raises KeyError for one never heard of."""
        quantiles = self.bounds.get(batch_class, Bounds()).factors(levels, self.pooled)
        return msgspec.structs.replace(self.learner.estimate(batch_class), quantiles=quantiles)

    def forget(self, batch_class: BatchClass) -> None:
        """Drops what is known of a class alone."""
        self.learner.forget(batch_class)
        self.bounds.pop(batch_class, None)
        self._rebound.pop(batch_class, None)

    # ---- keeping

    def dump(self) -> bytes:
        """State that no single class owns."""
        kept = _Kept(self.learner_name, self.resources, self.learner.dump(), self.pooled.dump())
        return msgspec.msgpack.encode(kept)

    def dump_class(self, batch_class: BatchClass) -> bytes:
        """State of one class. Raises KeyError for one never heard of."""
        bounds = self.bounds.get(batch_class, Bounds())
        return msgspec.msgpack.encode(_KeptClass(self.learner.dump_class(batch_class), bounds.dump()))

    @classmethod
    def restored(cls, device_id: str, device: bytes, classes: Mapping[BatchClass, bytes]) -> "DeviceModel":
        """What was dumped. Raises ValueError (msgspec's included) if it cannot be read."""
        kept = msgspec.msgpack.decode(device, type=_Kept)
        model = cls(device_id, kept.resources, kept.learner)
        model.pooled.restore(kept.pooled)
        own = {batch_class: msgspec.msgpack.decode(blob, type=_KeptClass) for batch_class, blob in classes.items()}
        model.learner.restore(kept.state, {batch_class: one.state for batch_class, one in own.items()})
        for batch_class, one in own.items():
            model.bounds[batch_class] = Bounds()
            model.bounds[batch_class].restore(one.bounds)
        return model
