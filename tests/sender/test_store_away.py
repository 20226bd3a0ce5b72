"""PostgreSQL goes away under a running ``tlsrpt serve``: nobody who hands in or asks notices, and nothing is lost."""

import asyncio
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sender import daily
from sender.demo import internet, zone
from sender.store import engine, listings
from tests import postgresql
from tests.sender import test_delivering, test_findings

Serve = Callable[..., Any]

ANSWERED_WITHIN = 5.0
"""Seconds; it takes milliseconds."""


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    """A PostgreSQL that the test stops."""
    if postgresql.programs() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with postgresql.start() as running:
        yield running


def test_while_the_store_is_away_everything_goes_on_but_the_tally(
    serve: Serve, tmp_path: pathlib.Path, server: postgresql.Server
) -> None:
    """Sessions are received and policies answered; commands say in one line what is wrong; then all is counted."""

    async def scenario() -> None:
        async with internet.start(tmp_path, ()) as net:
            net.zone.put(f"_smtp._tls.{test_findings.DOMAIN}", zone.Txt("v=TLSRPTv1;rua=mailto:r@domain.example"))
            (tmp_path / "tlsrpt.toml").write_text(net.config_text(server.url("postgres")))
            served = serve("--config", str(tmp_path / "tlsrpt.toml"))
            await asyncio.to_thread(_walk, tmp_path, net, served, server)
            assert await asyncio.to_thread(served.end) == 0

    asyncio.run(scenario())


def _walk(folder: pathlib.Path, net: internet.Internet, served: Any, server: postgresql.Server) -> None:
    served.wait_for("recorder started")
    served.wait_for("reporter started")
    _hand_in(folder, net, number=1, total=1)
    _wait_for_count(folder, 1)
    server.stop("immediate")
    _hand_in(folder, net, number=3, total=4)
    served.wait_for("the tally cannot go on, the journal holds", 2)
    started = time.monotonic()
    assert test_findings.ask(net.policy_socket, "QUERY", 3) == [b"NOTFOUND "] * 3
    assert time.monotonic() - started < ANSWERED_WITHIN
    for command in ("pending", "history", "report"):
        done = _tlsrpt(folder, command)
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("tlsrpt: postgresql://tlsrpt@/postgres: ")
    assert not [row for row in served.events() if "exception" in row]
    server.start()
    _wait_for_count(folder, 4)


def _hand_in(folder: pathlib.Path, net: internet.Internet, number: int, total: int) -> None:
    """Hand in so many sessions, and wait until the journal has them all."""
    for _ in range(number):
        test_findings.tell(net.recorder_socket, test_findings.PLAIN_SESSION)
    test_findings.wait_for_lines(folder / "journal", total)


def _tlsrpt(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sender", *arguments, "--config", str(folder / "tlsrpt.toml")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _wait_for_count(folder: pathlib.Path, number: int) -> None:
    """Wait until the tally has counted so many sessions; ``pending`` only looks at an empty journal of its own."""
    elsewhere = {**os.environ, "TLSRPT_RECORDER_JOURNAL": str(folder / "none")}
    command = [sys.executable, "-m", "sender", "pending", "--json", "--config", str(folder / "tlsrpt.toml")]
    for _ in range(60):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=elsewhere)
        if [row["successful"] for row in json.loads(done.stdout)["domain_days"]] == [number]:
            return
    pytest.fail(f"not counted: {done.stdout}")


@pytest.fixture
def store_url(server: postgresql.Server) -> str:
    """In the server that the test stops."""
    return server.url("postgres")


MAILS = 12


def test_what_is_delivered_while_the_server_restarts_is_delivered_once(
    in_internet: Callable[..., None], store: engine.Store, server: postgresql.Server
) -> None:
    """Its outcome is kept until the server is back; what was not begun waits for that, too."""

    async def scenario(net: internet.Internet, job: daily.Daily) -> None:
        for number in range(MAILS):
            test_delivering.put_report(store, job, f"mailto:r@d{number}.example")
        calls = itertools.count()
        restarts: list[asyncio.Task[None]] = []

        async def restart() -> None:
            await asyncio.sleep(0.5)  # another one than a database: that it is away shall be noticed
            await asyncio.to_thread(server.start)

        def stopped() -> bool:
            if next(calls) == 2:
                server.stop("immediate")
                restarts.append(asyncio.create_task(restart()))
            return False

        attempts = await job.courier.deliver(stopped=stopped)
        await asyncio.gather(*restarts)
        assert len(restarts) == 1
        assert sorted(one.delivery.number for one in attempts) == [1] * MAILS
        assert sorted(one.recipients[0] for one in net.mail.mailbox.messages) == sorted(
            f"r@d{number}.example" for number in range(MAILS)
        )
        with store.read() as connection:
            assert len(list(listings.settled_deliveries(connection))) == MAILS

    in_internet(scenario)
