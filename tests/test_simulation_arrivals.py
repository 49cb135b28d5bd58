"""Arrivals of simulations: processes at their rates, bursts and curves; traces of three formats."""

import json
import random
from collections import Counter
from itertools import islice, pairwise, takewhile
from pathlib import Path
from statistics import fmean, stdev

import pytest

from cotenant.scheduler.simulation import building, traces
from cotenant.scheduler.simulation.arrivals import (
    Bursty,
    Diurnal,
    Periodic,
    Poisson,
    Process,
    Recorded,
    Stream,
    merged,
)
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.world import read


def instants(process: Process, rate: float, seconds: float, seed: int = 1) -> list[float]:
    return list(takewhile(lambda at_s: at_s < seconds, process.instants_s(random.Random(seed), rate)))


def cv(at_s: list[float]) -> float:
    gaps = [b - a for a, b in pairwise(at_s)]
    return stdev(gaps) / fmean(gaps)


@pytest.mark.parametrize(
    ("process", "expected_cv"), [(Poisson(), 1.0), (Bursty(4.0), 4.0), (Bursty(0.5), 0.5), (Periodic(), 0.0)]
)
def test_processes_keep_their_rate_and_burstiness(process: Process, expected_cv: float) -> None:
    found = instants(process, 200.0, 400.0)
    assert len(found) == pytest.approx(200.0 * 400.0, rel=0.05)
    assert cv(found) == pytest.approx(expected_cv, rel=0.1, abs=1e-6)
    assert found == sorted(found)
    assert found[0] >= 0.0


def test_bursts_are_as_usual_from_the_beginning() -> None:
    """A renewal process that begins with an arrival at 0 would have too many at its start."""
    counts = [len(instants(Bursty(6.0), 50.0, 1.0, seed)) for seed in range(400)]
    assert fmean(counts) == pytest.approx(50.0, rel=0.15)


def test_a_day_has_its_curve() -> None:
    found = instants(Diurnal((1.0, 3.0), 10.0), 100.0, 1000.0)
    assert len(found) == pytest.approx(100.0 * 1000.0, rel=0.03)
    by_second = Counter(int(at_s % 10.0) for at_s in found)
    assert by_second[5] / by_second[0] == pytest.approx(2.8 / 1.2, rel=0.1)  # lines from 1 up to 3 and back
    assert by_second[2] == pytest.approx(by_second[7], rel=0.1)


def test_another_model_leaves_arrivals_as_they_were() -> None:
    one = list(islice(merged([Stream(Poisson(), {"a": 10.0})], 7), 50))
    both = merged([Stream(Poisson(), {"b": 30.0}), Stream(Poisson(), {"a": 10.0})], 7)
    assert list(islice(((at_s, model) for at_s, model in both if model == "a"), 50)) == one
    assert one != list(islice(merged([Stream(Poisson(), {"a": 10.0})], 8), 50))


def test_a_stream_is_dealt_in_proportion_to_rates() -> None:
    arrivals = list(islice(merged([Stream(Recorded(range(1, 8001), 1.0), {"a": 1.0, "b": 3.0})], 1), 8000))
    assert [at_s for at_s, _ in arrivals] == list(range(1, 8001))
    assert sum(model == "b" for _, model in arrivals) == pytest.approx(6000, rel=0.05)


def test_a_trace_is_stretched_to_the_rate_or_played_at_a_speed() -> None:
    trace = Recorded((0.0, 1.0, 4.0))
    assert list(trace.instants_s(random.Random(), 1.0)) == [0.0, 0.5, 2.0]
    assert list(Recorded((0.0, 1.0, 4.0), 4.0).instants_s(random.Random(), 1.0)) == [0.0, 0.25, 1.0]
    with pytest.raises(ValueError, match="fewer than two"):
        list(Recorded((0.0,)).instants_s(random.Random(), 1.0))


# ---- formats


