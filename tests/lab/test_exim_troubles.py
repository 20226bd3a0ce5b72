"""Exim 4.96 where tlsrpt does not run as it should, and what Exim's events say that one would not expect.

docs/exim.md says the same in words. The events of the second half are those that Exim wrote into tlsrpt's socket, taken
down by the test itself: what a look at the variables shows, without anything of ours in between but the snippet.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from sender import applied, datagram, eximevents, eximjoining, eximjudging, session
from tests.lab import exim, product, roots
from tests.lab.conftest import Laboratory, Line

LISTEN, LISTEN_TAPPED = "127.0.0.5", "127.0.0.6"

TIME_OUT = 2.0
"""Seconds that Exim waits for tlsrpt, for each event; in the snippet."""

EVENTS = 3
"""Of a good delivery: EHLO, EHLO inside of TLS, the end of the connection."""

AT_ONCE = 4.0
"""Seconds in which mail is delivered that waits for nothing, which takes some tenths: less than :data:`EVENTS` take."""

SLACK = 3.0
"""Seconds that a busy machine may add."""

LONGER = 5
"""Messages."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """An Exim and the tlsrpt that it tells its events."""

    server: exim.Exim
    tlsrpt: product.Tlsrpt

    @property
    def socket(self) -> pathlib.Path:
        """Where Exim tells its events."""
        return self.server.root / exim.SOCKET

    def listening(self) -> int:
        """Return how often tlsrpt began to listen to Exim."""
        return sum(one["event"] == "listening to Exim" for one in self.tlsrpt.events())

    def recorded(self, domain: str) -> int:
        """Return how many sessions with a domain were recorded so far."""
        return sum(json.loads(line)["d"] == domain for line in self.tlsrpt.journal())

    def await_recorded(self, domain: str, count: int) -> None:
        """Wait until so many sessions with a domain were recorded, and see that there are no more."""
        self.server.wait(lambda: self.recorded(domain) >= count)
        assert self.recorded(domain) == count

    def deliver(self, domain: str) -> float:
        """Send a message, which must be delivered at the first attempt; return the seconds that took."""
        began = time.monotonic()
        queue_id = self.server.send([f"u@{domain}"])
        self.server.settle({queue_id: 1})
        took = time.monotonic() - began
        assert [one.status for one in self.server.deliveries() if one.queue_id == queue_id] == ["sent"]
        return took


@pytest.fixture(scope="module")
def pair(exim_496: pathlib.Path, laboratory: Laboratory) -> Iterator[Pair]:
    """A pair that all tests share; what a test breaks, it mends."""
    folder = laboratory.folder / "exim-troubles"
    folder.mkdir()
    root = roots.copy(exim_496, folder / "root")
    exim.prepare(root)
    with (
        laboratory.serving(folder, root, more=exim.settings(root, LISTEN)) as tlsrpt,
        exim.running(root, laboratory.authority.ca_pem, listen=LISTEN) as server,
    ):
        running = Pair(server, tlsrpt)
        assert running.deliver("plain.example") < AT_ONCE
        running.await_recorded("plain.example", 1)
        yield running


def test_stopped_recorder_delays_no_mail(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Another process takes the events: mail goes out as ever, and nothing is lost."""
    before = pair.recorded("plain.example")
    pair.tlsrpt.signal("recorder", signal.SIGSTOP)
    try:
        took = [pair.deliver("plain.example") for _ in range(LONGER)]
    finally:
        pair.tlsrpt.signal("recorder", signal.SIGCONT)
    assert max(took) < AT_ONCE
    pair.await_recorded("plain.example", before + LONGER)
    tell(("Exim 4.96", "recorder stopped", f"sent {LONGER} of {LONGER} at once", f"{LONGER} recorded"))


