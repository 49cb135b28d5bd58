"""HTTP requests that both servers must answer alike, written by hand: every path, and what goes wrong with each."""

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

ONES = [1.0] * 16
RAW = struct.pack("<16f", *ONES)
INPUT: dict[str, Any] = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 16], "data": ONES}
_LENGTH = "Inference-Header-Content-Length"
_IDENTITY = "/v2/models/identity/infer"
_WORDS = struct.pack("<I", 2) + b"ab" + struct.pack("<I", 1) + b"z"


@dataclass(frozen=True)
class HttpCall:
    """One request."""

    name: str
    verb: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def calls() -> Iterator[HttpCall]:
    """All of them, with names that tell what they are about."""
    for group in (_gets, _verbs, _inputs, _bodies, _outputs, _parameters, _binary, _alone, _packed, _types):
        for i, (verb, path, body, headers) in enumerate(group()):
            told = "" if body is None else f" {body[:200]!r}"
            yield HttpCall(f"{group.__name__[1:]} {i}: {verb} {path} {headers or ''}{told}", verb, path, body, headers)
    for posts in (_repository, _regions, _settings, _stateful):
        for i, (path, content) in enumerate(posts()):
            yield HttpCall(f"{posts.__name__[1:]} {i}: {path} {content[:200]!r}", "POST", path, content)


Rows = Iterator[tuple[str, str, bytes | None, dict[str, str]]]
Posts = Iterator[tuple[str, bytes]]


def _each(*told: Any) -> Iterator[Any]:
    """What is given, of whatever types."""
    yield from told


def _text(told: Any) -> bytes:
    return told if isinstance(told, bytes) else json.dumps(told).encode()


def _gets() -> Rows:
    paths = [
        *("/v2", "/v2/", "/", "/v2/nope", "/v2/health/live", "/v2/health/ready", "/v2/models/identity?x=1"),
        *("/v2/models", "/v2/models//ready", "/v2/models/stats", "/v2/models/identity/nope"),
        *(f"/v2/models/{name}" for name in ("identity", "types", "words", "matrix", "doubling", "nope")),
        *(f"/v2/models/identity/versions/{version}" for version in ("1", "9", "x")),
        *(f"/v2/models/identity/versions/{version}/ready" for version in ("1", "9", "x")),
        *(f"/v2/models/{name}/ready" for name in ("identity", "nope")),
        *(f"/v2/models/{name}/config" for name in ("identity", "doubling", "running_sum", "nope")),
        *(f"/v2/models/{name}/stats" for name in ("identity", "identity/versions/1", "nope")),
        *("/v2/trace/setting", "/v2/models/identity/trace/setting", "/v2/models/nope/trace/setting", "/v2/logging"),
        *(f"/v2/{kind}sharedmemory/status" for kind in ("system", "cuda")),
        *(f"/v2/{kind}sharedmemory/region/x/status" for kind in ("system", "cuda")),
    ]
    for path in paths:
        yield "GET", path, None, {}


def _verbs() -> Rows:
    for verb in ("PUT", "DELETE", "OPTIONS"):
        for path in (_IDENTITY, "/v2/health/live"):
            yield verb, path, None, {}
    for path in (_IDENTITY, "/v2/repository/index", "/v2/systemsharedmemory/region/x/register"):
        yield "GET", path, None, {}
    for path in ("/v2", "/v2/health/ready", "/v2/models/identity", "/v2/models/stats", "/v2/cudasharedmemory/status"):
        yield "POST", path, b"{}", {}


def infer(told: Any, model: str = "identity") -> tuple[str, str, bytes, dict[str, str]]:
    """An inference."""
    return "POST", f"/v2/models/{model}/infer", _text(told), {}


