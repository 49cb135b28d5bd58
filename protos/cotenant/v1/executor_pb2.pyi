from cotenant.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProfileBasis(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROFILE_BASIS_UNSPECIFIED: _ClassVar[ProfileBasis]
    PROFILE_BASIS_NSIGHT: _ClassVar[ProfileBasis]
    PROFILE_BASIS_OPERATORS: _ClassVar[ProfileBasis]
    PROFILE_BASIS_MODEL: _ClassVar[ProfileBasis]
    PROFILE_BASIS_OUTSIDE: _ClassVar[ProfileBasis]
    PROFILE_BASIS_EMULATED: _ClassVar[ProfileBasis]

class ThrottleReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    THROTTLE_REASON_UNSPECIFIED: _ClassVar[ThrottleReason]
    THROTTLE_REASON_GPU_IDLE: _ClassVar[ThrottleReason]
    THROTTLE_REASON_APPLICATION_CLOCKS: _ClassVar[ThrottleReason]
    THROTTLE_REASON_POWER_CAP: _ClassVar[ThrottleReason]
    THROTTLE_REASON_HARDWARE_SLOWDOWN: _ClassVar[ThrottleReason]
    THROTTLE_REASON_SYNC_BOOST: _ClassVar[ThrottleReason]
    THROTTLE_REASON_SOFTWARE_THERMAL: _ClassVar[ThrottleReason]
    THROTTLE_REASON_HARDWARE_THERMAL: _ClassVar[ThrottleReason]
    THROTTLE_REASON_HARDWARE_POWER_BRAKE: _ClassVar[ThrottleReason]
    THROTTLE_REASON_DISPLAY_CLOCKS: _ClassVar[ThrottleReason]
    THROTTLE_REASON_BOARD_LIMIT: _ClassVar[ThrottleReason]
    THROTTLE_REASON_RELIABILITY: _ClassVar[ThrottleReason]
PROFILE_BASIS_UNSPECIFIED: ProfileBasis
PROFILE_BASIS_NSIGHT: ProfileBasis
PROFILE_BASIS_OPERATORS: ProfileBasis
PROFILE_BASIS_MODEL: ProfileBasis
PROFILE_BASIS_OUTSIDE: ProfileBasis
PROFILE_BASIS_EMULATED: ProfileBasis
THROTTLE_REASON_UNSPECIFIED: ThrottleReason
THROTTLE_REASON_GPU_IDLE: ThrottleReason
THROTTLE_REASON_APPLICATION_CLOCKS: ThrottleReason
THROTTLE_REASON_POWER_CAP: ThrottleReason
THROTTLE_REASON_HARDWARE_SLOWDOWN: ThrottleReason
THROTTLE_REASON_SYNC_BOOST: ThrottleReason
THROTTLE_REASON_SOFTWARE_THERMAL: ThrottleReason
THROTTLE_REASON_HARDWARE_THERMAL: ThrottleReason
THROTTLE_REASON_HARDWARE_POWER_BRAKE: ThrottleReason
THROTTLE_REASON_DISPLAY_CLOCKS: ThrottleReason
THROTTLE_REASON_BOARD_LIMIT: ThrottleReason
THROTTLE_REASON_RELIABILITY: ThrottleReason

class ExchangeRequest(_message.Message):
    __slots__ = ("hello", "stages", "releases", "cancelled_request_ids", "forgotten_request_ids")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    hello: ExchangeHello
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    releases: _containers.RepeatedCompositeFieldContainer[Release]
    cancelled_request_ids: _containers.RepeatedScalarFieldContainer[int]
    forgotten_request_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, hello: _Optional[_Union[ExchangeHello, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., releases: _Optional[_Iterable[_Union[Release, _Mapping]]] = ..., cancelled_request_ids: _Optional[_Iterable[int]] = ..., forgotten_request_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ExchangeHello(_message.Message):
    __slots__ = ("frontend_id", "segment", "nonce")
    FRONTEND_ID_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    frontend_id: int
    segment: str
    nonce: bytes
    def __init__(self, frontend_id: _Optional[int] = ..., segment: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("request_id", "attempt", "tensors", "data")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    attempt: int
    tensors: _types_pb2.TensorSet
    data: bytes
    def __init__(self, request_id: _Optional[int] = ..., attempt: _Optional[int] = ..., tensors: _Optional[_Union[_types_pb2.TensorSet, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("offset",)
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    offset: int
    def __init__(self, offset: _Optional[int] = ...) -> None: ...

class ExchangeResponse(_message.Message):
    __slots__ = ("welcome", "answers")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    welcome: ExchangeWelcome
    answers: _containers.RepeatedCompositeFieldContainer[Answer]
    def __init__(self, welcome: _Optional[_Union[ExchangeWelcome, _Mapping]] = ..., answers: _Optional[_Iterable[_Union[Answer, _Mapping]]] = ...) -> None: ...

class ExchangeWelcome(_message.Message):
    __slots__ = ("device_id", "incarnation", "attached", "segment", "nonce")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    incarnation: int
    attached: bool
    segment: str
    nonce: bytes
    def __init__(self, device_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., attached: bool = ..., segment: _Optional[str] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("request_id", "attempt", "reason", "message", "outputs", "staged", "inline", "execution", "response_index", "more")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_INDEX_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    attempt: int
    reason: _types_pb2.RejectReason
    message: str
    outputs: _types_pb2.TensorSet
    staged: _types_pb2.StagedTensors
    inline: bytes
    execution: Execution
    response_index: int
    more: bool
    def __init__(self, request_id: _Optional[int] = ..., attempt: _Optional[int] = ..., reason: _Optional[_Union[_types_pb2.RejectReason, str]] = ..., message: _Optional[str] = ..., outputs: _Optional[_Union[_types_pb2.TensorSet, _Mapping]] = ..., staged: _Optional[_Union[_types_pb2.StagedTensors, _Mapping]] = ..., inline: _Optional[bytes] = ..., execution: _Optional[_Union[Execution, _Mapping]] = ..., response_index: _Optional[int] = ..., more: bool = ...) -> None: ...

class Execution(_message.Message):
    __slots__ = ("batch_id", "batch_size", "first_of_batch", "started_ns", "input_ns", "infer_ns", "output_ns", "forecast", "slices")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    FIRST_OF_BATCH_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    INPUT_NS_FIELD_NUMBER: _ClassVar[int]
    INFER_NS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    batch_size: int
    first_of_batch: bool
    started_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    forecast: _types_pb2.Forecast
    slices: _containers.RepeatedCompositeFieldContainer[_types_pb2.Slice]
    def __init__(self, batch_id: _Optional[int] = ..., batch_size: _Optional[int] = ..., first_of_batch: bool = ..., started_ns: _Optional[int] = ..., input_ns: _Optional[int] = ..., infer_ns: _Optional[int] = ..., output_ns: _Optional[int] = ..., forecast: _Optional[_Union[_types_pb2.Forecast, _Mapping]] = ..., slices: _Optional[_Iterable[_Union[_types_pb2.Slice, _Mapping]]] = ...) -> None: ...

class ExecutorEvent(_message.Message):
    __slots__ = ("sequence", "at_ns", "batch_started", "batch_finished", "batch_dropped", "kernel_timings", "model_loaded", "model_load_failed", "model_unloaded", "class_profiled", "window_requested", "window_released", "repository_scanned", "model_load_ended", "device_state", "draining")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_NS_FIELD_NUMBER: _ClassVar[int]
    BATCH_STARTED_FIELD_NUMBER: _ClassVar[int]
    BATCH_FINISHED_FIELD_NUMBER: _ClassVar[int]
    BATCH_DROPPED_FIELD_NUMBER: _ClassVar[int]
    KERNEL_TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_LOADED_FIELD_NUMBER: _ClassVar[int]
    MODEL_LOAD_FAILED_FIELD_NUMBER: _ClassVar[int]
    MODEL_UNLOADED_FIELD_NUMBER: _ClassVar[int]
    CLASS_PROFILED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    WINDOW_RELEASED_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_SCANNED_FIELD_NUMBER: _ClassVar[int]
    MODEL_LOAD_ENDED_FIELD_NUMBER: _ClassVar[int]
    DEVICE_STATE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    at_ns: int
    batch_started: BatchStarted
    batch_finished: BatchFinished
    batch_dropped: BatchDropped
    kernel_timings: KernelTimings
    model_loaded: ModelLoaded
    model_load_failed: ModelLoadFailed
    model_unloaded: ModelUnloaded
    class_profiled: ClassProfiled
    window_requested: WindowRequested
    window_released: WindowReleased
    repository_scanned: RepositoryScanned
    model_load_ended: ModelLoadEnded
    device_state: DeviceState
    draining: Draining
    def __init__(self, sequence: _Optional[int] = ..., at_ns: _Optional[int] = ..., batch_started: _Optional[_Union[BatchStarted, _Mapping]] = ..., batch_finished: _Optional[_Union[BatchFinished, _Mapping]] = ..., batch_dropped: _Optional[_Union[BatchDropped, _Mapping]] = ..., kernel_timings: _Optional[_Union[KernelTimings, _Mapping]] = ..., model_loaded: _Optional[_Union[ModelLoaded, _Mapping]] = ..., model_load_failed: _Optional[_Union[ModelLoadFailed, _Mapping]] = ..., model_unloaded: _Optional[_Union[ModelUnloaded, _Mapping]] = ..., class_profiled: _Optional[_Union[ClassProfiled, _Mapping]] = ..., window_requested: _Optional[_Union[WindowRequested, _Mapping]] = ..., window_released: _Optional[_Union[WindowReleased, _Mapping]] = ..., repository_scanned: _Optional[_Union[RepositoryScanned, _Mapping]] = ..., model_load_ended: _Optional[_Union[ModelLoadEnded, _Mapping]] = ..., device_state: _Optional[_Union[DeviceState, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BatchStarted(_message.Message):
    __slots__ = ("batch_id", "batch_class", "forecast")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    batch_class: _types_pb2.BatchClass
    forecast: _types_pb2.Forecast
    def __init__(self, batch_id: _Optional[int] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., forecast: _Optional[_Union[_types_pb2.Forecast, _Mapping]] = ...) -> None: ...

class BatchFinished(_message.Message):
    __slots__ = ("batch_id", "batch_class", "started_ns", "duration_ns", "input_ns", "output_ns", "slices", "forecast", "failed", "timed")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    INPUT_NS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    FORECAST_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TIMED_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    batch_class: _types_pb2.BatchClass
    started_ns: int
    duration_ns: int
    input_ns: int
    output_ns: int
    slices: _containers.RepeatedCompositeFieldContainer[_types_pb2.Slice]
    forecast: _types_pb2.Forecast
    failed: bool
    timed: bool
    def __init__(self, batch_id: _Optional[int] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., started_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ..., input_ns: _Optional[int] = ..., output_ns: _Optional[int] = ..., slices: _Optional[_Iterable[_Union[_types_pb2.Slice, _Mapping]]] = ..., forecast: _Optional[_Union[_types_pb2.Forecast, _Mapping]] = ..., failed: bool = ..., timed: bool = ...) -> None: ...

class BatchDropped(_message.Message):
    __slots__ = ("batch_id", "reason", "missing_request_ids")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MISSING_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    reason: _types_pb2.RejectReason
    missing_request_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, batch_id: _Optional[int] = ..., reason: _Optional[_Union[_types_pb2.RejectReason, str]] = ..., missing_request_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class KernelTimings(_message.Message):
    __slots__ = ("batch_id", "batch_class", "kernels", "kind")
    BATCH_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    batch_id: int
    batch_class: _types_pb2.BatchClass
    kernels: _containers.RepeatedCompositeFieldContainer[KernelTiming]
    kind: str
    def __init__(self, batch_id: _Optional[int] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., kernels: _Optional[_Iterable[_Union[KernelTiming, _Mapping]]] = ..., kind: _Optional[str] = ...) -> None: ...

class KernelTiming(_message.Message):
    __slots__ = ("name", "offset_ns", "duration_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset_ns: int
    duration_ns: int
    def __init__(self, name: _Optional[str] = ..., offset_ns: _Optional[int] = ..., duration_ns: _Optional[int] = ...) -> None: ...

class ModelLoaded(_message.Message):
    __slots__ = ("model", "version", "model_config", "memory_bytes", "load_ns", "labels")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_CONFIG_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOAD_NS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    model_config: bytes
    memory_bytes: int
    load_ns: int
    labels: _containers.RepeatedCompositeFieldContainer[_types_pb2.OutputLabels]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., model_config: _Optional[bytes] = ..., memory_bytes: _Optional[int] = ..., load_ns: _Optional[int] = ..., labels: _Optional[_Iterable[_Union[_types_pb2.OutputLabels, _Mapping]]] = ...) -> None: ...

class ModelLoadFailed(_message.Message):
    __slots__ = ("model", "version", "message")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    message: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ModelLoadEnded(_message.Message):
    __slots__ = ("model", "versions")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    model: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelUnloaded(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ClassProfiled(_message.Message):
    __slots__ = ("batch_class", "work_ns", "samples", "demand", "spread", "basis", "kernel_ns", "phases")
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    WORK_NS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_NS_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    batch_class: _types_pb2.BatchClass
    work_ns: int
    samples: int
    demand: _containers.RepeatedScalarFieldContainer[float]
    spread: float
    basis: ProfileBasis
    kernel_ns: float
    phases: _containers.RepeatedCompositeFieldContainer[_types_pb2.Phase]
    def __init__(self, batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., work_ns: _Optional[int] = ..., samples: _Optional[int] = ..., demand: _Optional[_Iterable[float]] = ..., spread: _Optional[float] = ..., basis: _Optional[_Union[ProfileBasis, str]] = ..., kernel_ns: _Optional[float] = ..., phases: _Optional[_Iterable[_Union[_types_pb2.Phase, _Mapping]]] = ...) -> None: ...

class WindowRequested(_message.Message):
    __slots__ = ("window_id", "duration_ns", "model")
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    window_id: int
    duration_ns: int
    model: str
    def __init__(self, window_id: _Optional[int] = ..., duration_ns: _Optional[int] = ..., model: _Optional[str] = ...) -> None: ...

class WindowReleased(_message.Message):
    __slots__ = ("window_id",)
    WINDOW_ID_FIELD_NUMBER: _ClassVar[int]
    window_id: int
    def __init__(self, window_id: _Optional[int] = ...) -> None: ...

class RepositoryScanned(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[RepositoryModel]
    def __init__(self, models: _Optional[_Iterable[_Union[RepositoryModel, _Mapping]]] = ...) -> None: ...

class RepositoryModel(_message.Message):
    __slots__ = ("model", "versions", "fingerprint")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    model: str
    versions: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    def __init__(self, model: _Optional[str] = ..., versions: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class DeviceState(_message.Message):
    __slots__ = ("memory_used_bytes", "memory_total_bytes", "sm_clock_mhz", "sm_clock_max_mhz", "memory_clock_mhz", "memory_clock_max_mhz", "throttle_reasons_known", "throttle_reasons", "power_w", "power_limit_w", "temperature_c", "utilisation", "mig_enabled", "mig_gpu_instance_id", "mig_compute_instance_id", "mps_active_thread_percentage")
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    SM_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    SM_CLOCK_MAX_MHZ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CLOCK_MHZ_FIELD_NUMBER: _ClassVar[int]
    MEMORY_CLOCK_MAX_MHZ_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_REASONS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    THROTTLE_REASONS_FIELD_NUMBER: _ClassVar[int]
    POWER_W_FIELD_NUMBER: _ClassVar[int]
    POWER_LIMIT_W_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_C_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FIELD_NUMBER: _ClassVar[int]
    MIG_ENABLED_FIELD_NUMBER: _ClassVar[int]
    MIG_GPU_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    MIG_COMPUTE_INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    MPS_ACTIVE_THREAD_PERCENTAGE_FIELD_NUMBER: _ClassVar[int]
    memory_used_bytes: int
    memory_total_bytes: int
    sm_clock_mhz: int
    sm_clock_max_mhz: int
    memory_clock_mhz: int
    memory_clock_max_mhz: int
    throttle_reasons_known: bool
    throttle_reasons: _containers.RepeatedScalarFieldContainer[ThrottleReason]
    power_w: float
    power_limit_w: float
    temperature_c: int
    utilisation: float
    mig_enabled: bool
    mig_gpu_instance_id: int
    mig_compute_instance_id: int
    mps_active_thread_percentage: float
    def __init__(self, memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., sm_clock_mhz: _Optional[int] = ..., sm_clock_max_mhz: _Optional[int] = ..., memory_clock_mhz: _Optional[int] = ..., memory_clock_max_mhz: _Optional[int] = ..., throttle_reasons_known: bool = ..., throttle_reasons: _Optional[_Iterable[_Union[ThrottleReason, str]]] = ..., power_w: _Optional[float] = ..., power_limit_w: _Optional[float] = ..., temperature_c: _Optional[int] = ..., utilisation: _Optional[float] = ..., mig_enabled: bool = ..., mig_gpu_instance_id: _Optional[int] = ..., mig_compute_instance_id: _Optional[int] = ..., mps_active_thread_percentage: _Optional[float] = ...) -> None: ...
