"""Our REST against a real Triton's: the same requests to both, and every difference is one that is meant.

What differs on purpose is in differences_http.toml. A test that fails here tells the request and both answers.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oracle import http_comparing, repository, rest_corpus
from oracle.tritonserver import TritonServer, installed
from stacks import StackThread, free_port

pytestmark = [
    pytest.mark.long,
    pytest.mark.oracle,
    pytest.mark.skipif(not installed(), reason="there is no tritonserver here to compare with: run scripts/oracle"),
]
DIFFERENCES = Path(__file__).with_name("differences_http.toml")


def intended() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tomllib.loads(DIFFERENCES.read_text(encoding="utf-8"))["difference"]
    return [row for row in rows if "path" in row]


def explains(row: dict[str, Any], path: str, theirs: str, ours: str) -> bool:
    """Whether a row is about this difference; where its patterns have groups, both sides must agree in them."""
    there, here = (re.fullmatch(row[key], text, re.DOTALL) for key, text in (("theirs", theirs), ("here", ours)))
    if re.fullmatch(row["path"], path) is None or not there or not here:
        return False
    return "agree" not in row or there.groups() == here.groups()


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Triton's and ours."""
    folder = tmp_path_factory.mktemp("rest")
    repository.write(folder / "ours", folder / "theirs")
    flags = ("--model-control-mode=explicit", "--load-model=*")
    extra = {"frontend": ("--allow-client-shm", "--allow-model-files")}
    with TritonServer(folder / "theirs", folder / "log", flags=flags) as server:
        stack = StackThread(folder, folder / "ours", extra=extra, http_port=free_port())
        yield server.http_url, stack.stack.http_url
        stack.close()


def test_every_path_and_what_goes_wrong_with_it(addresses: tuple[str, str]) -> None:
    rows, used, unexplained, count = intended(), set(), [], 0
    for call in rest_corpus.calls():
        count += 1
        theirs, ours = (http_comparing.ask(address, call) for address in addresses)
        if theirs == ours:
            continue
        found = next((row["id"] for row in rows if explains(row, call.path, theirs, ours)), None)
        if found is None:
            unexplained.append(f"{call.name}\n  triton: {theirs}\n  ours:   {ours}")
        used.add(found)
    assert unexplained == []
    assert count > 300
    assert {row["id"] for row in rows} - used == set(), "listed, and does not occur"
