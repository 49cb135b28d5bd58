"""The zoo's exports compute what their networks do, run through the executor's backends; and sentences make sense."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from cotenant.executor.zoo import MODELS, exporting, minilm, text
from cotenant.executor.zoo.building import example_inputs
from cotenant.executor.zoo.sentences import GROUPS
from zoo_models import answer, batch_of, loaded, made, network, samples, zoo_folder

__all__ = ["zoo_folder"]

FORMATS = ("onnx", "torch")
SMALL = [name for name, recipe in MODELS.items() if "small" in recipe.sizes]
FULL = [name for name, recipe in MODELS.items() if recipe.sizes == ("full",)]


def check_export(name: str, folder: Path) -> None:
    recipe = MODELS[name]
    config, model = loaded(folder)
    assert model.signature is not None
    assert [spec.name for spec in model.signature.inputs] == [spec.name for spec in recipe.inputs]
    assert [spec.name for spec in model.signature.outputs] == [recipe.output.name]
    requests = samples(folder)
    for chosen in (requests[:1], [requests[0], requests[len(requests) // 2], requests[-1]]):
        batch = batch_of(config, chosen)
        found, wanted = model.run(batch)[recipe.output.name], answer(name, batch)
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        assert (np.abs(found - wanted) <= 1e-3 * np.abs(wanted).mean(axis=-1, keepdims=True)).all()
    differences = np.abs(found[0] - found[1]).mean()
    assert differences > 0.05 * np.abs(found[0]).mean(), "an answer must depend on its picture or text"
    full = model.run(batch_of(config, list(itertools.islice(itertools.cycle(requests), 8))))
    assert len(full[recipe.output.name]) == 8
    model.close()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", SMALL)
def test_a_small_model_answers_through_its_backend_as_its_module_does(zoo_folder: Path, name: str, form: str) -> None:
    check_export(name, made(zoo_folder, name, form))


@pytest.mark.long
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", FULL)
def test_a_full_model_answers_through_its_backend_as_its_module_does(tmp_path: Path, name: str, form: str) -> None:
    try:
        check_export(name, made(tmp_path, name, form))
    finally:
        (tmp_path / form / name / "1" / ("model.onnx" if form == "onnx" else "model.pt2")).unlink(missing_ok=True)


def test_programs_tell_their_batch_limit(zoo_folder: Path) -> None:
    _, model = loaded(made(zoo_folder, "vgg_small", "torch"))
    assert model.signature is not None
    assert model.signature.max_batch_size == 8


@pytest.mark.parametrize("name", ["minilm", *(pytest.param(n, marks=pytest.mark.long) for n in SMALL if n != "minilm")])
def test_both_exporters_of_onnx_agree_and_are_quiet(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    feed = {
        spec.name: tensor.numpy()
        for spec, tensor in zip(MODELS[name].inputs, example_inputs(MODELS[name], batch=3, length=17), strict=True)
    }
    for dynamo in (False, True):
        (tmp_path / str(dynamo) / "1").mkdir(parents=True)
        exporting.to_onnx(network(name), MODELS[name], tmp_path / str(dynamo) / "1" / "model.onnx", dynamo=dynamo)
        _, model = loaded(tmp_path / str(dynamo))
        np.testing.assert_allclose(model.run(feed)[MODELS[name].output.name], answer(name, feed), rtol=2e-3, atol=2e-4)
    assert capfd.readouterr() == ("", "")


# ---- the sentence encoder


@pytest.mark.parametrize("form", FORMATS)
def test_paraphrases_are_closer_than_other_sentences(zoo_folder: Path, form: str) -> None:
    folder = made(zoo_folder, "minilm", form)
    config, model = loaded(folder)
    requests = samples(folder)
    embeddings = np.concatenate([model.run(batch_of(config, [request]))["embedding"] for request in requests])
    groups = np.array([int(request["group"]) for request in requests])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    closeness = embeddings @ embeddings.T
    for i, row in enumerate(closeness):
        same = groups == groups[i]
        assert row[same].min() > row[~same].max(), f"sentence {i} of group {groups[i]}"
    model.close()


def test_the_sentence_encoder_computes_what_transformers_does(zoo_folder: Path) -> None:
    import torch
    import transformers

    sentences = [group[0] for group in GROUPS]
    ids, mask = text.encode(sentences)
    reference = transformers.BertModel.from_pretrained(minilm.folder(), local_files_only=True).eval()
    with torch.inference_mode():
        states = reference(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
    wanted = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(answer("minilm", {"input_ids": ids, "attention_mask": mask}), wanted, atol=1e-4)
    _, model = loaded(made(zoo_folder, "minilm", "onnx"))
    np.testing.assert_allclose(model.run({"input_ids": ids, "attention_mask": mask})["embedding"], wanted, atol=1e-4)


def test_text_is_padded_cut_and_needs_a_sentence() -> None:
    ids, mask = text.encode(["Rain.", "It will rain tomorrow, and the day after tomorrow."], max_length=8)
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == (2, 8)
    assert ids[0].tolist() == [101, 4542, 1012, 102, 0, 0, 0, 0]  # [CLS] rain . [SEP]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]
    with pytest.raises(ValueError, match="no sentence"):
        text.encode([])
