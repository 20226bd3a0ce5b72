"""DANE of domains through a real DNS server on loopback that says which of its answers are secure."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from policy import dane, resolver, verdict

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]

GOOD = f"3 1 1 {'ab' * 32}"
PKIX = f"1 1 1 {'ab' * 32}"
SHORT = "3 1 1 abab"

HOSTS: Zone = {
    ("example", "SIGNED"): [],
    ("example", "SOA"): ["ns.example. hostmaster.example. 1 7200 900 1209600 300"],
    ("example", "TTL"): ["3600"],
    ("insecure.example", "UNSIGNED"): [],
    # one host of each kind
    ("good.example", "A"): ["192.0.2.1"],
    ("_25._tcp.good.example", "TLSA"): [GOOD],
    ("good2.example", "AAAA"): ["2001:db8::2"],
    ("_25._tcp.good2.example", "TLSA"): [GOOD, PKIX],
    ("good2.example", "TTL"): ["45"],
    ("shared.example", "A"): ["192.0.2.3"],
    ("_25._tcp.shared.example", "CNAME"): ["_25._tcp.good.example."],
    ("plain.example", "A"): ["192.0.2.4"],
    ("unusable.example", "A"): ["192.0.2.5"],
    ("_25._tcp.unusable.example", "TLSA"): [PKIX, SHORT],
    ("gone.example", "TXT"): ['"no address"'],
    ("mx.insecure.example", "A"): ["192.0.2.6"],
    ("_25._tcp.mx.insecure.example", "TLSA"): [GOOD],
    ("tlsa-elsewhere.example", "A"): ["192.0.2.7"],
    ("_25._tcp.tlsa-elsewhere.example", "CNAME"): ["_25._tcp.mx.insecure.example."],
    # aliases
    ("alias.example", "CNAME"): ["good.example."],
    ("alias-own.example", "CNAME"): ["plain.example."],
    ("_25._tcp.alias-own.example", "TLSA"): [GOOD],
    ("alias-both.example", "CNAME"): ["good.example."],
    ("_25._tcp.alias-both.example", "TLSA"): [PKIX],
    ("alias-none.example", "CNAME"): ["plain.example."],
    ("hosted.example", "CNAME"): ["mx.insecure.example."],
    ("_25._tcp.hosted.example", "TLSA"): [GOOD],
    ("hosted-none.example", "CNAME"): ["mx.insecure.example."],
    ("back.insecure.example", "CNAME"): ["good.example."],
    ("_25._tcp.back.insecure.example", "TLSA"): [GOOD],
    # trouble
    ("no-address.example", "A"): "SERVFAIL",
    ("no-address.example", "AAAA"): "SERVFAIL",
    ("no-tlsa.example", "A"): ["192.0.2.8"],
    ("_25._tcp.no-tlsa.example", "TLSA"): "SERVFAIL",
    ("forged.example", "A"): ["192.0.2.9"],
    ("_25._tcp.forged.example", "TLSA"): "BOGUS",
    ("silent.example", "A"): ["192.0.2.10"],
    ("_25._tcp.silent.example", "TLSA"): "SILENT",
    ("balanced.insecure.example", "A"): ["192.0.2.11"],
    ("_25._tcp.balanced.insecure.example", "TLSA"): "SERVFAIL",
    ("alias-trouble.example", "CNAME"): ["no-tlsa.example."],
    ("_25._tcp.alias-trouble.example", "TLSA"): [GOOD],
    ("hosted-trouble.example", "CNAME"): ["mx.insecure.example."],
    ("hosted-trouble.example", "ASKED CNAME"): "SERVFAIL",
    ("_25._tcp.hosted-trouble.example", "TLSA"): [GOOD],
}

ONLY, SOME, NO = verdict.Level.DANE_ONLY, verdict.Level.DANE, None

# id, MX hosts of domain.example, level, part of a step
SECURE_MX = [
    ("one host", "good", ONLY, "good.example: its certificate must match the TLSA records at _25._tcp.good.example"),
    ("two hosts", "good good2", ONLY, r"good2.example: .* \(1 of 2 usable\)"),
    ("TLSA behind a CNAME", "shared", ONLY, r"at _25._tcp.shared.example \(1 usable\)"),
    ("one of two", "good plain", SOME, "plain.example: no DANE, because it has no TLSA records"),
    ("none", "plain", NO, "No DANE for this domain"),
    ("unusable", "unusable", SOME, "unusable.example: none of the TLSA records .* can be used for mail"),
    ("usable and unusable", "good unusable", SOME, "DANE where a host has TLSA records"),
    ("unusable and none", "unusable plain", SOME, "unusable.example"),
    ("host without an address", "good gone", ONLY, "gone.example has no address"),
    ("host that does not exist", "nowhere", NO, "nowhere.example has no address"),
    ("insecure host", "mx.insecure", NO, "mx.insecure.example: no DANE, because DNSSEC does not protect its addresses"),
    ("secure and insecure host", "good mx.insecure", SOME, "mx.insecure.example: no DANE"),
    ("insecure TLSA", "tlsa-elsewhere", NO, "DNSSEC does not protect its TLSA records at _25._tcp.tlsa-elsewhere.ex"),
    ("alias of a host with TLSA", "alias", ONLY, "alias.example: .* at _25._tcp.good.example"),
    ("alias with TLSA of its own", "alias-own", ONLY, "alias-own.example: .* at _25._tcp.alias-own.example"),
    ("alias, both have TLSA", "alias-both", ONLY, "alias-both.example: .* at _25._tcp.good.example"),
    ("alias, none has TLSA", "alias-none", NO, "alias-none.example: no DANE, because it has no TLSA records"),
    ("alias into an insecure zone, TLSA of its own", "hosted", ONLY, "hosted.example: .* at _25._tcp.hosted.example"),
    ("alias into an insecure zone", "hosted-none", NO, "hosted-none.example: no DANE, because it has no TLSA records"),
    ("insecure alias of a secure host", "back.insecure", NO, "back.insecure.example: no DANE, because DNSSEC does"),
    ("insecure host whose TLSA question fails", "balanced.insecure", NO, "DNSSEC does not protect its addresses"),
    ("the same host twice", "good good", ONLY, "good.example"),
    ("null MX among others", "good .", ONLY, "good.example"),
]  # fmt: skip

# id, MX hosts of domain.example, level, what is told in later
TROUBLE = [
    ("TLSA fails", "no-tlsa", SOME, r"no-tlsa\.example: its TLSA records have no answer now .*SERVFAIL"),
    ("TLSA is forged", "forged", SOME, r"forged\.example: its TLSA .*DNSSEC validation failed"),
    ("TLSA is silent", "silent", SOME, r"silent\.example: its TLSA .*timed out"),
    ("TLSA fails at one of two", "good no-tlsa", SOME, r"no-tlsa\.example"),
    ("TLSA fails, the other has none", "plain no-tlsa", SOME, r"no-tlsa\.example"),
    ("TLSA fails where the alias leads", "alias-trouble", SOME, r"alias-trouble\.example: its TLSA .*SERVFAIL"),
    ("addresses fail", "no-address", NO, r"no-address\.example: its addresses have no answer now"),
    ("addresses fail at one of two", "good no-address", SOME, r"no-address\.example: its addresses"),
    ("addresses fail, the other has no TLSA", "plain no-address", NO, r"no-address\.example: its addresses"),
    ("alias into an insecure zone fails", "hosted-trouble", NO, r"hosted-trouble\.example: its addresses .* CNAME"),
    ("two troubles", "silent forged", SOME, r"silent\.example: .* forged\.example: "),
]

# id, zone of the domain, domain, level, part of the first step
DOMAINS: list[tuple[str, Zone, str, verdict.Level | None, str]] = [
    ("no such domain", {}, "domain.example", NO, "domain.example does not exist in the DNS"),
    ("no such domain, insecure", {}, "domain.test", NO, "domain.test does not exist in the DNS"),
    ("null MX", {("domain.example", "MX"): ["0 ."]}, "domain.example", NO, "takes no mail: it has a null MX record"),
    ("insecure MX, secure host", {("domain.test", "MX"): ["10 good.example."]}, "domain.test", NO,
     "the MX records of domain.test cannot be trusted"),
    ("alias from an insecure zone", {("domain.test", "CNAME"): ["domain.example."],
     ("domain.example", "MX"): ["10 good.example."]}, "domain.test", NO, "the MX records of domain.test cannot"),
    ("alias", {("alias-of.example", "CNAME"): ["domain.example."], ("domain.example", "MX"): ["10 good.example."]},
     "alias-of.example", ONLY, "DNSSEC protects the MX records of alias-of.example"),
    ("implicit MX", {}, "good.example", ONLY, "good.example has no MX record, so mail goes to the host of that name"),
    ("implicit MX without TLSA", {}, "plain.example", NO, "plain.example has no MX record"),
    ("implicit MX without address", {}, "gone.example", NO, "gone.example has no MX record"),
    ("implicit MX, insecure", {}, "mx.insecure.example", NO, "the missing MX record of mx.insecure.example cannot"),
    ("implicit MX, alias", {}, "alias.example", ONLY, "alias.example has no MX record"),
    ("IDN", {("xn--bcher-kva.example", "MX"): ["10 good.example."]}, "xn--bcher-kva.example", ONLY, "DNSSEC protects"),
    ("host with odd characters", {("domain.example", "MX"): [r"10 a\032b\255.example."]}, "domain.example", NO,
     "DNSSEC protects"),
    ("host that is an address", {("domain.example", "MX"): ["10 192.0.2.1."]}, "domain.example", NO, "DNSSEC protects"),
]  # fmt: skip


def _zone(hosts: str) -> Zone:
    names = ["." if host == "." else f"{host}.example." for host in hosts.split()]
    mx = [f"{10 * number} {name}" for number, name in enumerate(names, 1)]
    return {**HOSTS, ("domain.example", "MX"): mx}


async def _look_up(nameserver: Nameserver, zone: Zone, domain: str = "domain.example") -> dane.Looked:
    async with nameserver(zone) as server:
        return await dane.look_up(resolver.Resolver([server], lifetime=1), domain)


@pytest.mark.parametrize(("hosts", "level", "step"), [pytest.param(*case[1:], id=case[0]) for case in SECURE_MX])
def test_hosts_of_a_secure_domain_say_whether_there_is_dane(
    nameserver: Nameserver, hosts: str, level: verdict.Level | None, step: str
) -> None:
    """RFC 7672 section 2.2: for all hosts, for some or for none; the steps name each host that mail may go to."""
    looked = asyncio.run(_look_up(nameserver, _zone(hosts)))
    assert looked.dane.level == level
    assert any(re.search(step, told) for told in looked.dane.steps)
    assert looked.dane.later is None


@pytest.mark.parametrize(("hosts", "level", "later"), [pytest.param(*case[1:], id=case[0]) for case in TROUBLE])
def test_trouble_at_a_host_is_told_and_left_to_the_mta(
    nameserver: Nameserver, hosts: str, level: verdict.Level | None, later: str
) -> None:
    """RFC 7672 section 2.1.2: no downgrade because an answer does not come, and no DANE out of nothing."""
    looked = asyncio.run(_look_up(nameserver, _zone(hosts)))
    assert looked.dane.level == level
    assert looked.dane.later is not None
    assert re.search(later, looked.dane.later)
    assert looked.ttl == resolver.RETRY


@pytest.mark.parametrize(("zone", "domain", "level", "step"), [pytest.param(*case[1:], id=case[0]) for case in DOMAINS])
def test_the_mx_records_say_whether_dane_can_apply(
    nameserver: Nameserver, zone: Zone, domain: str, level: verdict.Level | None, step: str
) -> None:
    """RFC 7672 section 2.2.1: present, implicit, null, or not to be trusted."""
    looked = asyncio.run(_look_up(nameserver, {**HOSTS, **zone}, domain))
    assert looked.dane.level == level
    assert step in looked.dane.steps[0]
    assert looked.dane.later is None


@pytest.mark.parametrize(("word", "told"), [("SERVFAIL", "SERVFAIL"), ("BOGUS", "DNSSEC"), ("SILENT", "timed out")])
def test_mx_records_without_an_answer_are_no_answer(nameserver: Nameserver, word: str, told: str) -> None:
    """Nothing is said about the domain; it is to be asked again soon."""
    looked = asyncio.run(_look_up(nameserver, {**HOSTS, ("domain.example", "MX"): word}))
    assert looked.dane.level is None
    (step,) = looked.dane.steps
    assert step == f"The MX records of domain.example have no answer now ({looked.dane.later})."
    assert told in step
    assert looked.ttl == resolver.RETRY


def test_more_hosts_than_anybody_has_are_not_looked_at(nameserver: Nameserver) -> None:
    """A stranger's MX records do not make us ask for ever; what was not seen is no DANE for all."""
    names = [f"mx{number}" for number in range(dane.MAX_HOSTS + 1)]
    hosts: dict[tuple[str, str], Sequence[str] | str] = {(f"{name}.example", "A"): ["192.0.2.1"] for name in names}
    hosts |= {(f"_25._tcp.{name}.example", "TLSA"): [GOOD] for name in names}
    exactly = asyncio.run(_look_up(nameserver, {**_zone(" ".join(names[:-1])), **hosts}))
    too_many = asyncio.run(_look_up(nameserver, {**_zone(" ".join(names)), **hosts}))
    assert (exactly.dane.level, too_many.dane.level) == (ONLY, SOME)
    assert "1 more MX hosts were not looked at." in too_many.dane.steps
    assert not any("mx16.example" in step for step in too_many.dane.steps)


