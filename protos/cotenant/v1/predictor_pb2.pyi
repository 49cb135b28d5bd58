from cotenant.v1 import executor_pb2 as _executor_pb2
from cotenant.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Basis(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BASIS_UNSPECIFIED: _ClassVar[Basis]
    BASIS_PRIOR: _ClassVar[Basis]
    BASIS_PROFILE: _ClassVar[Basis]
    BASIS_OBSERVED: _ClassVar[Basis]
    BASIS_SIBLING: _ClassVar[Basis]
BASIS_UNSPECIFIED: Basis
BASIS_PRIOR: Basis
BASIS_PROFILE: Basis
BASIS_OBSERVED: Basis
BASIS_SIBLING: Basis

class ObserveRequest(_message.Message):
    __slots__ = ("hello", "events")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    hello: ObserveHello
    events: _containers.RepeatedCompositeFieldContainer[_executor_pb2.ExecutorEvent]
    def __init__(self, hello: _Optional[_Union[ObserveHello, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_executor_pb2.ExecutorEvent, _Mapping]]] = ...) -> None: ...

class ObserveHello(_message.Message):
    __slots__ = ("device", "incarnation", "profiles")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    device: _types_pb2.Device
    incarnation: int
    profiles: _containers.RepeatedCompositeFieldContainer[_executor_pb2.ClassProfiled]
    def __init__(self, device: _Optional[_Union[_types_pb2.Device, _Mapping]] = ..., incarnation: _Optional[int] = ..., profiles: _Optional[_Iterable[_Union[_executor_pb2.ClassProfiled, _Mapping]]] = ...) -> None: ...

class ObserveResponse(_message.Message):
    __slots__ = ("acknowledged_sequence",)
    ACKNOWLEDGED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    acknowledged_sequence: int
    def __init__(self, acknowledged_sequence: _Optional[int] = ...) -> None: ...

class WatchEstimatesRequest(_message.Message):
    __slots__ = ("levels", "interests", "min_interval_ns")
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    INTERESTS_FIELD_NUMBER: _ClassVar[int]
    MIN_INTERVAL_NS_FIELD_NUMBER: _ClassVar[int]
    levels: _containers.RepeatedScalarFieldContainer[float]
    interests: _containers.RepeatedCompositeFieldContainer[Colocation]
    min_interval_ns: int
    def __init__(self, levels: _Optional[_Iterable[float]] = ..., interests: _Optional[_Iterable[_Union[Colocation, _Mapping]]] = ..., min_interval_ns: _Optional[int] = ...) -> None: ...

class Colocation(_message.Message):
    __slots__ = ("device_id", "batches")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    batches: _containers.RepeatedCompositeFieldContainer[_types_pb2.BatchClass]
    def __init__(self, device_id: _Optional[str] = ..., batches: _Optional[_Iterable[_Union[_types_pb2.BatchClass, _Mapping]]] = ...) -> None: ...

class WatchEstimatesResponse(_message.Message):
    __slots__ = ("version", "complete", "classes", "sets", "learned_through")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SETS_FIELD_NUMBER: _ClassVar[int]
    LEARNED_THROUGH_FIELD_NUMBER: _ClassVar[int]
    version: int
    complete: bool
    classes: _containers.RepeatedCompositeFieldContainer[ClassEstimate]
    sets: _containers.RepeatedCompositeFieldContainer[SetEstimate]
    learned_through: _containers.RepeatedCompositeFieldContainer[LearnedThrough]
    def __init__(self, version: _Optional[int] = ..., complete: bool = ..., classes: _Optional[_Iterable[_Union[ClassEstimate, _Mapping]]] = ..., sets: _Optional[_Iterable[_Union[SetEstimate, _Mapping]]] = ..., learned_through: _Optional[_Iterable[_Union[LearnedThrough, _Mapping]]] = ...) -> None: ...

