"""``sender.mail``: real SMTP servers on loopback that accept, refuse, defer, drop, stall, and speak TLS."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd import smtp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sender import config, mail, outcome

SENDER = "noreply-tls-reports@example.com"
MESSAGE = b"Subject: x\r\n\r\n.a line with a dot\r\n" + b"y" * 900 + b"\r\n\r\n\r\nlast\r\n"
QUICK = mail.Timeouts(connect=5, command=5, data=5)
IMPATIENT = mail.Timeouts(connect=5, command=0.5, data=5)


class Postbox:
    """An aiosmtpd handler: answers as the local part of the recipient asks for, and keeps what it accepts."""

    def __init__(self) -> None:
        """Start empty."""
        self.connects = 0
        self.heard: list[str] = []
        self.messages: list[tuple[str | None, list[str], bytes]] = []

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's names
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        """Note the name."""
        self.heard.append(hostname)
        session.host_name = hostname
        return responses

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's names
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Answer with the code that the local part starts with."""
        code = address[:3]
        if address.startswith("stall"):
            await asyncio.Event().wait()
        if code == "421":
            server.transport.write(b"421 4.3.2 shutting down\r\n")
            server.transport.close()
        elif code.isdigit():
            return f"{code} as asked"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's names
        """Keep the message, or not."""
        [recipient] = envelope.rcpt_tos
        if recipient.startswith("drop"):
            server.transport.abort()
        if recipient.startswith("spam"):
            return "554 5.7.1 looks like spam"
        if recipient.startswith("busy"):
            return "451 4.3.0 try again"
        self.messages.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return "250 2.0.0 queued as 4711"


@contextlib.asynccontextmanager
async def serving(postbox: Postbox, *, implicit: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """Run an aiosmtpd server for a while; yields its port."""
    loop = asyncio.get_running_loop()

    def accept() -> smtp.SMTP:
        postbox.connects += 1
        return smtp.SMTP(postbox, loop=loop, hostname="relay.test", **options)

    server = await loop.create_server(accept, "127.0.0.1", 0, ssl=implicit)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


Script = dict[str, bytes | None]
"""What a server says to each verb; "" is the greeting, "." the end of a message, ``None`` nothing at all."""

POLITE: Script = {
    "": b"220 relay.test\r\n",
    "EHLO": b"250 relay.test\r\n",
    "MAIL": b"250 ok\r\n",
    "RCPT": b"250 ok\r\n",
    "DATA": b"354 go on\r\n",
    ".": b"250 queued\r\n",
    "RSET": b"250 ok\r\n",
    "QUIT": b"221 bye\r\n",
}


@contextlib.asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[tuple[int, list[str]]]:
    """Run a server that says what a script tells it, right or wrong; yields its port and the verbs it hears."""
    heard: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append("connect")
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            if (greeting := script[""]) is not None:
                writer.write(greeting)
            content = False
            while line := await reader.readline():
                verb = line.split()[0].decode().upper() if line.strip() else ""
                if content and line != b".\r\n":
                    continue
                heard.append(verb)
                content = False
                if (reply := script.get(verb, b"500 what?\r\n")) is None:
                    continue
                writer.write(reply)
                content = verb == "DATA" and reply.startswith(b"354")

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


def _relay(port: int, tls: mail.Tls = mail.Tls.OPPORTUNISTIC, *login: str) -> mail.Relay:
    return mail.Relay("127.0.0.1", port, tls, *login)


def _connection(relay: mail.Relay, ca_file: str = "", timeouts: mail.Timeouts = QUICK) -> mail.Connection:
    return mail.Connection(relay, "reports.example.com", ca_file=ca_file, timeouts=timeouts)


async def _send(connection: mail.Connection, *recipients: str) -> list[outcome.Outcome]:
    return [await connection.send(SENDER, f"{recipient}@example.net", MESSAGE) for recipient in recipients]


def _with_postbox(use: Callable[[mail.Connection, Postbox], Awaitable[None]], **options: Any) -> Postbox:
    """Run a test with a connection to a Postbox; returns it for a look at what arrived."""
    timeouts = options.pop("timeouts", QUICK)
    postbox = Postbox()

    async def main() -> None:
        async with serving(postbox, **options) as port, _connection(_relay(port), timeouts=timeouts) as connection:
            await use(connection, postbox)

    asyncio.run(main())
    return postbox


def test_message_arrives_byte_for_byte() -> None:
    """Dots, long lines and empty lines at the end survive; the server's answer is kept."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        assert await _send(connection, "a") == [outcome.Delivered("250 2.0.0 queued as 4711")]

    postbox = _with_postbox(use)
    assert postbox.messages == [(SENDER, ["a@example.net"], MESSAGE)]
    assert postbox.heard == ["reports.example.com"]


def test_many_messages_use_one_connection() -> None:
    """Accepted, refused and deferred messages follow each other without a new connection."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        assert [type(result) for result in await _send(connection, "a", "550", "b", "spam", "450", "busy", "c")] == [
            outcome.Delivered,
            outcome.Refused,
            outcome.Delivered,
            outcome.Refused,
            outcome.Deferred,
            outcome.Deferred,
            outcome.Delivered,
        ]

    postbox = _with_postbox(use)
    assert postbox.connects == 1
    assert [recipients for _, recipients, _ in postbox.messages] == [
        ["a@example.net"],
        ["b@example.net"],
        ["c@example.net"],
    ]


