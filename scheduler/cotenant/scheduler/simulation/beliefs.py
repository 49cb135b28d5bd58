"""What the scheduler is told of slowdowns while it is simulated: by a learner, by the law itself, or nothing.

A learner is the predictor's own, one for each device. It is told of the same batches and tells the same estimates as
the service would; after `learn_ns` it stops, and what it believes by then stands. `true` gives the core the device's
own law (`true_rates.py`). `solo` tells nothing: the scheduler has solo measurements, and what it assumes of them.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from msgspec.structs import astuple

from cotenant.predictor.device_model import DeviceModel
from cotenant.predictor.observations import Observation, Profile, timed_slices
from cotenant.predictor.sets import SeenSets, SetKey
from cotenant.runtime.estimates import BatchClass, EstimateTable, SetEstimate
from cotenant.scheduler import events as ev
from cotenant.scheduler.simulation.true_rates import TrueRates, TrueTable, TrueTimes

TRUE, SOLO = "true", "solo"
SET_BUDGET = 256  # sets told in one push, as the service does


def as_learned(profile: ev.Profile) -> Profile:
    """A solo measurement as the predictor takes it."""
    known = profile.batch_class
    return Profile(known, profile.work_ns, profile.demand, profile.samples, profile.kernel_ns, profile.phases)


class Beliefs:
    """What is believed of one device, and told to the core now and then."""

    def __init__(self, device_id: str, resources: int, predictor: str, level: float, learn_ns: int) -> None:
        """`learn_ns` is the instant at which learning ends."""
        self.device_id = device_id
        self.model: DeviceModel | None = None
        self.fresh = True  # whether anything was learned since it was last told
        self._level, self._learn_ns = level, learn_ns
        self._sets = SeenSets()
        self._due: OrderedDict[SetKey, None] = OrderedDict()
        if predictor not in (TRUE, SOLO):
            self.model = DeviceModel(device_id, resources, predictor)

    def know(self, truth: TrueRates, classes: Iterable[BatchClass]) -> EstimateTable:
        """Becomes one that knows the law; returns the table the core is to look into."""
        self.model = DeviceModel(self.device_id, 0, "ignore")
        self.model.learner = TrueTimes(truth.law, classes)
        return TrueTable(truth)

    def learn_profile(self, profile: ev.Profile) -> None:
        """Takes a solo measurement."""
        if self.model is not None:
            self.model.learn_profile(as_learned(profile))
            self.fresh = True

    def learn_batch(self, event: ev.BatchFinished) -> None:
        """Takes a finished batch."""
        if self.model is None or event.at_ns >= self._learn_ns or event.forecast is None:
            return
        forecast = event.forecast
        seen = Observation(
            event.batch_class,
            event.duration_ns,
            timed_slices(event.started_ns, map(astuple, event.slices)),
            forecast.duration_ns,
            forecast.work_ns,
            forecast.co_runner_count,
        )
        self.model.learn_batch(seen)
        self.fresh = True
        self._sets.note(seen)

    def news(self, version: int) -> ev.EstimatesPushed | None:
        """What changed since the last call, if anything did."""
        self.fresh = False
        if self.model is None or not (changed := self.model.changed()):
            return None
        classes = tuple([self.model.estimate(known, (self._level,)) for known in changed])
        sets = tuple(self._set_estimates(changed)) if not classes[0].sensitivity and not self._true else ()
        return ev.EstimatesPushed(self.device_id, version, classes=classes, sets=sets)

    @property
    def _true(self) -> bool:
        return self.model is not None and isinstance(self.model.learner, TrueTimes)

    def _set_estimates(self, changed: Iterable[BatchClass]) -> Iterator[SetEstimate]:
        """Sets of a learner that the contract's vectors cannot express, in turn."""
        assert self.model is not None
        self._due.update(dict.fromkeys(self._sets.of(set(changed))))
        for _ in range(min(SET_BUDGET, len(self._due))):
            key = self._due.popitem(last=False)[0]
            slowdown = min(50.0, max(1.0, self.model.learner.slowdown(key.victim, key.co_runners)))
            yield SetEstimate(key.victim, key.co_runners, slowdown, (), self._sets.seen.get(key, 0))
