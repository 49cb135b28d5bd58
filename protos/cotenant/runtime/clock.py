"""One clock per process, and how clocks of two hosts are compared.

Every instant in Cotenant is `time.monotonic_ns()` of some host. On one host that clock is shared by all processes,
so instants may be compared as they are. Between hosts the connecting side keeps a `PeerClock` and converts.
"""

from collections import deque
from pathlib import Path
from time import monotonic_ns as now_ns

__all__ = ["PeerClock", "clock_id", "now_ns"]


def clock_id() -> str:
    """Identity of this process's monotonic clock: of the host's boot, and of the time namespace if there are several.

    Equal identities share a clock. Empty where the system tells none.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
    try:
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return boot


DRIFT_NS = 1_000_000  # quartz clocks drift apart by less between one exchange and the next sixteen


class PeerClock:
    """Maps instants of a peer's monotonic clock to ours and back.

    The offset is that of the exchange with the shortest round trip among the last sixteen, as in NTP's clock filter
    (RFC 5905, section 10); its uncertainty is half that round trip. An exchange that contradicts it says that one of
    the clocks has stepped (a host that was suspended): what was learned before is forgotten.
    """

    def __init__(self, *, shared: bool) -> None:
        self.shared = shared
        self._samples: deque[tuple[int, int]] = deque(maxlen=16)  # (round trip, offset), both in ns
        self._offset_ns = 0
        self._round_trip_ns = 0

    def observe(self, sent_ns: int, peer_received_ns: int, peer_sent_ns: int, received_ns: int) -> None:
        """Learns from one exchange: ours sent, the peer's received and sent, ours received (RFC 5905, section 8)."""
        round_trip = (received_ns - sent_ns) - (peer_sent_ns - peer_received_ns)
        if self.shared or round_trip < 0:
            return
        offset_ns = ((peer_received_ns - sent_ns) + (peer_sent_ns - received_ns)) // 2
        apart_ns = abs(offset_ns - self._offset_ns) - (round_trip + self._round_trip_ns) // 2
        if self._samples and apart_ns > DRIFT_NS:
            self._samples.clear()
        self._samples.append((round_trip, offset_ns))
        self._round_trip_ns, self._offset_ns = min(self._samples)

    @property
    def known(self) -> bool:
        """Whether instants can be mapped."""
        return self.shared or bool(self._samples)

    @property
    def uncertainty_ns(self) -> int:
        """Largest error of a mapped instant, a duration."""
        return self._round_trip_ns // 2

    def to_peer(self, ns: int) -> int:
        """Our instant on the peer's clock; 0, which stands for no instant, stays 0."""
        return ns + self._offset_ns if ns else 0

    def from_peer(self, ns: int) -> int:
        """The peer's instant on our clock; 0, which stands for no instant, stays 0."""
        return ns - self._offset_ns if ns else 0
