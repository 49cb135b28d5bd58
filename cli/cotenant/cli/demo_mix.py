"""How much to ask of each model, so that devices are well used: from the solo times that executors measured."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cotenant.cli.load_inputs import Model, read_samples
from cotenant.cli.report_log import Log

# CPU that a request costs besides its model, over all processes, where these share the device's cores: 2.0 ms in the
# services with recording on and 0.5 ms in the load generator, at 200 requests/s of the identity model on two cores.
SERVICE_NS = 2_500_000
MOST_PER_S = 400.0  # requests in all; the demo is to show devices that are shared, not a frontend at its limit


def rates(
    log: Log, models: Sequence[Model], repository: Path, utilisation: float, free_cores: float
) -> dict[str, float]:
    """Requests per second of each model: all get the same share of the devices' time.

    Args:
        log: Of the stack, with the solo measurements.
        models: What to load.
        repository: Where their samples are.
        utilisation: Share of what the devices could do, one batch at a time on each of their places, in (0, 1).
        free_cores: CPU cores that may be counted on; more places than these are of no use where cores do the work.

    Raises:
        ValueError: Where a model was not measured.
    """
    on_cores = any(device.kind != "cuda" for device in log.devices.values())  # emulated ones run real models on them
    places = float(sum(device.max_concurrency for device in log.devices.values()))
    counted_on = min(places, free_cores) if on_cores else places
    share = utilisation * counted_on / len(models)
    found = {}
    for model in models:
        work_ns = mean_work_ns(log, model, repository) + (SERVICE_NS if on_cores else 0)
        found[model.name] = share * 1e9 / work_ns
    scale = min(1.0, MOST_PER_S / sum(found.values()))
    return {name: round(rate * scale, 2) for name, rate in found.items()}


async def free_cores(over_s: float) -> float:
    """Cores that were idle for so long, on average; all of them where the system does not tell.

    At least half of them: who uses the others may be gone in a moment.
    """
    before = _idle_ticks()
    await asyncio.sleep(over_s)
    after = _idle_ticks()
    cores = os.cpu_count() or 1
    if before is None or after is None:
        return float(cores)
    return min(cores, max(cores / 2, (after - before) / os.sysconf("SC_CLK_TCK") / over_s))


def _idle_ticks() -> int | None:
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    except OSError:
        return None
    return int(fields[4]) + int(fields[5])  # idle, and waiting for disks


def mean_work_ns(log: Log, model: Model, repository: Path) -> float:
    """Mean solo time of one item, over the samples that will be sent and over devices. Raises ValueError."""
    sums: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for (_, known), work_ns in log.work_ns.items():
        if known.model == model.name and known.batch_size == 1:
            sums[known.shape_bucket] += work_ns
            times[known.shape_bucket] += 1
    weights = _buckets(model, repository) if model.buckets else Counter({"": 1})
    known_weights = {bucket: count for bucket, count in weights.items() if times[bucket]}
    if not known_weights:
        raise ValueError(f"model '{model.name}' was not measured alone; the log has no ClassProfiled of it")
    total = sum(count * sums[bucket] / times[bucket] for bucket, count in known_weights.items())
    return total / sum(known_weights.values())


def _buckets(model: Model, repository: Path) -> Counter[str]:
    """How many samples fall into each bucket; one in each where there are no samples."""
    samples = read_samples(model, repository)
    if not samples:
        return Counter(map(str, model.buckets))
    variable = {t.name: [i for i, d in enumerate(t.dims) if d < 0] for t in model.inputs}
    lengths = [max(array.shape[i] for name, array in s.items() for i in variable[name]) for s in samples]
    return Counter(str(next((b for b in model.buckets if n <= b), model.buckets[-1])) for n in lengths)
