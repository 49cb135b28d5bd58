"""What the rooms of the core share: the devices, where each request is, and the call that is being handled.

Each field has one owner, who alone writes it; everybody reads.
"""

import msgspec

from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running
from cotenant.scheduler.lifecycle import Lifecycle
from cotenant.scheduler.policy import Policy
from cotenant.scheduler.rate_limits import RateLimits, Resource
from cotenant.scheduler.settings import FAIR_TURN_NS, ModelSettings, Settings, TenantSettings
from cotenant.scheduler.tenancy import Tenancy


class CoreConfig(msgspec.Struct, frozen=True):
    """How the core works; part of every log's snapshots. The fields of `Settings` change while it runs, others never.

    After a start, requests for models that nobody serves yet wait for `settle_ns`: the frontends of an earlier
    scheduler may be back before its executors are. Batch ids count from `first_batch_id`, which differs after every
    start, so that late news of an earlier scheduler's batches is never taken for news of this one's.
    """

    policy: str = "edf"
    level: float = 0.95
    observe_only: bool = False
    max_pending: int = 16384
    answer_overhead_ns: int = 2_000_000
    settle_ns: int = 2_000_000_000
    first_batch_id: int = 1
    load_all: bool = True
    load_models: tuple[str, ...] = ()
    revision: int = 0
    max_tenants: int = 256
    fair_turn_ns: int = FAIR_TURN_NS
    models: tuple[ModelSettings, ...] = ()
    tenants: tuple[TenantSettings, ...] = ()
    rate_limit: bool = False
    rate_limit_resources: tuple[Resource, ...] = ()

    @property
    def settings(self) -> Settings:
        """The part that can change while the core runs."""
        return Settings(**{name: getattr(self, name) for name in Settings.__struct_fields__})

    def with_settings(self, settings: Settings) -> "CoreConfig":
        """The same with other settings."""
        return msgspec.structs.replace(self, **{name: getattr(settings, name) for name in Settings.__struct_fields__})


class State:
    """See the module's text."""

    def __init__(self, config: CoreConfig, policy: Policy) -> None:
        self.config, self.policy = config, policy
        self.devices: dict[str, Device] = {}  # by id, in the order in which they joined; of `roster.py`
        self.places: dict[int, tuple[str, int]] = {}  # request -> (device, batch it runs in or 0)
        self.waiting: dict[int, ev.Request] = {}  # in a queue of a device; of `requests.py`
        self.lifecycle = Lifecycle(config.load_all, config.load_models)
        self.model_settings = {entry.model: entry for entry in config.models}  # every device sees them
        self.limits = RateLimits(config.rate_limit_resources, self.devices) if config.rate_limit else None
        self.tenancy = Tenancy(config.settings, self.devices, self.waiting)
        # The call of `handle` that is under way.
        self.now_ns = 0
        self.actions: list[ev.Action] = []
        self.touched: set[str] = set()  # devices to decide for

    def begin(self, now_ns: int) -> None:
        """A call begins. Time never goes back."""
        self.now_ns = max(now_ns, self.now_ns)
        self.actions = self.lifecycle.actions = []
        self.touched = set()

    def touched_devices(self) -> list[Device]:
        """The devices to decide for, in the order in which they joined."""
        devices, touched = self.devices, self.touched
        if self.limits is not None and len(devices) > 1 and self.limits.matter:
            touched.update(devices)  # what ended on one may have kept another waiting, or what waits may run elsewhere
        if len(touched) == 1:
            device = devices.get(next(iter(touched)))
            return [device] if device is not None else []
        return sorted([devices[device_id] for device_id in self.touched if device_id in devices], key=_number)

    def running(self, device_id: str, batch_id: int, at_ns: int) -> tuple[Device, Running] | None:
        """The device and batch an event is about, with the books brought to when it happened; None if it is settled."""
        device = self.devices.get(device_id)
        if device is None or (body := device.running.get(batch_id)) is None:
            return None
        device.advance(min(at_ns, self.now_ns))
        self.touched.add(device_id)
        return device, body

    def released(self, device_id: str, batch: ev.Batch) -> list[ev.Request]:
        """The requests of a batch that is gone, which are nowhere now; without those that have another place by now.

        Executors tell what they hold: two of them, or one twice, may name the same request.
        """
        here = (device_id, batch.batch_id)
        freed = [request for request in batch.requests if self.places.get(request.request_id) == here]
        for request in freed:
            self.places.pop(request.request_id, None)  # None: a batch may name a request twice
        return list({request.request_id: request for request in freed}.values())


def _number(device: Device) -> int:
    return device.number
