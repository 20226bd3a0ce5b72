"""A fleet's day: every session that was recorded is in exactly one report, whoever dies or is cut off meanwhile."""

import asyncio
import collections
import datetime as dt
import email
import email.policy
import json
import pathlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

import pytest

from policy import resolver
from sender import building, closing, config, journal, noting, report, tally
from sender.store import engine, reports
from tests.lab import fleet, namespace
from tests.lab.conftest import cannot

if TYPE_CHECKING:
    from sender.demo import mailbox

DAY = dt.date(2026, 11, 23)
SESSIONS, DOMAINS = 100_000, 5_000
KILLS = 50
SEED = 8460

IN_FLIGHT = noting.UNNOTED + 3
"""Deliveries that a reporter which is killed may make again: those whose notes wait, and those under way."""

BUFFERED = 1024
"""Session results that a recorder which is killed had received and not appended, at most."""

MOMENT, BATCH = 0.5, 3.0
"""Seconds at most that a process may work before it is killed; a reporter has done a batch or two in the latter."""

ROUNDS = 4
"""How often time passes until what killed reporters had claimed is free; in two of them PostgreSQL is restarted."""

Sums = dict[str, tuple[int, int, dict[str, int]]]
"""By domain: successful and failed sessions, and failures by reason."""


def at(hour: int, minute: int = 0, days: int = 0) -> dt.datetime:
    """Return a time on the day, or so many days later."""
    return dt.datetime.combine(DAY, dt.time(hour, minute), dt.UTC) + dt.timedelta(days=days)


@pytest.fixture
def hub(scratch: pathlib.Path) -> Iterator[pathlib.Path]:
    """A network namespace around all; its folder."""
    reason = namespace.missing() or fleet.missing()
    if reason:
        cannot(reason)
    folder = scratch / "fleet"
    folder.mkdir()
    folder.chmod(0o755)
    with namespace.entered(()):
        yield folder
    folder.rename(folder.with_name(f"fleet-{len(list(scratch.iterdir()))}"))


def datagrams(number: int, domains: list[str], chance: random.Random) -> list[bytes]:
    """Return sessions of different domains, a tenth of which failed; each domain has one at least."""
    chosen = [*domains, *chance.choices(domains, k=number - len(domains))]
    chance.shuffle(chosen)
    return [_datagram(domain, chance.randrange(30)) for domain in chosen]


def _datagram(domain: str, draw: int) -> bytes:
    result = f'"failure-details":[{{"c":201,"n":"mx.{domain}","f":"reason {draw}"}}],"t":1,"f":1'
    policy = f'{{"policy-type":9,"policy-domain":"{domain}",{result if draw < 3 else chr(34) + "f" + chr(34) + ":0"}}}'
    return f'{{"d":"{domain}","pr":"v=TLSRPTv1;rua=mailto:tls@{domain}","policies":[{policy}]}}'.encode()


