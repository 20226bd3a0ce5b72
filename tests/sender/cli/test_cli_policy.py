"""``tlsrpt policy``, the real command: what a postmaster reads, and what a script gets."""

import asyncio
import contextlib
import json
import pathlib
import socket
import socketserver
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from policy import cache, mtasts
from sender import config
from sender.demo import dns as demo_dns
from sender.demo import zone

Command = Callable[..., Any]

POLICY = mtasts.parse_policy(b"version: STSv1\nmode: enforce\nmx: *.kept.example\nmax_age: 864000\n")
TESTING = mtasts.parse_policy(b"version: STSv1\nmode: testing\nmx: mx.testing.example\nmax_age: 864000\n")


def records() -> zone.Zone:
    """Return domains of a few kinds; nothing listens at their policy hosts."""
    made = zone.Zone()
    for domain in ("plain.example", "broken.example", "kept.example", "testing.example", "rude.example"):
        made.put(domain, zone.Mx(10, f"mx.{domain}"))
        made.put(f"mx.{domain}", zone.A("192.0.2.1"))
    for domain in ("broken.example", "kept.example", "testing.example"):
        made.put(f"_mta-sts.{domain}", zone.Txt("v=STSv1; id=2;"))
        made.put(f"mta-sts.{domain}", zone.A(demo_dns.LOOPBACK))
        made.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1; rua=mailto:tls@{domain},ftp://{domain}/"))
    made.put("_mta-sts.rude.example", zone.Txt("v=STSv1; id=\x1b[31m[bold]red;"))
    made.temper("_mta-sts.late.example", zone.Temper.SERVFAIL)
    made.temper("late.example", zone.Temper.SERVFAIL)
    for domain in ("hostile.example", "unsure.example", "twice.example"):
        made.put(domain, zone.Mx(10, "mx.plain.example"))
    made.put("_mta-sts.hostile.example", zone.Txt("v=STSv1; id=\x1b[2J\x07\u202e\x9b;"))
    made.put("_smtp._tls.hostile.example", zone.Txt("v=TLSRPTv1; rua=mailto:\x1b]0:a\x07,ftp://\u202e\x9b2J"))
    made.temper("_smtp._tls.unsure.example", zone.Temper.SERVFAIL)
    made.put("_smtp._tls.twice.example", *[zone.Txt(f"v=TLSRPTv1; rua=mailto:{one}@x.example") for one in "ab"])
    return made


def keep(path: pathlib.Path) -> None:
    """Put policies into the cache, as the policy socket does."""
    kept = cache.Cache(path, time.time())
    kept.put(cache.Kept("kept.example", "1", POLICY, time.time()))
    kept.put(cache.Kept("testing.example", "2", TESTING, time.time()))
    kept.close()


Ask = Callable[..., Any]


@pytest.fixture
def ask(tlsrpt: Command, tmp_path: pathlib.Path) -> Ask:
    """Return what runs ``tlsrpt policy`` with a DNS server of its own, with the guard on addresses off."""

    def run(*arguments: str, **environment: str) -> Any:
        async def within() -> Any:
            async with demo_dns.Server(records()) as server:
                variables = {"TLSRPT_DNS_NAMESERVERS": server.address, "TLSRPT_HTTPS_ALLOW_PRIVATE": "true"}
                more: Callable[[], Awaitable[Any]] = lambda: asyncio.to_thread(  # noqa: E731
                    tlsrpt, "policy", *arguments, **variables | environment
                )
                return await more()

        return asyncio.run(within())

    return run


# id, domain, what the tree says
TREES = [
    ("nothing", "plain.example", ["NOTFOUND", "Nothing is enforced", "There is no MTA-STS record", "does not ask for"]),
    (
        "broken policy host",
        "broken.example",
        ["NOTFOUND", "cannot be fetched", "sts-policy-fetch-error: connection-refused", "mailto:tls@broken.example"],
    ),
    (
        "kept policy",
        "kept.example",
        ["secure match=.kept.example servername=hostname", "fetched before", "sts-policy-fetch-error"],
    ),
    ("testing", "testing.example", ["NOTFOUND", "It is in testing: failures are reported"]),
    ("no such domain", "gone.example", ["NOTFOUND", "does not exist in the DNS"]),
    ("DNS trouble", "late.example", ["NOTFOUND", "have no answer now", "Whether the domain has MTA-STS is not known"]),
    ("unusable rua", "kept.example", ["No report can be sent to ftp://kept.example/"]),
    ("U-label", "BÜCHER.example", ["xn--bcher-kva.example"]),
]


