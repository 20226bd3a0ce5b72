"""The receiving side says yes to a good report and names what is wrong with a bad one."""

import asyncio
import datetime as dt
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sender import config, message, report, session, signature
from sender.demo import certificates, dns, receivers, verify, zone

IDENTITY = config.Identity(
    name="Sender Example Inc.",
    domain="sender.example",
    contact="tls-reports@sender.example",
    sender="noreply@sender.example",
)
DAY = dt.date(2026, 11, 23)
REPORT_ID = "2026-11-23.abc@sender.example"
POLICY = session.Policy(session.PolicyType.NO_POLICY_FOUND, "good.example")
DOCUMENT = report.document(IDENTITY, DAY, REPORT_ID, [report.PolicyCount(POLICY, 3, 0, ())])
KEY = certificates.dkim_key()


def _mail(packed: bytes = b"", report_id: str = REPORT_ID, identity: config.Identity = IDENTITY) -> bytes:
    return message.compose(
        message.Mail(
            identity=identity,
            policy_domain="good.example",
            day=DAY,
            report_id=report_id,
            packed=packed or report.pack(DOCUMENT),
            created=dt.datetime(2026, 11, 24, 1, tzinfo=dt.UTC),
            recipient="tls@good.example",
            message_id="<1@sender.example>",
        )
    )


def _signed(tmp_path: Path, mail: bytes) -> bytes:
    path = tmp_path / "dkim.pem"
    path.write_bytes(KEY.private_pem)
    return signature.Signer.load(str(path), "tlsrpt", "sender.example").sign(mail)


def _verify(mail: bytes, record: str | None = KEY.record, temper: zone.Temper | None = None) -> verify.Verified:
    async def look() -> verify.Verified:
        async with dns.Server() as server:
            name = "tlsrpt._domainkey.sender.example"
            if record:
                server.zone.put(name, zone.Txt(record))
            server.zone.temper(name, temper)
            return await verify.mail(mail, server.address)

    return asyncio.run(look())


def _failed(verified: verify.Verified) -> set[str]:
    return {check.name for check in verified.checks if not check.passed}


def test_a_good_mail_passes_every_check(tmp_path: Path) -> None:
    """What the product composes and signs is what a receiver wants."""
    verified = _verify(_signed(tmp_path, _mail()))
    assert (_failed(verified), verified.passed, verified.document) == (set(), True, DOCUMENT)
    assert len(verified.checks) == 8


TAMPERED: list[tuple[str, Callable[[bytes], bytes], set[str]]] = [
    ("body", lambda mail: mail.replace(b"This is an SMTP", b"That is an SMTP"), {"DKIM signature"}),
    ("to", lambda mail: mail.replace(b"To: tls@", b"To: other@"), {"DKIM signature"}),
    (
        "submitter",
        lambda mail: mail.replace(b"TLS-Report-Submitter: sender", b"TLS-Report-Submitter: bender"),
        {"DKIM signature", "submitter is From, contact and d=", "subject", "file name"},
    ),
    (
        "unsigned",
        lambda mail: mail[mail.index(b"From: ") :],
        {"DKIM signature", "signed header fields", "submitter is From, contact and d="},
    ),
    (
        "report-type",
        lambda mail: mail.replace(b'report-type="tlsrpt"', b'report-type="tlsxyz"'),
        {
            "DKIM signature",
            "MIME structure",
            "gzip",
            "JSON Schema",
            "submitter is From, contact and d=",
            "subject",
            "file name",
        },
    ),
]


@pytest.mark.parametrize(("change", "failed"), [case[1:] for case in TAMPERED], ids=[case[0] for case in TAMPERED])
def test_a_tampered_mail_does_not_pass(tmp_path: Path, change: Callable[[bytes], bytes], failed: set[str]) -> None:
    """Each change after signing is noticed by the checks it concerns."""
    signed = _signed(tmp_path, _mail())
    changed = change(signed)
    assert changed != signed
    assert _failed(_verify(changed)) == failed


KEYS: list[tuple[str, str | None, zone.Temper | None, set[str]]] = [
    ("no-key", None, None, {"DKIM signature"}),
    ("another-key", certificates.dkim_key().record, None, {"DKIM signature"}),
    ("dns-broken", KEY.record, zone.Temper.SERVFAIL, {"DKIM signature"}),
    ("key-for-everything", KEY.record.replace("s=tlsrpt", "s=*"), None, set()),
]


