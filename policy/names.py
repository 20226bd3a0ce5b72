"""Domain names as the project keeps them: A-labels, lower case, no final dot (RFC 5890, RFC 1035 section 2.3.4).

Pure. Everything that enters from outside (a datagram, a rua, a command line) passes through
:func:`a_label` once and is compared byte by byte ever after.
"""

import re

import idna

MAX_NAME = 253
"""Characters of a name in text form without the final dot (RFC 1035 section 2.3.4)."""

_MAX_TEXT = 4 * MAX_NAME
"""Characters of a name in U-labels before it is looked at: decomposed and ignored characters make it longer than what
it stands for, and IDNA takes time that grows with its length."""

_LDH = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")


MAX_LOCAL_PART = 64
"""Octets of the local part of a mail address (RFC 5321 section 4.5.3.1.1)."""

_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")


class InvalidNameError(ValueError):
    """The text is not a domain name."""


def a_label(text: str) -> str:
    """Return a domain name as A-labels in lower case, without a final dot.

    Underscores are let through, because host names with them exist in the DNS.

    Args:
        text: a name in U-labels or A-labels, any case, with or without a final dot.

    Raises:
        InvalidNameError: it is empty, too long, or has characters or labels a name cannot have.
    """
    name = text if text.isascii() else _encode(text)
    name = name.removesuffix(".").lower()
    if len(name) > MAX_NAME or not _LDH.match(name):
        raise InvalidNameError(f"not a domain name: {text[:MAX_NAME]!r}")
    return name


def host_name(text: str) -> str | None:
    """Return a name as :func:`a_label` does; ``None``: it is none, or an IPv4 address.

    RFC 3696 section 2: the last label of a name is not all digits.
    """
    try:
        name = a_label(text)
    except InvalidNameError:
        return None
    return None if name.rpartition(".")[2].isdigit() else name


def _encode(text: str) -> str:
    """Encode the labels that need it; the others may have what IDNA forbids and the DNS does not (``_smtp``)."""
    if len(text) > _MAX_TEXT:
        raise InvalidNameError(f"not a domain name: {text[:MAX_NAME]!r}")
    try:
        labels = idna.uts46_remap(text, std3_rules=False, transitional=False).split(".")
        return ".".join(label if label.isascii() else idna.alabel(label).decode("ascii") for label in labels)
    except UnicodeError as error:  # IDNAError is one; lone surrogates make others
        raise InvalidNameError(f"not a domain name: {text[:MAX_NAME]!r} ({error})") from error


def is_local_part(text: str) -> bool:
    """Tell whether a text can stand before the @ of an address as it is (RFC 5322 section 3.4.1, dot-atom).

    ``=?`` is let through nowhere: in a header field it begins an encoded-word, which is another text once decoded.
    """
    return len(text) <= MAX_LOCAL_PART and "=?" not in text and _DOT_ATOM.match(text) is not None
