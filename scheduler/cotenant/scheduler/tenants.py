"""Tenants and their quotas: who is told apart, what each may ask for, and what it has asked for.

Theory. A quota of so much per second is kept as one instant: until when what was let through fills the rate (the
theoretical arrival time of a leaky bucket). What costs c moves it by c / rate; something is let through while the
instant is no further ahead than the burst takes. Nothing needs to be refilled, and the instant at which a refused
request would pass follows by subtraction. Work is counted when it is asked for, by what was predicted alone, and
corrected when it runs in a batch, or does not run.

A tenant without settings of its own is forgotten while its account says nothing: nothing waits, nothing is owed. Once
`max_tenants` of them cannot be forgotten, further ones share the account "(other)", so names cannot exhaust memory.
"""

from collections.abc import Iterable

import msgspec

from cotenant.runtime import tenant_names
from cotenant.scheduler.events import QuotaExcess, Request
from cotenant.scheduler.settings import Settings, TenantSettings

SECOND_NS = 1_000_000_000
SWEEP_NS = 1_000_000_000  # accounts are looked through for some to forget at most so often
REQUESTS, WORK, PENDING = "requests_per_s", "device_share", "max_pending"


class Limits(msgspec.Struct, frozen=True):
    """A tenant's settings as they are reckoned with; 0 stands for none. Durations in ns."""

    weight: float = 1.0
    interval_ns: int = 0  # between requests at the rate
    burst_ns: int = 0  # how far ahead of the rate requests may be
    device_share: float = 0.0
    work_burst_ns: int = 0  # how far ahead of the share work may be
    max_pending: int = 0


class Account(msgspec.Struct):
    """What a tenant has asked for. The instants are until when it fills its quotas."""

    tenant: str
    limits: Limits = Limits()
    own: bool = False  # it has settings of its own
    requests_ns: int = 0
    work_ns: int = 0
    pending: int = 0

    def says_nothing(self, now_ns: int) -> bool:
        """Whether it is as good as new."""
        return not (self.own or self.pending) and self.requests_ns <= now_ns and self.work_ns <= now_ns


def limits_of(own: TenantSettings | None, rest: TenantSettings | None) -> Limits:
    """What holds for a tenant by its settings, and by those of "*" for what they leave open."""

    def told(name: str) -> float:
        for entry in (own, rest):
            if entry is not None and (value := getattr(entry, name)) is not None:
                return float(value)
        return 1.0 if name == "weight" else 0.0

    rate, share = told("requests_per_s"), told("device_share")
    interval_ns = max(1, int(SECOND_NS / rate)) if rate else 0
    burst = told("burst_requests") or max(1.0, rate)
    work_burst_ns = (told("burst_work_ns") or share * SECOND_NS) / share if share else 0.0
    return Limits(
        told("weight"), interval_ns, int(burst) * interval_ns, share, int(work_burst_ns), int(told("max_pending"))
    )


