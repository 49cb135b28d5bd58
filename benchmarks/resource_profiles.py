"""Whether a resource profile tells who disturbs whom: pairs of models side by side on this CPU, two estimates.

    python benchmarks/resource_profiles.py [--repository models] [--rounds 3]

Models of the zoo, and two that load the memory as hard as one core can: `wide` multiplies one row by 128 MiB of
weights, `stream` adds up tensors of 32 MiB. One model runs over and over on a thread of its own while another is
measured, in turns with the same one alone. CPU time of the measured thread counts, not wall time: a neighbour that
takes the core is the scheduler's business, one that takes cache or memory is what a profile is to foresee, and other
processes on the machine disturb less.

The pressure that a profile predicts for a pair is the scalar product of the two demand vectors. `outside` is the
estimate that needs no counting (weights and tensors read once), `counted` the one from counted operators. Each is
compared with the measured slowdowns by rank correlation (Spearman), with the 90 % interval of 1,000 draws of the pairs
with replacement. `operations per second` is the same for products of counted rates of operations, which a CPU's "sm"
leaves aside. `repeat` correlates the slowdowns of odd and even turns: no estimate does better than measurements repeat.
"""

import argparse
import itertools
import os
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import save

from cotenant.executor import completion, peaks, repository
from cotenant.executor.backend import Model, Placement, Tensors, find_backend
from cotenant.executor.demand import Solo, of_solo
from cotenant.executor.profile import classes

# With batch sizes; of the text models, texts of 32 tokens.
MODELS = {"convnext_small": 8, "minilm": 8, "resnet_small": 8, "roberta_small": 1, "vgg_small": 8, "yolov8_small": 1}
STRESS = ("wide", "stream")
BUCKETS = ("", "32")
BLOCK_S, MIN_RUNS = 0.06, 3  # CPU time of one turn


class Case(NamedTuple):
    name: str
    model: Model
    inputs: Tensors


def write_stress(root: Path) -> None:
    """The two models that load the memory."""
    import onnx
    from onnx import helper, numpy_helper

    def write(name: str, nodes: list[Any], shape: list[int], weights: dict[str, Any]) -> None:
        value = helper.make_tensor_value_info
        kept = [numpy_helper.from_array(array, key) for key, array in weights.items()]
        ends = [value("x", onnx.TensorProto.FLOAT, shape)], [value("y", onnx.TensorProto.FLOAT, None)]
        model = helper.make_model(
            helper.make_graph(nodes, name, *ends, kept), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        )
        (root / name / "1").mkdir(parents=True)
        onnx.save(model, root / name / "1" / "model.onnx")
        (root / name / "config.pbtxt").write_text(
            f'backend: "onnxruntime"\ninput [{{ name: "x" data_type: TYPE_FP32 dims: {shape} }}]\n'
        )

    write("wide", [helper.make_node("MatMul", ["x", "w"], ["y"])], [1, 4096], {"w": np.ones((4096, 8192), np.float32)})
    sums = [helper.make_node("Add", ["x", "x"], ["s"])]
    sums += [helper.make_node("Add", [f"s{'' if i == 0 else i}", "x"], [f"s{i + 1}"]) for i in range(3)]
    sums += [helper.make_node("ReduceMax", ["s3"], ["y"])]
    write("stream", sums, [8 * 2**20], {})


def load(root: Path, name: str, size: int) -> tuple[Case, Solo]:
    """A class of a model, with its solo measurement."""
    config = repository.read_config(root / name)
    model = find_backend("onnxruntime").load(root / name / "1", config, Placement("cpu", 0, 1, 0))
    completion.complete(config, model.signature, 8)
    known, inputs = next(
        (known, inputs)
        for known, inputs in classes(config, "1")
        if known.batch_size == size and known.shape_bucket in BUCKETS
    )
    counted = model.counted()
    assert counted
    counted.run(inputs)
    counted.run(inputs)
    operators = counted.operators()[-1]
    counted.close()
    case = Case(f"{name}:{size}", model, inputs)
    block(case)
    cpu_ns = int(1e9 * statistics.median(block(case)))
    io_bytes = sum(array.nbytes for array in inputs.values())
    return case, Solo(known, cpu_ns, cpu_ns, model.memory_bytes, io_bytes, operators)


def block(case: Case) -> list[float]:
    """CPU times of some runs, in s."""
    spent: list[float] = []
    while len(spent) < MIN_RUNS or sum(spent) < BLOCK_S:
        started = time.thread_time()
        case.model.run(case.inputs)
        spent.append(time.thread_time() - started)
    return spent


