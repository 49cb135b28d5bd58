"""Model control mode "poll": what changes in the repository is loaded, what leaves it is unloaded.

Looks at what the executors tell of their disks, which are one repository: a model is there if one of them has it. A
change is taken up when two looks in a row agree, so that files which are still being copied are left alone.
"""

import asyncio

import structlog

from cotenant.scheduler.shell import Shell

_log = structlog.get_logger()


async def follow(shell: Shell, every_s: float) -> None:
    """Looks every so often, until cancelled."""
    taken_up: dict[str, str] | None = None  # as it was loaded
    before: dict[str, str] = {}
    while True:
        await asyncio.sleep(every_s if taken_up else min(every_s, 1.0))
        await shell.scan()
        now = _fingerprints(shell)
        if now is None:
            continue
        if taken_up is None:
            taken_up = before = now
        stable = {model: mark for model, mark in now.items() if before.get(model) == mark}
        gone = [model for model in taken_up if model not in now and model not in before]
        changed = [model for model, mark in stable.items() if taken_up.get(model) != mark]
        before = now
        for model in gone:
            del taken_up[model]
            _tell(model, "unload", (await shell.unload(model)).error)
        for model in changed:
            taken_up[model] = stable[model]
            _tell(model, "load", (await shell.load(model)).error)


def _fingerprints(shell: Shell) -> dict[str, str] | None:
    """Marks of what is there now; None while no executor tells."""
    if not shell.repository:
        return None
    marks: dict[str, str] = {}
    for _, scan in sorted(shell.repository.items()):
        for row in scan.models:
            if row.fingerprint:
                marks.setdefault(row.model, row.fingerprint)
    return marks


def _tell(model: str, what: str, error: str) -> None:
    if error:
        _log.warning("repository changed", model=model, did=what, error=error)
    else:
        _log.info("repository changed", model=model, did=what)
