"""`cotenant evaluate` on logs in which a GPU's driver tells of its clocks: learners hear of it as live ones do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli import evaluate_link, evaluate_reader
from cotenant.cli.evaluate_log import Stated
from cotenant.predictor import learners
from cotenant.v1 import executor_pb2 as pb
from evaluation_logs import MS, NOTES, Spy, finished, group, judged, only, profile, told, written
from test_evaluate_remote import Fixed, serving


class Paced(Spy):
    """A learner that follows the pace, and notes what it was told to expect."""

    def expect_pace(self, ratio: float | None) -> None:
        self.notes.append(("expect", ratio))


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setitem(learners.LEARNERS, "paced", Paced)
    NOTES.clear()
    return NOTES


def state(at_ms: float, **readings: Any) -> Any:
    return {"type": "DeviceState", "device_id": "gpu-0", "at_ns": round(at_ms * MS), "readings": readings}


def throttled(folder: Path, name: str = "throttled") -> Path:
    """The clock falls by a fifth, for heat, after the first batch."""
    return written(
        folder / name,
        group(1, profile("a", 10), state(1, sm_clock_mhz=2000, throttle_reasons=[])),
        *told(finished(1, "a", 100, (10,))),
        # One group: its order is the order in which the executor told.
        group(
            160,
            state(150, sm_clock_mhz=1600, throttle_reasons=["HARDWARE_THERMAL"]),
            finished(2, "a", 145, (12.5,)),
        ),
        *told(finished(3, "a", 200, (12.5,)), finished(4, "a", 300, (12.5,))),
    )


def kinds(notes: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [note if note[0] == "expect" else note[0] for note in notes if note[0] not in ("explain", "profile")]


ONE = ["forecast", "learn"]


def test_states_come_in_the_logs_order(tmp_path: Path, paced: list[tuple[Any, ...]]) -> None:
    judged(throttled(tmp_path), predictors=["paced"])
    assert kinds(paced) == [*ONE, "forecast", ("expect", 1.25), "learn", *ONE, *ONE]


def test_frozen_learners_hear_of_it_in_training_and_in_the_test(tmp_path: Path, paced: list[tuple[Any, ...]]) -> None:
    first, second = throttled(tmp_path, "first"), throttled(tmp_path, "second")
    judged(second, predictors=["paced"], train=(first,), protocol="train-test", frozen=True)
    slower, faster = ("expect", 1.25), ("expect", 0.8)  # the second log begins at the full clock
    training = [*ONE, "forecast", slower, "learn", *ONE, *ONE]
    assert kinds(paced) == [*training, faster, "forecast", "forecast", slower, "forecast", "forecast"]


def test_a_cut_log_keeps_each_state_on_its_side(tmp_path: Path) -> None:
    early, late = evaluate_reader.read(throttled(tmp_path)).cut(0.5)
    states = [[s.clocks.sm_mhz for s in part.steps if isinstance(s, Stated)] for part in (early, late)]
    assert states == [[2000, 1600], []]


def test_what_was_announced_is_believed_sooner(tmp_path: Path) -> None:
    """The same batches with and without what the driver told: four classes run a quarter slower from half on."""
    names = [f"{model} x{size}" for model in ("a", "b") for size in (1, 2)]

    def log(name: str, *states: Any) -> Path:
        batches = [
            finished(i, names[i % 4], 100.0 * i, (10.0 * (1.25 if i > 80 else 1.0) * (1 + 0.02 * (-1) ** i),))
            for i in range(1, 121)
        ]
        records = [group(1, *(profile(n, 10) for n in names)), *told(*batches), *states]
        return written(tmp_path / name, *sorted(records, key=lambda record: int(record["now_ns"])))

    clocks = [group(2, state(2, sm_clock_mhz=2000)), group(8080, state(8080, sm_clock_mhz=1600))]
    with_states, without = (judged(path, predictors=["fluid"]) for path in (log("with", *clocks), log("without")))
    errors = [only(result).all.launch for result in (with_states, without)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[0].mse_slowdown < 0.7 * errors[1].mse_slowdown


def test_servers_are_sent_them_as_executors_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_link, "QUIET_S", 0.05)
    servicer = Fixed()
    with serving(servicer, tmp_path) as address:
        judged(throttled(tmp_path), predictors=[address])
    assert [batch.batch_id for batch in servicer.finished] == [1, 2, 3, 4]
    hot = pb.THROTTLE_REASON_HARDWARE_THERMAL
    assert servicer.states == [
        (0, pb.DeviceState(sm_clock_mhz=2000, throttle_reasons_known=True)),
        (1, pb.DeviceState(sm_clock_mhz=1600, throttle_reasons_known=True, throttle_reasons=[hot])),
    ]


def test_states_that_make_no_sense_are_counted_and_newer_readings_left_out(tmp_path: Path) -> None:
    log = written(
        tmp_path / "log",
        group(1, state(1, sm_clock_mhz=-5), state(1, sm_clock_mhz=10**6), state(1, sm_clock_mhz="fast")),
        group(2, state(2, sm_clock_mhz=1000, fan_rpm=3000, throttle_reasons=["BY_THE_MOON"], power_w=None)),
        *told(finished(1, "a", 100, (10,))),
    )
    recording = evaluate_reader.read(log)
    assert recording.rejected == {"not understood": 2, "device state": 1}
    (stated,) = [step for step in recording.steps if isinstance(step, Stated)]
    assert stated.message == pb.DeviceState(
        sm_clock_mhz=1000, throttle_reasons_known=True, throttle_reasons=[pb.THROTTLE_REASON_UNSPECIFIED]
    )
