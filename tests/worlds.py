"""A world round the core for tests: executors that obey, fail, die and come back, driven step by step."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from cotenant.runtime.estimates import BatchClass, ClassEstimate, QuantileFactor
from cotenant.scheduler import events as ev
from cotenant.scheduler import snapshot
from cotenant.scheduler.core import Core, CoreConfig
from cotenant.scheduler.policies import POLICIES

MS = 1_000_000
RESOURCES = ("sm", "l2", "dram")


def device_spec(name: str = "gpu-0", concurrency: int = 2) -> ev.DeviceSpec:
    return ev.DeviceSpec(name, "emulated", "test", 2**30, concurrency, RESOURCES)


def model_spec(name: str, **more: Any) -> ev.ModelSpec:
    settings: dict[str, object] = {"max_batch_size": 4, "batching": True, **more}
    return msgspec.convert({"model": name, "version": "1", **settings}, ev.ModelSpec)


def profiles(name: str, work_ms: float, sizes: Iterable[int] = (1, 2, 4)) -> list[ev.Profile]:
    """Solo times that grow by half with each doubling of the batch."""
    return [
        ev.Profile(BatchClass(name, "1", size), int(work_ms * MS * (0.5 + size / 2)), 5, (0.5, 0.3, 0.3))
        for size in sizes
    ]


def estimate(name: str, size: int, work_ms: float, delay: float = 0.0, factor: float = 1.0) -> ClassEstimate:
    """An estimate that is slowed by 1 + `delay` beside anyone."""
    known = BatchClass(name, "1", size)
    return ClassEstimate(
        known, int(work_ms * MS), (0.1, 0.1, 0.1), (delay,) + (0.0,) * 6, quantiles=(QuantileFactor(0.95, factor),)
    )


class World:
    """A core and what happens to it. `step` hands events over and checks what must always hold."""

    def __init__(self, policy: str = "edf", **config: Any) -> None:
        settings = msgspec.convert({"policy": policy, "answer_overhead_ns": MS, **config}, CoreConfig)
        self.core = Core(settings, POLICIES[policy](settings.level))
        self.twin = Core(settings, POLICIES[policy](settings.level))
        self.now_ns = 1000 * MS
        self.ran: dict[int, ev.Launch] = {}  # launched and not ended
        self.outcomes: Counter[int] = Counter()  # terminal outcomes by request
        self.submitted: dict[int, ev.Request] = {}
        self.actions: list[ev.Action] = []
        self._next_request = 1

    def step(self, *events: ev.Event, after_ms: float = 0.0) -> list[ev.Action]:
        """Lets time pass and events happen."""
        self.now_ns += int(after_ms * MS)
        actions = self.core.handle(self.now_ns, events)
        assert self.twin.handle(self.now_ns, events) == actions, "same events, same actions"
        for action in actions:
            self._check(action)
        self._check_books()
        self.actions = actions
        return actions

    def restart_twin(self) -> None:
        """Replaces the twin by one restored from a snapshot that went through JSON."""
        kept = msgspec.json.decode(msgspec.json.encode(snapshot.take(self.core)), type=snapshot.Snapshot)
        self.twin = snapshot.restore(kept, POLICIES[self.core.config.policy](self.core.config.level))

    # ---- shorthands

    def join(
        self, *names: str, device: str = "gpu-0", concurrency: int = 2, work_ms: float = 10.0, **spec: Any
    ) -> None:
        """A device with models that are loaded and measured."""
        self.step(ev.DeviceJoined(device_spec(device, concurrency), 1))
        for name in names:
            self.load(name, device=device, work_ms=work_ms, **spec)

    def load(self, name: str, *, device: str = "gpu-0", work_ms: float = 10.0, **spec: Any) -> None:
        self.step(
            *(ev.ClassProfiled(device, p) for p in profiles(name, work_ms)),
            ev.ModelLoaded(device, model_spec(name, **spec), 1000),
        )

    def request(self, model: str, slo_ms: float = 100.0, **more: Any) -> ev.RequestArrived:
        """An arrival now; `slo_ms` 0 for no deadline."""
        fields = {
            "request_id": self._next_request,
            "attempt": 1,
            "model": model,
            "version": "1",
            "batch_size": 1,
            "arrival_ns": self.now_ns,
            "deadline_ns": self.now_ns + int(slo_ms * MS) if slo_ms else 0,
            **more,
        }
        self._next_request += 1
        request = msgspec.convert(fields, ev.Request)
        self.submitted[request.request_id] = request
        return ev.RequestArrived(request)

    def arrive(self, model: str, slo_ms: float = 100.0, **more: Any) -> list[ev.Action]:
        return self.step(self.request(model, slo_ms, **more))

    def finish(
        self, batch_id: int, after_ms: float = 0.0, *, took_ms: float = 1.0, beside: tuple[BatchClass, ...] = ()
    ) -> list[ev.Action]:
        """A batch ends well; its requests have been answered. `beside` ran with it all along."""
        self.now_ns += int(after_ms * MS)
        launch = self.ran.pop(batch_id)
        for request in launch.batch.requests:
            self.outcomes[request.request_id] += 1
        took_ns = int(took_ms * MS)
        known, slices = launch.batch.batch_class, (ev.Slice(took_ns, beside),)
        return self.step(
            ev.BatchFinished(launch.device_id, batch_id, self.now_ns, self.now_ns - took_ns, took_ns, known, slices)
        )

    # ---- what must always hold

    def _check(self, action: ev.Action) -> None:
        match action:
            case ev.Launch():
                batch = action.batch
                assert batch.latest_start_ns == 0 or batch.latest_start_ns >= self.now_ns
                assert 1 <= batch.batch_class.batch_size == sum(r.batch_size for r in batch.requests)
                device = self.core.devices[action.device_id]
                assert (batch.batch_class.model, batch.batch_class.version) in device.models
                assert device.online
                for request in batch.requests:
                    assert self.outcomes[request.request_id] == 0, "launched after its outcome"
                self.ran[batch.batch_id] = action
            case ev.Refuse():
                self.outcomes[action.request_id] += 1

    def _check_books(self) -> None:
        for device in self.core.devices.values():
            assert len(device.running) <= device.spec.max_concurrency
            for key, spec in device.models.items():
                assert not spec.max_instances or device.running_of(*key) <= spec.max_instances
            assert device.line == sorted(device.line, key=lambda entry: entry[:3])
            assert sorted(entry[2] for entry in device.line) == sorted(
                r.request_id for q in device.queues.values() for r in q
            )
        assert all(count <= 1 for count in self.outcomes.values()), "more than one outcome"
        self._check_tenants()
        queued = {r.request_id for d in self.core.devices.values() for q in d.queues.values() for r in q}
        assert queued == set(self.core.waiting)
        running = {
            r.request_id for d in self.core.devices.values() for b in d.running.values() for r in b.batch.requests
        }
        assert queued | running == set(self.core.places)
        assert not queued & running

    def _check_tenants(self) -> None:
        """What is counted for tenants is what waits."""
        tenancy = self.core.state.tenancy
        if not tenancy.active:
            return
        waiting = Counter(request.tenant for request in self.core.waiting.values())
        accounts = tenancy.tenants.accounts
        assert {name: account.pending for name, account in accounts.items() if account.pending} == waiting
        assert set(tenancy.tenants.reserved) <= set(self.core.waiting)
        for device in self.core.devices.values():
            assert device.fair is not None
            assert device.fair.waiting == Counter(r.tenant for queue in device.queues.values() for r in queue)


def launches(actions: list[ev.Action]) -> list[tuple[str, int]]:
    """(model, items) of each launch."""
    return [(a.batch.batch_class.model, a.batch.batch_class.batch_size) for a in actions if isinstance(a, ev.Launch)]


def refusals(actions: list[ev.Action]) -> list[tuple[int, str]]:
    """(request, reason) of each refusal."""
    return [(a.request_id, a.reason) for a in actions if isinstance(a, ev.Refuse)]