def test_connection_is_renewed_after_a_hundred_messages() -> None:
    """Servers close connections that last too long; the 101st message starts a second one."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        results = await _send(connection, *(["a"] * (mail.MAX_MESSAGES + 1)))
        assert all(isinstance(result, outcome.Delivered) for result in results)

    assert _with_postbox(use).connects == 2


def test_messages_sent_at_once_do_not_mix() -> None:
    """Concurrent callers wait for each other."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        await asyncio.gather(*(_send(connection, f"a{number}") for number in range(5)))

    postbox = _with_postbox(use)
    assert postbox.connects == 1
    assert [recipients for _, recipients, _ in postbox.messages] == [[f"a{number}@example.net"] for number in range(5)]


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        ("550", outcome.Refused("550 as asked")),
        ("450", outcome.Deferred("450 as asked")),
        ("spam", outcome.Refused("554 5.7.1 looks like spam")),
        ("busy", outcome.Deferred("451 4.3.0 try again")),
    ],
)
def test_answers_about_the_recipient_are_told_as_they_are(recipient: str, expected: outcome.Outcome) -> None:
    """5xx is final, 4xx is not, at RCPT as after the message."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        assert await _send(connection, recipient) == [expected]

    assert _with_postbox(use).messages == []


@pytest.mark.parametrize(
    ("recipient", "expected"),
    [
        pytest.param("421", "421 4.3.2 shutting down", id="421"),
        pytest.param("drop", "our relay 127.0.0.1:PORT failed in the middle of a message: ", id="dropped"),
        pytest.param("stall", "our relay 127.0.0.1:PORT failed in the middle of a message: Timed out", id="time-out"),
    ],
)
def test_lost_connection_defers_one_message_only(recipient: str, expected: str) -> None:
    """The message in the air is deferred, the next one goes over a new connection."""

    async def use(connection: mail.Connection, postbox: Postbox) -> None:
        first, lost, next_one = await _send(connection, "a", recipient, "b")
        assert isinstance(first, outcome.Delivered)
        assert isinstance(next_one, outcome.Delivered)
        assert isinstance(lost, outcome.Deferred)
        assert lost.answer.startswith(expected.replace("PORT", str(connection._relay.port)))

    assert _with_postbox(use, timeouts=IMPATIENT).connects == 2


def test_relay_that_keeps_timing_out_is_left_alone() -> None:
    """After three time-outs in a row the rest is deferred at once."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        results = await _send(connection, *(["stall"] * mail.MAX_TIMEOUTS), "a", "b")
        assert len(set(results)) == 1
        assert isinstance(results[0], outcome.Deferred)

    postbox = _with_postbox(use, timeouts=IMPATIENT)
    assert postbox.connects == mail.MAX_TIMEOUTS
    assert postbox.messages == []


def test_idle_connection_that_the_server_closed_is_opened_again() -> None:
    """Deliveries are spread over hours; the server's impatience between two costs nothing."""

    async def use(connection: mail.Connection, postbox: Postbox) -> None:
        await _send(connection, "a")
        while connection._client is not None and connection._client.is_connected:  # noqa: ASYNC110 - it tells no event
            await asyncio.sleep(0.01)
        assert isinstance((await _send(connection, "b"))[0], outcome.Delivered)

    assert _with_postbox(use, timeout=0.3).connects == 2


