"""Triton's restricted protocol groups: methods that only those may call who send a header with a secret.

A file has lines as Triton's flag has values, `GROUP,GROUP:KEY=VALUE`: the methods of these groups need the header
`triton-grpc-protocol-KEY: VALUE`. `grpc.health.v1` stays open, since those who keep servers alive send no headers.
"""

import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from cotenant.frontend.service import SERVICE
from cotenant.runtime.access import Denial
from cotenant.runtime.guard import Continuation, Handler, asking
from cotenant.runtime.reloading import Reloaded

GROUPS: Mapping[str, tuple[str, ...]] = {
    "health": ("ServerLive", "ServerReady", "ModelReady"),
    "metadata": ("ServerMetadata", "ModelMetadata"),
    "inference": ("ModelInfer", "ModelStreamInfer"),
    "shared-memory": tuple(
        f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")
    ),
    "model-config": ("ModelConfig",),
    "model-repository": ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    "statistics": ("ModelStatistics",),
    "trace": ("TraceSetting",),
    "logging": ("LogSettings",),
}
HEADER = "triton-grpc-protocol-"
Secrets = dict[str, tuple[str, str]]  # header and value by method


def read(path: str) -> Secrets:
    """What the lines of a file restrict. Raises OSError, or ValueError that names file and line but no secret."""
    found: Secrets = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        groups, _, pair = line.strip().partition(":")
        key, _, value = pair.partition("=")
        if not (groups and key and value):
            raise ValueError(f"{path}, line {number}: expected GROUP,GROUP:KEY=VALUE")
        for group in groups.split(","):
            if group not in GROUPS:
                raise ValueError(f"{path}, line {number}: there is no group '{group}'; there are {', '.join(GROUPS)}")
            if f"/{SERVICE}/{GROUPS[group][0]}" in found:
                raise ValueError(f"{path}, line {number}: group '{group}' stands in another line as well")
            found |= {f"/{SERVICE}/{method}": (HEADER + key.lower(), value) for method in GROUPS[group]}
    return found


class RestrictedProtocols(grpc.aio.ServerInterceptor):
    """See the module's text."""

    def __init__(self, path: str) -> None:
        """Raises OSError or ValueError for a file that makes no sense."""
        self.secrets = Reloaded("restricted protocols", [Path(path)], lambda: read(path))

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """The method's handler, or one that asks for the header."""
        handler = await continuation(handler_call_details)
        wanted = self.secrets.get().get(handler_call_details.method)
        if handler is None or wanted is None or has(handler_call_details.invocation_metadata, *wanted):
            return handler
        message = f"This protocol is restricted, expecting header '{wanted[0]}'"
        return asking(handler, lambda _: Denial(grpc.StatusCode.UNAVAILABLE, message))


def has(metadata: Any, header: str, value: str) -> bool:
    """Whether a call's metadata carry a header with a secret; compares in constant time."""
    sent = [str(found).encode() for key, found in metadata or () if key == header]
    return any(hmac.compare_digest(one, value.encode()) for one in sent)
