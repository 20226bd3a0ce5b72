"""Bounces of report mails: the address they come to, and what they say (RFC 3464).

Pure. Each report mail has an envelope sender of its own, ``SENDER+TAG@DOMAIN``. Its tag is the report-id, which is
unique and in part random, so nobody makes up a bounce of a mail that he did not get.
"""

import dataclasses
import email.parser
import email.policy
import enum
import re
from email import message

from sender import outcome

MAX_LOCAL = 64
"""Octets of a local part (RFC 5321 section 4.5.3.1.1)."""

TAG = 38
"""Octets that a tag takes with its ``+``: ``YYYYMMDD.``, 24 digits, a point, the number of the delivery."""

MAX_PARTS = 50
"""Parts of a message that are looked at: a bounce has three."""

_TAG = re.compile(r"(?P<token>[0-9]{8}\.[0-9a-z]{8,64})\.(?P<number>[1-9][0-9]{0,2})")
_STATUS = re.compile(r"(?<![0-9.])([245])\.([0-9]{1,3})\.([0-9]{1,3})(?![0-9])")


class Fate(enum.StrEnum):
    """What became of a mail."""

    FAILED = "failed"
    """For good."""
    DELAYED = "delayed"
    """It is still tried, or failed for now."""
    PASSED = "passed"
    """Delivered, relayed or expanded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bounce:
    """What a delivery status notification says."""

    fate: Fate
    status: str
    """As in RFC 3463, such as ``5.1.1``."""
    told: str
    """Why, in the words of the server, on one line."""


class NotABounceError(ValueError):
    """The message is no delivery status notification; the text is one line."""


def sender(address: str, report_id: str, number: int) -> str:
    """Return the envelope sender of one mail.

    Args:
        address: ``mail.sender``.
        report_id: of the report.
        number: of the delivery.
    """
    local, _, domain = address.rpartition("@")
    return f"{local}+{report_id.partition('@')[0]}.{number}@{domain}"


def delivery(address: str, recipient: str) -> tuple[str, int] | None:
    """Return report-id and number of the delivery that a recipient of a bounce stands for; ``None``: for none.

    Args:
        address: ``mail.sender``.
        recipient: as the server gave it.
    """
    local, _, domain = address.rpartition("@")
    given, _, at = recipient.rpartition("@")
    name, plus, tag = given.lower().rpartition("+")
    match = _TAG.fullmatch(tag)
    if not plus or match is None or (name, at.lower()) != (local.lower(), domain.lower()):
        return None
    return f"{match['token']}@{domain}", int(match["number"])


def parse(octets: bytes) -> Bounce:
    """Read a delivery status notification: the worst of what it says, for a report mail has one recipient.

    Args:
        octets: the whole message.

    Raises:
        NotABounceError: it is none.
    """
    try:
        whole = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(octets)
        found = [_recipient(block) for block in _blocks(whole)]
    except (ValueError, LookupError, RecursionError, AttributeError, TypeError) as error:  # whatever a stranger made
        raise NotABounceError(f"it cannot be read: {error!r}") from error
    bounces = [one for one in found if one is not None]
    if not bounces:
        raise NotABounceError("it has no part message/delivery-status that tells of a recipient")
    return min(bounces, key=lambda one: list(Fate).index(one.fate))


def _blocks(whole: message.Message) -> list[message.Message]:
    """Return the fields of each block of the first delivery-status part."""
    waiting, seen = [whole], 0
    while waiting and seen < MAX_PARTS:
        part = waiting.pop(0)
        seen += 1
        if part.get_content_type() == "message/delivery-status":
            payload = part.get_payload()
            return [one for one in payload if isinstance(one, message.Message)] if isinstance(payload, list) else []
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            waiting += [one for one in part.get_payload() if isinstance(one, message.Message)]
    return []


def _recipient(block: message.Message) -> Bounce | None:
    """Return what a block says of a recipient; ``None``: it is that of the whole message."""
    found = re.match(r"[a-z-]+", _field(block, "action").lower())  # there may be a comment behind it
    if found is None:
        return None
    action = found[0]
    status = _STATUS.search(_field(block, "status")) or _STATUS.search(_field(block, "diagnostic-code"))
    code = ".".join(status.groups()) if status else ""
    if action == "failed":
        fate = Fate.DELAYED if code.startswith("4") else Fate.FAILED
    else:
        fate = Fate.DELAYED if action == "delayed" else Fate.PASSED
    why = _field(block, "diagnostic-code").partition(";")
    return Bounce(fate, code, outcome.clean(why[2] or why[0]))


def _field(block: message.Message, name: str) -> str:
    return " ".join(str(block.get(name, "")).split())
