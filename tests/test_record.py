"""The log: what was recorded replays to the same actions, part by part, and survives what happens to files."""

import json
from pathlib import Path
from typing import get_args

import pytest

from cotenant.cli import replay as replay_command
from cotenant.cli import report_log, report_records
from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.replay import replay
from cotenant.scheduler.simulate import SimulatedModel, Simulation

MS = 1_000_000
MODELS = [
    SimulatedModel("vision", "resnet50", 80.0, 40 * MS),
    SimulatedModel("text", "transformer_xl", 20.0, 90 * MS),
]


def simulate(path: Path, seed: int = 1, seconds: float = 2.0) -> None:
    Simulation(MODELS, devices=2, seed=seed, record=path).run(int(seconds * 1e9))


def test_a_recorded_run_replays_to_the_same_actions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "log")
    outcome = replay(tmp_path / "log")
    assert outcome.difference is None
    assert outcome.actions > 300
    assert replay_command.main([str(tmp_path / "log")]) == 0
    assert "all the same" in capsys.readouterr().out


def test_a_changed_decision_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate(tmp_path / "log", seconds=0.3)
    lines = (tmp_path / "log").read_text().splitlines()
    for number, line in enumerate(lines):
        entry = json.loads(line)
        if any(action["type"] == "Launch" for action in entry.get("actions", ())):
            entry["actions"] = [a for a in entry["actions"] if a["type"] != "Launch"]
            lines[number] = json.dumps(entry)
            break
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    assert replay_command.main([str(tmp_path / "log")]) == 1
    assert "differs" in capsys.readouterr().out


def test_each_part_of_a_rotated_log_replays_by_itself_and_the_cap_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_PARTS", 4)
    log = tmp_path / "log"
    simulation = Simulation(MODELS, seed=2)
    simulation._recorder = record.Recorder(log, 4 * 65536, epoch=1, software="test")
    simulation.run(4 * 10**9)
    numbers = [number for number, _ in record.parts(log)]
    assert len(numbers) == 4
    assert numbers[0] > 0  # the oldest parts have gone
    for _, path in record.parts(log):
        assert path.stat().st_size < 3 * 65536
        assert replay(path).difference is None


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    simulate(tmp_path / "log", seconds=0.3)
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole[:-20])
    assert replay(tmp_path / "log").difference is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json\n", "line 1"),
        (b'{"type":"Unheard"}\n', "line 1"),
        (
            b'{"type":"Header","format":"cotenant-log","version":99,"software":"","epoch":1,"part":0,"unix_ns":1,'
            b'"monotonic_ns":1,"clock_id":""}\n',
            "version 99",
        ),
        (b'{"type":"Group","now_ns":1,"events":[],"actions":[]}\n', "before the snapshot"),
    ],
)
def test_what_is_no_log_is_said_so(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        replay(tmp_path / "log")
    assert replay_command.main([str(tmp_path / "log")]) == 2
    assert message in capsys.readouterr().err


def test_records_of_a_later_version_are_passed_over_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path / "log", seconds=0.3)
    header, snapshot, *groups = (tmp_path / "log").read_text().splitlines(keepends=True)
    chapter = '{"type":"Chapter","title":"two"}\n'
    (tmp_path / "log").write_text("".join((header, chapter, snapshot, *groups[:5], chapter, *groups[5:])))
    outcome = replay(tmp_path / "log")
    assert outcome.difference is None
    assert outcome.groups == len(groups)
    assert outcome.skipped == 2
    assert replay_command.main([str(tmp_path / "log")]) == 0
    assert "all the same; 2 records of unknown types passed over" in capsys.readouterr().out


@pytest.mark.parametrize(("field", "what"), [("events", "event"), ("actions", "action")])
def test_what_entered_the_core_and_is_not_known_makes_a_replay_impossible(
    tmp_path: Path, field: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(tmp_path / "log", seconds=0.3)
    lines = (tmp_path / "log").read_text().splitlines()
    entry = json.loads(lines[4])
    entry[field].append({"type": "MoonRose", "device_id": "gpu-0"})
    lines[4] = json.dumps(entry)
    (tmp_path / "log").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"line 5: this version does not know the {what} 'MoonRose'"):
        replay(tmp_path / "log")
    assert replay_command.main([str(tmp_path / "log")]) == 2
    assert report_log.read(tmp_path / "log").unknown == {"MoonRose": 1}  # others read on


def test_other_readers_know_the_same_types() -> None:
    written = {kind.__name__ for alias in (ev.Event, ev.Action) for kind in get_args(alias)}
    assert written == report_records.TYPES
    assert {kind.__name__ for kind in get_args(record.Record)} == report_records.RECORDS


def test_no_log_at_all(tmp_path: Path) -> None:
    assert replay_command.main([str(tmp_path / "nothing")]) == 2


def test_a_full_disk_ends_the_recording_and_not_the_run(tmp_path: Path) -> None:
    log = record.Recorder(tmp_path / "log", 2**20, epoch=1, software="test")
    simulation = Simulation(MODELS, seed=1)
    simulation._recorder = log
    original = log.write

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    def write(*args: object) -> None:
        if log._written > 50_000 and log._file is not None:
            log._file = Full()  # type: ignore[assignment]
        original(*args)  # type: ignore[arg-type]

    setattr(log, "write", write)
    outcome = simulation.run(2 * 10**9)
    assert outcome.batches > 50
    assert not log.recording