def test_stopped_listener_costs_time_for_each_event(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Exim waits as long as the snippet says, delivers, and its events are read when tlsrpt goes on."""
    before = pair.recorded("plain.example")
    pair.tlsrpt.signal("exim", signal.SIGSTOP)
    try:
        took = pair.deliver("plain.example")
    finally:
        pair.tlsrpt.signal("exim", signal.SIGCONT)
    assert EVENTS * TIME_OUT <= took < EVENTS * TIME_OUT + SLACK
    pair.await_recorded("plain.example", before + 1)
    assert pair.deliver("plain.example") < AT_ONCE
    pair.await_recorded("plain.example", before + 2)
    tell(("Exim 4.96", "listener stopped", f"sent after {took:.0f} s", "recorded when it goes on"))


def test_killed_listener_delays_no_mail(pair: Pair, tell: Callable[[Line], None]) -> None:
    """Nobody listens: Exim goes on at once; the supervisor starts another, and recording goes on by itself."""
    before, times = pair.recorded("plain.example"), pair.listening()
    pair.tlsrpt.signal("exim", signal.SIGKILL)
    assert pair.deliver("plain.example") < AT_ONCE
    pair.tlsrpt.wait(lambda: pair.listening() > times)
    assert pair.deliver("plain.example") < AT_ONCE
    pair.server.wait(lambda: pair.recorded("plain.example") > before)
    tell(("Exim 4.96", "listener killed", "sent at once", "lost until it was started again"))


def test_without_tlsrpt_mail_goes_out(pair: Pair, tell: Callable[[Line], None]) -> None:
    """What tlsrpt cannot take is lost, and Exim neither waits nor complains."""
    before = pair.listening()
    pair.tlsrpt.stop(signal.SIGKILL)
    assert pair.deliver("dane.example") < AT_ONCE
    pair.tlsrpt.start("recorder", "policy")
    pair.tlsrpt.wait(lambda: pair.listening() > before)
    assert pair.deliver("dane.example") < AT_ONCE
    pair.await_recorded("dane.example", 1)
    assert [line for line in pair.server.log() if "socket" in line] == []
    tell(("Exim 4.96", "tlsrpt killed", "sent at once", "lost"))


def test_exim_writes_as_its_own_user(pair: Pair, tell: Callable[[Line], None]) -> None:
    """The socket must be of Exim's group; where it is not, mail goes out all the same, and nothing is recorded."""
    before = pair.socket.stat()
    assert (before.st_uid, before.st_gid, before.st_mode & 0o777) == (0, exim.DEBIAN_EXIM, 0o660)
    os.chown(pair.socket, 0, 0)
    try:
        assert pair.deliver("plain-ipv6.example") < AT_ONCE
    finally:
        os.chown(pair.socket, 0, exim.DEBIAN_EXIM)
    assert pair.deliver("plain-ipv6.example") < AT_ONCE
    pair.await_recorded("plain-ipv6.example", 1)
    assert [line for line in pair.server.log() if "socket" in line or "denied" in line] == []
    tell(("Exim 4.96", "socket of another group", "sent at once", "lost"))


def test_stopped_policy_process_delays_no_mail(pair: Pair, tell: Callable[[Line], None]) -> None:
    """The policy is asked for after the delivery: where nobody answers, the session is told without it."""
    pair.tlsrpt.signal("policy", signal.SIGSTOP)
    try:
        assert pair.deliver("sts.example") < AT_ONCE
        pair.await_recorded("sts.example", 1)
    finally:
        pair.tlsrpt.signal("policy", signal.SIGCONT)
    tell(("Exim 4.96", "policy process stopped", "sent at once", "no-policy-found"))


def test_without_trust_ad_exim_does_no_dane(pair: Pair, tell: Callable[[Line], None]) -> None:
    """The C library keeps DNSSEC from Exim unless resolv.conf says trust-ad: TLSA records are not looked at."""
    file = pair.server.root / "etc/resolv.conf"
    text = file.read_text()
    file.write_text(text.replace("options trust-ad\n", ""))
    assert file.read_text() != text
    try:
        pair.deliver("dane-mismatch.example")
        pair.await_recorded("dane-mismatch.example", 1)
    finally:
        file.write_text(text)
    told = [datagram.decode(line.encode()) for line in pair.tlsrpt.journal()]
    (result,) = [result for one in told if one.domain == "dane-mismatch.example" for result in one.results]
    assert (result.policy.type, result.failed) == (session.PolicyType.NO_POLICY_FOUND, False)
    tell(("Exim 4.96", "dane-mismatch without trust-ad", "sent", "no-policy-found"))


class Tap:
    """What listens in tlsrpt's place, and takes all lines down.

    Args:
        path: of the socket.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.lines: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        os.chown(path, 0, exim.DEBIAN_EXIM)
        path.chmod(0o660)
        self._listener.listen()
        self._thread = threading.Thread(target=self._work, name="tap")
        self._thread.start()

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # which is how it ends
            while True:
                client, _ = self._listener.accept()
                with client, client.makefile("rb") as file:
                    self.lines += file.readlines()

    def end(self) -> None:
        """Stop to listen."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def events(self) -> list[eximevents.Event]:
        """Return the events."""
        return [event for line in self.lines if (event := eximevents.parse(line.rstrip(b"\n")))]


BAD_CERTIFICATES = ("sts-expired", "sts-unknown-issuer", "sts-self-signed", "sts-wrong-name")
SHARED_HOST = "mx.plain-recipients.example"
SHARING = ("one.example", "two.example")
MESSAGES = (
    *([["u@plain-again.example"]] * 3),
    ["u@plain-garbled.example"],
    *([f"u@{id_}.example"] for id_ in BAD_CERTIFICATES),
    ["u@bücher.example"],
    [f"u@{domain}" for domain in SHARING],
)
"""Recipients of each."""


@pytest.fixture(scope="module")
def events(exim_496: pathlib.Path, laboratory: Laboratory) -> Sequence[eximevents.Event]:
    """All events of a queue run, of an Exim that wants good certificates, and sends to several domains at once."""
    folder = laboratory.folder / "exim-tapped"
    folder.mkdir()
    root = roots.copy(exim_496, folder / "root")
    exim.prepare(root)
    (root / "etc/exim4/hubbed_hosts").write_text("".join(f"{domain}: {SHARED_HOST}\n" for domain in SHARING))
    snippets = shutil.copytree(exim.SNIPPETS, folder / "conf")
    text = (snippets / "transport.conf").read_text()
    (snippets / "transport.conf").write_text(text.replace("multi_domain = false", "tls_verify_hosts = *"))
    tap = Tap(root / exim.SOCKET)
    try:
        with exim.running(
            root,
            laboratory.authority.ca_pem,
            listen=LISTEN_TAPPED,
            options=[exim.QUEUE_ONLY],
            snippets=snippets,
        ) as server:
            counts = {server.send(recipients): len(recipients) for recipients in MESSAGES}
            server.flush()
            server.settle(counts)
    finally:
        tap.end()
    return tap.events()


def _of(events: Sequence[eximevents.Event], host: str) -> list[eximevents.Event]:
    return [event for event in events if event.connection.host == host]


def test_the_end_of_a_connection_that_was_passed_on_knows_nothing_of_tls(events: Sequence[eximevents.Event]) -> None:
    """Three messages over one connection: TLS is told once, and the end of it without TLS, by another process."""
    messages = {event.connection.message for event in events if "plain-again" in event.domain}
    seen = [event for event in events if event.connection.message in messages]
    told = [event.name for event in seen if event.tls]
    closed = [event for event in seen if event.name is eximevents.Name.CLOSE]
    begun = [event for event in seen if event.name is eximevents.Name.EHLO]
    assert told == [eximevents.Name.EHLO]
    assert len(begun) == 2
    assert closed
    assert {event.tls for event in closed} == {False}
    assert {event.connection.pid for event in begun}.isdisjoint(event.connection.pid for event in closed)


def test_the_number_of_a_deferral_stays_when_exim_connects_once_more(events: Sequence[eximevents.Event]) -> None:
    """All events of the second connection, in the clear and faultless, have the number of the failed handshake."""
    seen = _of(events, "mx.plain-garbled.example")
    (failed,) = [place for place, event in enumerate(seen) if event.name is eximevents.Name.HOST_DEFER]
    assert {event.errno for event in seen[:failed]} == {0}
    assert [event.name for event in seen[failed + 1 :]] == [eximevents.Name.EHLO, eximevents.Name.CLOSE]
    assert {event.errno for event in seen[failed:]} == {eximjoining.TLS_FAILED}


def test_a_name_that_does_not_match_is_told_by_silence(events: Sequence[eximevents.Event]) -> None:
    """What is wrong with a certificate that Exim does not take: the same words but for a wrong name."""
    words = "TLS session: (certificate verification failed)"
    said = {
        id_: [event.data for event in _of(events, f"mx.{id_}.example") if event.name is eximevents.Name.HOST_DEFER]
        for id_ in BAD_CERTIFICATES
    }
    assert said == {id_: [f"{words}: certificate invalid"] for id_ in BAD_CERTIFICATES} | {"sts-wrong-name": [words]}


def test_what_is_wrong_with_a_certificate_is_found_out(events: Sequence[eximevents.Event]) -> None:
    """Each certificate that Exim does not take is reported as what it is."""
    joiner = eximjoining.Joiner()
    attempts = [attempt for event in events for attempt in joiner.feed(event, 0)]
    judged = {
        attempt.host: eximjudging.judge(attempt, applied.NOTHING, time.time())
        for attempt in attempts
        if attempt.outcome is eximjoining.Outcome.FAILED
    }
    wanted = {
        "sts-expired": session.ResultType.CERTIFICATE_EXPIRED,
        "sts-unknown-issuer": session.ResultType.CERTIFICATE_NOT_TRUSTED,
        "sts-self-signed": session.ResultType.CERTIFICATE_NOT_TRUSTED,
        "sts-wrong-name": session.ResultType.CERTIFICATE_HOST_MISMATCH,
    }
    found = {
        id_: [failure.result_type for result in told.results for failure in result.failures]
        for id_ in wanted
        if (told := judged.get(f"mx.{id_}.example"))
    }
    assert found == {id_: [result_type] for id_, result_type in wanted.items()}


def test_idn_is_told_as_the_message_has_it(events: Sequence[eximevents.Event]) -> None:
    """U-labels stay U-labels; MX hosts have A-labels."""
    assert {event.domain for event in _of(events, "mx.xn--bcher-kva.example")} == {"bücher.example"}


def test_no_domain_is_told_for_recipients_in_several(events: Sequence[eximevents.Event]) -> None:
    """Why the snippet has multi_domain = false."""
    seen = _of(events, SHARED_HOST)
    assert len(seen) >= EVENTS
    assert {event.domain for event in seen} == {""}
