"""What the made-up DNS holds: typed records by name, and how a name is answered if not truthfully.

Pure. ``sender.demo.dns`` answers from a :class:`Zone`, which may be changed at any time. One zone
knows every name there is: no delegations, no CNAME, of DNSSEC only the word of a resolver that validates.
"""

import dataclasses
import enum
from typing import TypeAlias

from policy import names

CHARACTER_STRING = 255
"""Octets of one string of a TXT record (RFC 1035 section 3.3)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Txt:
    """A TXT record; a text that is too long for one character-string is split."""

    text: str
    split: int = CHARACTER_STRING
    """Octets after which a new character-string begins."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mx:
    """An MX record."""

    preference: int
    host: str


@dataclasses.dataclass(frozen=True, slots=True)
class A:
    """An A record."""

    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class Aaaa:
    """An AAAA record."""

    address: str


Record: TypeAlias = Txt | Mx | A | Aaaa


class Temper(enum.Enum):
    """How a name is answered; a name without a temper is answered truthfully."""

    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    SERVFAIL = "servfail"
    SILENT = "silent"


class Zone:
    """All records there are, by name. Names may be given in any form ``policy.names`` takes."""

    def __init__(self) -> None:
        self._records: dict[str, tuple[Record, ...]] = {}
        self._tempers: dict[str, Temper] = {}
        self._signed: set[str] = set()

    def put(self, name: str, *records: Record) -> None:
        """Add records to a name."""
        key = names.a_label(name)
        self._records[key] = (*self._records.get(key, ()), *records)

    def remove(self, name: str) -> None:
        """Take all records of a name away."""
        self._records.pop(names.a_label(name), None)

    def temper(self, name: str, temper: Temper | None) -> None:
        """Set how a name is answered; ``None``: truthfully again."""
        key = names.a_label(name)
        self._tempers.pop(key, None)
        if temper:
            self._tempers[key] = temper

    def sign(self, name: str) -> None:
        """Have answers about a name say that DNSSEC vouches for them."""
        self._signed.add(names.a_label(name))

    def unsign(self, name: str) -> None:
        """Take that back."""
        self._signed.discard(names.a_label(name))

    def is_signed(self, name: str) -> bool:
        """Tell whether DNSSEC vouches for a name, as asked, any case."""
        return name.lower().removesuffix(".") in self._signed

    def find(self, name: str, kind: type[Record] | None) -> tuple[Record, ...] | Temper:
        """Return the records of a type, at least one, or how to answer without any.

        Args:
            name: as asked, any case.
            kind: the type of record; ``None``: one that this zone has none of.
        """
        key = name.lower().removesuffix(".")
        if key in self._tempers:
            return self._tempers[key]
        found = tuple(record for record in self._records.get(key, ()) if kind and isinstance(record, kind))
        return found or (Temper.NODATA if self._exists(key) else Temper.NXDOMAIN)

    def _exists(self, key: str) -> bool:
        """Tell whether there are records at a name or below it (RFC 8020)."""
        return any(name == key or name.endswith(f".{key}") for name in self._records)
