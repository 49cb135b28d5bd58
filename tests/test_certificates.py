"""`cotenant certificates`, `cotenant --tls`, and the compose file that uses them."""

import dataclasses
import os
import stat
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotenant.cli import certificates as command
from cotenant.cli import identity
from cotenant.runtime import certificates, logs, transport
from cotenant.runtime.access import DEFAULTS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What a command changes of its process is as before afterwards."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(transport, "_own", transport.own())
    monkeypatch.setattr(logs, "configure", lambda *_, **__: None)
    return monkeypatch


def names(folder: Path, name: str) -> tuple[str, ...]:
    return certificates.read(f"{folder / name}.pem", f"{folder / name}.key", str(folder / "ca.pem"), "").names


def test_everybody_of_a_stack_gets_a_certificate_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    assert (
        command.main([str(folder), "--host", "gpu7.example.com", "--host", "executor=10.0.0.7", "--name", "shop"]) == 0
    )
    assert "frontend, scheduler, executor, predictor, admin, viewer, client, shop" in capsys.readouterr().out
    assert names(folder, "frontend") == ("frontend", "localhost", "127.0.0.1", "0:0:0:0:0:0:0:1", "gpu7.example.com")
    assert "10.0.0.7" in names(folder, "executor")
    assert names(folder, "shop") == ("shop",)
    for key in folder.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_every_role_that_is_had_by_name_can_be_had(tmp_path: Path) -> None:
    made = command.make(tmp_path)
    assert set(DEFAULTS) - {"shared-memory"} <= set(made)


def test_once_more_it_renews_under_the_same_authority(tmp_path: Path) -> None:
    command.make(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command.make(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] == after[name]} == {"ca.pem", "ca.key"}


def test_a_host_must_not_carry_a_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path), "--host", "admin"]) == 1
    assert "--host admin: whoever carries this name has its role; write SERVICE=admin" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert command.main([str(tmp_path)]) == 1
    assert "pip install 'cotenant[certificates]'" in capsys.readouterr().err


@pytest.mark.usefixtures("process")
def test_flags_before_a_command_tell_who_it_is(tmp_path: Path) -> None:
    command.make(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    flags = ["--tls", str(tmp_path / "viewer"), f"--token-file={tmp_path / 'token'}"]
    assert identity.take([*flags, "top", "--tls"]) == ["top", "--tls"]
    own = transport.own()
    assert own.certificates is not None
    assert own.certificates.get().names == ("viewer",)
    assert own.metadata() == (("authorization", "Bearer secret"),)
    assert identity.folder() == tmp_path


@pytest.mark.parametrize("arguments", [["--tls"], ["--tls", "nowhere/admin", "top"], ["--token-file=nowhere", "top"]])
def test_who_cannot_be_is_told_in_a_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str], process: pytest.MonkeyPatch
) -> None:
    process.setattr(sys, "argv", ["cotenant", *arguments])
    assert import_module("cotenant.cli.__main__").main() == 2
    assert capsys.readouterr().err.startswith("cotenant: ")


def test_the_compose_file_gives_every_service_its_files(tmp_path: Path) -> None:
    command.make(tmp_path)
    plain: Any = yaml.safe_load((ROOT / "compose.yaml").read_text())
    secured: Any = yaml.safe_load((ROOT / "deploy" / "compose.tls.yaml").read_text())
    assert set(secured["services"]) == {name for name, spec in plain["services"].items() if "build" in spec}
    for name, spec in secured["services"].items():
        service = name.partition("-")[0]
        prefix, given = f"COTENANT_{service.upper()}_", dict(spec["environment"])
        assert given.pop("COTENANT_TLS") == f"/certs/{service}"
        settings = {key.removeprefix(prefix).lower(): value for key, value in given.items()}
        files = {key: value.replace("/certs", str(tmp_path)) for key, value in settings.items()}
        expected = dict(flag[2:].replace("-", "_").split("=") for flag in identity.flags(tmp_path, service))
        if service == "predictor":
            del expected["tls_ca"]  # it connects to nobody
        assert {key.replace("-", "_"): value.replace("-", "_") for key, value in files.items()} == expected
        assert transport.Transport(transport.TransportSettings(**files)).certificates is not None


def test_all_services_share_the_settings() -> None:
    shared = {field.name for field in dataclasses.fields(transport.TransportSettings)}
    for service in command.SERVICES:
        kind = getattr(import_module(f"cotenant.{service}.__main__"), f"{service.capitalize()}Settings")
        assert shared <= {field.name for field in dataclasses.fields(kind)}
