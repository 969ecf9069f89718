"""The console's own certificate: made once, kept; whoever opens the page compares its fingerprint with the unit's."""

from __future__ import annotations

import ipaddress
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = 10


def certificate(folder: Path) -> tuple[Path, Path, str]:
    """Paths of certificate and key below the folder, and its SHA-256 as browsers show it. Raises OSError."""
    paper, key = folder / "certificate.pem", folder / "key.pem"
    if not (paper.exists() and key.exists()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(paper, key)
    read = x509.load_pem_x509_certificate(paper.read_bytes())
    return paper, key, ":".join(f"{octet:02X}" for octet in read.fingerprint(hashes.SHA256()))


def _make(paper: Path, key: Path) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    host = socket.gethostname().split(".")[0] or "tsuroku"
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{host}.local")])
    known: list[x509.GeneralName] = [x509.DNSName(each) for each in (f"{host}.local", host, "localhost")]
    known.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        # A unit whose clock was never set makes it too.
        .not_valid_before(datetime(2024, 1, 1, tzinfo=UTC))
        .not_valid_after(max(now, datetime(2026, 1, 1, tzinfo=UTC)) + timedelta(days=365 * _YEARS))
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(own, hashes.SHA256())
    )
    secret = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for path, text in ((key, secret), (paper, made.public_bytes(serialization.Encoding.PEM))):
        part = path.with_suffix(".part")
        with os.fdopen(os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