class LearnedThrough(_message.Message):
    __slots__ = ("device_id", "incarnation", "sequence")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    incarnation: int
    sequence: int
    def __init__(self, device_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class ClassEstimate(_message.Message):
    __slots__ = ("device_id", "batch_class", "work_ns", "demand", "sensitivity", "corrections", "quantiles", "sample_count", "basis", "kernel_ns", "phases")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    WORK_NS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    SENSITIVITY_FIELD_NUMBER: _ClassVar[int]
    CORRECTIONS_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_NS_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    batch_class: _types_pb2.BatchClass
    work_ns: int
    demand: _containers.RepeatedScalarFieldContainer[float]
    sensitivity: _containers.RepeatedScalarFieldContainer[float]
    corrections: _containers.RepeatedCompositeFieldContainer[PairCorrection]
    quantiles: _containers.RepeatedCompositeFieldContainer[QuantileFactor]
    sample_count: int
    basis: Basis
    kernel_ns: float
    phases: _containers.RepeatedCompositeFieldContainer[_types_pb2.Phase]
    def __init__(self, device_id: _Optional[str] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., work_ns: _Optional[int] = ..., demand: _Optional[_Iterable[float]] = ..., sensitivity: _Optional[_Iterable[float]] = ..., corrections: _Optional[_Iterable[_Union[PairCorrection, _Mapping]]] = ..., quantiles: _Optional[_Iterable[_Union[QuantileFactor, _Mapping]]] = ..., sample_count: _Optional[int] = ..., basis: _Optional[_Union[Basis, str]] = ..., kernel_ns: _Optional[float] = ..., phases: _Optional[_Iterable[_Union[_types_pb2.Phase, _Mapping]]] = ...) -> None: ...

class PairCorrection(_message.Message):
    __slots__ = ("co_runner", "delay")
    CO_RUNNER_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    co_runner: _types_pb2.BatchClass
    delay: float
    def __init__(self, co_runner: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., delay: _Optional[float] = ...) -> None: ...

class QuantileFactor(_message.Message):
    __slots__ = ("level", "factor", "co_runner_count")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    CO_RUNNER_COUNT_FIELD_NUMBER: _ClassVar[int]
    level: float
    factor: float
    co_runner_count: int
    def __init__(self, level: _Optional[float] = ..., factor: _Optional[float] = ..., co_runner_count: _Optional[int] = ...) -> None: ...

class SetEstimate(_message.Message):
    __slots__ = ("device_id", "batch_class", "co_runners", "slowdown", "quantiles", "sample_count")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    CO_RUNNERS_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    QUANTILES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    batch_class: _types_pb2.BatchClass
    co_runners: _containers.RepeatedCompositeFieldContainer[_types_pb2.BatchClass]
    slowdown: float
    quantiles: _containers.RepeatedCompositeFieldContainer[QuantileFactor]
    sample_count: int
    def __init__(self, device_id: _Optional[str] = ..., batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., co_runners: _Optional[_Iterable[_Union[_types_pb2.BatchClass, _Mapping]]] = ..., slowdown: _Optional[float] = ..., quantiles: _Optional[_Iterable[_Union[QuantileFactor, _Mapping]]] = ..., sample_count: _Optional[int] = ...) -> None: ...

class EstimateColocationRequest(_message.Message):
    __slots__ = ("colocation", "level")
    COLOCATION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    colocation: Colocation
    level: float
    def __init__(self, colocation: _Optional[_Union[Colocation, _Mapping]] = ..., level: _Optional[float] = ...) -> None: ...

class ColocationMember(_message.Message):
    __slots__ = ("batch_class", "work_ns", "slowdown", "slowdown_bound", "sample_count", "basis")
    BATCH_CLASS_FIELD_NUMBER: _ClassVar[int]
    WORK_NS_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_BOUND_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    batch_class: _types_pb2.BatchClass
    work_ns: int
    slowdown: float
    slowdown_bound: float
    sample_count: int
    basis: Basis
    def __init__(self, batch_class: _Optional[_Union[_types_pb2.BatchClass, _Mapping]] = ..., work_ns: _Optional[int] = ..., slowdown: _Optional[float] = ..., slowdown_bound: _Optional[float] = ..., sample_count: _Optional[int] = ..., basis: _Optional[_Union[Basis, str]] = ...) -> None: ...

class EstimateColocationResponse(_message.Message):
    __slots__ = ("members", "throughput_gain", "explanation")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    THROUGHPUT_GAIN_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[ColocationMember]
    throughput_gain: float
    explanation: str
    def __init__(self, members: _Optional[_Iterable[_Union[ColocationMember, _Mapping]]] = ..., throughput_gain: _Optional[float] = ..., explanation: _Optional[str] = ...) -> None: ...
