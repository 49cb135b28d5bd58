"""Solo measurements for people: a table of models, one of batch classes, and what is to be said of them."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from cotenant.runtime import solo

_PIPE = 140  # columns where nobody looks at a screen
_ENDLESS = 10_000
_FEW = 100  # runs, below which the 99th percentile is the longest
_OTHERS = 0.3  # of the load average, more than the measurement itself can have caused
_MODELS = (
    *("\nmodel", "ver-\nsion", "\nbackend", "load\nms", "memory\nMiB", "first run\nms"),
    *("at most\nitems/s", "in batches\nof", "over single\nitems"),
)
_CLASSES = ("\nmodel", "batch\nsize", "\nbucket", "\nruns", "first\nms", "median\nms", "p95\nms", "p99\nms", "\nspread")
_SPARED = {"\nbackend", "first run\nms", "\nruns", "first\nms", "p95\nms", "rests\non"}  # on a narrow screen


def show(console: Console, found: Sequence[solo.Profiled]) -> None:
    """Prints both tables and the remarks; on a narrow terminal they leave out what matters less."""
    if not found:
        return
    console = console if console.is_terminal else Console(width=_PIPE)
    profiles = [entry.profile for entry in found]
    for build in (models, classes):
        table = build(profiles)
        if Console(width=_ENDLESS).measure(table).maximum > console.width:
            table = build(profiles, spared=_SPARED)
        console.print(table)
        console.print()
    for remark in remarks(found):
        console.print(remark, highlight=False, soft_wrap=True, markup=False)


def models(profiles: Sequence[solo.SoloProfile], spared: Collection[str] = ()) -> Table:
    """One row per version."""
    rows: list[list[str]] = []
    for profile in profiles:
        best = max(profile.classes, key=lambda entry: entry.items_per_s)
        singles = [e.items_per_s for e in profile.classes if (e.batch_size, e.shape_bucket) == (1, best.shape_bucket)]
        size = f"{best.batch_size}" + (f" x {best.shape_bucket}" if best.shape_bucket else "")
        gain = f"{best.items_per_s / singles[0]:.2f}x" if singles else "-"
        first, memory = _ms(profile.classes[0].first_ns), f"{profile.memory_bytes / 2**20:.1f}"
        row = [profile.model, profile.version, profile.backend, _ms(profile.load_ns), memory, first]
        rows.append([*row, _rate(best.items_per_s), size, gain])
    return _table(_MODELS, rows, spared)


def classes(profiles: Sequence[solo.SoloProfile], spared: Collection[str] = ()) -> Table:
    """One row per batch class."""
    resources = list(dict.fromkeys(name for p in profiles for entry in p.classes for name in entry.demand))
    heads = (*_CLASSES, "\nitems/s", *(f"\n{name}" for name in resources), "rests\non")
    rows = [
        [profile.model if i == 0 else "", *_cells(entry, resources)]
        for profile in profiles
        for i, entry in enumerate(profile.classes)
    ]
    return _table(heads, rows, spared)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], spared: Collection[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    kept = [i for i, head in enumerate(heads) if head not in spared]
    for i in kept:
        table.add_column(heads[i], justify="right" if i and "backend" not in heads[i] else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in kept))
    return table


def _cells(entry: solo.SoloClass, resources: Sequence[str]) -> list[str]:
    times = (entry.first_ns, entry.work_ns, entry.percentile_ns(95), entry.percentile_ns(99))
    return [
        str(entry.batch_size),
        entry.shape_bucket or "-",
        str(len(entry.durations_ns)),
        *(_ms(duration) for duration in times),
        f"{entry.spread:.1%}",
        _rate(entry.items_per_s),
        *(f"{entry.demand[name]:.2f}" if name in entry.demand else "-" for name in resources),
        entry.basis,
    ]


def _ms(duration_ns: int) -> str:
    value = duration_ns / 1e6
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _rate(items_per_s: float) -> str:
    return f"{items_per_s:,.0f}" if items_per_s >= 99.95 else f"{items_per_s:.1f}"


def remarks(found: Sequence[solo.Profiled]) -> list[str]:
    """What the tables do not show."""
    device = found[0].profile.device
    threads = f", {device.threads} thread{'' if device.threads == 1 else 's'} a batch" if device.kind == "cpu" else ""
    told = [f"{device.device_id}: {device.name}{threads}; runs of the model alone, without gathering inputs"]
    if any(len(entry.durations_ns) < _FEW for f in found for entry in f.profile.classes):
        told.append(f"where there are fewer than {_FEW} runs, p99 is the longest")
    busy = [f.profile for f in found if f.profile.load_average > device.threads + _OTHERS]
    if busy and device.kind != "emulated":  # whose time is its own
        highest = max(profile.load_average for profile in busy)
        names = ", ".join(profile.model for profile in busy)
        told.append(f"warning: others ran on this host (load average up to {highest:.1f}) beside {names}")
    for entry in found:
        profile = entry.profile
        if not entry.fresh:
            told.append(f"{profile.model}: measured {profile.measured_at}; --remeasure measures anew")
        if entry.remark:
            told.append(f"{profile.model}: {entry.remark}")
    return told
