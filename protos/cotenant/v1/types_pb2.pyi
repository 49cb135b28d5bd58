from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RejectReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REJECT_REASON_UNSPECIFIED: _ClassVar[RejectReason]
    REJECT_REASON_QUEUE_FULL: _ClassVar[RejectReason]
    REJECT_REASON_EXPIRED_IN_QUEUE: _ClassVar[RejectReason]
    REJECT_REASON_PREDICTED_MISS: _ClassVar[RejectReason]
    REJECT_REASON_MODEL_UNAVAILABLE: _ClassVar[RejectReason]
    REJECT_REASON_EXECUTOR_LOST: _ClassVar[RejectReason]
    REJECT_REASON_SCHEDULER_LOST: _ClassVar[RejectReason]
    REJECT_REASON_SHUTTING_DOWN: _ClassVar[RejectReason]
    REJECT_REASON_CANCELLED: _ClassVar[RejectReason]
    REJECT_REASON_STAGING_FULL: _ClassVar[RejectReason]
    REJECT_REASON_INPUTS_MISSING: _ClassVar[RejectReason]
    REJECT_REASON_EXECUTION_FAILED: _ClassVar[RejectReason]
    REJECT_REASON_WINDOW_PASSED: _ClassVar[RejectReason]
    REJECT_REASON_QUOTA_EXCEEDED: _ClassVar[RejectReason]
REJECT_REASON_UNSPECIFIED: RejectReason
REJECT_REASON_QUEUE_FULL: RejectReason
REJECT_REASON_EXPIRED_IN_QUEUE: RejectReason
REJECT_REASON_PREDICTED_MISS: RejectReason
REJECT_REASON_MODEL_UNAVAILABLE: RejectReason
REJECT_REASON_EXECUTOR_LOST: RejectReason
REJECT_REASON_SCHEDULER_LOST: RejectReason
REJECT_REASON_SHUTTING_DOWN: RejectReason
REJECT_REASON_CANCELLED: RejectReason
REJECT_REASON_STAGING_FULL: RejectReason
REJECT_REASON_INPUTS_MISSING: RejectReason
REJECT_REASON_EXECUTION_FAILED: RejectReason
REJECT_REASON_WINDOW_PASSED: RejectReason
REJECT_REASON_QUOTA_EXCEEDED: RejectReason

class BatchClass(_message.Message):
    __slots__ = ("model", "version", "batch_size", "shape_bucket")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    batch_size: int
    shape_bucket: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., batch_size: _Optional[int] = ..., shape_bucket: _Optional[str] = ...) -> None: ...

class StagedTensors(_message.Message):
    __slots__ = ("segment", "offset", "byte_size")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BYTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    segment: str
    offset: int
    byte_size: int
    def __init__(self, segment: _Optional[str] = ..., offset: _Optional[int] = ..., byte_size: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "offset", "byte_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BYTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    byte_size: int
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ..., byte_size: _Optional[int] = ...) -> None: ...

class TensorSet(_message.Message):
    __slots__ = ("tensors", "requested_outputs", "explain")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    requested_outputs: _containers.RepeatedScalarFieldContainer[str]
    explain: bool
    def __init__(self, tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., requested_outputs: _Optional[_Iterable[str]] = ..., explain: bool = ...) -> None: ...

class Forecast(_message.Message):
    __slots__ = ("work_ns", "duration_ns", "bound_ns", "level", "estimates_version", "co_runner_count")
    WORK_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    BOUND_NS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_VERSION_FIELD_NUMBER: _ClassVar[int]
    CO_RUNNER_COUNT_FIELD_NUMBER: _ClassVar[int]
    work_ns: int
    duration_ns: int
    bound_ns: int
    level: float
    estimates_version: int
    co_runner_count: int
    def __init__(self, work_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ..., bound_ns: _Optional[int] = ..., level: _Optional[float] = ..., estimates_version: _Optional[int] = ..., co_runner_count: _Optional[int] = ...) -> None: ...

class Slice(_message.Message):
    __slots__ = ("duration_ns", "co_runners", "co_runner_elapsed_ns")
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    CO_RUNNERS_FIELD_NUMBER: _ClassVar[int]
    CO_RUNNER_ELAPSED_NS_FIELD_NUMBER: _ClassVar[int]
    duration_ns: int
    co_runners: _containers.RepeatedCompositeFieldContainer[BatchClass]
    co_runner_elapsed_ns: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, duration_ns: _Optional[int] = ..., co_runners: _Optional[_Iterable[_Union[BatchClass, _Mapping]]] = ..., co_runner_elapsed_ns: _Optional[_Iterable[int]] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ("end", "demand", "kernel_ns")
    END_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    KERNEL_NS_FIELD_NUMBER: _ClassVar[int]
    end: float
    demand: _containers.RepeatedScalarFieldContainer[float]
    kernel_ns: float
    def __init__(self, end: _Optional[float] = ..., demand: _Optional[_Iterable[float]] = ..., kernel_ns: _Optional[float] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("sent_ns",)
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    sent_ns: int
    def __init__(self, sent_ns: _Optional[int] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("ping_sent_ns", "received_ns", "sent_ns")
    PING_SENT_NS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_NS_FIELD_NUMBER: _ClassVar[int]
    SENT_NS_FIELD_NUMBER: _ClassVar[int]
    ping_sent_ns: int
    received_ns: int
    sent_ns: int
    def __init__(self, ping_sent_ns: _Optional[int] = ..., received_ns: _Optional[int] = ..., sent_ns: _Optional[int] = ...) -> None: ...

class Device(_message.Message):
    __slots__ = ("device_id", "kind", "name", "memory_bytes", "max_concurrency", "resources")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    kind: str
    name: str
    memory_bytes: int
    max_concurrency: int
    resources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, device_id: _Optional[str] = ..., kind: _Optional[str] = ..., name: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., max_concurrency: _Optional[int] = ..., resources: _Optional[_Iterable[str]] = ...) -> None: ...

class OutputLabels(_message.Message):
    __slots__ = ("output", "labels")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    output: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, output: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelOverride(_message.Message):
    __slots__ = ("config_json", "files")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    config_json: str
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, config_json: _Optional[str] = ..., files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...
