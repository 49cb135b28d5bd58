"""Calls that both servers must answer alike, written by hand: every method, and what goes wrong with each."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from cotenant.inference import inference_pb2 as pb
from frontend_stack import infer_request, vector
from oracle import infer_corpus as infer
from oracle.comparing import Call
from oracle.infer_corpus import WRONG_VERSIONS, put, put_region

KNOWN = (
    "identity",
    "types",
    "unbatched",
    "text",
    "words",
    "variable",
    "matrix",
    "optional",
    "slow",
    "add_sub",
    "running_sum",
    "doubling",
    "repeat",
)


def calls() -> Iterator[Call]:
    """All of them, with names that tell what they are about."""
    for group in (
        _health,
        _metadata,
        _statistics,
        _repository,
        _settings,
        _regions,
        _infers,
        _streams,
        _decoupled,
        _stateful,
    ):
        for i, (name, method, request) in enumerate(group()):
            yield Call(f"{group.__name__[1:]} {i}: {name}", method, request)


Rows = Iterator[tuple[str, str, Any]]


def _health() -> Rows:
    yield "live", "ServerLive", pb.ServerLiveRequest()
    yield "ready", "ServerReady", pb.ServerReadyRequest()
    for name in ("identity", "nope", ""):
        for version in ("", *WRONG_VERSIONS):
            yield f"ready {name} {version!r}", "ModelReady", pb.ModelReadyRequest(name=name, version=version)


def _metadata() -> Rows:
    yield "server", "ServerMetadata", pb.ServerMetadataRequest()
    for name in (*KNOWN, "nope", ""):
        yield f"of {name}", "ModelMetadata", pb.ModelMetadataRequest(name=name)
    for version in WRONG_VERSIONS:
        yield f"version {version!r}", "ModelMetadata", pb.ModelMetadataRequest(name="identity", version=version)
        yield f"config {version!r}", "ModelConfig", pb.ModelConfigRequest(name="identity", version=version)
    for name in ("nope", ""):
        yield f"config of {name}", "ModelConfig", pb.ModelConfigRequest(name=name)


def _statistics() -> Rows:
    for name, version in (("identity", ""), ("identity", "1"), ("nope", ""), ("nope", "1"), ("", ""), ("", "1")):
        yield f"{name} {version!r}", "ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version)
    for version in WRONG_VERSIONS:
        yield f"version {version!r}", "ModelStatistics", pb.ModelStatisticsRequest(name="identity", version=version)


def _parameter(value: bool | int | str | bytes) -> pb.ModelRepositoryParameter:
    made = pb.ModelRepositoryParameter()
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", bytes: "bytes_param"}
    setattr(made, fields[type(value)], value)
    return made


def _load(name: str = "nope", repository: str = "", **parameters: Any) -> pb.RepositoryModelLoadRequest:
    keys = {key.replace("__", ":").replace("_slash_", "/"): _parameter(value) for key, value in parameters.items()}
    return pb.RepositoryModelLoadRequest(repository_name=repository, model_name=name, parameters=keys)


def _repository() -> Rows:
    yield "index", "RepositoryIndex", pb.RepositoryIndexRequest()
    yield "index ready", "RepositoryIndex", pb.RepositoryIndexRequest(ready=True)
    yield "index of a repository", "RepositoryIndex", pb.RepositoryIndexRequest(repository_name="r")
    yield "load nothing", "RepositoryModelLoad", _load("")
    yield "load unknown", "RepositoryModelLoad", _load()
    yield "load by repository", "RepositoryModelLoad", _load(repository="r")
    for key in ("foo", "unload_dependents", "Config", "files:x"):
        request = _load("identity")
        request.parameters[key].bool_param = True
        yield f"load parameter {key}", "RepositoryModelLoad", request
    yield "config of a wrong type", "RepositoryModelLoad", _load("identity", config=True)
    yield "file of a wrong type", "RepositoryModelLoad", _load("identity", file__1_slash_model="text")
    yield "config that is no JSON", "RepositoryModelLoad", _load("identity", config="{")
    yield "config with unknown fields", "RepositoryModelLoad", _load("identity", config='{"no_such_field": 1}')
    yield "file without config", "RepositoryModelLoad", _load("identity", file__1_slash_model=b"x")
    yield "still served", "ModelReady", pb.ModelReadyRequest(name="identity")
    unload = pb.RepositoryModelUnloadRequest
    yield "unload unknown", "RepositoryModelUnload", unload(model_name="nope")
    yield "unload nothing", "RepositoryModelUnload", unload()
    yield "unload by repository", "RepositoryModelUnload", unload(repository_name="r", model_name="nope")
    for parameter, value in (("unload_dependents", "yes"), ("unload_dependents", True), ("foo", True)):
        parameters = {parameter: _parameter(value)}
        yield f"unload {parameter} {value}", "RepositoryModelUnload", unload(model_name="nope", parameters=parameters)
    yield "unload", "RepositoryModelUnload", unload(model_name="matrix")
    yield "unloaded: ready", "ModelReady", pb.ModelReadyRequest(name="matrix")
    yield "unloaded: infer", "ModelInfer", infer_request("matrix", IN0=np.ones((2, 3), np.int64))
    yield (
        "unloaded: version",
        "ModelInfer",
        infer.versioned(infer_request("matrix", IN0=np.ones((2, 3), np.int64)), "1"),
    )
    yield "unloaded: metadata", "ModelMetadata", pb.ModelMetadataRequest(name="matrix")
    yield "unloaded: metadata of a version", "ModelMetadata", pb.ModelMetadataRequest(name="matrix", version="1")
    yield "unloaded: config", "ModelConfig", pb.ModelConfigRequest(name="matrix")
    yield "unloaded: statistics", "ModelStatistics", pb.ModelStatisticsRequest(name="matrix")
    yield "unloaded: index", "RepositoryIndex", pb.RepositoryIndexRequest()
    yield "load again", "RepositoryModelLoad", _load("matrix")
    yield "loaded: infer", "ModelInfer", infer_request("matrix", IN0=np.ones((2, 3), np.int64))


def _settings() -> Rows:
    yield from _logging()
    yield from _tracing()


def _logging() -> Rows:
    yield "log", "LogSettings", pb.LogSettingsRequest()
    values: dict[str, tuple[Any, ...]] = {
        "log_file": ("x",),
        "log_info": (False, True, 1, "x"),
        "log_warning": (False, True, "x"),
        "log_error": (False, True, 1),
        "log_verbose_level": (1, 0, "x", True),
        "log_format": ("ISO8601", "default", "iso", 1),
        "no_such_setting": (1,),
    }
    for key, some in values.items():
        for value in some:
            request = pb.LogSettingsRequest()
            field = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(request.settings[key], field, value)
            yield f"{key} {value!r}", "LogSettings", request


def _tracing() -> Rows:
    yield "trace", "TraceSetting", pb.TraceSettingRequest()
    yield "trace of a model", "TraceSetting", pb.TraceSettingRequest(model_name="identity")
    yield "trace of an unknown model", "TraceSetting", pb.TraceSettingRequest(model_name="nope")
    values: dict[str, tuple[tuple[str, ...], ...]] = {
        "trace_level": (("TIMESTAMPS",), ("TENSORS",), ("OFF", "TENSORS"), ("LOUD",), ("OFF",), ("TIMESTAMPS",), ()),
        "trace_rate": (("500",), ("x",), ("1", "2"), ("99999999999999999999",), ("0",), ("5x",), ()),
        "trace_count": (("5",), ("-1",), ("-2",), ("x",), ("1", "2"), ("99999999999999999999",), ()),
        "log_frequency": (("10",), ("x",), ("1", "2"), ("99999999999999999999",), ()),
        "trace_file": (("x",), ()),
        "trace_mode": (("opentelemetry",), ("x",)),
        "no_such_setting": (("x",),),
    }
    for model in ("", "identity"):
        for key, some in values.items():
            for value in some:
                request = pb.TraceSettingRequest(model_name=model)
                request.settings[key].value.extend(value)
                yield f"{model} {key} {value}", "TraceSetting", request
        yield f"{model} in the end", "TraceSetting", pb.TraceSettingRequest(model_name=model)
    yield "in the end", "TraceSetting", pb.TraceSettingRequest()


def _regions() -> Rows:
    status, register = pb.SystemSharedMemoryStatusRequest, pb.SystemSharedMemoryRegisterRequest
    yield "no region", "SystemSharedMemoryStatus", status()
    yield "unknown region", "SystemSharedMemoryStatus", status(name="nope")
    yield "unregister unknown", "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="nope")
    yield "unregister all", "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest()
    yield "no cuda region", "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()
    yield "unknown cuda region", "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="nope")
    yield "unregister cuda", "CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="nope")
    yield "unregister all cuda", "CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest()
    cuda = pb.CudaSharedMemoryRegisterRequest(name="c", raw_handle=b"x" * 64, byte_size=64)
    yield "register cuda", "CudaSharedMemoryRegister", cuda
    yield "no such key", "SystemSharedMemoryRegister", register(name="r", key="/no-such-key", byte_size=64)
    yield "no key", "SystemSharedMemoryRegister", register(name="r", byte_size=64)
    x = vector()
    unknown = infer_request("identity", INPUT0=x)
    del unknown.raw_input_contents[:]
    put_region(unknown.inputs[0], "nope", 64)
    yield "infer from an unknown region", "ModelInfer", unknown
    for parameters in _region_parameters():
        request = infer_request("identity", INPUT0=x)
        del request.raw_input_contents[:]
        put(request.inputs[0], parameters)
        yield f"input {parameters}", "ModelInfer", request
        request = infer_request("identity", INPUT0=x)
        output = request.outputs.add(name="OUTPUT0")
        put(output, parameters)
        yield f"output {parameters}", "ModelInfer", request


def _region_parameters() -> list[dict[str, Any]]:
    region, size, offset = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
    return [
        {region: 5},
        {region: "nope"},
        {size: 64},
        {offset: 0},
        {region: "nope", size: "x"},
        {region: "nope", size: 64, offset: "x"},
        {region: "nope", size: 64, "classification": 1},
    ]


def _infers() -> Rows:
    for name, request in (
        *infer.well(),
        *infer.names(),
        *infer.shapes(),
        *infer.contents(),
        *infer.requested(),
        *infer.parameters(),
    ):
        yield name, "ModelInfer", request


def _streams() -> Rows:
    good = infer_request("identity", INPUT0=vector(3.0))
    good.id = "good"
    unknown = infer_request("nope", INPUT0=vector())
    unknown.id = "unknown"
    yield "one", "ModelStreamInfer", [good]
    yield "three", "ModelStreamInfer", [good] * 3
    yield "none", "ModelStreamInfer", []
    yield "an error in between", "ModelStreamInfer", [good, unknown, good]
    for value in (True, False):
        flagged = infer.changed(partial(infer.with_parameter, "triton_enable_empty_final_response", value))
        yield f"final response {value}", "ModelStreamInfer", [flagged]
    for name, request in infer.wrong():
        yield f"error or answer: {name}", "ModelStreamInfer", [request]


def _decoupled() -> Rows:
    for values, how in (
        *(([1, 2, 3], ""), ([], ""), ([1, 2], "flagged"), ([], "flagged"), ([1, -2, 3], ""), ([-1], "")),
        *(([1], "raises"), ([], "raises")),
    ):
        for empty in (None, False, True):
            request = _repeat(values, how)
            if empty is not None:
                request.parameters["triton_enable_empty_final_response"].bool_param = empty
            yield f"{values} {how} {empty}", "ModelStreamInfer", [request]
    some = _repeat([1, 2], "")
    some.outputs.add(name="INDEX")
    yield "one output", "ModelStreamInfer", [some]
    wrong = _repeat([1, 2], "")
    wrong.outputs.add(name="NOPE")
    yield "an unknown output", "ModelStreamInfer", [wrong]
    yield "a wrong shape", "ModelStreamInfer", [infer_request("repeat", IN=np.ones((1, 2), np.int32))]
    yield "alone", "ModelInfer", _repeat([1], "")
    yield "alone and wrong", "ModelInfer", infer_request("repeat")
    yield "config", "ModelConfig", pb.ModelConfigRequest(name="repeat")
    yield "ready", "ModelReady", pb.ModelReadyRequest(name="repeat")


def _repeat(values: list[int], how: str) -> pb.ModelInferRequest:
    arrays = {"HOW": np.array([how.encode()], object)} if how else {}
    request = infer_request("repeat", IN=np.array(values, np.int32), **arrays)
    request.id = "r"
    return request


def _stateful() -> Rows:
    for name, request in (*infer.sequences(), *infer.ensembles()):
        yield name, "ModelInfer", request
    yield (
        "sequence in a stream",
        "ModelStreamInfer",
        [infer.part(1, 3, start=True), infer.part(2, 3), infer.part(3, 3, end=True)],
    )
    for model in ("running_sum", "doubling"):
        yield f"config of {model}", "ModelConfig", pb.ModelConfigRequest(name=model)
        yield f"ready {model}", "ModelReady", pb.ModelReadyRequest(name=model)
