"""A short storm over a whole stack, and what judges it."""

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

STORM = Path(__file__).resolve().parent.parent / "benchmarks" / "storm"


@pytest.fixture
def storm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Modules of the storm, by name; gone again afterwards, since their names are not theirs alone."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(STORM.parent))
    monkeypatch.syspath_prepend(str(STORM))
    yield import_module
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path and Path(path).parent == STORM:
            del sys.modules[name]


# ---- the script


def test_a_seed_makes_one_script_and_a_round_holds_every_fault(storm: Any, tmp_path: Path) -> None:
    stage, faults = storm("stage"), storm("faults")
    over = stage.Stage(tmp_path / "stage", namespaces=False)
    try:
        kinds = faults.kinds(over)
        assert {"kill", "stop", "stalled", "closed", "disk full", "slow reader", "wall clock", "monotonic clock"} == {
            kind for kind, _ in kinds
        }
        assert {target for kind, target in kinds if kind == "kill"} >= set(over.services)

        def round_of(seed: int) -> list[Any]:
            script = faults.script(over, seed)
            found: list[Any] = []
            while len(found) < len(kinds):
                found += next(script)
            return found

        assert round_of(1) == round_of(1)
        assert round_of(1) != round_of(2)
        assert {(fault.kind, fault.target) for fault in round_of(1)} == set(kinds)
        assert all(fault.seconds <= faults.LONG_S for fault in round_of(1))
    finally:
        over.remove()


# ---- the judge


def test_what_is_lost_doubled_mixed_up_or_strange_is_found(storm: Any) -> None:
    traffic, verdict = storm("traffic"), storm("verdict")
    ledger = traffic.Ledger()
    lost, twice, mixed, strange = (ledger.sent("quick") for _ in range(4))
    ledger.answered(twice, "OK")
    ledger.answered(twice, "UNAVAILABLE")
    response = traffic.pb.ModelInferResponse(id=str(mixed))
    response.raw_output_contents.append(traffic.np.full(16, lost, traffic.np.float32).tobytes())
    ledger.took(mixed, response)
    ledger.answered(strange, "INTERNAL", text="what now")
    watch = SimpleNamespace(backwards=["batches of executor-0: 9, then 3"])
    rest = {"memory_at_rest": {"frontend": [80.0, 400.0]}, "descriptors_at_rest": {"frontend": [20, 90]}}
    seen = SimpleNamespace(ledger=ledger, blows=[], watch=watch, leftovers=["a segment"], **rest)
    found = "\n".join(verdict.broken(seen))
    for sign in (
        f"request {lost} of quick was never answered",
        f"request {twice}: UNAVAILABLE",
        f"request {mixed}: outputs that are not its own",
        "answered INTERNAL: what now",
        "went backwards: batches of executor-0",
        "not given back: a segment",
        "frontend has 400 MiB",
        "frontend has 90 descriptors",
    ):
        assert sign in found
    assert len(found.splitlines()) == 8
    ledger.answers[0] = ledger.answers[0]._replace(sent_s=ledger.answers[0].sent_s - 60)
    assert any("after 60." in line for line in verdict.broken(seen))


def test_what_is_kept_must_not_become_less(storm: Any, tmp_path: Path) -> None:
    import sqlite3

    watching = storm("watching")
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE devices (device_id, batches)")
        db.execute("CREATE TABLE classes (device_id, model, batch_size, samples)")
        db.execute("CREATE TABLE sources (device_id, incarnation, sequence)")
        db.execute("INSERT INTO devices VALUES ('a', 10)")
        db.execute("INSERT INTO classes VALUES ('a', 'm', 1, 7)")
        db.execute("INSERT INTO sources VALUES ('a', '5', 100)")
    watch = watching.Watch(SimpleNamespace(state=path))
    watch.state()
    watch.state()
    assert (watch.looks_at_state, watch.backwards) == (2, [])
    with sqlite3.connect(path) as db:
        db.execute("UPDATE devices SET batches = 9")
        db.execute("DELETE FROM classes")
        db.execute("UPDATE sources SET sequence = 101")
    watch.state()
    assert watch.backwards == ["batches of a: 10, then 9", "samples of a m x1: 7, then gone"]


# ---- the weather


def test_a_short_storm_breaks_no_promise(storm: Any) -> None:
    stage, raging, verdict, Fault = storm("stage"), storm("raging"), storm("verdict"), storm("faults").Fault  # noqa: N806
    script = [
        [Fault("kill", "scheduler", 0.0)],
        [Fault("disk full", "all", 1.0), Fault("stop", "executor-1", 1.2)],
        [Fault("stalled", "frontend>executor-0", 0.7), Fault("wall clock", "predictor", 0.0)],
        [Fault("kill", "executor-0+executor-1", 0.0)],
        [Fault("closed", "frontend>scheduler", 0.5), Fault("monotonic clock", "executor-1", 0.5)],
        [Fault("kill", "predictor", 0.0), Fault("kill", "frontend", 0.0)],
    ]

    async def play() -> tuple[Any, list[str]]:
        # Sockets have short names only.
        over = stage.Stage(Path(tempfile.mkdtemp(prefix="storm")), namespaces=False)
        try:
            async with over:
                await over.models_settled(timeout_s=60)
                options = {"requests": 10**9, "rate_per_s": 40, "seed": 1, "rest_s": 0.7}
                seen = await raging.rage(over, iter(script), tell=lambda _: None, **options)
                wrong = verdict.broken(seen)
            return seen, wrong + verdict.state_after(over)
        finally:
            over.remove()

    seen, wrong = asyncio.run(play())
    assert wrong == []
    assert len(seen.blows) == len(script)
    assert seen.ledger.statuses()["OK"] > 100
    assert seen.watch.looks_at_state > 3
