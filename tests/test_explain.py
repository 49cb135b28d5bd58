"""`cotenant explain`: the life of a request, told from a log that a core wrote, and checked against what happened."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cotenant.cli import explain, explain_text
from cotenant.cli.explain_story import Story
from cotenant.runtime.estimates import BatchClass
from cotenant.scheduler import events as ev
from cotenant.scheduler import record
from cotenant.scheduler.policies.exclusive import Exclusive
from worlds import MS, World, estimate

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Recorded(World):
    """A world whose core writes a log. Times are in ms since the log began."""

    def __init__(self, path: Path, policy: str = "edf", **config: Any) -> None:
        super().__init__(policy, **config)
        self.path = path
        self.recorder = record.Recorder(path, 2**30, epoch=1, software="test")
        self.recorder.start(self.core)

    def step(self, *events: ev.Event, after_ms: float = 0.0) -> list[ev.Action]:
        actions = super().step(*events, after_ms=after_ms)
        self.recorder.write(self.core, self.now_ns, events, actions)
        return actions

    def come(self, model: str, slo_ms: float = 100.0, **more: Any) -> int:
        """A request arrives; returns its id."""
        arrival = self.request(model, slo_ms, **more)
        self.step(arrival)
        return arrival.request.request_id

    def run(self, batch_id: int, *slices: Any, after_ms: float = 0.0, failed: bool = False) -> None:
        """A batch has run, with slices of (ms, class...); its outputs took 0.5 ms."""
        self.now_ns += int(after_ms * MS)
        batch = self.ran.pop(batch_id).batch
        parts = tuple(ev.Slice(int(ms * MS), tuple(BatchClass(c, "1", 1) for c in others)) for ms, *others in slices)
        duration_ns = sum(part.duration_ns for part in parts)
        started_ns = self.now_ns - duration_ns - MS // 2
        for request in batch.requests:
            self.outcomes[request.request_id] += 1
        self.step(
            ev.BatchFinished(
                device_id="gpu-0",
                batch_id=batch_id,
                at_ns=started_ns + duration_ns,
                started_ns=started_ns,
                duration_ns=duration_ns,
                batch_class=batch.batch_class,
                slices=parts,
                input_ns=MS // 4,
                output_ns=MS // 2,
                forecast=batch.forecast,
                failed=failed,
            )
        )

    def told(self, request_id: object, **options: Any) -> tuple[Story, str]:
        """The story, and its sentences on one line."""
        self.recorder.flush()
        story = explain.explain(self.path, str(request_id), **options)
        return story, re.sub(r"\s+", " ", explain_text.text(story))


@pytest.fixture
def world(tmp_path: Path) -> Recorded:
    """A device for two batches, with models a, b and c of 10 ms."""
    made = Recorded(tmp_path / "log")
    made.join("a", "b", "c")
    return made


def test_a_request_that_waited_is_told_from_arrival_to_answer(world: Recorded) -> None:
    world.step(ev.EstimatesPushed("gpu-0", 7, False, tuple(estimate(name, 1, 10, 0.5, 1.2) for name in "abc")))
    world.now_ns += 40 * MS
    world.come("a")
    world.come("b")
    waited = world.come("c", 200)
    world.step(after_ms=2)
    world.step(ev.KernelTimings("gpu-0", 1, BatchClass("a", "1", 1), "kernels"), after_ms=1)
    world.run(1, (14.0, "b"), after_ms=12)
    (launch,) = world.ran.values() if len(world.ran) == 1 else [b for b in world.ran.values() if b.batch.batch_id == 3]
    world.step(ev.BatchStarted("gpu-0", 3, world.now_ns + MS), after_ms=1)
    world.run(3, (2.0, "b"), (11.0,), after_ms=15)
    story, text = world.told(waited)

    assert (story.model, story.budget_ms, story.decided_ms) == ("c", 200.0, 0.0)
    (outlook,) = story.outlooks
    assert [one.batch_class for one in outlook.running] == ["a:1 x1", "b:1 x1"]
    assert [one.expected_end_ms for one in outlook.running] == [15.0, 15.0]  # both slowed by 1.5
    assert (outlook.waiting, outlook.refused) == (0, "")
    assert [p.device_id for p in story.placements] == ["gpu-0"]
    (wait,) = story.waits
    assert wait.why == "all 2 places of the device were taken"
    assert wait.from_ms == 0.0
    (told,) = story.launches
    assert (told.at_ms, told.batch_id, told.requests) == (15.0, 3, [waited])
    assert [one.batch_class for one in told.beside] == ["b:1 x1"]
    assert told.forecast is not None
    assert told.forecast.work_ms == launch.batch.forecast.work_ns / MS
    assert told.forecast.duration_ms == launch.batch.forecast.duration_ns / MS
    assert told.forecast.bound_ms == launch.batch.forecast.bound_ns / MS
    assert (told.forecast.level, told.forecast.co_runner_count, told.forecast.estimates_version) == (0.95, 1, 7)
    assert told.forecast.estimates_age_ms == 55.0
    assert told.run is not None
    assert [(part.duration_ms, part.co_runners) for part in told.run.slices] == [(2.0, ["b:1 x1"]), (11.0, [])]
    assert (told.run.started_ms, told.run.input_ms, told.run.output_ms) == (17.5, 0.25, 0.5)
    assert (story.outcome, story.ended_ms, story.slack_ms) == ("in time", 31.0, 169.0)
    assert not story.remarks

    for sentence in (
        f"request {waited}: c version 1, 1 item: answered in time, 169.00 ms before its deadline",
        "there ran a:1 x1 (until +15.00 ms), b:1 x1 (until +15.00 ms)",
        "passed it over: all 2 places of the device were taken",
        "At +15.00 ms it was launched on gpu-0: batch 3, c:1 x1.",
        "Expected, by estimates 0.1 s old: 10.00 ms if alone",
        "It started at +17.50 ms and took 13.00 ms: 2.00 ms beside b:1 x1, 11.00 ms alone.",
        "1.30 times what it takes alone",
        "At +31.00 ms the executor sent the answer, 169.00 ms before its deadline.",
    ):
        assert sentence in text


def test_many_slices_are_summed_by_neighbour(world: Recorded) -> None:
    world.come("a")
    world.run(1, *((1.0, name) for name in "bcbcb"), (0.5,), (2.0, "b", "c", "c"), (0.25,), (1.0, "c"), after_ms=12)
    story, text = world.told(1)
    assert story.launches[0].run is not None
    assert len(story.launches[0].run.slices) == 9
    told = "9 slices (--json has each), 0.75 ms of it alone, 5.00 ms beside b:1 x1, 5.00 ms beside c:1 x1."
    assert f"took 8.75 ms: {told}" in text


def test_what_runs_late_and_beyond_its_bound_is_said(world: Recorded) -> None:
    late = world.come("a", 30)
    world.run(1, (40.0,), after_ms=41)
    story, text = world.told(late)
    assert (story.outcome, story.slack_ms) == ("late", -11.0)
    assert "answered late, 11.00 ms after its deadline" in text
    assert "300.0% more than expected, beyond the bound" in text
    assert "by what was measured, as no estimates had come" in text


def test_refusals_at_the_door_and_in_the_queue_tell_what_would_have_been_possible(world: Recorded) -> None:
    hopeless = world.come("a", 5)
    story, text = world.told(hopeless)
    assert story.refusal is not None
    assert (story.outcome, story.refusal.reason) == ("refused", "PREDICTED_MISS")
    assert story.refusal.earliest_possible_ms == 11.0  # 10 ms of work, 1 ms to answer
    assert story.outlooks[0].refused == story.refusal.message
    assert not story.waits
    assert not story.launches
    assert "An empty device would have allowed one at +11.00 ms." in text

    world.come("a", 0)
    world.come("b", 0)
    expires = world.come("c", 60)
    world.step(after_ms=30)
    world.step(after_ms=20)
    story, text = world.told(expires)
    assert story.refusal is not None
    assert (story.outcome, story.refusal.reason, story.ended_ms) == ("refused", "EXPIRED_IN_QUEUE", 50.0)
    assert sum(wait.decisions for wait in story.waits) >= 1
    assert "refused after 50.00 ms (EXPIRED_IN_QUEUE)" in text


def test_one_that_is_passed_by_the_more_urgent_knows_them(world: Recorded) -> None:
    world.come("a")
    world.come("b")
    patient = world.come("c", 500)
    world.come("a", 80)
    world.run(1, (10.0, "b"), after_ms=12)
    story, text = world.told(patient)
    assert [(wait.why, wait.launched) for wait in story.waits][-2:] == [
        ("more urgent requests were launched", {"a:1 x1": 1}),
        ("all 2 places of the device were taken", {}),
    ]
    assert "more urgent requests were launched, namely a:1 x1." in text
    assert story.outcome == "waiting"
    assert "when the log ends, it still waited" in text


def slowing(world: Recorded, delay: float) -> None:
    """Everybody slows everybody."""
    world.step(ev.EstimatesPushed("gpu-0", 1, False, tuple(estimate(name, 1, 10, delay, 1.0) for name in "abc")))


def test_one_that_would_have_made_another_late_is_told_whom(world: Recorded) -> None:
    slowing(world, 1.0)  # beside each other twice as long
    world.come("a", 14)
    waited = world.come("b", 100)
    world.run(1, (10.0,), after_ms=11)
    story, text = world.told(waited)
    assert story.waits[0].why == "beside it a:1 x1 would not have been sure to be in time"
    assert story.launches[0].at_ms == 11.0
    assert "a decision passed it over: beside it a:1 x1 would not have been sure to be in time" in text


def test_one_that_is_passed_by_the_less_urgent_is_told_why_it_was_not_its_turn(world: Recorded) -> None:
    slowing(world, 1.0)
    world.load("quick", work_ms=0.5)
    world.come("a", 14)
    waited = world.come("b", 100)
    world.come("quick", 200)
    story, text = world.told(waited)
    why = "beside it a:1 x1 would not have been sure to be in time"
    assert [(wait.why, wait.launched) for wait in story.waits[:2]] == [
        (why, {}),
        (f"{why}, so less urgent requests were launched", {"quick:1 x1": 1}),
    ]
    assert "so less urgent requests were launched, namely quick:1 x1." in text


def test_one_that_was_not_safe_itself_waits_for_an_empty_device(world: Recorded) -> None:
    slowing(world, 4.0)
    world.come("a", 0)
    waited = world.come("b", 40)
    assert world.told(waited)[0].waits[0].why == "beside what ran, its batch was not sure enough to be in time"


def test_limits_windows_devices_and_fuller_batches_are_told_for_what_they_are(tmp_path: Path) -> None:
    world = Recorded(tmp_path / "log")
    world.join("free")
    world.load("single", max_instances=1)
    world.load("filling", max_queue_delay_ns=20 * MS)
    world.come("single")
    limited, filling = world.come("single"), world.come("filling")
    world.step(ev.WindowRequested("gpu-0", 1, 5 * MS), after_ms=1)
    world.run(1, (10.0,), after_ms=600)
    window = world.come("free", 0)
    world.step(ev.DeviceSuspended("gpu-0", 1), after_ms=1)
    away = world.come("free", 0)
    reasons = {name: world.told(i)[0].waits[0].why for name, i in locals().items() if name in _WHY}
    assert reasons == _WHY


_WHY = {
    "limited": "1 batches of its model ran, as many as its instances allow",
    "filling": "its model waits up to 20 ms for a fuller batch",
    "window": "the device was, or was about to be, its executor's alone, to measure",
    "away": "its device was away",
}


def test_of_a_class_nobody_knows_it_is_said_that_it_must_run_alone(world: Recorded) -> None:
    world.step(ev.ModelLoaded("gpu-0", ev.ModelSpec("new", "1", 1), 1000))
    world.come("a")
    unknown = world.come("new", 0)
    assert "it was not known how long its batch takes" in world.told(unknown)[1]
    world.run(1, (10.0,), after_ms=11)
    behind = world.come("b")
    assert "new:1 x1 ran, of which it was not known how long it takes" in world.told(behind)[1]


def test_other_policies_are_not_given_the_reasons_of_edf(tmp_path: Path) -> None:
    world = Recorded(tmp_path / "log", policy=Exclusive.name)
    world.join("a", "b")
    world.come("a")
    waited = world.come("b")
    assert world.told(waited)[0].waits[0].why == f"policy '{Exclusive.name}' launched nothing beside what ran"


def test_a_launch_that_came_to_nothing_is_told_with_the_next(world: Recorded) -> None:
    again = world.come("a", 500)
    dropped = world.ran.pop(1)
    world.step(ev.BatchDropped("gpu-0", 1, world.now_ns + MS, "WINDOW_PASSED"), after_ms=1)
    assert dropped.batch.requests[0].request_id == again
    world.step(ev.DeviceJoined(world.core.devices["gpu-0"].spec, 2), after_ms=3)  # another life: batch 2 is lost
    story, text = world.told(again)
    assert [launch.dropped for launch in story.launches][:1] == ["WINDOW_PASSED"]
    assert "it came back without having run: its window for starting had passed" in text
    assert "Nothing came of it: its device was lost." in text
    assert story.outcome in ("refused", "waiting", "running")


def test_cancelled_and_failed_and_orphaned(world: Recorded) -> None:
    world.come("a", 0)
    world.come("b", 0)
    cancelled = world.come("c")
    world.step(ev.RequestCancelled(cancelled), after_ms=2)
    world.step(after_ms=1)
    story, text = world.told(cancelled)
    assert (story.outcome, story.cancelled_ms) == ("cancelled", 2.0)
    assert "Its client went away at +2.00 ms." in text
    orphan = world.come("c", 0)
    world.step(ev.FrontendLost(0), after_ms=1)
    assert "The stream of its frontend broke while it waited" in world.told(orphan)[1]
    world.run(1, (10.0,), after_ms=12, failed=True)
    assert "Its batch failed" in world.told(1)[1]


def test_observe_only_tells_what_would_have_been(tmp_path: Path) -> None:
    world = Recorded(tmp_path / "log", observe_only=True)
    world.join("a")
    spared = world.come("a", 5)
    world.run(1, (10.0,), after_ms=11)
    story, text = world.told(spared)
    assert story.refusal is None
    assert story.would_refuse is not None
    assert story.outcome == "late"
    assert "Observe-only mode: else it would have been refused, PREDICTED_MISS: predicted to finish" in text


# ---- logs that are not whole


def test_a_request_is_followed_through_the_parts_of_a_log(world: Recorded) -> None:
    world.come("a")
    world.come("b")
    waited = world.come("c", 200)
    world.recorder._next_part(world.core)  # while it waits
    world.run(1, (14.0, "b"), after_ms=14)
    world.recorder._next_part(world.core)  # while it runs
    world.run(3, (10.0,), after_ms=11)
    story, _ = world.told(waited)
    assert story.outcome == "in time"
    assert [launch.run is not None for launch in story.launches] == [True]
    assert len(story.outlooks) == 1
    assert story.launches[0].beside[0].batch_class == "b:1 x1"
    assert not story.remarks
    world.path.unlink()  # the oldest part goes first
    story, text = world.told(waited)
    assert story.decided_ms is None
    assert story.outcome == "in time"
    assert not story.outlooks
    assert "It was there before the log begins." in text
    record.part_path(world.path, 1).unlink()
    story, _ = world.told(waited)
    assert story.outcome == "in time"
    assert [launch.batch_id for launch in story.launches] == [3]


def rewritten(path: Path, change: Any) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def test_a_log_that_cannot_be_replayed_still_tells_what_it_says_itself(world: Recorded) -> None:
    world.come("a")
    world.come("b")
    waited = world.come("c", 200)
    world.run(1, (14.0, "b"), after_ms=14)
    world.run(3, (10.0,), after_ms=11)
    whole, _ = world.told(waited)
    alone, text = world.told(waited, replay=False)
    assert alone.launches[0].run == whole.launches[0].run
    assert not alone.waits
    assert "Decisions were not replayed" in text

    def unknown(line: Any) -> Any:
        if line["type"] == "Group" and line["actions"]:
            line["events"].append({"type": "MoonRose"})
        return line

    world.recorder.close()
    kept = world.path.read_bytes()
    rewritten(world.path, unknown)
    story, text = world.told(waited)
    assert story.outcome == "in time"
    assert "this version does not know the event 'MoonRose'" in text

    def other(line: Any) -> Any:
        for action in line.get("actions", ()):
            if action["type"] == "Launch" and action["batch"]["batch_id"] == 3:
                action["batch"]["latest_start_ns"] += 1
        return line

    world.path.write_bytes(kept)
    rewritten(world.path, other)
    story, text = world.told(waited)
    assert story.waits  # until the decision that differs
    assert not story.launches[0].beside
    assert "where a replay goes another way than the log" in text


def test_by_trace(world: Recorded) -> None:
    world.come("a")
    traced = world.come("b", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    story, text = world.told(TRACE)
    assert story.request_id == traced
    assert f"trace {TRACE}" in text


def test_by_the_id_that_its_client_gave_it_the_last_of_them(world: Recorded) -> None:
    ids = [world.come(model, client_request_id="order 1/2") for model in ("a", "b", "a")]
    world.come("c", client_request_id="another")
    story, text = world.told("order 1/2")
    assert story.request_id == ids[2]
    assert f"Others that were called 'order 1/2' before it: {ids[1]}, {ids[0]}." in text
    assert "id 'order 1/2' of its client" in text
    story, _ = world.told("order 1/2", model="b")
    assert (story.request_id, story.remarks) == (ids[1], [])


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert explain.main([str(argument) for argument in arguments]) == 1
    return capsys.readouterr().err


def test_errors_say_what_the_log_holds(world: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.recorder.flush()
    assert "it holds no requests at all" in failed(capsys, 1, world.path)
    world.come("a")
    world.come("b", 5)
    far = world.come("b", request_id=5 << 33)
    world.run(1, (200.0,), after_ms=201)
    world.recorder.flush()
    error = failed(capsys, 77, world.path)
    assert f"holds no request '77'; it holds 3 requests: 1 to 2, {far}; late (1): 1; refused (1): 2" in error
    assert f"there is no log at {tmp_path}/none" in failed(capsys, 1, tmp_path / "none")
    assert "holds no request 'the-slow-one'; it holds 3" in failed(capsys, "the-slow-one", world.path)
    (tmp_path / "text").write_text("hello\n")
    assert "line 1: not a record" in failed(capsys, 1, tmp_path / "text")


def test_json_holds_what_the_sentences_tell(world: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    world.come("a")
    world.run(1, (10.0,), after_ms=11)
    world.recorder.flush()
    assert explain.main(["1", str(world.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "in time"
    assert told["launches"][0]["run"]["slices"] == [{"duration_ms": 10.0, "co_runners": []}]
    assert explain.main(["1", str(world.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 110
    assert _heads(lines) == ["arrival", "place", "queue", "launch", "run", "outcome"]


def _heads(lines: Sequence[str]) -> list[str]:
    return [line.split()[0] for line in lines[1:] if line and not line.startswith(" ")]
