"""One scheme of settings for all services: a frozen dataclass, read from flags, environment and a file.

Each field is declared with `setting(default, help)`. The field `max_pending` of the frontend is the flag
`--max-pending`, the variable `COTENANT_FRONTEND_MAX_PENDING`, and the key `max-pending` of a file given by
`--config`; a flag wins over the environment, the environment over the file.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, get_type_hints

import configargparse

Settings = TypeVar("Settings")


def setting(default: Any, meaning: str, *, choices: Sequence[str] | None = None, metavar: str | None = None) -> Any:
    """Declares a field: its default, what it means (with its unit), and what it may be."""
    return dataclasses.field(default=default, metadata={"help": meaning, "choices": choices, "metavar": metavar})


def read(kind: type[Settings], service: str, description: str, argv: Sequence[str] | None = None) -> Settings:
    """Reads the settings `kind` of a service. Exits with a usage message where something is wrong with them."""
    parser = configargparse.ArgumentParser(
        prog=f"python -m cotenant.{service}",
        description=description,
        formatter_class=configargparse.ArgumentDefaultsHelpFormatter,
        auto_env_var_prefix=f"COTENANT_{service.upper()}_",
        add_config_file_help=False,
    )
    parser.add_argument("--config", is_config_file=True, help="file of settings, one `key = value` a line")
    add_arguments(parser, kind)
    return from_arguments(kind, vars(parser.parse_args(argv)))


def own_first(kind: type[Any]) -> list["dataclasses.Field[Any]"]:
    """The fields of `kind`, those that it shares with other services last."""
    return sorted(dataclasses.fields(kind), key=lambda field: field.name not in kind.__annotations__)


def add_arguments(parser: configargparse.ArgumentParser, kind: type[Any]) -> None:
    """Adds a flag for each field of `kind`."""
    hints = get_type_hints(kind)
    for field in own_first(kind):
        options: dict[str, Any] = {"default": field.default, "help": field.metadata["help"]}
        flag, hint = "--" + field.name.replace("_", "-"), hints[field.name]
        if hint is bool:
            options["action"] = "store_false" if field.default else "store_true"
            flag = flag.replace("--", "--no-", 1) if field.default else flag
            options["dest"] = field.name
        else:
            options["type"] = str if hint == tuple[str, ...] else hint
            options["metavar"] = field.metadata["metavar"] or field.name.rsplit("_", 1)[-1].upper()
            options["choices"] = field.metadata["choices"]
            if hint == tuple[str, ...]:
                options["default"] = ",".join(map(str, options["default"]))
        parser.add_argument(flag, **options)


def from_arguments(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """The settings `kind` from parsed values; lists are separated by commas."""
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = values[field.name]
        if hints[field.name] == tuple[str, ...]:
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        arguments[field.name] = value
    return kind(**arguments)
