"""MTA-STS: the record and the policy of a domain, and which hosts it allows (RFC 8461 sections 3 and 4.1).

Pure. :func:`choose` picks the record among the TXT records of ``_mta-sts.<domain>``, :func:`parse_policy` reads what
its policy host has, :func:`allows` matches MX hosts. Both grammars are followed as they stand, because what they do not
know is no policy for other senders either; only blank lines and white space around lines, before a colon and at the end
of the record are overlooked. Lines are kept as published, for reports.

Not done: whether a media type, a status or a certificate is right is told where policies are fetched; whether a policy
has expired, where they are kept. Extension fields are not kept but in the lines.
"""

import dataclasses
import enum
import re
from collections.abc import Iterable

from policy import names

MAX_RECORD = 4096
"""Characters of a record: a hundred times those it needs; a TXT record can have sixteen times as many."""

MAX_POLICY = 64 * 1024
"""Octets of a policy (RFC 8461 section 3.3)."""

MAX_AGE = 31_557_600
"""Seconds that a policy is kept at most: a year (RFC 8461 section 3.2)."""


class InvalidRecordError(ValueError):
    """The domain publishes a record that cannot be used; the text is a short reason for a postmaster."""

    def __init__(self, text: str, code: str = "record-invalid") -> None:
        super().__init__(text)
        self.code = code
        """In one word, for reports: ``record-invalid``, ``several-records``."""


class InvalidPolicyError(ValueError):
    """The policy cannot be used; the text is a short reason for a postmaster."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code
        """In one word, for reports: ``too-long``, ``not-utf-8``, ``line-invalid``, and ``version``, ``mode``, ``mx`` or
        ``max-age`` with ``-missing`` or ``-invalid``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """An MTA-STS record (RFC 8461 section 3.1)."""

    id: str
    """Tells one policy of the domain from the next: 1 to 32 letters and digits."""


class Mode(enum.StrEnum):
    """What to do with mail to hosts that do not conform (RFC 8461 section 5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """An MTA-STS policy (RFC 8461 section 3.2)."""

    mode: Mode
    mx: tuple[str, ...]
    """Patterns, ``mx.example.com`` or ``*.example.com``: A-labels in lower case, in published order, each once. Empty
    only in mode none."""
    max_age: int
    """Seconds from its fetch for which it holds, 0 to :data:`MAX_AGE`."""
    lines: tuple[str, ...]
    """The file as published, without line ends; may have empty lines."""

    @property
    def strings(self) -> tuple[str, ...]:
        """The lines as reports have them (RFC 8460 section 4.4, ``policy-string``).

        Without blank lines and the white space around lines, as Postfix hands them on: one policy must not become two.
        """
        return tuple(line for line in (line.strip(_WHITE) for line in self.lines) if line)


_VERSION = "v=STSv1;"
_WHITE = " \t"
_RECORD_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([!-:<>-~]+)")
_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_SHOWN = 80
"""Characters of foreign text in an error: it goes into a line of a log or a terminal."""


def choose(texts: Iterable[str]) -> Record | None:
    """Return the one MTA-STS record among the TXT records of a name (RFC 8461 section 3.1); ``None``: there is none.

    Raises:
        InvalidRecordError: there are several, or the one cannot be read.
    """
    records = [text for text in texts if text.startswith(_VERSION)]
    if len(records) > 1:
        raise InvalidRecordError(f"{len(records)} MTA-STS records where exactly one is allowed", "several-records")
    return parse_record(records[0]) if records else None


def parse_record(text: str) -> Record:
    """Read a record (RFC 8461 section 3.1).

    Raises:
        InvalidRecordError: it is of another version, too long, not made of ``name=value`` fields, or has no good id.
    """
    if not text.startswith(_VERSION):
        raise InvalidRecordError(f"does not begin with {_VERSION}")
    if len(text) > MAX_RECORD:
        raise InvalidRecordError(f"longer than {MAX_RECORD} characters")
    fields = text[len(_VERSION) :].strip(_WHITE).removesuffix(";")
    first: dict[str, str] = {}
    for field in fields.split(";"):
        match = _RECORD_FIELD.fullmatch(field.strip(_WHITE))
        if not match:
            raise InvalidRecordError(f"a field that is not name=value: {field.strip(_WHITE)[:_SHOWN]!a}")
        first.setdefault(match[1], match[2])
    id_ = first.get("id")
    if id_ is None:
        raise InvalidRecordError("no id")
    if not _ID.fullmatch(id_):
        raise InvalidRecordError(f"an id that is not 1 to 32 letters and digits: {id_[:_SHOWN]!a}")
    return Record(id_)


def parse_policy(body: bytes) -> Policy:
    """Read a policy (RFC 8461 section 3.2, with up to ten digits in ``max_age`` as erratum 7282 says).

    Args:
        body: of the HTTPS answer.

    Raises:
        InvalidPolicyError: it is too long, not UTF-8, not made of ``name: value`` lines, or a field is bad or missing.
    """
    if len(body) > MAX_POLICY:
        raise InvalidPolicyError(f"longer than {MAX_POLICY} octets", "too-long")
    try:
        lines = _lines(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidPolicyError("not UTF-8", "not-utf-8") from None
    return _policy(lines)


def _lines(text: str) -> tuple[str, ...]:
    """Split at CRLF and LF only, not where else ``str.splitlines`` would."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return tuple(line.removesuffix("\r") for line in lines)


