"""`cotenant profile`: what it measures, what it keeps and when it measures again, and what it says of trouble."""

import asyncio
import itertools
import json
import re
import shutil
import statistics
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from cotenant.cli import profile, profile_plots, profile_run, profile_table
from cotenant.executor.device import open_device
from cotenant.executor.emulated_gpu import LAUNCH_GAP_NS, personalities
from cotenant.executor.profile import Profiler, alone
from cotenant.inference import inference_pb2 as pb
from cotenant.runtime import solo
from stacks import delayed, running, write_model
from zoo_models import made, zoo_folder

__all__ = ["zoo_folder"]

BUCKETED = """
backend: "identity"
max_batch_size: 2
input [{ name: "ids" data_type: TYPE_INT64 dims: [ -1 ] }]
output [{ name: "ids2" data_type: TYPE_INT64 dims: [ -1 ] }]
"""
EMULATED = """
backend: "emulated"
max_batch_size: 8
input [{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }]
output [{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }]
parameters { key: "personality" value { string_value: "resnet50" } }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(autouse=True)
def settings(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTENANT_EXECUTOR_PROFILE_CACHE", str(cache))


class Measured:
    """What a call left behind."""

    def __init__(self, repository: Path, *flags: str, device: str = "cpu", expected: int = 0) -> None:
        output = repository.parent / "output"
        shutil.rmtree(output, ignore_errors=True)
        status = profile.main([*flags, f"--repository={repository}", f"--device={device}", f"--output={output}"])
        assert status == expected
        self.document = json.loads((output / "profile.json").read_text())
        self.output = output
        self.profiles = {found["model"]: found for found in self.document["profiles"]}
        self.failed = {found["model"]: found["message"] for found in self.document["failed"]}

    def entry(self, model: str, size: int, bucket: str = "") -> Any:
        (found,) = [
            entry
            for entry in self.profiles[model]["classes"]
            if (entry["batch_size"], entry["shape_bucket"]) == (size, bucket)
        ]
        return found


def kept(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / "1").glob(f".cotenant-{kind}-*.json"))


def test_what_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "models"
    write_model(repository, "slow", delayed(4, max_batch_size=4))
    write_model(repository, "text", BUCKETED + 'parameters { key: "shape_buckets" value { string_value: "4,8" } }')
    found = Measured(repository, "--runs", "12")
    assert [entry["batch_size"] for entry in found.profiles["slow"]["classes"]] == [1, 2, 4]
    for size in (1, 2, 4):
        entry = found.entry("slow", size)
        runs = sorted(entry["durations_ns"])
        assert len(runs) == 12
        assert runs[0] >= 4e6  # it waits that long, whatever the machine does
        assert entry["first_ns"] >= 4e6
        assert entry["work_ns"] == int(statistics.median(runs))
        assert (entry["p95_ns"], entry["p99_ns"]) == (runs[11], runs[11])
        assert entry["items_per_s"] == pytest.approx(size * 1e9 / entry["work_ns"])
        assert set(entry["demand"]) == {"sm", "l2", "dram"}
        assert all(0 <= share <= 1 for share in entry["demand"].values())
        assert entry["basis"] == "outside"
    assert {(e["batch_size"], e["shape_bucket"]) for e in found.profiles["text"]["classes"]} == {
        (size, bucket) for size in (1, 2) for bucket in ("4", "8")
    }
    assert found.profiles["slow"]["load_ns"] > 0
    assert found.document["machine"]["cores"]
    assert found.document["device"]["software"]["numpy"]
    assert found.document["command"].startswith("cotenant profile --runs 12 ")
    printed = capsys.readouterr().out
    assert re.search(r"slow +1 +identity +\d", printed)
    assert re.search(r"text +1 +4 +12 ", printed)


class Sleepy:
    """A model whose first run takes long."""

    signature, memory_bytes, inline, timed_anytime = None, 0, False, True

    def __init__(self) -> None:
        self.runs = 0

    def run(self, inputs: Any) -> Any:
        self.runs += 1
        time.sleep(0.5 if self.runs == 1 else 0)
        return inputs

    def prepare_timed(self, inputs: Any) -> None: ...

    def run_timed(self, inputs: Any) -> Any:
        return self.run(inputs), []

    def counted(self) -> None: ...

    def close(self) -> None: ...


def test_a_long_first_run_leaves_a_class_as_many_runs_as_it_would_have(tmp_path: Path, cache: Path) -> None:
    config = pb.ModelConfig(name="m")
    config.input.add(name="x", data_type=pb.TYPE_FP32, dims=[1])
    profiler = Profiler(open_device("cpu", 0, concurrency=1, threads=1, seed=0, cache=cache), alone, cache=tmp_path)
    (measured,) = asyncio.run(profiler.measure(config, Sleepy(), "1", tmp_path))
    assert measured.samples == Profiler.max_runs
    assert measured.work_ns < 0.4e9


def test_percentiles_are_runs_that_so_many_did_not_exceed() -> None:
    entry = solo.SoloClass(2, "", 50, 0.0, 0, tuple(range(200, 0, -1)), {}, "outside")
    assert [entry.percentile_ns(percent) for percent in (0, 0.5, 50, 95, 99, 100)] == [1, 1, 100, 190, 198, 200]
    assert msgspec.structs.replace(entry, durations_ns=(7,)).percentile_ns(99) == 7


def test_an_executor_finds_what_was_measured_and_does_not_measure_again(tmp_path: Path, cache: Path) -> None:
    repository = tmp_path / "models"
    folder = write_model(repository, "slow", delayed(2, max_batch_size=2))
    entry = Measured(repository, "slow", "--runs", "9").entry("slow", 2)
    (path,) = kept(folder, "profile")
    before = path.stat().st_mtime_ns
    (read,) = [one for one in json.loads(path.read_text()) if one["batch_size"] == 2]
    assert (read["work_ns"], read["samples"]) == (entry["work_ns"], 9)

    async def serve() -> None:
        async with running(tmp_path, repository, extra={"executor": (f"--profile-cache={cache}",)}) as stack:
            assert "model loaded" in stack.log("executor-0").read_text()

    asyncio.run(serve())
    assert kept(folder, "profile") == [path]
    assert path.stat().st_mtime_ns == before


def test_what_was_measured_before_serves_until_something_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    folder = write_model(repository, "slow", delayed(1, max_batch_size=2))

    def runs(*flags: str) -> tuple[bool, list[int]]:
        found = Measured(repository, "slow", *flags)
        return found.profiles["slow"]["fresh"], found.entry("slow", 2)["durations_ns"]

    fresh, first = runs("--runs", "6")
    assert (fresh, len(first)) == (True, 6)
    capsys.readouterr()
    assert runs() == (False, first)
    assert "--remeasure measures anew" in capsys.readouterr().out
    assert runs("--runs", "5") == (False, first)
    assert runs("--batch-sizes", "2") == (False, first)  # a part of what is kept
    assert runs("--runs", "7")[0]
    assert runs("--runs", "6", "--remeasure")[0]
    (record,) = kept(folder, "solo")
    record.write_text("{")
    assert runs()[0]
    (served,) = kept(folder, "profile")
    works = json.loads(served.read_text())
    served.write_text(json.dumps([{**one, "work_ns": one["work_ns"] + 1} for one in works]))
    assert runs()[0]  # an executor has measured since
    assert not runs()[0]
    (folder / "config.pbtxt").write_text(delayed(2, max_batch_size=2))
    fresh, changed = runs("--runs", "6")
    assert fresh
    assert min(changed) >= 2e6


def test_batch_sizes_that_an_executor_could_not_do_with_are_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    folder = write_model(repository, "slow", delayed(1, max_batch_size=4))
    some = Measured(repository, "slow", "--batch-sizes", "3,1,64", "--runs", "3")
    assert [entry["batch_size"] for entry in some.profiles["slow"]["classes"]] == [1, 3]
    assert not some.profiles["slow"]["kept"]
    assert "slow: not kept: a load measures batches of 2, 4 as well" in capsys.readouterr().out
    assert not kept(folder, "profile")
    assert not kept(folder, "solo")
    more = Measured(repository, "slow", "--batch-sizes", "1,2,3,4", "--runs", "3")
    assert more.profiles["slow"]["kept"]
    (path,) = kept(folder, "profile")
    assert [one["batch_size"] for one in json.loads(path.read_text())] == [1, 2, 3, 4]


def test_all_versions_that_would_be_served_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "models"
    for version in ("1", "2", "3"):
        write_model(
            repository, "two", delayed(1, max_batch_size=1, more="version_policy { latest { num_versions: 2 } }"),
            version=version,
        )  # fmt: skip
    found = Measured(repository, "two", "--runs", "3")
    assert [one["version"] for one in found.document["profiles"]] == ["2", "3"]
    assert "two/2" in (found.output / "throughput.svg").read_text()
    assert re.search(r"two +3 +identity", capsys.readouterr().out)


def test_models_that_cannot_be_measured_are_told_and_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models"
    write_model(repository, "broken", "max_batch_size: many")
    write_model(repository, "foreign", 'backend: "abacus"')
    write_model(repository, "lengths", BUCKETED)
    write_model(repository, "large", delayed(1, max_batch_size=2))
    write_model(repository, "gpu", EMULATED)
    write_model(repository, "well", delayed(1, max_batch_size=4))
    (repository / "empty").mkdir()
    asked = ("broken", "nobody", "foreign", "lengths", "large", "gpu", "empty", "../models/well", "well")
    found = Measured(repository, *asked, "--batch-sizes", "4", "--runs", "3", expected=1)
    assert list(found.profiles) == ["well"]
    expected = {
        "broken": "config.pbtxt cannot be read",
        "nobody": "failed to load 'nobody'",
        "foreign": "backend 'abacus' is not known; there are emulated, ensemble, identity",
        "lengths": "no parameter 'shape_buckets'",
        "large": "takes batches of at most 2",
        "gpu": "runs only on an emulated device",
        "empty": "no version folder",
        "../models/well": "failed to load",
    }
    assert set(found.failed) == set(expected)
    errors = capsys.readouterr().err
    for model, message in expected.items():
        assert message in found.failed[model]
        assert re.search(rf"cotenant profile: {model}( version 1)? was not measured: .*{message}", errors)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device=cuda:99"], "there is no CUDA device 99"),
        (["--device=tpu"], "--device must be cpu, cuda:N or emulated, got 'tpu'"),
        (["--device=cuda:first"], "--device must be"),
        (["--batch-sizes=1,none"], "--batch-sizes must be positive integers"),
        (["--batch-sizes=0"], "--batch-sizes must be positive integers"),
        (["--runs=-1"], "--runs must be positive"),
        (["--repository=/nowhere"], "there is no folder /nowhere"),
        ([], "there are no models in"),
    ],
)
def test_where_nothing_can_be_measured_it_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    if flags:
        write_model(tmp_path, "well", delayed(1))
    assert profile.main([f"--repository={tmp_path}", "--device=cpu", *flags]) == 2
    assert message in capsys.readouterr().err


PROCESS = """
import os, signal, sys
import msgspec
from cotenant.runtime import solo
flags = dict(flag.lstrip("-").partition("=")[::2] for flag in sys.argv[1:])
names = tuple(flags["models"].split(","))
def tell(event):
    print(msgspec.json.encode(event).decode(), flush=True)
