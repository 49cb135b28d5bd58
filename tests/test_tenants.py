"""Quotas of tenants and the order between them, by themselves: what holds for any requests at any instants."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotenant.runtime import tenant_names
from cotenant.scheduler import events as ev
from cotenant.scheduler.fairness import HOLD_NS, KEPT, Fairness
from cotenant.scheduler.settings import Settings, TenantSettings
from cotenant.scheduler.tenants import PENDING, REQUESTS, SECOND_NS, SWEEP_NS, WORK, Tenants, words

MS = 1_000_000


def kept(*tenants: TenantSettings, max_tenants: int = 256) -> Tenants:
    return Tenants(Settings("edf", 0.95, max_tenants=max_tenants, tenants=tenants))


def request(number: int, tenant: str) -> ev.Request:
    return ev.Request(number, 1, "m", "1", 1, 0, tenant=tenant)


instants = st.lists(st.integers(0, 50 * MS), max_size=120).map(lambda gaps: [sum(gaps[:i]) for i in range(len(gaps))])


@given(instants, st.floats(0.5, 400), st.integers(1, 20))
def test_requests_let_through_never_exceed_rate_and_burst_in_any_window(
    at_ns: list[int], rate: float, burst: int
) -> None:
    tenants = kept(TenantSettings("a", requests_per_s=rate, burst_requests=burst))
    passed = [now for number, now in enumerate(at_ns) if tenants.admit("a", number, 0, now) is None]
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            # The rate is kept as a whole number of ns between requests, so a hair more than it may pass.
            assert j - i + 1 <= burst + (passed[j] - first) * rate * (1 + 1e-6) / SECOND_NS + 1e-6


@given(instants, st.floats(0.5, 400), st.integers(1, 20))
def test_a_refused_request_passes_after_the_time_it_was_told_and_not_before(
    at_ns: list[int], rate: float, burst: int
) -> None:
    tenants = kept(TenantSettings("a", requests_per_s=rate, burst_requests=burst))
    for number, now in enumerate(at_ns):
        if excess := tenants.admit("a", number, 0, now):
            assert excess.quota == REQUESTS
            assert "'a'" in words(excess)
            assert REQUESTS in words(excess)
            assert tenants.admit("a", number, 0, now + excess.retry_after_ns - 1) is not None
            assert tenants.admit("a", number, 0, now + excess.retry_after_ns) is None
            return


@given(
    st.lists(st.tuples(st.integers(0, 50 * MS), st.integers(1, 40 * MS)), max_size=120),
    st.floats(0.05, 4.0),
    st.integers(1, 100 * MS),
)
def test_work_let_through_never_exceeds_share_and_burst_but_for_one_request(
    steps: list[tuple[int, int]], share: float, burst_ns: int
) -> None:
    tenants = kept(TenantSettings("a", device_share=share, burst_work_ns=burst_ns))
    now, passed = 0, []
    for number, (gap_ns, work_ns) in enumerate(steps):
        now += gap_ns
        if tenants.admit("a", number, work_ns, now) is None:
            passed.append((now, work_ns))
    for i, (first, _) in enumerate(passed):
        for j in range(i, len(passed)):
            work = sum(work_ns for _, work_ns in passed[i : j + 1])
            # One that is larger than the burst passes when nothing is owed, else it never would.
            largest = max(work_ns for _, work_ns in passed[i : j + 1])
            assert work <= max(burst_ns, largest) + (passed[j][0] - first) * share + len(passed)


def test_work_is_corrected_when_it_runs_in_a_batch_and_given_back_when_it_does_not() -> None:
    tenants = kept(TenantSettings("a", device_share=0.5, burst_work_ns=10 * MS))
    assert tenants.admit("a", 1, 10 * MS, 0) is None
    first, second = request(1, "a"), request(2, "a")
    tenants.entered(first)
    excess = tenants.admit("a", 2, 10 * MS, 0)
    assert excess is not None
    assert (excess.quota, excess.retry_after_ns) == (WORK, 20 * MS)
    tenants.ran(first, 2 * MS)  # its part of a batch of five
    tenants.left(first)
    assert tenants.admit("a", 2, 10 * MS, 4 * MS) is None
    tenants.entered(second)
    tenants.left(second)  # refused for lateness: it did not run
    assert tenants.admit("a", 3, 10 * MS, 4 * MS) is None


def test_waiting_requests_are_limited_and_retrying_has_no_time() -> None:
    tenants = kept(TenantSettings("a", max_pending=2))
    for number in (1, 2):
        assert tenants.admit("a", number, 0, 0) is None
        tenants.entered(request(number, "a"))
    excess = tenants.admit("a", 3, 0, 0)
    assert excess is not None
    assert (excess.quota, excess.retry_after_ns) == (PENDING, 0)
    tenants.left(request(1, "a"))
    assert tenants.admit("a", 3, 0, 0) is None


def test_star_fills_what_a_tenant_leaves_open() -> None:
    tenants = kept(
        TenantSettings("*", weight=2.0, requests_per_s=10.0, burst_requests=1), TenantSettings("a", weight=5.0)
    )
    assert (tenants.weight("a"), tenants.weight("b"), tenants.weight("")) == (5.0, 2.0, 2.0)
    for name in ("a", "b"):
        assert tenants.known_as(name, 0) == name
        assert tenants.admit(name, 1, 0, 0) is None
        assert tenants.admit(name, 2, 0, 0) is not None


def test_settings_change_at_once_and_what_was_asked_for_still_counts() -> None:
    tenants = kept(TenantSettings("a", requests_per_s=1.0, burst_requests=1))
    assert tenants.admit("a", 1, 0, 0) is None
    assert tenants.admit("a", 2, 0, 0) is not None
    tenants.configure(Settings("edf", 0.95, tenants=(TenantSettings("a", requests_per_s=1.0, burst_requests=2),)))
    assert tenants.admit("a", 2, 0, 0) is None
    assert tenants.admit("a", 3, 0, 0) is not None
    tenants.configure(Settings("edf", 0.95))
    assert tenants.admit("a", 3, 0, 0) is None


@given(st.lists(st.tuples(st.integers(0, 400 * MS), st.integers(0, 30)), max_size=200), st.integers(0, 5))
def test_accounts_stay_within_the_limit_whatever_names_come(steps: list[tuple[int, int]], limit: int) -> None:
    tenants = kept(
        TenantSettings("*", requests_per_s=2.0, burst_requests=3), TenantSettings("own", weight=3.0), max_tenants=limit
    )
    now = 0
    for number, (gap_ns, who) in enumerate(steps):
        now += gap_ns
        name = tenants.known_as(f"t{who}" if who else "own", now)
        assert name in (f"t{who}", "own", tenant_names.OTHERS)
        tenants.admit(name, number, 0, now)
        assert len(tenants.accounts) <= limit + 3  # with its own settings, all others, and who names none
    assert tenants.known_as("own", now) == "own"


def test_a_name_that_owes_nothing_makes_room_for_another() -> None:
    tenants = kept(max_tenants=2)
    assert [tenants.known_as(name, 0) for name in ("a", "b")] == ["a", "b"]
    tenants.entered(request(1, "a"))
    assert tenants.known_as("c", 1) == tenant_names.OTHERS
    assert tenants.known_as("c", 1 + SWEEP_NS) == "c"  # in the place of b, of whom nothing was kept
    assert "a" in tenants.accounts


# ---- the order


class Backlog:
    """A device on which tenants always have something waiting, served by rank and then as it comes."""

    def __init__(self, weights: dict[str, float], turn_ns: int) -> None:
        self.fair = Fairness({}, turn_ns, weights.__getitem__)
        self.work_ns = dict.fromkeys(weights, 0)

    def wait(self, tenants: Iterable[str]) -> None:
        for tenant in tenants:
            self.fair.arriving(tenant, 0)
            self.fair.entered(tenant)

    def serve(self, draw: int, work_ns: int) -> None:
        """One batch: of the first in rank, the one that happens to be most urgent."""
        self.fair.contend(0)
        self.fair.rank(0)
        first = min(self.fair.ranks.get(tenant, 0) for tenant in self.fair.waiting)
        most = sorted(tenant for tenant in self.fair.waiting if self.fair.ranks.get(tenant, 0) == first)
        tenant = most[draw % len(most)]
        self.fair.served(tenant, work_ns)
        self.work_ns[tenant] += work_ns


weights = st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0]), min_size=2, max_size=5)
batches = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30 * MS)), min_size=40, max_size=100)


@given(weights, batches, st.integers(MS, 60 * MS))
def test_of_those_who_always_wait_none_is_more_than_a_turn_and_a_batch_ahead(
    drawn: list[float], steps: list[tuple[int, int]], turn_ns: int
) -> None:
    who = {f"t{i}": weight for i, weight in enumerate(drawn)}
    device = Backlog(who, turn_ns)
    device.wait(who)
    largest = max((work_ns for _, work_ns in steps), default=0)
    for draw, work_ns in steps:
        device.serve(draw, work_ns)
        clocks = {tenant: device.work_ns[tenant] / weight for tenant, weight in who.items()}
        for ahead, weight in who.items():
            # That each batch's work is kept in whole ns of the clock of service is the last term.
            slack = turn_ns + largest / weight + len(steps)
            assert clocks[ahead] - min(clocks.values()) <= slack


@given(st.lists(st.integers(0, 20 * MS), max_size=60), st.integers(MS, 60 * MS))
def test_one_that_had_nothing_waiting_goes_before_who_was_served_all_along_and_saves_at_most_a_turn(
    works: list[int], turn_ns: int
) -> None:
    device = Backlog({"flood": 1.0, "rare": 1.0}, turn_ns)
    device.wait(["flood"])
    for work_ns in works:
        device.serve(0, work_ns)
    served_ns = device.fair.served_ns["flood"]
    device.wait(["rare"])
    device.fair.contend(0)
    device.fair.rank(0)
    assert device.fair.served_ns["rare"] >= served_ns - turn_ns
    if served_ns // turn_ns:
        assert device.fair.ranks.get("rare", 0) < device.fair.ranks["flood"]


def test_without_contention_or_with_one_tenant_nothing_is_ranked() -> None:
    fair = Fairness({}, MS, lambda _: 1.0)
    fair.arriving("a", 0)
    fair.entered("a")
    fair.served("a", 50 * MS)
    assert not fair.arriving("b", 0)
    fair.contend(0)
    assert fair.arriving("b", 0)
    assert fair.ranks.get("b", 0) < fair.ranks["a"]
    assert not fair.arriving("b", HOLD_NS - 1)
    assert fair.arriving("b", HOLD_NS)  # it was long enough ago
    assert not fair.ranks
    fair.contend(HOLD_NS)
    assert not fair.arriving("a", HOLD_NS)


def test_ranks_that_still_agree_are_left_alone() -> None:
    """Sorting all that waits again is dear, so a tenant that comes and goes must not cause it each time."""
    fair = Fairness({}, MS, lambda _: 1.0)
    fair.arriving("flood", 0)
    fair.entered("flood")
    fair.contend(0)
    changes = 0
    for _ in range(50):
        fair.served("flood", 10 * MS)
        changes += fair.arriving("rare", 0)
        fair.entered("rare")
        fair.left("rare")
        fair.served("rare", MS)
    assert changes == 1


def test_clocks_of_service_of_many_names_are_forgotten() -> None:
    fair = Fairness({}, MS, lambda _: 1.0)
    fair.arriving("always", 0)
    fair.entered("always")
    for number in range(3 * KEPT):
        fair.arriving(f"t{number}", 0)
        fair.entered(f"t{number}")
        fair.left(f"t{number}")
        fair.served("always", 2 * MS)
    assert len(fair.served_ns) <= KEPT + 2


@pytest.mark.parametrize("name", ["", "default", "acme", "spiffe://cluster/ns/a", "a@b.c", "CN=x,O=y"])
def test_names_of_tenants(name: str) -> None:
    assert tenant_names.read(name) == ("" if name == "default" else name)


@pytest.mark.parametrize("name", ["*", "(other)", " a", "a b", "a\n", "-a", "a" * 129, "\u00e4", "a\x00"])
def test_what_no_tenant_can_be_called(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a tenant, expected"):
        tenant_names.read(name)
