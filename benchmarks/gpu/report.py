"""What a folder of results says, in short: solo times, rates beside each other, overheads, goodput, what failed.

    python benchmarks/gpu/report.py [--out FOLDER]

Reads whatever is there. A rate is progress over time: 1 is as fast as alone, 1/2 is taking turns with one other. Of a
batch that met one class only, the rate beside it is (solo time - time alone) / time beside. Where hardware counters are
there, the rates are held against what a roofline expects: no resource can be kept busy for more than all of the time.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from journal import Row, rows
from script import RESULTS, percentile

OVERLAP = 0.3  # share of a batch's life beside the other, from which on it tells a rate
Rates = Mapping[tuple[str, str], float]  # of the first class beside the second


def rate_beside(row: Row, solo_ns: Mapping[str, float]) -> tuple[str, float] | None:
    """The class that a batch was beside and its rate there; None if it met another set, or too little of it."""
    beside = {tuple(label for label, _ in others) for _, others in row["slices"]} - {()}
    if len(beside) != 1 or len(found := beside.pop()) != 1 or row["class"] not in solo_ns:
        return None
    alone_ns = sum(ns for ns, others in row["slices"] if not others)
    together_ns = row["duration_ns"] - alone_ns
    if together_ns < OVERLAP * row["duration_ns"]:
        return None
    return found[0], (solo_ns[row["class"]] - alone_ns) / together_ns


def rates_of(found: Sequence[Row], solo_ns: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Median rate of each class beside each other, on the whole device."""
    told: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in found:
        if row["type"] == "batch" and "/pair/" in row["point"] and (rate := rate_beside(row, solo_ns)):
            told[row["class"], rate[0]].append(rate[1])
    return {key: statistics.median(values) for key, values in told.items()}


