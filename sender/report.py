"""The report of one day for one domain as a JSON document (RFC 8460 sections 4.4, 5.1 and 5.2).

Pure. The same counts always give the same bytes: policies and failures have an order of their own,
and gzip carries no time. A key without a value is left out; nothing is ever ``""`` or ``null``.

A document too long for receivers is shortened without losing a session: first the rarest failure
details become one per policy and result type, then the rarest policies become one per type and domain.

Known limit: a day with more than some 20,000 policy domains would still be too long.
"""

import bisect
import collections
import datetime as dt
import gzip
import ipaddress
import operator
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec

from policy import names
from sender import config, session

MAX_DOCUMENT = 10_000_000
"""Bytes of a document before compression; receivers commonly take ten megabytes (RFC 8460 section 5.2)."""

MAX_COUNT = 2**32 - 1
"""The highest count written; receivers keep counts in 32 bits, and JSON numbers must stay exact (RFC 7493)."""

_TYPE_ORDER = {kind: place for place, kind in enumerate(session.PolicyType)}


class InvalidReportError(ValueError):
    """The bytes are not a report."""


class PolicyCount(msgspec.Struct, frozen=True):
    """How many sessions went well and badly by one policy, and why (RFC 8460 section 4.2)."""

    policy: session.Policy
    successful: int
    failed: int
    failures: tuple[tuple[session.Failure, int], ...]
    """Each failure with the number of sessions it happened in."""


Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", omit_defaults=True, forbid_unknown_fields=True):
    """What all parts of a document share."""


class DateRange(_Part, frozen=True, kw_only=True):
    """``date-range``: the first and the last second of the day, RFC 3339 in UTC."""

    start_datetime: str
    end_datetime: str


class AppliedPolicy(_Part, frozen=True, kw_only=True):
    """``policy``."""

    policy_type: session.PolicyType
    policy_string: tuple[str, ...] = ()
    policy_domain: str
    mx_host: tuple[str, ...] = ()


class Summary(_Part, frozen=True, kw_only=True):
    """``summary``."""

    total_successful_session_count: Count
    total_failure_session_count: Count


class FailureDetail(_Part, frozen=True, kw_only=True):
    """One of ``failure-details``."""

    result_type: session.ResultType
    sending_mta_ip: str | None = None
    receiving_mx_hostname: str | None = None
    receiving_mx_helo: str | None = None
    receiving_ip: str | None = None
    failed_session_count: Count
    additional_information: str | None = None
    failure_reason_code: str | None = None


class PolicyResult(_Part, frozen=True, kw_only=True):
    """One of ``policies``."""

    policy: AppliedPolicy
    summary: Summary
    failure_details: tuple[FailureDetail, ...] = ()


class Document(_Part, frozen=True, kw_only=True):
    """A whole report (RFC 8460 section 4.4); the fields are in the RFC's order."""

    organization_name: str
    date_range: DateRange
    contact_info: str
    report_id: str
    policies: tuple[PolicyResult, ...]


def document(identity: config.Identity, day: dt.date, report_id: str, counts: Sequence[PolicyCount]) -> bytes:
    """Return the report as UTF-8 JSON, indented and ended by one line feed (RFC 8460 section 4.4, RFC 7493).

    Args:
        identity: who reports.
        day: the day in UTC.
        report_id: what :func:`report_id` returned.
        counts: one for each policy, in any order.
    """

    def write(counted: Sequence[PolicyCount]) -> bytes:
        return _encode(
            Document(
                organization_name=_text(identity.name),
                date_range=DateRange(start_datetime=f"{day}T00:00:00Z", end_datetime=f"{day}T23:59:59Z"),
                contact_info=identity.contact,
                report_id=report_id,
                policies=tuple(_policy_result(count) for count in sorted(counted, key=_policy_order)),
            )
        )

    for merge in (_merge_failures, _merge_policies):
        written = write(counts)
        if len(written) <= MAX_DOCUMENT:
            return written
        counts = _merge_until_short(merge, counts, write)
    return write(counts)