def _policy(lines: tuple[str, ...]) -> Policy:
    first: dict[str, str] = {}
    patterns: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip(_WHITE):
            continue
        name, value = _field(number, line)
        if name == "mx":
            patterns[_pattern(value)] = None
        else:
            first.setdefault(name, value)
    _check_version(first.get("version"))
    mode = _mode(first.get("mode"))
    if not patterns and mode is not Mode.NONE:
        raise InvalidPolicyError("no mx", "mx-missing")
    return Policy(mode, tuple(patterns), _max_age(first.get("max_age")), lines)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _field(number: int, line: str) -> tuple[str, str]:
    """Return name and value of a line, well formed, without the white space around them."""
    name, _, value = (part.strip(_WHITE) for part in line.partition(":"))
    if not _NAME.fullmatch(name) or not value:
        raise InvalidPolicyError(f"line {number} is not a name, a colon and a value: {line[:_SHOWN]!a}", "line-invalid")
    if _CONTROL.search(value):
        raise InvalidPolicyError(f"line {number} has a control character: {line[:_SHOWN]!a}", "line-invalid")
    return name, value


_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
"""Of RFC 5321 section 4.1.2, in lower case: U-labels must not be (RFC 8461 section 3.2), nor a final dot."""


def _pattern(value: str) -> str:
    domain = value.removeprefix("*.")
    if not domain.isascii() or len(domain) > names.MAX_NAME or not _DOMAIN.fullmatch(domain.lower()):
        text = f"an mx that is not a host name, or *. and one, in A-labels: {value[:_SHOWN]!a}"
        raise InvalidPolicyError(text, "mx-invalid")
    return value.lower()


def _check_version(value: str | None) -> None:
    if value is None:
        raise InvalidPolicyError("no version", "version-missing")
    if value != "STSv1":
        raise InvalidPolicyError(f"a version that is not STSv1: {value[:_SHOWN]!a}", "version-invalid")


def _mode(value: str | None) -> Mode:
    if value is None:
        raise InvalidPolicyError("no mode", "mode-missing")
    try:
        return Mode(value)
    except ValueError:
        text = f"a mode that is not enforce, testing or none: {value[:_SHOWN]!a}"
        raise InvalidPolicyError(text, "mode-invalid") from None


_DIGITS = re.compile(r"[0-9]{1,10}")


def _max_age(value: str | None) -> int:
    if value is None:
        raise InvalidPolicyError("no max_age", "max-age-missing")
    if not _DIGITS.fullmatch(value):
        text = f"a max_age that is not a number of one to ten digits: {value[:_SHOWN]!a}"
        raise InvalidPolicyError(text, "max-age-invalid")
    return min(int(value), MAX_AGE)


def allows(policy: Policy, host: str) -> bool:
    """Tell whether an MX host matches one of the patterns, whatever the mode (RFC 8461 section 4.1).

    Args:
        policy: of the domain that has the MX host.
        host: its name as in the MX record; what is no host name is not allowed.
    """
    try:
        name = names.a_label(host)
    except names.InvalidNameError:
        return False
    _, dot, parent = name.partition(".")
    return name in policy.mx or (bool(dot) and f"*.{parent}" in policy.mx)
