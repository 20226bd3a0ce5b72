"""One datagram of an MTA into one session: what libtlsrpt sends to the recorder's socket (Postfix 3.10 and later).

Pure. The door of the room: a datagram comes from a local process, but its texts come from hosts of
strangers, so nothing passes here that is not bounded, printable, and what RFC 8460 section 4.4 says it is.
What a report can do without (an IP, an EHLO name, a reason) is left out when it cannot be used; what it cannot
do without (domain, policy type, result type, outcome) makes the datagram malformed when it is missing.
Fields that are not known here are ignored, so that a later libtlsrpt is understood, too.

Known limits: the number of details (``t``) is not compared with the details. Host names come out in lower case.
"""

import enum
import functools
import ipaddress
import re

import msgspec

from policy import names
from sender import session

MAX_DATAGRAM = 256 * 1024
"""Bytes. Datagrams of 86 KiB were seen: a policy of 64 KiB, its ``mx`` lines told twice, and what JSON adds. One of
this length or more was cut, or may have been: it is not decoded."""

MAX_POLICIES = 16
"""Policies in one datagram. Postfix sends one; a session under two kinds of policy is the most that makes sense."""

MAX_FAILURES = 256
"""Failures of one policy in one datagram; Postfix sends one. What comes beyond is not looked at."""

MAX_POLICY = 64 * 1024
"""Bytes of a whole policy (RFC 8461 section 3.2 advises so). A longer one is left out; the session still counts."""

MAX_RECORD = 65535
"""Characters of a TLSRPT record: the most that a TXT record holds (RFC 1035 section 3.2.1)."""

MAX_REPLY_LINE = 512
"""Characters of an SMTP reply line (RFC 5321 section 4.5.3.1.5); what comes beyond has no name in it."""

MAX_REASON = 256
"""Characters of a reason code. The longest that OpenSSL has is below 80; a report repeats it for each failure."""

MAX_URI = 2048
"""Characters of the additional information; what programs that follow URIs are known to take."""

_MAX_NAME_TEXT = 4 * names.MAX_NAME
"""Characters of a name before it is made A-labels. Longer ones never become a name, and no cache shall hold them."""

_MAX_ADDRESS_TEXT = 64
"""Characters of an IP address; the longest form of IPv6 has 45."""

_CACHED = 8192
"""Names and addresses remembered, about 2 MB: a large sender talks with some thousand MX hosts over and over."""

_SHOWN = 80
"""Characters of a stranger's text shown in an error."""


class Reason(enum.StrEnum):
    """Why a datagram cannot be used: stable words, for counters."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    """Longer than :data:`MAX_DATAGRAM`."""
    UNTERMINATED = "unterminated"
    """The JSON ends in the middle: the tail of a segment whose writer was killed."""
    NOT_UTF8 = "not-utf8"
    NOT_JSON = "not-json"
    TOO_DEEP = "too-deep"
    WRONG_FORMAT = "wrong-format"
    """JSON, but not the format: a wrong type, or an outcome that is neither 0 nor 1."""
    UNSUPPORTED_VERSION = "unsupported-version"
    NO_DOMAIN = "no-domain"
    BAD_DOMAIN = "bad-domain"
    NO_POLICY = "no-policy"
    TOO_MANY_POLICIES = "too-many-policies"
    UNKNOWN_POLICY_TYPE = "unknown-policy-type"
    UNKNOWN_CODE = "unknown-code"


class MalformedError(ValueError):
    """The datagram cannot be counted as a session."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Args: ``reason``, a word for counters; ``detail``, a text for people."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class _Detail(msgspec.Struct, frozen=True, gc=False):
    c: int
    s: str | None = None
    n: str | None = None
    h: str | None = None
    r: str | None = None
    a: str | None = None
    f: str | None = None


class _Policy(msgspec.Struct, frozen=True):
    f: int
    type: int = msgspec.field(name="policy-type")
    domain: str | None = msgspec.field(name="policy-domain", default=None)
    strings: tuple[str, ...] = msgspec.field(name="policy-string", default=())
    mx_hosts: tuple[str, ...] = msgspec.field(name="mx-host", default=())
    details: tuple[_Detail, ...] = msgspec.field(name="failure-details", default=())


class _Datagram(msgspec.Struct, frozen=True):
    dpv: str | None = None
    d: str | None = None
    pr: str | None = None
    policies: tuple[_Policy, ...] = ()


class _Version(msgspec.Struct, frozen=True):
    dpv: object = None


_DECODER = msgspec.json.Decoder(_Datagram)
_VERSION_DECODER = msgspec.json.Decoder(_Version)

_VERSIONS = (None, "1")
"""``dpv``: absent up to libtlsrpt 0.5.0, "1" from 0.5.1."""

POLICY_TYPES = {
    1: session.PolicyType.TLSA,
    2: session.PolicyType.STS,
    9: session.PolicyType.NO_POLICY_FOUND,
}
"""By ``policy-type``."""