def test_cancelled_message_does_not_spoil_the_next() -> None:
    """Whoever gives up waiting leaves a connection in the middle of a command; it is not used again."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_send(connection, "stall"), 0.2)
        assert isinstance((await _send(connection, "b"))[0], outcome.Delivered)

    assert _with_postbox(use).connects == 2


def _to_script(
    script: Script, *recipients: str, timeouts: mail.Timeouts = QUICK
) -> tuple[list[outcome.Outcome], list[str]]:
    async def main() -> tuple[list[outcome.Outcome], list[str]]:
        async with scripted(script) as (port, heard):
            async with _connection(_relay(port), timeouts=timeouts) as connection:
                results = await _send(connection, *recipients)
            return [_without_port(result, port) for result in results], heard

    return asyncio.run(main())


def _without_port(result: outcome.Outcome, port: int) -> outcome.Outcome:
    return dataclasses.replace(result, answer=result.answer.replace(f"127.0.0.1:{port}", "RELAY"))


@pytest.mark.parametrize(
    ("verb", "reply", "answer"),
    [
        pytest.param("", b"554 go away\r\n", "cannot be used: 554 go away", id="greeting-554"),
        pytest.param("", b"421 too busy\r\n", "cannot be used: 421 too busy", id="greeting-421"),
        pytest.param("", b"SSH-2.0-OpenSSH_9.2\r\n", "cannot be used: -1 Malformed", id="not-smtp"),
        pytest.param("", b"2" * 100_000, "cannot be used: -1 Response too long", id="endless-line"),
        pytest.param("", None, "cannot be used: Timed out waiting", id="silent"),
        pytest.param("EHLO", b"550 not you\r\n", "cannot be used: ", id="ehlo-550"),
        pytest.param("EHLO", b"250-relay.test\r\n250 STARTTLS\r\n", "cannot be used: 500 what?", id="starttls-500"),
    ],
)
def test_trouble_before_mail_is_the_relays_and_told_once(verb: str, reply: bytes | None, answer: str) -> None:
    """Even a 5xx there says nothing about the recipient; a relay that fails is not asked for each message again."""
    results, heard = _to_script({**POLITE, verb: reply}, "a", "b", "c", timeouts=mail.Timeouts(1, 1, 1))
    assert heard.count("connect") == 1
    assert len(set(results)) == 1
    assert isinstance(results[0], outcome.Deferred)
    assert results[0].answer.startswith(f"our relay RELAY {answer}")


@pytest.mark.parametrize(
    ("verb", "reply", "expected", "is_kept"),
    [
        pytest.param("MAIL", b"550 no\r\n", outcome.Refused("550 no"), True, id="mail-550"),
        pytest.param("MAIL", b"451 later\r\n", outcome.Deferred("451 later"), True, id="mail-451"),
        pytest.param(
            "MAIL",
            b"530 log in first\r\n",
            outcome.Deferred("our relay RELAY does not let us in: 530 log in first"),
            True,
            id="mail-530",
        ),
        pytest.param(
            "MAIL",
            b"235 what\r\n",
            outcome.Deferred("our relay RELAY gave an unexpected answer: 235 what"),
            False,
            id="mail-235",
        ),
        pytest.param("RCPT", b"550-no\r\n550 way\r\n", outcome.Refused("550 no way"), True, id="rcpt-two-lines"),
        pytest.param(
            "DATA", b"554 no valid recipients\r\n", outcome.Refused("554 no valid recipients"), True, id="data-554"
        ),
        pytest.param(
            "DATA",
            b"250 ok\r\n",
            outcome.Deferred("our relay RELAY gave an unexpected answer: 250 ok"),
            False,
            id="data-250-is-no-delivery",
        ),
        pytest.param(".", b"421 closing\r\n", outcome.Deferred("421 closing"), False, id="end-421"),
        pytest.param(
            ".",
            b"nonsense\r\n",
            outcome.Deferred("-1 Malformed SMTP response line: nonsense"),
            False,
            id="end-nonsense",
        ),
        pytest.param(".", b"550 \x1b[31m\xff!\r\n", outcome.Refused("550 [31m !"), True, id="end-unprintable"),
    ],
)
def test_each_reply_is_understood(verb: str, reply: bytes, expected: outcome.Outcome, *, is_kept: bool) -> None:
    """Where the reply leaves no doubt the connection is kept (after RSET), else a new one is opened."""
    results, heard = _to_script({**POLITE, verb: reply}, "a", "a")
    assert results == [expected, expected]
    assert heard.count("connect") == (1 if is_kept else 2)
    assert heard.count("RSET") == (2 if is_kept else 0)


def test_rset_that_fails_costs_a_connection_only() -> None:
    """The answer about the recipient stands."""
    results, heard = _to_script({**POLITE, "RCPT": b"550 no\r\n", "RSET": b"500 what?\r\n"}, "a", "a")
    assert results == [outcome.Refused("550 no")] * 2
    assert heard.count("connect") == 2


def test_size_is_announced_when_the_relay_wants_it() -> None:
    """RFC 1870: too large a message is refused before it is sent."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        [result] = await _send(connection, "a")
        assert isinstance(result, outcome.Refused)
        assert result.answer.startswith("552")

    _with_postbox(use, data_size_limit=100)