def expected(own: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The rate that a roofline allows two classes of these shares of resources, if they slow down alike."""
    return 1.0 / max(1.0, *(own[resource] + other[resource] for resource in own))


def solo(found: Sequence[Row]) -> Iterator[str]:
    """A line for each class: median over all passes, spread within and between them."""
    durations: dict[str, list[list[int]]] = defaultdict(list)
    for row in found:
        if row["type"] == "solo":
            durations[f"{row['backend']} {row['class']}"].append(row["durations_ns"])
    yield "| class alone | median, ms | p95 over it | passes apart | runs |\n|---|---|---|---|---|"
    for name, passes in durations.items():
        flat = [ns for one in passes for ns in one]
        middle = statistics.median(flat)
        medians = [statistics.median(one) for one in passes]
        apart = f"{(max(medians) - min(medians)) / middle:.1%}"
        over = f"{percentile(flat, 0.95) / middle - 1:.1%}"
        yield f"| {name} | {middle / 1e6:.3f} | {over} | {apart} | {len(flat)} |"


def pairs(found: Sequence[Row], counted: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Rates by pair of models, over all batch sizes, and what they add up to."""
    batches = [row for row in found if row["type"] == "batch"]
    solo_ns: dict[str, float] = next(row["solo_ns"] for row in found if row["type"] == "run")
    rates = rates_of(found, solo_ns)
    points = sum(row["type"] == "point" for row in found)
    yield f"{len(batches)} batches in {points} points; repeats apart by {_repeat_noise(batches):.1%} (median)\n"
    yield "| pair of models | rate of the first | of the second | sum | sum a roofline expects |\n|---|---|---|---|---|"
    models = list(dict.fromkeys(_model(label) for label in solo_ns))
    for first, second in combinations_with_replacement(models, 2):
        keys = [key for key in rates if (_model(key[0]), _model(key[1])) == (first, second)]
        both = [(rates[a, b], rates[b, a], _expected(counted, a, b)) for a, b in keys if (b, a) in rates]
        if not both:
            continue
        one, other = (statistics.median(values) for values in list(zip(*both, strict=True))[:2])
        sums = [2 * allowed for _, _, allowed in both if allowed is not None]
        roofline = f"{statistics.median(sums):.2f}" if sums else "-"
        yield f"| {first}, {second} | {one:.2f} | {other:.2f} | {one + other:.2f} | {roofline} |"


def _model(label: str) -> str:
    return label.partition(":")[0]


def _expected(counted: Mapping[str, Mapping[str, float]], first: str, second: str) -> float | None:
    shares = [counted.get(":".join(label.split(":")[:2])) for label in (first, second)]
    return expected(*shares) if all(shares) else None  # type: ignore[arg-type]


def _repeat_noise(batches: Sequence[Row]) -> float:
    """Median distance of a batch from the median of its repeats, where they met the same sets in the same order."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for row in batches:
        met = tuple(tuple(label for label, _ in others) for _, others in row["slices"])
        groups[row["point"], row["episode"], row["lane"], row["class"], met].append(row["duration_ns"])
    apart = [abs(ns / statistics.median(one) - 1) for one in groups.values() if len(one) > 2 for ns in one]
    return statistics.median(apart) if apart else 0.0


def overheads(found: Sequence[Row]) -> Iterator[str]:
    """The figures that matter of each part."""
    lanes: dict[str, list[float]] = defaultdict(list)
    for row in found:
        if row["type"] == "scaling":
            lanes[f"{row['model']}, batch {row['batch_size']}"].append(row["batches_per_s"])
    for what, rates in lanes.items():
        yield f"- {what}: {', '.join(f'{rate:.0f}' for rate in rates)} batches/s on 1 to {len(rates)} lanes"
    for row in found:
        match row["type"]:
            case "launch":
                asked, done = row["asked_ns"] / 1e3, row["until_done_ns"] / 1e3
                what = f"{row['operators']} operators, {row['way']}: asked in {asked:.0f} us, done after {done:.0f} us"
                yield f"- {what}; another thread runs at {row['interpreter_left']:.0%}"
            case "copy":
                how = "pinned" if row["pinned"] else "pageable"
                rate = row["bytes_per_s"] / 1e9
                yield f"- {row['bytes']} bytes {row['direction']}, {how}: {rate:.1f} GB/s, overlap {row['overlap']:.2f}"
            case "timing":
                yield f"- {row['model']}, timed {row['way']}: median {row['over_never']:+.1%}"
            case "datapath":
                what = f"{row['model']}, {row['way']} {row.get('lanes', '')}".strip()
                yield f"- {what}: p50 {row['p50_ns'] / 1e6:.2f} ms, p99 {row['p99_ns'] / 1e6:.2f} ms"
            case "share" | "share_product":
                yield "- " + ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("point", "type"))


def goodput(found: Sequence[Row]) -> Iterator[str]:
    """By policy: the most at 99 %, and the most at all."""
    by_policy: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        if row["type"] == "goodput":
            by_policy[row["policy"]].append(row)
    yield "| policy | goodput/s where 99 % are in time | goodput/s at the highest load | loads |\n|---|---|---|---|"
    for policy, own in by_policy.items():
        kept = max((row["goodput_per_s"] for row in own if row["attainment"] >= 0.99), default=0.0)
        last = max(own, key=lambda row: row["load"])
        yield f"| {policy} | {kept:.0f} | {last['goodput_per_s']:.0f} (load {last['load']:.2f}) | {len(own)} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, default=RESULTS, help="folder of results (default: results/ beside the script)")
    out: Path = p.parse_args(argv).out
    there = {path.name.partition(".")[0]: list(rows(path)) for path in sorted(out.glob("*.jsonl*"))}
    measured = [row for row in there.get("counters", []) if row["type"] == "counters" and "measured" in row]
    counted = {f"{row['model']}:{row['batch_size']}": row["measured"]["shares"] for row in measured}
    parts: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
        "solo": solo,
        "pairs": lambda found: pairs(found, counted),
        "overheads": overheads,
        "goodput": goodput,
    }
    for name, found in there.items():
        kinds = {row["device"]["kind"] for row in found if row["type"] == "run"}
        points = sum(row["type"] == "point" for row in found)
        print(f"\n## {name}: {points} points on {', '.join(sorted(kinds))}\n")
        for line in parts[name](found) if name in parts else ():
            print(line)
        for row in found:
            if row["type"] == "failed" or "error" in row:
                print(f"- FAILED {row['point']}: {row['error']}")


if __name__ == "__main__":
    main()
