"""An authority, and a certificate that it signed, as files: made for one test."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for servers. ``certificate`` is the file that clients are to trust."""

    def __init__(self, folder: Path, name: str = "an authority of the tests") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        built = _unsigned(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        built = built.add_extension(self._identifier, critical=False)
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))

    def sign(self, host: str) -> tuple[Path, Path]:
        """The files of a certificate for a host, by name or address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        built = _unsigned(_named(host), self._name, key.public_key())
        built = built.add_extension(x509.SubjectAlternativeName([name]), critical=False)
        built = built.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier), critical=False
        )
        certificate, secret = self._folder / f"{host}.crt", self._folder / f"{host}.key"
        certificate.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, secret


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
