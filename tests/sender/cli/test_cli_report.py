"""``report``, ``retry``, ``cancel`` and ``show`` against real receivers: what they send, say and leave alone."""

import asyncio
import datetime as dt
import email
import email.policy
import json
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sender import report
from sender.demo import internet, mailbox, receivers, zone
from sender.store import engine, reports

Command = Callable[..., subprocess.CompletedProcess[str]]
Scenario = Callable[[internet.Internet, Any], Awaitable[None]]
Run = Callable[[Scenario], None]
Add = Callable[..., None]
Tlsrpt = Callable[..., Awaitable[subprocess.CompletedProcess[str]]]


@pytest.fixture
def command(tlsrpt: Command) -> Tlsrpt:
    """Return what runs the command while the internet goes on."""

    async def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(tlsrpt, *arguments, **environment)

    return run


def publish(net: internet.Internet, domain: str, *rua: str) -> None:
    """Publish the TLSRPT record of a domain; by default with a mail address."""
    net.zone.put(f"_smtp._tls.{domain}", zone.Txt(f"v=TLSRPTv1; rua={','.join(rua or [f'mailto:r@{domain}'])}"))


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """Check that all went well, without a word on standard error; return the output."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rows(text: str) -> Any:
    """Return what ``--json`` printed."""
    return json.loads(text)


def tables(store: engine.Store) -> list[str]:
    """Return all the store has."""
    with store.read() as connection:
        raw: Any = connection.connection.dbapi_connection
        return list(raw.iterdump())


def sessions(document: dict[str, Any]) -> tuple[int, int]:
    """Return how many sessions a document tells of."""
    summaries = [policy["summary"] for policy in document["policies"]]
    return (
        sum(one["total-successful-session-count"] for one in summaries),
        sum(one["total-failure-session-count"] for one in summaries),
    )


def test_dry_run_tells_everything_and_does_nothing(
    in_internet: Run, command: Tlsrpt, store: engine.Store, add: Add, yesterday: dt.date
) -> None:
    """The rua or the reason of each domain-day up to yesterday; the store stays as it is, nobody is sent anything."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        publish(net, "a.example", "mailto:r@a.example", "https://a.example/t")
        publish(net, "odd.example", "ftp://odd.example/\x1b[red]")
        net.zone.temper("_smtp._tls.later.example", zone.Temper.SERVFAIL)
        add(yesterday, "a.example", "later.example", "none.example", "odd.example", successful=2, failed=1)
        add(yesterday - dt.timedelta(days=1), "none.example")
        add(yesterday + dt.timedelta(days=1), "today.example")
        before = tables(store)
        lines = ok(await command("report", "--dry-run")).splitlines()
        as_json = rows(ok(await command("report", "--dry-run", "--json")))["domain_days"]
        assert tables(store) == before
        assert not net.mail.mailbox.recipients
        day = str(yesterday)
        assert [line.partition(":")[0] for line in lines] == [f"{row['day']} {row['domain']}" for row in as_json]
        assert f"{day} a.example: 2 successful, 1 failed: report to mailto:r@a.example, https://a.example/t" in lines
        assert f"{day} none.example: 2 successful, 1 failed: no report: there is no TLSRPT record" in lines
        assert [row["reason"] is None for row in as_json] == [bool(row["rua"]) for row in as_json]
        (odd,) = (line for line in lines if "odd.example:" in line)
        assert r"no usable rua: ftp://odd.example/\x1b[red]" in odd
        (later,) = (line for line in lines if "later.example" in line)
        assert "no report: the TLSRPT record cannot be looked up, tried again" in later
        assert not any("today.example" in line for line in lines)

    in_internet(scenario)


def test_dry_run_without_anything_to_report_says_so(in_internet: Run, command: Tlsrpt) -> None:
    """Neither is that a failure."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        assert ok(await command("report", "--dry-run")) == "There is nothing to report.\n"

    in_internet(scenario)


def test_today_is_closed_early_and_later_sessions_become_revision_2(
    in_internet: Run, command: Tlsrpt, store: engine.Store, add: Add
) -> None:
    """``report --day today --now`` delivers at once whatever the spread, and twice it sends nothing twice."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        publish(net, "a.example")
        today = dt.datetime.now(dt.UTC).date()
        now = ("report", "--day", "today", "--now", "--json")
        add(today, "a.example", successful=3)
        first = rows(ok(await command(*now, TLSRPT_REPORT_SPREAD="86400")))
        assert first == summary(closed=[str(today)], reports=1, delivered=1)
        assert rows(ok(await command(*now))) == summary()
        add(today, "a.example", successful=2, failed=1)
        assert rows(ok(await command(*now))) == summary(closed=[str(today)], reports=1, delivered=1)
        assert [recipient.address for recipient in net.mail.mailbox.recipients] == ["r@a.example"] * 2
        with store.read() as connection:
            kept = reports.of_domain(connection, "a.example", today)
        assert [one.revision for one in kept] == [1, 2]
        assert kept[0].report_id != kept[1].report_id
        await shown(kept)

    async def shown(kept: list[reports.Report]) -> None:
        documents = [ok(await command("show", "a.example", "--json", *more)) for more in REVISIONS]
        exact = [report.unpack(one.packed).decode() for one in kept]
        assert documents == [exact[1], exact[0], exact[1]]
        assert [sessions(json.loads(one)) for one in exact] == [(3, 0), (2, 1)]
        missing = await command("show", "a.example", "--revision", "3")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "(revision 2)" in ok(await command("show", "a.example"))

    in_internet(scenario)


