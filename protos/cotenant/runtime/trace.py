"""W3C trace context (https://www.w3.org/TR/trace-context/): checked at the edge, carried through all services."""

import re
import secrets

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def valid(traceparent: str) -> bool:
    """Whether a `traceparent` header follows version 00 of the specification."""
    return _TRACEPARENT.fullmatch(traceparent) is not None


def child_of(traceparent: str) -> str:
    """The same trace with a span of our own, as the next service must see it."""
    version, trace, _, flags = traceparent.split("-")
    return f"{version}-{trace}-{secrets.token_hex(8)}-{flags}"