@pytest.mark.parametrize(("domain", "told"), [row[1:] for row in TREES], ids=[row[0] for row in TREES])
def test_a_postmaster_reads_what_is_answered_and_why(
    ask: Ask, tmp_path: pathlib.Path, domain: str, told: list[str]
) -> None:
    """In 80 columns, without the RFC."""
    keep(tmp_path / "policy.db")
    done = ask(domain)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    text = " ".join(done.stdout.replace("│", " ").replace("├──", " ").replace("└──", " ").split())
    for words in told:
        assert words in text


def test_a_stranger_controls_nothing_of_the_terminal(ask: Ask) -> None:
    """What the DNS has is shown as escapes, and never as markup."""
    done = ask("rude.example")
    assert "\x1b" not in done.stdout
    assert "[bold]red" in done.stdout


def test_scripts_get_the_verdict_with_the_answers(ask: Ask, tmp_path: pathlib.Path) -> None:
    """One object; its keys are a contract."""
    keep(tmp_path / "policy.db")
    done = ask("kept.example", "--json")
    told = json.loads(done.stdout)
    assert list(told) == ["domain", "level", "sts", "policy_id", "finding", "steps", "answers", "tlsrpt"]
    assert (told["domain"], told["level"], told["policy_id"]) == ("kept.example", "secure", "1")
    assert told["sts"] == {"mode": "enforce", "mx": ["*.kept.example"], "max_age": 864000, "lines": list(POLICY.lines)}
    assert told["finding"] == {"result_type": "sts-policy-fetch-error", "reason": "connection-refused"}
    assert {step["about"] for step in told["steps"]} == {"dane", "mta-sts"}
    assert told["answers"]["QUERY"] == "OK secure match=.kept.example servername=hostname"
    assert told["answers"]["QUERYwithTLSRPT"].startswith(told["answers"]["QUERY"] + " policy_type=sts ")
    record = "v=TLSRPTv1; rua=mailto:tls@kept.example,ftp://kept.example/"
    assert told["tlsrpt"] == {"record": record, "rua": ["mailto:tls@kept.example"], "trouble": None}


@pytest.mark.parametrize("key", ["[mail.example]", "[192.0.2.1]:25", "mail.example:587", ".mail.example", "a b", ""])
def test_what_the_socket_does_not_look_up_is_told_at_once(tlsrpt: Command, key: str) -> None:
    """Wrong usage, in one line that says what the socket answers."""
    done = tlsrpt("policy", key)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "the answer is NOTFOUND at once" in line


def test_the_cache_is_read_and_nothing_else(ask: Ask, tmp_path: pathlib.Path) -> None:
    """The policy socket may run as another user: no file of its is made or changed."""
    path = tmp_path / "policy.db"
    ask("kept.example")
    assert not path.exists()
    keep(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    files = sorted(tmp_path.iterdir())
    assert "secure match" in ask("kept.example").stdout
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(tmp_path.iterdir()) == files


def test_a_cache_that_cannot_be_read_is_told_beside_the_answer(ask: Ask, tmp_path: pathlib.Path) -> None:
    """The answer is that of a socket that begins anew."""
    with sqlite3.connect(tmp_path / "policy.db") as database:
        database.execute("CREATE TABLE letters (letter)")
    database.close()
    done = ask("kept.example")
    assert done.returncode == 0
    assert "NOTFOUND" in done.stdout
    (line,) = done.stderr.splitlines()
    assert "policy.db: cannot be read: this is the database of another program" in line


SIGNED = {
    ("all.example", "MX"): ["10 mx1.all.example.", "20 mx2.all.example."],
    ("some.example", "MX"): ["10 mx1.all.example.", "20 bare.example."],
    ("both.example", "MX"): ["10 mx1.all.example."],
    ("odd.example", "MX"): ["10 odd.example."],
    ("_mta-sts.both.example", "TXT"): ['"v=STSv1; id=1;"'],
    ("_mta-sts.odd.example", "TXT"): ['"v=STSv1; id=1;"'],
    ("mx1.all.example", "A"): ["192.0.2.1"],
    ("mx2.all.example", "A"): ["192.0.2.2"],
    ("bare.example", "A"): ["192.0.2.3"],
    ("odd.example", "A"): ["192.0.2.4"],
    ("_25._tcp.mx1.all.example", "TLSA"): [f"3 1 1 {'ab' * 32}"],
    ("_25._tcp.mx2.all.example", "TLSA"): [f"2 0 1 {'cd' * 32}"],
    ("_25._tcp.odd.example", "TLSA"): [f"1 1 1 {'ab' * 32}"],
}
"""What a validating resolver vouches for."""


class Validating(socketserver.BaseRequestHandler):
    """Answers as a resolver does that found all signatures good."""

    def handle(self) -> None:
        """Answer one query over UDP."""
        octets, sock = self.request
        query = dns.message.from_wire(octets)
        response = dns.message.make_response(query)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        found = SIGNED.get((name, question.rdtype.name))
        if found:
            response.answer.append(dns.rrset.from_text(question.name, 300, "IN", question.rdtype, *found))
        elif name not in {known for known, _ in SIGNED}:
            response.set_rcode(dns.rcode.NXDOMAIN)
        response.flags |= query.flags & dns.flags.AD
        sock.sendto(response.to_wire(), self.client_address)


@pytest.fixture
def validating() -> Iterator[str]:
    """Return the address of a resolver that validates."""
    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Validating) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


