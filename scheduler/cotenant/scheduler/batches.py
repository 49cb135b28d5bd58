"""Batches from their launch to their end, as executors tell of them."""

import msgspec

from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler.books import Device, Running
from cotenant.scheduler.margin import Margin
from cotenant.scheduler.policy import LaunchBatch
from cotenant.scheduler.requests import Requests
from cotenant.scheduler.state import State


class Batches:
    """See the module's text."""

    def __init__(self, state: State, requests: Requests, margin: Margin) -> None:
        self.next_id = state.config.first_batch_id
        self._state, self._requests, self._margin = state, requests, margin

    def launch(self, device: Device, launch: LaunchBatch) -> None:
        """Orders a batch."""
        model, version, bucket = launch.queue
        batch = ev.Batch(
            batch_id=self.next_id,
            batch_class=BatchClass(model, version, launch.items, bucket),
            requests=launch.requests,
            forecast=launch.forecast,
            latest_start_ns=launch.latest_start_ns,
            deadline_ns=launch.deadline_ns,
        )
        self.next_id += 1
        if self._state.tenancy.active:
            self._state.tenancy.launched(device, batch, self._state.now_ns)
        self._requests.unqueue_batch(device, device.queues[launch.queue], launch.requests)
        self._enter(device, Running(batch, self._state.now_ns, float(launch.forecast.work_ns)))
        self._state.actions.append(ev.Launch(device.spec.device_id, batch))

    def adopt(self, device: Device, batch: ev.Batch, started_ns: int) -> None:
        """Takes over a batch that an executor holds and the books do not know; `started_ns` is 0 if it waits."""
        ran_ns = max(0, self._state.now_ns - started_ns) if started_ns else 0
        remaining = max(batch.forecast.work_ns * 0.05, batch.forecast.work_ns - ran_ns)
        self._enter(device, Running(batch, self._state.now_ns - ran_ns, remaining, started_ns))
        self.next_id = max(self.next_id, batch.batch_id + 1)

    def _enter(self, device: Device, body: Running) -> None:
        batch = body.batch
        device.begin(body)
        for request in batch.requests:
            self._state.places[request.request_id] = (device.spec.device_id, batch.batch_id)

    def started(self, event: ev.BatchStarted) -> None:
        """It began later than the books had it."""
        if found := self._state.running(event.device_id, event.batch_id, event.at_ns):
            device, body = found
            device.restart(body, event.at_ns)

    def finished(self, event: ev.BatchFinished) -> None:
        """It has run, and its requests were answered by the executor."""
        if found := self._state.running(event.device_id, event.batch_id, event.at_ns):
            device, body = found
            self._margin.told_ns = self._state.now_ns
            device.end(event.batch_id)
            self._state.released(event.device_id, body.batch)
            if self._state.tenancy.active:
                self._state.tenancy.finished(device, body.batch, event.duration_ns)
            forecast = body.batch.forecast
            if not event.failed and forecast.bound_ns:
                within = event.duration_ns <= forecast.bound_ns
                told = device.estimates_version > 0
                device.widening.ended(self._state.now_ns, forecast.level, within=within, told=told)
                device.widen()
            if not event.failed and not any(part.co_runners for part in event.slices):
                device.note_solo_run(event.batch_class, event.duration_ns)

    def dropped(self, event: ev.BatchDropped) -> None:
        """What was dropped is placed again; the policy knows whether there is time left for it."""
        if found := self._state.running(event.device_id, event.batch_id, event.at_ns):
            device, body = found
            device.end(event.batch_id)
            if self._state.tenancy.active:
                self._state.tenancy.undone(device, body.batch)
            for request in self._state.released(event.device_id, body.batch):
                if request.request_id in event.missing:
                    self._requests.refuse(request, ev.INPUTS_MISSING, "its tensors did not reach the executor in time")
                elif event.reason == ev.EXECUTION_FAILED:  # one of them may have spoiled it for the others
                    self._requests.place(msgspec.structs.replace(request, alone=True))
                else:
                    self._requests.place(request)