def beside(case: Case, neighbour: Case) -> list[float]:
    """The same while the neighbour runs."""
    stop, running = threading.Event(), threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            neighbour.model.run(neighbour.inputs)
            running.set()

    thread = threading.Thread(target=disturb)
    thread.start()
    running.wait()
    spent = block(case)
    stop.set()
    thread.join()
    return spent


def slowdown(turns: list[tuple[list[float], list[float]]]) -> float:
    alone, together = (list(itertools.chain(*(turn[i] for turn in turns))) for i in (0, 1))
    return statistics.median(together) / statistics.median(alone)


def ranks(values: list[float]) -> Any:
    """Ties share their mean rank."""
    array = np.asarray(values)
    return np.array([(array < v).sum() + ((array == v).sum() - 1) / 2 for v in array])


def spearman(left: list[float], right: list[float]) -> float:
    x, y = ranks(left), ranks(right)
    return float(np.corrcoef(x, y)[0, 1]) if x.std() and y.std() else 0.0


def compared(left: list[float], right: list[float], seed: int = 0) -> dict[str, float]:
    noise = np.random.default_rng(seed)
    draws = []
    for _ in range(1000):
        chosen = noise.integers(0, len(left), len(left))
        draws.append(spearman([left[i] for i in chosen], [right[i] for i in chosen]))
    low, high = np.quantile(draws, [0.05, 0.95])
    return {
        "rank_correlation": round(spearman(left, right), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        write_stress(Path(folder))
        found = [load(options.repository, name, size) for name, size in MODELS.items()]
        found += [load(Path(folder), name, 1) for name in STRESS]
    limits = peaks.of_cpu()
    cores = len(os.sched_getaffinity(0))
    demands: dict[str, dict[str, Any]] = {}
    for case, solo in found:
        outside = of_solo(solo._replace(operators=()), limits, cores=cores, threads=1)
        counted = of_solo(solo, limits, cores=cores, threads=1)
        demands[case.name] = {"outside": outside.shares, "counted": counted.shares, "solo_ms": solo.work_ns / 1e6}
        print(case.name, *(f"{v:.3f}" for v in (*outside.shares, *counted.shares)), f"{solo.work_ns / 1e6:.1f} ms")
    cases = [case for case, _ in found]
    pairs = list(itertools.product(cases, cases))
    turns: dict[tuple[str, str], list[tuple[list[float], list[float]]]] = {}
    for turn in range(2 * options.rounds):
        random.Random(turn).shuffle(pairs)
        for case, neighbour in pairs:
            turns.setdefault((case.name, neighbour.name), []).append((block(case), beside(case, neighbour)))
        loads.append(os.getloadavg()[0])
    measured = {key: slowdown(blocks) for key, blocks in turns.items()}
    slowdowns = list(measured.values())
    halves = [[slowdown(blocks[i::2]) for blocks in turns.values()] for i in (0, 1)]
    summary: dict[str, Any] = {"repeat": compared(*halves)}
    for estimate in ("outside", "counted"):
        vectors = {name: np.array(told[estimate]) for name, told in demands.items()}
        summary[estimate] = compared([float(vectors[a] @ vectors[b]) for a, b in measured], slowdowns)
        for k, resource in enumerate(("sm", "l2", "dram")):
            pressure = [float(vectors[a][k] * vectors[b][k]) for a, b in measured]
            summary[f"{estimate}, {resource} alone"] = compared(pressure, slowdowns)
    rates = {case.name: sum(o.flops for o in solo.operators) / solo.work_ns for case, solo in found}
    summary["operations per second"] = compared([rates[a] * rates[b] for a, b in measured], slowdowns)
    quantiles = [round(float(q), 3) for q in np.quantile(slowdowns, [0, 0.25, 0.5, 0.75, 1])]
    for name, row in summary.items():
        print(name, row)
    print("slowdowns: min, quartiles, max", quantiles, "load", loads)
    rows = [{"measured": a, "beside": b, "slowdown": round(s, 4)} for (a, b), s in measured.items()]
    save(
        "resource-profiles",
        rows,
        peaks={name: getattr(limits, name) for name in limits.__struct_fields__},
        load_averages=loads,
        slowdown_quantiles=quantiles,
        summary=summary,
        demands=demands,
    )


if __name__ == "__main__":
    main()
