"""What a receiver does with a report: is it signed, is it built as RFC 8460 says, does it say what a report says.

:func:`mail` takes a whole message as it arrived, :func:`post` a request of the HTTPS receiver. Both return every
check with its outcome; what is no report fails checks and raises nothing. DKIM is verified by dkimpy with a key
from the made-up DNS (the topmost signature only), the document by the JSON Schema
``sender/rfc8460.schema.json``; header fields and MIME are read by the standard library.
"""

import asyncio
import dataclasses
import datetime as dt
import email
import email.message
import email.policy
import email.utils
import functools
import importlib.resources
import json
import re
from collections.abc import Iterator
from typing import Any

import dkim
import jsonschema

from sender import report
from sender.demo import dns, receivers, zone

SIGNED = ("from", "to", "subject", "date", "tls-report-domain", "tls-report-submitter")
"""Header fields a signature must cover (RFC 8460 section 5.3, RFC 6376 section 5.4)."""

MEDIA_TYPE = "application/tlsrpt+gzip"

MAX_TEXT = 200
"""Characters of an error shown: it may repeat the whole document."""

_SUBJECT = re.compile(r"Report\s+Domain:\s+(\S+)\s+Submitter:\s+(\S+)\s+Report-ID:\s+<([^\s<>@]+@[^\s<>@]+)>\s*\Z")


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One thing a receiver looks at."""

    name: str
    passed: bool
    text: str
    """What was found."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verified:
    """What a receiver makes of a report."""

    checks: tuple[Check, ...]
    document: bytes | None
    """The report's JSON; ``None``: there is none that can be unpacked."""

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return all(check.passed for check in self.checks)


@dataclasses.dataclass(frozen=True, slots=True)
class _Signature:
    valid: bool
    text: str
    domain: str = ""
    fields: frozenset[str] = frozenset()


async def mail(message: bytes, nameserver: str) -> Verified:
    """Verify a report that came by mail (RFC 8460 section 5.3).

    Args:
        message: the whole message with CRLF line ends.
        nameserver: ``HOST:PORT`` of the DNS that has the DKIM key.
    """
    signature = await _signature(message, nameserver)
    parsed = email.message_from_bytes(message, policy=email.policy.default)
    missing = sorted(set(SIGNED) - signature.fields)
    attachment = _attachment(parsed)
    packed, document = _unpack(_octets(attachment))
    schema, content = _validate(document)
    checks = (
        Check("DKIM signature", signature.valid, signature.text),
        Check(
            "signed header fields", not missing, f"not signed: {', '.join(missing)}" if missing else ", ".join(SIGNED)
        ),
        Check("MIME structure", attachment is not None, _structure(parsed)),
        packed,
        schema,
        *_agreements(parsed, attachment, signature, content),
    )
    return Verified(checks, document)


def post(request: receivers.Request) -> Verified:
    """Verify a report that came by HTTPS (RFC 8460 section 5.4)."""
    media_type = request.header("Content-Type") or "none"
    packed, document = _unpack(request.body)
    schema, _ = _validate(document)
    method = Check("method", request.method == "POST", request.method)
    return Verified((method, Check("media type", media_type == MEDIA_TYPE, media_type), packed, schema), document)


async def _signature(message: bytes, nameserver: str) -> _Signature:
    """Verify the topmost signature; dkimpy blocks, so it works in a thread and asks the DNS back here."""
    loop = asyncio.get_running_loop()

    def key(name: bytes, timeout: float) -> bytes | None:
        question = dns.ask(nameserver, name.decode("ascii"), zone.Txt)
        try:
            found = asyncio.run_coroutine_threadsafe(question, loop).result(timeout)
        except (dns.LookupLaterError, TimeoutError) as error:
            raise dkim.DnsTimeoutError(str(error)) from error
        return next((record.text.encode() for record in found if isinstance(record, zone.Txt)), None)

    return await asyncio.to_thread(_verify, message, key)


