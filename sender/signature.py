"""DKIM signatures of report mails (RFC 8460 section 3, RFC 6376, RFC 8463): keys are read, messages signed.

The one module that uses dkimpy, which reads the message and brings it into canonical form; OpenSSL signs, in a
twentieth of the time dkimpy takes. RSA with SHA-256 and Ed25519, relaxed/relaxed, no ``l=``. The signature carries the
time of signing; all else depends on the message alone.

Does not look at the DNS: :func:`dns_record` is what should be published there. Known limit: domains and
selectors longer than 60 characters cannot sign, because a line with them would be too long.
"""

import base64
import dataclasses
import enum
import hashlib
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import cryptography.exceptions
import dkim
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from dkim import canonicalization

from policy import names

MAX_KEY_FILE = 65536
"""Bytes of a key file: the longest RSA key in use takes some 13,000."""

MIN_RSA_BITS = 1024
"""Receivers treat signatures of shorter keys as none (RFC 8301 section 3.2)."""

GOOD_RSA_BITS = 2048
"""What RFC 8301 section 3.2 asks signers to use."""

MAX_NAME = 60
"""Characters of a domain or a selector that fit into a line of the field."""

MAX_STRING = 255
"""Octets of one string of a TXT record; a key of 2048 bits takes two."""

LINE = 72
"""Characters of a line."""

SIGNED = (
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "TLS-Report-Domain",
    "TLS-Report-Submitter",
    "Auto-Submitted",
    "TLS-Required",
)
"""Fields that are signed where they are there (RFC 8460 section 5.3: the TLS-Report fields should be)."""

_FORM = "relaxed/relaxed"

_CANONICAL = canonicalization.CanonicalizationPolicy.from_c_value(_FORM.encode())


class InvalidKeyError(ValueError):
    """The key cannot sign; the text is one line that names the path and the cure."""


class Algorithm(enum.StrEnum):
    """How is signed (RFC 6376 section 3.3, RFC 8463 section 3)."""

    RSA = "rsa-sha256"
    ED25519 = "ed25519-sha256"


@dataclasses.dataclass(frozen=True, slots=True)
class Signer:
    """A key that signs for a domain."""

    domain: str
    selector: str
    algorithm: Algorithm
    bits: int
    """Size of the key."""
    public: str
    """The public key as the DNS has it (``p=``)."""
    _private: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = dataclasses.field(repr=False)

    @classmethod
    def load(cls, path: str, selector: str, domain: str) -> Self:
        """Read a private key, RSA or Ed25519, in PEM without a passphrase.

        Raises:
            InvalidKeyError: it cannot be read or is not fit for DKIM.
        """
        for what, name in (("mail.dkim_selector", selector), ("organization.domain", domain)):
            if _a_label(name) is None or len(name) > MAX_NAME:
                cure = (
                    f"give a name of at most {MAX_NAME} characters, or leave mail.dkim_key empty and let the relay sign"
                )
                raise InvalidKeyError(f'{what} = "{name}": cannot stand in a DKIM signature: {cure}')
        key = _parse(path, _read(path))
        if isinstance(key, rsa.RSAPrivateKey):
            return cls(domain, selector, Algorithm.RSA, key.key_size, _rsa_public(key), key)
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        return cls(domain, selector, Algorithm.ED25519, 256, public, key)

    @property
    def kind(self) -> str:
        """The key's type as the DNS has it (``k=``)."""
        return "rsa" if self.algorithm is Algorithm.RSA else "ed25519"

    @property
    def is_weak(self) -> bool:
        """Whether the key is shorter than RFC 8301 asks for; it still signs."""
        return self.algorithm is Algorithm.RSA and self.bits < GOOD_RSA_BITS

    def sign(self, message: bytes) -> bytes:
        """Return a message with CRLF line ends with its DKIM-Signature before it."""
        head, _, body = message.partition(b"\r\n\r\n")
        fields, _ = dkim.rfc822_parse(head)
        canonical = _CANONICAL.canonicalize_headers(fields)
        present = {name for name, _ in canonical}
        names = [name for name in (name.lower() for name in SIGNED) if name.encode() in present]
        names.append("from")  # once more than it is there: nobody can add a second one
        unsigned = self._field(names, hashlib.sha256(_CANONICAL.canonicalize_body(body)).digest())
        signed = dkim.select_headers(canonical, [name.encode() for name in names])
        [own] = _CANONICAL.canonicalize_headers([unsigned.split(b":", 1)])
        hashed = b"".join(b":".join(field) for field in [*signed, own]).removesuffix(b"\r\n")
        lines = base64.encodebytes(self._signature(hashed)).splitlines()
        return b"\r\n ".join([unsigned, *lines]) + b"\r\n" + message

    def _field(self, names: Sequence[str], body_hash: bytes) -> bytes:
        """Return the field with nothing behind its ``b=``, which is what is signed (RFC 6376 section 3.7)."""
        lines = [
            f"DKIM-Signature: v=1; a={self.algorithm}; c={_FORM}; t={time.time():.0f};",
            f"d={self.domain};",
            f"s={self.selector};",
            *textwrap.wrap(f"h={' : '.join(names)};", LINE, break_on_hyphens=False),
            f"bh={base64.b64encode(body_hash).decode()};",
            "b=",
        ]
        return "\r\n ".join(lines).encode()

    def _signature(self, data: bytes) -> bytes:
        """Sign (RFC 6376 section 3.3.2, RFC 8463 section 3: what Ed25519 signs is the hash)."""
        if isinstance(self._private, rsa.RSAPrivateKey):
            return self._private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return self._private.sign(hashlib.sha256(data).digest())


