"""What a report must say, spelled out in RFC 8460's own keys from a scenario and the place it was given.

Pure, and independent of the code that builds reports: plain dictionaries, as a receiver's JSON parser makes them.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sender import session
from tests.lab import scenarios, sites

Policy = dict[str, Any]
"""One of ``policies`` (RFC 8460 section 4.4)."""


def policies(site: sites.Site, *, reuse: bool) -> list[Policy]:
    """Return the ``policies`` of the report about a domain; empty: there must be no report.

    Args:
        site: the scenario in its place.
        reuse: whether connections are used again.
    """
    return [_policy(site, seen, reuse=reuse) for seen in site.scenario.report]


def wanted(site: sites.Site) -> bool:
    """Tell whether the domain must get a report."""
    return bool(site.scenario.report) and site.scenario.rua not in _WITHOUT_REPORT


def copies(site: sites.Site) -> int:
    """Return how many reports the domain must get: one for each rua where none has to wait."""
    return by_mail(site) + by_https(site)


def by_mail(site: sites.Site) -> bool:
    """Tell whether a report about the domain must come by mail."""
    return wanted(site) and site.scenario.rua in _BY_MAIL and not site.scenario.waits


def by_https(site: sites.Site) -> bool:
    """Tell whether a report about the domain must come by HTTPS."""
    return wanted(site) and site.scenario.rua in _BY_HTTPS


_WITHOUT_REPORT = {scenarios.Rua.NONE, scenarios.Rua.TWICE, scenarios.Rua.NOWHERE}

_BY_MAIL = {scenarios.Rua.MAIL, scenarios.Rua.OWN, scenarios.Rua.BOTH}
_BY_HTTPS = {scenarios.Rua.HTTPS, scenarios.Rua.BOTH}


def operators(planned: Iterable[sites.Site], *, reuse: bool) -> dict[str, list[Policy]]:
    """Return the ``policies`` of the reports that operators of MX hosts get, by MX host."""
    return {host.canonical: policies(site, reuse=reuse) for site in planned for host in site.hosts if host.host.record}


def sessions(planned: Iterable[sites.Site], *, reuse: bool) -> collections.Counter[str]:
    """Return how many sessions there are, by domain: those that Postfix 3.10 records.

    It records none where there is no usable TLSRPT record.
    """
    return +collections.Counter(
        {site.domain: _sessions(site, reuse=reuse) for site in planned if site.scenario.rua not in _WITHOUT_RECORD}
    )


def all_sessions(planned: Iterable[sites.Site], *, reuse: bool) -> collections.Counter[str]:
    """Return how many sessions there are, by domain, whoever asks for reports about them; those of bounces, too."""
    return +collections.Counter({**{site.domain: _sessions(site, reuse=reuse) for site in planned}, **_BOUNCES})


_WITHOUT_RECORD = {scenarios.Rua.NONE, scenarios.Rua.TWICE}

_BOUNCES = {sites.ORGANIZATION: 1}
"""Of ``plain-null-mx``."""


def _sessions(site: sites.Site, *, reuse: bool) -> int:
    return sum(_successes(seen, reuse=reuse) + seen.failed for seen in site.scenario.report)


def in_order(found: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return policies in an order that does not depend on how a report was made."""
    return sorted(found, key=repr)


def line(found: Sequence[Mapping[str, Any]]) -> str:
    """Return what a report says in a few words, for a table."""
    return "; ".join(map(_words, found)) or "—"


def _words(found: Mapping[str, Any]) -> str:
    summary = found["summary"]
    ok, failed = summary["total-successful-session-count"], summary["total-failure-session-count"]
    details = (_detail_words(detail) for detail in found.get("failure-details", ()))
    return " ".join([f"{found['policy']['policy-type']} {ok}+{failed}", *details])


def _detail_words(detail: Mapping[str, Any]) -> str:
    reason = detail.get("failure-reason-code")
    return f"{detail['result-type']} ({reason})" if reason else str(detail["result-type"])


def _successes(seen: scenarios.Seen, *, reuse: bool) -> int:
    return seen.ok if seen.ok_reused is None or not reuse else seen.ok_reused


def _policy(site: sites.Site, seen: scenarios.Seen, *, reuse: bool) -> Policy:
    summary = {
        "total-successful-session-count": _successes(seen, reuse=reuse),
        "total-failure-session-count": seen.failed,
    }
    policy: Policy = {"policy": _applied(site, seen), "summary": summary}
    if seen.details:
        policy["failure-details"] = [_detail(site, detail) for detail in seen.details]
    return policy


def _applied(site: sites.Site, seen: scenarios.Seen) -> dict[str, Any]:
    match seen.type:
        case session.PolicyType.TLSA:
            host = site.hosts[seen.host]
            strings = {"policy-string": list(host.tlsa)} if host.tlsa else {}
            return {"policy-type": "tlsa", **strings, "policy-domain": host.name if seen.as_listed else host.canonical}
        case session.PolicyType.STS if seen.fetched:
            return {
                "policy-type": "sts",
                "policy-string": list(site.policy_lines),
                "policy-domain": site.domain,
                "mx-host": list(site.patterns),
            }
        case _:
            return {"policy-type": seen.type.value, "policy-domain": site.domain}


def _detail(site: sites.Site, detail: scenarios.Detail) -> dict[str, Any]:
    found: dict[str, Any] = {"result-type": detail.result.value, "failed-session-count": detail.count}
    if detail.host is not None:
        host = site.hosts[detail.host]
        found |= {"receiving-mx-hostname": host.name, "receiving-ip": host.address}
        if detail.ends:
            found |= {"sending-mta-ip": host.sending_address, "receiving-mx-helo": host.canonical}
    if detail.reason is not None:
        found["failure-reason-code"] = detail.reason
    return found