def hand_in(hosts: list[fleet.Served], sessions: list[bytes]) -> None:
    """Hand sessions in, spread over the hosts, as fast as they take them; wait until all are in a journal."""
    threads = [
        threading.Thread(target=_send, args=(host, sessions[number :: len(hosts)])) for number, host in enumerate(hosts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send(host: fleet.Served, sessions: list[bytes]) -> None:
    """A mark at the end tells that all before it was received: a socket keeps the order."""
    mark = f"nonsense {random.random()}".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(host.folder / "tlsrpt.sock"))
        for raw in sessions:
            sock.send(raw)

        def arrived() -> bool:
            sock.send(mark)  # a recorder that is killed may take it along
            return any(mark in one.path.read_bytes() for one in journal.segments(host.journal))

        fleet.wait_until(arrived, f"{host.name} receives")


def recorded(hosts: list[fleet.Served]) -> collections.Counter[bytes]:
    """Return what the journals hold."""
    lines: collections.Counter[bytes] = collections.Counter()
    for host in hosts:
        for segment in journal.segments(host.journal):
            lines.update(segment.path.read_bytes().splitlines())
    return collections.Counter({line: times for line, times in lines.items() if line.startswith(b"{")})


def sums(lines: collections.Counter[bytes]) -> Sums:
    """Add up what lines of a journal tell, without our own reader."""
    found: dict[str, list[Any]] = {}
    for line, times in lines.items():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # cut by a kill
        one = found.setdefault(told["d"], [0, 0, collections.Counter()])
        for policy in told["policies"]:
            one[policy["f"]] += times
            for failure in policy.get("failure-details", ()):
                one[2][failure["f"]] += times
    return {domain: (good, bad, dict(reasons)) for domain, (good, bad, reasons) in found.items()}


def documents(messages: "collections.deque[mailbox.Message]") -> dict[str, list[dict[str, Any]]]:
    """Return the reports that came, by report-id; those that came twice have the same content."""
    found: dict[str, list[dict[str, Any]]] = {}
    for message in list(messages):
        parsed = email.message_from_bytes(message.content, policy=email.policy.default)
        (attachment,) = [part for part in parsed.walk() if part.get_content_type() == "application/tlsrpt+gzip"]
        document = json.loads(report.unpack(attachment.get_content()))
        found.setdefault(document["report-id"], []).append(document)
    return found


def reported(found: dict[str, list[dict[str, Any]]]) -> Sums:
    """Add up what reports tell."""
    added: dict[str, list[Any]] = {}
    for first, *rest in found.values():
        assert all(other == first for other in rest)
        for policy in first["policies"]:
            one = added.setdefault(policy["policy"]["policy-domain"], [0, 0, collections.Counter()])
            one[0] += policy["summary"]["total-successful-session-count"]
            one[1] += policy["summary"]["total-failure-session-count"]
            for failure in policy.get("failure-details", ()):
                one[2][failure["failure-reason-code"]] += failure["failed-session-count"]
    return {domain: (good, bad, dict(reasons)) for domain, (good, bad, reasons) in added.items()}


class Killer:
    """Kills one process after the other, each once it runs, while something else goes on."""

    def __init__(self, hosts: list[fleet.Served], number: int, chance: random.Random, most: float) -> None:
        self._most = most
        self.killed: collections.Counter[str] = collections.Counter()
        self._hosts, self._number, self._chance = hosts, number, chance
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        for _ in range(self._number):
            host = self._chance.choice(self._hosts)
            fleet.wait_until(lambda: f"{host.role} started" in host.log.read_text(), f"{host.name} starts")  # noqa: B023
            roles = [name for name in host.pids() if name != "supervisor"]
            which = self._chance.choice([*roles, "supervisor"])  # which also ends the waits of roles that died often
            time.sleep(self._chance.uniform(0, self._most))
            host.kill(which)
            self.killed[which if which != "supervisor" else f"supervisor of a {host.role}"] += 1


def test_a_day_of_three_recorders_and_two_reporters_in_which_everything_dies(
    hub: pathlib.Path, record_property: Callable[[str, object], None]
) -> None:
    """100,000 sessions of 5,000 domains, 50 kills, PostgreSQL restarted three times, a host cut off over midnight.

    Each domain gets one report with the sums of what was recorded, byte for byte what one host on SQLite makes of the
    same journals, but for the report-id.
    """
    chance = random.Random(SEED)
    domains = [f"d{number}.example" for number in range(DOMAINS)]
    sessions = datagrams(SESSIONS, domains, chance)
    quarter = SESSIONS // 4
    killed: collections.Counter[str] = collections.Counter()
    with fleet.running(hub, domains, at(20)) as all_:
        hosts = [*all_.recorders, *all_.reporters]
        for part in range(4):
            all_.clock.set(at(20 + part))
            if part == 3:
                all_.clock.set(at(23, 20))
                alive = f"SELECT count(*) FROM recorders WHERE tallied >= {int(at(23, 20).timestamp())} AND NOT ended"
                fleet.wait_until(lambda: all_.query(alive) == ["3"], "all hosts are up again")  # noqa: B023
                all_.cut(2, off=True)
            with Killer(hosts if part < 3 else hosts[:2], 8, chance, MOMENT) as killer:
                hand_in(all_.recorders, sessions[part * quarter : (part + 1) * quarter])
                if part == 1:
                    all_.database.restart()
            killed += killer.killed
        expected = recorded(all_.recorders)
        lost = SESSIONS - sum(good + bad for good, bad, _ in sums(expected).values())
        assert 0 <= lost <= BUFFERED * sum(times for name, times in killed.items() if "recorder" in name), killed

        all_.clock.set(at(0, 6, days=1))
        midnight = int(at(0, days=1).timestamp())
        past = f"SELECT count(*) FROM recorders WHERE tallied >= {midnight}"
        fleet.wait_until(lambda: all_.query(past) == ["2"], "two hosts are tallied past midnight")
        for one in all_.reporters:
            one.restart()
        fleet.wait_until(lambda: all(one.events("closed") for one in all_.reporters), "reporters have looked")
        (missing,) = all_.reporters[0].tlsrpt("pending")["hosts_missing"]
        assert (missing["day"], missing["host"]) == (DAY.isoformat(), "mx2.example")
        assert all_.query(f"SELECT count(*) FROM closings WHERE day = '{DAY}'") == ["0"]

        all_.clock.set(at(0, 21, days=1))
        all_.cut(2, off=False)
        fleet.wait_until(lambda: all_.query(past) == ["3"], "the third host is back")
        for left in range(ROUNDS, 0, -1):
            _pass(all_, dt.timedelta(minutes=61))
            with Killer(all_.reporters, (KILLS - killed.total()) // left, chance, BATCH) as killer:
                if left % 2:
                    time.sleep(chance.uniform(0, BATCH))
                    all_.database.restart()
            killed += killer.killed
        assert killed.total() == KILLS
        _finish(all_)

        found = documents(all_.net.mail.mailbox.messages)
        assert len(found) == DOMAINS
        assert reported(found) == sums(expected)
        twice = sum(len(copies) - 1 for copies in found.values())
        assert twice <= IN_FLIGHT * sum(times for name, times in killed.items() if "reporter" in name), killed
        assert all_.query("SELECT count(*) FROM reports WHERE revision > 1") == ["0"]
        record_property("told", f"killed {dict(killed)}, lost in killed recorders: {lost}, delivered twice: {twice}")
        assert _by_one_host(hub, all_) == {_without_id(copies[0]) for copies in found.values()}


def _finish(all_: fleet.Fleet) -> None:
    """Let time pass until all is delivered: what a killed reporter had claimed is free when its lease is over."""
    open_ = "SELECT (SELECT count(*) FROM domain_days WHERE state = 'undecided') + "
    open_ += "(SELECT count(*) FROM deliveries WHERE state = 'due')"
    for _ in range(10):
        before, patience = "", 0
        while patience < 50:
            now = "".join(all_.query(open_))
            if now == "0":
                return
            patience = patience + 1 if now == before else 0
            before = now
        _pass(all_, dt.timedelta(minutes=61))
    pytest.fail(f"not all is delivered: {all_.query(open_)}")


def _pass(all_: fleet.Fleet, span: dt.timedelta) -> None:
    """Move the clock; reporters that begin anew do at once what is to be done by then."""
    all_.clock.set(all_.clock.now() + span)
    for one in all_.reporters:
        one.restart()
        fleet.wait_until(lambda: bool(one.events("reporter started")), "a reporter starts")  # noqa: B023


def _without_id(document: dict[str, Any]) -> bytes:
    return json.dumps({**document, "report-id": ""}).encode()


def _by_one_host(folder: pathlib.Path, all_: fleet.Fleet) -> set[bytes]:
    """Return the documents that one host on SQLite makes of the same journals."""
    settings = config.load(all_.reporters[0].config, {})
    store = engine.open_store(f"sqlite:///{folder / 'one.db'}")
    for host in all_.recorders:
        tally.Tally(store, host.journal, host.name).catch_up(at(0, 30, days=1))
    closing.close(store, DAY)
    dns = resolver.Resolver(settings.dns.nameservers)
    tokens = iter(range(2 * DOMAINS))
    chance = building.Chance(lambda: str(next(tokens)), lambda: 0.0)
    builder = building.Builder(
        store, dns, config.identity(settings), settings.report, chance, lambda: at(0, 30, days=1)
    )

    async def build() -> None:
        async for _ in builder.build(building.Due(at(0, 30, days=1), 0)):
            pass

    asyncio.run(build())
    with store.read() as connection:
        domains = [f"d{number}.example" for number in range(DOMAINS)]
        made = [one for domain in domains for one in reports.of_domain(connection, domain, DAY)]
    store.close()
    return {_without_id(json.loads(report.unpack(one.packed))) for one in made}


def test_a_host_that_comes_back_too_late_leads_to_revision_2(hub: pathlib.Path) -> None:
    """The day closes without it when the time is up; its sessions are in the next revision, and nothing twice."""
    chance = random.Random(SEED)
    domains = [f"d{number}.example" for number in range(50)]
    sessions = datagrams(1000, domains, chance)
    with fleet.running(hub, domains, at(20)) as all_:
        hand_in(all_.recorders, sessions[:500])
        wanted = sum(sum(one[:2]) for one in sums(collections.Counter(sessions[:500])).values())
        counted = "SELECT coalesce(sum(successful + failed), 0) FROM domain_days"
        fleet.wait_until(lambda: all_.query(counted) == [str(wanted)], "all is counted")
        all_.cut(2, off=True)
        hand_in(all_.recorders, sessions[500:])
        all_.clock.set(at(0, 1, days=1))
        midnight = int(at(0, days=1).timestamp())
        past = f"SELECT count(*) FROM recorders WHERE tallied >= {midnight}"
        fleet.wait_until(lambda: all_.query(past) == ["2"], "two hosts are tallied past midnight")
        all_.clock.set(at(4, 1, days=1))
        for one in all_.reporters:
            one.restart()
        fleet.wait_until(lambda: len(documents(all_.net.mail.mailbox.messages)) == 50, "the first reports came")
        all_.cut(2, off=False)
        fleet.wait_until(lambda: all_.query(counted) == ["1000"], "the third host is back")
        all_.clock.set(at(0, 6, days=2))
        fleet.wait_until(
            lambda: all_.query(past.replace(str(midnight), str(midnight + 86400))) == ["3"], "all are tallied again"
        )
        for one in all_.reporters:
            one.restart()
        late = sums(collections.Counter(sessions[500:][2::3]))
        fleet.wait_until(
            lambda: len(documents(all_.net.mail.mailbox.messages)) == 50 + len(late), "the second reports came"
        )
        assert reported(documents(all_.net.mail.mailbox.messages)) == sums(collections.Counter(sessions))
        revisions = all_.query("SELECT revision, count(*) FROM reports GROUP BY revision ORDER BY revision")
        assert revisions == ["1|50", f"2|{len(late)}"]
