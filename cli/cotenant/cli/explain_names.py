"""What a request may be called: its id, the id of its trace, or the id that its client gave it."""

from collections.abc import Callable

from cotenant.cli import report_records as records

ID_CHARACTERS = 256  # of a client's own id are kept


def is_id(request: str) -> bool:
    """Whether it can be a request id: a number."""
    return request.isascii() and request.isdecimal() and int(request) < 2**64


def is_trace(request: str) -> bool:
    """Whether it can be the id of a W3C trace: 32 hexadecimal digits."""
    return len(request) == 32 and set(request) <= set("0123456789abcdef")


def by_id(request_id: int) -> Callable[[records.Request], bool]:
    """Wants the request of that id."""
    return lambda request: request.request_id == request_id


def by_client(client_request_id: str, model: str = "") -> Callable[[records.Request], bool]:
    """Wants a request that its client calls so, of that model if one is named."""
    name = client_request_id[:ID_CHARACTERS]
    return lambda request: request.client_request_id == name and model in ("", request.model)


def by_trace(trace_id: str) -> Callable[[records.Request], bool]:
    """Wants a request of that W3C trace."""
    return lambda request: request.traceparent[3:35] == trace_id
