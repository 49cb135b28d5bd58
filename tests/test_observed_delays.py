"""Simulations by a log: its delays, its batches, and whether they find what the log's own run found."""

import json
from pathlib import Path

import msgspec
import pytest

from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.simulate import SimulatedModel, Simulation
from cotenant.scheduler.simulation import observed_delays, traces, world
from cotenant.scheduler.simulation.building import Setting
from cotenant.scheduler.simulation.near import NEIGHBOURS, Near, Seen
from cotenant.scheduler.simulation.study import Row, Study
from cotenant.scheduler.simulation.timing import START_NS, Delays

MS = 1_000_000
SECONDS = 3
SLOW = Delays(order_ns=6 * MS, report_ns=4 * MS, answer_ns=15 * MS)
WORLD = """
seconds = 3
policy = "exclusive-fifo"
devices = { kind = "learned", log = "log", concurrency = 4 }
delays = { DELAYS }
arrivals = { kind = "trace", format = "load", file = "load.json", speed = 1.0 }
models = [{ name = "vision", slo_ms = 60 }, { name = "text", slo_ms = 120 }]
"""
RECORDED = 'log = "log", load = "load.json"'


class Run:
    """A recorded run on an emulated GPU with slow services, and the document that its load generator would write."""

    def __init__(self, folder: Path) -> None:
        models = [
            SimulatedModel("vision", "resnet50", 200, 60 * MS),
            SimulatedModel("text", "transformer_xl", 40, 120 * MS),
        ]
        simulation = Simulation(
            models, policy="exclusive-fifo", seed=3, kind="phases", delays=SLOW, record=folder / "log", noise=0.2
        )
        outcome = simulation.run(SECONDS * 10**9)
        self.attainment = outcome.slo_attainment
        self.offered = {name: model.offered for name, model in outcome.models.items()}
        self.folder = folder
        requests, ended = self._requests(), self._ended()
        explained = [(i, r) for i, r in enumerate(requests) if r.request_id in ended]
        latency_us = {r.request_id: (ended[r.request_id] + SLOW.answer_ns - r.arrival_ns) // 1000 for _, r in explained}
        document = {
            "started_monotonic_ns": 0,
            "configuration": {"models": [{"name": model.name} for model in models]},
            "requests": {
                "model": [("vision", "text").index(r.model) for r in requests],
                "at_us": [r.arrival_ns // 1000 for r in requests],
                "latency_us": [latency_us.get(r.request_id, -1) for r in requests],
                "explained": {"index": [i for i, _ in explained], "request_id": [r.request_id for _, r in explained]},
            },
        }
        (folder / "load.json").write_text(json.dumps(document))

    def groups(self) -> list[record.Group]:
        parts = [part for _, part in record.parts(self.folder / "log")]
        return [entry for part in parts for entry in record.read(part) if isinstance(entry, record.Group)]

    def _requests(self) -> list[ev.Request]:
        events = [event for group in self.groups() for event in group.events]
        return [event.request for event in events if isinstance(event, ev.RequestArrived)]

    def _ended(self) -> dict[int, int]:
        """When the batch of each request ended, by request."""
        batches: dict[int, ev.Batch] = {}
        ended: dict[int, int] = {}
        for group in self.groups():
            batches |= {a.batch.batch_id: a.batch for a in group.actions if isinstance(a, ev.Launch)}
            for event in group.events:
                if isinstance(event, ev.BatchFinished):
                    ended |= {r.request_id: event.at_ns for r in batches[event.batch_id].requests}
        return ended

    def simulated(self, delays: str) -> Row:
        path = self.folder / "world.toml"
        path.write_text(WORLD.replace("DELAYS", delays))
        return Study(world.read(path)).run("exclusive-fifo", Setting(), 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


def test_a_log_and_its_load_tell_every_delay(run: Run) -> None:
    found = observed_delays.read(run.folder / "log", run.folder / "load.json")
    assert {seen.value for seen in found.order} == {SLOW.order_ns}
    assert {seen.value for seen in found.report} == {SLOW.report_ns}
    assert {seen.value for seen in found.arrive} == {0}
    assert all(abs(seen.value - SLOW.answer_ns) <= 2000 for seen in found.answer)  # the document counts in us
    assert found.least.order_ns == SLOW.order_ns
    assert 0 <= found.answer[0].at_ns <= found.answer[-1].at_ns < 2 * SECONDS * 10**9  # since the first arrival


def test_a_run_is_found_again_by_its_log(run: Run) -> None:
    assert 0.3 < run.attainment < 0.97  # there is something to get wrong
    found = run.simulated(RECORDED)
    assert [model.offered for model in found.models] == list(run.offered.values())
    assert abs(found.attainment - run.attainment) < 0.06
    assert run.simulated("order_us = 0, report_us = 0, answer_us = 0").attainment > run.attainment + 0.1


def test_what_frontends_told_is_told_again_at_its_time(run: Run) -> None:
    told = (Seen(50 * MS, 7 * MS), Seen(900 * MS, 80 * MS))
    found = observed_delays.read(run.folder / "log", run.folder / "load.json")
    sampler = msgspec.structs.replace(found, told=told).sampler(1)
    assert [sampler.told(START_NS + at * MS) for at in (10, 60, 70, 950, 960)] == [0, 7 * MS, 0, 80 * MS, 0]


def test_what_troubled_a_host_for_a_while_troubles_it_then() -> None:
    calm, busy = 1 * MS, 50 * MS
    near = Near([Seen(at * MS, busy if 500 <= at < 600 else calm) for at in range(0, 1000, 2)])
    draws = [iter([i / 20 for i in range(20)]) for _ in range(3)]
    before, during, after = (
        {near.draw(START_NS + at * MS, draw.__next__) for _ in range(20)}
        for at, draw in zip((300, 550, 5000), draws, strict=True)
    )
    assert (before, during, after) == ({calm}, {busy}, {calm})
    assert Near([Seen(0, 3)]).draw(0, lambda: 0.999) == 3
    assert NEIGHBOURS < 50


@pytest.mark.parametrize(
    ("document", "message"),
    [("{}", r"load\.json: not a result"), ("", r"load\.json: not a result"), (None, "--explain 1")],
)
def test_a_document_that_is_of_no_use_is_named(run: Run, tmp_path: Path, document: str | None, message: str) -> None:
    told = json.loads((run.folder / "load.json").read_text())
    told["requests"]["explained"] = {"index": [], "request_id": []}
    path = tmp_path / "load.json"
    path.write_text(json.dumps(told) if document is None else document)
    with pytest.raises(ValueError, match=message):
        observed_delays.read(run.folder / "log", path)


def test_a_load_that_is_none_is_named(run: Run) -> None:
    (run.folder / "none.json").write_text("{}")
    with pytest.raises(ValueError, match=r"none\.json: not a result"):
        traces.load(run.folder / "none.json", "vision")


def test_a_world_that_names_a_load_without_its_log_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match=r"delays\.log"):
        run.simulated('load = "load.json"')
    with pytest.raises(ValueError, match="no log at"):
        run.simulated('log = "nowhere"')
