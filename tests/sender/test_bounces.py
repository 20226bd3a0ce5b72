"""Bounces: what they say, over real sockets into the store, and that three days of them are enough."""

import asyncio
import contextlib
import datetime as dt
import pathlib
import smtplib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import tlsrpt
from sender import bouncing, config, dsn, outcome, report, session
from sender.demo import internet, zone
from sender.store import bounces, deliveries, engine, listings, reports, suppressions
from tests import stored, website

SENDER = "noreply-tls-reports@example.com"
DAY = dt.date(2026, 11, 20)
NOW = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)


def report_id(day: dt.date, token: str = "0123456789abcdef01234567") -> str:
    """Return what ``daily`` makes."""
    return f"{day:%Y%m%d}.{token}@example.com"


def bounce(action: str = "failed", status: str = "5.1.1", diagnostic: str = "smtp; 550 5.1.1 No such user") -> bytes:
    """Return a delivery status notification in Postfix's form."""
    return f"""\
From: MAILER-DAEMON@mail.example.com (Mail Delivery System)
To: {SENDER}
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="B/mail"

--B/mail
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system. I'm sorry to have to inform you ... Action: delivered

--B/mail
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mail.example.com
X-Postfix-Queue-ID: 4XyZ
Arrival-Date: Tue, 24 Nov 2026 03:00:00 +0000 (UTC)

Final-Recipient: rfc822; tls-reports@a.example
Original-Recipient: rfc822;tls-reports@a.example
Action: {action}
Status: {status}
Remote-MTA: dns; mx.a.example
Diagnostic-Code: {diagnostic}

--B/mail
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

Subject: Report Domain: a.example

--B/mail--
""".replace("\n", "\r\n").encode()


