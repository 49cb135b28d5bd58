"""Who a command is to the services it talks to: `cotenant --tls FOLDER/NAME COMMAND`, or COTENANT_TLS=FOLDER/NAME.

A folder as `cotenant certificates` writes it: `ca.pem`, and for each NAME the certificate `NAME.pem` and its key
`NAME.key`. Commands are `admin` as a rule; those that only look may be `viewer`, those that only infer `client`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it brings gRPC, for which commands that talk to nobody need not wait
    from cotenant.runtime.transport import TransportSettings

FLAGS: Mapping[str, str] = {"--tls": "COTENANT_TLS", "--token-file": "COTENANT_TOKEN_FILE"}


def take(argv: list[str]) -> list[str]:
    """Takes the flags that stand before a command, and returns the rest.

    Raises OSError or ValueError for files that are not there or make no sense.
    """
    while argv and argv[0].partition("=")[0] in FLAGS:
        flag, joined, value = argv[0].partition("=")
        if not joined:
            if len(argv) < 2:
                raise ValueError(f"{flag} needs a value")
            value = argv[1]
        os.environ[FLAGS[flag]] = value  # commands that start others hand it on
        argv = argv[1 if joined else 2 :]
    told, token = os.environ.get(FLAGS["--tls"], ""), os.environ.get(FLAGS["--token-file"], "")
    if told or token:
        from cotenant.runtime import logs, transport

        logs.configure("cotenant", level="warning", style="console")  # to stderr: output may be JSON
        transport.configure(settings(Path(told) if told else None, token))
    return argv


def folder() -> Path | None:
    """The folder of certificates this command was given, or None."""
    told = os.environ.get(FLAGS["--tls"], "")
    return Path(told).parent if told else None


def settings(identity: Path | None, token_file: str = "") -> "TransportSettings":
    """A command's settings: the identity FOLDER/NAME, and a token."""
    from cotenant.runtime.transport import TransportSettings

    if identity is None:
        return TransportSettings(token_file=token_file)
    return TransportSettings(
        tls_certificate=f"{identity}.pem",
        tls_key=f"{identity}.key",
        tls_ca=str(identity.parent / "ca.pem"),
        token_file=token_file,
    )


def flags(folder: Path, service: str, *, ask_clients: bool = True) -> tuple[str, ...]:
    """A service's flags: it is who it is, believes the folder's CA, and asks clients for certificates."""
    found = (f"--tls-certificate={folder / service}.pem", f"--tls-key={folder / service}.key")
    ca = folder / "ca.pem"
    return (*found, f"--tls-ca={ca}", *((f"--tls-client-ca={ca}",) if ask_clients else ()))
