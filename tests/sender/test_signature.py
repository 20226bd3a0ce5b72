"""``sender.signature``: another implementation's keys are read, and the signatures verify as RFC 8460 wants them."""

import datetime as dt
import email
import re
from collections.abc import Callable
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sender import config, message, signature

PKCS8, PKCS1 = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
OPEN = serialization.NoEncryption()

Key = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey

RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_KEY = rsa.generate_private_key(65537, 1024)
ED25519_KEY = ed25519.Ed25519PrivateKey.generate()
EC_KEY = ec.generate_private_key(ec.SECP256R1())

IDENTITY = config.Identity(
    name="Example Inc.",
    domain="example.com",
    contact="tls-reports@example.com",
    sender="noreply-tls-reports@example.com",
)
MAIL = message.Mail(
    identity=IDENTITY,
    policy_domain="example.net",
    day=dt.date(2026, 11, 24),
    report_id="20261124.x7@example.com",
    packed=bytes(range(256)) * 40,
    created=dt.datetime(2026, 11, 25, tzinfo=dt.UTC),
    recipient="tlsrpt@example.net",
    message_id="<20261124.x7.1@example.com>",
)
MESSAGE = message.compose(MAIL)


def _pem(key: Key, form: serialization.PrivateFormat = PKCS8) -> bytes:
    return key.private_bytes(PEM, form, OPEN)


KEYS = pytest.mark.parametrize(
    ("pem", "algorithm", "bits"),
    [
        pytest.param(_pem(RSA_KEY), "rsa-sha256", 2048, id="rsa"),
        pytest.param(_pem(RSA_KEY, PKCS1), "rsa-sha256", 2048, id="rsa-pkcs1"),
        pytest.param(_pem(WEAK_KEY), "rsa-sha256", 1024, id="rsa-1024"),
        pytest.param(_pem(ED25519_KEY), "ed25519-sha256", 256, id="ed25519"),
    ],
)


def _signer(folder: Path, pem: bytes, selector: str = "tlsrpt", domain: str = "example.com") -> signature.Signer:
    path = folder / "key.pem"
    path.write_bytes(pem)
    return signature.Signer.load(str(path), selector, domain)


def _dns(signer: signature.Signer) -> Callable[..., bytes]:
    """Answer as the DNS would if the record were published as it should."""

    def look_up(name: bytes, timeout: float = 5) -> bytes:
        assert name.decode().rstrip(".") == signature.dns_name(signer)
        return signature.dns_record(signer).encode()

    return look_up


def _verifies(signer: signature.Signer, signed: bytes) -> bool:
    return bool(dkim.verify(signed, dnsfunc=_dns(signer), tlsrpt="strict"))


def _tags(signed: bytes) -> dict[str, str]:
    """Return the tags of the signature without white space."""
    field = email.message_from_bytes(signed)["DKIM-Signature"]
    return dict(tag.split("=", 1) for tag in re.sub(r"\s", "", field).split(";"))


@KEYS
def test_signature_verifies_as_that_of_a_tls_report(tmp_path: Path, pem: bytes, algorithm: str, bits: int) -> None:
    """A strict verifier, which wants a key with s=tlsrpt, accepts it; the message itself is unchanged."""
    signer = _signer(tmp_path, pem)
    signed = signer.sign(MESSAGE)
    assert signed.startswith(b"DKIM-Signature: ")
    assert signed.endswith(b"\r\n" + MESSAGE)
    assert _verifies(signer, signed)
    assert (signer.algorithm, signer.bits, signer.is_weak) == (algorithm, bits, bits == 1024)


