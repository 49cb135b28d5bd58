"""Answers who asks about a request, piece by piece, so that nobody whose request waits has to wait for that."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from cotenant.runtime.clock import now_ns
from cotenant.scheduler import codec
from cotenant.scheduler.events import Request
from cotenant.scheduler.lives import Life, Lives
from cotenant.scheduler.misses import Late
from cotenant.v1 import scheduler_pb2 as pb

_OTHERS = 16  # requests of the same name that are told
_MISSES = 8  # that a dashboard is told
_PIECE_BYTES = 2**20  # of one message: gRPC takes 4 MiB at most


class UnknownRequestError(LookupError):
    """There is none of that name, or it is no longer remembered. The text says what is."""


async def pieces(lives: Lives | None, asked: pb.ExplainRequest) -> AsyncIterator[pb.ExplainResponse]:
    """The answer. Raises UnknownRequestError, and ValueError where the question is none."""
    wanted = _wanted(asked)
    if lives is None:
        raise UnknownRequestError("the scheduler was told to remember no requests (--explain-requests 0)")
    found: deque[Life] = deque(maxlen=_OTHERS + 1)
    for life in lives.find(wanted):
        if life is None:
            await asyncio.sleep(0)
            continue
        found.append(life)
        if not asked.HasField("client_request_id"):
            break
    if not found:
        raise UnknownRequestError(f"the scheduler remembers no such request; {_remembered(lives)}")
    life = found[-1]
    others = [other.request.request_id for other in reversed(found) if other is not life]
    yield pb.ExplainResponse(request_id=life.request.request_id, other_request_ids=others)
    for piece in lives.log(life):
        for start in range(0, len(piece), _PIECE_BYTES):
            yield pb.ExplainResponse(log=piece[start : start + _PIECE_BYTES])
        await asyncio.sleep(0)


def _wanted(asked: pb.ExplainRequest) -> Callable[[Request], bool]:
    model = asked.model
    match asked.WhichOneof("request"):
        case "request_id":
            return lambda request: request.request_id == asked.request_id
        case "trace_id" if len(asked.trace_id) == 32:
            return lambda request: request.traceparent[3:35] == asked.trace_id
        case "client_request_id" if asked.client_request_id:
            name = codec.client_request_id(asked.client_request_id)
            return lambda request: request.client_request_id == name and model in ("", request.model)
        case _:
            raise ValueError("a request_id, a trace_id of 32 hexadecimal digits, or a client_request_id is needed")


def _remembered(lives: Lives) -> str:
    if not lives.since_ns:
        return "nothing has come yet"
    told = f"it remembers {lives.requests:,} that came in the last {(now_ns() - lives.since_ns) / 1e9:.0f} s"
    for what, late in (("late", True), ("refused", False)):
        misses = lives.misses.newest(_MISSES, lives.arrivals)
        if ids := [str(miss.request.request_id) for miss in misses if isinstance(miss, Late) is late]:
            told += f"; {what} of late: {', '.join(ids[:4])}"
    return told


def put_misses(response: pb.GetStatusResponse, lives: Lives, now: int) -> None:
    """Writes the last requests that were refused or late."""
    for miss in lives.misses.newest(_MISSES, lives.arrivals):
        request = miss.request
        row = response.misses.add(
            request_id=request.request_id,
            client_request_id=request.client_request_id,
            model=request.model,
            version=request.version,
            budget_ns=request.deadline_ns - request.arrival_ns if request.deadline_ns else 0,
        )
        if isinstance(miss, Late):
            row.age_ns = now - miss.answered_ns
            row.answered_ns = miss.answered_ns - request.arrival_ns
            row.launched_ns = miss.launched_ns - request.arrival_ns
            row.duration_ns = miss.duration_ns
            codec.put_forecast(row.forecast, miss.batch.forecast)
        else:
            row.age_ns = now - miss.at_ns
            row.reason, row.message = codec.reject_reason(miss.action.reason), miss.action.message
            if miss.action.predicted_finish_ns:
                row.predicted_ns = miss.action.predicted_finish_ns - request.arrival_ns
