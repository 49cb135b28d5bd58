"""The whole stack on emulated GPUs: co-location, learning, the log and its replay."""

import asyncio
import json
import statistics
from pathlib import Path
from typing import Any, cast

import pytest

from cotenant.cli import explain
from cotenant.runtime.server import open_channel
from cotenant.scheduler import record
from cotenant.scheduler.replay import replay
from cotenant.v1 import predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc, types_pb2
from loads import Client, statuses
from stacks import running, write_model

EMULATED = """
backend: "emulated"
max_batch_size: 8
input [{{ name: "INPUT0" data_type: TYPE_FP32 dims: [ 16 ] }}]
output [{{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 4 ] }}]
dynamic_batching {{}}
parameters {{ key: "personality" value {{ string_value: "{personality}" }} }}
parameters {{ key: "time_scale" value {{ string_value: "{scale}" }} }}
parameters {{ key: "slo_ms" value {{ string_value: "{slo_ms}" }} }}
"""


def repository(folder: Path) -> Path:
    models = folder / "models"
    write_model(models, "vision", EMULATED.format(personality="resnet50", scale=2, slo_ms=400))
    write_model(models, "text", EMULATED.format(personality="transformer_xl", scale=1, slo_ms=500))
    write_model(models, "small", EMULATED.format(personality="mobilenet_v2", scale=4, slo_ms=300))
    return models


def groups(log: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for _, part in record.parts(log) for line in part.read_text().splitlines()]
    return [entry for entry in entries if entry["type"] == "Group"]


def test_batches_share_devices_learn_and_leave_a_log_that_replays(tmp_path: Path) -> None:
    log = tmp_path / "log" / "run"

    async def scenario() -> list[Any]:
        devices = ("emulated:0", "emulated:1")
        async with running(tmp_path, repository(tmp_path), devices=devices, record=str(log)) as stack:
            client = Client(stack.url)
            outcomes = await client.load(["vision", "text", "small"], 180, 4.0, explain=True)
            await asyncio.sleep(0.7)  # a push of estimates, and a flush of the log
            async with open_channel(stack.services["predictor"].address) as channel:
                stub = cast(
                    "predictor_pb2_grpc.PredictorServiceAsyncStub", predictor_pb2_grpc.PredictorServiceStub(channel)
                )
                question = predictor_pb2.EstimateColocationRequest(level=0.95)
                question.colocation.device_id = "emulated-0"
                for model in ("vision", "text"):
                    question.colocation.batches.append(types_pb2.BatchClass(model=model, version="1", batch_size=1))
                answer = await stub.EstimateColocation(question)
            async with open_channel(stack.scheduler) as channel:
                scheduler = cast(
                    "scheduler_pb2_grpc.SchedulerServiceAsyncStub", scheduler_pb2_grpc.SchedulerServiceStub(channel)
                )
                status = await scheduler.GetStatus(scheduler_pb2.GetStatusRequest())
            await client.channel.close()
            return [outcomes, answer, status]

    outcomes, answer, status = asyncio.run(scenario())

    # Every request has an answer, and its own.
    assert statuses(outcomes)["OK"] > 0.9 * len(outcomes)
    assert set(statuses(outcomes)) <= {"OK", "DEADLINE_EXCEEDED"}
    assert all(outcome.correct for outcome in outcomes if outcome.status == "OK")
    # They ran beside others, and were told so.
    beside = [outcome.parameters["cotenant_mean_co_runners"] for outcome in outcomes if outcome.status == "OK"]
    assert max(cast("list[float]", beside)) > 0.5
    # The predictor learned what sharing costs.
    assert all(member.sample_count > 0 for member in answer.members)
    assert sum(member.sample_count for member in answer.members) > 10
    assert all(1.0 <= member.slowdown < 4.0 for member in answer.members)
    assert status.predictor_connected
    assert status.estimates_version > 1
    assert {device.device.device_id for device in status.devices} == {"emulated-0", "emulated-1"}
    assert all(device.batch_ns >= device.busy_ns > 0 for device in status.devices)

    # The log: both devices were used, slices add up, forecasts travel with launches.
    ends = [event for group in groups(log) for event in group["events"] if event["type"] == "BatchFinished"]
    assert {event["device_id"] for event in ends} == {"emulated-0", "emulated-1"}
    for event in ends:
        assert sum(part["duration_ns"] for part in event["slices"]) == event["duration_ns"]
    assert any(part.get("co_runners") for event in ends for part in event["slices"])
    errors = [abs(e["forecast"]["duration_ns"] / e["duration_ns"] - 1) for e in ends[len(ends) // 2 :]]
    assert statistics.median(errors) < 0.2
    # And a fresh core, fed with what is in it, decides the same.
    for _, part in record.parts(log):
        outcome = replay(part)
        assert outcome.difference is None
        assert outcome.actions > 500
    # The id that a client was told leads to the story of its request, which says what the client was told.
    waited = max((o.parameters for o in outcomes if o.status == "OK"), key=lambda told: told["cotenant_queue_ns"])
    story = explain.explain(log, str(waited["cotenant_request_id"]))
    assert story.outcome in ("in time", "late")
    assert not story.remarks
    launch = story.launches[-1]
    assert launch.batch_id == waited["cotenant_batch_id"]
    assert launch.run is not None
    assert launch.run.duration_ms == pytest.approx(float(waited["cotenant_execution_ns"]) / 1e6)
    assert launch.run.started_ms * 1e6 >= float(waited["cotenant_queue_ns"])
    # The second device is asked only where it could answer sooner than the first.
    assert {outlook.device_id for outlook in story.outlooks} <= {"emulated-0", "emulated-1"}
    assert story.outlooks


def test_another_policy_by_name(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[Any], list[float]]:
        devices = ("emulated:0",)
        async with running(tmp_path, repository(tmp_path), devices=devices, policy="exclusive-fifo") as stack:
            client = Client(stack.url)
            outcomes = await client.load(["vision", "small"], 60, 1.0, explain=True)
            await client.channel.close()
            return outcomes, [float(o.parameters.get("cotenant_mean_co_runners", 0)) for o in outcomes]

    outcomes, beside = asyncio.run(scenario())
    assert statuses(outcomes)["OK"] > 40
    assert beside == pytest.approx([0.0] * len(beside))
