"""Who may import what: the rules that keep the rooms apart."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICES = ("frontend", "scheduler", "executor", "predictor")
PURE = {  # the core and what it is made of: no clock, I/O, lock, log, random number or protobuf
    "protos": ["rolling", "estimates", "sharing", "tenant_names"],
    "scheduler": [
        *("core", "events", "books", "contention", "planning", "policy", "lifecycle", "snapshot"),
        *("state", "requests", "batches", "roster", "turns", "agenda", "tables", "margin", "queues", "waiting"),
        "widening",
        *("settings", "tenants", "fairness", "tenancy", "adjusting", "rate_limits"),
        *("backlog", "baselines", "pairs", "policies/*"),
    ],
}
ALLOWED_IN_CORE = {
    *("abc", "bisect", "collections.abc", "heapq", "itertools", "operator", "re", "typing", "msgspec"),
    *(
        "cotenant.runtime",
        *(f"cotenant.runtime.{name}" for name in ("estimates", "rolling", "sharing", "tenant_names")),
    ),
}
HEAVY = {
    *("torch", "tensorrt", "onnxruntime", "cuda", "cupti", "pynvml"),
    *("transformers", "onnx", "tokenizers", "safetensors"),
}


def sources(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py") if not p.name.endswith(("_pb2.py", "_pb2_grpc.py")))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


@pytest.mark.parametrize("room", SERVICES)
def test_services_never_import_each_other(room: str) -> None:
    others = [f"cotenant.{other}" for other in (*SERVICES, "cli") if other != room]
    for path in sources(room):
        if path.parent.name == "simulation":
            continue  # the one place that wires the core to the emulated device
        for name in imports(path):
            assert not any(name == other or name.startswith(other + ".") for other in others), f"{path} imports {name}"


def test_shared_code_imports_no_service() -> None:
    for path in sources("protos"):
        for name in imports(path):
            assert not name.startswith(tuple(f"cotenant.{s}" for s in (*SERVICES, "cli"))), f"{path} imports {name}"


def test_the_core_is_pure() -> None:
    for room, patterns in PURE.items():
        base = ROOT / room / "cotenant" / ("runtime" if room == "protos" else room)
        for pattern in patterns:
            for path in base.glob(pattern + ".py"):
                for name in imports(path):
                    module = name if name in ALLOWED_IN_CORE else name.rpartition(".")[0]
                    own = name.startswith("cotenant.scheduler")
                    assert own or module in ALLOWED_IN_CORE, f"{path} imports {name}"


def test_heavy_imports_are_lazy_and_in_the_executor() -> None:
    for room in (*SERVICES, "protos", "cli"):
        for path in sources(room):
            heavy = {n for n in imports(path, top_level_only=room == "executor") if n.split(".")[0] in HEAVY}
            assert not heavy, f"{path} imports {heavy}"


@pytest.mark.parametrize("service", SERVICES)
def test_starting_a_service_imports_nothing_heavy(service: str) -> None:
    code = f"import sys, cotenant.{service}.__main__; print([m for m in {sorted(HEAVY)!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_the_namespace_has_no_init() -> None:
    for room in (*SERVICES, "protos", "cli"):
        assert not (ROOT / room / "cotenant" / "__init__.py").exists()


def test_every_package_is_typed() -> None:
    for package in (
        p for room in (*SERVICES, "protos", "cli") for p in (ROOT / room / "cotenant").iterdir() if p.is_dir()
    ):
        if package.name != "__pycache__":
            assert (package / "py.typed").exists(), package