REVISIONS = [[], ["--revision", "1"], ["--revision", "2", "--day", "today"]]


def summary(**numbers: Any) -> dict[str, Any]:
    """Return what ``report --json`` prints of a run that did no more than this."""
    names = ("reports", "skipped", "waiting", "delivered", "deferred", "refused", "expired")
    return {"closed": [], **dict.fromkeys(names, 0), **numbers}


def test_without_now_deliveries_are_spread(in_internet: Run, command: Tlsrpt, add: Add, yesterday: dt.date) -> None:
    """The reporter makes them when they are due."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        publish(net, "a.example")
        add(yesterday, "a.example")
        done = rows(ok(await command("report", "--json", TLSRPT_REPORT_SPREAD="86400")))
        assert done == summary(closed=[str(yesterday)], reports=1)
        (waiting,) = rows(ok(await command("pending", "--json")))["deliveries"]
        assert waiting["next_attempt"] > dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    in_internet(scenario)


REFUSALS = [
    ("refused", "550 5.1.1 nobody of that name", mailbox.Reply(550, "5.1.1 nobody of that name")),
    ("deferred", "450 4.2.1 greylisted", mailbox.Reply(450, "4.2.1 greylisted")),
]


@pytest.mark.parametrize(("state", "text", "reply"), REFUSALS)
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_report_that_was_not_taken_is_a_failure(
    in_internet: Run,
    command: Tlsrpt,
    add: Add,
    yesterday: dt.date,
    state: str,
    text: str,
    reply: mailbox.Reply,
    form: tuple[str, ...],
) -> None:
    """Exit code 1, and the receiver's answer in one line on standard error; the summary counts what was done."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        for domain in ("good.example", "bad.example"):
            publish(net, domain)
            add(yesterday, domain)
        net.mail.mailbox.program("r@bad.example", reply)
        done = await command("report", *form)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"tlsrpt: bad.example {yesterday} to mailto:r@bad.example: {state}: ")
        assert text in line
        wanted = summary(closed=[str(yesterday)], reports=2, delivered=1, **{state: 1})
        if form:
            assert rows(done.stdout) == wanted
        else:
            told = dict(one.split() for one in done.stdout.splitlines())
            assert told == {key: value[0] if key == "closed" else str(value) for key, value in wanted.items()}

    in_internet(scenario)


def test_a_domain_is_reported_without_touching_others(
    in_internet: Run, command: Tlsrpt, add: Add, yesterday: dt.date
) -> None:
    """``report --domain`` closes, builds and delivers only that; the next run takes the rest, and not that again."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        for domain in ("a.example", "b.example", "c.example"):
            publish(net, domain)
            add(yesterday, domain)
        net.mail.mailbox.program("r@c.example", mailbox.Reply(450, "4.2.1 later"))
        await command("report", "--domain", "c.example")
        assert rows(ok(await command("report", "--domain", "A.example", "--json")))["delivered"] == 1
        assert [one.address for one in net.mail.mailbox.recipients] == ["r@c.example", "r@a.example"]
        days = rows(ok(await command("pending", "--json")))["domain_days"]
        assert [(row["domain"], row["state"]) for row in days] == [("b.example", "open")]
        assert rows(ok(await command("report", "--json"))) == summary(closed=[str(yesterday)], reports=1, delivered=1)
        assert [one.address for one in net.mail.mailbox.recipients][2:] == ["r@b.example"]

    in_internet(scenario)


def test_retry_and_cancel_change_what_the_next_run_delivers(
    in_internet: Run, command: Tlsrpt, add: Add, yesterday: dt.date
) -> None:
    """A refused delivery is made again after retry, not after cancel; one that was accepted is left alone by both."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        publish(net, "a.example", "mailto:r@a.example", "mailto:s@a.example")
        add(yesterday, "a.example")
        net.mail.mailbox.program("r@a.example", mailbox.Reply(550, "5.1.1 nobody"))
        assert (await command("report")).returncode == 1
        states = await history()
        assert set(states.values()) == {"refused", "delivered"}
        report_id = next(iter(states))[0]
        assert ok(await command("retry", report_id)) == "1 of 2 deliveries will be tried again\n"
        assert ok(await command("cancel", report_id)) == "1 of 2 deliveries cancelled\n"
        assert rows(ok(await command("report", "--json")))["delivered"] == 0
        assert (await history())[report_id, "mailto:r@a.example"] == "cancelled"
        ok(await command("retry", report_id))
        assert rows(ok(await command("report", "--json")))["delivered"] == 1
        assert set((await history()).values()) == {"delivered"}
        assert ok(await command("retry", report_id)) == "0 of 2 deliveries will be tried again\n"
        addresses = [one.address for one in net.mail.mailbox.recipients]
        assert sorted(addresses) == ["r@a.example", "r@a.example", "s@a.example"]

    async def history() -> dict[tuple[str, str], str]:
        settled = rows(ok(await command("history", "--json")))["deliveries"]
        return {(row["report_id"], row["rua"]): row["state"] for row in settled}

    in_internet(scenario)


