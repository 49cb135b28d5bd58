"""Asks, before a call reaches its service, whether the caller may make it (`access` has the rules).

Methods that everybody may call go through untouched; a server whose rules are not in force has no guard at all.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any, TypeAlias

import grpc
import structlog

from cotenant.runtime import access
from cotenant.runtime.access import Denial, Rules
from cotenant.runtime.reloading import Reloaded

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Details = grpc.HandlerCallDetails
Continuation: TypeAlias = "Callable[[Details], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]"
Check = Callable[[Context], Denial | None]

TELL_S = 1.0  # denials are counted all, and logged at most so often: a log must not be filled from outside


class Denials:
    """Counts and tells of calls that were not allowed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # by gRPC code
        self._told_s, self._untold = 0.0, 0

    def note(self, method: str, context: Context, caller: str, denial: Denial) -> None:
        """Counts one; says who it was, unless that was said of another just now."""
        self.counts[denial.code.name] += 1
        now_s = monotonic()
        if self._told_s and now_s - self._told_s < TELL_S:
            self._untold += 1
            return
        peer, code = context.peer(), denial.code.name
        _log.warning("call denied", method=method, peer=peer, caller=caller, code=code, others=self._untold)
        self._told_s, self._untold = now_s, 0


class Guard(grpc.aio.ServerInterceptor):
    """See the module's text."""

    def __init__(self, rules: Reloaded[dict[str, tuple[str, ...]]] | None, denials: Denials) -> None:
        """Without a file of rules `access.DEFAULTS` hold."""
        self._rules, self._denials = rules, denials

    @property
    def rules(self) -> Rules:
        """Who has which role, as of now."""
        return self._rules.get() if self._rules else access.DEFAULTS

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> "Handler | None":
        """The method's handler, or one that asks first."""
        handler = await continuation(handler_call_details)
        method, rules = handler_call_details.method, self.rules
        if handler is None or any(access.ANY in rules.get(role, (role,)) for role in access.needed(method)):
            return handler  # None: gRPC answers UNIMPLEMENTED

        return asking(handler, lambda context: self.denial(method, context))

    def denial(self, method: str, context: Context) -> Denial | None:
        """Why a caller may not call a method, which is then counted; None if it may."""
        caller = access.caller(context.auth_context(), context.invocation_metadata())
        denial = access.denial(self.rules, method, caller)
        if denial:
            self._denials.note(method, context, str(caller), denial)
        return denial


def asking(handler: Handler, check: Check) -> Handler:
    """A handler that serves what `check` has nothing against. The one it wraps must be a coroutine or a generator."""
    behaviour: Any = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary

    async def answer(request: Any, context: Context) -> Any:
        if denial := check(context):
            await context.abort(denial.code, denial.message)
        return await behaviour(request, context)

    async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
        if denial := check(context):
            await context.abort(denial.code, denial.message)
        async with contextlib.aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
    behave = answers if handler.response_streaming else answer
    return make(behave, handler.request_deserializer, handler.response_serializer)  # type: ignore[no-any-return]
