"""Certificates and keys of a federation: who the server is, and who the hospitals are."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509  # type: ignore[import-not-found, unused-ignore]
from cryptography.hazmat.primitives import hashes, serialization  # type: ignore[import-not-found, unused-ignore]
from cryptography.hazmat.primitives.asymmetric import ec  # type: ignore[import-not-found, unused-ignore]

from hilum.errors import RunError

YEARS = 2  # that certificates hold


@dataclass(frozen=True)
class Authority:
    """What signs the server's certificate; the hospitals trust nothing else."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read; raises ``RunError`` where it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise RunError(
            f"Expected no key at {path}; there is one, which is not replaced. Give another folder."
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def new_authority(days: float = 365 * YEARS) -> Authority:
    """Return a certificate authority of one's own."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hilum federation")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = _certificate(name, name, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return Authority(key, builder.add_extension(identifier, critical=False).sign(key, hashes.SHA384()))


def new_server(authority: Authority, host: str, days: float = 365 * YEARS) -> tuple[bytes, bytes]:
    """Return key and certificate (PEM) of the server, for ``host`` and for its own machine."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    issuer = authority.certificate.subject
    builder = _certificate(subject, issuer, key.public_key(), days)
    names = x509.SubjectAlternativeName([_name(n) for n in dict.fromkeys([host, "localhost", "127.0.0.1"])])
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = builder.add_extension(signer, critical=False).sign(authority.key, hashes.SHA384())
    return key_pem(key), certificate_pem(certificate)


def new_node() -> tuple[bytes, bytes]:
    """Return the private and the public key of a hospital's node, as OpenSSH writes them."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM."""
    return bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate as PEM."""
    return bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    begin = now - timedelta(days=1)
    return builder.not_valid_before(begin).not_valid_after(now + timedelta(days=days))


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
