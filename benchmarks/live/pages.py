"""Puts results into the pages that tell of them, between two marks, so that a page shows one run and no other."""

import os
from datetime import UTC, datetime
from pathlib import Path

from cotenant.cli.machine import describe

DOCS = Path(__file__).resolve().parents[2] / "docs" / "experiments"
BEGIN, END = "<!-- results: written by the benchmark -->", "<!-- end of results -->"


def put(page: Path, results: str) -> None:
    """Replaces what stands between the marks of a page. Raises ValueError where it has none."""
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: the marks '{BEGIN}' and '{END}' are not in it")
    page.write_text(f"{head}{BEGIN}\n\n{results.strip()}\n\n{END}{tail}", encoding="utf-8")


def context() -> str:
    """When and where, as a sentence."""
    machine = describe()
    return (
        f"Measured until {datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {machine['cores']} cores of an "
        f"{machine['processor']}, {machine['memory']}; load average at the end {os.getloadavg()[0]:.1f}."
    )
