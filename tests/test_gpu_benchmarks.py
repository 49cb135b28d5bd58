"""Scripts of benchmarks/gpu, rehearsed on the emulated GPU or this CPU: what they write, and that a re-run goes on."""

# ruff: noqa: N802 (what stands in for torch has torch's names)

import contextlib
import gzip
import random
import stat
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cotenant.cli import evaluate_reader
from cotenant.executor.green_contexts import GreenContexts
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler.simulate import SimulatedModel, Simulation
from stacks import IDENTITY, write_model
from test_green_contexts import FakeDriver

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
EMULATED = """
backend: "emulated"
max_batch_size: {most}
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }}]
dynamic_batching {{}}
parameters {{ key: "personality" value {{ string_value: "{name}" }} }}
parameters {{ key: "time_scale" value {{ string_value: "0.2" }} }}
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Scripts import what lies beside them, and build in a folder of the test's."""
    paths = [str(BENCHMARKS / name) for name in ("gpu", "interference", "")]
    sys.path[:0] = paths
    for name in ("script", "workload", "live"):
        monkeypatch.setattr(import_module(name), "BUILD", tmp_path / "build")
    yield
    for path in paths:
        sys.path.remove(path)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Emulated models, a fifth as long as usual; what is measured of them is kept, so only the first stack does it."""
    root = tmp_path_factory.mktemp("models")
    for name in ("mobilenet_v2", "resnet50", "bert"):
        write_model(root, name, EMULATED.format(name=name, most=2))
    return root


def script(name: str) -> ModuleType:
    return import_module(name)


def main(name: str, out: Path, *flags: str, device: str = "emulated") -> None:
    script(name).main([f"--device={device}", f"--out={out}", *flags])


def rows(path: Path, kind: str = "") -> list[dict[str, Any]]:
    return [row for row in script("journal").rows(path) if not kind or row["type"] == kind]


# ---- results


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_results_go_on_after_what_was_cut_off(tmp_path: Path, name: str) -> None:
    journal = script("journal")
    path = tmp_path / name
    first = journal.Journal(path, {"number": 1}, resume=False)
    first.add("p1", [{"type": "x", "value": 1}], state="s")
    whole = path.read_bytes()
    first.add("p2", [{"type": "x", "value": 2}])
    for length in range(len(whole) + 1, path.stat().st_size):
        broken = tmp_path / f"broken-{name}"
        broken.write_bytes(path.read_bytes()[:length])
        again = journal.Journal(broken, {"number": 2}, resume=True)
        assert again.done == {"p1"}
        again.add("p2", [{"type": "x", "value": 3}])
        assert [row.get("value", row.get("number")) for row in rows(broken) if row["type"] != "point"] == [1, 1, 2, 3]
    with pytest.raises(ValueError, match="is there already: --resume"):
        journal.Journal(path, {}, resume=False)


def test_a_rehearsal_is_never_among_results(capsys: pytest.CaptureFixture[str]) -> None:
    results = script("script").RESULTS
    for out in (results, results / "more"):
        with pytest.raises(SystemExit):
            main("solo", out)
        assert "is no result" in capsys.readouterr().err
    options, _ = script("script").parsed(script("script").parser("", seconds=9), ["--device=cpu"])
    assert not options.out.is_relative_to(results)
    options, _ = script("script").parsed(script("script").parser("", seconds=9), [])
    assert (options.out, options.seconds, options.rehearsal) == (results, 9, False)


def test_a_gpu_is_told_with_what_its_driver_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        value = 3

    def unsupported(*_: Any) -> None:
        raise NVMLError

    nvml = SimpleNamespace(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetPowerUsage=unsupported)
    nvml.nvmlDeviceGetName = lambda _: b"GPU"
    nvml.nvmlDeviceGetMemoryInfo = lambda _: SimpleNamespace(total=100, used=10)
    nvml.nvmlDeviceGetMigMode = lambda _: [0, 0]
    nvml.nvmlDeviceGetClockInfo = lambda _, kind: 1000 + kind
    nvml.nvmlDeviceGetComputeMode = unsupported
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "50")
    hardware = script("hardware")
    monkeypatch.setattr(hardware.nvml_devices, "find", lambda *_: 0)
    assert hardware.gpu(0) == {
        "name": "GPU",
        "memory_bytes": 100,
        "memory_used_bytes": 10,
        "mig_mode": [0, 0],
        "mps": {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"},
        "graphics_clock_mhz": 1000,
        "sm_clock_mhz": 1001,
        "memory_clock_mhz": 1002,
    }
    monkeypatch.setattr(hardware.nvml_devices, "find", unsupported)
    with pytest.raises(ValueError, match="there is no CUDA device 0"):
        hardware.gpu(0)


# ---- solo and pairs


def test_solo(tmp_path: Path, repository: Path) -> None:
    flags = (f"--repository={repository}", "--models=mobilenet_v2", "--seconds=0.2")
    main("solo", tmp_path, *flags, "--passes=1")
    path = tmp_path / "solo.jsonl"
    (run,) = rows(path, "run")
    assert run["rehearsal"]
    assert run["device"] == {"kind": "emulated", "index": 0}
    assert {"date", "command", "host", "load_average", "benchmark"} <= set(run)
    (load,) = rows(path, "load")
    assert load["load_ns"] > 0
    assert load["memory_bytes"] > 0
    solo = rows(path, "solo")
    assert [row["class"] for row in solo] == ["mobilenet_v2:1", "mobilenet_v2:2"]
    for row in solo:
        assert row["backend"] == "emulated"
        assert len(row["durations_ns"]) >= 5
        assert min(row["durations_ns"]) <= row["median_ns"] <= max(row["durations_ns"])
    main("solo", tmp_path, *flags, "--passes=2", "--resume")
    assert [row["point"] for row in rows(path, "point")] == ["pass0/torch/mobilenet_v2", "pass1/torch/mobilenet_v2"]
    assert len(rows(path, "run")) == 2


def test_pairs(tmp_path: Path, repository: Path) -> None:
    flags = (f"--repository={repository}", "--models=mobilenet_v2,resnet50", "--sizes=1", "--episodes=2", "--repeats=2")
    main("pairs", tmp_path, *flags, "--seconds=0.5")
    path = tmp_path / "pairs.jsonl.gz"
    first = rows(path)
    assert first[0]["solo_ns"].keys() == {"mobilenet_v2:1", "resnet50:1"}
    assert first[0]["shares"] == "none: 'emulated' has no green contexts"
    batches = [row for row in first if row["type"] == "batch"]
    assert batches
    for row in batches:
        assert sum(ns for ns, _ in row["slices"]) == row["duration_ns"]
        assert "sm_count" not in row
    episodes: dict[Any, list[dict[str, Any]]] = {}
    for row in batches:
        episodes.setdefault((row["point"], row["episode"], row["repeat"]), []).append(row)
    for episode in episodes.values():
        assert episode[0]["start_ns"] == 0
        for one in episode:  # who is told to have been beside a batch had started so long before, and was there
            at_ns = one["start_ns"]
            for duration_ns, beside in one["slices"]:
                for label, since_ns in beside:
                    assert (label, at_ns - since_ns) in [(o["class"], o["start_ns"]) for o in episode if o is not one]
                at_ns += duration_ns
    main("pairs", tmp_path, *flags, "--seconds=0.3", "--resume")
    points = [row["point"] for row in rows(path, "point")]
    assert len(points) == len(set(points)) > len([row for row in first if row["type"] == "point"])
    assert rows(path)[: len(first)] == first


def test_four_rounds_have_every_pair_of_classes() -> None:
    names, sizes = ("a", "b", "c"), (1, 2, 4, 8)
    by_model = {name: {size: BatchClass(name, "1", size, "") for size in sizes} for name in names}
    found = set()
    rounds: dict[str, int] = {}
    for point in script("pairs").plan(by_model, shares=True):
        number = point.name.split("/")[0]
        if number == "round4":
            break
        rounds[number] = rounds.get(number, 0) + 1
        assert bool(point.parts) == (point.kind == "share") <= (number != "round0")
        if point.kind == "pair":
            found.add(tuple((one.model, one.batch_size) for one in point.classes))
    assert rounds["round0"] + script("pairs").SHARED == rounds["round1"] == rounds["round3"]
    pairs = {(a, b) for a in names for b in names if a <= b}
    assert found == {((a, m), (b, n)) for a, b in pairs for m in sizes for n in sizes}


def test_pairs_on_shares(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = script("pairs")
    closed: list[int] = []

    class Shares:
        def partition(self, parts: Any) -> list[Any]:
            return [
                SimpleNamespace(sm_count=round(100 * p), close=lambda p=p: closed.append(round(100 * p))) for p in parts
            ]

        def lane(self, loaded: Any, known: Any, context: Any) -> Any:
            return loaded.model

    def opened(self: Any, root: Path) -> str:
        self._shares = Shares()
        return ""

    monkeypatch.setattr(pairs.Measuring, "_open_shares", opened)
    monkeypatch.setattr(pairs, "TRIPLES", 0)
    monkeypatch.setattr(pairs, "QUADRUPLES", 0)
    monkeypatch.setattr(pairs, "SOLO_RUNS", 2)
    flags = (f"--repository={repository}", "--models=mobilenet_v2", "--sizes=1", "--episodes=1", "--repeats=1")
    main("pairs", tmp_path, *flags, "--seconds=0.7")
    told = [row for row in rows(tmp_path / "pairs.jsonl.gz", "batch") if "/share/" in row["point"]]
    assert {row["sm_count"] for row in told} <= {25, 50, 75}
    assert {row["episode"] for row in told} == {-1, 0}
    assert all(not beside for row in told if row["episode"] == -1 for _, beside in row["slices"])
    assert len(closed) == 2 * len({row["point"] for row in told})


class FakeEvent:
    def __init__(self, instants: Iterator[int]) -> None:
        self._instants = instants
        self.at = 0

    def record(self, stream: Any) -> None:
        self.at = next(self._instants)

    def elapsed_time(self, later: "FakeEvent") -> float:
        return float(later.at - self.at)


class StandIn:
    """torch as if it had a CUDA device: operators run at once, a graph replays nothing, events are 1 ms apart."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        self.torch = torch
        self.cuda = self
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: self.done.append("replay"))
        self.done: list[str] = []
        self.waited: list[int] = []
        self.streams = iter(range(10_000, 20_000))
        self._events = iter(range(10**6))
        self.stream = self.graph = lambda *_, **__: contextlib.nullcontext()
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setitem(sys.modules, "torch", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.torch, name)

    def device(self, *_: Any) -> Any:
        return self.torch.device("cpu")

    def empty(self, *shape: Any, pin_memory: bool = False, **how: Any) -> Any:
        return self.torch.empty(*shape, **how)

    def ones(self, *shape: Any, pin_memory: bool = False, **how: Any) -> Any:
        return self.torch.ones(*shape, **how)

    def Stream(self, device: Any) -> Any:
        return self.ExternalStream(next(self.streams), device=device)

    def ExternalStream(self, handle: int, *, device: Any) -> Any:
        return SimpleNamespace(handle=handle, synchronize=lambda: self.waited.append(handle))

    def Event(self, *, enable_timing: bool) -> Any:
        return FakeEvent(self._events)

    def synchronize(self, device: Any) -> None:
        self.done.append("synchronize")


