"""Certificates of the made-up authority, looked at with the standard library's TLS."""

import datetime as dt
import ssl
from pathlib import Path

import dkim
import pytest
from cryptography import x509

from sender.demo import certificates

CASES = [
    ("name", ("a.example",), False, "a.example", None),
    ("second-name", ("a.example", "b.example"), False, "b.example", None),
    ("address", ("a.example", "127.0.0.1", "::1"), False, "127.0.0.1", None),
    ("address-6", ("a.example", "127.0.0.1", "::1"), False, "::1", None),
    ("other-name", ("a.example",), False, "c.example", 62),
    ("expired", ("a.example",), True, "a.example", 10),
]


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """Shake hands in memory; return the TLS version."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].version()


@pytest.mark.parametrize(
    ("names", "expired", "host", "verify_code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_certificates_are_good_or_bad_as_asked(
    names: tuple[str, ...], host: str, verify_code: int | None, *, expired: bool
) -> None:
    """OpenSSL says of each certificate what it was made for."""
    authority = certificates.Authority()
    server = certificates.server_context(authority.issue(names, expired=expired))
    if verify_code is None:
        assert _handshake(server, authority.client_context(), host) == "TLSv1.3"
        return
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        _handshake(server, authority.client_context(), host)
    assert caught.value.verify_code == verify_code


def test_authorities_do_not_know_each_other() -> None:
    """A certificate of one authority is untrusted by the other, self-signed ones by all."""
    one, other = certificates.Authority(), certificates.Authority("Other CA")
    for certificate, code in ((other.issue(("a.example",)), 20), (certificates.self_signed("a.example"), 18)):
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            _handshake(certificates.server_context(certificate), one.client_context(), "a.example")
        assert caught.value.verify_code == code


def test_the_written_ca_is_a_trust_anchor(tmp_path: Path) -> None:
    """The file can be used as a ca_file."""
    authority = certificates.Authority()
    context = ssl.create_default_context(cafile=authority.write_ca(tmp_path / "ca.pem"))
    assert _handshake(certificates.server_context(authority.issue(("a.example",))), context, "a.example") == "TLSv1.3"


def test_the_end_may_be_chosen() -> None:
    """A certificate ends when it is told to."""
    end = dt.datetime(2031, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    issued = certificates.Authority().issue(("a.example",), not_after=end)
    assert x509.load_pem_x509_certificate(issued.cert_pem).not_valid_after_utc == end


def test_private_keys_are_not_shown() -> None:
    """A key does not end in a log by way of repr."""
    issued = certificates.Authority().issue(("a.example",))
    assert "PRIVATE" not in repr(issued)
    assert "PRIVATE" not in repr(certificates.dkim_key())


def test_dkim_key_and_record_belong_together() -> None:
    """What the key signs is verified by the record, which is for TLS reports."""
    key = certificates.dkim_key()
    message = b"From: a@sender.example\r\nSubject: x\r\n\r\nbody\r\n"
    signed = dkim.sign(message, b"s", b"sender.example", key.private_pem) + message
    assert dkim.verify(signed, dnsfunc=lambda *_, **__: key.record.encode(), tlsrpt="strict")