def _inputs() -> Rows:
    nested = [
        [ONES],
        [[1] * 16],
        [ONES[:8], ONES[:8]],
        [[ONES[:8]], [ONES[:8]]],
        [ONES[:8], *ONES[:8]],
    ]
    wrong = [ONES[:5], [*ONES, 1], ["a"] * 16, [True] * 16, [None] * 16, [{}] * 16, [1.0] * 15 + ["x"], 5, "x", [], {}]
    for data in _each(*nested, *wrong):
        yield infer({"inputs": [{**INPUT, "data": data}]})
    for member in ("name", "datatype", "shape", "data"):
        yield infer({"inputs": [{key: value for key, value in INPUT.items() if key != member}]})
    for changed in _each(
        *(
            {"name": 5},
            {"name": "nope"},
            {"datatype": 5},
            {"datatype": "NOPE"},
            {"datatype": "INT32", "data": [1] * 16},
        ),
        *({"shape": shape} for shape in (5, ["1", 16], [1.0, 16], [-1, 16], [1, [16]], [16], [2, 8], [1, 1, 16])),
        *({"shape": [9, 16], "data": [1] * 144}, {"shape": [1, 8], "data": ONES[:8]}),
        *({"parameters": 5}, {"parameters": {"x": 1.5}}, {"datatype": "FP16"}, {"more": 1}),
    ):
        yield infer({"inputs": [{**INPUT, **changed}]})
    yield infer({"inputs": [INPUT]})
    yield infer({"inputs": [INPUT]}, "identity/versions/1")
    yield infer({"inputs": [INPUT]}, "identity/versions/9")
    yield infer({"inputs": [INPUT]}, "nope")
    yield infer({"inputs": [INPUT, INPUT]})
    yield infer(
        b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,16],"data":[NaN,1' + b",0" * 13 + b",Infinity]}]}"
    )


def _bodies() -> Rows:
    for told in _each(
        {"inputs": 5},
        {"inputs": [5]},
        {"inputs": []},
        {},
        [],
        5,
        b"{",
        b"{}x",
        b'{"a":1',
        b"\xff",
        b"[" * 5000,
    ):
        yield infer(told)
    for identity in _each("abc", "", 5, None):
        yield infer({"id": identity, "inputs": [INPUT]})


def _outputs() -> Rows:
    for outputs in _each(
        *([], 5, [{}], [5], [{"name": "nope"}], [{"name": "OUTPUT0"}], [{"name": 5}]),
        *([{"name": "OUTPUT0", "parameters": p}] for p in (5, {}, {"x": 1})),
        *([{"name": "OUTPUT0", "parameters": {"binary_data": v}}] for v in (True, False, 1, "x")),
        *([{"name": "OUTPUT0", "parameters": {"classification": v}}] for v in (2, 0, 20, -1, "x", 1.5)),
        [{"name": "OUTPUT0", "parameters": {"classification": 2, "binary_data": True}}],
    ):
        yield infer({"inputs": [INPUT], "outputs": outputs})


def _parameters() -> Rows:
    for parameters in _each(
        *({"x": value} for value in _each(1, -1, "a", True, 1.5, None, [1], {}, 2**63)),
        *({"sequence_id": value} for value in (5, "5", 1.5, -1, 0, "")),
        *({"sequence_start": True}, {"sequence_start": 1}, {"sequence_end": "x"}, {"headers": "x"}),
        *({"priority": value} for value in (1, -1, "x", 2**64)),
        *({"timeout": value} for value in (-1, "x", 1.5)),
        *({"triton_x": 1}, {"triton_enable_empty_final_response": True}),
        *({"binary_data_output": value} for value in (True, False, 5)),
        *(5, [], "x", {}),
    ):
        yield infer({"inputs": [INPUT], "parameters": parameters})
    for value in _each(True, False):
        named = [{"name": "OUTPUT0"}] if value else [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]
        yield infer({"inputs": [INPUT], "parameters": {"binary_data_output": value}, "outputs": named})


def _with_data(told: Any, data: bytes, model: str = "identity", length: str | None = None) -> Any:
    head = _text(told)
    headers = {_LENGTH: str(len(head)) if length is None else length}
    return "POST", f"/v2/models/{model}/infer", head + data, headers


def _sized(size: Any, **more: Any) -> dict[str, Any]:
    row = {key: value for key, value in INPUT.items() if key != "data"}
    return {"inputs": [{**row, "parameters": {"binary_data_size": size}, **more}]}


def _binary() -> Rows:
    yield _with_data(_sized(64), RAW)
    yield _with_data({**_sized(64), "parameters": {"binary_data_output": True}}, RAW)
    for size, data in _each((60, RAW), (70, RAW), (64, RAW + b"x"), ("64", RAW), (-1, RAW), (32, RAW[:32]), (64, b"")):
        yield _with_data(_sized(size), data)
    yield _with_data(_sized(64, data=ONES), RAW)
    for length in ("x", "-1", "99999", "3", "92x"):
        yield _with_data(_sized(64), RAW, length=length)
    yield infer(_text(_sized(64)) + RAW)
    words = {"inputs": [{"name": "IN0", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 11}}]}
    yield _with_data(words, _WORDS, "words")
    yield _with_data(words, _WORDS[:-1] + b"\xff", "words")
    yield _with_data(_sized(64), struct.pack("<16f", float("nan"), float("inf"), -float("inf"), *[0.1] * 13))


