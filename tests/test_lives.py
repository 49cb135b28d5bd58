"""What a scheduler remembers of recent requests: told as from a log, bounded, and out of the collector's way."""

import gc
import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cotenant.cli import explain
from cotenant.cli.explain_story import Story
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler import record, snapshot
from cotenant.scheduler.core import Core
from cotenant.scheduler.lives import Life, Lives
from cotenant.scheduler.misses import Late, Refused
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.simulate import SimulatedModel, Simulation
from worlds import MS, World

MODELS = [
    SimulatedModel("vision", "resnet50", 1000.0, 30 * MS),
    SimulatedModel("text", "transformer_xl", 150.0, 90 * MS),
]


class Run(NamedTuple):
    """A simulated overload: its log, and the core it began with."""

    log: Path
    start: snapshot.Snapshot
    groups: list[record.Group]
    request_ids: list[int]

    def core(self) -> Core:
        return snapshot.restore(self.start, POLICIES[self.start.config.policy](self.start.config.level))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    log = tmp_path_factory.mktemp("lives") / "log"
    Simulation(MODELS, devices=1, seed=3, record=log).run(int(0.8e9))
    _, start, *groups = record.read(log)
    assert isinstance(start, snapshot.Snapshot)
    kept = [group for group in groups if isinstance(group, record.Group)]
    arrivals = [e.request.request_id for g in kept for e in g.events if isinstance(e, ev.RequestArrived)]
    return Run(log, start, kept, arrivals)


def remembering(run: Run, *, max_requests: int = 10**6, max_bytes: int = 2**30, snapshot_cpu_ns: int = 0) -> Lives:
    """All of the run; every snapshot takes as long as is said, whatever this machine does."""
    core, cpu_ns = run.core(), itertools.count(step=snapshot_cpu_ns)
    lives = Lives(
        core, epoch=1, software="test", max_requests=max_requests, max_bytes=max_bytes, cpu_ns=lambda: next(cpu_ns)
    )
    for group in run.groups:
        lives.add(core, group.now_ns, group.events, core.handle(group.now_ns, group.events))
    return lives


def found(lives: Lives, request_id: int) -> Life | None:
    return next((life for life in lives.find(lambda r: r.request_id == request_id) if life), None)


def told(lives: Lives, request_id: int, folder: Path) -> Story:
    life = found(lives, request_id)
    assert life is not None
    (folder / "piece").write_bytes(b"".join(lives.log(life)))
    return explain.explain(folder / "piece", str(request_id))


