"""All of the protocol but inference: which path is which method, its body as a message, its answer as JSON."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cotenant.frontend.errors import invalid
from cotenant.frontend.rest import values
from cotenant.frontend.rest.values import expect, members
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime.plain import plain

Names = Mapping[str, str]  # what a path names: model, version, region, repository
_MODEL = r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[0-9]+))?"
_REPOSITORY = r"/v2/repository(/(?P<repository>[^/]+))?"


@dataclass(frozen=True)
class Route:
    """One path of the protocol."""

    path: "re.Pattern[str]"
    verbs: Mapping[str, str]  # HTTP's verb -> the method that it calls
    request: Callable[[Names, Any], Any]  # of what the path names and the JSON of the body, None without one
    answer: Callable[[Any], Any]  # what JSON shows of the method's answer; None for an empty body
    ready: str = ""  # the field that decides between 200 and 400
    body: bool = False  # whether it is an error to send none


def _routes() -> list[Route]:
    get, post = "GET", "POST"
    return [
        _route("/v2/health/live", {get: "ServerLive"}, _nothing(pb.ServerLiveRequest), plain, ready="live"),
        _route("/v2/health/ready", {get: "ServerReady"}, _nothing(pb.ServerReadyRequest), plain, ready="ready"),
        _route("/v2", {get: "ServerMetadata"}, _nothing(pb.ServerMetadataRequest), plain),
        _route("/v2/models/stats", {get: "ModelStatistics"}, _nothing(pb.ModelStatisticsRequest), plain),
        _route(_MODEL, {get: "ModelMetadata"}, _model(pb.ModelMetadataRequest), plain),
        _route(f"{_MODEL}/ready", {get: "ModelReady"}, _model(pb.ModelReadyRequest), plain, ready="ready"),
        _route(f"{_MODEL}/config", {get: "ModelConfig"}, _model(pb.ModelConfigRequest), lambda a: plain(a.config)),
        _route(f"{_MODEL}/stats", {get: "ModelStatistics"}, _model(pb.ModelStatisticsRequest), plain),
        _route("/v2/trace/setting", {get: "TraceSetting", post: "TraceSetting"}, _trace, _traced, body=True),
        _route(f"{_MODEL}/trace/setting", {get: "TraceSetting", post: "TraceSetting"}, _trace, _traced, body=True),
        _route("/v2/logging", {get: "LogSettings", post: "LogSettings"}, _log, _logged, body=True),
        _route(f"{_REPOSITORY}/index", {post: "RepositoryIndex"}, _index, _indexed),
        _route(f"{_REPOSITORY}/models/(?P<model>[^/]+)/load", {post: "RepositoryModelLoad"}, _load, _empty),
        _route(f"{_REPOSITORY}/models/(?P<model>[^/]+)/unload", {post: "RepositoryModelUnload"}, _unload, _empty),
        *_regions("system", "System", _system),
        *_regions("cuda", "Cuda", _cuda),
    ]


def _route(path: str, verbs: Mapping[str, str], request: Any, answer: Any, **more: Any) -> Route:
    return Route(re.compile(path), verbs, request, answer, **more)


def _regions(kind: str, prefix: str, register: Callable[[Names, Any], Any]) -> list[Route]:
    path = rf"/v2/{kind}sharedmemory(/region/(?P<region>[^/]+))?"
    status, unregister = (getattr(pb, f"{prefix}SharedMemory{verb}Request") for verb in ("Status", "Unregister"))
    return [
        _route(f"{path}/status", {"GET": f"{prefix}SharedMemoryStatus"}, _region(status), _listed),
        _route(f"{path}/register", {"POST": f"{prefix}SharedMemoryRegister"}, register, _empty, body=True),
        _route(f"{path}/unregister", {"POST": f"{prefix}SharedMemoryUnregister"}, _region(unregister), _empty),
    ]


def find(path: str) -> tuple[Route, dict[str, str]] | None:
    """The route of a path and what it names, or None."""
    for route in ROUTES:
        if found := route.path.fullmatch(path):
            return route, {key: value for key, value in found.groupdict().items() if value}
    return None


def _empty(answer: Any) -> None:
    del answer


def _nothing(message: Any) -> Callable[[Names, Any], Any]:
    def of_nothing(names: Names, told: Any) -> Any:
        del names, told
        return message()

    return of_nothing


def _model(message: Any) -> Callable[[Names, Any], Any]:
    def of_model(names: Names, told: Any) -> Any:
        del told
        return message(name=names["model"], version=names.get("version", ""))

    return of_model


def _region(message: Any) -> Callable[[Names, Any], Any]:
    def of_region(names: Names, told: Any) -> Any:
        del told
        return message(name=names.get("region", ""))

    return of_region


# ---- settings


def _trace(names: Names, told: Any) -> pb.TraceSettingRequest:
    """A setting is a text, or several as trace_level is; null takes it back."""
    request = pb.TraceSettingRequest(model_name=names.get("model", ""))
    for key, value in values.parameters(told).items():
        setting = request.settings[key]
        if value is None or key not in _TRACE_KEYS:
            continue
        several = expect(value, "array") if key == "trace_level" else [value]
        setting.value.extend(expect(one, "string") for one in several)
    return request


_TRACE_KEYS = ("trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file")


def _traced(answer: pb.TraceSettingResponse) -> dict[str, Any]:
    found = {key: list(setting.value) for key, setting in answer.settings.items()}
    return {key: value if key == "trace_level" else "".join(value) for key, value in found.items()}


def _log(names: Names, told: Any) -> pb.LogSettingsRequest:
    del names
    request = pb.LogSettingsRequest()
    told = values.parameters(told)
    for key in told.keys() & _LOG_KINDS.keys():
        kind, field = _LOG_KINDS[key]
        if key == "log_file":  # which cannot be set, whatever it is
            told[key] = ""
        setattr(request.settings[key], field, expect(told[key], kind))
    return request


_LOG_KINDS = {
    "log_file": ("string", "string_param"),
    "log_info": ("boolean", "bool_param"),
    "log_warning": ("boolean", "bool_param"),
    "log_error": ("boolean", "bool_param"),
    "log_verbose_level": ("unsigned", "uint32_param"),
    "log_format": ("string", "string_param"),
}


def _logged(answer: pb.LogSettingsResponse) -> dict[str, Any]:
    return {key: getattr(value, value.WhichOneof("parameter_choice") or "") for key, value in answer.settings.items()}


# ---- the repository


def _index(names: Names, told: Any) -> pb.RepositoryIndexRequest:
    """Triton does not mind which repository a path names."""
    del names
    return pb.RepositoryIndexRequest(ready=expect(values.parameters(told).get("ready", False), "boolean"))


def _indexed(answer: pb.RepositoryIndexResponse) -> list[dict[str, Any]]:
    return [{key: value for key, value in plain(model).items() if value} for model in answer.models]


def _load(names: Names, told: Any) -> pb.RepositoryModelLoadRequest:
    """Files come in base64."""
    request = pb.RepositoryModelLoadRequest(repository_name=names.get("repository", ""), model_name=names["model"])
    for key, value in members(values.parameters(told).get("parameters", {})).items():
        text = expect(value, "string")
        if key.startswith("file:"):
            request.parameters[key].bytes_param = _unpacked(text, f"load parameter '{key}' must be base64")
        else:
            request.parameters[key].string_param = text
    return request


def _unload(names: Names, told: Any) -> pb.RepositoryModelUnloadRequest:
    request = pb.RepositoryModelUnloadRequest(repository_name=names.get("repository", ""), model_name=names["model"])
    dependents = values.parameters(values.parameters(told).get("parameters")).get("unload_dependents")
    if isinstance(dependents, bool):
        request.parameters["unload_dependents"].bool_param = dependents
    return request


# ---- shared memory


def _system(names: Names, told: Any) -> pb.SystemSharedMemoryRegisterRequest:
    told = _registered(names, told, "system", "key", "byte_size")
    return pb.SystemSharedMemoryRegisterRequest(
        name=names["region"],
        key=expect(told["key"], "string"),
        offset=expect(told.get("offset", 0), "unsigned"),
        byte_size=expect(told["byte_size"], "unsigned"),
    )


def _cuda(names: Names, told: Any) -> pb.CudaSharedMemoryRegisterRequest:
    told = _registered(names, told, "cuda", "raw_handle", "device_id", "byte_size")
    handle = expect(values.parameters(told["raw_handle"]).get("b64", values.MISSING), "string", "b64")
    return pb.CudaSharedMemoryRegisterRequest(
        name=names["region"],
        raw_handle=_unpacked(handle, "'raw_handle' must be a valid base64 encoded cudaIpcMemHandle_t"),
        device_id=min(expect(told["device_id"], "unsigned"), 2**63 - 1),
        byte_size=expect(told["byte_size"], "unsigned"),
    )


def _registered(names: Names, told: Any, kind: str, *keys: str) -> dict[str, Any]:
    """The members of a registration, of which some must be there."""
    if "region" not in names:
        raise invalid(f"'region name' is necessary to register {kind} shared memory region")
    found = values.parameters(told)
    for key in keys:
        if key not in found:
            raise invalid(f"Shared memory register request has no '{key}' field")
    return found


def _listed(answer: Any) -> list[dict[str, Any]]:
    return [plain(region) for region in answer.regions.values()]


def _unpacked(text: str, otherwise: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(otherwise) from error


ROUTES = _routes()


def infer_path() -> "re.Pattern[str]":
    """The path of inference, which is not in the table: its bodies are not JSON alone."""
    return re.compile(f"{_MODEL}/infer")