def test_signature_covers_what_rfc_8460_asks_for(tmp_path: Path) -> None:
    """Domain and selector, relaxed, no body length, and the fields of section 5.3; From once more than it is there."""
    tags = _tags(_signer(tmp_path, _pem(RSA_KEY)).sign(MESSAGE))
    assert (tags["v"], tags["a"], tags["c"]) == ("1", "rsa-sha256", "relaxed/relaxed")
    assert (tags["d"], tags["s"]) == ("example.com", "tlsrpt")
    assert "l" not in tags
    assert tags["h"].split(":") == [
        "from",
        "to",
        "subject",
        "date",
        "message-id",
        "mime-version",
        "content-type",
        "tls-report-domain",
        "tls-report-submitter",
        "auto-submitted",
        "tls-required",
        "from",
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"AAECAwQF", b"AAECAwQG", id="attachment"),
        pytest.param(b"Example Inc.", b"Exemple Inc.", id="text"),
        pytest.param(b"TLS-Report-Domain: example.net", b"TLS-Report-Domain: example.org", id="tls-report-domain"),
        pytest.param(b"TLS-Report-Submitter: e", b"TLS-Report-Submitter: x", id="tls-report-submitter"),
        pytest.param(b"TLS-Required: No", b"TLS-Required: no", id="tls-required"),
        pytest.param(b"x7@example.com>\r\nDate", b"x8@example.com>\r\nDate", id="subject"),
        pytest.param(b"To: tlsrpt@", b"From: a@b.example\r\nTo: tlsrpt@", id="second-from"),
        pytest.param(b"--\r\n", b"--\r\nmore\r\n", id="appended"),
    ],
)
@pytest.mark.parametrize("key", [RSA_KEY, ED25519_KEY], ids=["rsa", "ed25519"])
def test_changed_message_does_not_verify(tmp_path: Path, key: Key, old: bytes, new: bytes) -> None:
    """One changed byte in the body or in a signed field is noticed."""
    signer = _signer(tmp_path, _pem(key))
    signed = signer.sign(MESSAGE)
    assert old in signed
    assert not _verifies(signer, signed.replace(old, new))


def test_absent_fields_are_not_signed(tmp_path: Path) -> None:
    """A message without the optional fields is signed as it is."""
    signer = _signer(tmp_path, _pem(ED25519_KEY))
    signed = signer.sign(b"From: a@example.com\r\nSubject: x\r\n\r\ntext\r\n")
    assert _tags(signed)["h"] == "from:subject:from"
    assert _verifies(signer, signed)


@pytest.mark.parametrize("key", [RSA_KEY, ED25519_KEY], ids=["rsa", "ed25519"])
def test_longest_names_verify(tmp_path: Path, key: Key) -> None:
    """The longest domain and selector that are taken are not torn by folding."""
    selector, domain = "s" * 60, f"{'d' * 54}.test1"
    assert len(domain) == signature.MAX_NAME
    signer = _signer(tmp_path, _pem(key), selector, domain)
    signed = signer.sign(MESSAGE)
    assert f"d={domain};".encode() in signed
    assert f"s={selector};".encode() in signed
    assert _verifies(signer, signed)


def test_dns_record_has_what_a_postmaster_publishes(tmp_path: Path) -> None:
    """Name and text of the TXT record; Ed25519 keys are published raw (RFC 8463 section 4)."""
    signer = _signer(tmp_path, _pem(ED25519_KEY))
    assert signature.dns_name(signer) == "tlsrpt._domainkey.example.com"
    assert re.fullmatch(r"v=DKIM1; k=ed25519; s=tlsrpt; p=[A-Za-z0-9+/]{43}=", signature.dns_record(signer))
    assert signature.dns_record(_signer(tmp_path, _pem(RSA_KEY))).startswith("v=DKIM1; k=rsa; s=tlsrpt; p=MIIB")


def test_private_key_is_not_shown(tmp_path: Path) -> None:
    """A signer that ends up in a log does not tell its secret."""
    signer = _signer(tmp_path, _pem(ED25519_KEY))
    assert "_private" not in repr(signer)