SAID: list[tuple[str, bytes, tuple[str, str, str] | None]] = [
    ("Postfix", bounce(), ("failed", "5.1.1", "550 5.1.1 No such user")),
    ("folded", bounce(diagnostic="smtp; 550 5.1.1\n    No such\n user"), ("failed", "5.1.1", "550 5.1.1 No such user")),
    ("delayed", bounce("delayed", "4.4.1", "x-postfix; timed out"), ("delayed", "4.4.1", "timed out")),
    ("given up after five days", bounce("failed", "4.4.1"), ("delayed", "4.4.1", "550 5.1.1 No such user")),
    ("delivered", bounce("delivered", "2.0.0", "smtp; 250 ok"), ("passed", "2.0.0", "250 ok")),
    ("relayed", bounce("relayed", "2.0.0", "smtp; 250 ok"), ("passed", "2.0.0", "250 ok")),
    ("Exchange", bounce("failed", "5.1.10", "smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found"),
     ("failed", "5.1.10", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found")),
    ("comments", bounce("Failed (bad)", "5.0.0 (permanent)"), ("failed", "5.0.0", "550 5.1.1 No such user")),
    ("no status", bounce("failed", "", "smtp; 552 5.2.2 full"), ("failed", "5.2.2", "552 5.2.2 full")),
    ("no code at all", bounce("failed", "", ""), ("failed", "", "")),
    ("another case", bounce("FAILED"), ("failed", "5.1.1", "550 5.1.1 No such user")),
    ("control characters", bounce(diagnostic="smtp; 550 \x1b[31mred\x07"), ("failed", "5.1.1", "550 [31mred")),
    ("a person", b"From: a@b\r\nSubject: stop this\r\n\r\nPlease stop. Action: failed\r\n", None),
    ("vacation", b"Auto-Submitted: auto-replied\r\nContent-Type: text/plain\r\n\r\nAway\r\n", None),
    ("nothing", b"", None),
    ("only what is quoted", bounce().replace(b"message/delivery-status", b"text/plain"), None),
    ("no recipient", bounce().replace(b"Action: failed\r\n", b""), None),
    ("cut off", bounce()[: bounce().index(b"Status:")], ("failed", "", "")),
]  # fmt: skip


@pytest.mark.parametrize(("octets", "expected"), [row[1:] for row in SAID], ids=[row[0] for row in SAID])
def test_what_a_bounce_says(octets: bytes, expected: tuple[str, str, str] | None) -> None:
    """Its fate, its status and why; everything else is no bounce."""
    if expected is None:
        with pytest.raises(dsn.NotABounceError):
            dsn.parse(octets)
    else:
        found = dsn.parse(octets)
        assert (found.fate.value, found.status, found.told) == expected


def test_the_worst_of_several_recipients_counts() -> None:
    """A list may be delivered to one and not to another."""
    text = bounce("delivered", "2.0.0").replace(
        b"\r\n\r\n--B/mail\r\nContent-Description: Und",
        b"\r\n\r\nFinal-Recipient: rfc822; b@a.example\r\nAction: failed\r\nStatus: 5.2.1\r\n\r\n"
        b"--B/mail\r\nContent-Description: Und",
    )
    assert dsn.parse(text).status == "5.2.1"


@given(st.binary(max_size=2000), st.integers(0, 1500))
def test_whatever_comes_is_a_bounce_or_is_none(octets: bytes, at: int) -> None:
    """Never another error."""
    for text in (octets, bounce()[:at] + octets + bounce()[at:], bounce()[:at] + octets):
        with contextlib.suppress(dsn.NotABounceError):
            dsn.parse(text)


def test_deeply_nested_parts_end() -> None:
    """A thousand levels of multipart are not a bounce, and take no time."""
    text = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(1000))
    with pytest.raises(dsn.NotABounceError):
        dsn.parse(text)


ADDRESSES: list[tuple[str, bool]] = [
    (dsn.sender(SENDER, report_id(DAY), 1), True),
    (dsn.sender(SENDER, report_id(DAY), 1).upper(), True),
    (dsn.sender(SENDER, report_id(DAY), 999), True),
    (SENDER, False),
    (dsn.sender("other@example.com", report_id(DAY), 1), False),
    (dsn.sender("noreply-tls-reports@example.net", report_id(DAY), 1), False),
    (dsn.sender(SENDER, report_id(DAY), 0), False),
    ("noreply-tls-reports+20261120.x.1@example.com", False),
    ("noreply-tls-reports+@example.com", False),
    ("", False),
]


@pytest.mark.parametrize(("address", "ours"), ADDRESSES)
def test_an_envelope_sender_leads_back_to_its_delivery(address: str, ours: bool) -> None:  # noqa: FBT001
    """In any case of letters; no other address does."""
    found = dsn.delivery(SENDER, address)
    assert (found is not None) is ours
    if found is not None:
        assert found[0] == report_id(DAY)
        assert len(address.partition("@")[0]) <= dsn.MAX_LOCAL


def sent(store: engine.Store, day: dt.date, target: str = "tls-reports@a.example", domain: str = "a.example") -> str:
    """Put a report into the store whose mail the relay took; return its id."""
    made = report_id(day, f"{abs(hash((day, domain, target))):024x}"[:24])
    identity = config.Identity(name="E", domain="example.com", contact="c@example.com", sender=SENDER)
    count = report.PolicyCount(session.Policy(session.PolicyType.NO_POLICY_FOUND, domain), 1, 0, ())
    packed = report.pack(report.document(identity, day, made, [count]))
    record = tlsrpt.parse_record(f"v=TLSRPTv1; rua=mailto:{target}")
    with store.write() as connection:
        reports.add(connection, [reports.Report(made, day, domain, NOW, 1, 0, packed)])
        deliveries.add(connection, [deliveries.Addressed(made, day, domain, [(record.rua[0], NOW)])])
        (one,) = deliveries.of_report(connection, made)
        deliveries.note(connection, one, NOW, outcome.Settled(outcome.State.DELIVERED, "250 ok"))
    return made


def came_back(store: engine.Store, report_id_: str, now: dt.datetime = NOW) -> str | None:
    """Note a bounce; return the address that is suppressed now."""
    return store.change(lambda connection: bounces.note(connection, report_id_, 1, now, "5.1.1 no"))


@pytest.mark.both_stores
def test_three_days_in_a_row_are_enough(store: engine.Store) -> None:
    """Not two, not three of which one was taken, not three of different addresses; the same bounce counts once."""
    ids = [sent(store, DAY + dt.timedelta(days=ago)) for ago in range(5)]
    sent(store, DAY + dt.timedelta(days=9), "other@a.example", "b.example")
    assert [came_back(store, ids[4]), came_back(store, ids[4]), came_back(store, ids[2])] == [None, None, None]
    assert came_back(store, ids[1]) is None
    assert came_back(store, ids[3]) == "tls-reports@a.example"
    with store.read() as connection:
        (one,) = suppressions.active(connection, NOW)
        rows = {row.report_id: row.bounce for row in listings.settled_deliveries(connection)}
    assert one.until == NOW + dt.timedelta(days=30)
    assert one.reason == "mails came back on 3 days in a row: 5.1.1 no"
    assert [rows[id_] for id_ in ids] == [None, "5.1.1 no", "5.1.1 no", "5.1.1 no", "5.1.1 no"]


@pytest.mark.both_stores
def test_what_a_person_suppressed_is_left_as_it_is(store: engine.Store) -> None:
    """For ever stays for ever."""
    ids = [sent(store, DAY + dt.timedelta(days=ago)) for ago in range(3)]
    with store.write() as connection:
        suppressions.add(connection, suppressions.Suppression("tls-reports@a.example", None, "asked", NOW))
    assert [came_back(store, id_) for id_ in ids] == [None, None, None]
    with store.read() as connection:
        assert [(row.until, row.reason) for row in suppressions.active(connection, NOW)] == [(None, "asked")]


@contextlib.asynccontextmanager
async def listening(store_url: str, path: pathlib.Path) -> AsyncIterator[int]:
    """Take bounces on a port of loopback and on a socket file."""
    taker = bouncing.Taker(SENDER, engine.Deferred(store_url), lambda: NOW)
    open_: set[bouncing.Protocol] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: bouncing.Protocol(taker, open_), "127.0.0.1", 0)
    unix = await loop.create_unix_server(lambda: bouncing.Protocol(taker, open_), str(path / "lmtp.sock"))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        unix.close()
        for one in tuple(open_):
            one.drop()
        taker.close()


