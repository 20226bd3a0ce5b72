"""A store that has something of everything, and its page served by a process of its own."""

import contextlib
import datetime as dt
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from policy import tlsrpt
from sender import config, outcome, report, session
from sender.store import closings, deliveries, engine, reports, schema, suppressions
from tests import configured, stored

FAILING = 25
"""Domains of :func:`fill` with a failed session each day."""

EVIL = '<script>alert(1)</script>"\u202e\x1b[31m'
"""What a stranger may put into texts of a session."""

REPORT_ID = "2026-1-ümlaut+x/y?&@example.com"


def datagram(domain: str, *, failed: int = 0, reason: str = "", policy_type: int = 9) -> bytes:
    """Return the datagram of a session in Postfix's form."""
    policy: dict[str, Any] = {"policy-type": policy_type, "policy-domain": domain, "t": int(bool(failed)), "f": 0}
    if failed:
        where = {"n": f"mx.{domain}", "r": "198.51.100.1", "s": "192.0.2.1"}
        policy |= {"f": 1, "failure-details": [{"c": failed, **where, **({"f": reason} if reason else {})}]}
    return msgspec.json.encode({"dpv": "1", "d": domain, "pr": "v=TLSRPTv1;rua=mailto:r@x", "policies": [policy]})


def fill(store: engine.Store, now: dt.datetime, domains: int = 150, days: int = 30) -> None:
    """Fill a store: so many domains on each day, some with failures; reports with deliveries in each state."""
    today = now.date()
    for ago in range(days):
        stored.count(store, today - dt.timedelta(days=ago), _sessions(domains))
    with store.write() as connection:
        closings.close_open(connection, today - dt.timedelta(days=1))
        _report(connection, now)
        skipped = schema.domain_days.update().where(schema.domain_days.c.domain == "d1.example")
        connection.execute(skipped.where(schema.domain_days.c.day < today).values(state="skipped", reason="no record"))
        until = now + dt.timedelta(days=30)
        suppressions.add(connection, suppressions.Suppression("angry@x.example", until, "asked for it", now))


def _sessions(domains: int) -> list[bytes]:
    ok = [datagram(f"d{index}.example") for index in range(domains) for _ in range(1 + index % 3)]
    bad = [datagram(f"d{index}.example", failed=201 + index % 2, reason=EVIL) for index in range(FAILING)]
    return [*ok, *bad, datagram("d7.example", failed=202, reason=EVIL)]


def _report(connection: engine.Connection, now: dt.datetime) -> None:
    day = now.date() - dt.timedelta(days=1)
    count = report.PolicyCount(session.Policy(session.PolicyType.NO_POLICY_FOUND, "d0.example"), 1, 0, ())
    identity = config.Identity(name=EVIL, domain="example.com", contact="c@example.com", sender="s@example.com")
    packed = report.pack(report.document(identity, day, REPORT_ID, [count]))
    reports.add(connection, [reports.Report(REPORT_ID, day, "d0.example", now, 1, 0, packed)])
    record = tlsrpt.parse_record("v=TLSRPTv1; rua=mailto:a@d0.example,https://d0.example/r,mailto:late@d0.example")
    due = [(rua, now + dt.timedelta(minutes=5)) for rua in record.rua]
    deliveries.add(connection, [deliveries.Addressed(REPORT_ID, day, "d0.example", due)])
    delivered, refused, _ = deliveries.of_report(connection, REPORT_ID)
    deliveries.note(connection, delivered, now, outcome.Settled(outcome.State.DELIVERED, "250 taken"))
    deliveries.note(connection, refused, now, outcome.Settled(outcome.State.REFUSED, f"403 {EVIL}"))


@contextlib.contextmanager
def filled(folder: pathlib.Path) -> Iterator[tuple[int, engine.Store]]:
    """Serve a store that has something of everything; the values are the port of its page, and the store."""
    port = free_port()
    path = configuration(folder, port)
    store = engine.open_store(f"sqlite:///{folder}/tlsrpt.db")
    fill(store, dt.datetime.now(dt.UTC))
    with served(path):
        yield port, store
    store.close()


def configuration(folder: pathlib.Path, port: int, more: str = "") -> pathlib.Path:
    """Write a configuration whose page is on a port of loopback; return its path."""
    path = folder / "tlsrpt.toml"
    path.write_text(f'{configured.text(folder)}[web]\nlisten = "inet:127.0.0.1:{port}"\n{more}\n')
    return path


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(path: pathlib.Path) -> Iterator[None]:
    """Serve the page of a configuration without any role beside it, so that nothing changes."""
    program = (
        "import pathlib, sys; from sender import config; from sender.web import serving; "
        "sys.exit(serving.main(config.load(pathlib.Path(sys.argv[1])), '', records=True, reports=True))"
    )
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=writing, stderr=writing) as process:
        os.close(writing)
        try:
            log = b""
            while b"page and metrics are served" not in log:
                more = os.read(reading, 65536)
                assert more, log
                log += more
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            os.close(reading)
