"""Questions to a real DNS server on loopback: absent and temporary are different things."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeVar

import dns.nameserver
import pytest

from policy import resolver, tlsa

T = TypeVar("T")

Zone = Mapping[tuple[str, str], Sequence[str] | str]
Nameserver = Callable[[Zone], AbstractAsyncContextManager[str]]

LONG = " ".join(f'"{letter * 250}"' for letter in "abcdefgh")

ZONE: Zone = {
    ("one.example", "TXT"): ['"v=TLSRPTv1; rua=mailto:a@one.example"'],
    ("split.example", "TXT"): ['"v=TLSRPTv1; rua=mail" "to:a@split.example" ";"'],
    ("two.example", "TXT"): ['"first"', '"second"'],
    ("empty.example", "TXT"): ['""'],
    ("bytes.example", "TXT"): [r'"\195\188\000\255"'],
    ("long.example", "TXT"): [LONG],
    ("alias.example", "CNAME"): ["hop.example."],
    ("hop.example", "CNAME"): ["one.example."],
    ("dangling.example", "CNAME"): ["nowhere.example."],
    ("loop.example", "CNAME"): ["loop.example."],
    ("fail.example", "TXT"): "SERVFAIL",
    ("refused.example", "TXT"): "REFUSED",
    ("garbage.example", "TXT"): "GARBAGE",
    ("silent.example", "TXT"): "SILENT",
    ("both.example", "A"): ["192.0.2.1", "192.0.2.2"],
    ("both.example", "AAAA"): ["2001:db8::1"],
    ("four.example", "A"): ["192.0.2.4"],
    ("four-broken-six.example", "A"): ["192.0.2.4"],
    ("four-broken-six.example", "AAAA"): "SERVFAIL",
    ("broken-six.example", "TXT"): ['"no A"'],
    ("broken-six.example", "AAAA"): "SERVFAIL",
    ("web.example", "CNAME"): ["both.example."],
    ("many.example", "A"): [f"192.0.2.{number}" for number in range(100)],
}

TXT = [
    ("one string", "one.example", ("v=TLSRPTv1; rua=mailto:a@one.example",)),
    ("final dot", "one.example.", ("v=TLSRPTv1; rua=mailto:a@one.example",)),
    ("strings are joined without spaces", "split.example", ("v=TLSRPTv1; rua=mailto:a@split.example;",)),
    ("two records", "two.example", ("first", "second")),
    ("empty string", "empty.example", ("",)),
    ("any octet", "bytes.example", ("\xc3\xbc\0\xff",)),
    ("truncated over UDP", "long.example", ("".join(letter * 250 for letter in "abcdefgh"),)),
    ("CNAMEs are followed", "alias.example", ("v=TLSRPTv1; rua=mailto:a@one.example",)),
    ("no such name", "nowhere.example", None),
    ("no such type", "four.example", None),
    ("CNAME to nowhere", "dangling.example", None),
    ("label that cannot exist", "a" * 64 + ".example", None),
    ("name that cannot exist", ".".join(["a" * 60] * 5), None),
    ("empty label", "a..example", None),
]

TEMPORARY = [
    ("SERVFAIL", "fail.example", r"fail\.example TXT: no usable answer: 127\.0\.0\.1:[0-9]+ SERVFAIL"),
    ("REFUSED", "refused.example", r"refused\.example TXT: no usable answer: 127\.0\.0\.1:[0-9]+ REFUSED"),
    ("silence", "silent.example", r"silent\.example TXT: no answer in time: 127\.0\.0\.1:[0-9]+ timed out"),
    ("not a DNS message", "garbage.example", r"garbage\.example TXT: no answer in time: 127\.0\.0\.1:[0-9]+ timed out"),
    ("CNAME loop", "loop.example", r"loop\.example TXT: no usable answer: 127\.0\.0\.1:[0-9]+ "),
]

ADDRESSES = [
    ("both families", "both.example", {"192.0.2.1", "192.0.2.2", "2001:db8::1"}),
    ("one family", "four.example", {"192.0.2.4"}),
    ("one family broken", "four-broken-six.example", {"192.0.2.4"}),
    ("through a CNAME", "web.example", {"192.0.2.1", "192.0.2.2", "2001:db8::1"}),
    ("no such name", "nowhere.example", set()),
    ("no such type", "one.example", set()),
    ("not a name", "a..b", set()),
]


@pytest.mark.parametrize(("name", "expected"), [pytest.param(*case[1:], id=case[0]) for case in TXT])
def test_txt_records_come_whole_or_are_absent(
    nameserver: Nameserver, name: str, expected: tuple[str, ...] | None
) -> None:
    """Joined strings, any octet, long answers over TCP; None where there is nothing."""

    async def ask() -> tuple[str, ...] | None:
        async with nameserver(ZONE) as server:
            return await resolver.Resolver([server]).txt(name)

    found = asyncio.run(ask())
    assert (found and sorted(found)) == (expected and sorted(expected))


@pytest.mark.parametrize(("name", "text"), [pytest.param(*case[1:], id=case[0]) for case in TEMPORARY])
def test_no_answer_is_not_absence(nameserver: Nameserver, name: str, text: str) -> None:
    """The error tells the question, the server and what it did."""

    async def ask() -> None:
        async with nameserver(ZONE) as server:
            await resolver.Resolver([server], lifetime=1).txt(name)

    with pytest.raises(resolver.TemporaryError, match=text):
        asyncio.run(ask())


@pytest.mark.parametrize(("host", "expected"), [pytest.param(*case[1:], id=case[0]) for case in ADDRESSES])
def test_addresses_of_both_families_are_found(nameserver: Nameserver, host: str, expected: set[str]) -> None:
    """One broken family does not hide the other."""

    async def ask() -> tuple[str, ...]:
        async with nameserver(ZONE) as server:
            return await resolver.Resolver([server]).addresses(host)

    assert set(asyncio.run(ask())) == expected


def test_no_address_and_a_broken_family_is_temporary(nameserver: Nameserver) -> None:
    """The host may have an IPv6 address that nobody could tell just now."""

    async def ask() -> None:
        async with nameserver(ZONE) as server:
            await resolver.Resolver([server]).addresses("broken-six.example")

    with pytest.raises(resolver.TemporaryError, match=r"broken-six\.example AAAA: .* SERVFAIL"):
        asyncio.run(ask())


def test_a_host_with_very_many_addresses_gives_a_few(nameserver: Nameserver) -> None:
    """One name does not make us connect to a hundred hosts."""

    async def ask() -> tuple[str, ...]:
        async with nameserver(ZONE) as server:
            return await resolver.Resolver([server]).addresses("many.example")

    assert len(asyncio.run(ask())) == resolver.MAX_ADDRESSES


def test_the_second_server_answers_when_the_first_fails(nameserver: Nameserver) -> None:
    """Each server is asked before the answer is no."""

    async def ask() -> tuple[str, ...] | None:
        zone: Zone = {("one.example", "TXT"): "SERVFAIL"}
        async with nameserver(zone) as broken, nameserver(ZONE) as sound:
            return await resolver.Resolver([broken, sound]).txt("one.example")

    assert asyncio.run(ask()) == ("v=TLSRPTv1; rua=mailto:a@one.example",)


def test_a_silent_server_takes_no_longer_than_allowed(nameserver: Nameserver) -> None:
    """Fifty questions at once to a server that is down are over together, in the time of one."""

    async def ask() -> list[tuple[str, ...] | BaseException | None]:
        async with nameserver(ZONE) as server:
            asked = resolver.Resolver([server], lifetime=1)
            return await asyncio.gather(*(asked.txt("silent.example") for _ in range(50)), return_exceptions=True)

    begin = time.monotonic()
    answers = asyncio.run(ask())
    assert all(isinstance(answer, resolver.TemporaryError) for answer in answers)
    assert time.monotonic() - begin < 5


def test_a_question_can_be_cancelled(nameserver: Nameserver) -> None:
    """The role that shuts down does not wait for the DNS, and leaves no socket open."""

    async def ask() -> None:
        async with nameserver(ZONE) as server, asyncio.timeout(0.1):
            await resolver.Resolver([server]).txt("silent.example")

    with pytest.raises(TimeoutError):
        asyncio.run(ask())


SERVERS = [
    ("127.0.0.1", "127.0.0.1", 53),
    ("127.0.0.1:53", "127.0.0.1", 53),
    ("127.0.0.1:5353", "127.0.0.1", 5353),
    ("::1", "::1", 53),
    ("[::1]", "::1", 53),
    ("[::1]:5353", "::1", 5353),
    ("2001:db8::53", "2001:db8::53", 53),
    ("[fe80::1%lo]:5353", "fe80::1%lo", 5353),
]

BAD_SERVERS = [
    "",
    "localhost",
    "dns.example:53",
    "127.0.0.1:",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "127.0.0.1:x",
    "127.1:53",
    "[::1]:",
    "[::1",
    "::1:53x",
    "127.0.0.1:53 ",
    "https://127.0.0.1/",
]


def _servers(made: resolver.Resolver) -> list[tuple[str, int]]:
    servers = made._resolver.nameservers
    return [(server.address, server.port) for server in servers if isinstance(server, dns.nameserver.Do53Nameserver)]


@pytest.mark.parametrize(("server", "address", "port"), SERVERS)
def test_nameservers_may_be_written_with_and_without_port(server: str, address: str, port: int) -> None:
    """IPv4 and IPv6, brackets where there is a port."""
    assert _servers(resolver.Resolver([server])) == [(address, port)]


@pytest.mark.parametrize("server", BAD_SERVERS)
def test_a_bad_nameserver_is_named_with_the_cure(server: str) -> None:
    """The line goes to the postmaster as it is."""
    with pytest.raises(ValueError, match=re.escape(f'dns.nameservers: "{server}": give an IP address and a port')):
        resolver.Resolver(["127.0.0.1:53", server])


def test_without_nameservers_resolv_conf_is_read(tmp_path: Path) -> None:
    """Its servers are asked; its options and search list do not change how."""
    file = tmp_path / "resolv.conf"
    file.write_text("# by hand\nsearch example.com\nnameserver 127.0.0.1\noptions trust-ad timeout:90\n")
    made = resolver.Resolver(resolv_conf=file)
    assert _servers(made) == [("127.0.0.1", 53)]
    assert made._resolver.timeout == resolver.SERVER_TIMEOUT


@pytest.mark.parametrize(
    "content", [None, b"", b"search example.com\n", b"nameserver dns.example\n", b"nameserver \xff\n"]
)
def test_without_any_nameserver_the_cure_is_told(tmp_path: Path, content: bytes | None) -> None:
    """A missing file and one that names no server are the same fault."""
    file = tmp_path / "resolv.conf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r'dns.nameservers is empty .* in dns.nameservers, for example "127.0.0.1:53"'):
        resolver.Resolver(resolv_conf=file)


SOA = "ns.signed.example. hostmaster.signed.example. 1 7200 900 1209600 300"
DIGEST = "0123456789abcdef" * 4

SIGNED: Zone = {
    ("signed.example", "SIGNED"): [],
    ("signed.example", "SOA"): [SOA],
    ("signed.example", "TTL"): ["900"],
    ("signed.example", "MX"): ["20 b.signed.example.", "10 C.Signed.Example.", "10 a.signed.example."],
    ("null.signed.example", "MX"): ["0 ."],
    ("odd.signed.example", "MX"): [r"10 a\032b.signed.example."],
    ("alias.signed.example", "CNAME"): ["signed.example."],
    ("out.signed.example", "CNAME"): ["plain.example."],
    ("child.signed.example", "UNSIGNED"): [],
    ("child.signed.example", "MX"): ["10 mx.child.signed.example."],
    ("long-lived.signed.example", "TTL"): ["999999"],
    ("long-lived.signed.example", "MX"): ["10 a.signed.example."],
    ("short-lived.signed.example", "TTL"): ["0"],
    ("short-lived.signed.example", "MX"): ["10 a.signed.example."],
    ("dangling.signed.example", "CNAME"): ["nowhere.signed.example."],
    ("dangling.signed.example", "TTL"): ["30"],
    ("a.signed.example", "A"): ["192.0.2.1"],
    ("a.signed.example", "AAAA"): ["2001:db8::1"],
    ("a.signed.example", "TTL"): ["700"],
    ("_25._tcp.a.signed.example", "TLSA"): [f"3 1 1 {DIGEST}", "2 0 0 3082"],
    ("_25._tcp.odd.signed.example", "TLSA"): ["255 255 255 00"],
    ("_25._tcp.short.signed.example", "TLSA"): ["1 1 1 abcd", f"3 1 1 {DIGEST}"],
    ("_25._tcp.alias.signed.example", "CNAME"): ["_25._tcp.plain.example."],
    ("_25._tcp.plain.example", "TLSA"): [f"3 1 1 {DIGEST}"],
    ("mx.signed.example", "CNAME"): ["hop.signed.example."],
    ("hop.signed.example", "CNAME"): ["a.signed.example."],
    ("hosted.signed.example", "CNAME"): ["plain.example."],
    ("hosted.signed.example", "TTL"): ["40"],
    ("hosted.plain.example", "CNAME"): ["a.signed.example."],
    ("half.signed.example", "A"): ["192.0.2.2"],
    ("half.signed.example", "AAAA"): "SERVFAIL",
    ("none.signed.example", "TXT"): ['"x"'],
    ("lost.signed.example", "CNAME"): ["plain.example."],
    ("lost.signed.example", "ASKED CNAME"): "SERVFAIL",
    ("plain.example", "MX"): ["10 a.signed.example."],
    ("plain.example", "A"): ["192.0.2.3"],
    ("plain.example", "SOA"): [SOA.replace("300", "86400")],
    ("plain.example", "TTL"): ["50000"],
    ("bogus.example", "MX"): "BOGUS",
    ("fail.example", "MX"): "SERVFAIL",
    ("refused.example", "MX"): "REFUSED",
    ("silent.example", "MX"): "SILENT",
}

# id, domain, hosts with their preference, whether the name exists, whether secure, ttl
MX = [
    ("by preference", "signed.example", [(10, "a.signed.example"), (10, "c.signed.example"), (20, "b.signed.example")],
     True, True, 900),
    ("null MX", "null.signed.example", [(0, ".")], True, True, 60),
    ("any character", "odd.signed.example", [(10, r"a\032b.signed.example")], True, True, 60),
    ("not secure", "plain.example", [(10, "a.signed.example")], True, False, 50000),
    ("unsigned child", "child.signed.example", [(10, "mx.child.signed.example")], True, False, 60),
    ("CNAME out of the signed zone", "out.signed.example", [(10, "a.signed.example")], True, False, 60),
    ("no MX, secure", "a.signed.example", [], True, True, 300),
    ("no MX, not secure", "four.plain.example", [], False, False, 3600),
    ("no such name, secure", "nowhere.signed.example", [], False, True, 300),
    ("CNAME to nowhere", "dangling.signed.example", [], False, True, 30),
    ("no SOA", "nowhere.other.example", [], False, False, None),
    ("never longer than a day", "long-lived.signed.example", [(10, "a.signed.example")], True, True, 86400),
    ("no time at all", "short-lived.signed.example", [(10, "a.signed.example")], True, True, 0),
    ("cannot exist", "a" * 64 + ".example", [], False, False, 3600),
]  # fmt: skip

# id, host, addresses, expanded, secure, first step secure, ttl
HOSTS = [
    ("secure", "a.signed.example", ("2001:db8::1", "192.0.2.1"), "a.signed.example", True, True, 700),
    ("secure to its end", "mx.signed.example", ("2001:db8::1", "192.0.2.1"), "a.signed.example", True, True, 60),
    ("secure CNAME, insecure end", "hosted.signed.example", ("192.0.2.3",), "plain.example", False, True, 40),
    ("insecure CNAME, secure end", "hosted.plain.example", ("2001:db8::1", "192.0.2.1"), "a.signed.example",
     False, False, 60),
    ("not secure", "plain.example", ("192.0.2.3",), "plain.example", False, False, 50000),
    ("one family broken", "half.signed.example", ("192.0.2.2",), "half.signed.example", True, True, 60),
    ("no address", "none.signed.example", (), "none.signed.example", True, True, 300),
    ("CNAME to nowhere", "dangling.signed.example", (), "nowhere.signed.example", True, True, 30),
    ("no such name, not secure", "nowhere.plain.example", (), "nowhere.plain.example", False, False, 3600),
]  # fmt: skip

RECORDS = (
    tlsa.Record(2, 0, 0, bytes.fromhex("3082")),
    tlsa.Record(3, 1, 1, bytes.fromhex(DIGEST)),
)

# id, name, records, secure
TLSA = [
    ("secure", "_25._tcp.a.signed.example", RECORDS, True),
    ("any numbers", "_25._tcp.odd.signed.example", (tlsa.Record(255, 255, 255, b"\0"),), True),
    ("digest too short beside a good one", "_25._tcp.short.signed.example",
     (tlsa.Record(1, 1, 1, b"\xab\xcd"), RECORDS[1]), True),
    ("CNAME out of the signed zone", "_25._tcp.alias.signed.example", RECORDS[1:], False),
    ("absent, secure", "_25._tcp.b.signed.example", (), True),
    ("absent, not secure", "_25._tcp.nowhere.example", (), False),
]  # fmt: skip

CODES = [
    ("forged", "bogus.example", "dnssec-bogus", "SERVFAIL (DNSSEC validation failed)"),
    ("SERVFAIL", "fail.example", "dns-servfail", "SERVFAIL"),
    ("REFUSED", "refused.example", "dns-refused", "REFUSED"),
    ("silence", "silent.example", "dns-timeout", "timed out"),
]


async def _ask(nameserver: Nameserver, question: Callable[[resolver.Resolver], Awaitable[T]]) -> T:
    async with nameserver(SIGNED) as server:
        return await question(resolver.Resolver([server], lifetime=1))


@pytest.mark.parametrize(
    ("domain", "hosts", "exists", "secure", "ttl"), [pytest.param(*case[1:], id=case[0]) for case in MX]
)
def test_mx_records_tell_whether_they_are_secure_and_how_long_they_hold(
    nameserver: Nameserver, domain: str, hosts: list[tuple[int, str]], *, exists: bool, secure: bool, ttl: int | None
) -> None:
    """Absence has a security and a time of its own (RFC 2308 section 5), which are those of its SOA."""
    answer = asyncio.run(_ask(nameserver, lambda asked: asked.mx(domain)))
    assert answer.records == tuple(resolver.Mx(*one) for one in hosts)
    assert (answer.exists, answer.secure) == (exists, secure)
    assert answer.ttl == ttl or (ttl is None and 0 <= answer.ttl <= resolver.MAX_NEGATIVE_TTL)


@pytest.mark.parametrize(
    ("name", "addresses", "expanded", "secure", "first", "ttl"), [pytest.param(*case[1:], id=case[0]) for case in HOSTS]
)
def test_a_host_tells_how_far_dnssec_vouches_for_it(
    nameserver: Nameserver,
    name: str,
    addresses: tuple[str, ...],
    expanded: str,
    *,
    secure: bool,
    first: bool,
    ttl: int,
) -> None:
    """RFC 7672 section 2.2.2: the whole way, or the CNAME at its beginning only."""
    found = asyncio.run(_ask(nameserver, lambda asked: asked.host(name)))
    assert found == resolver.Host(addresses, expanded, secure, first, ttl)


@pytest.mark.parametrize(("name", "records", "secure"), [pytest.param(*case[1:], id=case[0]) for case in TLSA])
def test_tlsa_records_come_as_they_are(
    nameserver: Nameserver, name: str, records: tuple[tlsa.Record, ...], *, secure: bool
) -> None:
    """Usable or not is not for the resolver to judge."""
    answer = asyncio.run(_ask(nameserver, lambda asked: asked.tlsa(name)))
    assert sorted(answer.records, key=lambda record: record.usage) == list(records)
    assert answer.secure is secure


@pytest.mark.parametrize(("domain", "code", "text"), [pytest.param(*case[1:], id=case[0]) for case in CODES])
def test_an_error_has_a_code_of_one_word(nameserver: Nameserver, domain: str, code: str, text: str) -> None:
    """For reports; a validating server can tell that an answer is forged (RFC 8914)."""
    with pytest.raises(resolver.TemporaryError, match=re.escape(text) + "$") as caught:
        asyncio.run(_ask(nameserver, lambda asked: asked.mx(domain)))
    assert caught.value.code == code


def test_a_cname_whose_security_nobody_knows_is_temporary(nameserver: Nameserver) -> None:
    """Without an answer to this question the host could lose its DANE."""
    with pytest.raises(resolver.TemporaryError, match=r"lost\.signed\.example CNAME: .* SERVFAIL"):
        asyncio.run(_ask(nameserver, lambda asked: asked.host("lost.signed.example")))
