"""What a run has measured so far, in one JSON file that is replaced as a whole after every point."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Kept:
    """Rows of points and outcomes of preparations, by key."""

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    prepared: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "Kept":
        """What an earlier run left there, or nothing. Raises ValueError where the file is something else."""
        if not path.exists():
            return cls(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(path, document["rows"], document["prepared"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not what a run keeps: {error}; remove it to begin anew") from error

    def has(self, key: str) -> bool:
        """Whether this was measured or prepared."""
        return key in self.rows or key in self.prepared

    def keep(self, key: str, row: dict[str, Any]) -> None:
        """One more point."""
        self.rows[key] = row
        self._write()

    def prepare(self, key: str, found: dict[str, Any]) -> None:
        """One more preparation."""
        self.prepared[key] = found
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".part")
        scratch.write_text(json.dumps({"rows": self.rows, "prepared": self.prepared}, indent=1), encoding="utf-8")
        scratch.replace(self.path)
