"""Measures the models of a repository that the zoo wrote: each alone, on the CPU, through the executor's backends.

Prints a table in Markdown, with a row for each length bucket of a text model; docs/zoo.md shows such tables.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cotenant.executor import repository
from cotenant.executor.backend import Model, Placement, Tensors, find_backend
from cotenant.executor.profile import classes
from cotenant.executor.zoo.stamps import stamp

BATCH_SIZES = (1, 8)
BUDGET_S, MIN_RUNS = 2.0, 5  # per class, after one run to warm up
HEAD = ("model", "tokens", "parameters, M", "file, MB", "export, s", "batch 1, ms", "batch 8, ms")


def rows(root: Path, name: str, threads: int) -> Iterator[tuple[str, ...]]:
    """The table's rows of one model. Raises ValueError if it cannot be loaded, or is not of the zoo."""
    made = stamp(root / name)
    if made is None:
        raise ValueError(f"{root / name} does not exist")
    config = repository.read_config(root / name)
    model = find_backend(config.backend).load(root / name / "1", config, Placement("cpu", 0, threads, 0))
    times: dict[str, list[str]] = {}
    for known, inputs in classes(config, "1"):
        if known.batch_size in BATCH_SIZES:
            times.setdefault(known.shape_bucket, []).append(f"{median_ms(model, inputs):.1f}")
    size = sum(path.stat().st_size for path in (root / name / "1").glob("model.*"))
    for bucket, found in times.items():
        yield name, bucket, f"{made.parameters / 1e6:.2f}", f"{size / 1e6:.1f}", f"{made.export_s:.1f}", *found
    model.close()


def median_ms(model: Model, inputs: Tensors) -> float:
    """Median duration of a run, in ms."""
    model.run(inputs)
    until, runs = time.monotonic() + BUDGET_S, list[float]()
    while len(runs) < MIN_RUNS or time.monotonic() < until:
        started = time.perf_counter()
        model.run(inputs)
        runs.append(time.perf_counter() - started)
    return 1e3 * statistics.median(runs)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `python -m cotenant.executor.zoo.measure`."""
    parser = argparse.ArgumentParser(prog="python -m cotenant.executor.zoo.measure", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR", help="what the zoo wrote")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of a run (default: 1)")
    arguments = parser.parse_args(argv)
    _tell(HEAD)
    _tell(("---",) * len(HEAD))
    try:
        for name in repository.scan(arguments.repository):
            for row in rows(arguments.repository, name, arguments.threads):
                _tell(row)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cotenant.executor.zoo.measure: {error}") from error


def _tell(cells: tuple[str, ...]) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