def test_memory_and_log_tell_the_same_stories(run: Run, tmp_path: Path) -> None:
    lives = remembering(run, max_bytes=1_500_000)  # snapshots in the middle of it, and the beginning is gone
    kept = [i for i in run.request_ids if found(lives, i)]
    assert 100 < len(kept) < len(run.request_ids)
    first = told(lives, kept[0], tmp_path)  # it waited when the oldest snapshot was taken
    assert (first.decided_ms, first.placements) == (None, [])
    assert first.outcome == explain.explain(run.log, str(kept[0])).outcome
    outcomes = set()
    for request_id in kept[len(kept) // 5 :: len(kept) // 12]:
        story, recorded = told(lives, request_id, tmp_path), explain.explain(run.log, str(request_id))
        assert not story.remarks
        story.log_ends_ms = recorded.log_ends_ms  # it ends with the request
        story.arrived_at = recorded.arrived_at  # of simulated time
        for launch, same in zip(story.launches, recorded.launches, strict=True):
            assert launch.forecast is not None
            if launch.forecast.estimates_age_ms is None:  # pushed before the piece; a simulation's version is no date
                launch.forecast = same.forecast
        assert story == recorded
        assert story.outlooks
        outcomes.add(story.outcome)
    assert {"in time", "refused"} <= outcomes


def test_an_answer_ends_with_the_request(run: Run) -> None:
    lives = remembering(run)
    early = found(lives, run.request_ids[5])
    late = found(lives, run.request_ids[-5])
    assert early is not None
    assert late is not None
    assert sum(map(len, lives.log(early))) * 4 < sum(map(len, lives.log(late)))


def test_no_more_is_kept_than_allowed(run: Run) -> None:
    few = remembering(run, max_requests=160)
    assert 100 <= few.requests <= 160
    assert found(few, run.request_ids[-1])
    assert not found(few, run.request_ids[0])

    small = remembering(run, max_bytes=400_000)
    assert 200_000 <= small.byte_size <= 400_000
    assert found(small, run.request_ids[-1])

    tiny = remembering(run, max_requests=1, max_bytes=1)
    assert tiny.requests <= 2


def test_snapshots_that_take_long_are_few(run: Run) -> None:
    slow = remembering(run, max_requests=160, snapshot_cpu_ns=10 * MS)
    assert len(slow._stretches) <= 3 < len(remembering(run, max_requests=160)._stretches)
    assert slow.requests <= 160
    assert found(slow, run.request_ids[-1])


def test_what_it_says_it_occupies_is_what_it_occupies(run: Run) -> None:
    core = run.core()
    actions = [tuple(core.handle(group.now_ns, group.events)) for group in run.groups]
    lines = [record.Group(g.now_ns, g.events, a) for g, a in zip(run.groups, actions, strict=True)]
    encoded = [record._encoder.encode(line) for line in lines]
    lives = Lives(run.core(), epoch=1, software="test", max_requests=10**9, max_bytes=2**40)
    gc.collect()
    tracemalloc.start()
    for line in encoded:  # decoded one by one: as much as what came over streams
        group = record._decoder.decode(line)
        assert isinstance(group, record.Group)
        lives.add(core, group.now_ns, group.events, group.actions)
    occupied, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * occupied < lives.byte_size < 2.0 * occupied


def test_the_collector_has_nothing_to_walk_through(run: Run) -> None:
    lives = remembering(run)
    gc.collect()
    gc.collect()
    groups = [past for stretch in lives._stretches for past in stretch.groups]
    assert len(groups) > 500
    things = itertools.chain(groups, *(itertools.chain(events, actions) for _, events, actions in groups))
    assert not any(map(gc.is_tracked, things))


def test_a_search_lets_others_have_their_turn(run: Run) -> None:
    lives = remembering(run)
    breaths: Iterator[None] = (None for life in lives.find(lambda _: False) if life is None)
    assert sum(1 for _ in breaths) >= len(run.groups) // 250


# ---- misses


class Watched(World):
    """A world that remembers."""

    def __init__(self) -> None:
        super().__init__("goodput")
        self.lives = Lives(self.core, epoch=1, software="test", max_requests=1000, max_bytes=2**20)

    def step(self, *events: ev.Event, after_ms: float = 0.0) -> list[ev.Action]:
        actions = super().step(*events, after_ms=after_ms)
        self.lives.add(self.core, self.now_ns, events, actions)
        return actions

    def misses(self) -> list[Late | Refused]:
        return self.lives.misses.newest(8, self.lives.arrivals)


def test_the_last_misses_are_known_with_their_requests() -> None:
    world = Watched()
    world.join("a", "b")
    world.arrive("a", slo_ms=30)
    world.finish(1, after_ms=12)  # in time
    world.arrive("a", slo_ms=30)
    world.finish(2, after_ms=45)
    world.arrive("b", slo_ms=3)  # cannot be done in that
    refused, late = world.misses()
    assert isinstance(refused, Refused)
    assert (refused.request.model, refused.action.reason) == ("b", ev.PREDICTED_MISS)
    assert isinstance(late, Late)
    assert late.request.model == "a"
    assert late.answered_ns - late.request.arrival_ns == 45 * MS
    assert late.batch.forecast.work_ns == 10 * MS


def test_a_batch_of_a_device_that_was_lost_is_forgotten_and_cancelled_requests_are_no_misses() -> None:
    world = Watched()
    world.join("a", concurrency=1)
    world.arrive("a", slo_ms=400)
    world.step(ev.DeviceLost("gpu-0", 1), after_ms=1)
    assert not world.lives.misses._launched
    waiting = world.request("a", 500)
    world.step(waiting)
    world.step(ev.RequestCancelled(waiting.request.request_id), after_ms=1)
    assert not [m for m in world.misses() if isinstance(m, Refused) and m.action.reason == ev.CANCELLED]


def test_classes_compare_and_hash_as_before() -> None:
    assert BatchClass("a", "1", 2) == BatchClass("a", "1", 2)
    assert hash(BatchClass("a", "1", 2)) == hash(BatchClass("a", "1", 2))
