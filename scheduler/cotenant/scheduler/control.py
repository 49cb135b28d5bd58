"""Settings at run time, live: who asks for a change waits until it holds; frontends hear what concerns them."""

from pathlib import Path

import structlog

from cotenant.scheduler import settings_codec
from cotenant.scheduler.ledger import TenantLedger
from cotenant.scheduler.policies import POLICIES
from cotenant.scheduler.settings import Change, Settings, changed
from cotenant.scheduler.shell import Shell
from cotenant.v1 import scheduler_pb2

_log = structlog.get_logger()


class StaleError(Exception):
    """A change was meant for settings that others have changed since."""


class Control:
    """See the module's text. With a `file`, settings outlive the scheduler."""

    def __init__(self, shell: Shell, file: Path | None = None) -> None:
        self._shell, self._file = shell, file
        self.settings = shell.core.config.settings  # with changes that are on their way to the core

    async def change(self, change: Change, expected_revision: int = 0) -> Settings:
        """Makes a change; returns the settings that hold then.

        Raises ValueError that names the field, StaleError, or OSError where they cannot be kept; nothing changes then.
        """
        if expected_revision not in (0, self.settings.revision):
            text = f"meant for revision {expected_revision} of the settings, and this is revision"
            raise StaleError(f"{text} {self.settings.revision}")
        settings = changed(self.settings, change, POLICIES)
        if self._file is not None:
            settings_codec.write(self._file, settings)
        self.settings = settings
        await self._shell.change_settings(settings)
        _log.info("settings", revision=settings.revision, **change.told())
        return settings

    def put_status(self, response: scheduler_pb2.GetStatusResponse) -> None:
        """Writes what there is to tell of tenants, once there are any."""
        core, ledgers = self._shell.core, self._shell.ledger.tenants
        response.settings_revision = core.config.revision
        tenancy = core.state.tenancy
        if not tenancy.active:
            return
        for name in sorted(ledgers.keys() | tenancy.tenants.accounts.keys()):
            account, seen = tenancy.tenants.accounts.get(name), ledgers.get(name) or TenantLedger()
            response.tenants.add(
                tenant=name,
                weight=tenancy.tenants.weight(name),
                pending=account.pending if account else 0,
                in_time=seen.in_time,
                late=seen.late,
                refused=seen.refused,
                failed=seen.failed,
                over_quota=seen.over_quota,
                work_ns=seen.work_ns,
            )
