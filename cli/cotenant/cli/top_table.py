"""Draws what `cotenant top` shows on a terminal."""

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cotenant.cli import estimate_versions
from cotenant.cli.load_table import attainment_text
from cotenant.cli.top_view import DeviceView, ModelView, RunningBatch, TenantView, TopView

_BAR = 24  # characters; half as many on a narrow terminal


def screen(view: TopView, width: int) -> RenderableType:
    """The whole screen; on less than 110 columns, the models' table leaves out what matters less."""
    narrow = width < 110
    devices = [part for device in view.devices for part in _device(device, _BAR // 2 if narrow else _BAR)]
    return Group(_head(view), *devices, _models(view, narrow=narrow), *_tenants(view), *_misses(view))


def _head(view: TopView) -> Text:
    text = Text.assemble((f"{view.scheduler}", "bold"), f"  up {_duration(view.uptime_s)}, policy {view.policy}")
    if view.observe_only:
        text.append(", observing only", "bold yellow")
    if view.predictor_connected:
        text.append(f", estimates {_age(view)}")
    else:
        text.append(", no predictor", "bold red")
    text.append(f", {view.frontend_count} frontend{'' if view.frontend_count == 1 else 's'}")
    text.append(f"\n{view.recent_decisions_per_s:.0f} decisions/s of {view.recent_decision_us:.0f} us", "dim")
    text.append(f", {view.decision_mean_us:.0f} us on average\n", "dim")
    return text


def _age(view: TopView) -> str:
    if not view.estimates_version:
        return "none yet"
    if view.estimates_age_s is None:
        return str(view.estimates_version)
    return f"{estimate_versions.age_text(view.estimates_age_s)} old"


def _device(device: DeviceView, bar: int) -> list[RenderableType]:
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(device.device_id, "bold").append(f" {device.name}")
    if not device.online:
        title.append("  away", "bold red")
    title.append(
        f"   busy {device.busy:.0%}   {device.batches_at_once:.2f} of {device.max_concurrency} batches at once"
    )
    title.append(f"   {device.queued} queued   {device.memory_used_bytes / 2**30:.1f} GiB used")
    found = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    found.add_column(min_width=28, no_wrap=True)
    found.add_column(width=bar, no_wrap=True)
    found.add_column(justify="right", no_wrap=True)
    for batch in device.running:
        found.add_row(batch.batch_class, _bar(batch, bar), _left(batch))
    if not device.running:
        found.add_row(Text("nothing runs", "dim"), "", "")
    return [title, *_throttled(device), Padding(found, (0, 0, 1, 2))]


def _throttled(device: DeviceView) -> list[RenderableType]:
    """A line of its own, because a narrow terminal cuts the end of the other."""
    if not device.throttled:
        return []
    text = Text(f"  throttled: {', '.join(device.throttled)}", "bold yellow", no_wrap=True, overflow="ellipsis")
    if device.sm_clock_mhz and device.sm_clock_max_mhz:
        text.append(f", SM clock {device.sm_clock_mhz} of {device.sm_clock_max_mhz} MHz")
    return [text]


def _bar(batch: RunningBatch, width: int) -> Text:
    whole = batch.elapsed_ms + batch.remaining_ms
    done = round(width * batch.elapsed_ms / whole) if whole > 0 else width
    over = batch.remaining_ms <= 0
    return Text.assemble(("━" * done, "yellow" if over else "cyan"), ("━" * (width - done), "bright_black"))


def _left(batch: RunningBatch) -> str:
    if batch.remaining_ms <= 0:
        return f"{batch.elapsed_ms:.1f} ms, over its prediction"
    return f"{batch.elapsed_ms:.1f} of {batch.elapsed_ms + batch.remaining_ms:.1f} ms"


# Head, whether a narrow terminal can do without it, and what it shows of a model.
_COLUMNS: tuple[tuple[str, bool, Callable[[ModelView], str | Text]], ...] = (
    ("SLO\nms", True, lambda m: f"{m.slo_ms:.0f}" if m.slo_ms else "-"),
    ("queue\n", False, lambda m: str(m.queued)),
    ("now\n/s", False, lambda m: f"{m.recent_per_s:.0f}"),
    ("now\nin time", False, lambda m: _share(m.recent_attainment)),
    ("all\nin time", False, lambda m: _share(m.attainment)),
    ("late\n", True, lambda m: str(m.late)),
    ("refused\n", False, lambda m: str(m.refused)),
    ("failed\n", True, lambda m: str(m.failed)),
    ("would\nrefuse", False, lambda m: str(m.would_refuse)),
    ("items/\nbatch", True, lambda m: f"{m.items_per_batch:.1f}" if m.batches else "-"),
    ("slow-\ndown", False, lambda m: f"{m.slowdown:.2f}" if m.batches else "-"),
    ("error\n", False, lambda m: f"{m.prediction_error:.0%}" if m.batches else "-"),
    ("in\nbound", True, lambda m: f"{m.bound_coverage:.0%}" if m.batches else "-"),
)


def _models(view: TopView, *, narrow: bool) -> Table:
    observing = view.observe_only or any(model.would_refuse for model in view.models)
    shown = [c for c in _COLUMNS if not (narrow and c[1]) and (observing or not c[0].startswith("would"))]
    found = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    found.add_column("model\n", no_wrap=True)
    for head, _, _ in shown:
        found.add_column(head, justify="right", no_wrap=True)
    for model in view.models:
        found.add_row(_name(model), *(tell(model) for _, _, tell in shown))
    return found


_TENANT_COLUMNS: tuple[tuple[str, Callable[[TenantView], str | Text]], ...] = (
    ("weight", lambda t: f"{t.weight:g}"),
    ("queue", lambda t: str(t.pending)),
    ("now/s", lambda t: f"{t.recent_per_s:.0f}"),
    ("in time", lambda t: _share(t.recent_attainment)),
    ("all", lambda t: _share(t.attainment)),
    ("refused", lambda t: str(t.refused)),
    ("over quota", lambda t: str(t.over_quota)),
    ("devices", lambda t: f"{t.recent_devices:.2f}"),
    ("share", lambda t: f"{t.recent_share:.0%}" if t.recent_share is not None else "-"),
)


def _tenants(view: TopView) -> list[RenderableType]:
    """Those whom the scheduler tells apart, if it does."""
    if not view.tenants:
        return []
    found = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    found.add_column("tenant", no_wrap=True)
    for head, _ in _TENANT_COLUMNS:
        found.add_column(head, justify="right", no_wrap=True)
    for tenant in view.tenants:
        found.add_row(tenant.tenant, *(tell(tenant) for _, tell in _TENANT_COLUMNS))
    return [Text(), found]


def _misses(view: TopView) -> list[RenderableType]:
    """The last ones, each on a line."""
    if not view.misses:
        return []
    title = Text("\nlast misses", "bold").append(", `cotenant explain ID` tells more", "dim not bold")
    lines = [Text(no_wrap=True, overflow="ellipsis") for _ in view.misses]
    for line, miss in zip(lines, view.misses, strict=True):
        age = f"{estimate_versions.age_text(miss.age_s)} ago"
        line.append(f"  {age:>9}  ", "dim").append(f"{miss.request_id}  {miss.model}:{miss.version}  {miss.why}")
    return [title, *lines]


def _name(model: ModelView) -> Text:
    name = Text(f"{model.model}:{model.version}")
    if model.availability != "READY":
        name.append(f" {model.availability.lower()}", "red" if model.availability == "UNAVAILABLE" else "yellow")
    return name


def _share(share: float | None) -> Text:
    if share is None:
        return Text("-", "dim")
    return Text(attainment_text(share), "green" if share >= 0.99 else "yellow" if share >= 0.9 else "red")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