POLICY_OF_BOTH = mtasts.parse_policy(b"version: STSv1\nmode: enforce\nmx: mx1.all.example\nmax_age: 864000\n")

# id, domain, what the tree says, in this order
DANE_TREES = [
    (
        "all hosts",
        "all.example",
        [
            "OK dane-only",
            "Mail goes only to hosts whose certificate matches",
            "mx1.all.example: its certificate must match the TLSA records at _25._tcp.mx1.all.example (1 usable).",
            "mx2.all.example: its certificate must match",
            "There is no MTA-STS record",
        ],
    ),
    (
        "some hosts",
        "some.example",
        ["OK dane", "Where a host has TLSA records", "bare.example: no DANE, because it has no TLSA records."],
    ),
    (
        "both",
        "both.example",
        [
            "OK dane-only",
            "The policy with id 1 was fetched before",
            "Together",
            "DANE goes before MTA-STS, so mail is not held to the MTA-STS policy.",
            "sts-policy-fetch-error: no-address",
        ],
    ),
    (
        "both, no usable record",
        "odd.example",
        [
            "OK secure match=mx1.all.example servername=hostname",
            "none of the TLSA records at _25._tcp.odd.example can be used for mail",
            "DANE asks for TLS with any certificate, the MTA-STS policy for TLS with the right one",
        ],
    ),
]


def plain(tree: str) -> str:
    """Return the words of a tree without its branches and line breaks."""
    return " ".join(tree.translate(str.maketrans("│├└─", "    ")).split())


@pytest.mark.parametrize(("domain", "told"), [row[1:] for row in DANE_TREES], ids=[row[0] for row in DANE_TREES])
def test_a_postmaster_reads_what_dane_asks_for(
    tlsrpt: Command, tmp_path: pathlib.Path, validating: str, domain: str, told: list[str]
) -> None:
    """Host by host, and how it goes together with a policy that is kept."""
    kept = cache.Cache(tmp_path / "policy.db", time.time())
    for one in ("both.example", "odd.example"):
        kept.put(cache.Kept(one, "1", POLICY_OF_BOTH, time.time()))
    kept.close()
    done = tlsrpt("policy", domain, TLSRPT_DNS_NAMESERVERS=validating)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    text, place = plain(done.stdout), 0
    for words in told:
        place = text.find(words, place)
        assert place >= 0, f"{words} in its place in {text}"


WITHDRAWN = mtasts.parse_policy(b"version: STSv1\nmode: none\nmax_age: 864000\n")
EXPIRED = mtasts.parse_policy(b"version: STSv1\nmode: enforce\nmx: *.kept.example\nmax_age: 86400\n")

# id, what is kept of kept.example, answer, what the tree says, what it does not say
KEPT = [
    ("withdrawn", ("1", WITHDRAWN, 0), "NOTFOUND", "does not use MTA-STS any more", "What is wrong"),
    ("expired", ("1", EXPIRED, 86_401), "NOTFOUND", "No MTA-STS for this domain", "fetched before"),
    ("nothing", None, "NOTFOUND", "sts-policy-fetch-error: connection-refused", "fetched before"),
]