def report_id(token: str, identity: config.Identity) -> str:
    """Return the ``report-id``, which the subject repeats in angle brackets (RFC 8460 section 5.3).

    Args:
        token: unique among all reports of this submitter; letters, digits and ``.-_``.
        identity: who reports.
    """
    return f"{token}@{identity.domain}"


def filename(submitter: str, policy_domain: str, day: dt.date, report_id: str) -> str:
    """Return the name of the attachment (RFC 8460 section 5.1)."""
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    end = start + dt.timedelta(days=1, seconds=-1)
    unique = re.sub(r"[^A-Za-z0-9]", "", report_id.partition("@")[0])
    parts = (submitter, policy_domain, f"{start.timestamp():.0f}", f"{end.timestamp():.0f}", unique)
    return f"{'!'.join(part for part in parts if part)}.json.gz"


def pack(document: bytes) -> bytes:
    """Return the document gzipped; the same document gives the same bytes (RFC 8460 section 5.2)."""
    return gzip.compress(document, mtime=0)


def unpack(packed: bytes) -> bytes:
    """Return the document in gzip bytes.

    Raises:
        InvalidReportError: it is not exactly one gzip member, or longer than MAX_DOCUMENT.
    """
    unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        unpacked = unzip.decompress(packed, MAX_DOCUMENT + 1)
    except zlib.error as error:
        raise InvalidReportError(f"not gzip: {error}") from error
    if len(unpacked) > MAX_DOCUMENT:
        raise InvalidReportError(f"longer than {MAX_DOCUMENT} bytes unpacked")
    if not unzip.eof or unzip.unused_data:
        raise InvalidReportError("gzip data cut short" if not unzip.eof else "bytes after the gzip data")
    return unpacked


