"""Checks of `Observe`: acknowledgements, repetition, gaps, and events that make no sense."""

import math

from cotenant.predictor.contract.lessons import beside_each_other, require_sound, told
from cotenant.predictor.contract.peer import (
    Peer,
    finished,
    profiled,
    require,
)
from cotenant.v1 import executor_pb2


async def acknowledges_what_it_was_sent(peer: Peer) -> None:
    """Events are acknowledged, without more of them coming, and never beyond what was sent."""
    source = peer.source(peer.device("acknowledge"))
    source.send(profiled(1), profiled(2, "b"), finished(3, "a", 15.0, beside="b"))
    await source.acknowledged(3, peer.patience_s)
    source.send(finished(4, "a", 15.0, beside="b"))
    await source.acknowledged(4, peer.patience_s)
    await source.close()
    told = source.acknowledgements
    require(told == sorted(told), f"acknowledgements must not go back, got {told}")


async def goes_on_after_a_reconnect(peer: Peer) -> None:
    """An executor that reconnects sends again what was not acknowledged; new events are acknowledged as before."""
    device = peer.device("reconnect")
    await peer.teach(device, profiled(1), finished(2, "a", 15.0, beside="b"))
    source = peer.source(device)
    source.send(profiled(1), finished(2, "a", 15.0, beside="b"), finished(3, "a", 15.0, beside="b"))
    await source.acknowledged(3, peer.patience_s)
    await source.close()


async def learns_nothing_twice(peer: Peer) -> None:
    """Events that were seen are ignored: they change no estimate and no count."""
    device = peer.device("twice")
    events = [profiled(1), profiled(2, "b"), *beside_each_other(3, 1.5)]
    last = events[-1].sequence
    await peer.teach(device, *events)
    before = await told(peer, device, last)
    await peer.teach(device, *events, profiled(last + 1, "c"))
    after = await told(peer, device, last + 1)
    counts = [{c.model: e.sample_count for c, e in s.table(device.device_id).classes.items()} for s in (before, after)]
    for model, count in counts[0].items():
        require(
            counts[1].get(model, 0) == count,
            f"events of '{model}' sent again were counted again: {count} before, {counts[1].get(model, 0)} after",
        )
    was, now = before.slowdown(device.device_id, "a", "b"), after.slowdown(device.device_id, "a", "b")
    require(math.isclose(was, now, rel_tol=0.02), f"events sent again moved a slowdown from {was:.2f} to {now:.2f}")


async def survives_a_gap(peer: Peer) -> None:
    """Lost events (a jump in the sequence) spoil nothing but themselves."""
    source = peer.source(peer.device("gap"))
    source.send(profiled(1), finished(50, "a", 15.0, beside="b"))
    await source.acknowledged(50, peer.patience_s)
    await source.close()


async def takes_a_new_incarnation(peer: Peer) -> None:
    """An executor that was started again counts from 1 under a new incarnation."""
    device = peer.device("incarnation")
    await peer.teach(device, profiled(1), finished(2, "a", 15.0), incarnation=7)
    await peer.teach(device, profiled(1, "c"), incarnation=2**64 - 1)
    subscriber = peer.watch()
    await subscriber.until(
        lambda s: s.knows(device.device_id, "c"),
        "what a new incarnation of an executor tells (sequence 1 again) must be learned",
        peer.patience_s,
    )
    subscriber.close()


async def broken_events_harm_nothing(peer: Peer) -> None:
    """Absurd durations, numbers that are none, classes without a name, unknown events: ignored, and acknowledged."""
    device = peer.device("broken")
    await peer.teach(device, profiled(1), profiled(2, "b"), *beside_each_other(3, 2.0))
    absurd = [finished(100, "a", 10.0), finished(101, "", 10.0), finished(102, "a", 10.0, beside="b"), profiled(103)]
    absurd[0].batch_finished.duration_ns = absurd[0].batch_finished.slices[0].duration_ns = 2**63
    absurd[2].batch_finished.slices[0].duration_ns = 2**64 - 10
    absurd[3].class_profiled.demand[0] = math.nan
    overlapping = finished(104, "a", 10.0, beside="b")
    overlapping.batch_finished.slices.add(duration_ns=10_000_000)
    crowd = finished(105, "a", 10.0, beside=["b"] * 5000)
    instant = finished(106, "a", 0.0)
    unmeasured = profiled(107)
    unmeasured.class_profiled.work_ns = 0
    unforeseen = finished(108, "a", 20.0, beside="b", forecast_ms=0)
    unforeseen.batch_finished.forecast.level = math.nan
    events = [*absurd, overlapping, crowd, instant, unmeasured, unforeseen, executor_pb2.ExecutorEvent(sequence=109)]
    await peer.teach(device, *events)
    subscriber = await told(peer, device, 109)
    require_sound(subscriber)
    slowdown = subscriber.slowdown(device.device_id, "a", "b")
    require(1.5 < slowdown < 2.6, f"after senseless events a slowdown of 2.0 is told as {slowdown:.2f}")
