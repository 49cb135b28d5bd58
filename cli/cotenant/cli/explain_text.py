"""The story of a request in plain sentences, by the clock that starts with its arrival."""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from cotenant.cli import estimate_versions
from cotenant.cli.explain_story import Forecast, Launch, Outlook, Placement, Refusal, Run, RunningBatch, Story, Wait

_WIDTH = 110
_SLICES = 8  # that are told one by one
_REASONS = {
    "WINDOW_PASSED": "its window for starting had passed when it reached the executor",
    "INPUTS_MISSING": "tensors of some requests were not there",
    "EXECUTION_FAILED": "it failed as a whole",
}


def text(story: Story) -> str:
    """All of it: one line that sums up, then what happened in order, then remarks."""
    parts = [_headline(story), "", *_paragraph("arrival", [_arrival(story)])]
    for name, sentences in _course(story):
        parts += _paragraph(name, sentences)
    parts += _paragraph("outcome", _outcome(story))
    for remark in story.remarks:
        parts += _paragraph("remark", [remark])
    return "\n".join(parts)


def _paragraph(name: str, sentences: Sequence[str]) -> list[str]:
    filled = textwrap.wrap(" ".join(sentences), _WIDTH - 10, break_long_words=False, break_on_hyphens=False)
    return [f"{name if i == 0 else '':<10}{line}" for i, line in enumerate(filled)]


def _headline(story: Story) -> str:
    bucket = f" in bucket {story.shape_bucket}" if story.shape_bucket else ""
    what = f"{story.model} version {story.version}, {_count(story.batch_size, 'item')}{bucket}"
    ended, slack = story.ended_ms, story.slack_ms
    match story.outcome:
        case "in time" | "late":
            sooner = "before" if story.outcome == "in time" else "after"
            end = f"answered {story.outcome}, {_ms(abs(slack or 0.0))} {sooner} its deadline"
        case "refused" if story.refusal:
            end = f"refused after {_ms(ended or 0.0)} ({story.refusal.reason})"
        case "waiting" | "running":
            end = f"still {story.outcome}{'' if story.live else ' when the log ends'}"
        case "unknown":
            end = f"{_teller(story)} does not tell how it ended"
        case _:
            end = story.outcome + (f" after {_ms(ended)}" if ended is not None else "")
    return f"request {story.request_id}: {what}: {end}"


def _arrival(story: Story) -> str:
    budget = f"with a budget of {_ms(story.budget_ms)}" if story.budget_ms is not None else "without a deadline"
    told = f"At {story.arrived_at}, {budget}" if story.arrived_at else f"It came {budget}"
    told += f", priority {story.priority}" if story.priority else ""
    told += f", trace {story.trace_id}" if story.trace_id else ""
    told += f", id '{story.client_request_id}' of its client" if story.client_request_id else ""
    if story.decided_ms is None:
        begins = "what the scheduler remembers" if story.live else "the log"
        return told + f". It was there before {begins} begins. All times below count from its arrival."
    return told + f"; the scheduler had it {_ms(story.decided_ms)} later. All times below count from its arrival."


def _teller(story: Story) -> str:
    return "the scheduler" if story.live else "the log"


def _course(story: Story) -> Iterator[tuple[str, list[str]]]:
    """What happened, in order."""
    things: list[tuple[float, int, Outlook | Refusal | Placement | Wait | Launch]] = []
    things += [(outlook.at_ms, 0, outlook) for outlook in story.outlooks]
    things += [(story.would_refuse.at_ms, 1, story.would_refuse)] if story.would_refuse else []
    things += [(placement.at_ms, 2, placement) for placement in story.placements]
    things += [(wait.from_ms, 3, wait) for wait in story.waits]
    things += [(launch.at_ms, 4, launch) for launch in story.launches]
    for _, _, thing in sorted(things, key=lambda entry: entry[:2]):
        match thing:
            case Outlook():
                yield "place", _outlook(thing)
            case Refusal():
                yield "verdict", [f"Observe-only mode: else it would have been refused, {_reason(thing)}."]
            case Placement():
                again = f", as attempt {thing.attempt}" if thing.attempt > 1 else ""
                yield "queue", [f"At {_t(thing.at_ms)} it was queued on {thing.device_id}{again}."]
            case Wait():
                yield "wait", [_wait(thing)]
            case Launch():
                yield "launch", _launch(thing, story)
                if thing.run:
                    yield "run", _run(thing, thing.run)


