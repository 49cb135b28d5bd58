"""Model control modes, live: what loads and unloads models, and what does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from frontend_stack import eventually, identity_of
from stacks import StackThread, write_model

SMALL = identity_of([("FP32", [4])], max_batch_size=2)
REFUSED = "explicit model load / unload is not allowed if polling is enabled"


def stack(folder: Path, mode: str) -> StackThread:
    write_model(folder / "models", "first", SMALL)
    flags = (f"--model-control-mode={mode}", "--repository-poll-s=0.2")
    return StackThread(folder, folder / "models", extra={"scheduler": flags})


def refuses(client: Any) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(triton.InferenceServerException, match=REFUSED) as caught:
            call("first")
        assert "UNAVAILABLE" in str(caught.value.status())


def test_mode_poll_follows_the_repository(tmp_path: Path) -> None:
    running, models = stack(tmp_path, "poll"), tmp_path / "models"
    try:
        with triton.InferenceServerClient(running.url) as client:
            refuses(client)
            write_model(models, "second", SMALL)
            eventually(lambda: client.is_model_ready("second"), "a new model")
            write_model(models, "second", SMALL.replace("max_batch_size: 2", "max_batch_size: 7"))
            eventually(lambda: client.get_model_config("second").config.max_batch_size == 7, "a changed model")
            write_model(models, "second", SMALL, version="2")
            eventually(lambda: client.is_model_ready("second", "2"), "a new version")
            shutil.rmtree(models / "second")
            eventually(lambda: not client.is_model_ready("second"), "it is gone")
            assert client.is_model_ready("first")
    finally:
        running.close()


def test_mode_none_serves_what_was_there(tmp_path: Path) -> None:
    running = stack(tmp_path, "none")
    try:
        with triton.InferenceServerClient(running.url) as client:
            assert client.is_model_ready("first")
            refuses(client)
    finally:
        running.close()
