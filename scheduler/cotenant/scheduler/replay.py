"""Feeds a recorded log to a fresh core and compares: the proof that nothing but time and events decides."""

from collections import Counter
from pathlib import Path

import msgspec

from cotenant.scheduler import events as ev
from cotenant.scheduler import record, snapshot
from cotenant.scheduler.core import Core
from cotenant.scheduler.policies import POLICIES


class Difference(msgspec.Struct, frozen=True):
    """The first place at which a replay went another way."""

    group: int
    now_ns: int
    recorded: str
    replayed: str


class Outcome(msgspec.Struct, frozen=True):
    """What a replay found."""

    groups: int
    events: int
    actions: int
    difference: Difference | None = None
    skipped: int = 0  # records of types that only a later version knows


def replay(path: Path) -> Outcome:
    """Replays one part of a log.

    Raises ValueError if it is not one, holds events that are not known here, or names a policy that is not.
    """
    core: Core | None = None
    groups = events = actions = 0
    skipped: Counter[str] = Counter()
    for entry in record.read(path, skipped):
        if isinstance(entry, snapshot.Snapshot):
            if entry.config.policy not in POLICIES:
                raise ValueError(f"{path}: policy '{entry.config.policy}' is not known here")
            core = snapshot.restore(entry, POLICIES[entry.config.policy](entry.config.level))
        elif isinstance(entry, record.Group):
            if core is None:
                raise ValueError(f"{path}: a group of events stands before the snapshot")
            for event in entry.events:
                if isinstance(event, ev.SettingsChanged) and event.settings.policy not in POLICIES:
                    raise ValueError(f"{path}: policy '{event.settings.policy}' is not known here")
            again = tuple(core.handle(entry.now_ns, entry.events))
            groups, events, actions = groups + 1, events + len(entry.events), actions + len(again)
            if again != entry.actions:
                difference = Difference(groups, entry.now_ns, repr(entry.actions), repr(again))
                return Outcome(groups, events, actions, difference, skipped.total())
    return Outcome(groups, events, actions, skipped=skipped.total())
