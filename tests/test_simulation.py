"""The simulator: devices of all kinds, beliefs, closed loops, studies, and what no policy can exceed."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotenant.cli import plan as plan_command
from cotenant.cli import simulate as simulate_command
from cotenant.executor.emulated_gpu import EmulatedGpu, Kernel
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import contention
from cotenant.scheduler import events as ev
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.replay import replay
from cotenant.scheduler.simulate import SimulatedModel, Simulation
from cotenant.scheduler.simulation import building, clairvoyant, search
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.devices import KernelDevice, PhasedDevice
from cotenant.scheduler.simulation.emulated_law import EmulatedLaw, Recipe
from cotenant.scheduler.simulation.laws import work_ns
from cotenant.scheduler.simulation.study import Study
from cotenant.scheduler.simulation.true_rates import TrueRates, TrueTable, TrueTimes
from cotenant.scheduler.simulation.world import World, read

MS = 1_000_000
MODELS = ("resnet50", "mobilenet_v2", "transformer_xl")
WORLD = """
seconds = 2
policy = ["edf:solo", "exclusive-fifo:solo"]
[devices]
kind = "phases"
[[models]]
name = "vision"
personality = "resnet50"
rate = 60
slo_ms = 40
[[models]]
name = "small"
personality = "mobilenet_v2"
rate = 80
slo_ms = 20
"""


def world(tmp_path: Path, text: str = WORLD) -> World:
    path = tmp_path / "world.toml"
    path.write_text(text, encoding="utf-8")
    return read(path)


def mix(scale: float = 1.0, slo: float = 1.0) -> list[SimulatedModel]:
    return [
        SimulatedModel("vision", "resnet50", 60 * scale, round(40 * MS * slo)),
        SimulatedModel("small", "mobilenet_v2", 80 * scale, round(20 * MS * slo)),
        SimulatedModel("text", "transformer_xl", 15 * scale, round(100 * MS * slo)),
    ]


# ---- phase by phase


def law(concurrency: int = 4) -> EmulatedLaw:
    return EmulatedLaw({name: Recipe(name) for name in MODELS}, concurrency)


class Exact(EmulatedGpu):
    """Without noise."""

    def _noisy(self, kernels: list[Kernel]) -> list[Kernel]:
        return kernels


def finished_ms(device: KernelDevice | PhasedDevice, starts: list[tuple[int, BatchClass]]) -> dict[int, float]:
    """How long batches took that started at these instants, by their place in the list."""
    took: dict[int, float] = {}
    waiting = list(enumerate(starts))
    while True:
        at_ns = device.next_ns()
        if waiting and (not at_ns or waiting[0][1][0] <= at_ns):
            key, (start_ns, known) = waiting.pop(0)
            device.start(start_ns, key, known)
        elif at_ns:
            took |= {ended.key: (ended.at_ns - starts[ended.key][0]) / MS for ended in device.ended(at_ns)}
        else:
            return took


def test_phase_by_phase_is_like_kernel_by_kernel() -> None:
    pattern = [("resnet50", 8), ("mobilenet_v2", 8), ("transformer_xl", 1), ("resnet50", 1), ("mobilenet_v2", 2)]
    classes = [BatchClass(*pattern[i % 5][:1], "1", pattern[i % 5][1]) for i in range(100)]
    starts = [(MS * (1 + 3 * i + (i * 7) % 4), known) for i, known in enumerate(classes)]
    by_kernels = finished_ms(KernelDevice(Exact(), lambda known: Recipe(known.model).kernels(known.batch_size)), starts)
    by_phases = finished_ms(PhasedDevice(law(), noise=0.0), starts)
    alone = [work_ns(law(), known) / MS for known in classes]
    assert sum(by_kernels.values()) > 1.15 * sum(alone)  # they did slow each other
    errors = [by_phases[i] / by_kernels[i] - 1.0 for i in range(len(starts))]
    assert abs(fmean(errors)) < 0.04
    assert median(map(abs, errors)) < 0.04


def test_a_batch_that_runs_alone_takes_its_solo_time() -> None:
    known = BatchClass("resnet50", "1", 4)
    took = finished_ms(PhasedDevice(law(), noise=0.0), [(MS, known), (100 * MS, known)])
    assert took[0] == took[1] == pytest.approx(work_ns(law(), known) / MS, abs=1e-5)


def test_no_set_uses_more_than_the_device_has() -> None:
    own = law()
    for name in MODELS:
        for size in (1, 2, 4, 8):
            own.parts(BatchClass(name, "1", size))
    means = own._stages._means
    rng = random.Random(2)
    fullest = 0.0
    for _ in range(600):
        numbers = tuple(sorted(rng.choice(sorted(means)) for _ in range(rng.randint(2, 4))))
        rates = own.rates(numbers)
        assert all(0.0 < rate <= 1.0 for rate in rates)
        for used in ([means[n].sm for n in numbers], [means[n].dram for n in numbers]):
            fullest = max(fullest, sum(rate * share for rate, share in zip(rates, used, strict=True)))
    assert 0.99 < fullest <= 1.0 + 1e-9


def test_attainment_is_the_same_by_both() -> None:
    kinds = [Simulation(mix(9.0), seed=3, kind=kind, learn=False).run(8 * 10**8) for kind in ("kernels", "phases")]
    assert 0.3 < kinds[0].slo_attainment < 0.99
    assert abs(kinds[0].slo_attainment - kinds[1].slo_attainment) < 0.04


# ---- determinism, logs


@pytest.mark.parametrize("predictor", ["fluid", "true", "solo", "static-rls"])
def test_the_same_seed_gives_the_same_run_phase_by_phase(predictor: str) -> None:
    first, again, other = (
        Simulation(mix(2.0), devices=2, seed=seed, kind="phases", predictor=predictor).run(5 * 10**8)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_record_of_phases_replays_to_the_same_actions(tmp_path: Path) -> None:
    Simulation(mix(2.0), devices=2, seed=1, kind="phases", record=tmp_path / "log").run(10**9)
    outcome = replay(tmp_path / "log")
    assert outcome.difference is None
    assert outcome.actions > 300


def test_true_rates_leave_no_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="true rates"):
        Simulation(mix(), record=tmp_path / "log", predictor="true")


# ---- beliefs


def test_true_rates_foretell_every_batch_that_nobody_joins() -> None:
    """Without noise, what was launched last must take as long as was forecast."""
    models, seen = mix(1.0), list[ev.BatchFinished]()
    Simulation(models, seed=2, kind="phases", noise=0.0, predictor="true", observer=seen.append).run(2 * 10**9)
    undisturbed = [
        b for b in seen if b.forecast and not any(a.started_ns > b.started_ns and a.started_ns < b.at_ns for a in seen)
    ]
    beside = [b for b in undisturbed if b.forecast and b.forecast.co_runner_count]
    assert len(beside) > 20
    errors = [abs(b.forecast.duration_ns / b.duration_ns - 1.0) for b in beside if b.forecast]
    assert max(errors) < 0.02


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_table_of_true_rates_says_what_the_device_will_do(order: tuple[int, ...]) -> None:
    own = law()
    chosen = [BatchClass(MODELS[i], "1", (8, 4, 2)[i]) for i in order]
    table = TrueTable(TrueRates(own))
    learner = TrueTimes(own, chosen)
    table.update([learner.estimate(known) for known in chosen], [], complete=True)
    works = [round(work_ns(own, known)) for known in chosen]
    told = contention.finish_offsets(table, chosen, works, works)
    took = finished_ms(PhasedDevice(own, noise=0.0), [(MS, known) for known in chosen])
    assert [offset / MS for offset in told] == pytest.approx([took[i] for i in range(3)], rel=1e-4)
    assert sum(told) > 1.1 * sum(works)


def test_learning_ends_when_it_is_told_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Simulation(mix(2.0), seed=1, kind="phases", record=log, learn_ns=5 * 10**8).run(2 * 10**9)
    pushes = [
        (group["now_ns"], event)
        for group in map(json.loads, log.read_text(encoding="utf-8").splitlines())
        for event in group.get("events", ())
        if event["type"] == "EstimatesPushed"
    ]
    last_ns = max(now_ns for now_ns, _ in pushes)
    assert 10**9 + 3 * 10**8 < last_ns < 10**9 + 8 * 10**8


def test_a_learner_that_tells_sets_is_heard(tmp_path: Path) -> None:
    log = tmp_path / "log"
    Simulation(mix(3.0), seed=1, kind="phases", record=log, predictor="static-rls").run(10**9)
    assert '"sets":[{' in log.read_text(encoding="utf-8")


# ---- what clients do


def test_a_closed_loop_sends_when_it_was_answered() -> None:
    models = [SimulatedModel("batch", "bert", 0.0, 0, 1, clients=2)]
    outcome = Simulation(models, seed=1, kind="phases", noise=0.0, predictor="true").run(10**9)
    own = outcome.models["batch"]
    assert own.offered == own.in_time > 10
    assert outcome.busy_ns / 10**9 > 1.8  # both are nearly always served
    assert outcome.busy_ns / 10**9 < 2.2


def test_a_launch_that_comes_too_late_is_dropped_and_refused() -> None:
    """The order takes longer than its window allows: the executor drops it, as the real one does."""
    models = [SimulatedModel("vision", "resnet50", 50.0, round(6.4 * MS), 1)]
    outcome = Simulation(models, seed=1, kind="phases", noise=0.0, predictor="true").run(10**9)
    own = outcome.models["vision"]
    assert outcome.dropped > 20
    assert own.refused == own.offered


def test_requests_have_the_priority_of_their_model(tmp_path: Path) -> None:
    models = [replace(model, priority=i) for i, model in enumerate(mix())]
    Simulation(models, seed=1, kind="phases", learn=False, record=tmp_path / "log").run(5 * 10**8)
    told = {
        (event["request"]["model"], event["request"].get("priority", 0))
        for record in map(json.loads, (tmp_path / "log").read_text(encoding="utf-8").splitlines())
        for event in record.get("events", ())
        if event["type"] == "RequestArrived"
    }
    assert told == {("vision", 0), ("small", 1), ("text", 2)}


def test_models_are_loaded_where_they_are_placed(tmp_path: Path) -> None:
    text = WORLD.replace("[devices]", "[devices]\ncount = 8").replace('name = "small"', 'name = "small"\ndevices = 3')
    told = world(tmp_path, text.replace('name = "vision"', 'name = "vision"\ncopies = 5\ndevices = 1'))
    models = building.models(told, Setting(), building.law(told))
    assert [m.name for m in models][:2] == ["vision-0", "vision-1"]
    homes = [m.devices for m in models]
    assert [len(home) for home in homes] == [1, 1, 1, 1, 1, 3]
    assert len({d for home in homes for d in home}) == 8  # spread by load
    seen: list[ev.BatchFinished] = []
    Simulation(models, devices=8, seed=1, kind="phases", learn=False, observer=seen.append).run(10**9)
    for batch in seen:
        model = next(m for m in models if m.name == batch.batch_class.model)
        assert int(batch.device_id.rpartition("-")[2]) in model.devices


# ---- the bound


def bounded(models: list[SimulatedModel], devices: int, seed: int, **how: float) -> clairvoyant.Bound:
    simulation = Simulation(models, devices=devices, seed=seed, kind="phases", learn=False, **how)  # type: ignore[arg-type]
    return clairvoyant.bound(simulation.requests(2 * 10**8), models, simulation.law, devices, simulation.delays)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(["true", "solo"]),
    st.floats(0.5, 12.0),
    st.floats(0.5, 4.0),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_no_policy_exceeds_the_bound(
    policy: str, predictor: str, scale: float, slo: float, devices: int, seed: int
) -> None:
    models = mix(scale, slo)
    run = Simulation(models, devices=devices, policy=policy, predictor=predictor, seed=seed, kind="phases", noise=0.0)
    outcome = run.run(2 * 10**8)
    found = bounded(models, devices, seed)
    assert found.offered == outcome.offered
    assert outcome.in_time <= found.in_time <= found.offered


def test_the_bound_binds_under_overload() -> None:
    """Many times what a device can do: a bound that said nothing would be useless."""
    found = bounded(mix(60.0), 1, 1)
    assert found.in_time < 0.6 * found.offered
    assert bounded(mix(60.0), 4, 1).in_time > found.in_time


def test_the_most_work_in_windows_is_that_of_a_linear_program() -> None:
    """Two windows that overlap, checked by hand: 10 ns for both, and 3 after."""
    windows = [clairvoyant.Window(0, 10, 0), clairvoyant.Window(0, 10, 0), clairvoyant.Window(8, 13, 0)]
    assert clairvoyant.most_done(windows, [7.0]) == pytest.approx(13.0)
    assert clairvoyant.most_done(windows, [4.0]) == pytest.approx(12.0)


# ---- worlds


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rate = 60", "rate = -1", "models 'vision'.rate"),
        ("rate = 60", "rat = 60", "rat"),
        ('personality = "resnet50"', 'personality = "resnet"', "models 'vision'.personality"),
        ('kind = "phases"', 'kind = "measured"', "devices.table"),
        ('"edf:solo"', '"edd"', "no policy 'edd'"),
        ('"edf:solo"', '"edf:fluit"', "no learner 'fluit'"),
        ('name = "small"', 'name = "vision"', "two of the name 'vision'"),
        ("[devices]", '[arrivals]\nkind = "trace"\n[devices]', "arrivals.file"),
    ],
)
def test_a_mistake_in_a_world_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"world\.toml") as caught:
        world(tmp_path, WORLD.replace(old, new, 1))
    assert told in str(caught.value)


@pytest.mark.parametrize("path", sorted((Path(__file__).parent.parent / "examples/worlds").glob("*.toml")))
def test_the_examples_are_worlds(path: Path) -> None:
    told = read(path)
    assert building.models(told, Setting(), building.law(told))


def test_measured_slowdowns_are_replayed(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        "model,batch_size,co_runner,co_runner_batch_size,slowdown\n"
        "a,1,a,1,2.0\na,1,b,1,1.5\nb,1,a,1,1.25\nb,1,b,1,3.0\na,4,b,1,1.1\n",
        encoding="utf-8",
    )
    text = 'models = [{name = "a", work_ms = {1 = 10, 4 = 20}, rate = 1}, {name = "b", work_ms = {1 = 10}, rate = 1}]\n'
    told = world(tmp_path, text + '[devices]\nkind = "measured"\ntable = "pairs.csv"\n')
    found = building.law(told)
    one, four, other = BatchClass("a", "1", 1), BatchClass("a", "1", 4), BatchClass("b", "1", 1)
    numbers = {known: found.parts(known)[0].number for known in (one, four, other)}
    assert work_ns(found, BatchClass("a", "1", 2)) == pytest.approx(40 / 3 * MS)
    assert found.rates((numbers[one], numbers[other])) == pytest.approx((1 / 1.5, 1 / 1.25))
    assert found.rates((numbers[four], numbers[other]))[0] == pytest.approx(1 / 1.1)
    three = found.rates((numbers[one], numbers[one], numbers[other]))
    assert three == pytest.approx((1 / (2.0 * 1.5), 1 / (2.0 * 1.5), 1 / (1.25 * 1.25)))
    took = finished_ms(PhasedDevice(found, noise=0.0), [(MS, one), (MS, other)])
    assert took == pytest.approx({1: 12.5, 0: 12.5 + 10 * (1 - 12.5 / 15)}, abs=1e-4)
    row = Study(told).run("edf:solo", Setting(), 0)
    assert row.offered == row.in_time


def test_a_table_without_a_pair_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        "model,batch_size,co_runner,co_runner_batch_size,slowdown\na,1,a,1,2.0\n", encoding="utf-8"
    )
    text = 'models = [{name = "a", work_ms = {1 = 10}}, {name = "b", work_ms = {1 = 10}}]\n'
    told = world(tmp_path, text + '[devices]\nkind = "measured"\ntable = "pairs.csv"\n')
    with pytest.raises(ValueError, match=r"how 'a' is slowed beside 'b' is not in it"):
        building.law(told)


def test_a_log_is_simulated_by_what_was_learned(tmp_path: Path) -> None:
    Simulation(mix(3.0), seed=1, kind="phases", record=tmp_path / "log").run(2 * 10**9)
    text = WORLD.replace('kind = "phases"', 'kind = "learned"\nlog = "log"').replace("rate = 60", "rate = 180")
    told = world(tmp_path, text.replace("rate = 80", "rate = 240"))
    found = building.law(told)
    truth = EmulatedLaw({"vision": Recipe("resnet50"), "small": Recipe("mobilenet_v2")}, 4)
    both = [BatchClass("vision", "1", 1), BatchClass("small", "1", 1)]
    for known in both:
        assert work_ns(found, known) == pytest.approx(work_ns(truth, known), rel=0.03)
        draws = random.Random(1)
        scales = [found.scale(known, 10**9 + i * 20 * MS, draws) for i in range(100)]
        assert fmean(scales) == pytest.approx(1.0, abs=0.02)
        assert 0.002 < stdev(scales) < 0.05
    slowed = [
        finished_ms(PhasedDevice(which, noise=0.0), [(MS, known) for known in both])[0] for which in (found, truth)
    ]
    assert slowed[0] == pytest.approx(slowed[1], rel=0.05)
    row = Study(told).run("edf:solo", Setting(), 0)
    assert row.offered > 600


# ---- searches and commands


def test_the_highest_rate_is_one_that_holds(tmp_path: Path) -> None:
    study = Study(world(tmp_path))
    found = search.highest_rate(study, "exclusive-fifo:solo", 0.9, 1, Setting(), lambda _, __: None)
    at = study.run("exclusive-fifo:solo", Setting(rate=found.value), 0).attainment
    above = study.run("exclusive-fifo:solo", Setting(rate=found.value * 1.1), 0).attainment
    assert at >= 0.9 > above
    assert found.attainment == at


def test_the_fewest_devices_are_needed(tmp_path: Path) -> None:
    study = Study(world(tmp_path))
    found = search.fewest_devices(study, "edf:solo", 0.99, 1, Setting(rate=18.0), lambda _, __: None)
    assert found.value >= 2
    shares = [study.run("edf:solo", Setting(18.0, devices=round(found.value) - i), 0).attainment for i in (0, 1)]
    assert shares[0] >= 0.99 > shares[1]


def test_what_no_number_of_devices_answers_is_told(tmp_path: Path) -> None:
    told = world(tmp_path, WORLD.replace("slo_ms = 20", "slo_ms = 0.5"))
    found = search.fewest_devices(Study(told), "edf:solo", 0.99, 1, Setting(), lambda _, __: None)
    assert found.value == 0


def test_the_command_writes_rows_plots_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world(tmp_path, WORLD.replace("seconds = 2", "seconds = 0.5"))
    arguments = [str(tmp_path / "world.toml"), "--rates", "1,8", "--cvs", "1,4", "--slo-scales", "1,2"]
    policies = "edf:solo,exclusive-fifo:solo,clairvoyant"
    assert simulate_command.main([*arguments, "--devices", "1,2", "--policy", policies, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "exclusive-fifo:solo" in out
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert len(result["rows"]) == 3 * 7  # rate 1, SLO 1 are one point; devices 1 is the world's own, told apart
    for row in result["rows"]:
        if row["policy"] != "clairvoyant":
            assert row["offered"] == row["in_time"] + row["late"] + row["refused"]
    for name in ("rate", "burstiness", "slo", "devices"):
        text = (tmp_path / f"attainment-{name}.svg").read_text(encoding="utf-8")
        assert text.count("<polyline") == 3 * 1 * 2 / 2
    for name in ("realtime-latency", "realtime-increase", "throughput"):
        assert "<polyline" in (tmp_path / f"{name}-rate.svg").read_text(encoding="utf-8")


def test_a_stretch_is_drawn_and_a_record_is_kept(tmp_path: Path) -> None:
    world(tmp_path, WORLD.replace("seconds = 2", "seconds = 0.5"))
    arguments = [str(tmp_path / "world.toml"), "--policy", "edf:fluid", "--record", str(tmp_path / "log")]
    assert simulate_command.main([*arguments, "--timeline", "0.1:0.3", "--out", str(tmp_path)]) == 0
    assert replay(tmp_path / "log").difference is None
    records = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    finished = [e for r in records for e in r.get("events", ()) if e["type"] == "BatchFinished"]
    inside = [e for e in finished if e["started_ns"] < 1.3e9 and e["started_ns"] + e["duration_ns"] > 1.1e9]
    picture = (tmp_path / "timeline.svg").read_text(encoding="utf-8")
    assert picture.count("<title>") == len(inside) > 10


def test_simulations_in_processes_find_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world(tmp_path, WORLD.replace("seconds = 2", "seconds = 0.3"))
    found = []
    for jobs in ("1", "2"):
        assert simulate_command.main([str(tmp_path / "world.toml"), "--json", "--seeds", "2", "--jobs", jobs]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        found.append([{**row, "cpu_s": 0.0} for row in rows])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_a_plan_tells_devices_for_every_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world(tmp_path, WORLD.replace("seconds = 2", "seconds = 0.5"))
    assert plan_command.main([str(tmp_path / "world.toml"), "--rate", "6", "--json", "--predictor", "solo"]) == 0
    document = json.loads(capsys.readouterr().out)
    counts = {row["policy"]: row["value"] for row in document["devices"]}
    assert set(POLICIES) | {"clairvoyant"} <= {name.partition(":")[0] for name in counts}
    assert counts["clairvoyant"] <= counts["edf:solo"]
    assert all(count == math.floor(count) for count in counts.values())
    assert document["assumed"]


def test_rows_survive_json(tmp_path: Path) -> None:
    row = Study(world(tmp_path)).run("edf:solo", Setting(), 0)
    assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row


def test_what_comes_while_it_warms_up_is_served_and_not_counted(tmp_path: Path) -> None:
    whole = Study(world(tmp_path))
    later = Study(world(tmp_path, WORLD.replace("seconds = 2", "seconds = 2\nwarmup_seconds = 1")))
    everything, counted = whole.run("edf:solo", Setting(), 0), later.run("edf:solo", Setting(), 0)
    assert 0.3 < counted.offered / everything.offered < 0.7
    assert counted.offered == later.offered(Setting(), 0)
    assert counted.in_time + (counted.late or 0) + (counted.refused or 0) == counted.offered
    assert counted.batches == everything.batches
    with pytest.raises(ValueError, match="warmup_seconds: expected 0 or more, and less than seconds, got 2"):
        world(tmp_path, WORLD.replace("seconds = 2", "seconds = 2\nwarmup_seconds = 2"))


def test_a_model_runs_as_often_at_once_as_its_instances_allow(tmp_path: Path) -> None:
    limited = WORLD.replace("slo_ms = 40", "slo_ms = 40\ninstances = 1")
    limited = limited.replace("slo_ms = 20", "slo_ms = 20\ninstances = 1").replace("rate = ", "rate = 4")
    row = Study(world(tmp_path, limited)).run("edf-fixed", Setting(), 0)
    free = Study(world(tmp_path, limited.replace("instances = 1", "instances = 0"))).run("edf-fixed", Setting(), 0)
    assert row.co_runners is not None
    assert free.co_runners is not None
    assert row.co_runners < 1.0 < free.co_runners
