"""When requests are sent: arrival processes drawn from a seed, and traces read from a file.

All arrivals are known before the first request goes out, and nothing that happens later moves them. Each model has a
stream of its own, so adding a model leaves the arrivals of the others as they were.
"""

import csv
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int64s: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Intended send times, ascending, in ns from the first instant of the run, and the index of each one's model."""

    at_ns: Int64s
    model: Int64s

    def __len__(self) -> int:
        return len(self.at_ns)


def generator(seed: int, purpose: str) -> np.random.Generator:
    """A source of random numbers for one purpose, which no other purpose disturbs."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def renewal_s(rng: np.random.Generator, rate: float, cv: float, span_s: float) -> Floats:
    """Arrivals in [0, span_s) of a renewal process with Gamma-distributed gaps, in s.

    Args:
        rng: Source of random numbers.
        rate: Mean arrivals per second, > 0.
        cv: Coefficient of variation of the gaps: 1 is Poisson, above 1 bursty, 0 evenly spaced.
        span_s: Length in s.
    """
    mean_s = 1.0 / rate
    if cv == 0.0:
        return np.arange(rng.uniform(0.0, mean_s), span_s, mean_s)
    # It begins before the span opens, else a bursty process would have too many arrivals at its start.
    lead_s = 10.0 * max(1.0, cv * cv) * mean_s
    blocks: list[Floats] = []
    end_s = -lead_s
    while end_s < span_s:
        expected = (span_s - end_s) * rate
        count = int(expected + 4.0 * cv * math.sqrt(expected) + 16)
        gaps = rng.gamma(1.0 / (cv * cv), mean_s * cv * cv, count)
        blocks.append(end_s + np.cumsum(gaps))
        end_s = float(blocks[-1][-1])
    at_s = np.concatenate(blocks)
    return at_s[(at_s >= 0.0) & (at_s < span_s)]


def drawn(names: Sequence[str], rates: Sequence[float], cv: float, span_s: float, seed: int) -> Arrivals:
    """Arrivals of several models; `rates` are in requests per second, and a model of rate 0 has none."""
    streams = [
        renewal_s(generator(seed, f"arrivals of {name}"), rate, cv, span_s) if rate > 0 else np.empty(0)
        for name, rate in zip(names, rates, strict=True)
    ]
    return _merged([np.asarray(at_s * 1e9, dtype=np.int64) for at_s in streams])


def _merged(streams: Sequence[Int64s]) -> Arrivals:
    at_ns = np.concatenate(streams) if streams else np.empty(0, dtype=np.int64)
    model = np.repeat(np.arange(len(streams), dtype=np.int64), [len(stream) for stream in streams])
    order = np.argsort(at_ns, kind="stable")
    return Arrivals(at_ns[order], model[order])


def traced(path: Path, names: Sequence[str], speed: float = 1.0) -> Arrivals:
    """Arrivals of a trace, `speed` times as fast as it was taken.

    Each line holds the seconds since some instant, alone, as CSV (`seconds,model`, with or without a header) or as
    JSON (`{"seconds": 1.5, "model": "a"}`). A line may leave out the model if `names` has only one. The first arrival
    is at 0.

    Raises:
        ValueError: Names file and line where it is not that, or where its model is not among `names`.
    """
    indices = {name: i for i, name in enumerate(names)}
    at_s: list[float] = []
    model: list[int] = []
    for number, seconds, name in _lines(path):
        if not name and len(names) > 1:
            raise ValueError(f"{path}, line {number}: it names no model, and there are several: {', '.join(names)}")
        if name and name not in indices:
            raise ValueError(f"{path}, line {number}: model '{name}' is not loaded, expected {', '.join(names)}")
        at_s.append(seconds)
        model.append(indices[name] if name else 0)
    if not at_s:
        raise ValueError(f"{path}: there is no arrival in it")
    at_ns = np.asarray((np.asarray(at_s) - min(at_s)) / speed * 1e9, dtype=np.int64)
    order = np.argsort(at_ns, kind="stable")
    return Arrivals(at_ns[order], np.asarray(model, dtype=np.int64)[order])


def _lines(path: Path) -> Iterator[tuple[int, float, str]]:
    """Line number, seconds and model (empty if not told) of each arrival."""
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text or text.startswith("#") or (number == 1 and _is_header(text)):
                continue
            try:
                seconds, name = _json_arrival(text) if text.startswith("{") else _csv_arrival(text)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {text[:60]!r} is no arrival, expected {_EXPECTED}") from error
            if not math.isfinite(seconds):
                raise ValueError(f"{path}, line {number}: {seconds} is no instant, expected seconds")
            yield number, seconds, name


_EXPECTED = 'seconds, or seconds,model, or {"seconds": ..., "model": ...}'


def _is_header(text: str) -> bool:
    return next(csv.reader([text]))[0].strip().lower() in ("seconds", "time", "timestamp")


def _csv_arrival(text: str) -> tuple[float, str]:
    seconds, *rest = next(csv.reader([text]))
    return float(seconds), rest[0].strip() if rest else ""


def _json_arrival(text: str) -> tuple[float, str]:
    row = json.loads(text)
    return float(row["seconds"]), str(row.get("model", ""))
