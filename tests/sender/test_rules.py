"""Whom reports do not go to: the rules, what is suppressed, and that both hold wherever a report is made."""

import dataclasses
import datetime as dt
import json
import pathlib
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from policy import tlsrpt
from sender import config, daily, rules
from sender.demo import internet, zone
from sender.store import engine, listings, suppressions
from tests import stored
from tests.conftest import Clock

TODAY = dt.date(2026, 11, 24)
YESTERDAY = TODAY - dt.timedelta(days=1)

MAIL, WEB = "mailto:r@a.example", "https://reports.a.example/v1"

# id, rules (TOML), domain, whether a session failed, where it goes (rua: rule), why not elsewhere
RULES: list[tuple[str, str, str, bool, dict[str, str | None], list[str]]] = [
    ("no rule", "", "a.example", False, {MAIL: None, WEB: None}, []),
    (
        "all",
        "suppress = true",
        "a.example",
        True,
        {},
        ["r@a.example: suppressed by rule 1", "v1: suppressed by rule 1"],
    ),
    ("by name", 'name = "no"\nsuppress = true', "a.example", True, {}, ['suppressed by rule "no"'] * 2),
    ("a domain", 'domain = ["a.example"]\nsuppress = true', "a.example", True, {}, ["suppressed"] * 2),
    ("another domain", 'domain = ["b.example"]\nsuppress = true', "a.example", True, {MAIL: None, WEB: None}, []),
    ("below a domain", 'domain = ["*.example"]\nsuppress = true', "a.example", True, {}, ["suppressed"] * 2),
    ("not below itself", 'domain = ["*.a.example"]\nsuppress = true', "a.example", True, {MAIL: None, WEB: None}, []),
    (
        "an address",
        'rua = ["R@A.example"]\nsuppress = true',
        "a.example",
        True,
        {WEB: None},
        ["r@a.example: suppressed"],
    ),
    ("addresses of a domain", 'rua = ["*@a.example"]\nsuppress = true', "x.example", True, {WEB: None}, ["suppressed"]),
    (
        "a URL",
        'rua = ["https://reports.a.example/*"]\nsuppress = true',
        "x.example",
        True,
        {MAIL: None},
        ["suppressed"],
    ),
    ("failures only, none", "only_failures = true", "a.example", False, {}, ["nothing failed, and rule 1"] * 2),
    ("failures only, some", "only_failures = true", "a.example", True, {MAIL: "rule 1", WEB: "rule 1"}, []),
    (
        "redirected once",
        'redirect = "mailto:me@s.example"',
        "a.example",
        True,
        {"mailto:me@s.example": f"rule 1, instead of {MAIL}"},
        [],
    ),
    ("over", 'until = "2026-11-23"\nsuppress = true', "a.example", True, {MAIL: None, WEB: None}, []),
    ("the last day", 'until = "2026-11-24"\nsuppress = true', "a.example", True, {}, ["suppressed"] * 2),
    (
        "the first that matches",
        'rua = ["*@*"]\nonly_failures = true\n[[rule]]\nsuppress = true',
        "a.example",
        True,
        {MAIL: "rule 1"},
        ["v1: suppressed by rule 2"],
    ),
]


@pytest.mark.parametrize(
    ("text", "domain", "failed", "going", "why"), [row[1:] for row in RULES], ids=[row[0] for row in RULES]
)
def test_the_first_rule_that_matches_decides(
    text: str, domain: str, going: dict[str, str | None], why: list[str], *, failed: bool
) -> None:
    """For each rua by itself."""
    settings = config.parse(f"[[rule]]\n{text}" if text else "", {})
    published = tlsrpt.parse_record(f"v=TLSRPTv1;rua={MAIL},{WEB}").rua
    found, reasons = rules.Reach(settings.rule, TODAY, {}).apply(domain, published, failed=failed)
    assert {one.rua.uri: one.rule for one in found} == going
    assert len(reasons) == len(why)
    assert all(expected in reason for expected, reason in zip(why, reasons, strict=True))


