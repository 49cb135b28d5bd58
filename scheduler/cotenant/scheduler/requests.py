"""Requests from their arrival until they run or are refused: admission, the choice of a device, queues.

A request waits in one queue of one device (`State.waiting`, and `State.places` with batch 0), or, right after a start,
among the `unplaced`: nobody serves its model yet, but executors may still come back.
"""

from collections.abc import Sequence

import msgspec

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Queue
from cotenant.scheduler.planning import solo_finish_ns
from cotenant.scheduler.policy import Outlook, Rejection
from cotenant.scheduler.queues import level_in
from cotenant.scheduler.state import State
from cotenant.scheduler.tenants import words

FRONTEND_SHIFT = 33  # request id = frontend id << 33 | counter
# Devices that a request is offered to at least, those with the least to do first; to more only if none takes it.
CHOICES = 2
_FULL = "Exceeds maximum queue size"  # Triton's words


class Requests:
    """See the module's text."""

    def __init__(self, state: State) -> None:
        self.unplaced: dict[int, ev.Request] = {}
        self.settled_ns = 0  # until when unplaced requests wait
        self.draining = False
        self._state = state

    # ---- what frontends tell

    def arrived(self, event: ev.RequestArrived) -> None:
        """Admits a request, or refuses it."""
        request, state = event.request, self._state
        if request.request_id in state.places or request.request_id in self.unplaced:
            return  # submitted again after a broken stream; it is in good hands
        if self.draining:
            self.refuse(request, ev.SHUTTING_DOWN, "the scheduler is shutting down")
        elif state.tenancy.active or request.tenant:
            self._arrived_of_tenant(request)
        elif self._full():
            self.refuse(request, ev.QUEUE_FULL, _FULL)
        else:
            self.place(request)

    def _arrived_of_tenant(self, request: ev.Request) -> None:
        """Places a request that its tenant's quotas let through."""
        state = self._state
        homes = state.lifecycle.homes(request.model, request.version)
        known = BatchClass(request.model, request.version, request.batch_size, request.shape_bucket)
        work_ns = state.devices[homes[0]].work_ns(known) if homes else 0
        request, excess = state.tenancy.admitted(request, work_ns, state.now_ns)
        if excess is not None:
            state.actions.append(
                ev.Refuse(request.request_id, request.attempt, ev.QUOTA_EXCEEDED, words(excess), excess=excess)
            )
            return
        loser = state.tenancy.largest_holder(request) if self._full() else None
        if loser is not None:
            self._push_out(loser)
        if self._full():
            self.refuse(request, ev.QUEUE_FULL, _FULL)
        else:
            self.place(request)
        if request.request_id not in state.waiting:
            state.tenancy.tenants.ran(request, 0)

    def _full(self) -> bool:
        return len(self._state.waiting) + len(self.unplaced) >= self._state.config.max_pending

    def _push_out(self, loser: ev.Request) -> None:
        """Refuses a request that waits, for one whose tenant has had less."""
        self.refuse(self.unqueue(loser.request_id), ev.QUEUE_FULL, f"{_FULL}: made room for another tenant")

    def cancelled(self, event: ev.RequestCancelled) -> None:
        """Frees the place of a request that still waits; what runs, runs out."""
        if request := self.unplaced.pop(event.request_id, None):
            self.refuse(request, ev.CANCELLED, "cancelled by the client")
        device_id, batch_id = self._state.places.get(event.request_id, ("", 0))
        if device_id and not batch_id:
            request = self.unqueue(event.request_id)
            self.refuse(request, ev.CANCELLED, "cancelled by the client")

    def frontend_lost(self, event: ev.FrontendLost) -> None:
        """Drops what a frontend has waiting."""
        for request_id in [r for r in self._state.waiting if r >> FRONTEND_SHIFT == event.frontend_id]:
            self.unqueue(request_id)
        for request_id in [r for r in self.unplaced if r >> FRONTEND_SHIFT == event.frontend_id]:
            del self.unplaced[request_id]

    # ---- the choice of a device

    def place(self, request: ev.Request) -> None:
        """Queues a request where it will be answered first, or refuses it."""
        state = self._state
        homes = [state.devices[device_id] for device_id in state.lifecycle.homes(request.model, request.version)]
        if not homes or not state.lifecycle.ready(request.model, request.version):
            if not homes and state.now_ns < self.settled_ns:
                self.unplaced[request.request_id] = request
                return
            what = f"model '{request.model}' version {request.version}"
            self.refuse(request, ev.MODEL_UNAVAILABLE, f"no device serves {what}")
            return
        if len(homes) > 1:
            homes = _by_load(homes, request)
        best = self._option(homes[0], request)
        for number, device in enumerate(homes[1:], 1):
            if number >= CHOICES and best.verdict is None:
                break  # the others have more to do
            if best.is_sooner_than_alone(device, request, state.now_ns) and not state.tenancy.active:
                device.advance(state.now_ns)
                continue
            option = self._option(device, request)
            if option.rank < best.rank:
                best, option = option, best
            option.leave(request)
        if state.tenancy.active:
            best.leave(request)
            self._settle_fairly(request, best.device.spec.device_id, best.rank[2], best.verdict)
        elif best.verdict is None:
            self._queued(request, best.device)
        else:
            best.leave(request)
            self.settle(request, best.device.spec.device_id, best.verdict)
        if best.instead:
            self.give_up(best.device, best.instead)

    def _settle_fairly(self, request: ev.Request, device_id: str, finish_ns: int, verdict: Rejection | None) -> None:
        """Settles a request, in the place of one that waits of a tenant who had more, if the model's queue is full."""
        state, device = self._state, self._state.devices[device_id]
        state.tenancy.judged(device, request, finish_ns, rejected=verdict is not None, now_ns=state.now_ns)
        full = verdict is not None and verdict.reason == ev.QUEUE_FULL
        if full and (loser := state.tenancy.over_share(device, request)):
            self._push_out(loser)
            again = self._option(device, request)
            again.leave(request)
            verdict = again.verdict
        self.settle(request, device_id, verdict)

    def place_again(self) -> None:
        """Tries to place what waits for its model; refuses it once everyone has had time to come back."""
        unplaced = list(self.unplaced.values())
        self.unplaced.clear()
        for request in unplaced:
            if request.request_id not in self._state.places:
                self.place(request)

    def _option(self, device: Device, request: ev.Request) -> "_Option":
        """Tries one device for a request, and leaves it queued there if there is room."""
        device.advance(self._state.now_ns)
        if self._state.tenancy.active:
            self._state.tenancy.judging(device, request, self._state.now_ns)
        if (full := _queue_full(device, request)) is not None:
            return _Option(device, Outlook(0, full), entered=False)
        device.enqueue(request)
        return _Option(device, self._state.policy.outlook(device, request, self._state.now_ns), entered=True)

    def settle(self, request: ev.Request, device_id: str, verdict: Rejection | None) -> None:
        """Queues a request on the device that was chosen, or refuses it there."""
        if verdict is not None and not self.spare(verdict):
            self.refuse_as(verdict)
            return
        request = request if verdict is None else without_deadline(request)
        device = self._state.devices[device_id]
        if self._state.tenancy.active:
            self._state.tenancy.enters(device, request, self._state.now_ns)
        device.enqueue(request)
        self._queued(request, device)

    def _queued(self, request: ev.Request, device: Device) -> None:
        """A request now waits for a device: notes it, and tells where its tensors belong."""
        state, device_id = self._state, device.spec.device_id
        state.waiting[request.request_id] = request
        state.places[request.request_id] = (device_id, 0)
        state.touched.add(device_id)
        staged = request.tensors is not None
        state.actions.append(ev.Assign(request.request_id, request.attempt, device_id, staged))

    # ---- queues

    def enqueue(self, request: ev.Request, device_id: str) -> None:
        """Puts a request into the queue of a device."""
        state, device = self._state, self._state.devices[device_id]
        if state.tenancy.active:
            state.tenancy.enters(device, request, state.now_ns)
        device.enqueue(request)
        state.waiting[request.request_id] = request
        state.places[request.request_id] = (device_id, 0)
        state.touched.add(device_id)

    def unqueue(self, request_id: int) -> ev.Request:
        """Takes a request out of its queue. Raises KeyError if it does not wait."""
        state = self._state
        request = state.waiting.pop(request_id)
        device_id, _ = state.places.pop(request_id)
        device = state.devices.get(device_id)
        if device is not None:
            device.dequeue(request)
            state.touched.add(device_id)
        if state.tenancy.active:
            state.tenancy.left(device, request)
        return request

    def unqueue_batch(self, device: Device, queue: Queue, requests: Sequence[ev.Request]) -> None:
        """Takes requests of one queue out of it. Raises KeyError if one does not wait."""
        state = self._state
        if not queue.begins_with(requests):
            for request in requests:
                self.unqueue(request.request_id)
            return
        device.dequeue_first(queue, len(requests))
        for request in requests:
            del state.waiting[request.request_id], state.places[request.request_id]
            if state.tenancy.active:
                state.tenancy.left(device, request)
        state.touched.add(device.spec.device_id)

    # ---- refusals

    def refuse(self, request: ev.Request, reason: str, message: str) -> None:
        """Tells that a request will not run."""
        self._state.actions.append(ev.Refuse(request.request_id, request.attempt, reason, message))

    def refuse_as(self, rejection: Rejection) -> None:
        """Tells that a request will not run, as the policy decided."""
        request, reason, message, finish_ns, possible_ns = rejection
        self._state.actions.append(
            ev.Refuse(request.request_id, request.attempt, reason, message, finish_ns, possible_ns)
        )

    def give_up(self, device: Device, rejection: Rejection) -> None:
        """Tells that a request that waits for a device will not run."""
        if device.fair is not None:
            device.fair.contend(self._state.now_ns)
        request = rejection.request
        if request.deadline_ns:
            device.crowd(device.queue_of(request).key, request.deadline_ns - request.arrival_ns, self._state.now_ns)
        self.unqueue(request.request_id)
        if self.spare(rejection):
            self.enqueue(without_deadline(request), device.spec.device_id)
        else:
            self.refuse_as(rejection)

    def spare(self, rejection: Rejection) -> bool:
        """In observe-only mode, records a refusal for lateness instead of issuing it."""
        if not self._state.config.observe_only or rejection.reason not in (ev.PREDICTED_MISS, ev.EXPIRED_IN_QUEUE):
            return False
        request, reason, message, finish_ns, possible_ns = rejection
        self._state.actions.append(
            ev.WouldRefuse(request.request_id, request.model, reason, message, finish_ns, possible_ns)
        )
        return True