class Tenants:
    """See the module's text."""

    def __init__(self, settings: Settings) -> None:
        self.accounts: dict[str, Account] = {"": Account("")}
        self.reserved: dict[int, int] = {}  # solo work counted for a request that waits, by its id
        self.swept_ns = 0
        self._max_others = settings.max_tenants
        self._rest: TenantSettings | None = None
        self._others = 0  # accounts of tenants without settings, OTHERS not among them
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes settings; what was asked for so far still counts."""
        own = {entry.tenant: entry for entry in settings.tenants}
        self._rest, self._max_others = own.pop(tenant_names.ALL, None), settings.max_tenants
        for name in own:
            self.accounts.setdefault(name, Account(name))
        for name, account in self.accounts.items():
            account.own = name in own
            account.limits = limits_of(own.get(name), self._rest)
        self._count()

    def restore(self, accounts: Iterable[Account], reserved: dict[int, int], swept_ns: int) -> None:
        """Becomes what was kept; what waits is counted again as it is queued."""
        for kept in accounts:
            account = self.accounts.setdefault(kept.tenant, Account(kept.tenant, limits_of(None, self._rest)))
            account.requests_ns, account.work_ns = kept.requests_ns, kept.work_ns
        self.reserved, self.swept_ns = reserved, swept_ns
        self._count()

    def _count(self) -> None:
        named = (account for name, account in self.accounts.items() if name and name != tenant_names.OTHERS)
        self._others = sum(not account.own for account in named)

    # ---- accounts

    def weight(self, tenant: str) -> float:
        """The weight of a tenant."""
        account = self.accounts.get(tenant)
        return account.limits.weight if account else limits_of(None, self._rest).weight

    def known_as(self, tenant: str, now_ns: int) -> str:
        """Under which name a tenant is kept: its own, or "(other)" if there are too many. Makes its account."""
        if tenant in self.accounts:
            return tenant
        if tenant != tenant_names.OTHERS:
            if self._others >= self._max_others and now_ns >= self.swept_ns + SWEEP_NS:
                self._sweep(now_ns)
            if self._others >= self._max_others:
                return self.known_as(tenant_names.OTHERS, now_ns)
            self._others += 1
        self.accounts[tenant] = Account(tenant, limits_of(None, self._rest))
        return tenant

    def _sweep(self, now_ns: int) -> None:
        self.swept_ns = now_ns
        for name in [name for name, account in self.accounts.items() if name and account.says_nothing(now_ns)]:
            del self.accounts[name]
        self._count()

    # ---- quotas

    def admit(self, tenant: str, request_id: int, work_ns: int, now_ns: int) -> QuotaExcess | None:
        """Counts a request of a tenant that is known, or tells which quota it would exceed; then nothing is counted.

        `work_ns` is what it takes alone, as predicted; 0 if that is not known.
        """
        account = self.accounts[tenant]
        limits = account.limits
        if limits.max_pending and account.pending >= limits.max_pending:
            return QuotaExcess(tenant, PENDING)
        requests_ns = max(account.requests_ns, now_ns) + limits.interval_ns
        if limits.interval_ns and (over_ns := requests_ns - now_ns - limits.burst_ns) > 0:
            return QuotaExcess(tenant, REQUESTS, over_ns)
        if limits.device_share:
            owed_ns = max(0, account.work_ns - now_ns)
            cost_ns = int(work_ns / limits.device_share)
            if owed_ns and (over_ns := min(owed_ns, owed_ns + cost_ns - limits.work_burst_ns)) > 0:
                return QuotaExcess(tenant, WORK, over_ns)
            account.work_ns = now_ns + owed_ns + cost_ns
            self.reserved[request_id] = work_ns
        account.requests_ns = requests_ns if limits.interval_ns else 0
        return None

    def ran(self, request: Request, work_ns: int) -> None:
        """A request runs and takes so much solo work of its batch, more or less than was counted. Less than 0: back."""
        account = self.accounts.get(request.tenant)
        more_ns = work_ns - self.reserved.pop(request.request_id, 0)
        if account is not None and account.limits.device_share and more_ns:
            account.work_ns += int(more_ns / account.limits.device_share)

    # ---- what waits

    def entered(self, request: Request) -> None:
        """A request waits. Its account may be gone, if the request was nowhere for a while after a start."""
        account = self.accounts.get(request.tenant)
        if account is None:
            account = self.accounts[request.tenant] = Account(request.tenant, limits_of(None, self._rest))
            self._count()
        account.pending += 1

    def left(self, request: Request) -> None:
        """A request no longer waits; without `ran` before it, it did not run either."""
        if account := self.accounts.get(request.tenant):
            account.pending -= 1
        if request.request_id in self.reserved:
            self.ran(request, 0)


_WORDS = {
    REQUESTS: "is above its requests per second",
    WORK: "is above its share of the devices' time",
    PENDING: "has as many requests waiting as it may",
}


def words(excess: QuotaExcess) -> str:
    """A refusal for a quota, for people."""
    when = f"; try again in {excess.retry_after_ns / 1e6:.1f} ms" if excess.retry_after_ns else ""
    return f"tenant '{tenant_names.shown(excess.tenant)}' {_WORDS[excess.quota]} ({excess.quota}){when}"
