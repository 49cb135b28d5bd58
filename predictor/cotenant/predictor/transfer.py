"""Learned state from file to file: a backup, or what a fleet's new device starts from.

The format is JSON, one object (docs/predictors.md describes it): anyone can read solo times and demands from it, and
the learners' own bytes travel in base64.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from cotenant.predictor.kept import Changes, KeptClass, KeptDevice
from cotenant.predictor.store import Store

COMMANDS = ("export", "import")
FORMAT, FORMAT_VERSION = "cotenant-predictor-state", 1


class ExportedDevice(msgspec.Struct, frozen=True):
    """One device as one learner knows it."""

    learner: str
    device: KeptDevice
    classes: list[KeptClass]


class Export(msgspec.Struct, frozen=True):
    """The whole file."""

    format: str
    version: int
    software: str
    devices: list[ExportedDevice]


def export_state(state: Path, file: Path, device_id: str = "") -> int:
    """Writes everything, or one device, to `file`; returns how many. Raises ValueError if there is nothing.

    A predictor that runs may go on using `state`.
    """
    if not state.exists():
        raise ValueError(f"there is no state {state}")
    store = Store(state, alone=False)
    try:
        with store.snapshot():
            devices = [
                ExportedDevice(learner, kept, [one for _, one in store.classes(learner, kept.device_id)])
                for learner in store.learners()
                for kept in store.devices(learner)
                if device_id in ("", kept.device_id)
            ]
    finally:
        store.close()
    if not devices:
        raise ValueError(f"{state} knows {f'no device {device_id!r}' if device_id else 'no device'}")
    document = Export(FORMAT, FORMAT_VERSION, version("cotenant"), devices)
    part = file.with_name(file.name + ".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    part.replace(file)
    return len(devices)


def read_export(file: Path) -> Export:
    """Reads an exported file. Raises ValueError if it is none, or of a newer version."""
    try:
        head = msgspec.json.decode(file.read_bytes(), type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise ValueError(f"{file}: no exported state: {error}") from error
    if head.get("format") != FORMAT or not isinstance(head.get("version"), int):
        raise ValueError(f"{file}: no exported state: format is {head.get('format')!r}, expected {FORMAT!r}")
    if head["version"] != FORMAT_VERSION:
        raise ValueError(f"{file}: exported state of version {head['version']}, this program reads {FORMAT_VERSION}")
    try:
        return msgspec.convert(head, Export)
    except msgspec.ValidationError as error:
        raise ValueError(f"{file}: exported state is damaged: {error}") from error


def import_state(state: Path, file: Path, *, device_id: str = "", as_device: str = "", replace: bool = False) -> int:
    """Adds what `file` holds, or one device of it, to `state`; returns how many devices.

    Under another name (`as_device`) it counts as a sibling's until the device's own batches have spoken. Raises
    ValueError if that is ambiguous, if a device is known already (unless `replace`), or a predictor uses the state.
    """
    chosen = [one for one in read_export(file).devices if device_id in ("", one.device.device_id)]
    if not chosen:
        raise ValueError(f"{file}: holds {f'no device {device_id!r}' if device_id else 'no device'}")
    names = sorted({one.device.device_id for one in chosen})
    if as_device and len(names) > 1:
        raise ValueError(f"{file}: holds {', '.join(names)}; say with --device which one becomes '{as_device}'")
    store = Store(state)
    try:
        for one in chosen:
            name = as_device or one.device.device_id
            present = {kept.device_id for kept in store.devices(one.learner)}
            if name in present and not replace:
                raise ValueError(f"{state}: device '{name}' is known already; --replace forgets what is known of it")
        for one in chosen:
            name = as_device or one.device.device_id
            borrowed = name != one.device.device_id
            gone = [(name, kept.batch_class) for _, kept in store.classes(one.learner, name)]
            classes = [
                (name, msgspec.structs.replace(kept, inherited=kept.inherited or borrowed)) for kept in one.classes
            ]
            device = msgspec.structs.replace(one.device, device_id=name)
            store.write(Changes(one.learner, devices=[device], classes=classes, gone_classes=gone))
    finally:
        store.close()
    return len(chosen)


def main(argv: Sequence[str]) -> None:
    """Entry point of `python -m cotenant.predictor export` and `import`. Raises ValueError, with what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m cotenant.predictor", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        p = commands.add_parser(command)
        p.add_argument("--state", type=Path, required=True, metavar="FILE", help="the predictor's state")
        p.add_argument("--device", default="", metavar="ID", help="only this device")
        p.add_argument("file", type=Path, metavar="FILE", help="the exported state, JSON")
    p.add_argument("--as", dest="as_device", default="", metavar="ID", help="the device that is to start from it")
    p.add_argument("--replace", action="store_true", help="forget what is known of the device")
    chosen = parser.parse_args(argv)
    if chosen.command == "export":
        count = export_state(chosen.state, chosen.file, chosen.device)
    else:
        count = import_state(
            chosen.state, chosen.file, device_id=chosen.device, as_device=chosen.as_device, replace=chosen.replace
        )
    print(f"{chosen.command}ed {count} device{'s' if count > 1 else ''}")  # noqa: T201
