"""Certificates and DKIM keys of the made-up internet.

An :class:`Authority` is a certification authority of its own: one root, which signs server
certificates directly (RFC 5280). Whoever trusts :meth:`Authority.write_ca` trusts them. Two
authorities know nothing of each other, which is how a certificate of an unknown issuer is made.
Not for use outside demo and tests: keys are never kept and nothing can be revoked.
"""

import base64
import dataclasses
import datetime as dt
import ipaddress
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import oid

LIFETIME = dt.timedelta(days=30)
"""How long a good certificate lasts from now: longer than anybody leaves a demo running."""

CLOCK_SLACK = dt.timedelta(days=60)
"""How far before now certificates begin; an expired one ended half that time ago."""

DKIM_BITS = 2048
"""Size of a DKIM key: what RFC 8301 section 3.2 recommends and one TXT record still holds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate and its private key, both in PEM."""

    cert_pem: bytes
    key_pem: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class DkimKey:
    """A DKIM key pair (RFC 6376 section 3.6.1)."""

    private_pem: bytes = dataclasses.field(repr=False)
    record: str
    """Text of the TXT record at ``SELECTOR._domainkey.DOMAIN``; longer than one character-string."""


class Authority:
    """A certification authority.

    Args:
        name: its common name.
        now: the moment that validity is reckoned from, aware; by default the time it is made.
    """

    def __init__(self, name: str = "Demo Root CA", now: dt.datetime | None = None) -> None:
        self._now = now or dt.datetime.now(dt.UTC)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        usage = _usage(sign_certificates=True)
        builder = self._builder(self._name, self._key.public_key(), self._now + LIFETIME)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())

    @property
    def ca_pem(self) -> bytes:
        """The root certificate in PEM."""
        return _pem(self._certificate)

    def write_ca(self, path: Path) -> Path:
        """Write the root certificate to a file; return the path."""
        path.write_bytes(self.ca_pem)
        return path

    def issue(
        self,
        names: tuple[str, ...],
        *,
        expired: bool = False,
        not_after: dt.datetime | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Certificate:
        """Issue a server certificate.

        Args:
            names: DNS names and IP addresses it is for (subjectAltName); at least one.
            expired: whether it has ended already; only without ``not_after``.
            not_after: when it ends, aware.
            key: the server's key; a fresh one by default.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        end = not_after or (self._now - CLOCK_SLACK / 2 if expired else self._now + LIFETIME)
        builder = self._builder(_common_name(names[0]), key.public_key(), end)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        builder = builder.add_extension(_usage(sign_certificates=False), critical=True)
        return Certificate(_pem(builder.sign(self._key, hashes.SHA256())), _private_pem(key))

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this authority and no other."""
        return ssl.create_default_context(cadata=self.ca_pem.decode("ascii"))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, end: dt.datetime) -> x509.CertificateBuilder:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
        builder = builder.not_valid_before(min(self._now, end) - CLOCK_SLACK).not_valid_after(end)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        return builder.add_extension(issuer, critical=False)


def self_signed(name: str) -> Certificate:
    """Return a server certificate that no authority has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(_common_name(name), _common_name(name), key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SLACK).not_valid_after(now + LIFETIME)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
    return Certificate(_pem(builder.sign(key, hashes.SHA256())), _private_pem(key))


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """Return the context of a server that shows a certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory(prefix="tlsrpt-demo-") as directory:  # ssl takes files only
        path = Path(directory) / "server.pem"
        path.touch(mode=0o600)
        path.write_bytes(certificate.key_pem + certificate.cert_pem)
        context.load_cert_chain(path)
    return context


def dkim_key(service_type: str = "tlsrpt") -> DkimKey:
    """Return a new RSA key for DKIM.

    Args:
        service_type: ``s=`` of the record: ``tlsrpt``, ``email`` or ``*`` (RFC 8460 section 3).
    """
    key = rsa.generate_private_key(public_exponent=65537, key_size=DKIM_BITS)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    record = f"v=DKIM1; k=rsa; s={service_type}; p={base64.b64encode(public).decode('ascii')}"
    return DkimKey(_private_pem(key), record)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """Return a key as PKCS #1 or SEC 1, the forms every tool of the mail world reads."""
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