def test_nobody_listens() -> None:
    """A closed port defers, and is tried once."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        async def main() -> list[outcome.Outcome]:
            async with _connection(_relay(port)) as connection:
                return await _send(connection, "a", "b")

        first, second = asyncio.run(main())
    assert isinstance(first, outcome.Deferred)
    assert first is second
    assert f"our relay 127.0.0.1:{port} cannot be used: " in first.answer


def test_host_name_that_is_none() -> None:
    """A name that no resolver can be asked for defers as well."""

    async def main() -> list[outcome.Outcome]:
        async with _connection(mail.Relay(f"{'x' * 64}.invalid", 25, mail.Tls.NEVER)) as connection:
            return await _send(connection, "a")

    assert isinstance(asyncio.run(main())[0], outcome.Deferred)


@pytest.mark.parametrize(
    "address", ["", "a", "a b@example.net", "a@example.net> SIZE=1", "a@b\r\nRSET", "a,b@c.example"]
)
def test_address_that_is_none_never_reaches_the_relay(address: str) -> None:
    """It is refused; nothing of it is sent."""

    async def use(connection: mail.Connection, _: Postbox) -> None:
        assert isinstance(await connection.send(SENDER, address, MESSAGE), outcome.Refused)

    assert _with_postbox(use).connects == 0


@dataclasses.dataclass(frozen=True)
class Certificates:
    """A CA of our own and a server certificate for 127.0.0.1."""

    ca_file: str
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make the CA and the certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=30))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    ca_file.write_bytes(build(ca_name, ca_key.public_key(), x509.BasicConstraints(ca=True, path_length=None)))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server_file.write_bytes(pem + build(x509.Name([]), key.public_key(), x509.SubjectAlternativeName([address])))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server_file)
    return Certificates(str(ca_file), context)


def _over_tls(
    tls: mail.Tls, ca_file: str, *login: str, implicit: ssl.SSLContext | None = None, **options: Any
) -> tuple[outcome.Outcome, Postbox]:
    postbox = Postbox()

    async def main() -> outcome.Outcome:
        async with serving(postbox, implicit=implicit, **options) as port:
            async with _connection(_relay(port, tls, *login), ca_file) as connection:
                [result] = await _send(connection, "a")
            return _without_port(result, port)

    return asyncio.run(main()), postbox


def test_required_tls_is_verified_with_the_given_ca(certificates: Certificates) -> None:
    """STARTTLS with a certificate of a CA in https.ca_file."""
    result, postbox = _over_tls(
        mail.Tls.REQUIRE, certificates.ca_file, tls_context=certificates.context, require_starttls=True
    )
    assert isinstance(result, outcome.Delivered)
    assert postbox.heard == ["reports.example.com"] * 2  # EHLO again inside TLS


def test_implicit_tls_is_verified_with_the_given_ca(certificates: Certificates) -> None:
    """smtps:// with the same."""
    result, _ = _over_tls(mail.Tls.IMPLICIT, certificates.ca_file, implicit=certificates.context)
    assert isinstance(result, outcome.Delivered)