RESULT_TYPES = {
    201: session.ResultType.STARTTLS_NOT_SUPPORTED,
    202: session.ResultType.CERTIFICATE_HOST_MISMATCH,
    203: session.ResultType.CERTIFICATE_NOT_TRUSTED,
    204: session.ResultType.CERTIFICATE_EXPIRED,
    205: session.ResultType.VALIDATION_FAILURE,
    301: session.ResultType.STS_POLICY_FETCH_ERROR,
    302: session.ResultType.STS_POLICY_INVALID,
    303: session.ResultType.STS_WEBPKI_INVALID,
    304: session.ResultType.TLSA_INVALID,
    305: session.ResultType.DNSSEC_INVALID,
    306: session.ResultType.DANE_REQUIRED,
}
"""By ``c`` of a failure."""

_UNTRUSTED = frozenset(
    {
        "self_signed_certificate",
        "self_signed_certificate_in_certificate_chain",
        "unable_to_get_issuer_certificate",
        "unable_to_get_local_issuer_certificate",
        "unable_to_verify_the_first_certificate",
        "certificate_not_trusted",
    }
)
"""Reasons, in the spelling of :func:`_is_untrusted`, that Postfix sends with the general code 205."""


def decode(datagram: bytes) -> session.Session:
    """Return the session that a datagram tells of.

    Args:
        datagram: as it was received, without a line feed.

    Raises:
        MalformedError: it cannot be counted.
    """
    if len(datagram) >= MAX_DATAGRAM:
        raise MalformedError(Reason.TRUNCATED, f"{MAX_DATAGRAM} bytes or more")
    try:
        wire = _DECODER.decode(datagram)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(datagram, error) from error
    if wire.dpv not in _VERSIONS:
        raise _unsupported(wire.dpv)
    return _session(wire)


def ehlo_name(reply: str) -> str | None:
    r"""Return the name a server gives itself in its reply to EHLO (``receiving-mx-helo``).

    ``250-mx.example.com greets you\r\n250 HELP`` gives ``mx.example.com``. The code may be absent.

    Args:
        reply: the whole reply, of any length.

    Returns:
        a host name as A-labels or an address literal in canonical form (RFC 5321 section 4.1.3);
        ``None`` when the first line begins with neither.
    """
    line = _LINE_END.split(reply[:MAX_REPLY_LINE], maxsplit=1)[0]
    code = _REPLY_CODE.match(line)
    words = line[code.end() if code else 0 :].split(maxsplit=1)
    if not words:
        return None
    literal = _LITERAL.match(words[0])
    return _literal(literal) if literal else _host(words[0])


_LINE_END = re.compile(r"[\r\n]")
_REPLY_CODE = re.compile(r"[0-9]{3}(?:[ -]|\Z)")
_LITERAL = re.compile(r"\[(?P<six>IPv6:)?(?P<address>[0-9A-Fa-f.:]+)\]\Z", re.IGNORECASE)


def _literal(match: re.Match[str]) -> str | None:
    address = _address(match["address"])
    if address is None:
        return None
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _malformed(datagram: bytes, error: Exception) -> MalformedError:
    """Tell which of the reasons it is that the decoder did not take it."""
    text = str(error)
    if not datagram.strip():
        return MalformedError(Reason.EMPTY, "nothing in it")
    if isinstance(error, RecursionError):
        return MalformedError(Reason.TOO_DEEP, "arrays or objects are nested too deeply")
    if isinstance(error, msgspec.ValidationError):
        return _wrong_version(datagram) or MalformedError(Reason.WRONG_FORMAT, text)
    if isinstance(error, UnicodeDecodeError):
        return MalformedError(Reason.NOT_UTF8, text)
    if "truncated" in text:
        return MalformedError(Reason.UNTERMINATED, "the JSON ends in the middle")
    return MalformedError(Reason.NOT_JSON, text)


def _wrong_version(datagram: bytes) -> MalformedError | None:
    """A later version may have other types: then the version is what is wrong."""
    try:
        version = _VERSION_DECODER.decode(datagram).dpv
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if version in _VERSIONS else _unsupported(version)


def _unsupported(version: object) -> MalformedError:
    try:
        shown = ascii(version)[:_SHOWN]
    except RecursionError:
        shown = "nested too deeply to be shown"
    return MalformedError(Reason.UNSUPPORTED_VERSION, f"dpv is {shown}, not absent or '1'")


def _session(wire: _Datagram) -> session.Session:
    if not wire.d:
        raise MalformedError(Reason.NO_DOMAIN, "d is missing or empty")
    domain = _domain(wire.d)
    if not wire.policies:
        raise MalformedError(Reason.NO_POLICY, "policies is missing or empty")
    if len(wire.policies) > MAX_POLICIES:
        raise MalformedError(Reason.TOO_MANY_POLICIES, f"{len(wire.policies)} policies, at most {MAX_POLICIES}")
    return session.Session(
        domain=domain,
        record=_record(wire.pr) if wire.pr else None,
        results=tuple([_result(policy, domain) for policy in wire.policies]),
    )


