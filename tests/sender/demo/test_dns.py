"""The DNS of the made-up internet, asked over real sockets."""

import asyncio
import contextlib
import functools

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from sender.demo import dns as demo_dns
from sender.demo import zone

RECORDS: list[tuple[str, str, tuple[zone.Record, ...]]] = [
    ("txt", "txt.example", (zone.Txt("v=TLSRPTv1; rua=mailto:a@txt.example"),)),
    ("two-txt", "two.example", (zone.Txt("one"), zone.Txt("two"))),
    ("txt-quoted", "quoted.example", (zone.Txt('a "quoted" \\ text; é'),)),
    ("txt-longer-than-a-string", "long.example", (zone.Txt("x" * 700),)),
    ("mx", "mx.example", (zone.Mx(10, "a.mx.example"), zone.Mx(20, "b.mx.example"))),
    ("a", "a.example", (zone.A("127.0.0.1"), zone.A("192.0.2.1"))),
    ("aaaa", "aaaa.example", (zone.Aaaa("2001:db8::1"),)),
    ("underscore", "_smtp._tls.u.example", (zone.Txt("below a name that holds nothing"),)),
]

RCODES: list[tuple[str, str, zone.Temper | None, dns.rcode.Rcode]] = [
    ("unknown-name", "nobody.example", None, dns.rcode.NXDOMAIN),
    ("other-type", "a.example", None, dns.rcode.NOERROR),
    ("only-names-below", "example", None, dns.rcode.NOERROR),
    ("servfail", "a.example", zone.Temper.SERVFAIL, dns.rcode.SERVFAIL),
    ("nxdomain-in-spite-of-records", "a.example", zone.Temper.NXDOMAIN, dns.rcode.NXDOMAIN),
    ("nodata", "nobody.example", zone.Temper.NODATA, dns.rcode.NOERROR),
]


async def _query(address: str, query: dns.message.Message, *, tcp: bool) -> dns.message.Message:
    host, _, port = address.rpartition(":")
    ask = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await ask(query, host, port=int(port), timeout=5)


@pytest.mark.parametrize(("name", "records"), [case[1:] for case in RECORDS], ids=[case[0] for case in RECORDS])
def test_records_come_back_as_they_were_put(name: str, records: tuple[zone.Record, ...]) -> None:
    """Each type of record survives the way over the wire."""

    async def ask() -> tuple[zone.Record, ...]:
        async with demo_dns.Server() as server:
            server.zone.put(name, *records)
            return await demo_dns.ask(server.address, name, type(records[0]))

    assert asyncio.run(ask()) == records


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(("name", "temper", "rcode"), [case[1:] for case in RCODES], ids=[case[0] for case in RCODES])
def test_absence_and_errors_have_their_codes(
    name: str, temper: zone.Temper | None, rcode: dns.rcode.Rcode, *, tcp: bool
) -> None:
    """No such name, no such type and a server failure are told apart, over UDP and TCP."""

    async def ask() -> dns.message.Message:
        async with demo_dns.Server() as server:
            server.zone.put("a.example", zone.A("127.0.0.1"))
            server.zone.temper(name, temper)
            return await _query(server.address, dns.message.make_query(name, dns.rdatatype.TXT), tcp=tcp)

    response = asyncio.run(ask())
    assert (response.rcode(), response.answer) == (rcode, [])


def test_an_answer_too_long_for_udp_is_truncated_and_whole_over_tcp() -> None:
    """The client learns from the TC bit to come again over TCP."""

    async def ask() -> tuple[dns.message.Message, dns.message.Message]:
        async with demo_dns.Server() as server:
            server.zone.put("long.example", zone.Txt("x" * 3000))
            query = dns.message.make_query("long.example", dns.rdatatype.TXT)
            return await _query(server.address, query, tcp=False), await _query(server.address, query, tcp=True)

    short, whole = asyncio.run(ask())
    assert (bool(short.flags & dns.flags.TC), len(short.answer)) == (True, 0)
    assert (bool(whole.flags & dns.flags.TC), len(whole.answer)) == (False, 1)


def test_a_text_may_be_split_anywhere() -> None:
    """The strings of a TXT record are as long as the zone says."""

    async def ask() -> dns.message.Message:
        async with demo_dns.Server() as server:
            server.zone.put("split.example", zone.Txt("abcdef", split=4))
            return await _query(server.address, dns.message.make_query("split.example", "TXT"), tcp=False)

    assert asyncio.run(ask()).answer[0][0].to_text() == '"abcd" "ef"'


def test_the_zone_may_change_while_the_server_runs() -> None:
    """What is put, removed or given a temper is seen by the next query."""

    async def ask() -> list[object]:
        seen: list[object] = []
        async with demo_dns.Server() as server:
            zones = server.zone
            changes = [
                functools.partial(zones.put, "A.Example.", zone.Txt("here")),
                functools.partial(zones.temper, "a.example", zone.Temper.SERVFAIL),
                functools.partial(zones.temper, "a.example", None),
                functools.partial(zones.remove, "a.example"),
            ]
            for change in changes:
                change()
                try:
                    seen.append(await demo_dns.ask(server.address, "a.eXample", zone.Txt))
                except demo_dns.LookupLaterError:
                    seen.append("later")
        return seen

    assert asyncio.run(ask()) == [(zone.Txt("here"),), "later", (zone.Txt("here"),), ()]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_silence_gets_no_answer_and_delays_nobody_else(*, tcp: bool) -> None:
    """A silent name does not answer, while the others do."""

    async def ask() -> tuple[bool, dns.message.Message]:
        async with demo_dns.Server() as server:
            server.zone.put("a.example", zone.Txt("here"))
            server.zone.temper("silent.example", zone.Temper.SILENT)
            silent = dns.message.make_query("silent.example", "TXT")
            waiting = asyncio.create_task(_query(server.address, silent, tcp=tcp))
            answered = await _query(server.address, dns.message.make_query("a.example", "TXT"), tcp=tcp)
            done = waiting.done()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            return done, answered

    done, answered = asyncio.run(ask())
    assert (done, len(answered.answer)) == (False, 1)


@pytest.mark.parametrize("octets", [b"", b"\0", b"not DNS at all", b"\xff" * 600])
def test_what_is_not_dns_is_not_answered_and_does_no_harm(octets: bytes) -> None:
    """After garbage over UDP and TCP the server still answers."""

    async def ask() -> tuple[bytes, tuple[zone.Record, ...]]:
        async with demo_dns.Server() as server:
            server.zone.put("a.example", zone.A("127.0.0.1"))
            host, _, port = server.address.rpartition(":")
            loop = asyncio.get_running_loop()
            udp, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, int(port)))
            udp.sendto(octets)
            udp.close()
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(len(octets).to_bytes(2, "big") + octets)
            writer.write_eof()
            answered = await reader.read()
            writer.close()
            return answered, await demo_dns.ask(server.address, "a.example", zone.A)

    assert asyncio.run(ask()) == (b"", (zone.A("127.0.0.1"),))


def test_ask_says_later_when_nobody_listens() -> None:
    """A refused datagram is a temporary error."""

    async def ask() -> None:
        async with demo_dns.Server() as server:
            address = server.address
        await demo_dns.ask(address, "a.example", zone.A)

    with pytest.raises(demo_dns.LookupLaterError, match=r"a\.example"):
        asyncio.run(ask())