def _outlook(outlook: Outlook) -> list[str]:
    waiting = f"{_count(outlook.waiting, 'other request')} waited for {outlook.device_id}"
    told = [f"At {_t(outlook.at_ms)}, {waiting}, and {_ran(outlook.running)}."]
    if outlook.refused:
        told.append(f"It would be refused there: {outlook.refused}.")
    elif outlook.expected_answer_ms is not None:
        told.append(f"An answer from there was expected at {_t(outlook.expected_answer_ms)}.")
    return told


def _ran(running: Sequence[RunningBatch]) -> str:
    """What ran, with the ends that were believed in."""
    ends = (f"{one.batch_class} (until {_t(one.expected_end_ms)})" for one in running)
    return f"there ran {', '.join(ends)}" if running else "nothing ran"


def _wait(wait: Wait) -> str:
    if wait.decisions > 1:
        told = f"From {_t(wait.from_ms)} to {_t(wait.to_ms)}, {wait.decisions} decisions passed it over: {wait.why}"
    else:
        told = f"At {_t(wait.from_ms)}, a decision passed it over: {wait.why}"
    if wait.launched:
        return f"{told}, namely {_several(wait.launched)}."
    return f"{told}; {_ran(wait.running)}."


def _several(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count} of {name}" if count > 1 else name for name, count in counts.items())


def _launch(launch: Launch, story: Story) -> list[str]:
    others = len(launch.requests) - 1
    together = f" together with {_count(others, 'other request')}" if others else ""
    name = f"batch {launch.batch_id}, {launch.batch_class}"
    told = [f"At {_t(launch.at_ms)} it was launched on {launch.device_id}{together}: {name}."]
    if launch.beside:
        told.append(f"Then {_ran(launch.beside)}.")
    elif launch.forecast and not launch.forecast.co_runner_count:
        told.append("Nothing else ran then.")
    if launch.forecast:
        told.append(_forecast(launch, launch.forecast))
    if launch.latest_start_ms is not None:
        told.append(f"It had to start by {_t(launch.latest_start_ms)}.")
    if launch.dropped:
        why = _REASONS.get(launch.dropped, launch.dropped)
        told.append(f"At {_t(launch.dropped_ms or 0.0)} it came back without having run: {why}.")
    elif launch.run is None and (story.launches[-1] is not launch or story.outcome in ("waiting", "refused")):
        told.append("Nothing came of it: its device was lost.")
    elif launch.run is None and launch.started_ms is not None:
        told.append(f"It started at {_t(launch.started_ms)}.")
    return told


def _forecast(launch: Launch, forecast: Forecast) -> str:
    if not forecast.work_ms:
        return "It was not known how long such a batch takes."
    beside = f"{_ms(forecast.duration_ms)} beside {_count(forecast.co_runner_count, 'other batch', 'other batches')}, "
    return (
        f"Expected, by {_estimates(forecast)}: {_ms(forecast.work_ms)} if alone, "
        f"{beside if forecast.co_runner_count else ''}at most {_ms(forecast.bound_ms)} at level {forecast.level:g}; "
        f"an end at {_t(launch.at_ms + forecast.duration_ms)}."
    )


def _estimates(forecast: Forecast) -> str:
    if not forecast.estimates_version:
        return "what was measured, as no estimates had come"
    age = forecast.estimates_age_ms
    if age is None:
        return f"estimates of version {forecast.estimates_version}"
    return f"estimates {estimate_versions.age_text(age / 1e3)} old"