def _verify(message: bytes, key: Any) -> _Signature:
    try:
        verifier = dkim.DKIM(message, tlsrpt=True)
        if not verifier.present():
            return _Signature(valid=False, text="there is none")
        _, fields, _ = verifier.verify_headerprep()
        domain, selector = verifier.domain.decode("ascii").lower(), verifier.selector.decode("ascii")
        covered = frozenset(field.decode("ascii").lower() for field in fields)
    except _DKIM_ERRORS as error:
        return _Signature(valid=False, text=_explain(error))
    try:
        valid, outcome = bool(verifier.verify(dnsfunc=key)), ""
    except _DKIM_ERRORS as error:
        valid, outcome = False, f": {_explain(error)}"
    text = f"{'valid' if valid else 'not valid'}, d={domain} s={selector}{outcome}"
    return _Signature(valid, text, domain, covered)


_DKIM_ERRORS = (dkim.DKIMException, ValueError, LookupError, TypeError)
"""What dkimpy throws at a message that is not signed well, and at odd input."""


def _explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_TEXT]


def _structure(parsed: email.message.EmailMessage) -> str:
    parts = ", ".join(part.get_content_type() for part in parsed.iter_parts()) if parsed.is_multipart() else "no parts"
    return f"{parsed.get_content_type()} ({parts})"


def _attachment(parsed: email.message.EmailMessage) -> email.message.EmailMessage | None:
    """Return the part with the report, when the message is built as it should be."""
    if parsed.get_content_type() != "multipart/report" or parsed["Content-Type"].params.get("report-type") != "tlsrpt":
        return None
    parts = list(parsed.iter_parts())
    if [part.get_content_type() for part in parts] != ["text/plain", MEDIA_TYPE]:
        return None
    attachment = parts[1]
    return attachment if isinstance(attachment, email.message.EmailMessage) else None


def _octets(attachment: email.message.EmailMessage | None) -> bytes:
    octets = attachment.get_payload(decode=True) if attachment else b""
    return octets if isinstance(octets, bytes) else b""


def _unpack(packed: bytes) -> tuple[Check, bytes | None]:
    try:
        document = report.unpack(packed)
    except report.InvalidReportError as error:
        return Check("gzip", False, str(error)), None
    return Check("gzip", True, f"{len(packed)} bytes, {len(document)} unpacked"), document


def _validate(document: bytes | None) -> tuple[Check, dict[str, Any]]:
    """Hold a document against the JSON Schema; return it decoded, empty when it is no report."""
    try:
        content = json.loads(document or b"")
        jsonschema.Draft202012Validator(_schema()).validate(content)
    except (ValueError, RecursionError) as error:
        return Check("JSON Schema", False, f"not JSON: {error}"), {}
    except jsonschema.ValidationError as error:
        return Check("JSON Schema", False, f"{error.json_path}: {error.message}"[:MAX_TEXT]), {}
    return Check("JSON Schema", True, "as RFC 8460 section 4.4"), content


@functools.cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((importlib.resources.files("sender") / "rfc8460.schema.json").read_bytes())
    return schema


def _agreements(
    parsed: email.message.EmailMessage,
    attachment: email.message.EmailMessage | None,
    signature: _Signature,
    content: dict[str, Any],
) -> Iterator[Check]:
    """Check that header fields, file name and document speak of the same (RFC 8460 sections 5.1 and 5.3)."""
    submitter, domain = (str(parsed[name] or "").strip() for name in ("TLS-Report-Submitter", "TLS-Report-Domain"))
    author = email.utils.parseaddr(str(parsed["From"] or ""))[1]
    addresses = (author, str(content.get("contact-info", "")))
    domains = (submitter, signature.domain, *(address.rpartition("@")[2] for address in addresses))
    yield Check("submitter is From, contact and d=", len(set(domains)) == 1 and bool(submitter), ", ".join(domains))
    subject = " ".join(str(parsed["Subject"] or "").split())
    match = _SUBJECT.match(subject)
    named = match.groups() if match else ()
    yield Check("subject", named == (domain, submitter, content.get("report-id")), subject)
    name = (attachment.get_filename() if attachment else None) or "none"
    first, last = (_epoch(content, key) for key in ("start-datetime", "end-datetime"))
    wanted = f"{submitter}!{domain}!{first}!{last}"
    yield Check("file name", re.fullmatch(re.escape(wanted) + r"(![A-Za-z0-9]+)?\.json\.gz", name) is not None, name)


def _epoch(content: dict[str, Any], key: str) -> int | None:
    """Return a time of the date-range in seconds; ``None``: the document is no report."""
    try:
        return int(dt.datetime.fromisoformat(content["date-range"][key]).timestamp())
    except (KeyError, ValueError):  # the schema lets the 31st of February through
        return None