if names == ("none",):
    raise SystemExit("the device is not well")
tell(solo.Opened(solo.SoloDevice("d", "cpu", "a device", 1, 1, 1, {}), names))
for name in names:
    tell(solo.Begun(name))
    if name in ("kills", "raises"):
        for line in ('{"event": "a log line"}', "what was wrong", '{"event": "another"}'):
            print(line, file=sys.stderr, flush=True)
    if name == "kills":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "raises":
        raise SystemExit(3)
    tell(solo.Ran(name, 1, ""))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "process.py").write_text(PROCESS)
    monkeypatch.setattr(profile_run, "MODULE", (sys.executable, str(tmp_path / "process.py")))


@pytest.mark.usefixtures("fake")
def test_a_model_that_takes_the_process_down_costs_no_other_its_turn(tmp_path: Path) -> None:
    asked = profile_run.Asked(tmp_path, "cpu", ("first", "kills", "second", "raises", "last", "kills"))
    told = itertools.islice(profile_run.events(asked), 50)  # it must come to an end
    seen = [event for event in told if isinstance(event, solo.Ran | solo.Failed)]
    assert [event.model for event in seen] == list(asked.models)
    assert isinstance(seen[1], solo.Failed)
    assert seen[1].message == "the measuring process was ended by SIGSEGV: what was wrong"
    assert isinstance(seen[3], solo.Failed)
    assert seen[3].message == "the measuring process ended with status 3: what was wrong"


