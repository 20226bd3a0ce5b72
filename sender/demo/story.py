"""``tlsrpt demo``: a day in a made-up internet, told on the screen.

A sending MTA makes real TLS sessions with receiving MTAs of every temper; a real ``tlsrpt serve recorder policy`` takes
what it tells, the day is closed early, reports are built, signed and delivered, and their receivers check
them. Everything is on loopback, in one temporary folder, and done within seconds.
"""

import asyncio
import collections
import contextlib
import datetime as dt
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator

import rich.console
from rich import box, panel, rule, table, text

from sender import building, config, daily, decision, delivering, outcome, report_view
from sender.demo import client, internet, verify
from sender.store import engine, listings

SESSIONS = 5
"""Messages to each domain at most."""

PATIENCE = 15.0
"""Seconds until the recorder must listen, and until the tally must have counted."""

GLANCE = 0.02
"""Seconds between two looks at what another process has done."""

SHOWN = "failover.example"
"""The domain whose report is shown whole: it has successes and failures."""

GOOD, BAD, QUIET = "green", "red", "dim"


def run(*, keep: bool) -> int:
    """Tell the story; return the exit code: 0 when every receiver was satisfied.

    Args:
        keep: leave the folder, and say how to look around in it.
    """
    console = rich.console.Console(highlight=False)
    with _folder(keep=keep) as folder:
        done = asyncio.run(_tell(console, folder))
        if keep:
            console.print(f"\nKept. Look around: tlsrpt history --config {folder / 'tlsrpt.toml'}", style=QUIET)
    return 0 if done else 1


@contextlib.contextmanager
def _folder(*, keep: bool) -> Iterator[pathlib.Path]:
    if keep:
        yield pathlib.Path(tempfile.mkdtemp(prefix="tlsrpt-"))
    else:
        with tempfile.TemporaryDirectory(prefix="tlsrpt-") as folder:
            yield pathlib.Path(folder)


async def _tell(console: rich.console.Console, folder: pathlib.Path) -> bool:
    _heading(console, "A made-up internet on loopback")
    async with internet.start(folder) as net:
        path = folder / "tlsrpt.toml"
        path.write_text(net.config_text(), encoding="utf-8")
        settings = config.load(path, {})
        _introduce(console, net)
        async with _serve(path, net):
            sent = await _send(console, net, settings)
            store = engine.open_store(settings.store.url)
            await _wait_for_tally(store, sent)
        net.withdraw()
        try:
            async with daily.open_daily(settings, store) as job:
                await _report(console, job)
            return await _receive(console, net)
        finally:
            store.close()


def _heading(console: rich.console.Console, title: str) -> None:
    console.print()
    console.print(rule.Rule(text.Text(title, style="bold"), align="left", style="cyan"))


def _introduce(console: rich.console.Console, net: internet.Internet) -> None:
    console.print(
        f"DNS, {len(net.mtas)} receiving mail servers, a relay, an HTTPS receiver of reports, and the mail server of "
        f"{internet.ORGANIZATION}, which speaks to tlsrpt's recorder as Postfix does."
    )


