"""A verdict in the words of Postfix's ``smtp_tls_policy_maps``, behind a socketmap, or in JSON behind the same.

Pure. Postfix defers all mail to a domain whose answer it cannot read, so nothing goes in that it might refuse: what
only Postfix 3.10 and later take is told on request only (``QUERYwithTLSRPT``), and a policy with braces or control
characters in it, or too long to fit, is told without its lines. What secures the mail always fits.

Policies that do not enforce are not told: answered as ``may``, they would make Postfix report successes it did not
check. Findings are not told either, because ``policy_failure`` stops mail; they go to the recorder on our own way.

Known limits: Postfix takes ``.example.com`` for names of any depth below, where MTA-STS has ``*.example.com`` for one
label. It matches certificates, not MX names.
"""

import dataclasses
import re

import msgspec

from policy import mtasts, verdict

QUERY = b"QUERY"
"""For Postfix before 3.10, which refuses attributes it does not know."""
QUERY_WITH_TLSRPT = b"QUERYwithTLSRPT"
"""For Postfix 3.10 and newer."""
JSON = b"JSON"
"""For other MTAs and for people: the whole verdict."""
PEEK = b"PEEK"
"""The same, by whoever sends no mail: what is found wrong does not count once more."""

MAX_ANSWER = 100_000
"""Octets of an answer that Postfix reads (socketmap_table(5)); more defers the mail."""

NOT_FOUND = b"NOTFOUND "
"""The answer where nothing is enforced, and for what is not looked up; its space is a part of it."""


def answer(decided: verdict.Verdict, *, tlsrpt: bool) -> bytes:
    """Return the answer to a server, at most :data:`MAX_ANSWER` octets.

    Args:
        decided: what is to be told.
        tlsrpt: also tell what Postfix puts into its reports; needs Postfix 3.10.
    """
    if decided.level in {verdict.Level.DANE_ONLY, verdict.Level.DANE}:
        return f"OK {decided.level}".encode()
    if decided.level is verdict.Level.SECURE and decided.sts is not None:
        secured = f"OK secure match={_match(decided.sts)} servername=hostname".encode()
        return _with_report(secured, decided.domain, decided.sts) if tlsrpt else secured
    return NOT_FOUND


_KEYWORDS = frozenset(("hostname", "nexthop", "dot-nexthop"))
"""Words that mean something else in ``match`` than a host of that name (postconf(5), smtp_tls_secure_cert_match)."""

_NOBODY = "invalid"
"""A name no certificate has (RFC 6761 section 6.4)."""


def _match(policy: mtasts.Policy) -> str:
    """Return the patterns in Postfix's form; those that it would misread match no host in the DNS anyway."""
    patterns = [pattern.removeprefix("*") for pattern in policy.mx if pattern not in _KEYWORDS]
    return ":".join(patterns or [_NOBODY])


def _with_report(secured: bytes, domain: str, policy: mtasts.Policy) -> bytes:
    told = secured + f" policy_type=sts policy_domain={domain}".encode()
    for more in (_patterns(policy), _strings(policy)):
        if len(told) + len(more) <= MAX_ANSWER:
            told += more
    return told


def _patterns(policy: mtasts.Policy) -> bytes:
    return "".join(f" mx_host_pattern={pattern}" for pattern in policy.mx).encode()


_BREAKING = re.compile(r"[{}\x00-\x1f\x7f-\x9f]")
"""Braces end a value where Postfix counts them; of controls we do not know what becomes on the way to a report."""


def _strings(policy: mtasts.Policy) -> bytes:
    """Return the lines of the policy, all or none: a part of them would be another policy."""
    if any(_BREAKING.search(line) for line in policy.strings):
        return b""
    return "".join(f" {{ policy_string = {line} }}" for line in policy.strings).encode()


_MAX_STEP = 1000
"""Characters of a sentence that is shortened; only those that list hosts are ever longer."""


def json(decided: verdict.Verdict) -> bytes:
    """Return the whole verdict, at most :data:`MAX_ANSWER` octets: ``OK`` and an object with its fields as keys.

    Of one that is too long, first the lines of its policy are left out, then its steps are shortened or left out.
    """
    told = _encoded(decided)
    if len(told) > MAX_ANSWER and decided.sts is not None:
        decided = dataclasses.replace(decided, sts=dataclasses.replace(decided.sts, lines=()))
        told = _encoded(decided)
    if len(told) > MAX_ANSWER:
        told = _encoded(dataclasses.replace(decided, steps=tuple(map(_shortened, decided.steps))))
    return told if len(told) <= MAX_ANSWER else _encoded(dataclasses.replace(decided, steps=()))


def _encoded(decided: verdict.Verdict) -> bytes:
    return b"OK " + msgspec.json.encode(decided)


def _shortened(step: verdict.Step) -> verdict.Step:
    return step if len(step.text) <= _MAX_STEP else verdict.Step(step.about, f"{step.text[:_MAX_STEP]}…")
