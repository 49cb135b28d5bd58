"""Who makes an HTTP request, in the form in which gRPC tells methods of their callers, and whether they may."""

from collections.abc import Mapping
from typing import Any

import grpc
from aiohttp import web

from cotenant.frontend.errors import RequestError
from cotenant.frontend.restricted import HEADER, RestrictedProtocols, has
from cotenant.frontend.service import SERVICE
from cotenant.runtime import tls
from cotenant.runtime.guard import Guard


class Caller:
    """What methods ask of their gRPC context, told of an HTTP request."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._metadata = tuple((key.lower(), value) for key, value in request.headers.items())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers."""
        return self._metadata

    def time_remaining(self) -> None:
        """HTTP tells no deadline."""

    def peer(self) -> str:
        """Where the request comes from."""
        return f"http:{self._request.remote}"

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """What TLS has proven, by gRPC's names."""
        return tls.auth_context(self._request.transport)


class Access:
    """The rules that gRPC's interceptors apply, for HTTP."""

    def __init__(self, guard: Guard | None, restricted: RestrictedProtocols | None) -> None:
        self._guard, self._restricted = guard, restricted

    def check(self, method: str, caller: Any) -> None:
        """Raises RequestError where a caller may not call a method of the service."""
        path = f"/{SERVICE}/{method}"
        if self._guard is not None and (denial := self._guard.denial(path, caller)):
            raise RequestError(denial.code, denial.message)
        wanted = self._restricted.secrets.get().get(path) if self._restricted else None
        if wanted is None:
            return
        # Triton's HTTP has the key alone as header, its gRPC a prefix before it; either will do.
        header, value = wanted
        key = header.removeprefix(HEADER)
        metadata = caller.invocation_metadata()
        if not has(metadata, header, value) and not has(metadata, key, value):
            raise RequestError(grpc.StatusCode.PERMISSION_DENIED, f"This API is restricted, expecting header '{key}'")
