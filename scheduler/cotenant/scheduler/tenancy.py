"""Tenants in the core: what its other rooms tell of requests and batches, brought to quotas and to fairness.

Until a request names a tenant, or settings name one, none of this is active and nothing is kept: what has no tenants
pays nothing for them. From then on every request belongs to one; those that name none belong to the default.
"""

from collections.abc import Mapping

import msgspec

from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device
from cotenant.scheduler.fairness import PATIENT_NS, Fairness
from cotenant.scheduler.settings import Settings
from cotenant.scheduler.tenants import Tenants


class Tenancy:
    """See the module's text."""

    def __init__(self, settings: Settings, devices: Mapping[str, Device], waiting: dict[int, ev.Request]) -> None:
        self.active = False
        self.tenants = Tenants(settings)
        self._turn_ns = settings.fair_turn_ns
        self._devices, self._waiting = devices, waiting
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes settings. What was asked for so far still counts, and what waits is served by the new weights."""
        self.tenants.configure(settings)
        self._turn_ns = settings.fair_turn_ns
        for device in self._devices.values():
            if device.fair is not None:
                device.fair.turn_ns = self._turn_ns
        if settings.tenants:
            self.activate()

    def activate(self) -> None:
        """From now on, tenants are told apart."""
        if self.active:
            return
        self.active = True
        for device in self._devices.values():
            self.welcome(device)
        for request in self._waiting.values():
            self.tenants.entered(request)

    def welcome(self, device: Device) -> None:
        """A device is new in the books; what waits for it is counted."""
        if not self.active:
            return
        device.fair = Fairness(device.ranks, self._turn_ns, self.tenants.weight)
        for queue in device.queues.values():
            for request in queue:
                device.fair.entered(request.tenant)

    # ---- requests

    def admitted(self, request: ev.Request, work_ns: int, now_ns: int) -> tuple[ev.Request, ev.QuotaExcess | None]:
        """A request as it is kept, under a tenant that is, and the quota it would exceed; else it counts from now on.

        `work_ns` is what it would take alone; 0 if that is not known.
        """
        self.activate()
        tenant = self.tenants.known_as(request.tenant, now_ns)
        if tenant != request.tenant:
            request = msgspec.structs.replace(request, tenant=tenant)
        return request, self.tenants.admit(tenant, request.request_id, work_ns, now_ns)

    def judging(self, device: Device, request: ev.Request, now_ns: int) -> None:
        """A request is about to be judged by its place in a device's queues."""
        assert device.fair is not None
        if device.fair.arriving(request.tenant, now_ns):
            device.reorder()

    def judged(self, device: Device, request: ev.Request, finish_ns: int, *, rejected: bool, now_ns: int) -> None:
        """It would be answered then there, or is rejected: a sign of contention where that is too late."""
        assert device.fair is not None
        if rejected or 0 < request.deadline_ns < finish_ns:
            device.fair.contend(now_ns)

    def enters(self, device: Device, request: ev.Request, now_ns: int) -> None:
        """A request is about to be queued."""
        self.judging(device, request, now_ns)
        assert device.fair is not None
        device.fair.entered(request.tenant)
        self.tenants.entered(request)

    def left(self, device: Device | None, request: ev.Request) -> None:
        """A request was taken out of the queue of a device, which may be gone."""
        self.tenants.left(request)
        if device is not None and device.fair is not None:
            device.fair.left(request.tenant)

    def largest_holder(self, request: ev.Request) -> ev.Request | None:
        """The youngest that waits of the tenant who has most waiting by its weight, if that is more than a request's.

        None where the request's own tenant would then have the most.
        """
        accounts, weight = self.tenants.accounts, self.tenants.weight
        most = max(accounts, key=lambda name: (accounts[name].pending / weight(name), name))
        if accounts[most].pending / weight(most) <= (accounts[request.tenant].pending + 1) / weight(request.tenant):
            return None
        return next((one for one in reversed(self._waiting.values()) if one.tenant == most), None)

    def over_share(self, device: Device, request: ev.Request) -> ev.Request | None:
        """The last of its model to be served there, if its tenant is further ahead than that of a request."""
        rank = device.ranks.get(request.tenant, 0)
        found: ev.Request | None = None
        for queue in device.queues.values():
            if queue.key[:2] == (request.model, request.version):
                last = queue.last
                if device.ranks.get(last.tenant, 0) > rank:
                    found, rank = last, device.ranks[last.tenant]
        return found

    # ---- batches

    def launched(self, device: Device, batch: ev.Batch, now_ns: int) -> None:
        """A batch is launched; its requests still wait in the books."""
        assert device.fair is not None
        self._served(device, batch, batch.forecast.work_ns)
        for request in batch.requests:
            if not request.deadline_ns:
                due_ns = request.order_ns or request.arrival_ns + PATIENT_NS
                if due_ns < now_ns:
                    device.fair.contend(now_ns)

    def finished(self, device: Device, batch: ev.Batch, duration_ns: int) -> None:
        """A batch has run; one of unknown work counts by how long it took."""
        if not batch.forecast.work_ns:
            self._served(device, batch, duration_ns)

    def undone(self, device: Device, batch: ev.Batch) -> None:
        """A batch did not run after all."""
        self._served(device, batch, -batch.forecast.work_ns)

    def _served(self, device: Device, batch: ev.Batch, work_ns: int) -> None:
        assert device.fair is not None
        for request in batch.requests:
            share_ns = work_ns * request.batch_size // batch.batch_class.batch_size
            self.tenants.ran(request, share_ns)
            device.fair.served(request.tenant, share_ns)

    # ---- the order

    def rank(self, device: Device, now_ns: int) -> None:
        """Before a device is decided for: its queues follow who has had how much."""
        assert device.fair is not None
        if device.fair.rank(now_ns):
            device.reorder()