SMALL_KEY = b"""\
-----BEGIN RSA PRIVATE KEY-----
MIIBzAIBAAJhAL30aTyd2K3CSr9NEDMh4JtT1O73AYZlKtRZv4s+Wq/Yfpwiod0T
7+2RIW7NHOwgF8cL3sCoRQP3MxWXf6SKIM2rT4zmWhop5AASF2PncPweETumlWDF
gxIy/N/6GEXwFQIDAQABAmEAvG+aegSIL48fQXj8Sg0gWFYoVMp6G81+WFuT1VkM
84ZLyy3b7olZqQ0g4l7dgywtVInYfxeqYvJU/RluGJ5KiiYIypL3RHlvVaXezXpk
qsEMnmCB/o0di9/MroinpmIhAjEA4+SLU/P1RxKSgr2BNN9Qz6QHFm2Teodg1jZb
4N9ukC7woWnPvxzyaplifY2oUGtZAjEA1WIESxqBCP5hQA1rTQandspsL9i70h/1
o6VV7iep8ghezOEa/PsGBGDMyAy4Oh8dAjBhJU6jZg570pXz95Z5lGydZv3CeMly
ZP1Js3htHrHB8tCO7k0p2cwY1vPeM6G5TlkCMQC917WgKBVzLfbR6N51Kh1lx5RX
QUlhGgQOMzPvbaR6bE4Dk6bSOndQ/9pRhVeGhlUCMQDKDF+fhgb1f2pdSpWV0Cbc
52lwWx6148vNYSmw9MGISVQXvtnaz/yat2ctbQZLbro=
-----END RSA PRIVATE KEY-----
"""
"""768 bits, which no key is made of any more."""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "not a private key in PEM", id="empty"),
        pytest.param(b"hello", "not a private key in PEM", id="text"),
        pytest.param(RSA_KEY.private_bytes(DER, PKCS8, OPEN), "not a private key in PEM", id="der"),
        pytest.param(_pem(RSA_KEY)[:400], "not a private key in PEM", id="cut"),
        pytest.param(b"x" * signature.MAX_KEY_FILE + _pem(RSA_KEY), "not a private key in PEM", id="huge"),
        pytest.param(
            RSA_KEY.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
            "not a private key in PEM",
            id="public-key",
        ),
        pytest.param(SMALL_KEY, "an RSA key of 768 bits, receivers want 1024", id="short-rsa"),
        pytest.param(_pem(EC_KEY), "neither an RSA nor an Ed25519 key", id="ec"),
        pytest.param(
            RSA_KEY.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x")),
            "passphrase",
            id="passphrase",
        ),
    ],
)
def test_unusable_key_names_path_and_cure(tmp_path: Path, content: bytes, expected: str) -> None:
    """One line: the file, what is wrong with it, what to do."""
    with pytest.raises(signature.InvalidKeyError, match=expected) as caught:
        _signer(tmp_path, content)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/key.pem: ")
    assert "openssl" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["missing.pem", "."])
def test_unreadable_key_names_path_and_cure(tmp_path: Path, name: str) -> None:
    """A missing file and a folder are told as such."""
    path = str(tmp_path / name)
    with pytest.raises(signature.InvalidKeyError, match="cannot be read") as caught:
        signature.Signer.load(path, "tlsrpt", "example.com")
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("selector", "domain", "expected"),
    [
        ("", "example.com", "mail.dkim_selector"),
        ("a b", "example.com", "mail.dkim_selector"),
        ("a;b", "example.com", "mail.dkim_selector"),
        ("s" * 61, "example.com", "mail.dkim_selector"),
        ("s", f"{'d' * 55}.test12", "organization.domain"),
    ],
)
def test_names_that_cannot_be_signed_for_are_told(tmp_path: Path, selector: str, domain: str, expected: str) -> None:
    """A selector is a name in the DNS; one too long for a line would be torn."""
    with pytest.raises(signature.InvalidKeyError, match=f'{expected} = "'):
        _signer(tmp_path, _pem(ED25519_KEY), selector, domain)
