"""The same call to two servers, and what they answered, in a form that can be compared."""

import re
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format

from cotenant.inference import inference_pb2 as pb
from frontend_stack import RawClient
from oracle.tritonserver import TritonServer

DIFFERENCES = Path(__file__).with_name("differences.toml")
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Call:
    """A call by name: a method and its request, or the requests of a stream."""

    name: str
    method: str
    request: Any

    @property
    def streams(self) -> bool:
        """Whether `request` is the requests of a stream."""
        return self.method == "ModelStreamInfer"


@dataclass(frozen=True)
class Difference:
    """A difference that is meant. Patterns must match the whole of what was answered."""

    id: str
    method: str
    theirs: "re.Pattern[str]"
    here: "re.Pattern[str]"
    differ: bool = False  # the groups of the two patterns must differ: another input, another parameter

    def explains(self, call: Call, theirs: str, ours: str) -> bool:
        """Whether this is what differs."""
        there, here = self.theirs.fullmatch(theirs), self.here.fullmatch(ours)
        if re.fullmatch(self.method, call.method) is None or not there or not here:
            return False
        return not self.differ or there.groups() != here.groups()


def intended() -> list[Difference]:
    """The list in differences.toml."""
    rows = tomllib.loads(DIFFERENCES.read_text(encoding="utf-8")).get("difference", [])
    return [
        Difference(
            row["id"],
            row["method"],
            re.compile(row["theirs"], re.DOTALL),
            re.compile(row["here"], re.DOTALL),
            row.get("differ", False),
        )
        for row in rows
        if "method" in row
    ]


def ask(client: RawClient, call: Call) -> str:
    """What a server answers, in one text: the status and its message, or the answer itself, normalised."""
    try:
        if call.streams:
            answers = client.ModelStreamInfer(iter(call.request), timeout=TIMEOUT_S)
            return "OK: " + " | ".join(_text(call.method, answer) for answer in answers)
        return "OK: " + _text(call.method, getattr(client, call.method)(call.request, timeout=TIMEOUT_S))
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


def _text(method: str, answer: Any) -> str:
    shown = json_format.MessageToDict(answer, preserving_proto_field_name=True)
    return str(in_order(_NORMALISED.get(method, lambda same: same)(shown)))


def in_order(value: Any) -> Any:
    """The value with the keys of every object sorted."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(one) for one in value] if isinstance(value, list) else value


def server(shown: dict[str, Any]) -> dict[str, Any]:
    """Names and versions differ of course; extensions are a set."""
    return {"extensions": sorted(shown.get("extensions", []))}


def metadata(shown: dict[str, Any]) -> dict[str, Any]:
    return shown | {"platform": "any"}


def config(shown: dict[str, Any]) -> dict[str, Any]:
    """Backends differ of course; what else Triton completes is listed as `completed-configuration`."""
    found = dict(shown["config"])
    for key in ("backend", "platform", "default_model_filename", "instance_group", "optimization"):
        found.pop(key, None)
    found.get("sequence_batching", {}).pop("state", None)  # a Python backend keeps its state by itself
    if not found.get("model_transaction_policy", True):
        del found["model_transaction_policy"]
    for batching in (found.get("dynamic_batching", {}), found.get("sequence_batching", {}).get("oldest", {})):
        if batching.get("preferred_batch_size") == [found.get("max_batch_size")]:
            del batching["preferred_batch_size"]
    return found


def _statistics(shown: dict[str, Any]) -> dict[str, Any]:
    """Which rows and which fields there are, without times; counts of what was served."""
    return {
        "rows": sorted((row["name"], row["version"]) for row in shown.get("model_stats", [])),
    }


def _infer(shown: dict[str, Any]) -> dict[str, Any]:
    """Outputs by name: their order is the backend's."""
    outputs, raw = shown.pop("outputs", []), shown.pop("raw_output_contents", [])
    return shown | {"outputs": sorted(zip((str(in_order(one)) for one in outputs), raw, strict=True))}


def _stream(shown: dict[str, Any]) -> dict[str, Any]:
    """What we tell of an error beside Triton's text has parameters of its own."""
    parameters = shown.get("infer_response", {}).get("parameters", {})
    for key in [key for key in parameters if key.startswith("cotenant_")]:
        del parameters[key]
    if shown.get("error_message") and not parameters:
        shown.get("infer_response", {}).pop("parameters", None)
    if "outputs" in shown.get("infer_response", {}):
        shown["infer_response"] = _infer(shown["infer_response"])
    return shown


_NORMALISED = {
    "ModelInfer": _infer,
    "ServerMetadata": server,
    "ModelMetadata": metadata,
    "ModelConfig": config,
    "ModelStatistics": _statistics,
    "ModelStreamInfer": _stream,
}


class Oracle:
    """The other server, which some calls kill: it is started again then, and its answer is "DIED"."""

    def __init__(self, server: TritonServer) -> None:
        self.server = server
        self._client = RawClient(server.url)

    def ask(self, call: Call) -> str:
        """What it answers."""
        told = ask(self._client, call)
        if not told.startswith("UNAVAILABLE") or not self._died():
            return told
        self._client.close()
        self.server.stop()
        self.server.start()
        self._client = RawClient(self.server.url)
        return "DIED"

    def _died(self) -> bool:
        process = self.server.process
        assert process is not None
        try:
            return process.wait(1.0) != 0
        except subprocess.TimeoutExpired:
            return False

    def close(self) -> None:
        """Ends the connection, not the server."""
        self._client.close()


@dataclass
class Comparison:
    """Calls put to both servers: how many, what differed on purpose, and what without a reason."""

    theirs: Oracle
    ours: RawClient
    differences: Sequence[Difference]
    count: int = 0
    explained: dict[str, int] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)

    def put(self, call: Call) -> bool:
        """Puts a call to both; False where they differ without a reason."""
        self.count += 1
        theirs, ours = self.theirs.ask(call), ask(self.ours, call)
        if theirs == ours:
            return True
        for difference in self.differences:
            if difference.explains(call, theirs, ours):
                self.explained[difference.id] = self.explained.get(difference.id, 0) + 1
                return True
        self.unexplained.append(f"{call.name} ({call.method})\n  triton: {theirs}\n  ours:   {ours}")
        return False


def infer(model: str, *, version: str = "", id: str = "", outputs: Sequence[str] = ()) -> pb.ModelInferRequest:  # noqa: A002
    """An inference request without inputs."""
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    for name in outputs:
        request.outputs.add(name=name)
    return request
