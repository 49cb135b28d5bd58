"""Reads compose.yaml and the Dockerfile as an engine would, as far as this project uses them."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Image:
    """What a Dockerfile's stage says of the containers that run it."""

    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    user: str = "root"
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True)
class Volume:
    """A folder of a container; `source` is a volume's name or a path."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Service:
    """A service of compose.yaml; `spec` is its mapping, merged and interpolated."""

    name: str
    spec: Mapping[str, Any]
    image: Image | None

    @property
    def environment(self) -> dict[str, str]:
        """The image's variables and compose's."""
        return {**(self.image.environment if self.image else {}), **self.spec.get("environment", {})}

    @property
    def command(self) -> list[str]:
        """What is run."""
        entrypoint = self.image.entrypoint if self.image else ()
        return [*self.spec.get("entrypoint", entrypoint), *self.spec.get("command", [])]

    @property
    def health(self) -> list[str]:
        """The health check's command."""
        kind, *command = self.spec["healthcheck"]["test"]
        assert kind == "CMD", f"the health check of {self.name} wants a shell"
        return [str(argument) for argument in command]

    @property
    def profiles(self) -> set[str]:
        """Profiles it belongs to; none if it always runs."""
        return set(self.spec.get("profiles", ()))

    @property
    def stop_grace_s(self) -> float:
        """How long it may take to stop."""
        return seconds(self.spec["stop_grace_period"])

    @property
    def volumes(self) -> list[Volume]:
        """Its volumes, short or long syntax."""
        return [_volume(entry) for entry in self.spec.get("volumes", ())]


class Compose:
    """compose.yaml with variables from `environment`."""

    def __init__(self, environment: Mapping[str, str], *, folder: Path = ROOT) -> None:
        text = (folder / "compose.yaml").read_text(encoding="utf-8")
        self.spec: Mapping[str, Any] = _interpolated(yaml.safe_load(text), environment)
        stages = dockerfile((folder / "Dockerfile").read_text(encoding="utf-8"))
        self.services = {
            name: Service(name, spec, stages[spec["build"]["target"]] if "build" in spec else None)
            for name, spec in self.spec["services"].items()
        }

    def active(self, *profiles: str) -> list[Service]:
        """The services that run under these profiles, each after those it depends on."""
        chosen = {name: s for name, s in self.services.items() if not s.profiles or s.profiles & set(profiles)}
        ordered: dict[str, Service] = {}

        def add(name: str) -> None:
            for other, how in chosen[name].spec.get("depends_on", {}).items():
                assert other in chosen or not how.get("required", True), f"{name} needs {other}, which does not run"
                if other in chosen:
                    add(other)
            ordered[name] = chosen[name]

        for name in chosen:
            add(name)
        return list(ordered.values())


def _interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(entry, environment) for key, entry in value.items()}
    if isinstance(value, list):
        return [_interpolated(entry, environment) for entry in value]
    return interpolate(value, environment) if isinstance(value, str) else value


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Replaces `${NAME}`, `${NAME-default}` and `${NAME:-default}`."""

    def value(match: re.Match[str]) -> str:
        name, separator, default = match.groups()
        if name in environment and (environment[name] or separator != ":-"):
            return environment[name]
        assert separator, f"{name} is not set and has no default"
        return str(default)

    return re.sub(r"\$\{(\w+)(?:(:?-)([^}]*))?\}", value, text)


def seconds(duration: str) -> float:
    """Compose's durations, as far as they are whole seconds."""
    match = re.fullmatch(r"(\d+)s", duration)
    assert match, f"{duration!r} is not a number of seconds, e.g. 15s"
    return float(match[1])


def _volume(entry: str | Mapping[str, Any]) -> Volume:
    if isinstance(entry, str):
        source, target, *mode = entry.split(":")
        return Volume(source, target, mode == ["ro"])
    return Volume(entry["source"], entry["target"], entry.get("read_only", False))


def dockerfile(text: str) -> dict[str, Image]:
    """The stages of a Dockerfile by name."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: dict[str, Image] = {}
    name = ""
    for line in lines.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        match instruction:
            case "FROM":
                source, _, name = rest.split()
                stages[name] = stages.get(source, Image())
            case "ENV":
                more = dict(pair.split("=", 1) for pair in shlex.split(rest))
                stages[name] = replace(stages[name], environment={**stages[name].environment, **more})
            case "ENTRYPOINT":
                stages[name] = replace(stages[name], entrypoint=tuple(json.loads(rest)))
            case "HEALTHCHECK":
                stages[name] = replace(stages[name], health=tuple(json.loads(rest.partition(" CMD ")[2])))
            case "USER":
                stages[name] = replace(stages[name], user=rest.strip())
            case "STOPSIGNAL":
                stages[name] = replace(stages[name], stop_signal=rest.strip())
    return stages
