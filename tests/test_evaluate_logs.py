"""`cotenant evaluate`: logs that are not what they should be, and logs of one's own."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli import evaluate, evaluate_reader, evaluate_table
from cotenant.predictor.observations import Running, Slice
from evaluation_logs import MS, finished, five, group, judged, klass, only, profile, told, written

EXAMPLE = Path(__file__).parent.parent / "examples" / "logs"


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert evaluate.main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_logs_and_options_that_cannot_be_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = five(tmp_path)
    text = tmp_path / "text"
    text.write_text("hello\n")
    empty = written(tmp_path / "empty", group(1, profile("a", 10)))
    broken = written(tmp_path / "broken", {"type": "Group", "now_ns": "soon"})
    assert f"there is no log at {tmp_path}/none" in failed(capsys, tmp_path / "none")
    assert f"{text}, line 1: not a record" in failed(capsys, text)
    assert f"{empty}: no batch in it that ran well" in failed(capsys, empty)
    assert f"{broken}, line 2: not a record" in failed(capsys, broken)
    assert "there is no learner 'wrong'" in failed(capsys, good, "--predictor", "wrong")
    assert "--levels must be in (0, 1)" in failed(capsys, good, "--levels", "0.9,95")
    assert "--levels must be numbers" in failed(capsys, good, "--levels", "high")
    assert "belong to --protocol train-test" in failed(capsys, good, "--frozen", "--protocol", "prequential")
    assert "--change-at must be" in failed(capsys, good, "--change-at", "-1")


def test_devices_that_differ_between_logs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(tmp_path / "other", group(1, profile("a", 10, demand=(0.1,))), *told(finished(1, "a", 100, (10,))))
    message = failed(capsys, five(tmp_path), "--train", other)
    assert "device 'gpu-0' has 3 resources, in another log it has 1" in message


def test_events_that_make_no_sense_are_counted_and_not_used(tmp_path: Path) -> None:
    log = written(
        tmp_path / "log",
        group(1, profile("a", 10)),
        group(200, finished(1, "a", 100, (10,))),
        group(200, finished(2, "a", 100, (10,), duration_ns=20 * MS, at_ns=120 * MS)),  # slices of half of it
        group(200, finished(3, "a", 100, (10,), failed=True)),
        group(200, finished(4, "a", 300, (10,))),  # not yet
        group(200, finished(5, "", 100, (10,))),
        group(200, finished(6, "a", 100, (10,), duration_ns=-5)),
        group(200, {"type": "BatchFinished", "batch_id": "seven"}),
        group(200, {"type": "SomethingOfALaterVersion", "of": "no matter"}),
        {"type": "RecordOfALaterVersion", "now_ns": 300},
    )
    result = judged(log, predictors=["fluid"])
    assert result.batches == 1
    counts = {"slices": 1, "failed": 1, "clock": 1, "class": 1, "not understood": 2, "of unknown types": 2}
    assert result.not_used == counts
    assert any(remark.endswith("2 of unknown types") for remark in evaluate_table.remarks(result))


def test_a_last_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    log = five(tmp_path)
    log.write_bytes(log.read_bytes()[:-30])
    assert judged(log).batches == 4


def test_parts_of_a_log_are_read_in_order_and_repeat_nothing(tmp_path: Path, spy: list[tuple[Any, ...]]) -> None:
    path = written(tmp_path / "log", group(1, profile("a", 10)), *told(finished(1, "a", 100, (10,))))
    device = {"device_id": "gpu-0", "resources": ["sm", "l2", "dram"]}
    snapshot = {
        "type": "Snapshot",
        "now_ns": 150 * MS,
        "devices": [{"device": device, "profiles": [profile("a", 10)["profile"]]}],
    }
    written(tmp_path / "log.1", snapshot, *told(finished(2, "a", 200, (10,))))
    assert judged(path, predictors=["spy"]).batches == 2
    assert [note[0] for note in spy].count("profile") == 1


# ---- a log of one's own


def test_the_converter_makes_a_log_of_a_table(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, str(EXAMPLE / "convert.py"), str(EXAMPLE / "batches.csv"), str(log)]
    done = subprocess.run([*command, f"--solo={EXAMPLE / 'solo.csv'}"], capture_output=True, text=True, check=True)
    assert "5 batches" in done.stdout
    recording = evaluate_reader.read(log)
    assert not recording.rejected
    assert list(recording.devices["gpu-0"].resources) == ["sm", "l2", "dram"]
    second, third = recording.batches[1:3]
    vision, text = klass("resnet50 x4"), klass("bert")
    began = second.started_ns, third.started_ns
    first = recording.batches[0].started_ns
    assert second.seen.slices == (
        Slice(2 * MS, (), began[0]),
        Slice(8 * MS, (vision,), began[0] + 2 * MS, (began[1],)),
    )
    assert [part[:2] for part in third.seen.slices] == [(8 * MS, (text,)), (1 * MS, ()), (2 * MS, (text,))]
    # The table tells who was there; which batch each was follows from when they began.
    assert third.seen.slices[0].began_ns == (began[0],)
    assert third.seen.slices[2].began_ns == (recording.batches[3].started_ns,)
    assert first < began[0] < began[1]
    assert third.running == (Running(text, (Slice(2 * MS, (), began[0]),)),)
    assert [ran.work_ns for ran in recording.batches] == [6.7 * MS, 8 * MS, 6.7 * MS, 8 * MS, 6.7 * MS]
    assert judged(log, predictors=["fluid", "static-rls"]).batches == 5


def test_the_converter_needs_no_solo_times_and_names_what_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "convert.py")]
    log = tmp_path / "log"
    subprocess.run([*command, str(EXAMPLE / "batches.csv"), str(log)], check=True, capture_output=True)
    row = only(judged(log, predictors=["fluid"]))
    assert row.all.launch is not None
    assert row.all.launch.not_predicted == 2  # the first of each class
    assert math.isnan(row.all.launch.mse_slowdown)  # nothing tells what slowdowns would be over
    bad = tmp_path / "bad.csv"
    bad.write_text("batch,class,start_s,end_s\n1,a,5,4\n")
    done = subprocess.run([*command, str(bad), str(log)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "line 2: the batch ends before it starts" in done.stderr
    bad.write_text("batch,class,start_s\n1,a,5\n")
    done = subprocess.run([*command, str(bad), str(log)], capture_output=True, text=True, check=False)
    assert "line 2: batch, class, start_s and end_s are needed" in done.stderr


def test_the_example_in_the_formats_documentation_is_evaluated(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "log-format.md").read_text(encoding="utf-8")
    log = tmp_path / "log"
    log.write_text(text.split("```json\n")[1].split("```")[0], encoding="utf-8")
    assert judged(log, predictors=["ignore"]).batches == 1
