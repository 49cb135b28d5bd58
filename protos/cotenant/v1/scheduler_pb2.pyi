from cotenant.v1 import executor_pb2 as _executor_pb2
from cotenant.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelAvailability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_AVAILABILITY_UNSPECIFIED: _ClassVar[ModelAvailability]
    MODEL_AVAILABILITY_KNOWN: _ClassVar[ModelAvailability]
    MODEL_AVAILABILITY_LOADING: _ClassVar[ModelAvailability]
    MODEL_AVAILABILITY_READY: _ClassVar[ModelAvailability]
    MODEL_AVAILABILITY_UNLOADING: _ClassVar[ModelAvailability]
    MODEL_AVAILABILITY_UNAVAILABLE: _ClassVar[ModelAvailability]
MODEL_AVAILABILITY_UNSPECIFIED: ModelAvailability
MODEL_AVAILABILITY_KNOWN: ModelAvailability
MODEL_AVAILABILITY_LOADING: ModelAvailability
MODEL_AVAILABILITY_READY: ModelAvailability
MODEL_AVAILABILITY_UNLOADING: ModelAvailability
MODEL_AVAILABILITY_UNAVAILABLE: ModelAvailability

class ConnectFrontendRequest(_message.Message):
    __slots__ = ("hello", "submits", "cancels", "attachments", "ping", "statistics", "tenant_statistics")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENTS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    TENANT_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    hello: FrontendHello
    submits: _containers.RepeatedCompositeFieldContainer[Submit]
    cancels: _containers.RepeatedCompositeFieldContainer[Cancel]
    attachments: _containers.RepeatedCompositeFieldContainer[Attachment]
    ping: _types_pb2.Ping
    statistics: _containers.RepeatedCompositeFieldContainer[FrontendStatistics]
    tenant_statistics: _containers.RepeatedCompositeFieldContainer[TenantStatistics]
    def __init__(self, hello: _Optional[_Union[FrontendHello, _Mapping]] = ..., submits: _Optional[_Iterable[_Union[Submit, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[Cancel, _Mapping]]] = ..., attachments: _Optional[_Iterable[_Union[Attachment, _Mapping]]] = ..., ping: _Optional[_Union[_types_pb2.Ping, _Mapping]] = ..., statistics: _Optional[_Iterable[_Union[FrontendStatistics, _Mapping]]] = ..., tenant_statistics: _Optional[_Iterable[_Union[TenantStatistics, _Mapping]]] = ...) -> None: ...

class FrontendHello(_message.Message):
    __slots__ = ("frontend_id", "clock_id", "version")
    FRONTEND_ID_FIELD_NUMBER: _ClassVar[int]
    CLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    frontend_id: int
    clock_id: str
    version: str
    def __init__(self, frontend_id: _Optional[int] = ..., clock_id: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request_id", "attempt", "model", "version", "batch_size", "shape_bucket", "arrival_ns", "deadline_ns", "priority", "tensors", "traceparent", "tenant", "client_request_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_BUCKET_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_NS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    attempt: int
    model: str
    version: str
    batch_size: int
    shape_bucket: str
    arrival_ns: int
    deadline_ns: int
    priority: int
    tensors: _types_pb2.StagedTensors
    traceparent: str
    tenant: str
    client_request_id: str
    def __init__(self, request_id: _Optional[int] = ..., attempt: _Optional[int] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., batch_size: _Optional[int] = ..., shape_bucket: _Optional[str] = ..., arrival_ns: _Optional[int] = ..., deadline_ns: _Optional[int] = ..., priority: _Optional[int] = ..., tensors: _Optional[_Union[_types_pb2.StagedTensors, _Mapping]] = ..., traceparent: _Optional[str] = ..., tenant: _Optional[str] = ..., client_request_id: _Optional[str] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    def __init__(self, request_id: _Optional[int] = ...) -> None: ...

class Attachment(_message.Message):
    __slots__ = ("device_id", "incarnation", "attached")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    incarnation: int
    attached: bool
    def __init__(self, device_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., attached: bool = ...) -> None: ...

class FrontendStatistics(_message.Message):
    __slots__ = ("model", "in_time", "late", "refused", "failed", "answer_overhead_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_OVERHEAD_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    in_time: int
    late: int
    refused: int
    failed: int
    answer_overhead_ns: int
    def __init__(self, model: _Optional[str] = ..., in_time: _Optional[int] = ..., late: _Optional[int] = ..., refused: _Optional[int] = ..., failed: _Optional[int] = ..., answer_overhead_ns: _Optional[int] = ...) -> None: ...

class TenantStatistics(_message.Message):
    __slots__ = ("tenant", "in_time", "late", "refused", "failed")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    in_time: int
    late: int
    refused: int
    failed: int
    def __init__(self, tenant: _Optional[str] = ..., in_time: _Optional[int] = ..., late: _Optional[int] = ..., refused: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class ConnectFrontendResponse(_message.Message):
    __slots__ = ("hello", "executors", "models", "assigns", "refusals", "pong", "tenants")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    EXECUTORS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNS_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    hello: SchedulerHello
    executors: _containers.RepeatedCompositeFieldContainer[ExecutorState]
    models: _containers.RepeatedCompositeFieldContainer[ModelState]
    assigns: _containers.RepeatedCompositeFieldContainer[Assign]
    refusals: _containers.RepeatedCompositeFieldContainer[Refusal]
    pong: _types_pb2.Pong
    tenants: KnownTenants
    def __init__(self, hello: _Optional[_Union[SchedulerHello, _Mapping]] = ..., executors: _Optional[_Iterable[_Union[ExecutorState, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[ModelState, _Mapping]]] = ..., assigns: _Optional[_Iterable[_Union[Assign, _Mapping]]] = ..., refusals: _Optional[_Iterable[_Union[Refusal, _Mapping]]] = ..., pong: _Optional[_Union[_types_pb2.Pong, _Mapping]] = ..., tenants: _Optional[_Union[KnownTenants, _Mapping]] = ...) -> None: ...

class KnownTenants(_message.Message):
    __slots__ = ("names", "others")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    others: int
    def __init__(self, names: _Optional[_Iterable[str]] = ..., others: _Optional[int] = ...) -> None: ...

class SchedulerHello(_message.Message):
    __slots__ = ("epoch", "clock_id", "version")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    clock_id: str
    version: str
    def __init__(self, epoch: _Optional[int] = ..., clock_id: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ExecutorState(_message.Message):
    __slots__ = ("device", "incarnation", "address", "lost")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    device: _types_pb2.Device
    incarnation: int
    address: str
    lost: bool
    def __init__(self, device: _Optional[_Union[_types_pb2.Device, _Mapping]] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., lost: bool = ...) -> None: ...

class ModelState(_message.Message):
    __slots__ = ("model", "version", "availability", "reason", "model_config", "device_ids", "memory_bytes", "load_ns", "labels")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_CONFIG_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_NS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    availability: ModelAvailability
    reason: str
    model_config: bytes
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    memory_bytes: int
    load_ns: int
    labels: _containers.RepeatedCompositeFieldContainer[_types_pb2.OutputLabels]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., availability: _Optional[_Union[ModelAvailability, str]] = ..., reason: _Optional[str] = ..., model_config: _Optional[bytes] = ..., device_ids: _Optional[_Iterable[str]] = ..., memory_bytes: _Optional[int] = ..., load_ns: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[_types_pb2.OutputLabels, _Mapping]]] = ...) -> None: ...

class Assign(_message.Message):
    __slots__ = ("request_id", "attempt", "device_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    attempt: int
    device_id: str
    def __init__(self, request_id: _Optional[int] = ..., attempt: _Optional[int] = ..., device_id: _Optional[str] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("request_id", "attempt", "reason", "predicted_finish_ns", "earliest_possible_ns", "message", "retry_after_ns", "quota")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FINISH_NS_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_POSSIBLE_NS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_NS_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    attempt: int
    reason: _types_pb2.RejectReason
    predicted_finish_ns: int
    earliest_possible_ns: int
    message: str
    retry_after_ns: int
    quota: str
    def __init__(self, request_id: _Optional[int] = ..., attempt: _Optional[int] = ..., reason: _Optional[_Union[_types_pb2.RejectReason, str]] = ..., predicted_finish_ns: _Optional[int] = ..., earliest_possible_ns: _Optional[int] = ..., message: _Optional[str] = ..., retry_after_ns: _Optional[int] = ..., quota: _Optional[str] = ...) -> None: ...

class ConnectExecutorRequest(_message.Message):
    __slots__ = ("hello", "events", "ping")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    hello: ExecutorHello
    events: _containers.RepeatedCompositeFieldContainer[_executor_pb2.ExecutorEvent]
    ping: _types_pb2.Ping
    def __init__(self, hello: _Optional[_Union[ExecutorHello, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_executor_pb2.ExecutorEvent, _Mapping]]] = ..., ping: _Optional[_Union[_types_pb2.Ping, _Mapping]] = ...) -> None: ...

class ExecutorHello(_message.Message):
    __slots__ = ("device", "incarnation", "address", "clock_id", "version", "held", "loaded", "profiles", "repository")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    device: _types_pb2.Device
    incarnation: int
    address: str
    clock_id: str
    version: str
    held: _containers.RepeatedCompositeFieldContainer[HeldBatch]
    loaded: _containers.RepeatedCompositeFieldContainer[_executor_pb2.ModelLoaded]
    profiles: _containers.RepeatedCompositeFieldContainer[_executor_pb2.ClassProfiled]
    repository: _executor_pb2.RepositoryScanned
    def __init__(self, device: _Optional[_Union[_types_pb2.Device, _Mapping]] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ..., clock_id: _Optional[str] = ..., version: _Optional[str] = ..., held: _Optional[_Iterable[_Union[HeldBatch, _Mapping]]] = ..., loaded: _Optional[_Iterable[_Union[_executor_pb2.ModelLoaded, _Mapping]]] = ..., profiles: _Optional[_Iterable[_Union[_executor_pb2.ClassProfiled, _Mapping]]] = ..., repository: _Optional[_Union[_executor_pb2.RepositoryScanned, _Mapping]] = ...) -> None: ...

class HeldBatch(_message.Message):
    __slots__ = ("launch", "started_ns")
    LAUNCH_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    launch: Launch
    started_ns: int
    def __init__(self, launch: _Optional[_Union[Launch, _Mapping]] = ..., started_ns: _Optional[int] = ...) -> None: ...

class ConnectExecutorResponse(_message.Message):
    __slots__ = ("hello", "launches", "loads", "unloads", "windows", "scan_repository", "acknowledged_sequence", "pong")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    LAUNCHES_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    UNLOADS_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    SCAN_REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    hello: SchedulerHello
    launches: _containers.RepeatedCompositeFieldContainer[Launch]
    loads: _containers.RepeatedCompositeFieldContainer[LoadModel]
    unloads: _containers.RepeatedCompositeFieldContainer[UnloadModel]
    windows: _containers.RepeatedCompositeFieldContainer[GrantWindow]
    scan_repository: bool
    acknowledged_sequence: int
    pong: _types_pb2.Pong
    def __init__(self, hello: _Optional[_Union[SchedulerHello, _Mapping]] = ..., launches: _Optional[_Iterable[_Union[Launch, _Mapping]]] = ..., loads: _Optional[_Iterable[_Union[LoadModel, _Mapping]]] = ..., unloads: _Optional[_Iterable[_Union[UnloadModel, _Mapping]]] = ..., windows: _Optional[_Iterable[_Union[GrantWindow, _Mapping]]] = ..., scan_repository: bool = ..., acknowledged_sequence: _Optional[int] = ..., pong: _Optional[_Union[_types_pb2.Pong, _Mapping]] = ...) -> None: ...

class Launch(_message.Message):
    __slots__ = ("batch_id", "batch_class", "requests", "earliest_start_ns", "latest_start_ns", "forecast", "deadline_ns")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_START_NS_FIELD_NUMBER: _ClassVar[int]
    LATEST_START_NS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    batch_class: _types_pb2.BatchClass
    requests: _containers.RepeatedCompositeFieldContainer[LaunchedRequest]
    earliest_start_ns: int
    latest_start_ns: int
    forecast: _types_pb2.Forecast
    deadline_ns: int
    def __init__(self, batch_id: _Optional[int] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., requests: _Optional[_Iterable[_Union[LaunchedRequest, _Mapping]]] = ..., earliest_start_ns: _Optional[int] = ..., latest_start_ns: _Optional[int] = ..., forecast: _Optional[_Union[_types_pb2.Forecast, _Mapping]] = ..., deadline_ns: _Optional[int] = ...) -> None: ...

class LaunchedRequest(_message.Message):
    __slots__ = ("request_id", "attempt", "batch_size", "tensors", "traceparent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    attempt: int
    batch_size: int
    tensors: _types_pb2.StagedTensors
    traceparent: str
    def __init__(self, request_id: _Optional[int] = ..., attempt: _Optional[int] = ..., batch_size: _Optional[int] = ..., tensors: _Optional[_Union[_types_pb2.StagedTensors, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class LoadModel(_message.Message):
    __slots__ = ("model", "override")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    model: str
    override: _types_pb2.ModelOverride
    def __init__(self, model: _Optional[str] = ..., override: _Optional[_Union[_types_pb2.ModelOverride, _Mapping]] = ...) -> None: ...

class UnloadModel(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GrantWindow(_message.Message):
    __slots__ = ("window_id", "until_ns")
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    UNTIL_NS_FIELD_NUMBER: _ClassVar[int]
    window_id: int
    until_ns: int
    def __init__(self, window_id: _Optional[int] = ..., until_ns: _Optional[int] = ...) -> None: ...

class LoadModelRequest(_message.Message):
    __slots__ = ("model", "override")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    model: str
    override: _types_pb2.ModelOverride
    def __init__(self, model: _Optional[str] = ..., override: _Optional[_Union[_types_pb2.ModelOverride, _Mapping]] = ...) -> None: ...

class LoadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnloadModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class UnloadModelResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelState]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelState, _Mapping]]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("now_ns", "uptime_ns", "policy", "observe_only", "estimates_version", "predictor_connected", "frontend_count", "devices", "models", "decision_count", "decision_ns", "misses", "tenants", "settings_revision")
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_NS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_VERSION_FIELD_NUMBER: _ClassVar[int]
    PREDICTOR_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_COUNT_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DECISION_COUNT_FIELD_NUMBER: _ClassVar[int]
    DECISION_NS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_REVISION_FIELD_NUMBER: _ClassVar[int]
    now_ns: int
    uptime_ns: int
    policy: str
    observe_only: bool
    estimates_version: int
    predictor_connected: bool
    frontend_count: int
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    decision_count: int
    decision_ns: int
    misses: _containers.RepeatedCompositeFieldContainer[Miss]
    tenants: _containers.RepeatedCompositeFieldContainer[TenantStatus]
    settings_revision: int
    def __init__(self, now_ns: _Optional[int] = ..., uptime_ns: _Optional[int] = ..., policy: _Optional[str] = ..., observe_only: bool = ..., estimates_version: _Optional[int] = ..., predictor_connected: bool = ..., frontend_count: _Optional[int] = ..., devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., decision_count: _Optional[int] = ..., decision_ns: _Optional[int] = ..., misses: _Optional[_Iterable[_Union[Miss, _Mapping]]] = ..., tenants: _Optional[_Iterable[_Union[TenantStatus, _Mapping]]] = ..., settings_revision: _Optional[int] = ...) -> None: ...

class Miss(_message.Message):
    __slots__ = ("request_id", "client_request_id", "model", "version", "age_ns", "reason", "message", "predicted_ns", "budget_ns", "answered_ns", "launched_ns", "duration_ns", "forecast")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_NS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_NS_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_NS_FIELD_NUMBER: _ClassVar[int]
    LAUNCHED_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    client_request_id: str
    model: str
    version: str
    age_ns: int
    reason: _types_pb2.RejectReason
    message: str
    predicted_ns: int
    budget_ns: int
    answered_ns: int
    launched_ns: int
    duration_ns: int
    forecast: _types_pb2.Forecast
    def __init__(self, request_id: _Optional[int] = ..., client_request_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., age_ns: _Optional[int] = ..., reason: _Optional[_Union[_types_pb2.RejectReason, str]] = ..., message: _Optional[str] = ..., predicted_ns: _Optional[int] = ..., budget_ns: _Optional[int] = ..., answered_ns: _Optional[int] = ..., launched_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ..., forecast: _Optional[_Union[_types_pb2.Forecast, _Mapping]] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("device", "online", "running", "queued", "busy_ns", "batch_ns", "memory_used_bytes", "state")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    BUSY_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_NS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    device: _types_pb2.Device
    online: bool
    running: _containers.RepeatedCompositeFieldContainer[RunningStatus]
    queued: int
    busy_ns: int
    batch_ns: int
    memory_used_bytes: int
    state: _executor_pb2.DeviceState
    def __init__(self, device: _Optional[_Union[_types_pb2.Device, _Mapping]] = ..., online: bool = ..., running: _Optional[_Iterable[_Union[RunningStatus, _Mapping]]] = ..., queued: _Optional[int] = ..., busy_ns: _Optional[int] = ..., batch_ns: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., state: _Optional[_Union[_executor_pb2.DeviceState, _Mapping]] = ...) -> None: ...

class RunningStatus(_message.Message):
    __slots__ = ("batch_id", "batch_class", "elapsed_ns", "remaining_ns")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_NS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_NS_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    batch_class: _types_pb2.BatchClass
    elapsed_ns: int
    remaining_ns: int
    def __init__(self, batch_id: _Optional[int] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., elapsed_ns: _Optional[int] = ..., remaining_ns: _Optional[int] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("model", "version", "availability", "slo_ns", "queued", "in_time", "late", "refused", "failed", "batches", "items", "prediction_error", "bound_coverage", "slowdown", "would_refuse")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    SLO_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ERROR_FIELD_NUMBER: _ClassVar[int]
    BOUND_COVERAGE_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    WOULD_REFUSE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    availability: ModelAvailability
    slo_ns: int
    queued: int
    in_time: int
    late: int
    refused: int
    failed: int
    batches: int
    items: int
    prediction_error: float
    bound_coverage: float
    slowdown: float
    would_refuse: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., availability: _Optional[_Union[ModelAvailability, str]] = ..., slo_ns: _Optional[int] = ..., queued: _Optional[int] = ..., in_time: _Optional[int] = ..., late: _Optional[int] = ..., refused: _Optional[int] = ..., failed: _Optional[int] = ..., batches: _Optional[int] = ..., items: _Optional[int] = ..., prediction_error: _Optional[float] = ..., bound_coverage: _Optional[float] = ..., slowdown: _Optional[float] = ..., would_refuse: _Optional[int] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("model", "request_id", "trace_id", "client_request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: int
    trace_id: str
    client_request_id: str
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[int] = ..., trace_id: _Optional[str] = ..., client_request_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("request_id", "other_request_ids", "log")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OTHER_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    other_request_ids: _containers.RepeatedScalarFieldContainer[int]
    log: bytes
    def __init__(self, request_id: _Optional[int] = ..., other_request_ids: _Optional[_Iterable[int]] = ..., log: _Optional[bytes] = ...) -> None: ...

class TenantStatus(_message.Message):
    __slots__ = ("tenant", "weight", "pending", "in_time", "late", "refused", "failed", "over_quota", "work_ns")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    IN_TIME_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    OVER_QUOTA_FIELD_NUMBER: _ClassVar[int]
    WORK_NS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    weight: float
    pending: int
    in_time: int
    late: int
    refused: int
    failed: int
    over_quota: int
    work_ns: int
    def __init__(self, tenant: _Optional[str] = ..., weight: _Optional[float] = ..., pending: _Optional[int] = ..., in_time: _Optional[int] = ..., late: _Optional[int] = ..., refused: _Optional[int] = ..., failed: _Optional[int] = ..., over_quota: _Optional[int] = ..., work_ns: _Optional[int] = ...) -> None: ...

class Settings(_message.Message):
    __slots__ = ("revision", "policy", "level", "observe_only", "max_pending", "answer_overhead_ns", "max_tenants", "fair_turn_ns", "models", "tenants")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    ANSWER_OVERHEAD_NS_FIELD_NUMBER: _ClassVar[int]
    MAX_TENANTS_FIELD_NUMBER: _ClassVar[int]
    FAIR_TURN_NS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    policy: str
    level: float
    observe_only: bool
    max_pending: int
    answer_overhead_ns: int
    max_tenants: int
    fair_turn_ns: int
    models: _containers.RepeatedCompositeFieldContainer[ModelSettings]
    tenants: _containers.RepeatedCompositeFieldContainer[TenantSettings]
    def __init__(self, revision: _Optional[int] = ..., policy: _Optional[str] = ..., level: _Optional[float] = ..., observe_only: bool = ..., max_pending: _Optional[int] = ..., answer_overhead_ns: _Optional[int] = ..., max_tenants: _Optional[int] = ..., fair_turn_ns: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelSettings, _Mapping]]] = ..., tenants: _Optional[_Iterable[_Union[TenantSettings, _Mapping]]] = ...) -> None: ...

class ModelSettings(_message.Message):
    __slots__ = ("model", "slo_ns", "priority_levels", "default_priority", "max_queue_size", "max_queue_delay_ns")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SLO_NS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_LEVELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_DELAY_NS_FIELD_NUMBER: _ClassVar[int]
    model: str
    slo_ns: int
    priority_levels: int
    default_priority: int
    max_queue_size: int
    max_queue_delay_ns: int
    def __init__(self, model: _Optional[str] = ..., slo_ns: _Optional[int] = ..., priority_levels: _Optional[int] = ..., default_priority: _Optional[int] = ..., max_queue_size: _Optional[int] = ..., max_queue_delay_ns: _Optional[int] = ...) -> None: ...

class TenantSettings(_message.Message):
    __slots__ = ("tenant", "weight", "requests_per_s", "burst_requests", "device_share", "burst_work_ns", "max_pending")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    BURST_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_SHARE_FIELD_NUMBER: _ClassVar[int]
    BURST_WORK_NS_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    weight: float
    requests_per_s: float
    burst_requests: int
    device_share: float
    burst_work_ns: int
    max_pending: int
    def __init__(self, tenant: _Optional[str] = ..., weight: _Optional[float] = ..., requests_per_s: _Optional[float] = ..., burst_requests: _Optional[int] = ..., device_share: _Optional[float] = ..., burst_work_ns: _Optional[int] = ..., max_pending: _Optional[int] = ...) -> None: ...

class GetSettingsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSettingsResponse(_message.Message):
    __slots__ = ("settings",)
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    settings: Settings
    def __init__(self, settings: _Optional[_Union[Settings, _Mapping]] = ...) -> None: ...

class UpdateSettingsRequest(_message.Message):
    __slots__ = ("expected_revision", "policy", "level", "observe_only", "max_pending", "answer_overhead_ns", "max_tenants", "fair_turn_ns", "models", "tenants", "reset_models", "reset_tenants")
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    MAX_PENDING_FIELD_NUMBER: _ClassVar[int]
    ANSWER_OVERHEAD_NS_FIELD_NUMBER: _ClassVar[int]
    MAX_TENANTS_FIELD_NUMBER: _ClassVar[int]
    FAIR_TURN_NS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    RESET_MODELS_FIELD_NUMBER: _ClassVar[int]
    RESET_TENANTS_FIELD_NUMBER: _ClassVar[int]
    expected_revision: int
    policy: str
    level: float
    observe_only: bool
    max_pending: int
    answer_overhead_ns: int
    max_tenants: int
    fair_turn_ns: int
    models: _containers.RepeatedCompositeFieldContainer[ModelSettings]
    tenants: _containers.RepeatedCompositeFieldContainer[TenantSettings]
    reset_models: _containers.RepeatedScalarFieldContainer[str]
    reset_tenants: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, expected_revision: _Optional[int] = ..., policy: _Optional[str] = ..., level: _Optional[float] = ..., observe_only: bool = ..., max_pending: _Optional[int] = ..., answer_overhead_ns: _Optional[int] = ..., max_tenants: _Optional[int] = ..., fair_turn_ns: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelSettings, _Mapping]]] = ..., tenants: _Optional[_Iterable[_Union[TenantSettings, _Mapping]]] = ..., reset_models: _Optional[_Iterable[str]] = ..., reset_tenants: _Optional[_Iterable[str]] = ...) -> None: ...

class UpdateSettingsResponse(_message.Message):
    __slots__ = ("settings",)
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    settings: Settings
    def __init__(self, settings: _Optional[_Union[Settings, _Mapping]] = ...) -> None: ...
