"""The TLSRPT record of a policy domain: where it wants its reports (RFC 8460 section 3).

Pure. :func:`choose` picks the record among the TXT records of ``_smtp._tls.<domain>``, :func:`parse_record` reads it.
Addresses and URLs come from strangers and end in mail headers and requests, so they are checked strictly, each for
itself: one that cannot be used does not spoil the others. The grammar around them is read leniently: white space
beside ``;``, ``,`` and ``=``, empty fields, several ``rua`` fields.

Not done: host names are not looked up; extension fields are not kept; header fields of mailto URIs (RFC 6068) are
ignored.
"""

import dataclasses
import enum
import ipaddress
import re
import urllib.parse
from collections.abc import Iterable, Iterator

from policy import names

MAX_RECORD = 4096
"""Characters of a record: ten URIs of a generous length; a TXT record can have sixteen times as many."""

MAX_RUA = 10
"""Destinations of one record: each is a delivery of its own for every report, made for free by whoever publishes it."""

MAX_URI = 2000
"""Characters of a URI: what common web servers and proxies take."""

MAX_ADDRESS = 254
"""Octets of an address: a path of 256 without its angle brackets (RFC 5321 section 4.5.3.1.3)."""


class InvalidRecordError(ValueError):
    """The domain publishes something that cannot be used; the text is a short reason for a postmaster."""


class Scheme(enum.StrEnum):
    """How reports travel (RFC 8460 section 3, ``rua``)."""

    MAILTO = "mailto"
    HTTPS = "https"


@dataclasses.dataclass(frozen=True, slots=True)
class Rua:
    """One destination of reports (RFC 8460 section 3, ``rua``)."""

    uri: str
    """The URI as published, without white space around it."""
    scheme: Scheme
    target: str
    """An address with its domain as A-labels in lower case, or a URL with its host so and without a fragment."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unusable:
    """A URI no report can be sent to."""

    uri: str
    """As published, without white space around it; may have any character."""
    reason: str
    """For a postmaster."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A TLSRPT record."""

    text: str
    """The whole record as published."""
    rua: tuple[Rua, ...]
    """In published order, each target once, at most :data:`MAX_RUA`; empty when the record names none."""
    unusable: tuple[Unusable, ...]


_VERSION = re.compile(r"v=TLSRPTv1[ \t]*;")
_FIELD = re.compile(r"[ \t]*([A-Za-z0-9][A-Za-z0-9_.-]{0,31})[ \t]*=(.*)", re.DOTALL)
_WHITE = " \t"


def choose(texts: Iterable[str]) -> Record | None:
    """Return the one TLSRPT record among the TXT records of a name (RFC 8460 section 3); ``None``: there is none.

    Raises:
        InvalidRecordError: there are several, or the one cannot be read.
    """
    records = [text for text in texts if _VERSION.match(text)]
    if len(records) > 1:
        raise InvalidRecordError(f"{len(records)} TLSRPT records where exactly one is allowed")
    return parse_record(records[0]) if records else None


def parse_record(text: str) -> Record:
    """Read a record; one without ``rua`` is a record without destinations.

    Raises:
        InvalidRecordError: it is of another version, too long, or not made of ``name=value`` fields.
    """
    version = _VERSION.match(text)
    if not version:
        raise InvalidRecordError("does not begin with v=TLSRPTv1;")
    if len(text) > MAX_RECORD:
        raise InvalidRecordError(f"longer than {MAX_RECORD} characters")
    found = [_read(uri) for uri in _uris(text[version.end() :])]
    unusable = [one for one in found if isinstance(one, Unusable)]
    by_target: dict[str, Rua] = {}
    for one in found:
        if isinstance(one, Rua):
            by_target.setdefault(one.target, one)
    rua = tuple(by_target.values())
    unusable += [Unusable(one.uri, f"more than {MAX_RUA} destinations") for one in rua[MAX_RUA:]]
    return Record(text, rua[:MAX_RUA], tuple(unusable))