def test_opportunistic_tls_takes_any_certificate(certificates: Certificates) -> None:
    """A relay with a certificate nobody knows is better than no TLS."""
    result, postbox = _over_tls(mail.Tls.OPPORTUNISTIC, "", tls_context=certificates.context, require_starttls=True)
    assert isinstance(result, outcome.Delivered)
    assert len(postbox.heard) == 2


def test_tls_is_not_used_when_it_is_forbidden(certificates: Certificates) -> None:
    """?starttls=never ignores the offer."""
    result, postbox = _over_tls(mail.Tls.NEVER, "", tls_context=certificates.context)
    assert isinstance(result, outcome.Delivered)
    assert len(postbox.heard) == 1


@pytest.mark.parametrize("tls", [mail.Tls.REQUIRE, mail.Tls.IMPLICIT])
def test_unknown_certificate_is_not_accepted_where_tls_is_required(certificates: Certificates, tls: mail.Tls) -> None:
    """Without the CA the certificate means nothing: deferred, and the message is not sent."""
    options: dict[str, Any] = (
        {"implicit": certificates.context} if tls is mail.Tls.IMPLICIT else {"tls_context": certificates.context}
    )
    result, postbox = _over_tls(tls, "", **options)
    assert isinstance(result, outcome.Deferred)
    assert result.answer.startswith("our relay RELAY cannot be used: ")
    assert "certificate verify failed" in result.answer.lower()
    assert postbox.messages == []


def test_certificate_of_another_host_is_not_accepted(certificates: Certificates) -> None:
    """The right CA is not enough: the name in mail.relay must stand in the certificate."""
    postbox = Postbox()

    async def main() -> list[outcome.Outcome]:
        async with serving(postbox, tls_context=certificates.context) as port:
            relay = mail.Relay("localhost", port, mail.Tls.REQUIRE)
            async with _connection(relay, certificates.ca_file) as connection:
                return await _send(connection, "a")

    [result] = asyncio.run(main())
    assert isinstance(result, outcome.Deferred)
    assert "mismatch" in result.answer
    assert postbox.messages == []


def test_required_starttls_that_is_not_offered_defers() -> None:
    """Nothing is sent in the clear that must not be."""
    result, postbox = _over_tls(mail.Tls.REQUIRE, "")
    assert isinstance(result, outcome.Deferred)
    assert "STARTTLS" in result.answer
    assert postbox.messages == []


def test_ca_file_that_is_none_defers(tmp_path: Path) -> None:
    """It is told; no exception comes out of a delivery."""
    result, _ = _over_tls(mail.Tls.REQUIRE, str(tmp_path / "missing.pem"))
    assert isinstance(result, outcome.Deferred)
    assert 'https.ca_file = "' in result.answer