def _alone() -> Rows:
    """Binary data without JSON."""
    for model, data in (
        *(("identity", RAW), ("identity", RAW[:60]), ("add_sub", RAW), ("variable", RAW), ("matrix", RAW[:48])),
        *(("matrix", RAW), ("text", RAW), ("words", RAW), ("unbatched", RAW), ("nope", RAW)),
    ):
        yield "POST", f"/v2/models/{model}/infer", data, {_LENGTH: "0"}
    yield "POST", _IDENTITY, b"", {}


def _packed() -> Rows:
    body = _text({"inputs": [INPUT]})
    for encoding, content in (
        *(("gzip", gzip.compress(body)), ("deflate", zlib.compress(body)), ("br", body), ("identity", body)),
        *(("gzip", body), ("deflate", zlib.compress(body)[2:-4]), ("gzip, deflate", body)),
        ("gzip", gzip.compress(body)[:-6]),
    ):
        yield "POST", _IDENTITY, content, {"Content-Encoding": encoding}
    for accepted in ("gzip", "deflate", "gzip, deflate", "br", "*", "gzip;q=0", "deflate;q=1.0, gzip;q=0.5", ""):
        yield "POST", _IDENTITY, body, {"Accept-Encoding": accepted}
    head = _text(_sized(64))
    both = {"Content-Encoding": "gzip", _LENGTH: str(len(head)), "Accept-Encoding": "gzip"}
    yield "POST", _IDENTITY, gzip.compress(head + RAW), both


_KINDS = (
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES"),
)


