"""Has every predictor go through the same logs by the same protocol.

- *prequential*: from nothing; at each launch predict with what was known then, learn each batch when its end is known.
- *train-test*: learn a first set of logs; learners with a training end it (least squares); then the same as above on
  the others, or, frozen, without learning. Without logs to train on, the first 75 % of each log's batches are them.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cotenant.cli import evaluate_changes, evaluate_cost, evaluate_reader, evaluate_result, machine
from cotenant.cli.evaluate_log import Recording
from cotenant.cli.evaluate_remote import Remote
from cotenant.cli.evaluate_result import Cost, EvaluationResult, Scored
from cotenant.cli.evaluate_run import Judged, Local, Recorded, run
from cotenant.cli.evaluate_solo import Measured
from cotenant.predictor import learners
from cotenant.v1 import types_pb2

PREQUENTIAL, TRAIN_TEST = "prequential", "train-test"
RECORDED = "recorded"
TRAINING_SHARE = 0.75


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated, and how."""

    logs: tuple[Path, ...]
    predictors: tuple[str, ...]
    protocol: str = PREQUENTIAL
    train: tuple[Path, ...] = ()
    frozen: bool = False
    levels: tuple[float, ...] = (0.9, 0.95, 0.99)
    solo_percentile: float = 50.0
    change_at_s: tuple[float, ...] = ()  # after the first instant of each log

    def __post_init__(self) -> None:
        """Raises ValueError that names the option."""
        if self.protocol == PREQUENTIAL and (self.train or self.frozen):
            raise ValueError(f"--train and --frozen belong to --protocol {TRAIN_TEST}")
        if not self.levels or any(not 0.0 < level < 1.0 for level in self.levels):
            raise ValueError(f"--levels must be in (0, 1), got {','.join(map(str, self.levels))}")
        if any(at_s < 0.0 for at_s in self.change_at_s):
            raise ValueError("--change-at must be seconds after the log's beginning, not negative")
        for name in self.predictors:
            if not is_address(name) and name != RECORDED:
                learners.make(name, 1)


@dataclass(slots=True)
class _Material:
    """Logs, read and cut."""

    train: list[Recording]
    test: list[Recording]
    devices: dict[str, types_pb2.Device]


def is_address(name: str) -> bool:
    """Whether a predictor's name says where one listens: host:port or unix:path."""
    return ":" in name


def evaluate(plan: Plan, on_step: Callable[[str], object] = lambda _: None) -> EvaluationResult:
    """Does it. `on_step` is told what is done next. Raises ValueError that names the log, option or predictor."""
    on_step("reading logs")
    material = _material(plan)
    batches = [ran for recording in material.test for ran in recording.batches]
    known = {(r.batch_class.model, r.batch_class.version) for recording in material.train for r in recording.batches}
    changed = evaluate_changes.changes(batches, known, _change_numbers(plan, material.test))
    scored = Scored(batches, plan.levels, changed)
    judged: dict[str, Judged] = {}
    costs: dict[str, Cost | None] = {}
    remarks: dict[str, list[str]] = {}
    references: list[float] = [evaluate_cost.reference_update_ns()]
    for name in plan.predictors:
        on_step(name)
        judged[name], local, remarks[name] = _judge(name, plan, material)
        references.append(evaluate_cost.reference_update_ns())
        costs[name] = evaluate_cost.cost(local, sum(references[-2:]) / 2.0) if local else None
    on_step("comparing")
    rejected: Counter[str] = sum((r.rejected for r in (*material.train, *material.test)), Counter())
    return EvaluationResult(
        version("cotenant"),
        machine.describe(),
        [str(path) for path in plan.logs],
        [str(path) for path in plan.train],
        plan.protocol,
        plan.frozen,
        plan.solo_percentile,
        list(plan.levels),
        len(batches),
        dict(rejected),
        sum(references) / len(references),
        scored.noise(),
        dict(changed),
        evaluate_result.results(scored, judged, costs, remarks),
    )


def _material(plan: Plan) -> _Material:
    measured: Measured = {}
    train, test = (
        [evaluate_reader.read(path, percentile=plan.solo_percentile, measured=measured) for path in paths]
        for paths in (plan.train, plan.logs)
    )
    devices = _devices([*train, *test])
    if plan.protocol == TRAIN_TEST and not train:
        cuts = [recording.cut(TRAINING_SHARE) for recording in test]
        train, test = [early for early, _ in cuts], [late for _, late in cuts]
        for recording in (*train, *test):
            if not recording.batches:
                raise ValueError(f"{recording.name}: too short to be cut into training and test")
    return _Material(train, test, devices)


def _devices(recordings: Sequence[Recording]) -> dict[str, types_pb2.Device]:
    """Devices of all logs; one that does not tell its resources has those that another log tells."""
    found: dict[str, types_pb2.Device] = {}
    for recording in recordings:
        for device_id, device in recording.devices.items():
            known = found.setdefault(device_id, device)
            if known.resources and device.resources and len(known.resources) != len(device.resources):
                raise ValueError(
                    f"{recording.name}: device '{device_id}' has {len(device.resources)} resources, "
                    f"in another log it has {len(known.resources)}"
                )
            if not known.resources:
                found[device_id] = device
    return found


def _change_numbers(plan: Plan, test: Sequence[Recording]) -> list[int]:
    """Numbers of the batches that come first after the instants that a user calls changes."""
    found: list[int] = []
    before = 0
    for recording in test:
        first_ns = min(recording.steps[0].at_ns, recording.batches[0].started_ns)
        for at_s in plan.change_at_s:
            at_ns = first_ns + round(at_s * 1e9)
            number = sum(ran.started_ns < at_ns for ran in recording.batches)
            if number < len(recording.batches):
                found.append(before + number)
        before += len(recording.batches)
    return found


def _judge(name: str, plan: Plan, material: _Material) -> tuple[Judged, Local | None, list[str]]:
    learning = not plan.frozen
    if name == RECORDED:
        recorded = Recorded(plan.levels)
        return Judged.joined([run(recorded, r, plan.levels) for r in material.test]), None, []
    if is_address(name):
        batches = sum(len(r.batches) for r in itertools.chain(material.train, material.test))
        remote = Remote(name, material.devices, plan.levels, batches)
        try:
            for recording in material.train:
                run(remote, recording, plan.levels)
            judged = Judged.joined([run(remote, r, plan.levels, learning=learning) for r in material.test])
            return judged, None, remote.remarks()
        finally:
            remote.close()
    local = Local(name, material.devices, plan.levels)
    for recording in material.train:
        run(local, recording, plan.levels)
    remarks: list[str] = []
    if material.train:
        local.fit(material.train)
    elif isinstance(learner := learners.make(name, 1), learners.Trained) and learner.needs_training:
        remarks.append(f"slowdown 1, for want of training: it learns with --protocol {TRAIN_TEST} only")
    return Judged.joined([run(local, r, plan.levels, learning=learning) for r in material.test]), local, remarks
