"""The contract suite itself: each way to break the contract is found, by the check that is meant for it."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from cotenant.predictor import knowledge, service
from cotenant.predictor.colocation import answer
from cotenant.predictor.contract import checks
from cotenant.predictor.contract import checks_estimates as estimates
from cotenant.predictor.contract import checks_events as events
from cotenant.predictor.contract import checks_questions as questions
from cotenant.predictor.contract.__main__ import Result, run_checks
from cotenant.predictor.intake import Intake
from cotenant.predictor.keeping import Keeper
from cotenant.predictor.known_device import KnownDevice
from cotenant.predictor.observations import Observation, Slice
from cotenant.predictor.publishing import Watcher
from cotenant.predictor.store import Store
from cotenant.runtime.estimates import BatchClass, ClassEstimate, Phase
from cotenant.v1 import predictor_pb2 as pb
from cotenant.v1 import predictor_pb2_grpc

Patch = pytest.MonkeyPatch


@contextlib.asynccontextmanager
async def served(servicer: predictor_pb2_grpc.PredictorServiceServicer, folder: Path) -> AsyncIterator[str]:
    address = f"unix:{folder}/p.sock"
    server = grpc.aio.server()
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


def complaint(folder: Path, check: checks.Check) -> str:
    """What a check has to say of our predictor, as it is patched."""

    async def play() -> list[Result]:
        made = service.PredictorService(Store(None))

        async def keep() -> None:
            while True:
                await asyncio.sleep(0.02)
                await made.keeper.save()

        keeping = asyncio.create_task(keep())
        async with served(made, folder) as address:
            results = await run_checks(address, checks=[check], patience_s=1.0)
        keeping.cancel()
        return results

    (result,) = asyncio.run(play())
    return result.complaint


# ---- ways to break it


def never_acknowledges(patch: Patch) -> None:
    patch.setattr(Keeper, "wait_with", lambda *_: None)


def acknowledges_what_was_never_sent(patch: Patch) -> None:
    save = Keeper.save

    async def patched(self: Any) -> None:
        await save(self)
        self.stored.update(dict.fromkeys(self.stored, 99))

    patch.setattr(Keeper, "save", patched)


def learns_again_what_it_has_seen(patch: Patch) -> None:
    follow = knowledge.Knowledge._follow

    def patched(self: Any, known: Any, incarnation: int, sequence: int, *, opening: bool) -> bool:
        follow(self, known, incarnation, sequence, opening=opening)
        return True

    patch.setattr(knowledge.Knowledge, "_follow", patched)


def stops_at_a_gap(patch: Patch) -> None:
    patch.setattr(knowledge, "MAX_JUMP", 1)
    patch.setattr(knowledge.Knowledge, "learn", _never_opening(knowledge.Knowledge.learn))


def _never_opening(learn: Callable[..., None]) -> Callable[..., None]:
    def patched(self: Any, known: Any, incarnation: int, events: Any, *, opening: bool) -> None:
        learn(self, known, incarnation, events, opening=False)

    return patched


def knows_one_incarnation(patch: Patch) -> None:
    follow = knowledge.Knowledge._follow

    def patched(self: Any, known: Any, _: int, sequence: int, *, opening: bool) -> bool:
        return follow(self, known, 7, sequence, opening=opening)

    patch.setattr(knowledge.Knowledge, "_follow", patched)


def begins_incomplete(patch: Patch) -> None:
    patch.setattr(Watcher, "_begin_complete", lambda _: False)


def repeats_versions(patch: Patch) -> None:
    patch.setattr("cotenant.predictor.service._versions", lambda: itertools.repeat(7))


def tells_only_changes(patch: Patch) -> None:
    begin = Watcher._begin_complete

    def patched(self: Watcher) -> bool:
        begun = begin(self)
        self.pending.clear()
        return begun

    patch.setattr(Watcher, "_begin_complete", patched)


def keeps_its_progress_to_itself(patch: Patch) -> None:
    patch.setattr(Watcher, "_through", lambda *_: iter(()))


def _altering(change: Callable[[ClassEstimate], dict[str, Any]]) -> Callable[[Patch], None]:
    def apply(patch: Patch) -> None:
        estimate = KnownDevice.estimate
        patch.setattr("cotenant.predictor.publishing.sound", lambda _: True)

        def patched(self: KnownDevice, *args: Any) -> ClassEstimate:
            told = estimate(self, *args)
            return msgspec.structs.replace(told, **change(told))

        patch.setattr(KnownDevice, "estimate", patched)

    return apply


tells_nan = _altering(lambda told: {"sensitivity": (float("nan"), *told.sensitivity[1:])})
tells_phases_that_never_end = _altering(lambda told: {"phases": (Phase(0.5, told.demand),)})
tells_bounds_below_the_forecast = _altering(
    lambda told: {"quantiles": tuple(msgspec.structs.replace(q, factor=0.9) for q in told.quantiles)}
)
tells_bounds_upside_down = _altering(
    lambda told: {"quantiles": tuple(msgspec.structs.replace(q, factor=3.0 - q.level) for q in told.quantiles)}
)
tells_no_bounds = _altering(lambda _: {"quantiles": ()})
tells_one_level = _altering(lambda told: {"quantiles": tuple(q for q in told.quantiles if q.level < 0.8)})
believes_in_no_slowdown = _altering(lambda told: {"sensitivity": (0.0,) * len(told.sensitivity)})


def ignores_interests(patch: Patch) -> None:
    patch.setattr(service, "read_interests", lambda _: {})


def believes_anything(patch: Patch) -> None:
    learn = knowledge.Knowledge._learn
    a, b = (BatchClass(model, "1", 1) for model in "ab")
    absurd = Observation(a, 90_000_000, (Slice(90_000_000, (b,)),))

    def patched(self: knowledge.Knowledge, known: KnownDevice, event: Any) -> None:
        before = self.intake.rejected.total()
        learn(self, known, event)
        for _ in range(50 * (self.intake.rejected.total() - before)):
            self.learn_batch(known, absurd)

    patch.setattr(knowledge.Knowledge, "_learn", patched)


def falls_over_broken_events(patch: Patch) -> None:
    def fail(self: Intake, reason: str, example: object) -> None:
        raise SystemError(reason)

    patch.setattr(Intake, "reject", fail)
    patch.setattr(knowledge.Knowledge, "_learn", _fragile)


def _fragile(self: knowledge.Knowledge, known: KnownDevice, event: Any) -> None:
    if event.WhichOneof("event") == "batch_finished" and (s := self.intake.finished(event.batch_finished, 0)):
        self.learn_batch(known, s)
    if event.WhichOneof("event") == "class_profiled" and (p := self.intake.profile(event.class_profiled, 3)):
        self.learn_profile(known, p)


def mixes_devices(patch: Patch) -> None:
    learn_batch = knowledge.Knowledge.learn_batch

    def patched(self: Any, _: Any, seen: Any) -> None:
        for known in self.devices.values():
            learn_batch(self, known, seen)

    patch.setattr(knowledge.Knowledge, "learn_batch", patched)


def answers_in_its_own_order(patch: Patch) -> None:
    patch.setattr(
        "cotenant.predictor.service.answer", lambda known, batches, level: answer(known, sorted(batches), level)
    )


def explains_nothing(patch: Patch) -> None:
    patch.setattr("cotenant.predictor.colocation.explain", lambda *_: "")


def invents_devices(patch: Patch) -> None:
    async def answer(self: Any, request: Any, context: Any) -> pb.EstimateColocationResponse:
        return pb.EstimateColocationResponse()

    patch.setattr(service.PredictorService, "EstimateColocation", answer)


def takes_any_level(patch: Patch) -> None:
    patch.setattr(service, "check_levels", lambda _: (0.9,))


BREAKS: list[tuple[Callable[[Patch], None], checks.Check, str]] = [
    (never_acknowledges, events.acknowledges_what_it_was_sent, "event 3 was not acknowledged within 1 s"),
    (acknowledges_what_was_never_sent, events.acknowledges_what_it_was_sent, "only 3 events were sent"),
    (learns_again_what_it_has_seen, events.learns_nothing_twice, "sent again were counted again"),
    (stops_at_a_gap, events.survives_a_gap, "event 50 was not acknowledged"),
    (knows_one_incarnation, events.takes_a_new_incarnation, "not acknowledged"),
    (begins_incomplete, estimates.the_first_push_is_complete, "must have `complete` set|nothing was pushed"),
    (repeats_versions, estimates.versions_increase, r"versions must increase, got \[7, 7"),
    (tells_only_changes, estimates.a_late_subscriber_is_told_everything, "was not told of class 'a'"),
    (keeps_its_progress_to_itself, estimates.says_how_far_it_has_learned, "`learned_through` must name"),
    (believes_in_no_slowdown, estimates.tells_what_it_observed, "'a' beside 'b' is not within 1.5 to 2.6"),
    (tells_nan, estimates.numbers_are_finite_and_bounds_are_ordered, "are not finite"),
    (tells_phases_that_never_end, estimates.numbers_are_finite_and_bounds_are_ordered, "the last at 1"),
    (tells_bounds_below_the_forecast, estimates.numbers_are_finite_and_bounds_are_ordered, "below 1 it is none"),
    (tells_bounds_upside_down, estimates.numbers_are_finite_and_bounds_are_ordered, "below that at a lower level"),
    (tells_no_bounds, estimates.levels_are_honoured, "no `quantiles` are told"),
    (tells_one_level, estimates.levels_are_honoured, "level 0.9 was asked for"),
    (ignores_interests, estimates.interests_are_told_explicitly, "must be answered by a SetEstimate"),
    (believes_anything, events.broken_events_harm_nothing, "after senseless events"),
    (falls_over_broken_events, events.broken_events_harm_nothing, "a call failed|not acknowledged"),
    (mixes_devices, estimates.several_executors_and_subscribers_at_once, "was not told within 30 %"),
    (answers_in_its_own_order, questions.answers_about_a_set, "in the order asked"),
    (explains_nothing, questions.answers_about_a_set, "`explanation` must say"),
    (invents_devices, questions.names_what_it_does_not_know, "expected NOT_FOUND, but it was accepted"),
    (takes_any_level, questions.refuses_what_makes_no_sense, "expected INVALID_ARGUMENT, but it was accepted"),
]


@pytest.mark.parametrize(("break_it", "check", "sentence"), BREAKS, ids=[sentence for _, _, sentence in BREAKS])
def test_what_breaks_the_contract_is_found(
    break_it: Callable[[Patch], None], check: checks.Check, sentence: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        break_it(patch)
        said = complaint(tmp_path, check)
    assert re.search(sentence, said), said or "it passed"


def test_every_check_has_a_break_or_passes_for_ours() -> None:
    tried = {check for _, check, _ in BREAKS} | {events.goes_on_after_a_reconnect}
    assert tried == set(checks.CHECKS)
