"""From the MTA's socket to the receivers: every session is in what they get, exactly once, and right.

The real ``tlsrpt serve`` takes the datagrams that Postfix 3.10 sent in 50 scenarios, the real ``tlsrpt report`` closes
the day; what the receivers of a made-up internet got is compared with the raw datagrams.
"""

import asyncio
import collections
import contextlib
import datetime as dt
import email
import json
import pathlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NamedTuple

from sender import journal
from sender.demo import internet, mailbox, verify, zone

Serve = Callable[..., Any]

PATIENCE = 20.0

TYPES = {1: "tlsa", 2: "sts", 9: "no-policy-found"}
CODES = {
    201: "starttls-not-supported",
    202: "certificate-host-mismatch",
    203: "certificate-not-trusted",
    204: "certificate-expired",
    205: "validation-failure",
    301: "sts-policy-fetch-error",
    302: "sts-policy-invalid",
    303: "sts-webpki-invalid",
    304: "tlsa-invalid",
    305: "dnssec-invalid",
    306: "dane-required",
}
UNTRUSTED = {
    "self-signed_certificate",
    "self-signed_certificate_in_certificate_chain",
    "unable_to_get_local_issuer_certificate",
}
"""Reasons that come with 205 and are ``certificate-not-trusted`` by RFC 8460 section 4.3.1."""

NO_RUA = "a10-tlsrpt-record-without-rua.e2e.example"


class Outcome(NamedTuple):
    """What a session says, or a failure detail where it has a result type."""

    domain: str
    policy_type: str
    policy_domain: str
    failed: bool
    result_type: str | None = None
    reason: str | None = None
    sending_ip: str | None = None
    receiving_ip: str | None = None
    mx_host: str | None = None
    helo: str | None = None


Outcomes = collections.Counter[Outcome]


def said(datagrams: Iterable[bytes]) -> Outcomes:
    """Return what datagrams say, read without any code of the project."""
    found: Outcomes = collections.Counter()
    for raw in datagrams:
        wire = json.loads(raw)
        for policy in wire["policies"]:
            about = (wire["d"], TYPES[policy["policy-type"]], policy["policy-domain"])
            found[Outcome(*about, failed=bool(policy["f"]))] += 1
            found.update(Outcome(*about, True, *_detail(row)) for row in policy.get("failure-details", ()))
    return found


def _detail(row: dict[str, Any]) -> tuple[str | None, ...]:
    kind = CODES[row["c"]] if row.get("f") not in UNTRUSTED else "certificate-not-trusted"
    helo = row["h"].split("\r\n")[0].removeprefix("250-").split(" ")[0]
    return kind, row.get("f"), row["s"], row["r"], row["n"], helo


def reported(domain: str, document: bytes) -> Outcomes:
    """Return what a report says."""
    found: Outcomes = collections.Counter()
    for row in json.loads(document)["policies"]:
        about = (domain, row["policy"]["policy-type"], row["policy"]["policy-domain"])
        found[Outcome(*about, failed=False)] += row["summary"]["total-successful-session-count"]
        found[Outcome(*about, failed=True)] += row["summary"]["total-failure-session-count"]
        for detail in row.get("failure-details", ()):
            keys = (
                "result-type",
                "failure-reason-code",
                "sending-mta-ip",
                "receiving-ip",
                "receiving-mx-hostname",
                "receiving-mx-helo",
            )
            values = [detail.pop(key, None) for key in keys]
            found[Outcome(*about, True, *values)] += detail.pop("failed-session-count")
            assert detail == {}, "nothing that nobody said"
    return +found


@contextlib.asynccontextmanager
async def site(
    folder: pathlib.Path, serve: Serve, captures: dict[str, list[bytes]]
) -> AsyncIterator[internet.Internet]:
    """Run ``tlsrpt serve`` in an internet where each domain publishes the record that its sessions saw."""
    async with internet.start(folder, ()) as net:
        records = {wire["d"]: wire["pr"] for several in captures.values() for wire in map(json.loads, several)}
        for domain, record in records.items():
            net.zone.put(f"_smtp._tls.{domain}", zone.Txt(record))
        (folder / "tlsrpt.toml").write_text(net.config_text())
        served = serve("recorder", "--config", str(folder / "tlsrpt.toml"))
        await asyncio.to_thread(served.wait_for, "recorder started")
        yield net
        assert await asyncio.to_thread(served.end) == 0
        assert {row["level"] for row in served.events()} == {"info"}


async def send(net: internet.Internet, datagrams: list[bytes]) -> None:
    """Send as libtlsrpt does, but waiting for room; return when the recorder has written it all."""

    def lines() -> int:
        return sum(segment.path.read_bytes().count(b"\n") for segment in journal.segments(net.directory / "journal"))

    def sending() -> None:
        for one in datagrams:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.settimeout(PATIENCE)
                client.connect(str(net.recorder_socket))
                client.send(one)

    wanted = lines() + len(datagrams)
    await asyncio.to_thread(sending)
    async with asyncio.timeout(PATIENCE):
        while lines() < wanted:  # noqa: ASYNC110 - it is another process that makes it true
            await asyncio.sleep(0.01)
    assert lines() == wanted