WRONG = [
    ("nothing to do", 'name = "x"', "rule[0]: give one of suppress = true, redirect and only_failures = true"),
    ("two things", "suppress = true\nonly_failures = true", "rule[0]: give one of"),
    ("no day", 'suppress = true\nuntil = "soon"', 'rule[0].until = "soon": give a day'),
    ("no rua", 'redirect = "ftp://a.example"', 'rule[0].redirect = "ftp://a.example"'),
    ("unknown key", "supress = true", "rule[0].supress: unknown key: remove it or use one of name, domain"),
    ("wrong type", "suppress = 1", "rule[0].suppress = 1: give true or false"),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_rule_that_cannot_be_used_is_a_mistake_in_the_configuration(text: str, expected: str) -> None:
    """One line with key, value and cure."""
    with pytest.raises(config.ConfigError) as caught:
        config.parse(f"[[rule]]\n{text}", {})
    assert expected in str(caught.value)


TWO = """
[[rule]]
domain = ["a.*", "mx.*"]
suppress = true
[[rule]]
name = "mine"
redirect = "mailto:me@s.example"
"""

Scenario = Callable[[internet.Internet, daily.Daily], Awaitable[None]]
Run = Callable[[Scenario], None]


def datagram(domain: str, kind: int = 9, host: str = "") -> bytes:
    """Return a successful session."""
    policy = f'{{"policy-type":{kind},"policy-domain":"{host or domain}","f":0}}'
    return f'{{"d":"{domain}","policies":[{policy}]}}'.encode()


async def built(job: daily.Daily) -> None:
    """Close yesterday and build its reports."""
    await job.close(YESTERDAY)
    async for _ in job.build(spread=0):
        pass


@pytest.mark.both_stores
def test_rules_hold_for_reports_and_are_named(in_internet: Run, store: engine.Store) -> None:
    """A domain that is suppressed, one that is redirected, and an MX host whose operator is suppressed."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for name in ("a.example", "b.example", "mx.example"):
            net.zone.put(f"_smtp._tls.{name}", zone.Txt(f"v=TLSRPTv1;rua=mailto:r@{name}"))
        stored.count(store, YESTERDAY, [datagram("a.example"), datagram("b.example", 1, "mx.example")])
        builder = dataclasses.replace(job.builder, exceptions=config.parse(TWO, {}).rule)
        await built(dataclasses.replace(job, builder=builder))
        with store.read() as connection:
            (skipped,) = listings.pending_days(connection)
            (one,) = listings.pending_deliveries(connection)
        assert (skipped.domain, skipped.reason) == ("a.example", "mailto:r@a.example: suppressed by rule 1")
        assert (one.domain, one.target, one.rule) == (
            "b.example",
            "me@s.example",
            'rule "mine", instead of mailto:r@b.example',
        )

    in_internet(scenario)


@pytest.mark.both_stores
def test_what_is_suppressed_is_cancelled_and_left_out_until_it_is_over(
    in_internet: Run, store: engine.Store, clock: Clock
) -> None:
    """What is due to it is settled with the reason; later domain-days are skipped; after the time they are not."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        net.zone.put("_smtp._tls.a.example", zone.Txt("v=TLSRPTv1;rua=mailto:r@a.example"))
        stored.count(store, YESTERDAY, [datagram("a.example")])
        await built(job)
        now = clock()
        one = suppressions.Suppression("r@a.example", now + dt.timedelta(days=30), "it bounces", now)
        assert store.change(lambda connection: suppressions.add(connection, one)) == 1
        stored.count(store, YESTERDAY, [datagram("a.example")])
        await built(job)
        with store.read() as connection:
            (settled,) = listings.settled_deliveries(connection)
            (skipped,) = listings.pending_days(connection)
        assert (settled.state, settled.answer) == ("cancelled", "suppressed: it bounces, until 2026-12-24 00:05 UTC")
        assert skipped.reason == "mailto:r@a.example: suppressed: it bounces, until 2026-12-24 00:05 UTC"
        clock.pass_(days=30)
        stored.count(store, YESTERDAY, [datagram("a.example")])
        await built(job)
        with store.read() as connection:
            assert [row.state for row in listings.pending_deliveries(connection)] == ["due"]
            assert suppressions.active(connection, clock()) == []

    in_internet(scenario)


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``tlsrpt suppress`` with a store in the folder."""
    command = [sys.executable, "-m", "sender", "suppress", *arguments]
    (folder / "tlsrpt.toml").write_text(f'[store]\nurl = "sqlite:///{folder}/tlsrpt.db"\n')
    config_file = ("--config", str(folder / "tlsrpt.toml"))
    return subprocess.run([*command, *config_file], capture_output=True, text=True, check=False, timeout=60)


def test_the_command_adds_lists_and_removes(tmp_path: pathlib.Path) -> None:
    """An address in any spelling; for some time, or for ever."""
    done = run(tmp_path, "r@A.Example", "--for", "30d", "--reason", "asked by mail")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("r@a.example gets no reports: asked by mail, until ")
    assert run(tmp_path, "https://b.example/x").returncode == 0
    rows = json.loads(run(tmp_path, "--json").stdout)["suppressions"]
    assert [(row["address"], row["until"] is None) for row in rows] == [
        ("https://b.example/x", True),
        ("r@a.example", False),
    ]
    assert run(tmp_path).stdout.splitlines()[0] == "https://b.example/x: by hand"
    assert run(tmp_path, "mailto:r@a.example", "--remove").stdout == "r@a.example gets reports again\n"
    again = run(tmp_path, "r@a.example", "--remove")
    assert (again.returncode, again.stderr) == (1, "tlsrpt: r@a.example is not suppressed\n")


@pytest.mark.parametrize("arguments", [["nobody"], ["r@a.example", "--for", "soon"], ["--remove"], ["ftp://a.example"]])
def test_wrong_usage_is_one_line(tmp_path: pathlib.Path, arguments: list[str]) -> None:
    """And changes nothing."""
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "tlsrpt.db").exists()
