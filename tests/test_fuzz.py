"""A short pass of every fuzzed place (the long one is `python benchmarks/fuzz`), and what they are fuzzed with."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from cotenant.frontend import inference
from cotenant.inference import inference_pb2 as pb

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
# In this process; `connections` starts a stack of processes, and is of the long pass.
TARGETS = (
    "wire", "events", "submits", "estimates", "observed", "orders", "blocks", "exchanges", "answers", "configs", "logs",
)  # fmt: skip
INPUTS = 40


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: import_module(f"fuzz.{name}")


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, str(BENCHMARKS / "fuzz"), *arguments]
    command += ["--state", str(folder / "state"), "--json", str(folder / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (folder / "results.json").exists(), done.stdout + done.stderr
    return done.returncode, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_a_short_pass_of_every_place_finds_nothing(tmp_path: Path) -> None:
    status, found = run(tmp_path, *TARGETS, "--inputs", str(INPUTS))
    rows = {row["target"]: row for row in found["rows"]}
    assert {name: row["findings"] for name, row in rows.items() if row["findings"]} == {}
    assert status == 0
    assert [(name, rows[name]["inputs"]) for name in TARGETS] == [(name, INPUTS) for name in TARGETS]
    assert all(row["canaries"] for row in rows.values())
    for name in ("wire", "blocks", "configs"):  # bad inputs are refused, and some are good enough
        assert len(rows[name]["verdicts"]) > 1, rows[name]["verdicts"]


@pytest.mark.long
def test_real_connections(tmp_path: Path) -> None:
    status, found = run(tmp_path, "connections", "--inputs", "3000")
    assert (status, found["rows"][0]["findings"]) == (0, [])


def test_a_campaign_goes_on_where_it_was_stopped_and_makes_the_same_inputs(fuzz: Any, tmp_path: Path) -> None:
    campaign, configs = fuzz("campaign"), fuzz("reading").Configs()
    for until in (30, 50):
        progress = campaign.read(tmp_path / "configs.json", "configs", 1)
        asyncio.run(campaign.Campaign(configs, progress).run(until))
        campaign.write(tmp_path / "configs.json", progress)
    assert (progress.inputs, sum(progress.verdicts.values())) == (50, 50)
    assert campaign.read(tmp_path / "configs.json", "configs", 2).inputs == 0  # another seed, other inputs
    assert configs.make(Random("1 configs 7")) == configs.make(Random("1 configs 7"))
    assert configs.make(Random("1 configs 7")) != configs.make(Random("1 configs 8"))


def broken(target: ModuleType, services: ModuleType) -> Any:
    """A place that fails in each of the ways that are looked for."""

    class Place(target.Target):  # type: ignore[name-defined,misc]
        name, canary_every, fresh_every, look_every = "broken", 2, 100, 1
        count = -1

        def make(self, rng: Random) -> int:
            self.count += 1
            return self.count

        async def take(self, made: int) -> str:
            if made == 1:
                raise KeyError("made")
            if made == 3:
                raise services.FindingError("wrong status")
            return "fine"

        async def canary(self) -> None:
            if self.count == 4:
                raise services.FindingError("canary died")

        def complaints(self) -> list[str]:
            return ["logged 'x'"] if self.count == 5 else []

    return Place()


def test_every_kind_of_failure_is_found_and_the_campaign_goes_on(fuzz: Any) -> None:
    campaign = fuzz("campaign")
    progress = campaign.Progress("broken", 1)
    place = broken(fuzz("target"), fuzz("services"))
    asyncio.run(campaign.Campaign(place, progress).run(until=8))
    assert [found["input"] for found in progress.findings] == [1, 3, 4, 5]
    assert "KeyError" in progress.findings[0]["text"]
    assert "test_fuzz.py" in progress.findings[0]["text"]
    assert progress.inputs == 8
    assert progress.verdicts["FINDING"] == 4


def test_a_crash_of_the_frontend_is_seen(fuzz: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle itself: a check that is broken on purpose makes the wire's fuzzer complain."""

    def failing(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    async def play() -> list[dict[str, Any]]:
        campaign, wire = fuzz("campaign"), fuzz("wire")
        target, progress = wire.Wire(), fuzz("campaign").Progress("wire", 1)
        await target.open()
        try:
            monkeypatch.setattr(inference, "check", failing)
            target.make = lambda _: wire.Sent("ModelInfer", (target._infer[0].SerializeToString(),))
            await campaign.Campaign(target, progress).feed(1)
        finally:
            monkeypatch.undo()
            await target.close()
        found: list[dict[str, Any]] = progress.findings
        return found

    findings = asyncio.run(play())
    assert any("answered INTERNAL: the frontend failed: ZeroDivisionError" in found["text"] for found in findings)
    assert any("logged" in found["text"] for found in findings)


def test_mutated_messages_are_often_still_messages_and_differ(fuzz: Any) -> None:
    mutators, corpus = fuzz("mutators"), fuzz("corpus")
    good = corpus.requests()[0]
    made = [mutators.message(good, Random(seed)) for seed in range(200)]
    parsed = [mutators.parsed(pb.ModelInferRequest, data) for data in made]
    assert 100 < sum(message is not None for message in parsed) < 200
    assert len(set(made)) > 130