def _authenticator(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> smtp.AuthResult:
    is_right = (data.login, data.password) == (b"us\xc3\xa9r", b"p:@/ w")
    return smtp.AuthResult(success=is_right, handled=False)


LOGIN_OPTIONS: dict[str, Any] = {"authenticator": _authenticator, "auth_required": True}


def test_login_over_tls(certificates: Certificates) -> None:
    """User and password of mail.relay are told inside TLS."""
    result, postbox = _over_tls(
        mail.Tls.REQUIRE, certificates.ca_file, "usér", "p:@/ w", tls_context=certificates.context, **LOGIN_OPTIONS
    )
    assert isinstance(result, outcome.Delivered)
    assert len(postbox.messages) == 1


@pytest.mark.parametrize(
    ("login", "answer"),
    [
        pytest.param(("usér", "wrong"), "our relay RELAY cannot be used: 535 ", id="wrong-password"),
        pytest.param((), "our relay RELAY does not let us in: 530 ", id="no-login"),
    ],
)
def test_failed_login_defers_and_does_not_tell_the_password(
    certificates: Certificates, login: tuple[str, ...], answer: str
) -> None:
    """A login that does not work is our fault, not the recipient's."""
    result, _ = _over_tls(
        mail.Tls.REQUIRE, certificates.ca_file, *login, tls_context=certificates.context, **LOGIN_OPTIONS
    )
    assert isinstance(result, outcome.Deferred)
    assert result.answer.startswith(answer)
    assert "wrong" not in result.answer


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://127.0.0.1", mail.Relay("127.0.0.1", 25, mail.Tls.OPPORTUNISTIC)),
        ("smtp://Relay.Example:587/", mail.Relay("relay.example", 587, mail.Tls.OPPORTUNISTIC)),
        ("SMTP://relay.example", mail.Relay("relay.example", 25, mail.Tls.OPPORTUNISTIC)),
        ("smtp://[2001:db8::25]:2525", mail.Relay("2001:db8::25", 2525, mail.Tls.OPPORTUNISTIC)),
        ("smtps://relay.example", mail.Relay("relay.example", 465, mail.Tls.IMPLICIT)),
        ("smtps://u:p@relay.example:1465", mail.Relay("relay.example", 1465, mail.Tls.IMPLICIT, "u", "p")),
        ("smtp://r.example?starttls=never", mail.Relay("r.example", 25, mail.Tls.NEVER)),
        ("smtp://r.example?starttls=opportunistic", mail.Relay("r.example", 25, mail.Tls.OPPORTUNISTIC)),
        ("smtp://r.example:25/?starttls=require", mail.Relay("r.example", 25, mail.Tls.REQUIRE)),
        ("smtp://u%40x:p%3A%2F%25@r.example", mail.Relay("r.example", 25, mail.Tls.REQUIRE, "u@x", "p:/%")),
        ("smtp://u:p@127.0.0.1", mail.Relay("127.0.0.1", 25, mail.Tls.OPPORTUNISTIC, "u", "p")),
        ("smtp://u:p@[::1]", mail.Relay("::1", 25, mail.Tls.OPPORTUNISTIC, "u", "p")),
        ("smtp://u:p@localhost", mail.Relay("localhost", 25, mail.Tls.OPPORTUNISTIC, "u", "p")),
        ("smtp://u:p@r.example?starttls=never", mail.Relay("r.example", 25, mail.Tls.NEVER, "u", "p")),
    ],
)
def test_relay_is_read(url: str, expected: mail.Relay) -> None:
    """Defaults: port 25 or 465; STARTTLS is required where a password would cross a network."""
    assert mail.parse_relay(url) == expected


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("", "write smtp://"),
        ("127.0.0.1:25", "write smtp://"),
        ("lmtp://127.0.0.1", "write smtp://"),
        ("smtp://", "write smtp://"),
        ("smtp://:25", "write smtp://"),
        ("smtp://r.example:0", "write smtp://"),
        ("smtp://r.example:65536", "write smtp://"),
        ("smtp://r.example:smtp", "write smtp://"),
        ("smtp://[2001:db8::25", "brackets"),
        ("smtp://2001:db8::25", "brackets"),
        ("smtp://r.example/path", "remove what follows"),
        ("smtp://r.example#x", "remove what follows"),
        ("smtp://user@r.example", "user and password"),
        ("smtp://:secret@r.example", "user and password"),
        ("smtp://user:sec/secret@r.example", "%XX"),
        ("smtp://user:25/secret@r.example", "%XX"),
        ("smtp://user:secret#secret@r.example", "%XX"),
        ("smtp://user:secret@r.example:x", "write smtp://"),
        ("user:secret@r.example", "write smtp://"),
        ("smtp://r.example?starttls=", "?starttls=require"),
        ("smtp://r.example?starttls=implicit", "?starttls=require"),
        ("smtp://r.example?starttls=yes", "?starttls=require"),
        ("smtp://r.example?tls=yes", "the only option is starttls"),
        ("smtp://r.example?starttls=never&x=1", "the only option is starttls"),
        ("smtps://r.example?starttls=require", "smtps:// has no STARTTLS"),
    ],
)
def test_wrong_relay_is_told_without_its_password(url: str, cure: str) -> None:
    """One line: the key, the value and the cure."""
    with pytest.raises(config.ConfigError) as caught:
        mail.parse_relay(url)
    text = str(caught.value)
    assert text.startswith('mail.relay = "')
    assert cure in text
    assert "secret" not in text.replace("user and password", "")
    assert "\n" not in text


def test_password_is_not_shown() -> None:
    """A relay that ends up in a log does not tell its secret."""
    relay = mail.parse_relay("smtp://user:secret@[::1]")
    assert "secret" not in repr(relay)
    assert str(relay) == "[::1]:25"