@contextlib.asynccontextmanager
async def _serve(path: pathlib.Path, net: internet.Internet) -> AsyncIterator[None]:
    """Run ``tlsrpt serve recorder policy`` for as long as it lasts."""
    command = [sys.executable, "-m", "sender", "serve", "recorder", "policy", "--config", str(path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    try:
        await _until(lambda: net.recorder_socket.exists() and net.policy_socket.exists())
        yield
    finally:
        process.terminate()
        await process.wait()


async def _send(console: rich.console.Console, net: internet.Internet, settings: config.Config) -> int:
    """Send mail to every domain; return how many sessions the recorder was told of."""
    _heading(console, "Mail is sent, each TLS session is recorded")
    shown = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("recipient domain", "MX", "sessions", "how it went"):
        is_number = column == "sessions"
        shown.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    told = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as recorder:
        recorder.connect(settings.recorder.socket)
        for recipient in net.recipients:
            attempts: collections.Counter[tuple[str, str, bool]] = collections.Counter()
            for _ in range(random.randint(2, SESSIONS)):
                if recipient.loses_policy:
                    await _ask(net, recipient.domain)
                    attempts["", "asked for a policy: cannot be fetched", False] += 1
                    told += 1
                async for attempt in net.sender.send(recipient.domain):
                    attempts[attempt.mx_host, _how(attempt), attempt.delivered] += 1
                    if attempt.datagram is not None:
                        await asyncio.to_thread(recorder.send, attempt.datagram)
                        told += 1
            for (host, how, well), number in attempts.items():
                shown.add_row(recipient.domain, host, str(number), text.Text(how, style=GOOD if well else BAD))
    console.print(shown)
    return told


async def _ask(net: internet.Internet, domain: str) -> None:
    """Ask the policy socket about a domain, as Postfix does before each delivery."""
    reader, writer = await asyncio.open_unix_connection(net.policy_socket)
    query = f"QUERY {domain}"
    writer.write(f"{len(query)}:{query},".encode())
    await reader.readuntil(b",")
    writer.close()


def _how(attempt: client.Attempt) -> str:
    version = attempt.tls.split()[0] if attempt.tls else None
    return f"{version}, {attempt.text}" if version else attempt.text


async def _wait_for_tally(store: engine.Store, told: int) -> None:
    """Wait until everything that was sent is counted."""

    def counted() -> bool:
        with store.read() as connection:
            return sum(row.successful + row.failed for row in listings.pending_days(connection)) >= told

    await _until(counted)


async def _until(true: Callable[[], bool]) -> None:
    """Wait for another process.

    Raises:
        TimeoutError: it takes too long.
    """
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - it is another process that makes it true
            await asyncio.sleep(GLANCE)


async def _report(console: rich.console.Console, job: daily.Daily) -> None:
    """Close the day, build, deliver."""
    _heading(console, "The day is closed, reports are built and delivered")
    await job.close(dt.datetime.now(dt.UTC).date())
    async for built in job.build(spread=0):
        if isinstance(built, building.Decided) and not isinstance(built.decision, decision.Send):
            console.print(f"{built.domain_day.domain}: no report: {built.decision.reason}", style="yellow")
    shown = table.Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("report about", "sent to", "state", "answer"):
        shown.add_column(column, overflow="fold")
    async for attempt in job.deliver():
        shown.add_row(*_delivery(attempt))
    console.print(shown)


def _delivery(attempt: delivering.Attempt) -> tuple[str, str, text.Text, str]:
    step = attempt.step
    state = step.state if isinstance(step, outcome.Settled) else outcome.State.DUE
    style = GOOD if state is outcome.State.DELIVERED else BAD
    return attempt.delivery.domain, attempt.delivery.rua, text.Text(state.value, style=style), step.answer


async def _receive(console: rich.console.Console, net: internet.Internet) -> bool:
    """Have every receiver check what it got, and show one report whole; whether all were satisfied."""
    by_mail = [await verify.mail(message.content, net.nameserver) for message in net.mail.mailbox.messages]
    by_post = [verify.post(request) for request in net.https.requests]
    _heading(console, "The receivers check what they got")
    for kind, received in (("by mail", by_mail), ("by HTTPS", by_post)):
        console.print(f"{len(received)} reports {kind}:", *_marks(received), sep="  ")
    every = [*by_mail, *by_post]
    whole = [one.document for one in by_mail if one.document and f'"{SHOWN}"'.encode() in one.document]
    if whole:
        _heading(console, f"The report that {SHOWN} received")
        console.print(panel.Panel(report_view.render(whole[0]), box=box.ROUNDED, border_style="cyan", expand=False))
    return bool(whole) and all(one.passed for one in every)


def _marks(received: list[verify.Verified]) -> list[text.Text]:
    """Return each check with whether all reports passed it."""
    passed: dict[str, bool] = {}
    for check in (check for one in received for check in one.checks):
        passed[check.name] = passed.get(check.name, True) and check.passed
    return [text.Text(f"{'✓' if well else '✗'} {name}", style=GOOD if well else BAD) for name, well in passed.items()]