def test_a_lane_copies_replays_and_waits_for_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = StandIn(monkeypatch)
    program = SimpleNamespace(names=("x",), module=lambda x: {"y": 2 * x, "z": x[:1]})
    lane = script("lanes").GraphLane(program, {"x": np.array([1.0, 2.0], np.float32)}, 77, 0)
    torch.waited.clear()
    outputs, parts = lane.run_timed({})
    assert outputs["OUTPUT__0"].tolist() == [2.0, 4.0]
    assert outputs["OUTPUT__1"].tolist() == [1.0]
    assert (torch.done, torch.waited) == (["replay"], [77])
    assert script("workload").events_ns(parts) == [1_000_000] * 3
    assert script("workload").events_ns(parts[:2]) == []
    lane.close()
    assert not {"_graph", "_pinned", "_inputs", "_outputs"} & set(vars(lane))


def test_batches_of_a_gpu_are_timed_by_events_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = script("workload")
    monkeypatch.setattr(workload.kernel_timing.of_process, "on", True)
    gpu, cpu = (SimpleNamespace(placement=SimpleNamespace(kind=kind)) for kind in ("cuda", "cpu"))
    model = SimpleNamespace(timed_anytime=True)
    workload.events_only(cpu)
    assert not workload.takes_events(gpu, model)
    workload.events_only(gpu)
    assert workload.takes_events(gpu, model)
    assert not workload.takes_events(cpu, model)
    assert not workload.takes_events(gpu, SimpleNamespace(timed_anytime=False))


