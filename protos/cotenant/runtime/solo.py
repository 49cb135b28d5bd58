"""How models run alone: what `cotenant profile` keeps of a version, and what its measuring process tells, as JSON.

The process writes one `Event` a line. Durations are ns. Lists of runs are kept whole, so that anybody can derive from
them what is not derived here.
"""

import math

import msgspec


class SoloClass(msgspec.Struct, frozen=True):
    """A batch class that ran alone."""

    batch_size: int
    shape_bucket: str
    work_ns: int  # median run: what the executor serves with
    spread: float  # (95th percentile - median) / median
    first_ns: int  # the run that warmed up
    durations_ns: tuple[int, ...]  # of the runs after it, in order
    demand: dict[str, float]  # share of each of the device's resources that it keeps busy, in [0, 1]
    basis: str  # what that rests on, see docs/backends.md

    @property
    def items_per_s(self) -> float:
        """Throughput of batches that follow each other without a gap."""
        return self.batch_size * 1e9 / max(1, self.work_ns)

    def percentile_ns(self, percent: float) -> int:
        """The shortest duration that so many percent of the runs did not exceed."""
        return sorted(self.durations_ns)[max(0, math.ceil(percent / 100 * len(self.durations_ns)) - 1)]


class SoloDevice(msgspec.Struct, frozen=True):
    """Where it ran."""

    device_id: str
    kind: str
    name: str
    memory_bytes: int  # free when it was opened
    max_concurrency: int
    threads: int  # CPU threads of a batch
    software: dict[str, str]  # versions


class SoloProfile(msgspec.Struct, frozen=True):
    """A version of a model that ran alone on a device."""

    model: str
    version: str
    backend: str
    device: SoloDevice
    measured_at: str  # ISO 8601, UTC
    load_average: float  # of the host, just before
    load_ns: int  # with the libraries there and the file read before
    memory_bytes: int  # on the device, as the backend tells
    classes: tuple[SoloClass, ...]


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The device is there; these models will be measured."""

    device: SoloDevice
    models: tuple[str, ...]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A model's turn has come."""

    model: str


class Ran(msgspec.Struct, frozen=True, tag="ran"):
    """A batch class of that model has been timed."""

    model: str
    batch_size: int
    shape_bucket: str


class Profiled(msgspec.Struct, frozen=True, tag="profiled"):
    """A version is done."""

    profile: SoloProfile
    kept: bool  # beside the model, or in the profile cache
    fresh: bool  # it was measured now
    remark: str = ""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A model, or a version of it, cannot be measured."""

    model: str
    version: str
    message: str


Event = Opened | Begun | Ran | Profiled | Failed