def generate(algorithm: Algorithm = Algorithm.RSA) -> bytes:
    """Return a new key in PEM; an RSA key is as long as receivers want it (RFC 8301)."""
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = ed25519.Ed25519PrivateKey.generate()
    if algorithm is Algorithm.RSA:
        key = rsa.generate_private_key(public_exponent=65537, key_size=GOOD_RSA_BITS)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def dns_name(signer: Signer) -> str:
    """Return where the public key belongs in the DNS (RFC 6376 section 3.6.2.1)."""
    return f"{signer.selector}._domainkey.{signer.domain}"


def dns_record(signer: Signer) -> str:
    """Return the text of the TXT record there, for TLS reports only (``s=tlsrpt``, RFC 8460 section 3)."""
    return f"v=DKIM1; k={signer.kind}; s=tlsrpt; p={signer.public}"


def zone_line(signer: Signer) -> str:
    """Return the record as a zone file has it, in strings of 255 octets at most (RFC 1035 section 3.3)."""
    text = dns_record(signer)
    quoted = (f'"{text[start : start + MAX_STRING]}"' for start in range(0, len(text), MAX_STRING))
    return f"{dns_name(signer)}. IN TXT {' '.join(quoted)}"


def _a_label(name: str) -> str | None:
    try:
        return names.a_label(name)
    except names.InvalidNameError:
        return None


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_KEY_FILE)
    except OSError as error:
        cure = "name a PEM file that this user may read in mail.dkim_key"
        raise InvalidKeyError(f"{path}: cannot be read ({error.strerror}): {cure}") from error


def _parse(path: str, pem: bytes) -> rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey:
    cure = "make one with: openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048"
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        without = "write it without: openssl pkey -in OLD -out NEW"
        raise InvalidKeyError(f"{path}: the key has a passphrase: {without}") from error
    except (ValueError, cryptography.exceptions.UnsupportedAlgorithm) as error:
        raise InvalidKeyError(f"{path}: not a private key in PEM: {cure}") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if not isinstance(key, rsa.RSAPrivateKey):
        raise InvalidKeyError(f"{path}: neither an RSA nor an Ed25519 key: {cure}")
    if key.key_size < MIN_RSA_BITS:
        raise InvalidKeyError(f"{path}: an RSA key of {key.key_size} bits, receivers want {MIN_RSA_BITS}: {cure}")
    return key


def _rsa_public(key: rsa.RSAPrivateKey) -> str:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()
