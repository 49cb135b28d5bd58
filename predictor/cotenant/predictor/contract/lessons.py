"""What several checks share: what they teach, and what must hold of whatever is told."""

import math

from cotenant.predictor.contract.peer import (
    Peer,
    Subscriber,
    finished,
    require,
)
from cotenant.runtime.estimates import Phase, QuantileFactor, sound_phases
from cotenant.v1 import executor_pb2, types_pb2

MANY = 60  # batches after which a steady slowdown must be known


def beside_each_other(start: int, slowdown: float, count: int = MANY) -> list[executor_pb2.ExecutorEvent]:
    """A beside b and b beside a, both of 10 ms, both slowed so much."""
    pairs = [("a", "b"), ("b", "a")]
    return [finished(start + i, *_timed(pairs[i % 2], slowdown), forecast_ms=10 * slowdown) for i in range(count)]


def _timed(pair: tuple[str, str], slowdown: float) -> tuple[str, float, str]:
    return pair[0], 10.0 * slowdown, pair[1]


async def told(peer: Peer, device: types_pb2.Device, sequence: int) -> Subscriber:
    """A subscriber that was told everything up to an event, and has left."""
    subscriber = peer.watch()
    await told_through(peer, subscriber, device, sequence)
    subscriber.close()
    return subscriber


async def told_through(peer: Peer, subscriber: Subscriber, device: types_pb2.Device, sequence: int) -> None:
    """Waits until a subscriber is told what rests on everything up to an event."""
    await subscriber.until(
        lambda s: any(d == device.device_id and n >= sequence for (d, _), n in s.learned.items()),
        f"`learned_through` never reached event {sequence}, which was acknowledged",
        peer.patience_s,
    )


def require_sound(subscriber: Subscriber) -> None:
    """Raises ContractError unless all that was told is numbers, slowdowns at least 1, and bounds ordered by level."""
    for push in subscriber.pushes:
        for c in push.classes:
            numbers = [*c.demand, *c.sensitivity, *(p.delay for p in c.corrections)]
            require(all(map(math.isfinite, numbers)), f"estimates of '{c.batch_class.model}' are not finite: {numbers}")
            phases = [Phase(p.end, tuple(p.demand), p.kernel_ns) for p in c.phases]
            require(
                sound_phases(phases, len(c.demand)),
                f"phases of '{c.batch_class.model}' must end in ascending shares of its work, the last at 1, and each "
                f"demand something of all {len(c.demand)} resources; they are {phases}",
            )
            _require_bounds(
                c.batch_class.model, [QuantileFactor(q.level, q.factor, q.co_runner_count) for q in c.quantiles]
            )
        for s in push.sets:
            require(
                math.isfinite(s.slowdown) and s.slowdown >= 1.0,
                f"a slowdown of '{s.batch_class.model}' is {s.slowdown}; it must be a number of at least 1",
            )
            _require_bounds(
                s.batch_class.model, [QuantileFactor(q.level, q.factor, q.co_runner_count) for q in s.quantiles]
            )


def _require_bounds(model: str, quantiles: list[QuantileFactor]) -> None:
    largest: dict[int, float] = {}
    for q in sorted(quantiles, key=lambda q: q.level):
        require(0.0 < q.level < 1.0, f"a bound of '{model}' has level {q.level}; it must be in (0, 1)")
        require(
            math.isfinite(q.factor) and q.factor >= 1.0,
            f"a bound of '{model}' is {q.factor} times the forecast; below 1 it is none",
        )
        before = largest.get(q.co_runner_count, 1.0)
        require(q.factor >= before, f"a bound of '{model}' at level {q.level} is below that at a lower level")
        largest[q.co_runner_count] = q.factor
