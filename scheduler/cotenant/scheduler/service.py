"""`cotenant.v1.SchedulerService`: streams in, streams out, and questions about the state. Decides nothing."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc
import structlog

from cotenant.runtime.clock import clock_id, now_ns
from cotenant.runtime.outbox import Outbox
from cotenant.scheduler import codec, explaining, settings_codec
from cotenant.scheduler import events as ev
from cotenant.scheduler.control import Control, StaleError
from cotenant.scheduler.core import FRONTEND_SHIFT
from cotenant.scheduler.lifecycle import KNOWN, LOADING
from cotenant.scheduler.shell import ExecutorLink, FrontendLink, Shell, ToExecutor
from cotenant.v1 import scheduler_pb2 as pb
from cotenant.v1 import scheduler_pb2_grpc, types_pb2

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]

# Triton's codes of loads that fail.
_LOAD_CODES = {
    ev.NOT_IN_REPOSITORY: grpc.StatusCode.INTERNAL,
    ev.NOT_LOADABLE: grpc.StatusCode.INVALID_ARGUMENT,
    ev.NO_DEVICE: grpc.StatusCode.UNAVAILABLE,
}


class SchedulerService(scheduler_pb2_grpc.SchedulerServiceServicer):
    """See the module's text."""

    def __init__(self, shell: Shell, *, software: str, control: Control | None = None, explicit: bool = True) -> None:
        self.shell = shell
        self.control = control or Control(shell)
        self.software = software
        self.started_ns = now_ns()
        self.predictor_connected = False
        self.explicit = explicit  # models are loaded and unloaded on request

    def _hello(self) -> pb.SchedulerHello:
        return pb.SchedulerHello(epoch=self.shell.epoch, clock_id=clock_id(), version=self.software)

    # ---- frontends

    async def ConnectFrontend(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ConnectFrontendRequest], context: Context
    ) -> AsyncIterator[pb.ConnectFrontendResponse]:
        """One long-lived stream per frontend."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must carry a hello")
        assert first is not None
        if known := self.shell.frontends.get(first.hello.frontend_id):
            if self.shell.heard_of(known):
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"frontend id {first.hello.frontend_id} is in use")
            known.outbox.close()  # its link was cut, and its end is not seen here yet
            self.shell.disconnect_frontend(known)
        link = FrontendLink(first.hello.frontend_id)
        link.outbox.frame.hello.CopyFrom(self._hello())
        self.shell.connect_frontend(link)
        _log.info("frontend", frontend=link.frontend_id, state="connected")

        async def read() -> None:
            self._take(link, first)
            async for frame in request_iterator:
                self._take(link, frame)

        reading = _closing_when_done(read(), link.outbox)
        try:
            async for frame in link.outbox.frames():
                yield frame
        finally:
            reading.cancel()
            self.shell.disconnect_frontend(link)
            _log.info("frontend", frontend=link.frontend_id, state="gone")
        await _abort_if_wrong(reading, context)

    def _take(self, link: FrontendLink, frame: pb.ConnectFrontendRequest) -> None:
        """Takes a frame. Raises ValueError if it names requests of others."""
        named = [row.request_id for row in frame.submits] + [row.request_id for row in frame.cancels]
        for request_id in named:
            if request_id >> FRONTEND_SHIFT != link.frontend_id:
                raise ValueError(f"request {request_id} is not of frontend {link.frontend_id}")
        post = self.shell.post
        link.seen_ns = now_ns()
        for submit in frame.submits:
            post(ev.RequestArrived(codec.request(submit)))
        for cancel in frame.cancels:
            post(ev.RequestCancelled(cancel.request_id))
        for attachment in frame.attachments:
            key = (attachment.device_id, attachment.incarnation)
            (link.attached.add if attachment.attached else link.attached.discard)(key)
        if frame.HasField("ping"):
            link.outbox.frame.pong.CopyFrom(_pong(frame.ping))
            link.outbox.touch()
        for told in frame.tenant_statistics:
            self.shell.ledger.tenant_reported(told)
        overhead = 0
        for statistics in frame.statistics:
            versions = list(self.shell.core.lifecycle.versions.get(statistics.model, {}))
            self.shell.ledger.reported(statistics, versions)
            overhead = max(overhead, statistics.answer_overhead_ns)
        if overhead:
            post(ev.AnswerOverheadMeasured(overhead))

    # ---- executors

    async def ConnectExecutor(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ConnectExecutorRequest], context: Context
    ) -> AsyncIterator[pb.ConnectExecutorResponse]:
        """One long-lived stream per executor."""
        first = await anext(request_iterator, None)
        greeted = False
        if first is not None and first.HasField("ping") and not first.HasField("hello"):
            yield pb.ConnectExecutorResponse(hello=self._hello(), pong=_pong(first.ping))
            greeted, first = True, await anext(request_iterator, None)
        if first is None or not first.hello.device.device_id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must carry a hello with a device_id")
        assert first is not None
        if self._taken(first.hello):
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS,
                f"device id '{first.hello.device.device_id}' is in use by another executor (--device-id)",
            )
        outbox = Outbox(ToExecutor)
        try:
            link = self._join(first, outbox)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if not greeted:
            outbox.frame.hello.CopyFrom(self._hello())
        outbox.frame.acknowledged_sequence = link.acknowledged
        outbox.touch()
        reading = _closing_when_done(self._read_executor(link, outbox, request_iterator), outbox)
        try:
            async for frame in outbox.frames():
                yield frame
        finally:
            reading.cancel()
            self.shell.disconnect_executor(link)
        await _abort_if_wrong(reading, context)

    def _taken(self, hello: pb.ExecutorHello) -> bool:
        """Whether another executor that was heard of within its lease serves under that device id."""
        known = self.shell.executors.get(hello.device.device_id)
        if known is None or known.outbox is None or known.hello.incarnation == hello.incarnation:
            return False
        return self.shell.heard_of(known)

    def _join(self, first: pb.ConnectExecutorRequest, outbox: Outbox[ToExecutor]) -> ExecutorLink:
        known = self.shell.executors.get(first.hello.device.device_id)
        if known and known.outbox and known.hello.incarnation != first.hello.incarnation:
            known.outbox.close()  # an older incarnation that does not know yet that it is gone
        if known and known.hello.incarnation == first.hello.incarnation:
            self.shell.executor_events(known, list(first.events))  # what ended during the gap, before what is held
        link = self.shell.connect_executor(first.hello, outbox)
        self.shell.executor_events(link, list(first.events))
        return link

    async def _read_executor(
        self, link: ExecutorLink, outbox: Outbox[ToExecutor], frames: AsyncIterator[pb.ConnectExecutorRequest]
    ) -> None:
        async for frame in frames:
            self.shell.executor_events(link, list(frame.events))
            outbox.frame.acknowledged_sequence = link.acknowledged  # travels with whatever is sent next
            if frame.HasField("ping"):
                outbox.frame.pong.CopyFrom(_pong(frame.ping))
                outbox.touch()

    # ---- models on request

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.LoadModelResponse:  # noqa: N802
        """Loads a model on every device."""
        await self._refuse_unless_explicit(context)
        done = await self.shell.load(request.model, request.override)
        if done.error:
            await context.abort(_LOAD_CODES.get(done.cause, grpc.StatusCode.INTERNAL), done.error)
        return pb.LoadModelResponse()

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:  # noqa: N802
        """Unloads a model everywhere."""
        await self._refuse_unless_explicit(context)
        done = await self.shell.unload(request.model)
        if done.error:
            await context.abort(grpc.StatusCode.INTERNAL, done.error)
        return pb.UnloadModelResponse()

    async def _refuse_unless_explicit(self, context: Context) -> None:
        if not self.explicit:
            message = "explicit model load / unload is not allowed if polling is enabled"  # as Triton says in mode none
            await context.abort(grpc.StatusCode.UNAVAILABLE, message)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        """What the repositories hold, in which state."""
        del request, context
        await self.shell.scan()
        response = pb.ListModelsResponse()
        on_disk = {m.model for scan in self.shell.repository.values() for m in scan.models}
        known = self.shell.core.lifecycle.versions
        for model in sorted(on_disk | {m for m, versions in known.items() if versions}):
            versions = known.get(model, {})
            for version, state in versions.items():
                change = ev.ModelChanged(model, version, state.availability, state.reason, tuple(state.device_ids))
                self.shell.put_model(response.models.add(), change)
            if not versions:  # nobody wants it, or it is the first time
                availability = LOADING if model in self.shell.core.lifecycle.loads else KNOWN
                self.shell.put_model(response.models.add(), ev.ModelChanged(model, "", availability))
        return response

    # ---- settings

    async def GetSettings(self, request: pb.GetSettingsRequest, context: Context) -> pb.GetSettingsResponse:  # noqa: N802
        """The settings that can be changed, as they hold."""
        del request, context
        response = pb.GetSettingsResponse()
        settings_codec.put_settings(response.settings, self.shell.core.config.settings)
        return response

    async def UpdateSettings(  # noqa: N802
        self, request: pb.UpdateSettingsRequest, context: Context
    ) -> pb.UpdateSettingsResponse:
        """Changes settings. Who may is a matter of the method, as for all of ours (docs/security.md)."""
        response = pb.UpdateSettingsResponse()
        try:
            settings = await self.control.change(settings_codec.change(request), request.expected_revision)
        except StaleError as error:
            await context.abort(grpc.StatusCode.ABORTED, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except OSError as error:
            await context.abort(grpc.StatusCode.INTERNAL, f"the settings cannot be kept, and are as before: {error}")
        settings_codec.put_settings(response.settings, settings)
        return response

    # ---- the state of everything

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:  # noqa: N802
        """The state of everything, as of now."""
        del request, context
        core, ledger, now = self.shell.core, self.shell.ledger, now_ns()
        response = pb.GetStatusResponse(
            now_ns=now,
            uptime_ns=now - self.started_ns,
            policy=core.policy.name,
            observe_only=core.config.observe_only,
            estimates_version=max(core.estimates_versions.values(), default=0),
            predictor_connected=self.predictor_connected,
            frontend_count=len(self.shell.frontends),
            decision_count=ledger.decision_count,
            decision_ns=ledger.decision_ns,
        )
        for device_id, device in core.devices.items():
            row = response.devices.add(online=device.online, queued=device.queued, busy_ns=device.busy_ns)
            row.batch_ns, row.memory_used_bytes = device.batch_ns, sum(device.memory_bytes.values())
            if executor := self.shell.executors.get(device_id):
                row.device.CopyFrom(executor.hello.device)
                if executor.state:
                    row.state.CopyFrom(executor.state)
            for body, offset in zip(device.running.values(), device.finish_offsets(), strict=True):
                running = row.running.add(batch_id=body.batch.batch_id, elapsed_ns=now - body.launched_ns)
                running.remaining_ns = max(0, offset - (now - device.updated_ns))
                codec.put_class(running.batch_class, body.batch_class)
        self._put_models(response)
        self.control.put_status(response)
        if self.shell.lives:
            explaining.put_misses(response, self.shell.lives, now)
        return response

    async def Explain(  # noqa: N802
        self, request: pb.ExplainRequest, context: Context
    ) -> AsyncIterator[pb.ExplainResponse]:
        """The life of a recent request."""
        try:
            async for piece in explaining.pieces(self.shell.lives, request):
                yield piece
        except explaining.UnknownRequestError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _put_models(self, response: pb.GetStatusResponse) -> None:
        core = self.shell.core
        waiting: dict[tuple[str, str], int] = {}
        for request in core.waiting.values():
            waiting[request.model, request.version] = waiting.get((request.model, request.version), 0) + 1
        specs = {key: spec for device in core.devices.values() for key, spec in device.models.items()}
        for model, versions in core.lifecycle.versions.items():
            for version, state in versions.items():
                ledger = self.shell.ledger.of(model, version)
                error, covered, slowdown = ledger.means()
                response.models.add(
                    model=model,
                    version=version,
                    availability=codec.availability(state.availability),
                    slo_ns=specs[model, version].slo_ns if (model, version) in specs else 0,
                    queued=waiting.get((model, version), 0),
                    in_time=ledger.in_time,
                    late=ledger.late,
                    refused=ledger.refused,
                    failed=ledger.failed,
                    batches=ledger.batches,
                    items=ledger.items,
                    prediction_error=error,
                    bound_coverage=covered,
                    slowdown=slowdown,
                    would_refuse=ledger.would_refuse,
                )


def _pong(ping: types_pb2.Ping) -> types_pb2.Pong:
    received_ns = now_ns()
    return types_pb2.Pong(ping_sent_ns=ping.sent_ns, received_ns=received_ns, sent_ns=now_ns())


async def _abort_if_wrong(reading: "asyncio.Task[None]", context: Context) -> None:
    """Ends a stream with what was wrong with a frame of it."""
    if reading.done() and not reading.cancelled() and (wrong := reading.exception()):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(wrong))


def _closing_when_done(reading: Coroutine[Any, Any, None], outbox: Outbox[Any]) -> "asyncio.Task[None]":
    """Runs the reading half of a stream; when it ends, so does the writing half."""
    task = asyncio.create_task(reading)
    task.add_done_callback(lambda _: outbox.close())
    return task