@pytest.mark.usefixtures("fake")
def test_a_process_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(profile_run.ProfileError, match="the device is not well"):
        list(profile_run.events(profile_run.Asked(tmp_path, "cpu", ("none",))))


def test_an_emulated_gpu_runs_batches_for_as_long_as_its_law_says(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    folder = write_model(repository, "vision", EMULATED)
    found = Measured(repository, "vision", "--runs", "15", device="emulated")
    for size in (1, 2, 4, 8):
        kernels = personalities()["resnet50"].kernels(size)
        expected = sum(kernel.duration_ns for kernel in kernels) + LAUNCH_GAP_NS * len(kernels)
        assert found.entry("vision", size)["work_ns"] == pytest.approx(expected, rel=0.03)
        assert found.entry("vision", size)["basis"] == "emulated"
    assert found.entry("vision", 8)["items_per_s"] > 3 * found.entry("vision", 1)["items_per_s"]
    assert found.document["device"]["name"] == "emulated GPU (80 SMs)"
    assert len(kept(folder, "profile")) == 1


def test_onnx(tmp_path: Path, zoo_folder: Path) -> None:
    shutil.copytree(made(zoo_folder, "resnet_small", "onnx"), tmp_path / "models" / "resnet_small")
    found = Measured(tmp_path / "models", "--batch-sizes", "1,2", "--runs", "4")
    resnet = found.profiles["resnet_small"]
    assert (resnet["backend"], found.entry("resnet_small", 1)["basis"]) == ("onnxruntime", "operators")
    assert resnet["memory_bytes"] == (tmp_path / "models/resnet_small/1/model.onnx").stat().st_size
    assert resnet["device"]["software"]["onnxruntime"]


def test_a_model_that_prints_spoils_nothing(tmp_path: Path) -> None:
    import torch

    class Talks(torch.nn.Module):  # type: ignore[misc]
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            print("running")  # noqa: T201
            return values * 2

    config = """
    max_batch_size: 1
    input [{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }]
    output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 4 ] }]
    """
    folder = write_model(tmp_path / "models", "talks", config)
    torch.jit.script(Talks()).save(str(folder / "1" / "model.pt"))
    found = Measured(tmp_path / "models", "--runs", "3")
    assert found.profiles["talks"]["backend"] == "pytorch"
    assert len(found.entry("talks", 1)["durations_ns"]) == 3


def profiled(model: str, works_ms: dict[int, float], bucket: str = "", load: float = 0.0) -> solo.Profiled:
    device = solo.SoloDevice("cpu-0", "cpu", "a processor", 1, 1, 1, {})
    entries = tuple(
        solo.SoloClass(size, bucket, int(ms * 1e6), 0.1, 5, (int(ms * 1e6),) * 3, {"sm": 0.5}, "operators")
        for size, ms in works_ms.items()
    )
    one = solo.SoloProfile(model, "1", "onnxruntime", device, "2026-01-01T00:00:00+00:00", load, 5, 2**20, entries)
    return solo.Profiled(one, kept=True, fresh=True)


def test_the_plots_show_each_class_once(tmp_path: Path) -> None:
    found = [profiled("large", {1: 10, 2: 10, 8: 20}), profiled("small", {1: 1}, bucket="16")]
    paths = profile_plots.write([entry.profile for entry in found], tmp_path)
    assert [path.name for path in paths] == ["throughput.svg", "latency.svg"]
    for path in paths:
        root = ET.fromstring(path.read_text())
        texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"large", "small:16", "batch size", "1", "2", "8"} <= set(texts)
        assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 4
    heights = [
        [float(circle.get("cy", "")) for circle in ET.fromstring(path.read_text()).iter() if "circle" in circle.tag]
        for path in paths
    ]
    throughput, latency = heights
    assert throughput[3] < throughput[2] < throughput[1] < throughput[0]  # upwards: 1000, 400, 200, 100 a second
    assert latency[2] < latency[0] == latency[1] < latency[3]  # downwards: 20, 10, 10, 1 ms
    assert profile_plots.write([], tmp_path / "none") == []


def test_the_table_tells_the_best_throughput_and_who_else_ran() -> None:
    found = [profiled("busy", {1: 10, 2: 10, 4: 40}, load=2.0), profiled("calm", {2: 3}, load=0.5)]
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    profile_table.show(console, found)
    console.print(profile_table.models([entry.profile for entry in found]))
    text = console.export_text()
    assert re.search(r"busy +1 +onnxruntime .* 200 +2 +2.00x", text)
    assert re.search(r"calm +1 +onnxruntime .* 667 +2 +-", text)
    narrow = Console(width=80, force_terminal=True, color_system=None, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    profile_table.show(narrow, found)
    assert "\u2026" not in narrow.export_text()  # nothing is cut off
    remarks = " ".join(profile_table.remarks(found))
    assert "load average up to 2.0) beside busy" in remarks
    assert "calm" not in remarks