async def tlsrpt(net: internet.Internet, *arguments: str) -> Any:
    """Run a command that has to succeed; return the JSON it prints."""
    command = [sys.executable, "-m", "sender", *arguments, "--json", "--config", str(net.directory / "tlsrpt.toml")]
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    assert done.stderr == b""
    return json.loads(done.stdout)


async def opened(net: internet.Internet, messages: Iterable[mailbox.Message]) -> list[tuple[str, bytes]]:
    """Have a receiver verify each mail; return the domain it was sent to, which it is about, and the document."""
    documents = []
    for message in messages:
        verified = await verify.mail(message.content, net.nameserver)
        assert [check for check in verified.checks if not check.passed] == []
        assert verified.document is not None
        (recipient,) = message.recipients
        domain = recipient.removeprefix("tlsrpt@")
        assert email.message_from_bytes(message.content)["TLS-Report-Domain"] == domain
        documents.append((domain, verified.document))
    return documents


def test_every_session_is_reported_exactly_once_and_right(
    serve: Serve, tmp_path: pathlib.Path, captures: dict[str, list[bytes]]
) -> None:
    """All 50 captures, some of them several times, with what happened, to whom, and why; each document is valid."""
    datagrams = [
        one for number, several in enumerate(captures.values()) for one in several for _ in range(1 + number % 3)
    ]
    expected = said(datagrams)
    assert len(captures) == 50

    async def scenario() -> None:
        async with site(tmp_path, serve, captures) as net:
            await send(net, datagrams)
            summary = await tlsrpt(net, "report", "--day", "today", "--now")
            documents = await opened(net, net.mail.mailbox.messages)
            asked = {outcome.domain for outcome in expected} - {NO_RUA}
            assert sorted(domain for domain, _ in documents) == sorted(asked), "one report for each"
            assert (summary["reports"], summary["delivered"], summary["skipped"]) == (len(asked), len(asked), 1)
            received: Outcomes = collections.Counter()
            for domain, document in documents:
                received += reported(domain, document)
            pending = await tlsrpt(net, "pending")
            assert pending["deliveries"] == []
            (skipped,) = pending["domain_days"]
            assert (skipped["domain"], skipped["state"]) == (NO_RUA, "skipped")
            assert skipped["reason"] == "the TLSRPT record has no rua"
            received[Outcome(NO_RUA, "no-policy-found", NO_RUA, failed=False)] += skipped["successful"]
            assert received == expected
            assert len({json.loads(document)["report-id"] for _, document in documents}) == len(documents)

    asyncio.run(scenario())


LATE = ["c3-sts-untrusted-issuer-unknown", "d2-dane-tlsa-mismatch", "c1-sts-success"]


def test_what_comes_after_the_report_is_a_revision_of_its_own(
    serve: Serve, tmp_path: pathlib.Path, captures: dict[str, list[bytes]]
) -> None:
    """With its own report-id, for those domains only; both together say everything once, and then there is no more."""
    first = [captures[label][0] for label in (*LATE, "c6-sts-expired")]
    late = [captures[label][0] for label in LATE for _ in range(3)]

    async def scenario() -> None:
        async with site(tmp_path, serve, captures) as net:
            numbers = []
            for datagrams in (first, late, []):
                await send(net, datagrams)
                numbers.append((await tlsrpt(net, "report", "--day", "today", "--now"))["reports"])
            assert numbers == [4, 3, 0]
            documents = await opened(net, net.mail.mailbox.messages)
            received: Outcomes = collections.Counter()
            for domain, document in documents:
                received += reported(domain, document)
            assert received == said([*first, *late])
            for label in LATE:
                one, two = (json.loads(document) for domain, document in documents if domain.startswith(label))
                assert one["report-id"] != two["report-id"]
                assert one["date-range"] == two["date-range"]
                shown = await tlsrpt(net, "show", f"{label}.e2e.example", "--day", "today")
                assert shown == two, "the newest revision"

    asyncio.run(scenario())


def test_all_roles_together_report_the_day_before(
    serve: Serve, tmp_path: pathlib.Path, captures: dict[str, list[bytes]]
) -> None:
    """What the recorder of yesterday left behind is reported by today's reporter, while its recorder goes on."""
    datagrams = [one for label in LATE for one in captures[label]]
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    writer = journal.Writer(tmp_path / "journal", yesterday.timestamp())
    for one in datagrams:
        assert writer.append(one + b"\n", 1, yesterday.timestamp()) is None
    writer.close()

    async def scenario() -> None:
        async with internet.start(tmp_path, ()) as net:
            (tmp_path / "tlsrpt.toml").write_text(net.config_text())
            for wire in map(json.loads, datagrams):
                net.zone.put(f"_smtp._tls.{wire['d']}", zone.Txt(wire["pr"]))
            served = serve("--config", str(tmp_path / "tlsrpt.toml"))
            await asyncio.to_thread(served.wait_for, "delivery", len(datagrams))
            await send(net, datagrams)
            assert await asyncio.to_thread(served.end) == 0
            received: Outcomes = collections.Counter()
            for domain, document in await opened(net, net.mail.mailbox.messages):
                assert json.loads(document)["date-range"]["start-datetime"] == f"{yesterday.date()}T00:00:00Z"
                received += reported(domain, document)
            assert received == said(datagrams)

    asyncio.run(scenario())
