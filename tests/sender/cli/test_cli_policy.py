"""``tlsrpt policy``, the real command: what a postmaster reads, and what a script gets."""

import asyncio
import json
import pathlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from policy import cache, mtasts
from sender.demo import dns, zone

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
        made.put(f"mta-sts.{domain}", zone.A(dns.LOOPBACK))
        made.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1; rua=mailto:tls@{domain},ftp://{domain}/"))
    made.put("_mta-sts.rude.example", zone.Txt("v=STSv1; id=\x1b[31m[bold]red;"))
    made.temper("_mta-sts.late.example", zone.Temper.SERVFAIL)
    made.temper("late.example", zone.Temper.SERVFAIL)
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
            async with dns.Server(records()) as server:
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