def _result(wire: _Policy, domain: str) -> session.Result:
    if wire.f not in (0, 1):
        raise MalformedError(Reason.WRONG_FORMAT, "f of a policy is neither 0 nor 1")
    failures: tuple[session.Failure, ...] = ()
    if wire.details:
        failures = tuple(dict.fromkeys([_failure(detail) for detail in wire.details[:MAX_FAILURES]]))
    return session.Result(policy=_policy(wire, domain), failed=wire.f == 1, failures=failures)


def _policy(wire: _Policy, domain: str) -> session.Policy:
    kind = POLICY_TYPES.get(wire.type)
    if kind is None:
        raise MalformedError(Reason.UNKNOWN_POLICY_TYPE, f"policy-type is {str(wire.type)[:_SHOWN]}, not 1, 2 or 9")
    policy_domain = _domain(wire.domain) if wire.domain else domain
    if kind is session.PolicyType.NO_POLICY_FOUND:
        return session.Policy(kind, policy_domain)
    strings = _strings(wire.strings)
    if kind is session.PolicyType.TLSA:
        records = {text.upper() for text in strings}  # a set (RFC 6698), which resolvers give in any order
        return session.Policy(kind, policy_domain, tuple(sorted(records)))
    return session.Policy(kind, policy_domain, strings, _mx_hosts(wire.mx_hosts))


def _strings(texts: tuple[str, ...]) -> tuple[str, ...]:
    strings = tuple([line for text in texts if (line := _printable(text).rstrip())])
    if sum(map(len, strings)) + len(strings) > MAX_POLICY:
        return ()
    return strings


def _mx_hosts(texts: tuple[str, ...]) -> tuple[str, ...]:
    hosts = tuple(dict.fromkeys([host for text in texts if (host := _pattern(text))]))
    if sum(map(len, hosts)) + len(hosts) > MAX_POLICY:
        return ()
    return hosts


def _failure(wire: _Detail) -> session.Failure:
    result_type = RESULT_TYPES.get(wire.c)
    if result_type is None:
        raise MalformedError(Reason.UNKNOWN_CODE, f"c of a failure is {str(wire.c)[:_SHOWN]}")
    reason = _reason(wire.f) if wire.f else None
    if result_type is session.ResultType.VALIDATION_FAILURE and reason and _is_untrusted(reason):
        result_type = session.ResultType.CERTIFICATE_NOT_TRUSTED
    return session.Failure(
        result_type=result_type,
        sending_mta_ip=_address(wire.s) if wire.s else None,
        receiving_mx_hostname=_host(wire.n) if wire.n else None,
        receiving_mx_helo=ehlo_name(wire.h) if wire.h else None,
        receiving_ip=_address(wire.r) if wire.r else None,
        additional_information=_uri(wire.a) if wire.a else None,
        failure_reason_code=reason,
    )


def _is_untrusted(reason: str) -> bool:
    """OpenSSL 1.1 has ``self signed certificate``, 3.x ``self-signed certificate``; Postfix makes blanks ``_``."""
    return reason.lower().replace(" ", "_").replace("-", "_") in _UNTRUSTED


def _printable(text: str) -> str:
    """Return a text without control, format and unassigned characters; white space becomes a blank."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text if char.isprintable() or char.isspace())


def _record(text: str) -> str | None:
    record = _printable(text).strip()
    return record if 0 < len(record) <= MAX_RECORD else None


def _reason(text: str) -> str | None:
    return _printable(text[: 2 * MAX_REASON]).strip()[:MAX_REASON].rstrip() or None


_URI = re.compile(r"https?://[!-~]+\Z", re.IGNORECASE)


def _uri(text: str) -> str | None:
    return text if len(text) <= MAX_URI and _URI.match(text) else None


def _domain(text: str) -> str:
    domain = _host(text)
    if domain is None:
        raise MalformedError(Reason.BAD_DOMAIN, f"{text[:_SHOWN]!a} is not a domain name")
    return domain


def _host(text: str) -> str | None:
    return _cached_host(text) if len(text) <= _MAX_NAME_TEXT else None


@functools.lru_cache(maxsize=_CACHED)
def _cached_host(text: str) -> str | None:
    return names.host_name(text)


def _pattern(text: str) -> str | None:
    """Return an ``mx`` pattern (RFC 8461 section 3.2); Postfix writes ``.example.com`` for ``*.example.com``."""
    parent = text.removeprefix("*")
    if not parent.startswith("."):
        return _host(text)
    name = _host(parent[1:])
    return f"*.{name}" if name else None


def _address(text: str) -> str | None:
    return _cached_address(text) if len(text) <= _MAX_ADDRESS_TEXT else None


@functools.lru_cache(maxsize=_CACHED)
def _cached_address(text: str) -> str | None:
    """Return an address in canonical form (RFC 5952); one with a zone is of no use elsewhere."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.scope_id is not None:
        return None
    return str(address.ipv4_mapped or address)
