"""Whom reports do not go to, or not as the domain asks: the postmaster's rules, and suppressed addresses.

Pure. Each destination goes by the first rule that matches its domain and its rua; where none does, as published.
"""

import dataclasses
import datetime as dt
import fnmatch
from collections.abc import Mapping, Sequence

import msgspec

from policy import tlsrpt


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[[rule]]``: which destinations, and what becomes of them."""

    name: str = ""
    """For people; empty: its number."""
    domain: tuple[str, ...] = ()
    """Policy domains, ``*`` for any letters: ``example.net``, ``*.example.net``; empty: all."""
    rua: tuple[str, ...] = ()
    """Addresses or URLs likewise: ``*@example.net``, ``https://reports.example.net/*``; empty: all."""
    until: str = ""
    """The last day on which it holds, ``YYYY-MM-DD`` (UTC); empty: for ever."""
    suppress: bool = False
    """No report goes there."""
    redirect: str = ""
    """A rua that gets it instead."""
    only_failures: bool = False
    """No report of a day on which nothing failed."""


class InvalidRuleError(ValueError):
    """A rule cannot be used; the text names key, value and cure."""


def check(number: int, rule: Rule) -> None:
    """Check what types cannot say.

    Raises:
        InvalidRuleError: it cannot be used.
    """
    key = f"rule[{number}]"
    if sum((rule.suppress, bool(rule.redirect), rule.only_failures)) != 1:
        raise InvalidRuleError(f"{key}: give one of suppress = true, redirect and only_failures = true")
    if rule.until:
        try:
            dt.date.fromisoformat(rule.until)
        except ValueError as error:
            raise InvalidRuleError(f'{key}.until = "{rule.until}": give a day as "YYYY-MM-DD"') from error
    if rule.redirect and _rua(rule.redirect) is None:
        cure = 'give a "mailto:" or "https:" URI'
        raise InvalidRuleError(f'{key}.redirect = "{rule.redirect}": reports cannot go there: {cure}')


def _rua(uri: str) -> tlsrpt.Rua | None:
    try:
        usable = tlsrpt.parse_record(f"v=TLSRPTv1;rua={uri}").rua
    except tlsrpt.InvalidRecordError:
        return None
    return usable[0] if len(usable) == 1 else None


@dataclasses.dataclass(frozen=True, slots=True)
class Destination:
    """Where a report goes."""

    rua: tlsrpt.Rua
    rule: str | None = None
    """The rule that sends it there, in words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """The rules, and what is suppressed, on a day."""

    rules: tuple[Rule, ...]
    today: dt.date
    suppressed: Mapping[str, str]
    """By target (an address or a URL) why."""

    def apply(
        self, domain: str, rua: Sequence[tlsrpt.Rua], *, failed: bool
    ) -> tuple[tuple[Destination, ...], tuple[str, ...]]:
        """Return where a report goes, and in words why not elsewhere.

        Args:
            domain: the policy domain that it is about.
            rua: what the domain asks for.
            failed: whether a session failed.
        """
        going: dict[str, Destination] = {}
        why: list[str] = []
        for one in rua:
            made = self._one(domain, one, failed=failed)
            if isinstance(made, str):
                why.append(made)
            else:
                going.setdefault(made.rua.target, made)
        return tuple(going.values()), tuple(why)

    def _one(self, domain: str, one: tlsrpt.Rua, *, failed: bool) -> Destination | str:
        for number, rule in enumerate(self.rules, start=1):
            if self._matches(rule, domain, one.target):
                name = f'rule "{rule.name}"' if rule.name else f"rule {number}"
                if rule.suppress:
                    return f"{one.uri}: suppressed by {name}"
                if rule.only_failures and not failed:
                    return f"{one.uri}: nothing failed, and {name} wants failures only"
                if rule.redirect:
                    instead = _rua(rule.redirect)
                    if instead is not None:
                        return Destination(instead, f"{name}, instead of {one.uri}")
                return Destination(one, name)
        reason = self.suppressed.get(one.target)
        return Destination(one) if reason is None else f"{one.uri}: suppressed: {reason}"

    def _matches(self, rule: Rule, domain: str, target: str) -> bool:
        holds = not rule.until or self.today <= dt.date.fromisoformat(rule.until)
        return holds and _any(rule.domain, domain) and _any(rule.rua, target)


def _any(patterns: Sequence[str], text: str) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(text.lower(), pattern.lower()) for pattern in patterns)


EVERYTHING = Reach((), dt.date.min, {})
"""Reports go as published."""
