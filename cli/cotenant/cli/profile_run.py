"""Runs the process that measures models alone, and goes on with the rest when a model takes it down."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import msgspec

from cotenant.cli.stack import ENVIRONMENT
from cotenant.runtime import solo

MODULE = (sys.executable, "-m", "cotenant.executor.profiling")


class ProfileError(Exception):
    """Nothing can be measured; the text says why."""


@dataclass(frozen=True)
class Asked:
    """What to measure, and where."""

    repository: Path
    device: str  # "cpu", "cuda:N" or "emulated:N"
    models: tuple[str, ...] = ()  # none for all of the repository
    batch_sizes: tuple[int, ...] = ()  # none for those that a load measures
    runs: int = 0  # of each class; 0 for as many as suit it
    remeasure: bool = False

    def flags(self) -> list[str]:
        """Of the process."""
        kind, _, index = self.device.partition(":")
        return [
            f"--model-repository={self.repository}",
            f"--device={kind}",
            f"--device-index={index or 0}",
            f"--models={','.join(self.models)}",
            f"--batch-sizes={','.join(map(str, self.batch_sizes))}",
            f"--runs={self.runs}",
            *(["--remeasure"] if self.remeasure else []),
        ]


def events(asked: Asked) -> Iterator[solo.Event]:
    """What there is to tell of each model, as it comes. Raises ProfileError if the process cannot begin."""
    while True:
        turn, left = "", asked.models
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(  # noqa: S603
                [*MODULE, *asked.flags()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**ENVIRONMENT, **os.environ},
            )
            assert process.stdout
            try:
                for line in process.stdout:
                    event: solo.Event = msgspec.json.decode(line, type=solo.Event)
                    if isinstance(event, solo.Opened):
                        left = event.models
                    elif isinstance(event, solo.Begun):
                        turn, left = event.model, left[left.index(event.model) + 1 :]
                    yield event
                status = process.wait()
            finally:  # also where nobody wants to hear more
                process.kill()
                process.wait()
                process.stdout.close()
            said = _last_line(log)
        if not status:
            return
        if not turn:
            raise ProfileError(said or f"the measuring process {_end(status)}")
        yield solo.Failed(turn, "", f"the measuring process {_end(status)}" + (f": {said}" if said else ""))
        if not left:
            return
        asked = replace(asked, models=left)


def _end(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _last_line(log: IO[bytes]) -> str:
    """What it said last; lines of its log are left out."""
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return next((line.strip() for line in reversed(lines) if not line.startswith("{")), "")