def hand_in(port: int, recipient: str, octets: bytes) -> tuple[int, str]:
    """Hand a message in as a mail server does; return the last answer."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo()
        client.mail("")
        code, text = client.rcpt(recipient)
        if code == 250:
            code, text = client.data(octets)
        return code, text.decode()


def taking(tmp_path: pathlib.Path, work: Callable[[engine.Store, int, str], None]) -> None:
    """Run something against the listener and its store; one mail was sent."""

    async def within() -> None:
        url = f"sqlite:///{tmp_path}/tlsrpt.db"
        store = engine.open_store(url)
        address = dsn.sender(SENDER, sent(store, DAY), 1)
        async with listening(url, tmp_path) as port:
            await asyncio.to_thread(work, store, port, address)
        store.close()

    asyncio.run(within())


def noted(store: engine.Store) -> list[str | None]:
    """Return what is known of the deliveries."""
    with store.read() as connection:
        return [row.bounce for row in listings.settled_deliveries(connection)]


def test_a_bounce_comes_in_by_smtp(tmp_path: pathlib.Path) -> None:
    """It is in the store when it is answered; others are told that there is nobody, or are dropped."""

    def work(store: engine.Store, port: int, address: str) -> None:
        assert hand_in(port, SENDER, bounce())[0] == 550
        assert hand_in(port, dsn.sender(SENDER, report_id(DAY, "f" * 24), 1), bounce())[0] == 550
        assert hand_in(port, "postmaster@example.com", bounce())[0] == 550
        assert hand_in(port, address, b"Subject: away\r\n\r\nback soon\r\n") == (250, "2.0.0 Dropped")
        assert hand_in(port, address, bounce("delayed", "4.4.1")) == (250, "2.0.0 Noted")
        assert noted(store) == [None]
        assert hand_in(port, address, bounce())[0] == 250
        assert noted(store) == ["5.1.1 550 5.1.1 No such user"]
        assert hand_in(port, address, bounce(diagnostic="smtp; 550 again"))[0] == 250
        assert noted(store) == ["5.1.1 550 5.1.1 No such user"]
        assert hand_in(port, address, bounce() + b"padding\r\n" * (bouncing.MAX_MESSAGE // 9))[0] == 552

    taking(tmp_path, work)


def test_a_bounce_comes_in_by_lmtp(tmp_path: pathlib.Path) -> None:
    """On a socket file; a second recipient has to wait for his turn."""

    def work(store: engine.Store, _port: int, address: str) -> None:
        with smtplib.LMTP(str(tmp_path / "lmtp.sock")) as client:
            client.ehlo()
            client.mail("<>")
            assert client.rcpt(address)[0] == 250
            assert client.rcpt(address)[0] == 452
            assert client.data(bounce())[0] == 250
        assert noted(store) == ["5.1.1 550 5.1.1 No such user"]

    taking(tmp_path, work)


def test_while_the_store_is_away_bounces_are_put_off(tmp_path: pathlib.Path) -> None:
    """The mail server keeps them, and they count once it is back."""

    async def within() -> None:
        url = f"sqlite:///{tmp_path}/tlsrpt.db"
        store = engine.open_store(url)
        address = dsn.sender(SENDER, sent(store, DAY), 1)
        store.close()
        (tmp_path / "tlsrpt.db").rename(tmp_path / "away.db")
        (tmp_path / "tlsrpt.db").mkdir()
        async with listening(url, tmp_path) as port:
            assert (await asyncio.to_thread(hand_in, port, address, bounce()))[0] == 451
            (tmp_path / "tlsrpt.db").rmdir()
            (tmp_path / "away.db").rename(tmp_path / "tlsrpt.db")
            assert (await asyncio.to_thread(hand_in, port, address, bounce()))[0] == 250
        store = engine.open_store(url)
        assert noted(store) == ["5.1.1 550 5.1.1 No such user"]
        store.close()

    asyncio.run(within())


def test_idle_connections_are_bounded(tmp_path: pathlib.Path) -> None:
    """Those beyond are told to come back, and when some have gone there is room again."""

    def work(_store: engine.Store, port: int, address: str) -> None:
        idle = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(bouncing.CONNECTIONS)]
        greetings = [one.recv(3) for one in idle]
        assert greetings == [b"220"] * bouncing.CONNECTIONS
        with socket.create_connection(("127.0.0.1", port), 30) as one:
            assert one.recv(3) == b"421"
        for other in idle:
            other.close()
        while hand_in_or_none(port, address) is None:
            pass

    def hand_in_or_none(port: int, address: str) -> int | None:
        with contextlib.suppress(smtplib.SMTPException, OSError):
            return hand_in(port, address, bounce())[0]
        return None

    taking(tmp_path, work)


def test_reports_go_out_with_senders_of_their_own_and_stop_after_three_days(
    tmp_path: pathlib.Path, serve: Callable[..., object]
) -> None:
    """The real ``tlsrpt serve``: its mails take bounces, and then the address gets no more."""

    async def within() -> None:
        async with internet.start(tmp_path, ()) as net:
            net.zone.put("_smtp._tls.a.example", zone.Txt("v=TLSRPTv1; rua=mailto:dead@a.example"))
            path = tmp_path / "tlsrpt.toml"
            port = website.free_port()
            path.write_text(f'{net.config_text()}[bounces]\nlisten = "inet:127.0.0.1:{port}"\n')
            store = engine.open_store(config.load(path, {}).store.url)
            today = dt.datetime.now(dt.UTC).date()
            for ago in (1, 2, 3):
                stored.count(store, today - dt.timedelta(days=ago), [website.datagram("a.example")])
            served: object = serve("--config", str(path))
            await asyncio.to_thread(served.wait_for, "delivery", 3)  # type: ignore[attr-defined]
            senders = [one.sender for one in net.mail.mailbox.messages]
            assert len({*senders}) == 3
            for sender in senders:
                assert (await asyncio.to_thread(hand_in, port, sender, bounce()))[0] == 250
            assert served.wait_for("an address gets no more reports")  # type: ignore[attr-defined]
            assert served.end() == 0  # type: ignore[attr-defined]
            with store.read() as connection:
                (one,) = suppressions.active(connection, dt.datetime.now(dt.UTC))
            assert one.target == "dead@a.example"
            assert noted(store) == ["5.1.1 550 5.1.1 No such user"] * 3
            store.close()

    asyncio.run(within())


TOO_LONG = 'sender = "a-very-long-name-for-reports@example.com"'


def test_a_sender_that_leaves_no_room_for_a_tag_is_told() -> None:
    """RFC 5321 allows 64 octets before the @."""
    from sender import daily  # noqa: PLC0415 - imports what few tests here need

    text = (
        '[organization]\ndomain = "example.com"\ncontact = "c@example.com"\n[bounces]\nlisten = "inet:127.0.0.1:8462"\n'
    )
    daily.check(config.parse(text, {}))
    with pytest.raises(config.ConfigError, match=r"mail\.sender = .a-very-long"):
        daily.check(config.parse(f"{text}[mail]\n{TOO_LONG}\n", {}))
