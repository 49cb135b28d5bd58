"""Requests of a log that are worth a question: the latest of those that were late, and some that were refused."""

from cotenant.cli import misses
from cotenant.cli.report_log import Log, RequestLife
from cotenant.cli.report_records import Finished

_LATE = 8
_REFUSED = 4  # of each reason


def rows(log: Log) -> list[tuple[str, str]]:
    """Request and reason, in a line each: for `cotenant explain`."""
    batches = {batch.batch_id: batch for batch in log.batches}
    late: list[tuple[int, RequestLife, Finished]] = []
    refused: dict[str, list[RequestLife]] = {}
    for life in log.requests.values():
        if life.refused:
            if life.refused != "CANCELLED":
                refused.setdefault(life.refused, []).append(life)
            continue
        batch = batches.get(life.batch_id)
        if batch and not batch.failed and 0 < life.request.deadline_ns < batch.answered_ns:
            late.append((life.request.deadline_ns - batch.answered_ns, life, batch))
    late.sort(key=lambda row: (row[0], row[1].request.request_id))
    told = [(_name(life), _late(life, batch)) for _, life, batch in late[:_LATE]]
    for reason, lives in sorted(refused.items()):
        step = max(1, len(lives) // _REFUSED)
        told += [(_name(life), misses.refused(reason, life.why)) for life in lives[::step][:_REFUSED]]
    return told


def _name(life: RequestLife) -> str:
    return f"{life.request.request_id}, {life.request.model}"


def _late(life: RequestLife, batch: Finished) -> str:
    arrival_ns = life.request.arrival_ns
    return misses.late(
        (life.request.deadline_ns - arrival_ns) / 1e6,
        (batch.answered_ns - arrival_ns) / 1e6,
        (life.launched_ns - arrival_ns) / 1e6,
        batch.duration_ns / 1e6,
        batch.forecast.duration_ns / 1e6 if batch.forecast else 0.0,
        batch.forecast.bound_ns / 1e6 if batch.forecast else 0.0,
    )
