"""`cotenant certificates`: an authority of one's own and a certificate for everybody in a stack, for trials and tests.

Run again, it renews the certificates under the same authority; services that run take them over. For production, let
what your site has issue them: the names are all that matters (docs/security.md).
"""

import argparse
import datetime as dt
import ipaddress
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

SERVICES = ("frontend", "scheduler", "executor", "predictor")
PEOPLE = ("admin", "viewer", "client")  # roles of clients; see cotenant.runtime.access
_LOCAL = ("localhost", "127.0.0.1", "::1")
_CA_DAYS = 3650


class Authority:
    """A key and a certificate that sign others. Needs the package `cryptography`."""

    def __init__(self, key: "ec.EllipticCurvePrivateKey", certificate: "x509.Certificate") -> None:
        self.key, self.certificate = key, certificate

    @classmethod
    def of(cls, folder: Path) -> "Authority":
        """The folder's, made now if it has none. Raises ValueError for files that are no authority."""
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        if (folder / "ca.key").exists():
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{folder / 'ca.key'}: expected the key of an elliptic curve")
            return cls(key, x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()))
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("cotenant development CA")
        made = _unsigned(name, name, key, _CA_DAYS)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(_usage(signs=True), critical=True)
        authority = cls(key, _signed(made, key))
        write(folder, "ca", authority.certificate, key)
        return authority

    def issue(
        self, name: str, hosts: Iterable[str], *, server: bool, days: float
    ) -> tuple["x509.Certificate", "ec.EllipticCurvePrivateKey"]:
        """A certificate that proves to be `name`, and is valid for hosts as well; negative days: it has expired."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [Purpose.CLIENT_AUTH, *([Purpose.SERVER_AUTH] if server else [])]
        made = _unsigned(_name(name), self.certificate.subject, key, days)
        made = made.add_extension(x509.SubjectAlternativeName([_host(one) for one in (name, *hosts)]), critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        made = made.add_extension(_usage(signs=False), critical=True)
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        made = made.add_extension(signer, critical=False)
        return _signed(made, self.key), key


def _name(common_name: str) -> "x509.Name":
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _unsigned(
    subject: "x509.Name", issuer: "x509.Name", key: "ec.EllipticCurvePrivateKey", days: float
) -> "x509.CertificateBuilder":
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    begin = now - dt.timedelta(minutes=5)  # hosts' clocks differ a little
    end = now + dt.timedelta(days=days)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return made.not_valid_before(min(begin, end - dt.timedelta(minutes=5))).not_valid_after(end)


def _signed(made: "x509.CertificateBuilder", key: "ec.EllipticCurvePrivateKey") -> "x509.Certificate":
    from cryptography.hazmat.primitives import hashes

    return made.sign(key, hashes.SHA256())


def _usage(*, signs: bool) -> "x509.KeyUsage":
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def write(folder: Path, name: str, certificate: "x509.Certificate", key: "ec.EllipticCurvePrivateKey") -> None:
    """Writes NAME.key, readable for its owner alone, and NAME.pem; each takes the place of an older one at once."""
    from cryptography.hazmat.primitives import serialization as pem

    kind, bare = pem.PrivateFormat.PKCS8, pem.NoEncryption()
    _replace(folder / f"{name}.key", key.private_bytes(pem.Encoding.PEM, kind, bare), 0o600)
    _replace(folder / f"{name}.pem", certificate.public_bytes(pem.Encoding.PEM), 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)


def make(folder: Path, *, hosts: Sequence[str] = (), names: Sequence[str] = (), days: float = 365) -> list[str]:
    """Writes all certificates of a stack; returns their names. Raises OSError or ValueError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = Authority.of(folder)
    for host in hosts:
        if host.rpartition("=")[2] in (*SERVICES, *PEOPLE) and "=" not in host:
            raise ValueError(f"--host {host}: whoever carries this name has its role; write SERVICE={host}")
    for name in (*SERVICES, *PEOPLE, *names):
        server = name in SERVICES
        more = [h.rpartition("=")[2] for h in hosts if h.rpartition("=")[0] in ("", name)] if server else []
        write(folder, name, *authority.issue(name, [*_LOCAL, *more] if server else [], server=server, days=days))
    return [*SERVICES, *PEOPLE, *names]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="cotenant certificates", description=__doc__)
    parser.add_argument("folder", type=Path, help="where they go, and where the authority's key stays")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="[SERVICE=]HOST",
        help="name or address under which services are reached, beside localhost; may be repeated",
    )
    parser.add_argument("--name", action="append", default=[], help="one more client, by name; may be repeated")
    parser.add_argument("--days", type=float, default=365, help="how long they are valid (default: 365)")
    arguments = parser.parse_args(argv)
    try:
        names = make(arguments.folder, hosts=arguments.host, names=arguments.name, days=arguments.days)
    except ImportError:
        print(
            "cotenant certificates: needs the package cryptography: pip install 'cotenant[certificates]'",
            file=sys.stderr,
        )
        return 1
    except (OSError, ValueError) as error:
        print(f"cotenant certificates: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.folder}: ca, {', '.join(names)}; valid for {arguments.days:g} days")
    return 0
