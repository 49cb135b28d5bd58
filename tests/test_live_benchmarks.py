"""The benchmarks that run whole servers: their plans, Triton's side of a comparison, and tables."""

import asyncio
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from cotenant.cli.load_client import GrpcClient
from cotenant.cli.load_options import ModelLoad
from cotenant.inference import inference_pb2 as pb
from oracle.tritonserver import installed

LIVE = Path(__file__).resolve().parent.parent / "benchmarks" / "live"
TEXT = """
name: "text" max_batch_size: 8 backend: "onnxruntime"
input { name: "ids" data_type: TYPE_INT64 dims: -1 }
input { name: "mask" data_type: TYPE_INT64 dims: -1 }
output { name: "hidden" data_type: TYPE_FP32 dims: -1 dims: 2 }
output { name: "whole" data_type: TYPE_FP32 dims: 1 }
parameters { key: "slo_ms" value { string_value: "60" } }
parameters { key: "shape_buckets" value { string_value: "4,8" } }
parameters { key: "pad_values" value { string_value: "ids=1" } }
"""


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Modules of the benchmarks, by name; gone again afterwards, since their names are not theirs alone."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(LIVE.parent))
    monkeypatch.syspath_prepend(str(LIVE))
    yield import_module
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None)
        if path and Path(path).parent == LIVE:
            del sys.modules[name]


# ---- the plan


def row(point: Any, attainment: float = 0.9) -> dict[str, Any]:
    told = {"offered": 100, "late": 1, "refused": 2, "failed": 0, "cancelled": 0, "seconds": 4.0, "p99_ms": 30.0}
    place = {name: getattr(point, name) for name in ("mix", "side", "scale", "seed", "cv")}
    return {**place, **told, "attainment": attainment, "goodput": 25.0, "cpu_us_per_request": 900.0}


def test_the_contenders_meet_at_every_load_and_again_in_reverse(live: Any) -> None:
    plan, mixes = live("plan"), live("mixes")
    mix = mixes.MIXES["vision"]
    found = [v for v in plan.visits([mix], ("goodput", "exclusive-fifo", "edf"), (1, 2)) if v.points]
    assert [v.side for v in found] == [*plan.CONTENDERS, *reversed(plan.CONTENDERS), "edf"]
    assert [p.scale for p in found[0].points] == list(mix.scales)
    assert len(mix.scales) >= 4
    assert {p.seed for v in found[3:6] for p in v.points} == {2}
    for seed in (1, 2):  # every contender gets the same loads
        points = [{p.scale for p in v.points} for v in found[:6] if v.points[0].seed == seed]
        assert points == [set(mix.scales)] * 3


def test_a_run_that_was_cut_off_goes_on_with_the_points_that_are_missing(live: Any, tmp_path: Path) -> None:
    plan, mixes, kept = live("plan"), live("mixes"), live("kept")
    planned = list(plan.visits(list(mixes.MIXES.values()), ("goodput",), (1,)))
    store = kept.Kept.open(tmp_path / "kept.json")
    first = next(v for v in planned if v.points)
    for visit in planned:
        if not visit.points:
            store.prepare(visit.key, {"best": {}})
    for point in first.points[:2]:
        store.keep(point.key, row(point))
    left = plan.remaining(planned, kept.Kept.open(tmp_path / "kept.json").has)
    assert left[0].side == first.side
    assert left[0].points == first.points[2:]
    assert all(visit.points for visit in left)
    assert plan.estimate(left, 4.0) < plan.estimate(planned, 4.0)
    assert plan.remaining(planned, lambda _: True) == []


def test_what_does_not_fit_into_the_time_is_left_for_the_next_run(live: Any) -> None:
    plan, mixes = live("plan"), live("mixes")
    planned = list(plan.visits(list(mixes.MIXES.values()), ("goodput", "edf"), (1, 2)))
    taken = plan.within(planned, 4.0, 300.0)
    assert taken == planned[: len(taken)]
    assert plan.estimate(taken, 4.0) <= 300.0 < plan.estimate(planned[: len(taken) + 1], 4.0)
    assert len(plan.within(planned, 4.0, 0.0)) == 1


def test_a_file_that_is_something_else_is_named(live: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"kept\.json"):
        live("kept").Kept.open(path)


# ---- Triton


def test_triton_is_told_of_instances_and_timeouts_and_may_mix_lengths(live: Any) -> None:
    repository = live("triton_repository")
    config = text_format.Parse(TEXT, pb.ModelConfig())
    found = repository.configured(config, repository.Tuning(2), 56.7, 1)
    assert found.backend == "python"
    assert [(group.count, group.kind) for group in found.instance_group] == [(2, pb.ModelInstanceGroup.KIND_CPU)]
    queue = found.dynamic_batching.default_queue_policy
    assert (queue.default_timeout_microseconds, queue.timeout_action) == (56_700, pb.ModelQueuePolicy.REJECT)
    assert all(tensor.allow_ragged_batch for tensor in found.input)
    assert sorted(found.parameters) == ["pad_values", "shape_buckets", "threads"]


class Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class Session:
    """Answers each token with itself and its mask, and each text with the sum of its tokens that count."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
        ids, mask = inputs["ids"], inputs["mask"]
        self.shapes.append(ids.shape)
        found = {"hidden": np.stack([ids, mask], -1), "whole": (ids * mask).sum(1, keepdims=True)}
        return [found[name].astype(np.float32) for name in names]


@pytest.fixture
def python_model(live: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    backend = SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=lambda tensors: {t.name: t.array for t in tensors},
        get_input_tensor_by_name=lambda request, name: Tensor(name, request[name]),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    model = live("triton_model").TritonPythonModel()
    model.inputs, model.outputs, model.session = ["ids", "mask"], ["hidden", "whole"], Session()
    model.buckets, model.pad_values, model.variable = [4, 8], {"ids": 1.0}, {"hidden": [1], "whole": []}
    return model


def text(*rows: list[int]) -> dict[str, Any]:
    ids = np.array(rows, np.int64)
    return {"ids": ids, "mask": np.ones_like(ids)}


def test_texts_of_several_lengths_share_a_batch_and_get_their_own_answers(python_model: Any) -> None:
    answers = python_model.execute([text([5, 6, 7]), text([8, 9, 10, 11, 12], [1, 2, 3, 4, 5])])
    assert python_model.session.shapes == [(3, 8)]  # padded to the bucket that holds the longest
    assert answers[0]["hidden"][..., 0].tolist() == [[5, 6, 7]]
    assert answers[1]["hidden"][..., 0].tolist() == [[8, 9, 10, 11, 12], [1, 2, 3, 4, 5]]
    assert [answer["whole"].ravel().tolist() for answer in answers] == [[18], [50, 15]]  # padding does not count


def test_items_without_lengths_are_joined_and_taken_apart(python_model: Any) -> None:
    python_model.buckets = []
    answers = python_model.execute([text([1, 2]), text([3, 4], [5, 6])])
    assert python_model.session.shapes == [(3, 2)]
    assert [answer["whole"].ravel().tolist() for answer in answers] == [[3], [7, 11]]


# ---- tables


def test_a_table_has_every_point_and_marks_the_best(live: Any, tmp_path: Path) -> None:
    tables, points = live("tables"), live("points")
    rows = [
        row(points.Point("vision", side, 0.5, seed), attainment)
        for side, seed, attainment in (
            ("tritonserver", 1, 0.80),
            ("goodput", 1, 0.90),
            ("goodput", 2, 0.94),
            ("tritonserver", 2, 0.84),
        )
    ]
    lines = tables.table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1  # a table, with as many cells in every line
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["goodput", "tritonserver"]
    assert "**92.0%**" in lines[2]
    assert "82.0%" in lines[3]
    assert "90.0% to 94.0%" in lines[2]
    for path in tables.plots(rows, tmp_path):
        assert "goodput" in path.read_text()


def test_of_equal_tunings_the_faster_is_the_best(live: Any) -> None:
    tried = [
        {"attainment": share, "p99_ms": p99} for share, p99 in ((0.9, 20.0), (1.0, 30.0), (1.0, 25.0), (1.0, None))
    ]
    assert live("tables").best(tried) == tried[2]


# ---- whole servers


@pytest.mark.long
def test_a_live_run_on_the_emulated_gpu_is_found_again_by_the_simulator(live: Any, tmp_path: Path) -> None:
    fidelity, configurations = live("fidelity"), live("configurations")
    one = configurations.Configuration("emulated", configurations.GPU_MODELS, "exclusive-fifo", 2.0)
    models = configurations.repository(one, tmp_path)
    seen = asyncio.run(fidelity.live(one, models, tmp_path / "run", 4.0, 1))
    found = fidelity.row(one, seen, tmp_path / "run", 4.0, 1)
    assert seen["offered"] == sum(seen[name] for name in ("in_time", "late", "refused", "failed", "cancelled"))
    assert 0.2 < found["live"] < 1.0  # there is something to get wrong
    assert abs(found["difference"]) < 0.2
    assert found["delays"]["order"]["p50_ms"] > 0.0
    assert one.name in fidelity.table([found])


def test_models_promise_what_a_mix_asks_for(live: Any, tmp_path: Path) -> None:
    mixes = live("mixes")
    config = tmp_path / "text" / "config.pbtxt"
    config.parent.mkdir()
    config.write_text(text_format.MessageToString(text_format.Parse(TEXT, pb.ModelConfig())))
    mixes.promise(tmp_path, [mixes.Loaded("text", 20, 250, 3.3)])
    told = text_format.Parse(config.read_text(), pb.ModelConfig())
    assert told.parameters["slo_ms"].string_value == "250"
    assert told.parameters["shape_buckets"].string_value == "4,8"


@pytest.mark.long
@pytest.mark.skipif(not installed(), reason="scripts/oracle was not run")
def test_triton_serves_a_mix_and_answers_as_the_model_does(live: Any, tmp_path: Path) -> None:
    import onnxruntime

    mixes, sides, repository = live("mixes"), live("sides"), live("triton_repository")
    mix = mixes.Mix("tiny", (mixes.Loaded("roberta_small", 20, 60_000, 3.3),), (1.0,))
    mixes.write_models(tmp_path / "models", ["roberta_small"])
    server = sides.Triton(repository.Tuning(1), mix, tmp_path / "models", tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "models" / "roberta_small" / "1" / "model.onnx"))
    texts = [np.arange(5, 5 + length, dtype=np.int64)[None] for length in (7, 30)]

    async def ask() -> list[Any]:
        await server.start()
        client = GrpcClient(server.url)
        try:
            load = ModelLoad("roberta_small")
            model = await client.describe(load)
            asked = [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in texts]
            answers = await asyncio.gather(*(client.outputs(load, model, tensors) for tensors in asked))
            assert server.cpu_s() > 0.0
            return [answer["last_hidden_state"] for answer in answers]
        finally:
            await client.close()
            await server.stop()

    for ids, answer in zip(texts, asyncio.run(ask()), strict=True):
        (expected,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert answer.shape == expected.shape
        assert np.allclose(answer, expected, atol=1e-3)
    assert server.server.processes() == []
