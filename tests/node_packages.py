"""Node examples with their packages, installed once into a cache; tests are skipped where that cannot be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def installed(source: Path, folder: Path) -> Path:
    """A copy of an example in `folder`, ready to run. Skips the test where node, npm or the registry is missing."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cotenant-tests" / source.parent.name
    cache.mkdir(parents=True, exist_ok=True)
    wanted, kept = (source / "package.json").read_bytes(), cache / "package.json"
    if not kept.exists() or kept.read_bytes() != wanted or not (cache / "node_modules").exists():
        kept.write_bytes(wanted)
        command = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            kept.unlink()
            pytest.skip(f"npm cannot install here: {done.stderr.strip()[-200:]}")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(cache / "node_modules")
    return folder
