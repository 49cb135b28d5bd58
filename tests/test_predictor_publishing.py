"""What subscribers of estimates are told: bounded frames, changes, sets for learners that need them, bounded memory."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotenant.predictor import publishing
from cotenant.predictor.contract.peer import RESOURCES, batch_class, finished, profiled
from cotenant.predictor.knowledge import Knowledge
from cotenant.predictor.known_device import DeviceSpec, KnownDevice
from cotenant.predictor.publishing import Watcher, read_interests
from cotenant.predictor.sets import SetKey
from cotenant.runtime.estimates import BatchClass, EstimateTable
from cotenant.scheduler import codec
from cotenant.v1 import predictor_pb2 as pb

ROOT = Path(__file__).parent.parent
A, B, C = (BatchClass(name, "1", 1) for name in "abc")


class Told:
    """A predictor of one device and a subscriber that applies what it is told as the scheduler does."""

    def __init__(self, learner: str = "fluid", *, interests: Any = (), **options: Any) -> None:
        self.knowledge = Knowledge(learner, **options)
        self.device: KnownDevice = self.knowledge.device(DeviceSpec("gpu-0", "emulated", "", RESOURCES))
        self.watcher = Watcher(self.knowledge, (0.9,), read_interests(interests))
        self.table = EstimateTable()
        self.versions: Iterator[int] = itertools.count(1)
        self.sequence = 0

    def learn(self, *rows: tuple[str, float, str]) -> None:
        """Batches as (class, duration in ms, co-runners, one letter each)."""
        for model, duration_ms, beside in rows:
            self.sequence += 1
            self.knowledge.learn(
                self.device, 1, [finished(self.sequence, model, duration_ms, list(beside))], opening=False
            )

    def profile(self, *models: str) -> None:
        for model in models:
            self.sequence += 1
            self.knowledge.learn(self.device, 1, [profiled(self.sequence, model)], opening=False)

    def push(self) -> list[pb.WatchEstimatesResponse]:
        """What is told after what was learned since the last push."""
        self.watcher.news(self.device, *self.device.news())
        return self.more()

    def more(self) -> list[pb.WatchEstimatesResponse]:
        """What is told next, though nothing more was learned."""
        self.watcher.wake.clear()
        frames = list(self.watcher.frames(self.versions))
        for frame in frames:
            for event in codec.estimates(frame, ["gpu-0"]):
                self.table.update(event.classes, event.sets, complete=event.complete)
        return frames

    def settle(self) -> list[pb.WatchEstimatesResponse]:
        """Pushes until there is nothing left to tell."""
        frames = self.push()
        while self.watcher.wake.is_set():
            frames += self.more()
            assert len(frames) < 1000, "there is always something left to tell"
        return frames


def named(frames: list[pb.WatchEstimatesResponse]) -> list[str]:
    return [c.batch_class.model for frame in frames for c in frame.classes]


def test_a_complete_push_comes_in_frames_of_bounded_size_what_ran_last_first() -> None:
    told = Told()
    told.profile(*(f"m{i}" for i in range(1500)))
    frames = told.push()
    assert [frame.complete for frame in frames] == [True] + [False] * (len(frames) - 1)
    assert len(frames) > 3
    assert all(frame.ByteSize() < publishing.FRAME_BYTES + 2000 for frame in frames)
    assert named(frames) == [f"m{i}" for i in reversed(range(1500))]
    assert [len(frame.learned_through) for frame in frames] == [0] * (len(frames) - 1) + [1]
    assert len(told.table.classes) == 1500


def test_a_change_tells_what_ran_at_once_and_the_rest_in_turn() -> None:
    told = Told()
    told.profile("a", "b", *(f"m{i}" for i in range(1000)))
    told.push()
    assert named(told.push()) == []  # nothing happened
    told.learn(("a", 17.0, "b"))
    everything = list(told.device.model.classes)
    told.watcher.news(told.device, everything, {A})  # as when what all share has moved
    (frame, *more) = told.watcher.frames(told.versions)
    first = named([frame, *more])
    assert first[0] == "a"
    assert len(first) == 1 + publishing.CLASS_BUDGET
    assert told.watcher.wake.is_set()
    rest = named([f for _ in range(4) for f in told.watcher.frames(told.versions)])
    assert sorted([*first, *rest]) == sorted(c.model for c in everything)


def test_a_learner_without_vectors_tells_what_was_seen_together_and_pairs_of_what_runs() -> None:
    told = Told("static-rls")
    told.profile("a", "b", "c")
    told.push()
    told.learn(*[("a", 20.0, "b"), ("b", 20.0, "a"), ("a", 30.0, "bc"), ("c", 12.0, "")] * 20)
    told.settle()
    assert (A, (B, C)) in told.table.sets  # seen
    assert {(v, o) for v in (A, B, C) for o in (A, B, C)} == {(v, o[0]) for v, o in told.table.sets if len(o) == 1}
    for victim, others in told.table.sets:
        believed = told.device.model.learner.slowdown(victim, others)
        assert 1 / told.table.progress_rate(victim, others) == pytest.approx(max(1.0, believed), rel=0.01)


def test_a_batch_that_moves_all_sets_is_told_for_all() -> None:
    told = Told("ewma12-sgd")
    told.profile("a", "b", "c")
    told.learn(*[("a", 12.0, "b"), ("b", 12.0, "a"), ("c", 12.0, "a")] * 10)
    told.settle()
    before = told.table.progress_rate(A, [B])
    told.learn(*[("c", 30.0, "a")] * 60)  # one linear model for all: a beside b moves as well
    told.settle()
    assert told.table.progress_rate(A, [B]) < 0.95 * before
    for victim, others in told.table.sets:
        believed = told.device.model.learner.slowdown(victim, others)
        assert 1 / told.table.progress_rate(victim, others) == pytest.approx(max(1.0, believed), rel=0.01)


def test_the_work_of_a_push_is_bounded_however_many_sets_there_are() -> None:
    told = Told("static-rls")
    told.push()
    names = [f"m{i}" for i in range(60)]
    told.learn(*((v, 15.0, "") for v in names))
    for victim in names:
        events = [finished(told.sequence + i, victim, 15.0, [o]) for i, o in enumerate(names, start=1)]
        told.sequence += len(names)
        told.knowledge.learn(told.device, 1, events, opening=False)
    frames = told.push()
    assert 0 < sum(len(frame.sets) for frame in frames) <= publishing.SET_BUDGET
    assert not any(frame.learned_through for frame in frames)  # not before all of it is told
    last = told.settle()
    assert last[-1].learned_through[0].sequence == told.sequence


def test_interests_are_told_on_top_with_their_bounds_and_again_when_they_move() -> None:
    interest = pb.Colocation(device_id="gpu-0", batches=[batch_class("a"), batch_class("b"), batch_class("a")])
    told = Told(interests=[interest])
    told.profile("a", "b")
    told.learn(*[("a", 16.0, "b"), ("b", 16.0, "a")] * 20)
    told.settle()
    assert set(told.table.sets) == {(A, (A, B)), (B, (A, A))}
    explicit = told.table.sets[A, (A, B)]
    assert explicit.slowdown == pytest.approx(told.device.slowdown(SetKey(A, (A, B))), rel=0.01)
    assert [q.level for q in explicit.quantiles] == [0.9]
    told.learn(*[("a", 40.0, "b"), ("b", 40.0, "a")] * 40)
    told.settle()
    assert told.table.sets[A, (A, B)].slowdown > 1.2 * explicit.slowdown


def test_sets_told_before_a_device_came_back_changed_are_told_anew() -> None:
    told = Told("static-rls")
    told.profile("a", "b")
    told.learn(*[("a", 40.0, "b"), ("b", 40.0, "a"), ("a", 60.0, "bb")] * 20)
    told.settle()
    assert told.table.progress_rate(A, [B]) < 0.5
    assert told.table.progress_rate(A, [B, B]) < 0.5
    told.device = told.knowledge.device(DeviceSpec("gpu-0", "emulated", "", ("sm",)))  # starts from solo times
    told.settle()
    believed = told.device.slowdown(SetKey(A, (B, B)))
    assert believed < 1.5
    assert 1 / told.table.progress_rate(A, [B, B]) == pytest.approx(believed, rel=0.01)


def test_what_is_learned_while_a_push_is_sent_is_not_said_to_be_told() -> None:
    for learner in ("fluid", "static-rls"):
        told = Told(learner)
        told.profile("a", *(f"m{i}" for i in range(1500)))
        told.learn(("a", 12.0, ""))  # what ran last comes first
        told.watcher.news(told.device, *told.device.news())
        known, frames = told.sequence, told.watcher.frames(told.versions)
        first = next(frames)
        told.learn(*[("a", 19.0, "")] * 5)  # while the first frame is being sent
        last = list(frames)[-1]
        assert first.classes[0].batch_class.model == "a"
        assert first.classes[0].sample_count == 1
        assert [through.sequence for through in last.learned_through] == [known]
        assert told.settle()[-1].learned_through[0].sequence == told.sequence == known + 5


def test_many_interests_are_told_once_and_not_again_and_again() -> None:
    names = [f"m{i}" for i in range(40)]
    sets = [
        pb.Colocation(device_id="gpu-0", batches=map(batch_class, together))
        for together in itertools.islice(itertools.combinations(names, 6), 4000)
    ]
    told = Told(interests=sets)
    told.profile(*names)
    told.settle()
    assert len(told.table.sets) == 24_000
    told.learn(("m0", 20.0, "a"))
    assert not any(frame.complete for frame in told.settle())


def test_too_many_interests_are_refused() -> None:
    crowd = pb.Colocation(device_id="gpu-0", batches=[batch_class(f"m{i}") for i in range(64)])
    assert len(read_interests([crowd])) == 64
    for interests in ([crowd] * 513, [pb.Colocation()] * 4097):
        with pytest.raises(ValueError, match="at most 4096 sets of at most 64 batches, 32768 in all"):
            read_interests(interests)


@pytest.mark.parametrize("learner", ["fluid", "static-rls"])
def test_a_learner_that_fails_for_one_class_keeps_no_other_from_being_told(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(learner)
    told.profile("a", "b", "c")
    model = told.device.model.learner
    estimate, slowdown = model.estimate, model.slowdown

    def fails_for_a(batch_class: BatchClass, *args: Any) -> Any:
        if batch_class == A:
            raise IndexError("theirs")
        return slowdown(batch_class, *args) if args else estimate(batch_class)

    monkeypatch.setattr(model, "estimate", fails_for_a)
    monkeypatch.setattr(model, "slowdown", fails_for_a)
    told.learn(*[("b", 15.0, "c"), ("c", 15.0, "b"), ("a", 15.0, "b")] * 5)
    told.settle()
    assert set(told.table.classes) == {B, C}
    if learner == "static-rls":
        assert {(B, (C,)), (C, (B,))} <= set(told.table.sets)
    assert told.knowledge.intake.examples["learner failed"] == "IndexError: theirs"


def test_what_was_forgotten_is_told_by_a_complete_push_before_it_piles_up() -> None:
    told = Told(max_classes=2000)
    told.push()
    most = 0
    for start in range(0, 12_000, 100):
        told.profile(*(f"m{i}" for i in range(start, start + 100)))
        told.push()
        most = max(most, len(told.table.classes))
    assert most <= 2 * 2000 + 200
    assert BatchClass("m11999", "1", 1) in told.table.classes
    assert BatchClass("m0", "1", 1) not in told.table.classes


def test_memory_does_not_grow_with_events_classes_and_incarnations() -> None:
    """Two thirds of a hostile stream later there is as much memory in use as after the first third."""
    code = (
        "from predictor_memory import flood; import json;"
        "print('rows', json.dumps(flood(24_000, max_classes=300, state=None, parts=3)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    rows = json.loads(done.stdout.rpartition("rows ")[2])
    assert rows[-1]["classes"] == 300
    assert rows[-1]["classes_forgotten"] > 3500
    assert rows[-1]["rejected"] > 2000
    assert rows[2]["resident_mb"] - rows[0]["resident_mb"] < 8.0, rows
