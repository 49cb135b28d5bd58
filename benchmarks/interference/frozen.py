"""Learners that learned some batches, and then explain others without learning from them.

A batch is explained with the neighbours it really had. Solo measurements are told even then: they are profiles, not
results.
"""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from recordings import sets, settings
from table1 import WORKLOADS, logs_of

from cotenant.cli import evaluate_reader
from cotenant.cli.evaluate_log import Ran, Recording
from cotenant.cli.evaluate_metrics import Floats
from cotenant.cli.evaluate_run import Judged, Local, run

LEVELS = (0.95,)  # bounds are made, and not looked at


def make(folder: Path, law: str, concurrency: int, seed: int, name: str) -> list[Path]:
    """The logs of a set in workloads.toml on the emulated GPU, made if they are not there; folders as table1.py's."""
    fixed = settings(WORKLOADS, "emulated")
    how: dict[str, Any] = {"law": law, "concurrency": concurrency, "seed": seed}
    how |= {key: fixed[key] for key in ("seconds", "max_batch_size")}
    own = folder / "emulated" / f"{concurrency}-{seed}-{law}" / name
    return logs_of("emulated", sets(WORKLOADS, "emulated")[name], own, **how)


def emulated(folder: Path, law: str, concurrency: int, seed: int, name: str) -> list[Recording]:
    """The same, read."""
    return [evaluate_reader.read(log) for log in make(folder, law, concurrency, seed, name)]


def taught(name: str, recordings: Sequence[Recording]) -> Local:
    """A learner that went through these, and whose training, if it has one, has ended."""
    devices = {device_id: device for recording in recordings for device_id, device in recording.devices.items()}
    local = Local(name, devices, LEVELS)
    for recording in recordings:
        run(local, recording, LEVELS)
    local.fit(recordings)
    return local


def explained(local: Local, recordings: Sequence[Recording]) -> Judged:
    """What it says of other batches. It is a copy that is told of their solo measurements: `local` stays as it is."""
    frozen = deepcopy(local)
    return Judged.joined([run(frozen, recording, LEVELS, learning=False) for recording in recordings])


def batches_of(recordings: Sequence[Recording]) -> list[Ran]:
    """In the order of what `explained` says of them."""
    return [ran for recording in recordings for ran in recording.batches]


def durations(batches: Sequence[Ran]) -> tuple[Floats, Floats]:
    """Measured durations and solo times, in ns."""
    return np.array([float(ran.seen.duration_ns) for ran in batches]), np.array([ran.work_ns for ran in batches])