def test_show_is_what_the_receivers_got(
    in_internet: Run, command: Tlsrpt, store: engine.Store, add: Add, yesterday: dt.date
) -> None:
    """``--json`` byte by byte; ``--mail`` but for the signature and its time; no mail before it is built."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        post = f"https://localhost:{net.https.port}/t"
        net.zone.put("localhost", zone.A("127.0.0.1"))
        publish(net, "a.example", post, "mailto:r@a.example", "mailto:s@a.example")
        publish(net, "posted.example", post)
        add(yesterday, "a.example", "posted.example", successful=2, failed=1)
        early = await command("show", "a.example", "--mail")
        assert (early.returncode, early.stdout) == (1, "")
        assert early.stderr == "tlsrpt: no report is built yet: --json shows it as it would be\n"
        preview = json.loads(ok(await command("show", "a.example", "--json")))
        ok(await command("report", "--now"))
        document = ok(await command("show", "a.example", "--json", "--day", str(yesterday)))
        assert document.encode() in {report.unpack(request.body) for request in net.https.requests}
        assert {**json.loads(document), "report-id": preview["report-id"]} == preview
        mailed = await command("show", "a.example", "--mail")
        assert mailed.stderr == "tlsrpt: another message goes to s@a.example\n"
        compare(mailed.stdout, net.mail.mailbox.messages[0])
        posted = await command("show", "posted.example", "--mail")
        assert (posted.returncode, posted.stdout) == (1, "")
        assert "by HTTPS only" in posted.stderr

    def compare(shown: str, received: mailbox.Message) -> None:
        assert received.recipients == ("r@a.example",)
        raw = received.content.decode().replace("\r\n", "\n")
        assert shown.partition("\nFrom: ")[1:] == raw.partition("\nFrom: ")[1:]
        parsed = email.message_from_string(shown, policy=email.policy.default)
        assert parsed["DKIM-Signature"]
        assert parsed["To"] == "r@a.example"
        assert parsed.get_content_type() == "multipart/report"
        assert not parsed.defects

    in_internet(scenario)


def test_show_is_a_table_for_people(in_internet: Run, command: Tlsrpt, add: Add, yesterday: dt.date) -> None:
    """In 80 columns: how it stands, the report, what is not in it and why, the deliveries."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        publish(net, "a.example")
        add(yesterday, "a.example", successful=2, failed=1)
        early = ok(await command("show", "a.example"))
        assert "As it would be now; no report is built yet." in early
        ok(await command("report"))
        net.zone.remove("_smtp._tls.a.example")
        publish(net, "a.example", "ftp://a.example/\x1b[red]")
        add(yesterday, "a.example", successful=5)
        ok(await command("report"))
        late = ok(await command("show", "a.example", "--day", "yesterday"))
        assert max(map(len, late.splitlines())) <= 80
        words = " ".join(late.split())
        assert "As it was built at " in words
        for text in (early, late):
            for fact in (str(yesterday), "2 successful, 1 failed", "starttls-not-supported", "Sender Example Inc."):
                assert fact in text
        assert "delivered 1 a.example" in words
        assert "5 successful and 0 failed sessions are not in a report: skipped, the TLSRPT record" in words
        assert r"/\x1b[red]" in words

    in_internet(scenario)


def test_a_post_that_fails_is_told_like_a_mail(in_internet: Run, command: Tlsrpt, add: Add, yesterday: dt.date) -> None:
    """The status and its reason."""

    async def scenario(net: internet.Internet, _job: object) -> None:
        net.zone.put("localhost", zone.A("127.0.0.1"))
        publish(net, "a.example", f"https://localhost:{net.https.port}/t")
        net.https.program("/t", receivers.Status(403))
        add(yesterday, "a.example")
        done = await command("report")
        assert done.returncode == 1
        assert "refused: 403" in done.stderr

    in_internet(scenario)
