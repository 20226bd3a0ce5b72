"""Mail is never delayed by us: a recorder or a policy process that is stopped or killed under a real Postfix 3.10.

What Postfix does then, and that everything comes back by itself, is written up in docs/laboratory.md. Back-offs are a
second here, so that what Postfix tries again is tried within the test.
"""

import contextlib
import dataclasses
import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.lab import mta, namespace, postfix, product, roots, sites
from tests.lab.conftest import Laboratory, Line
from tests.lab.test_postfix import SNIPPET

SETTINGS = {
    "smtp_bind_address": sites.SENDER,
    "smtp_bind_address6": sites.SENDER_6,
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "1s",
}

AT_ONCE = 3.0
"""Seconds in which mail is delivered that nothing holds up; it takes less than a tenth, on a busy machine too."""

QUEUE = 10
"""Datagrams that the kernel keeps: its default."""

LONGER = 3 * QUEUE
"""Messages that are more than the kernel keeps."""

SOCKETMAP_TIMEOUT = 100.0
"""Seconds that Postfix waits for an answer of a socketmap (a constant in its source)."""

LOST = "Could not report TLS handshake result"


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A Postfix and the tlsrpt it is plugged into."""

    server: postfix.Postfix
    tlsrpt: product.Tlsrpt

    def recorded(self, domain: str) -> int:
        """Return how many sessions with a domain were recorded so far."""
        return sum(json.loads(line)["d"] == domain for line in self.tlsrpt.journal())

    def lost(self) -> int:
        """Return how many events Postfix could not hand over so far, as its log has it."""
        return sum(LOST in line for line in self.server.log())

    def deliver(self, domain: str) -> mta.Delivery:
        """Send a message; return what became of it at the first attempt, which must be over at once."""
        queue_id = self.server.send([f"u@{domain}"])
        self.server.settle({queue_id: 1}, AT_ONCE)
        return self.attempts(queue_id)[0]

    def deliver_without_recorder(self, domain: str) -> None:
        """Send :data:`LONGER` messages while the recorder is stopped; all must go out at once."""
        self.tlsrpt.signal("recorder", signal.SIGSTOP)
        try:
            seen = [self.deliver(domain).status for _ in range(LONGER)]
        finally:
            self.tlsrpt.signal("recorder", signal.SIGCONT)
        assert seen == ["sent"] * LONGER

    def attempts(self, queue_id: str) -> list[mta.Delivery]:
        """Return what became of a message at each attempt so far."""
        return [one for one in self.server.deliveries() if one.queue_id == queue_id]

    def await_sent(self, queue_id: str, patience: float = mta.PATIENCE) -> None:
        """Wait until a message is delivered, however often it takes."""
        self.server.wait(lambda: any(one.status == "sent" for one in self.attempts(queue_id)), patience)


@contextlib.contextmanager
def _running(
    laboratory: Laboratory, name: str, listen: str, mistakes: Mapping[str, str] | None = None
) -> Iterator[Pair]:
    folder = laboratory.folder / name
    folder.mkdir()
    root = roots.copy(laboratory.root, folder / "root")
    queue = postfix.prepare(root)
    with (
        laboratory.serving(folder, queue) as tlsrpt,
        postfix.running(
            root, SNIPPET, laboratory.authority.ca_pem, listen=listen, settings=SETTINGS, mistakes=mistakes
        ) as server,
    ):
        yield Pair(server, tlsrpt)


@dataclasses.dataclass(frozen=True, slots=True)
class Stalled:
    """A pair whose policy process was stopped when a message was sent."""

    pair: Pair
    queue_id: str


@pytest.fixture(scope="module", autouse=True)
def stalled(laboratory: Laboratory) -> Iterator[Stalled]:
    """Begin to wait for Postfix's own time-out, which is long: the other tests run meanwhile."""
    with _running(laboratory, "stalled", "127.0.0.3") as pair:
        pair.tlsrpt.signal("policy", signal.SIGSTOP)
        yield Stalled(pair, pair.server.send(["u@plain.example"]))