@pytest.mark.parametrize(("record", "temper", "failed"), [case[1:] for case in KEYS], ids=[case[0] for case in KEYS])
def test_the_key_comes_from_the_dns(
    tmp_path: Path, record: str | None, temper: zone.Temper | None, failed: set[str]
) -> None:
    """Without the right key in the DNS the signature does not count."""
    assert _failed(_verify(_signed(tmp_path, _mail()), record, temper)) == failed


def _document(**changes: object) -> bytes:
    return json.dumps(json.loads(DOCUMENT) | changes).encode()


CONTENTS = [
    ("not-gzip", b"not gzip", {"gzip", "JSON Schema", "submitter is From, contact and d=", "subject", "file name"}),
    (
        "not-json",
        gzip.compress(b"{"),
        {"JSON Schema", "submitter is From, contact and d=", "subject", "file name"},
    ),
    (
        "empty-string",
        gzip.compress(_document(**{"organization-name": ""})),
        {"JSON Schema", "submitter is From, contact and d=", "subject", "file name"},
    ),
    ("other-report-id", gzip.compress(_document(**{"report-id": "other@sender.example"})), {"subject"}),
    (
        "other-contact",
        gzip.compress(_document(**{"contact-info": "a@elsewhere.example"})),
        {"submitter is From, contact and d="},
    ),
    (
        "other-day",
        gzip.compress(
            _document(
                **{"date-range": {"start-datetime": "2026-11-22T00:00:00Z", "end-datetime": "2026-11-22T23:59:59Z"}}
            )
        ),
        {"file name"},
    ),
]


@pytest.mark.parametrize(("packed", "failed"), [case[1:] for case in CONTENTS], ids=[case[0] for case in CONTENTS])
def test_a_signed_mail_with_a_wrong_document_does_not_pass(tmp_path: Path, packed: bytes, failed: set[str]) -> None:
    """The signature is good; what was signed is not."""
    assert _failed(_verify(_signed(tmp_path, _mail(packed)))) == failed


ODD = [
    ("empty", b""),
    ("no-header", b"\r\n\r\nbody"),
    ("bad-signature-tags", b"DKIM-Signature: v=1; =;;; a\r\nFrom: a@b.example\r\n\r\n"),
    ("signature-not-ascii", b"DKIM-Signature: v=1; d=\xff; s=\xfe\r\nFrom: \xff\r\nSubject: \xff\r\n\r\n"),
    ("multipart-without-parts", b'Content-Type: multipart/report; report-type="tlsrpt"; boundary=x\r\n\r\n'),
    ("content-type-broken", b"Content-Type: ;;;===\r\nSubject: =?x?q?\r\n\r\n"),
]


@pytest.mark.parametrize("mail", [case[1] for case in ODD], ids=[case[0] for case in ODD])
def test_what_is_no_report_fails_and_raises_nothing(mail: bytes) -> None:
    """Odd bytes give failed checks and no document."""
    verified = _verify(mail)
    assert (verified.passed, verified.document) == (False, None)


def _request(method: str, media_type: str, body: bytes) -> receivers.Request:
    headers = (("Content-type", media_type),)
    now = dt.datetime.now(dt.UTC)
    return receivers.Request(method, "reports.good.example", "/tlsrpt", headers, body, receivers.Status(201), now)


GZIP = "application/tlsrpt+gzip"

POSTS = [
    ("good", "POST", GZIP, report.pack(DOCUMENT), set()),
    ("put", "PUT", GZIP, report.pack(DOCUMENT), {"method"}),
    ("media-type", "POST", "application/json", report.pack(DOCUMENT), {"media type"}),
    ("not-gzip", "POST", GZIP, DOCUMENT, {"gzip", "JSON Schema"}),
    ("not-a-report", "POST", GZIP, gzip.compress(b"[]"), {"JSON Schema"}),
    ("deep-json", "POST", GZIP, gzip.compress(b"[" * 200_000), {"JSON Schema"}),
]


@pytest.mark.parametrize(
    ("method", "media_type", "body", "failed"), [case[1:] for case in POSTS], ids=[case[0] for case in POSTS]
)
def test_posts(method: str, media_type: str, body: bytes, failed: set[str]) -> None:
    """A POST of a gzipped report with the right media type passes, and nothing else."""
    assert _failed(verify.post(_request(method, media_type, body))) == failed
