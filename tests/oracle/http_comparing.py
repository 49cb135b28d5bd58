"""The same HTTP request to two servers, and what they answered, in a form that can be compared."""

import gzip
import http.client
import json
import zlib
from typing import Any

from oracle import comparing
from oracle.rest_corpus import HttpCall

TIMEOUT_S = 10.0
_COMPARED = ("content-encoding", "inference-header-content-length", "accept-encoding")


def ask(address: str, call: HttpCall) -> str:
    """What a server answers, in one text: status, headers that count, and the body, normalised."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        connection.request(call.verb, call.path, call.body, dict(call.headers))
        answer = connection.getresponse()
        content = answer.read()
        headers = {key.lower(): value for key, value in answer.getheaders()}
    finally:
        connection.close()
    shown = {key: headers[key] for key in _COMPARED if key in headers}
    if answer.status == 200:
        shown["content-type"] = headers["content-type"] if content else ""
    return f"{answer.status} {shown or ''} {_text(call, _unpacked(content, headers))}"


def _unpacked(content: bytes, headers: dict[str, str]) -> bytes:
    form = headers.get("content-encoding")
    return gzip.decompress(content) if form == "gzip" else zlib.decompress(content) if form == "deflate" else content


def _text(call: HttpCall, content: bytes) -> str:
    path = call.path.partition("?")[0]
    if path.endswith(("/live", "/ready")):
        return "" if not content.startswith(b'{"error"') else content.decode()
    try:
        shown = json.loads(content)
    except ValueError:
        return repr(content)
    return str(comparing.in_order(_normalised(path, shown)))


def _normalised(path: str, shown: Any) -> Any:
    if not isinstance(shown, dict):
        return shown
    if path == "/v2":
        return comparing.server(shown)
    if path.endswith("/config") and "error" not in shown:
        return _config(shown)
    if path.endswith("/stats") and "error" not in shown:
        return {"rows": [sorted(_fields(row)) for row in shown["model_stats"]]}
    if "platform" in shown:
        return comparing.metadata(shown)
    if "outputs" in shown:
        return shown | {"outputs": sorted(shown["outputs"], key=str)}
    return shown


def _fields(row: dict[str, Any]) -> list[str]:
    """The fields of statistics, with their types; numbers differ of course, and so do rows of batches and memory."""
    shown: list[str] = []
    for key, value in row.items():
        if key in ("batch_stats", "memory_usage", "response_stats"):
            shown.append(f"{key} {type(value).__name__}")
        elif isinstance(value, dict):
            shown += [f"{key}.{inner}" for inner in _fields(value)]
        else:
            shown.append(f"{key} {type(value).__name__}")
    return shown


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: given for key, one in value.items() if (given := _given(one)) or isinstance(one, dict)}
    if isinstance(value, list):
        return [_given(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _config(shown: dict[str, Any]) -> dict[str, Any]:
    """As of gRPC, where what was not given is not shown."""
    return comparing.config({"config": _given(shown)})