def parse(document: bytes) -> Document:
    """Return a document as values, for display; nothing beyond RFC 8460 is let through.

    Raises:
        InvalidReportError: it is not JSON, or has a key or value a report cannot have.
    """
    try:
        return msgspec.json.decode(document, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
        raise InvalidReportError(f"not a report: {error}") from error


def _encode(values: Document) -> bytes:
    return msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n"


def _policy_result(count: PolicyCount) -> PolicyResult:
    policy = count.policy
    is_sts = policy.type is session.PolicyType.STS
    return PolicyResult(
        policy=AppliedPolicy(
            policy_type=policy.type,
            policy_string=_texts(policy.strings),
            policy_domain=policy.domain,
            mx_host=_patterns(policy.mx_hosts) if is_sts else (),
        ),
        summary=Summary(
            total_successful_session_count=_capped(count.successful),
            total_failure_session_count=_capped(count.failed),
        ),
        failure_details=tuple(_detail(*failure) for failure in sorted(count.failures, key=_failure_order)),
    )


def _detail(failure: session.Failure, sessions: int) -> FailureDetail:
    information, reason = _information(failure)
    return FailureDetail(
        result_type=failure.result_type,
        sending_mta_ip=_address(failure.sending_mta_ip),
        receiving_mx_hostname=_text_or_none(failure.receiving_mx_hostname),
        receiving_mx_helo=_text_or_none(failure.receiving_mx_helo),
        receiving_ip=_address(failure.receiving_ip),
        failed_session_count=_capped(sessions),
        additional_information=information,
        failure_reason_code=reason,
    )


_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+\Z")


def _information(failure: session.Failure) -> tuple[str | None, str | None]:
    """Return ``additional-information``, which must be a URI, and ``failure-reason-code``, which takes other text."""
    information = _text_or_none(failure.additional_information)
    reason = _text_or_none(failure.failure_reason_code)
    if information is None or _URI.match(information):
        return information, reason
    return None, f"{reason}; {information}" if reason else information


def _address(text: str | None) -> str | None:
    """Return an IP address in its one written form (RFC 5952) without a zone; what is none is left out."""
    try:
        return str(ipaddress.ip_address((text or "").partition("%")[0]))
    except ValueError:
        return None


def _text(text: str) -> str:
    """Replace lone surrogates, which UTF-8 and so I-JSON cannot carry (RFC 7493 section 2.1)."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _text_or_none(text: str | None) -> str | None:
    return _text(text) if text else None


def _texts(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_text(text) for text in texts if text)


def _patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return ``mx-host-pattern`` values (RFC 8461 section 4.1); what is none stands in the policy's text only."""
    return tuple(pattern for text in patterns if (pattern := _pattern(text)))


def _pattern(text: str) -> str | None:
    host = text.removeprefix("*").removeprefix(".")
    try:
        return names.a_label(host) if host == text else f"*.{names.a_label(host)}"
    except names.InvalidNameError:
        return None


def _capped(count: int) -> int:
    return min(count, MAX_COUNT)


def _policy_order(count: PolicyCount) -> tuple[int, str, tuple[str, ...], tuple[str, ...]]:
    policy = count.policy
    return _TYPE_ORDER[policy.type], policy.domain, policy.strings, policy.mx_hosts


def _failure_order(failure_and_count: tuple[session.Failure, int]) -> tuple[int, list[str]]:
    """Most frequent first, then by the fields as they stand in the report."""
    failure, count = failure_and_count
    return -count, [value or "" for value in _fields(failure)]


_fields = operator.attrgetter(*session.Failure.__struct_fields__)

_Merge = Callable[[Sequence[PolicyCount], int], list[PolicyCount]]


def _merge_until_short(
    merge: _Merge, counts: Sequence[PolicyCount], write: Callable[[Sequence[PolicyCount]], bytes]
) -> list[PolicyCount]:
    """Merge as little as is needed for the document to be short enough, everything if nothing suffices."""
    most = max(len(counts), sum(len(count.failures) for count in counts))

    def is_too_long(kept: int) -> bool:
        return len(write(merge(counts, kept))) > MAX_DOCUMENT

    first_too_long = bisect.bisect_left(range(most + 1), x=True, key=is_too_long)
    return merge(counts, max(first_too_long - 1, 0))


def _merge_failures(counts: Sequence[PolicyCount], kept: int) -> list[PolicyCount]:
    """Keep the ``kept`` most frequent failures of all policies; the others become one per policy and result type."""
    ranked = sorted(
        ((place, failure) for place, count in enumerate(counts) for failure in count.failures),
        key=lambda ranking: (_failure_order(ranking[1]), _policy_order(counts[ranking[0]])),
    )
    merged: list[collections.Counter[session.Failure]] = [collections.Counter() for _ in counts]
    for rank, (place, (failure, sessions)) in enumerate(ranked):
        merged[place][failure if rank < kept else session.Failure(failure.result_type)] += sessions
    return [
        msgspec.structs.replace(count, failures=tuple(failures.items()))
        for count, failures in zip(counts, merged, strict=True)
    ]


def _merge_policies(counts: Sequence[PolicyCount], kept: int) -> list[PolicyCount]:
    """Keep the ``kept`` most used policies; the others become one per type and domain, without their text."""
    ranked = sorted(counts, key=lambda count: (-count.successful - count.failed, _policy_order(count)))
    merged: dict[session.Policy, PolicyCount] = {}
    for rank, count in enumerate(ranked):
        policy = count.policy if rank < kept else session.Policy(count.policy.type, count.policy.domain)
        merged[policy] = _sum(policy, merged[policy], count) if policy in merged else _sum(policy, count)
    return list(merged.values())


def _sum(policy: session.Policy, *counts: PolicyCount) -> PolicyCount:
    failures: collections.Counter[session.Failure] = collections.Counter()
    for count in counts:
        failures.update(dict(count.failures))
    return PolicyCount(
        policy=policy,
        successful=sum(count.successful for count in counts),
        failed=sum(count.failed for count in counts),
        failures=tuple(failures.items()),
    )