def test_launches_and_shares_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn(monkeypatch)
    bench = script("microbenchmarks")
    assert [row["way"] for row in bench.launches("cuda", 0, 0.001)] == ["eager", "graph"]
    driver = FakeDriver()
    monkeypatch.setattr(bench, "GreenContexts", lambda index: GreenContexts(index, driver))
    found = bench.shares("cuda", 0, repeats=2, product=16)
    assert [row.get("product_ns") is not None for row in found] == [False, *[True] * 6]
    assert [row["sm_count"] for row in found[1:]] == [8, 16, 32, 64, 96, 132]
    assert not driver.alive


# ---- the whole stack


@pytest.mark.long
def test_paper(tmp_path: Path, repository: Path) -> None:
    flags = (f"--repository={repository}", "--parts=table1", "--sets=test1", "--concurrency=4", "--load-seconds=0.5")
    main("paper", tmp_path, *flags, "--loads=1")
    (row,) = rows(tmp_path / "paper.jsonl", "load")
    assert (row["set"], row["load"]) == ("test1", 0.6)
    assert row["batches"] > 0
    log = tmp_path / "log"
    log.write_bytes(gzip.decompress((tmp_path / row["log"]).read_bytes()))
    recording = evaluate_reader.read(log)
    assert len(recording.batches) == row["batches"]
    assert not recording.rejected
    before = rows(tmp_path / "paper.jsonl", "point")
    main("paper", tmp_path, *flags, "--loads=1", "--resume")
    assert rows(tmp_path / "paper.jsonl", "point") == before


