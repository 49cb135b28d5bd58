"""Checks of `WatchEstimates`: completeness, versions, numbers, bounds, interests."""

import asyncio

from cotenant.predictor.contract.lessons import MANY, beside_each_other, require_sound, told, told_through
from cotenant.predictor.contract.peer import (
    Peer,
    batch_class,
    finished,
    profiled,
    require,
)
from cotenant.runtime.estimates import factor_at
from cotenant.v1 import predictor_pb2


async def the_first_push_is_complete(peer: Peer) -> None:
    """A subscriber is told at once, however little is known, and the first message says `complete`."""
    subscriber = peer.watch()
    push = await subscriber.next(peer.patience_s)
    subscriber.close()
    require(push.complete, "the first message to a subscriber must have `complete` set")
    require(push.version > 0, "versions count from 1, the first is 0")


async def versions_increase(peer: Peer) -> None:
    """Every message to a subscriber has a larger version than the one before."""
    device, subscriber = peer.device("versions"), peer.watch()
    await subscriber.next(peer.patience_s)
    for i, model in enumerate(("a", "b", "c"), start=1):
        await peer.teach(device, *(profiled(j, m) for j, m in enumerate(("a", "b", "c")[:i], start=1)))
        await subscriber.until(
            lambda s, m=model: s.knows(device.device_id, m),  # type: ignore[misc]
            f"a subscriber must be told of class '{model}' once it was measured alone",
            peer.patience_s,
        )
    subscriber.close()
    versions = [push.version for push in subscriber.pushes]
    require(versions == sorted(set(versions)), f"versions must increase, got {versions}")


async def a_late_subscriber_is_told_everything(peer: Peer) -> None:
    """Who subscribes later is told what others were told before."""
    device = peer.device("late")
    await peer.teach(device, profiled(1), profiled(2, "b"))
    subscriber = await told(peer, device, 2)
    for model in ("a", "b"):
        require(subscriber.knows(device.device_id, model), f"a new subscriber was not told of class '{model}'")


async def says_how_far_it_has_learned(peer: Peer) -> None:
    """`learned_through` names device, incarnation and the last event."""
    device = peer.device("through")
    await peer.teach(device, profiled(1), finished(2, "a", 11.0), incarnation=2**63 + 5)
    subscriber = peer.watch()
    await subscriber.until(
        lambda s: s.learned.get((device.device_id, 2**63 + 5)) == 2,
        "`learned_through` must name device, incarnation (all 64 bits of it) and the last event learned",
        peer.patience_s,
    )
    subscriber.close()


async def tells_what_it_observed(peer: Peer) -> None:
    """Many batches slowed twofold: the slowdown, by sets or by vectors as the scheduler evaluates them, is about 2."""
    device = peer.device("observed")
    subscriber = peer.watch()
    await peer.teach(device, profiled(1), profiled(2, "b"), *beside_each_other(3, 2.0))
    for victim, other in (("a", "b"), ("b", "a")):
        await subscriber.until(
            lambda s, v=victim, o=other: (
                1.5 <= s.slowdown(device.device_id, v, o) <= 2.6  # type: ignore[misc]
                and s.knows(device.device_id, v)
            ),
            f"{MANY} batches slowed 2.0 times were told, but '{victim}' beside '{other}' is not within 1.5 to 2.6",
            peer.patience_s,
        )
    alone = subscriber.slowdown(device.device_id, "a")
    subscriber.close()
    require(alone == 1.0, f"alone a batch is not slowed, got {alone}")


async def numbers_are_finite_and_bounds_are_ordered(peer: Peer) -> None:
    """Every number is one, slowdowns and factors are at least 1, and a higher level has no smaller factor."""
    device = peer.device("numbers")
    subscriber = peer.watch()
    await peer.teach(device, profiled(1), profiled(2, "b"), *beside_each_other(3, 1.6))
    await subscriber.until(
        lambda s: s.knows(device.device_id, "a"), "nothing was told of a class that ran often", peer.patience_s
    )
    subscriber.close()
    require_sound(subscriber)


async def levels_are_honoured(peer: Peer) -> None:
    """Where bounds are told, there is one for each level asked for, alone and beside others."""
    device = peer.device("levels")
    await peer.teach(device, profiled(1), profiled(2, "b"), *beside_each_other(3, 1.6))
    asked = (0.75, 0.9, 0.95, 0.99)
    subscriber = peer.watch(asked)
    await subscriber.until(
        lambda s: (
            any(e.quantiles for e in s.table(device.device_id).classes.values())
            or any(e.quantiles for e in s.table(device.device_id).sets.values())
        ),
        "no `quantiles` are told: without them the scheduler falls back on wide bounds of its own",
        peer.patience_s,
    )
    subscriber.close()
    table = subscriber.table(device.device_id)
    for estimate in table.classes.values():
        for level in asked if estimate.quantiles else ():
            for beside in (0, 1, 3):
                factor = factor_at(estimate.quantiles, level, beside, default=0.0)
                require(factor, f"level {level} was asked for, but {estimate.batch_class} has none for {beside} others")
    for explicit in table.sets.values():
        for level in asked if explicit.quantiles else ():
            factor = factor_at(explicit.quantiles, level, len(explicit.co_runners), default=0.0)
            require(factor, f"level {level} was asked for, but a set of {explicit.batch_class} has no bound for it")


async def interests_are_told_explicitly(peer: Peer) -> None:
    """A set that is asked for comes as a `SetEstimate` of each member."""
    device = peer.device("interests")
    await peer.teach(device, profiled(1), profiled(2, "b"), *beside_each_other(3, 2.0))
    interest = predictor_pb2.Colocation(device_id=device.device_id, batches=[batch_class("a"), batch_class("b")])
    subscriber = peer.watch(interests=[interest])
    await subscriber.until(
        lambda s: len({v.model for v, others in s.table(device.device_id).sets if len(others) == 1} & {"a", "b"}) == 2,
        "an interest in {a, b} must be answered by a SetEstimate of 'a' beside 'b' and one of 'b' beside 'a'",
        peer.patience_s,
    )
    subscriber.close()
    require_sound(subscriber)


async def several_executors_and_subscribers_at_once(peer: Peer) -> None:
    """Four devices tell at the same time, three subscribers are told of all; what one device learns stays its own."""
    subscribers = [peer.watch() for _ in range(3)]
    devices = [peer.device(f"many-{i}") for i in range(4)]
    slowdowns = (1.0, 2.0, 1.0, 3.0)
    lessons = [(profiled(1), profiled(2, "b"), *beside_each_other(3, slowdown, 2 * MANY)) for slowdown in slowdowns]
    await asyncio.gather(*(peer.teach(device, *events) for device, events in zip(devices, lessons, strict=True)))
    for subscriber in subscribers:
        for device, events in zip(devices, lessons, strict=True):
            # Before that, a predictor that mixes them up may be right for a moment.
            await told_through(peer, subscriber, device, events[-1].sequence)
        for device, slowdown in zip(devices, slowdowns, strict=True):
            await subscriber.until(
                lambda s, d=device.device_id, true=slowdown: abs(s.slowdown(d, "a", "b") / true - 1) < 0.3,  # type: ignore[misc]
                f"of four devices with slowdowns {slowdowns}, one of {slowdown} was not told within 30 %",
                peer.patience_s,
            )
        subscriber.close()