def _uris(fields: str) -> Iterator[str]:
    """Yield the URIs of each ``rua`` field as published, without white space around them."""
    for field in fields.split(";"):
        if not field.strip(_WHITE):
            continue
        match = _FIELD.fullmatch(field)
        if not match:
            raise InvalidRecordError(f"a field that is not name=value: {field.strip(_WHITE)[:80]!a}")
        if match[1] == "rua":
            yield from filter(None, (uri.strip(_WHITE) for uri in match[2].split(",")))


class _UnusableError(ValueError):
    """A URI no report can be sent to; the text is the reason."""


_URI = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})++")
"""The characters of RFC 3986 section 2; all others must be percent-encoded."""


def _read(uri: str) -> Rua | Unusable:
    try:
        scheme = _scheme(uri)
        target = _address(uri) if scheme is Scheme.MAILTO else _url(uri)
    except _UnusableError as error:
        return Unusable(uri, str(error))
    return Rua(uri, scheme, target)


def _scheme(uri: str) -> Scheme:
    if len(uri) > MAX_URI:
        raise _UnusableError(f"longer than {MAX_URI} characters")
    if not _URI.fullmatch(uri):
        raise _UnusableError("a character that must be percent-encoded, or a broken percent-encoding")
    scheme, colon, _ = uri.partition(":")
    if not colon:
        raise _UnusableError("no scheme: write mailto: before an address, https:// before a host")
    try:
        return Scheme(scheme.lower())
    except ValueError:
        raise _UnusableError("only mailto: and https: are supported") from None


def _address(uri: str) -> str:
    """Return the address of a mailto URI (RFC 6068): ASCII, no quoted local part, a domain with a dot."""
    encoded = re.split(r"[?#]", uri.partition(":")[2], maxsplit=1)[0]
    if encoded.startswith("//"):
        raise _UnusableError("write mailto: without // before the address")
    try:
        text = urllib.parse.unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise _UnusableError("not UTF-8") from None
    local, at, domain = text.rpartition("@")
    if "," in text:
        raise _UnusableError("more than one address")
    if not at or not names.is_local_part(local):
        raise _UnusableError("not an address of plain ASCII characters")
    name = _domain(domain)
    if "." not in name or _looks_numeric(name):
        raise _UnusableError("not the address of a domain in the DNS")
    if len(local) + 1 + len(name) > MAX_ADDRESS:
        raise _UnusableError(f"an address longer than {MAX_ADDRESS} characters")
    return f"{local}@{name}"


_HTTPS_PORT = 443
_MAX_PORT = 65535
_AUTHORITY = re.compile(r"(?:\[(?P<ip>[0-9A-Fa-f:.]+)\]|(?P<name>[^:@\[\]]+))(?::(?P<port>[0-9]{0,5}))?")


def _url(uri: str) -> str:
    """Return an https URI in its one spelling: host in lower case, no port 443, a path, no fragment."""
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:
        raise _UnusableError("not a URL") from None
    if not parts.netloc:
        raise _UnusableError("no host: write https://host/path")
    if "@" in parts.netloc:
        raise _UnusableError("a user name or password in the URL")
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if not authority:
        raise _UnusableError("not a host and port")
    host = f"[{_ip(authority['ip'], ipaddress.IPv6Address)}]" if authority["ip"] else _host(authority["name"])
    netloc = host + _port(authority["port"] or str(_HTTPS_PORT))
    return urllib.parse.urlunsplit(("https", netloc, parts.path or "/", parts.query, ""))


def _port(digits: str) -> str:
    port = int(digits)
    if not 0 < port <= _MAX_PORT:
        raise _UnusableError("not a port")
    return "" if port == _HTTPS_PORT else f":{port}"


def _host(text: str) -> str:
    name = _domain(text)
    return _ip(name, ipaddress.IPv4Address) if _looks_numeric(name) else name


def _ip(text: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> str:
    try:
        return str(kind(text))
    except ValueError:
        raise _UnusableError("not an IP address") from None


def _domain(text: str) -> str:
    try:
        return names.a_label(text)
    except names.InvalidNameError:
        raise _UnusableError("not a domain name") from None


def _looks_numeric(name: str) -> bool:
    """Tell whether some software takes the name for an IPv4 address (``127.1``, ``0x7f000001``)."""
    return bool(re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2]))