def _types() -> Rows:
    """Every datatype as JSON, in and out, but FP16, which travels as binary data."""
    some: dict[str, list[Any]] = {
        "BOOL": [True, False, True],
        "UINT64": [0, 2**63, 2**64 - 1],
        "INT64": [-(2**63), 0, 2**63 - 1],
        "FP32": [1.5, 2, 1e-7],
        "FP64": [1.5, -2, 1e300],
        "BYTES": ["a", 'b"\\ä', ""],
    }
    inputs: list[dict[str, Any]] = []
    for i, kind in enumerate(_KINDS):
        row: dict[str, Any] = {"name": f"IN{i}", "datatype": kind, "shape": [1, 3]}
        inputs.append(
            row | ({"parameters": {"binary_data_size": 6}} if kind == "FP16" else {"data": some.get(kind, [1, 2, 100])})
        )
    outputs = [{"name": f"OUT{i}", "parameters": {"binary_data": kind == "FP16"}} for i, kind in enumerate(_KINDS)]
    yield _with_data({"inputs": inputs, "outputs": outputs}, b"\0\x3c" * 3, "types")
    yield _with_data({"inputs": inputs}, b"\0\x3c" * 3, "types")
    for i, data in _each(
        (0, [1, 0, 1]), (1, [-1, 1, 2]), (7, [1.5] * 3), (7, ["1"] * 3), (8, [2**70] * 3), (12, [1, 2, 3])
    ):
        yield infer({"inputs": [{"name": f"IN{i}", "datatype": _KINDS[i], "shape": [1, 3], "data": data}]}, "types")
    for data in _each(["x", "y"], [["x", "y"]], ["x"], ["x", "y", "z"], []):
        yield infer({"inputs": [{"name": "IN0", "datatype": "BYTES", "shape": [1, 2], "data": data}]}, "words")
    yield infer({"inputs": [{"name": "IN0", "datatype": "BYTES", "shape": [0], "data": []}]}, "text")
    for size, data in _each(("INT32", [2**31, 0, 0, 0]), ("INT32", [-(2**31), 0, 0, 0])):
        first = {"name": "IN0", "datatype": size, "shape": [2, 2], "data": data}
        second = {"name": "IN1", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
        yield infer({"inputs": [first, second]}, "unbatched")
    huge = {"inputs": [{**INPUT, "data": [1e300] * 16}]}
    yield infer(huge)


def _repository() -> Posts:
    index, models = "/v2/repository/index", "/v2/repository/models"
    for told in _each(b"", {}, {"ready": True}, {"ready": "x"}, b"{", []):
        yield index, _text(told)
    yield "/v2/repository/r/index", b"{}"
    yield f"{models}/nope/load", b""
    yield "/v2/repository/r/models/identity/load", b""
    for parameters in _each({"foo": 1}, {"foo": "x"}, {"config": 1}, {"config": "{"}, {"file:1/m": 5}, 5):
        yield f"{models}/identity/load", _text({"parameters": parameters})
    yield f"{models}/identity/load", b"{"
    yield f"{models}/identity/load", _text({"parameters": {"file:1/m": base64.b64encode(b"x").decode()}})
    yield f"{models}/identity/load", b'{"x": 1}'
    yield f"{models}/nope/unload", b""
    for parameters in _each({"unload_dependents": "x"}, {"foo": 1}, {"unload_dependents": True}):
        yield f"{models}/nope/unload", _text({"parameters": parameters})
    yield "/v2/repository/r/models/nope/unload", b""
    yield f"{models}/matrix/unload", b""
    yield f"{models}/matrix/load", b""
    yield f"{models}/matrix/nope", b""


def _regions() -> Posts:
    for kind in ("system", "cuda"):
        path = f"/v2/{kind}sharedmemory"
        yield f"{path}/register", b"{}"
        for told in _each(b"", b"{", {}, {"key": "/no-such-key", "byte_size": 64}, {"key": "/nope"}):
            yield f"{path}/region/x/register", _text(told)
        for told in _each({"key": 5, "byte_size": 64}, {"key": "/n", "byte_size": "64"}):
            yield f"{path}/region/x/register", _text(told)
        yield f"{path}/region/x/unregister", b""
        yield f"{path}/unregister", b""
        yield f"{path}/region/x/nope", b""
    for handle in _each("eA==", "!"):
        told = {"raw_handle": {"b64": handle}, "device_id": 0, "byte_size": 64}
        yield "/v2/cudasharedmemory/region/x/register", _text(told)
    some = {"shared_memory_region": "nope", "shared_memory_byte_size": 64}
    without = {key: value for key, value in INPUT.items() if key != "data"}
    for parameters in _each(
        *(some, {"shared_memory_region": 5}, {"shared_memory_byte_size": 64}, {"shared_memory_offset": 0}),
        *({**some, "shared_memory_byte_size": "x"}, {**some, "shared_memory_offset": "x"}),
        *({**some, "classification": 1}, {**some, "binary_data_size": 64}, {**some, "binary_data": True}),
    ):
        yield _IDENTITY, _text({"inputs": [{**without, "parameters": parameters}]})
        yield _IDENTITY, _text({"inputs": [INPUT], "outputs": [{"name": "OUTPUT0", "parameters": parameters}]})
    yield _IDENTITY, _text({"inputs": [{**INPUT, "parameters": some}]})


def _settings() -> Posts:
    trace = "/v2/trace/setting"
    for told in _each(
        *(b"", b"{", {}, {"trace_rate": "5"}, {"trace_rate": 5}, {"trace_rate": ["5"]}, {"trace_rate": None}),
        *({"trace_level": ["TIMESTAMPS"]}, {"trace_level": "TIMESTAMPS"}, {"trace_level": [5]}, {"trace_level": []}),
        *({"trace_level": ["OFF"]}, {"trace_level": None}, {"nope": "x"}, {"trace_file": "x"}, {"trace_mode": "x"}),
    ):
        yield trace, _text(told)
    for model, told in _each(("nope", {}), ("identity", {"trace_count": "7"}), ("identity", {"trace_count": None})):
        yield f"/v2/models/{model}{trace.removeprefix('/v2')}", _text(told)
    for told in _each(
        *(b"", b"{", [], {}, {"log_info": True}, {"log_info": 1}, {"log_file": "x"}, {"log_file": 5}),
        *({"log_verbose_level": value} for value in (1, 0, -1, "x")),
        *({"log_format": value} for value in ("nope", 5, "ISO8601")),
        {"nope": 5},
    ):
        yield "/v2/logging", _text(told)


def _stateful() -> Posts:
    for value, parameters in _each(
        (1, {"sequence_id": 5, "sequence_start": True}),
        (2, {"sequence_id": 5, "sequence_end": True}),
        (2, {"sequence_id": 5}),
        (2, {}),
    ):
        row = {"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        yield "/v2/models/running_sum/infer", _text({"inputs": [row], "parameters": parameters})
    decoupled = {"name": "IN", "datatype": "INT32", "shape": [2], "data": [1, 2]}
    yield "/v2/models/repeat/infer", _text({"inputs": [decoupled]})
    yield "/v2/models/repeat/infer", b"{"
    ensemble = {"name": "X", "datatype": "INT32", "shape": [1, 16], "data": [1] * 16}
    yield "/v2/models/doubling/infer", _text({"inputs": [ensemble]})
