"""All targets by name, and which share of a million inputs each gets: most where most is read."""

from fuzz.answering import Answers
from fuzz.connections import Connections
from fuzz.executing import Blocks, Exchanges, Orders
from fuzz.predicting import Observed
from fuzz.reading import Configs, Logs
from fuzz.scheduling import Estimates, Events, Submits
from fuzz.target import Target
from fuzz.wire import Wire

_SHARES: dict[type[Target], float] = {
    Wire: 0.16,
    Connections: 0.02,
    Events: 0.08,
    Submits: 0.10,
    Estimates: 0.16,
    Observed: 0.10,
    Orders: 0.02,
    Blocks: 0.08,
    Exchanges: 0.08,
    Answers: 0.10,
    Configs: 0.096,
    Logs: 0.004,
}
TARGETS = {kind.name: kind for kind in _SHARES}
SHARES = {kind.name: share for kind, share in _SHARES.items()}