@pytest.mark.parametrize(("kept", "answer", "told", "untold"), [pytest.param(*case[1:], id=case[0]) for case in KEPT])
def test_what_is_kept_is_told_as_long_as_it_holds(
    ask: Ask,
    tmp_path: pathlib.Path,
    kept: tuple[str, mtasts.Policy, int] | None,
    answer: str,
    told: str,
    untold: str,
) -> None:
    """A withdrawn policy enforces nothing, and its trouble is nobody's; an expired one is as if there were none."""
    now = time.time()
    file = cache.Cache(tmp_path / "policy.db", now)
    if kept:
        id_, policy, age = kept
        file.put(cache.Kept("kept.example", id_, policy, now - age))
    file.close()
    done = ask("kept.example")
    assert (done.returncode, done.stderr) == (0, "")
    text = plain(done.stdout)
    assert text.startswith(f"kept.example The answer {answer} Nothing is enforced")
    assert told in text
    assert untold not in text


def test_nobody_is_told_of_what_was_found(ask: Ask, tmp_path: pathlib.Path) -> None:
    """The recorder counts what happens to mail, not that a person looked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as recorder:
        recorder.bind(str(tmp_path / "tlsrpt.sock"))
        recorder.setblocking(False)
        assert "sts-policy-fetch-error" in ask("broken.example").stdout
        with pytest.raises(BlockingIOError):
            recorder.recv(1 << 18)


def test_the_guard_on_addresses_is_that_of_the_socket(ask: Ask) -> None:
    """Without ``https.allow_private`` no policy host on loopback is connected to, and the tree says what to do."""
    text = plain(ask("broken.example", TLSRPT_HTTPS_ALLOW_PRIVATE="false").stdout)
    assert "sts-policy-fetch-error: address-refused" in text
    assert "https.allow_private" in text


@pytest.mark.skipif(config.DEFAULT_PATH.exists(), reason="this host has a configuration")
def test_it_works_before_anything_is_set_up(ask: Ask, tmp_path: pathlib.Path) -> None:
    """The first thing a postmaster may try: no configuration, no cache; nothing is made."""
    before = sorted(tmp_path.iterdir())
    cache_path = tmp_path / "none" / "policy.db"
    done = ask("broken.example", TLSRPT_CONFIG="", TLSRPT_POLICY_CACHE=str(cache_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "sts-policy-fetch-error: connection-refused" in plain(done.stdout)
    assert sorted(tmp_path.iterdir()) == before


def test_escapes_get_neither_into_the_tree_nor_into_json(ask: Ask) -> None:
    """Of records, of rua, of what was typed; JSON has them as escapes of its own."""
    for arguments in (["hostile.example"], ["hostile.example", "--json"], ["\x1b[2Jx.example"]):
        done = ask(*arguments)
        shown = done.stdout.replace("\n", "") + done.stderr.replace("\n", "")
        assert shown
        assert [letter for letter in shown if not letter.isprintable()] == []
    assert r"No report can be sent to mailto:\x1b]0:a\x07: a character that must" in plain(
        ask("hostile.example").stdout
    )


def test_a_record_that_is_not_known_is_not_called_unusable(ask: Ask) -> None:
    """Absent, broken and later are three different things: the DNS may know in a minute."""
    later = plain(ask("unsure.example").stdout)
    broken = plain(ask("twice.example").stdout)
    absent = plain(ask("plain.example").stdout)
    assert "The TLSRPT record cannot be used: 2 TLSRPT records" in broken
    assert "The domain does not ask for reports." in absent
    assert "SERVFAIL" in later
    assert "cannot be used" not in later


def test_a_long_policy_stays_within_80_columns(ask: Ask, tmp_path: pathlib.Path) -> None:
    """Hosts without a blank between them, too."""
    hosts = "".join(f"mx: mx{number}.{'a' * 60}.kept.example\n" for number in range(20))
    body = f"version: STSv1\nmode: enforce\n{hosts}max_age: 864000\n"
    with contextlib.closing(cache.Cache(tmp_path / "policy.db", time.time())) as kept:
        kept.put(cache.Kept("kept.example", "1", mtasts.parse_policy(body.encode()), time.time()))
    done = ask("kept.example")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "servername=hostname" in done.stdout