def _run(launch: Launch, run: Run) -> list[str]:
    told = [f"It started at {_t(run.started_ms)} and took {_ms(run.duration_ms)}: {_slices(run)}."]
    forecast = launch.forecast
    if forecast and forecast.duration_ms:
        off = run.duration_ms / forecast.duration_ms - 1.0
        held = "within" if run.duration_ms <= forecast.bound_ms else "beyond"
        told.append(f"That is {abs(off):.1%} {'more' if off > 0 else 'less'} than expected, {held} the bound")
        alone = (
            f", and {run.duration_ms / forecast.work_ms:.2f} times what it takes alone." if forecast.work_ms else "."
        )
        told[-1] += alone
    if run.input_ms or run.output_ms:
        told.append(f"Gathering inputs took {_ms(run.input_ms)}, handing out outputs {_ms(run.output_ms)}.")
    return told


def _slices(run: Run) -> str:
    """Each slice; where there are many, the time beside each class."""
    if not run.slices:
        return "beside whom, is not told"
    if len(run.slices) <= _SLICES:
        return ", ".join(
            f"{_ms(part.duration_ms)} {'beside ' + _several(Counter(part.co_runners)) if part.co_runners else 'alone'}"
            for part in run.slices
        )
    beside: dict[str, float] = {}
    for part in run.slices:
        for name in dict.fromkeys(part.co_runners):
            beside[name] = beside.get(name, 0.0) + part.duration_ms
    alone_ms = sum(part.duration_ms for part in run.slices if not part.co_runners)
    times = ", ".join(f"{_ms(ms)} beside {name}" for name, ms in sorted(beside.items(), key=lambda item: -item[1]))
    return f"{len(run.slices)} slices (--json has each), {_ms(alone_ms)} of it alone, {times}"


def _outcome(story: Story) -> list[str]:
    match story.outcome:
        case "in time" | "late" | "answered":
            return _answered(story)
        case "refused" if story.refusal:
            return _refused(story.refusal)
        case "cancelled" if story.cancelled_ms is not None:
            return [f"Its client went away at {_t(story.cancelled_ms)}."]
        case "failed":
            return [f"Its batch failed, as was told at {_t(story.ended_ms or 0.0)}; the executor's log tells why."]
        case "waiting" | "running":
            what = "waited" if story.outcome == "waiting" else "ran"
            when = "" if story.live else "when the log ends, "
            return [f"At {_t(story.log_ends_ms)}, {when}it still {what}."]
        case _:
            return [f"{_teller(story).capitalize()} does not tell how it ended."]


def _answered(story: Story) -> list[str]:
    told = f"At {_t(story.ended_ms or 0.0)} the executor sent the answer"
    if story.slack_ms is not None:
        told += f", {_ms(abs(story.slack_ms))} {'before' if story.slack_ms >= 0 else 'after'} its deadline"
    if story.answer_overhead_ms is None:
        return [f"{told}. When the client had it, {_teller(story)} does not tell."]
    reckoned = f"from a batch's end to the client the scheduler then reckoned {_ms(story.answer_overhead_ms)}"
    return [f"{told}. When the client had it, {_teller(story)} does not tell; {reckoned}."]


def _refused(refusal: Refusal) -> list[str]:
    told = [f"At {_t(refusal.at_ms)} it was refused, {_reason(refusal)}."]
    if refusal.predicted_answer_ms is not None:
        told.append(f"An answer was expected at {_t(refusal.predicted_answer_ms)}.")
    if refusal.earliest_possible_ms is not None:
        told.append(f"An empty device would have allowed one at {_t(refusal.earliest_possible_ms)}.")
    return told


def _reason(refusal: Refusal) -> str:
    return f"{refusal.reason}: {refusal.message}"


def _t(at_ms: float) -> str:
    """An instant."""
    return f"{at_ms:+.2f} ms"


def _ms(duration_ms: float) -> str:
    return f"{duration_ms:.2f} ms"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}" if count else f"no {one}"
