"""Weighted fairness between the tenants of one device: in which order they are served while not all can be.

Theory. Each tenant has a clock of service: the solo work that was launched for it, its share of each batch, divided by
its weight. A *turn* is `fair_turn_ns` of that clock. While a device is contended, tenants in an earlier turn go before
those in a later one; within a turn, the most urgent request goes first, whoever's it is. Hence, of tenants that always
have something waiting that may run, none is ever more than a turn and a batch ahead of another, and over time each has
work in proportion to its weight. Service that nobody else wanted is not held against a tenant: one that had nothing
waiting begins at most one turn before the device's own clock, which is that of the least served who wait, and when
contention begins, nobody is more than one turn behind.

A device is contended for `HOLD_NS` after a request on it was expected to be late, was, or had to wait for very long.
Otherwise, and with one tenant, the order is that of urgency alone, as if there were no tenants.

The order is told by ranks, one number per tenant, which queues put before everything else. They are changed only where
they contradict the turns, because all that waits is sorted again then.
"""

from collections.abc import Callable

import msgspec

HOLD_NS = 1_000_000_000
# A request without a deadline that waited longer for a device tells that there is too much to do.
PATIENT_NS = 1_000_000_000
RANK_BITS = 40  # ranks stand above all levels of priority
KEPT = 1024  # clocks of service; of more, those that say nothing are forgotten even while something waits


class FairnessState(msgspec.Struct, omit_defaults=True):
    """What is kept in a snapshot; by tenant."""

    served_ns: dict[str, int] = {}
    ranks: dict[str, int] = {}
    clock_ns: int = 0
    contended_until_ns: int = 0


class Fairness:
    """See the module's text. `ranks` is what the device's queues go by, and is changed in place."""

    def __init__(self, ranks: dict[str, int], turn_ns: int, weight_of: Callable[[str], float]) -> None:
        self.served_ns: dict[str, int] = {}  # divided by weight
        self.waiting: dict[str, int] = {}  # requests
        self.ranks = ranks
        self.turn_ns = turn_ns
        self.clock_ns = 0
        self.contended_until_ns = 0
        self._weight_of = weight_of

    # ---- what happens

    def arriving(self, tenant: str, now_ns: int) -> bool:
        """A request is about to be queued, or to be judged as if it were; whether ranks changed."""
        if tenant not in self.waiting:
            self._begin(tenant)
        return self.rank(now_ns, tenant)

    def entered(self, tenant: str) -> None:
        """A request waits."""
        self.waiting[tenant] = self.waiting.get(tenant, 0) + 1

    def left(self, tenant: str) -> None:
        """A request no longer waits."""
        self.waiting[tenant] -= 1
        if not self.waiting[tenant]:
            del self.waiting[tenant]

    def served(self, tenant: str, work_ns: float) -> None:
        """So much solo work was launched for a tenant; less than 0: it did not run after all."""
        self.served_ns[tenant] = self.served_ns.get(tenant, 0) + int(work_ns / self._weight_of(tenant))

    def contend(self, now_ns: int) -> None:
        """Something told that not all can be served in time."""
        if now_ns >= self.contended_until_ns:  # what was served while there was enough for all is held against nobody
            self.clock_ns = max(self.served_ns.values(), default=0)
            floor_ns = self.clock_ns - self.turn_ns
            self.served_ns = {name: max(ns, floor_ns) for name, ns in self.served_ns.items()}
        self.contended_until_ns = now_ns + HOLD_NS

    def _begin(self, tenant: str) -> None:
        """A tenant that had nothing waiting takes part again."""
        others = [self.served_ns.get(other, 0) for other in self.waiting]
        least_ns = min(others) if others else max(self.served_ns.values(), default=0)
        self.clock_ns = max(self.clock_ns, least_ns)
        floor_ns = self.clock_ns - self.turn_ns
        if not others or len(self.served_ns) > KEPT:  # what is not above the floor says no more than what is missing
            self.served_ns = {name: ns for name, ns in self.served_ns.items() if ns > floor_ns or name in self.waiting}
        self.served_ns[tenant] = max(self.served_ns.get(tenant, 0), floor_ns)

    # ---- the order

    def rank(self, now_ns: int, also: str | None = None) -> bool:
        """Brings the ranks of all who wait, and of `also`, into the order of their turns; whether any changed."""
        if now_ns >= self.contended_until_ns:
            changed = bool(self.ranks)
            self.ranks.clear()
            return changed
        who = self.waiting if also is None or also in self.waiting else [*self.waiting, also]
        if len(who) < 2:
            return False
        order = sorted([(self.served_ns.get(tenant, 0) // self.turn_ns, tenant) for tenant in who])
        if self._agree(order):
            return False
        self.ranks.clear()
        number = 0
        for (turn, tenant), (before, _) in zip(order, [order[0], *order], strict=False):
            number += turn != before
            if number:
                self.ranks[tenant] = number << RANK_BITS
        return True

    def _agree(self, order: list[tuple[int, str]]) -> bool:
        """Whether the ranks are those of the turns: equal where these are, and else in their order."""
        before_turn, first = order[0]
        before_rank = self.ranks.get(first, 0)
        for turn, tenant in order:
            rank = self.ranks.get(tenant, 0)
            if (rank == before_rank) != (turn == before_turn) or rank < before_rank:
                return False
            before_turn, before_rank = turn, rank
        return True

    # ---- snapshots

    def state(self) -> FairnessState:
        """What must be kept to go on."""
        return FairnessState(dict(self.served_ns), dict(self.ranks), self.clock_ns, self.contended_until_ns)

    def restore(self, kept: FairnessState) -> None:
        """Becomes what was kept; what waits is counted again as it is queued."""
        self.served_ns, self.clock_ns = dict(kept.served_ns), kept.clock_ns
        self.ranks.clear()
        self.ranks.update(kept.ranks)
        self.contended_until_ns = kept.contended_until_ns