@pytest.fixture(scope="module")
def pair(laboratory: Laboratory, stalled: Stalled) -> Iterator[Pair]:
    """A pair that works; each test leaves it so. The recorder's queue is as short as the kernel makes it."""
    before = namespace.QUEUE.read_text()
    namespace.QUEUE.write_text(f"{QUEUE}\n")
    try:
        with _running(laboratory, "troubles", "127.0.0.2") as running:
            assert running.deliver("plain.example").status == "sent"
            yield running
    finally:
        namespace.QUEUE.write_text(before)


def test_stopped_recorder_delays_no_mail(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Mail goes out as ever; what the kernel cannot keep is lost and logged, the rest is recorded when it goes on."""
    before, lost = pair.recorded("plain.example"), pair.lost()
    pair.deliver_without_recorder("plain.example")
    lost = pair.lost() - lost
    pair.server.wait(lambda: pair.recorded("plain.example") - before + lost >= LONGER)
    recorded = pair.recorded("plain.example") - before
    assert recorded + lost == LONGER
    assert recorded >= QUEUE
    assert lost > 0
    assert pair.deliver("plain.example").status == "sent"
    pair.server.wait(lambda: pair.recorded("plain.example") == before + recorded + 1)
    tell(
        ("Postfix 3.10", "recorder stopped", f"sent {LONGER} of {LONGER} at once", f"{recorded} recorded, {lost} lost")
    )


def test_stopped_recorder_delays_no_answer_of_the_policy_socket(pair: Pair) -> None:
    """Findings that cannot be handed over hold up no mail, either, and are recorded when the recorder goes on."""
    before = pair.recorded("sts-404.example")
    pair.deliver_without_recorder("sts-404.example")
    pair.server.wait(lambda: pair.recorded("sts-404.example") - before >= LONGER)


def test_killed_recorder_delays_no_mail(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Mail goes out while there is none; the supervisor starts another, and recording goes on by itself."""
    before, lost, pid = pair.recorded("plain.example"), pair.lost(), pair.tlsrpt.pid("recorder")
    pair.tlsrpt.signal("recorder", signal.SIGKILL)
    pair.tlsrpt.wait(lambda: any(row["event"].startswith("died") for row in pair.tlsrpt.events()))
    seen = [pair.deliver("plain.example").status for _ in range(3)]
    assert seen == ["sent"] * 3
    pair.tlsrpt.wait(lambda: pair.tlsrpt.pid("recorder") != pid)

    def recording() -> bool:
        assert pair.deliver("plain.example").status == "sent"
        return pair.recorded("plain.example") > before

    pair.server.wait(recording)
    lost = pair.lost() - lost
    assert lost >= len(seen)
    tell(("Postfix 3.10", "recorder killed", "sent at once", f"{lost} lost until it was started again"))


def test_follower_tells_how_many_events_were_lost(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Events in the log are what was recorded, what the kernel dropped, and what found no recorder: all accounted for.

    The log is that of the tests before this one, too: of findings of the policy socket, and of a recorder killed.
    """
    events = sum("TLSRPT: status=" in line for line in pair.server.log())
    pair.deliver_without_recorder("plain.example")
    done = pair.tlsrpt.run("follow", str(pair.server.root / postfix.LOG), "--once")
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) events of Postfix, (\d+) recorded, (\d+) dropped by the kernel\n", done.stdout)
    assert found, done.stdout
    told, recorded, dropped = map(int, found.groups())
    more = {name: int(number) for name, number in re.findall(r"(\w+)=(-?\d+)\b", done.stderr)}
    assert told == events + LONGER
    assert dropped + more["undelivered"] == pair.lost()
    assert recorded == told - pair.lost()
    assert more["missing"] == 0
    assert dropped >= LONGER - QUEUE - 1
    tell(("Postfix 3.10", "tlsrpt follow", f"{told} events", f"{recorded} recorded, {dropped} dropped"))


def test_policy_process_that_pauses_delays_mail_as_long(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Within its time-out Postfix waits for the answer, and goes by it: nothing is deferred."""
    pair.tlsrpt.signal("policy", signal.SIGSTOP)
    try:
        queued = [pair.server.send([f"u@{domain}"]) for domain in ("plain.example", "sts.example")]
        time.sleep(1)  # so long it pauses: mail must wait for it
        assert [pair.attempts(queue_id) for queue_id in queued] == [[], []]
    finally:
        pair.tlsrpt.signal("policy", signal.SIGCONT)
    pair.server.settle(dict.fromkeys(queued, 1), AT_ONCE)
    assert [pair.attempts(queue_id)[0].status for queue_id in queued] == ["sent", "sent"]
    assert "Verified" in {one.word for one in pair.server.handshakes() if one.host == "mx.sts.example"}
    tell(("Postfix 3.10", "policy process pauses", "waits, then sent", "as ever"))


def test_killed_policy_process_comes_back_by_itself(pair: Pair) -> None:
    """The supervisor starts another within a second or so; what was deferred meanwhile is delivered by itself."""
    pair.tlsrpt.signal("policy", signal.SIGKILL)
    queue_id = pair.server.send(["u@sts.example"])
    pair.await_sent(queue_id)


def test_without_tlsrpt_mail_waits_in_the_queue(pair: Pair, tell: Callable[[Line], None]) -> None:
    """With nobody at the policy socket mail is deferred at once, and delivered by itself once tlsrpt runs again."""
    pair.tlsrpt.stop(signal.SIGKILL)
    first = pair.deliver("plain.example")
    assert (first.status, first.dsn, first.text) == ("deferred", "4.7.5", "client TLS configuration problem")
    pair.tlsrpt.start("recorder", "policy")
    pair.await_sent(first.queue_id)
    before = pair.recorded("plain.example")
    assert pair.deliver("plain.example").status == "sent"
    pair.server.wait(lambda: pair.recorded("plain.example") > before)
    tell(("Postfix 3.10", "tlsrpt killed", f"{first.status} ({first.text}), then sent", "as ever"))


def test_session_cache_of_debian_hides_sessions(laboratory: Laboratory, tell: Callable[[Line], None]) -> None:
    """Why the snippet empties smtp_tls_session_cache_database: Postfix 3.10 reports no session that was resumed."""
    cache = {"smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache"}
    with _running(laboratory, "cache", "127.0.0.4", cache) as pair:
        assert [pair.deliver("sts.example").status for _ in range(3)] == ["sent"] * 3
        assert pair.deliver("plain.example").status == "sent"
        pair.server.wait(lambda: pair.recorded("plain.example") == 1)
        assert pair.recorded("sts.example") == 1
    tell(("Postfix 3.10", "TLS session cache", "sent 3 of 3", "1 recorded: resumed sessions are not"))


def test_reuse_without_tlsproxy_defers_mail(laboratory: Laboratory, tell: Callable[[Line], None]) -> None:
    """Connections with TLS are used again only where master.cf has tlsproxy; without it no mail goes out over TLS."""
    with _running(laboratory, "proxy", "127.0.0.4", {"smtp_tls_connection_reuse": "yes"}) as pair:
        pair.server.remove_service("tlsproxy")
        first = pair.deliver("plain.example")
        assert (first.status, first.text) == ("deferred", "Cannot start TLS: handshake failure")
        assert pair.recorded("plain.example") == 0
    tell(("Postfix 3.10", "reuse without tlsproxy", f"{first.status} ({first.text})", "—"))


def test_stopped_policy_process_defers_mail_after_postfix_time_out(
    stalled: Stalled, tell: Callable[[Line], None]
) -> None:
    """A policy process that stays stopped defers mail after a hundred seconds; when it goes on, mail does, too."""
    pair = stalled.pair
    pair.server.settle({stalled.queue_id: 1}, SOCKETMAP_TIMEOUT + mta.PATIENCE)
    first = pair.attempts(stalled.queue_id)[0]
    assert (first.status, first.dsn, first.text) == ("deferred", "4.7.5", "client TLS configuration problem")
    pair.tlsrpt.signal("policy", signal.SIGCONT)
    pair.await_sent(stalled.queue_id)
    waited = f"{first.status} after {SOCKETMAP_TIMEOUT:.0f} s ({first.text}), then sent"
    tell(("Postfix 3.10", "policy process stopped", waited, "as ever"))