def test_our_own_format(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text('seconds,model\n# a remark\n10.5,a\n11,b\n{"seconds": 12.0, "model": "a"}\n', encoding="utf-8")
    assert traces.seconds(path, "a").at_s == (0.0, 1.5)
    assert traces.seconds(path, "b").at_s == (0.5,)
    path.write_text("1\n2\nsoon\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"trace.csv, line 3: 'soon' is no arrival"):
        traces.seconds(path, "a")


def test_azure_llm(tmp_path: Path) -> None:
    path = tmp_path / "conv.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.0319600,3180,8\n2023-11-16 18:18:03.9799600,1,1",
        encoding="utf-8",
    )
    assert traces.azure_llm(path).at_s == pytest.approx((0.0, 0.052, 60.0), abs=1e-6)
    path.write_text("TIMESTAMP,ContextTokens\nyesterday,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"conv.csv, line 2"):
        traces.azure_llm(path)


def test_disb(tmp_path: Path) -> None:
    path = tmp_path / "REAL.json"
    loads = {
        "rt": {"type": "trace", "trace": [5, 155, 263]},
        "even": {"type": "periodic", "frequency": 100},
        "random": {"type": "poisson", "frequency": 20},
        "be": {"type": "continuous"},
        "odd": {"type": "sine"},
    }
    tasks = [{"id": name, "load": load} for name, load in loads.items()]
    path.write_text(json.dumps({"time": 38, "tasks": tasks}), encoding="utf-8")
    process, rate, _ = traces.disb(path, "rt")
    assert isinstance(process, Recorded)
    assert process.at_s == pytest.approx((0.0, 0.150, 0.258))
    assert traces.disb(path, "even") == (Periodic(), 100.0, 0)
    assert traces.disb(path, "random") == (Poisson(), 20.0, 0)
    assert traces.disb(path, "be")[1:] == (0.0, 1)
    with pytest.raises(ValueError, match="a load of type 'sine'"):
        traces.disb(path, "odd")
    with pytest.raises(ValueError, match="no task 'none'; there are rt, even, random, be, odd"):
        traces.disb(path, "none")
    assert rate == 0.0


def test_a_disb_workload_is_a_world(tmp_path: Path) -> None:
    tasks = [
        {"id": "vgg_rt", "load": {"type": "trace", "trace": [0, 100, 250, 300]}},
        {"id": "resnet_be", "load": {"type": "continuous"}},
    ]
    (tmp_path / "A.json").write_text(json.dumps({"tasks": tasks}), encoding="utf-8")
    (tmp_path / "world.toml").write_text(
        '[[models]]\nname = "rt"\npersonality = "resnet50"\nslo_ms = 20\n'
        'arrivals = { kind = "trace", file = "A.json", format = "disb", task = "vgg_rt" }\n'
        '[[models]]\nname = "be"\npersonality = "resnet101"\n'
        'arrivals = { kind = "trace", file = "A.json", format = "disb", task = "resnet_be" }\n',
        encoding="utf-8",
    )
    world = read(tmp_path / "world.toml")
    law = building.law(world)
    models = {model.name: model for model in building.models(world, Setting(), law)}
    assert (models["be"].clients, models["rt"].clients) == (1, 0)
    assert models["rt"].rate_per_s == pytest.approx(10.0)
    arrivals = list(merged(building.streams(world, Setting()), 0))
    assert [at_s for at_s, _ in arrivals] == pytest.approx([0.0, 0.1, 0.25, 0.3])
    assert {model for _, model in arrivals} == {"rt"}
    twice = [at_s for at_s, _ in merged(building.streams(world, Setting(rate=2.0)), 0)]
    assert twice == pytest.approx([0.0, 0.05, 0.125, 0.15])


def test_a_worlds_trace_is_dealt_to_models_without_arrivals_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(str(0.01 * i) for i in range(2001)), encoding="utf-8")
    model = '[[models]]\nname = "{0}"\npersonality = "resnet50"\nrate = {1}\n'
    own = model.format("c", 5) + 'arrivals = { kind = "periodic" }\n'
    (tmp_path / "world.toml").write_text(
        '[arrivals]\nkind = "trace"\nfile = "t.csv"\n' + model.format("a", 10) + model.format("b", 30) + own,
        encoding="utf-8",
    )
    streams = building.streams(read(tmp_path / "world.toml"), Setting(rate=2.0))
    assert sorted(tuple(stream.rates_per_s.items()) for stream in streams) == [
        (("a", 20.0), ("b", 60.0)),
        (("c", 10.0),),
    ]
    first = [model for _, model in takewhile(lambda arrival: arrival[0] < 20.0, merged(streams, 0))]
    counts = Counter(first)
    assert counts["a"] + counts["b"] == pytest.approx(1600, rel=0.01)
    assert counts["b"] == pytest.approx(1200, rel=0.06)
    assert counts["c"] == pytest.approx(200, abs=1)