class _Option:
    """One device for a request: what it would mean, and whether the request stands in its queue meanwhile."""

    __slots__ = ("device", "entered", "instead", "rank", "verdict")

    def __init__(self, device: Device, outlook: Outlook, *, entered: bool) -> None:
        self.device, self.entered = device, entered
        finish_ns, self.verdict, self.instead = outlook
        # Smaller is better: whether it is away, whether it would refuse, and when the answer would be there.
        self.rank = (not device.online, self.verdict is not None, finish_ns, device.spec.device_id)

    def is_sooner_than_alone(self, other: Device, request: ev.Request, now_ns: int) -> bool:
        """Whether the request would be answered here before another device could answer it if that ran nothing else."""
        return self.verdict is None and self.device.online and self.rank[2] < solo_finish_ns(other, request, now_ns)

    def leave(self, request: ev.Request) -> None:
        """Takes the request out of the queue again."""
        if self.entered:
            self.device.dequeue(request)


def _by_load(homes: list[Device], request: ev.Request) -> list[Device]:
    """Devices by how much there is to do before a request, counted in requests like it."""
    known = BatchClass(request.model, request.version, request.batch_size, request.shape_bucket)
    loads = []
    for one in homes:
        ahead = len(one.line) + len(one.running) + 1
        loads.append((not one.online, ahead * one.work_ns(known), one.spec.device_id, one))
    loads.sort()
    return [load[3] for load in loads]


def _queue_full(device: Device, request: ev.Request) -> Rejection | None:
    spec = device.models[request.model, request.version]
    level = level_in(spec, request.priority)
    limit = spec.queue_sizes.get(level, spec.max_queue_size)
    if not limit:
        return None
    queues = [queue for queue in device.queues.values() if queue.key[:2] == (request.model, request.version)]
    if spec.priority_levels:  # each level has a queue of its own, as in Triton
        waiting = sum(level_in(spec, one.priority) == level for queue in queues for one in queue)
    else:
        waiting = sum(map(len, queues))
    return Rejection(request, ev.QUEUE_FULL, _FULL, 0, 0) if waiting >= limit else None


def without_deadline(request: ev.Request) -> ev.Request:
    """Observe-only mode: judged once, it keeps its place in the queue and is not judged again."""
    return msgspec.structs.replace(request, deadline_ns=0, order_ns=request.deadline_ns)