def test_a_distilled_log_has_the_batches_of_its_span(tmp_path: Path) -> None:
    distil = script("paper_logs").distil
    models = [SimulatedModel("a", "mobilenet_v2", 100, 10**12), SimulatedModel("b", "resnet50", 50, 10**12)]
    Simulation(models, record=tmp_path / "whole").run(1_000_000_000)
    whole = evaluate_reader.read(tmp_path / "whole").batches
    begin, end = whole[len(whole) // 3].started_ns, whole[-5].started_ns
    packed = tmp_path / "some" / "part.gz"
    assert distil(tmp_path / "whole", packed, begin, end) == sum(begin <= ran.started_ns < end for ran in whole)
    (tmp_path / "part").write_bytes(gzip.decompress(packed.read_bytes()))
    part = evaluate_reader.read(tmp_path / "part")
    assert [ran.started_ns for ran in part.batches] == [r.started_ns for r in whole if begin <= r.started_ns < end]
    assert [ran.work_ns for ran in part.batches] == [r.work_ns for r in whole if begin <= r.started_ns < end]


@pytest.mark.long
def test_goodput(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script("goodput"), "MOST", 1)
    flags = (
        f"--repository={repository}",
        "--models=mobilenet_v2",
        "--load-seconds=0.5",
        "--slo-floor-ms=400",
        "--seconds=60",
    )
    main("goodput", tmp_path, *flags, "--policies=exclusive-fifo,edf")
    found = rows(tmp_path / "goodput.jsonl", "goodput")
    assert [(row["policy"], row["load"]) for row in found] == [("exclusive-fifo", 0.4), ("edf", 0.4)]
    for row in found:
        assert row["goodput_per_s"] == pytest.approx(row["attainment"] * row["offered_per_s"])
        assert row["goodput_per_s"] > 0
        assert row["slo_ms"]["mobilenet_v2"] > 400
    main("goodput", tmp_path, *flags, "--policies=edf", "--resume")
    assert rows(tmp_path / "goodput.jsonl", "goodput") == found


@pytest.mark.parametrize("knee", [0.05, 0.37, 1.0, 3.3])
def test_the_search_for_goodput_finds_the_knee_and_looks_beyond(knee: float) -> None:
    goodput = script("goodput")
    seen: dict[float, float] = {}
    while (load := goodput.next_load(seen)) is not None:
        assert load not in seen
        seen[load] = 1.0 if load <= knee else 0.5
    assert len(seen) <= goodput.MOST
    kept = max((one for one in seen if one <= knee), default=0.0)
    if kept:
        above = min(one for one in seen if one > knee)
        assert above / kept <= goodput.CLOSE
        assert max(seen) >= above * goodput.BEYOND * 0.99


def test_overheads(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = (f"--repository={repository}", "--models=mobilenet_v2", "--stretch=0.01", "--seconds=60")
    main("overheads", tmp_path, *flags, "--parts=scaling,timing,shares,datapath")
    path = tmp_path / "overheads.jsonl"
    assert [(r["batch_size"], r["lanes"]) for r in rows(path, "scaling")] == [(1, lanes) for lanes in range(1, 9)]
    assert [row["way"] for row in rows(path, "timing")] == ["never", "sampled", "always"]
    (failed,) = rows(path, "failed")
    assert (failed["point"], failed["error"]) == ("shares", "ValueError: 'emulated' has no green contexts")
    ways = {(row["way"], row.get("lanes")): row["p50_ns"] for row in rows(path, "datapath")}
    assert list(ways) == [("call", None), ("device", None), ("requests", 1), ("requests", 8)]
    assert ways["requests", 1] > ways["device", None]
    monkeypatch.setattr(script("microbenchmarks"), "SIZES", (1000, 2000))
    identity = tmp_path / "models"
    write_model(identity, "identity", IDENTITY)
    flags = (f"--repository={identity}", "--stretch=0.002", "--parts=launch,copies", "--seconds=60")
    main("overheads", tmp_path / "cpu", *flags, device="cpu")
    (launch,) = rows(tmp_path / "cpu" / "overheads.jsonl", "launch")
    assert launch["way"] == "eager"
    copies = rows(tmp_path / "cpu" / "overheads.jsonl", "copy")
    assert [(row["bytes"], row["pinned"], row["direction"]) for row in copies] == [
        (size, pinned, direction) for size in (1000, 2000) for pinned in (True, False) for direction in ("in", "out")
    ]


# ---- counters and calibration

FAKE_NCU = """#!{python}
import subprocess, sys
metrics = sys.argv[sys.argv.index("--metrics") + 1].split(",")
program = sys.argv[sys.argv.index({python!r}, 1) :]
status = subprocess.run(program, stdout=sys.stderr).returncode
print("==PROF== Connected to process 1")
print(",".join(["ID", "Kernel Name", *metrics]))
print(",,%,%,%,ns")
print('0,conv,80,40,20,"1,000"')
print("1,add,20,40,80,1000")
sys.exit(status)
"""


def test_counters(tmp_path: Path) -> None:
    ncu = tmp_path / "ncu"
    ncu.write_text(FAKE_NCU.format(python=sys.executable), encoding="utf-8")
    ncu.chmod(ncu.stat().st_mode | stat.S_IXUSR)
    root = tmp_path / "models"
    write_model(root, "identity", IDENTITY)
    flags = (f"--repository={root}", "--sizes=1,4", "--seconds=60")
    main("counters", tmp_path / "out", *flags, f"--ncu={ncu}", device="cpu")
    path = tmp_path / "out" / "counters.jsonl"
    for row, size in zip(rows(path, "counters"), (1, 4), strict=True):
        assert (row["model"], row["batch_size"], row["measured"]["kernels"]) == ("identity", size, 2)
        assert row["measured"]["shares"]["sm"] == pytest.approx(0.5 * row["measured"]["busy"])
        assert row["measured"]["busy"] == pytest.approx(min(1.0, 2000 / row["counted"]["work_ns"]))
        assert (tmp_path / "out" / "ncu" / "identity" / f"ncu-b{size}.csv").exists()
    main("counters", tmp_path / "bad", *flags, "--ncu=/bin/false", device="cpu")
    assert [row["error"] for row in rows(tmp_path / "bad" / "counters.jsonl", "counters")] == ["status 1: "] * 2


def test_calibration_finds_the_device_that_was_measured(tmp_path: Path) -> None:
    emulation, journal, calibrate = script("emulation"), script("journal"), script("calibrate")
    drawn = random.Random(1)
    true = {
        "small": emulation.Shape(0.4, 0.3),
        "large": emulation.Shape(1.2, 0.2),
        "memory": emulation.Shape(0.8, 0.9),
    }
    device = emulation.Device(100, {name: {4: 4e6 * (i + 1)} for i, name in enumerate(true)}, {})
    made = {name: device.personality(name, shape) for name, shape in true.items()}
    solo = {f"{name}:{size}": round(emulation.solo_ns(made[name], size)) for name in true for size in (1, 2, 4)}

    run = {"solo_ns": solo, "date": "", "device": {}, "rehearsal": True, "torch": {"multiprocessors": 100}}
    measured = journal.Journal(tmp_path / "solo.jsonl", run, resume=False)
    classes = [{"type": "solo", "class": label, "durations_ns": [ns]} for label, ns in solo.items()]
    measured.add("pass0", classes)
    measured = journal.Journal(tmp_path / "pairs.jsonl.gz", run, resume=False)
    for number in range(45):
        chosen = [(drawn.choice(list(true)), drawn.choice((1, 2, 4)), drawn.randrange(2_000_000)) for _ in range(2)]
        episode = tuple(emulation.Started(*one, 0) for one in sorted(chosen, key=lambda one: one[2]))
        durations = emulation.play(episode, made, "leftover")
        batches = [
            {"type": "batch", "episode": 0, "repeat": repeat, "class": f"{one.model}:{one.batch_size}"}
            | {"start_ns": one.start_ns, "duration_ns": round(ns * drawn.lognormvariate(0, 0.01))}
            for repeat in range(2)
            for one, ns in zip(episode, durations, strict=True)
        ]
        measured.add(f"round0/pair/{number}", batches)

    found = calibrate.calibrate(tmp_path, episodes=45, seed=0, laws=("fair", "leftover"))
    assert found["law"] == "leftover"
    for name, shape in true.items():
        assert found["shapes"][name]["sms"] == pytest.approx(shape.sms, rel=0.25)
        assert found["shapes"][name]["memory"] == pytest.approx(shape.memory, abs=0.15)
    errors = found["errors"]["pair"]
    assert errors["held_out"]["median"] < 0.02
    assert errors["held_out"]["p95"] < 0.06 < errors["solo_times_alone"]["p95"]
    assert errors["repeats"]["median"] < 0.02
    assert found["personalities"]["models"].keys() == true.keys()
    with pytest.raises(SystemExit, match=r"solo\.jsonl is not there: measure with solo\.py first"):
        calibrate.main([f"--out={tmp_path / 'nothing'}"])


def test_counted_kernels_become_a_personality(tmp_path: Path) -> None:
    header = "ID,Kernel Name," + ",".join(script("counters").METRICS)
    lines = [header, ",,%,%,%,ns", "0,conv,95,10,10,3000", "1,copy,10,50,45,1000"]
    (tmp_path / "ncu-b8.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "ncu-b1.csv").write_text("not read\n", encoding="utf-8")
    assert script("calibrate").counted_of(tmp_path, 100) == [(3000, 100, 1.0, 0.0), (1000, 50, 0.0, 1.0)]
    assert script("calibrate").counted_of(tmp_path / "nothing", 100) == []


# ---- the report


def test_rates_beside_each_other_and_what_a_roofline_allows() -> None:
    report = script("report")
    solo_ns = {"a": 100.0, "b": 400.0}
    row = {"class": "a", "duration_ns": 150, "slices": [[50, []], [100, [["b", 7]]]]}
    assert report.rate_beside(row, solo_ns) == ("b", 0.5)
    for slices in ([[140, []], [10, [["b", 0]]]], [[75, [["b", 0]]], [75, [["a", 0]]]], [[150, [["a", 0], ["b", 0]]]]):
        assert report.rate_beside({**row, "slices": slices}, solo_ns) is None
    few, many = {"sm": 0.2, "l2": 0.1, "dram": 0.3}, {"sm": 0.9, "l2": 0.5, "dram": 0.95}
    assert report.expected(few, few) == 1.0
    assert report.expected(few, many) == pytest.approx(1 / 1.25)
    assert report.expected(many, many) == pytest.approx(1 / 1.9)


def test_the_report_reads_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(name: str, point: str, found: list[dict[str, Any]], **run: Any) -> None:
        journal = script("journal").Journal(tmp_path / name, {"device": {"kind": "cuda"}, **run}, resume=False)
        journal.add(point, found)

    solo = {"type": "solo", "backend": "pytorch", "class": "a:1", "durations_ns": [1_000_000, 1_010_000, 1_020_000]}
    measured("solo.jsonl", "pass0", [solo, {**solo, "durations_ns": [1_100_000]}])
    batch = {"type": "batch", "episode": 0, "lane": 0, "class": "a:1", "duration_ns": 150}
    slices: dict[str, list[Any]] = {"a:1": [[50, []], [100, [["b:1", 0]]]], "b:1": [[100, [["a:1", 50]]], [20, []]]}
    batches = [
        {**batch, "class": label, "repeat": i, "duration_ns": sum(ns for ns, _ in told), "slices": told}
        for label, told in slices.items()
        for i in range(3)
    ]
    measured("pairs.jsonl.gz", "round0/pair/a:1+b:1", batches, solo_ns={"a:1": 100, "b:1": 100})
    shares = {"sm": 0.75, "l2": 0.1, "dram": 0.2}
    counted = [{"type": "counters", "model": m, "batch_size": 1, "measured": {"shares": shares}} for m in ("a", "b")]
    measured("counters.jsonl", "a/1", counted)
    measured("overheads.jsonl", "shares", [{"type": "failed", "error": "there are none"}])
    goodput = {"type": "goodput", "policy": "edf", "load": 1.0, "attainment": 1.0, "goodput_per_s": 50.0}
    measured("goodput.jsonl", "edf", [goodput, {**goodput, "load": 2.0, "attainment": 0.9, "goodput_per_s": 70.0}])

    script("report").main([f"--out={tmp_path}"])
    told = capsys.readouterr().out
    assert "| pytorch a:1 | 1.015 | 8.4% | 8.9% | 4 |" in told
    assert "| a, b | 0.50 | 0.80 | 1.30 | 1.33 |" in told
    assert "6 batches in 1 points; repeats apart by 0.0%" in told
    assert "- FAILED shares: there are none" in told
    assert "| edf | 50 | 70 (load 2.00) | 2 |" in told


# ---- what travels


def test_what_cannot_be_imported_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check = script("check_imports")
    assert "cotenant.executor.device" in check.modules()
    monkeypatch.setattr(check, "modules", lambda: ["cotenant.runtime.clock", "cotenant.not_there"])
    monkeypatch.setattr(check, "NEEDED", ("numpy",))
    assert check.main() == 1
    assert "missing: cotenant.not_there: ModuleNotFoundError" in capsys.readouterr().err
    monkeypatch.setattr(check, "modules", lambda: ["cotenant.runtime.clock"])
    assert check.main() == 0


@pytest.mark.parametrize("name", ["all.sh", "carry.sh", "environment.sh"])
def test_shell_scripts_are_well_formed(name: str) -> None:
    import subprocess

    subprocess.run(["bash", "-n", BENCHMARKS / "gpu" / name], check=True)