# id, MX hosts, further zone, seconds
TTLS: list[tuple[str, str, Zone, int]] = [
    ("records", "good", {}, 60),
    ("an address", "good2", {}, 45),
    ("MX records", "good", {("domain.example", "TTL"): ["20"]}, 20),
    ("TLSA records", "good", {("_25._tcp.good.example", "TTL"): ["10"]}, 10),
    ("missing TLSA records", "plain", {("example", "SOA"): ["a. b. 1 2 3 4 15"]}, 15),
    ("no TLSA where the alias leads", "alias-own", {("example", "SOA"): ["a. b. 1 2 3 4 15"]}, 15),
]


@pytest.mark.parametrize(("hosts", "zone", "ttl"), [pytest.param(*case[1:], id=case[0]) for case in TTLS])
def test_what_was_found_holds_as_long_as_its_shortest_answer(
    nameserver: Nameserver, hosts: str, zone: Zone, ttl: int
) -> None:
    """A new TLSA record is noticed in the time its publisher expects."""
    assert asyncio.run(_look_up(nameserver, {**_zone(hosts), **zone})).ttl == ttl


def test_the_steps_read_as_a_story(nameserver: Nameserver) -> None:
    """What a postmaster sees who never heard of RFC 7672."""
    looked = asyncio.run(_look_up(nameserver, _zone("good plain mx.insecure gone")))
    assert looked.dane.steps == (
        "DNSSEC protects the MX records of domain.example.",
        "good.example: its certificate must match the TLSA records at _25._tcp.good.example (1 usable).",
        "plain.example: no DANE, because it has no TLSA records.",
        "mx.insecure.example: no DANE, because DNSSEC does not protect its addresses.",
        "gone.example has no address, so no mail goes there.",
        "DANE where a host has TLSA records; each host is looked up again when mail goes out.",
    )
