"""The receivers of reports do as they are programmed: real SMTP and HTTPS on loopback."""

import asyncio
import contextlib
import time

import aiohttp
import aiosmtplib
import pytest

from sender.demo import certificates, mailbox, receivers, smtp

MESSAGE = b"Subject: x\r\n\r\n.dot at the start\r\nbody\r\n"
AT = "reports@a.example"

REPLIES = [
    ("accepted", mailbox.Stage.RCPT, mailbox.Reply(250), 250),
    ("service-closing", mailbox.Stage.RCPT, mailbox.Reply(421), 421),
    ("greylisted", mailbox.Stage.RCPT, mailbox.Reply(450), 450),
    ("refused", mailbox.Stage.RCPT, mailbox.Reply(550, "5.1.1 no such user"), 550),
    ("refused-after-data", mailbox.Stage.DATA, mailbox.Reply(554), 554),
    ("later-after-data", mailbox.Stage.DATA, mailbox.Reply(451), 451),
]

BREAKS = [
    ("drop-at-rcpt", mailbox.Stage.RCPT, mailbox.Drop(), aiosmtplib.SMTPServerDisconnected),
    ("drop-after-data", mailbox.Stage.DATA, mailbox.Drop(), aiosmtplib.SMTPServerDisconnected),
    ("silent-at-rcpt", mailbox.Stage.RCPT, mailbox.Silent(), aiosmtplib.SMTPReadTimeoutError),
    ("silent-after-data", mailbox.Stage.DATA, mailbox.Silent(), aiosmtplib.SMTPReadTimeoutError),
]


async def _code(server: smtp.Server, address: str = AT) -> int:
    """Send a message; return the last code."""
    mail = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, start_tls=False, timeout=5)
    async with mail:
        await mail.mail("s@sender.example")
        try:
            await mail.rcpt(address)
            return (await mail.data(MESSAGE)).code
        except aiosmtplib.SMTPResponseException as error:
            return error.code


@pytest.mark.parametrize(("stage", "reply", "code"), [case[1:] for case in REPLIES], ids=[case[0] for case in REPLIES])
def test_mail_is_answered_as_programmed_and_then_accepted(
    stage: mailbox.Stage, reply: mailbox.Reply, code: int
) -> None:
    """A programmed reply is used once and for its address only."""

    async def send() -> tuple[list[int], receivers.MailReceiver]:
        async with receivers.MailReceiver() as server:
            server.mailbox.program(AT, reply, stage=stage)
            codes = [await _code(server, "other@a.example"), await _code(server), await _code(server)]
        return codes, server

    codes, server = asyncio.run(send())
    assert codes == [250, code, 250]
    assert len(server.mailbox.messages) == 2 + (code == 250)
    assert [seen.address for seen in server.mailbox.recipients] == ["other@a.example", AT, AT]
    if stage is mailbox.Stage.RCPT:
        assert server.mailbox.recipients[1].answer == reply


@pytest.mark.parametrize(("stage", "answer", "error"), [case[1:] for case in BREAKS], ids=[case[0] for case in BREAKS])
def test_mail_connections_break_or_fall_silent(
    stage: mailbox.Stage, answer: mailbox.Answer, error: type[Exception]
) -> None:
    """The client sees a lost connection or a time-out, and nothing is kept."""

    async def send() -> receivers.MailReceiver:
        async with receivers.MailReceiver() as server:
            server.mailbox.program(AT, answer, stage=stage)
            mail = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, start_tls=False, timeout=0.3)
            await mail.connect()
            await mail.mail("s@sender.example")
            if stage is mailbox.Stage.DATA:
                await mail.rcpt(AT)
            with pytest.raises(error):
                await (mail.data(MESSAGE) if stage is mailbox.Stage.DATA else mail.rcpt(AT))
            mail.close()
        return server

    assert not asyncio.run(send()).mailbox.messages


def test_421_closes_the_connection() -> None:
    """After 421 the server hangs up (RFC 5321 section 3.8)."""

    async def send() -> bytes:
        async with receivers.MailReceiver() as server:
            server.mailbox.program(AT, mailbox.Reply(421))
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<" + AT.encode() + b">\r\n")
            said = await reader.read()  # until the server hangs up
            writer.close()
            return said

    assert asyncio.run(send()).endswith(b"421 as programmed\r\n")


def test_a_message_is_kept_as_it_came() -> None:
    """Envelope, octets and encryption of a message are kept, with the time."""

    async def send() -> mailbox.Message:
        authority = certificates.Authority()
        async with receivers.MailReceiver(authority) as server:
            context = authority.client_context()
            mail = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, start_tls=True, tls_context=context)
            async with mail:
                await mail.sendmail("s@sender.example", [AT, "b@a.example"], MESSAGE)
            return server.mailbox.messages[0]

    message = asyncio.run(send())
    assert (message.sender, message.recipients, message.tls) == ("s@sender.example", (AT, "b@a.example"), True)
    assert message.content == MESSAGE
    assert abs(message.arrived.timestamp() - time.time()) < 60


LOGINS = [("right", "secret", True), ("wrong", "guess", False)]


@pytest.mark.parametrize(("password", "works"), [case[1:] for case in LOGINS], ids=[case[0] for case in LOGINS])
def test_a_relay_with_login_over_implicit_tls(password: str, *, works: bool) -> None:
    """Only who knows the password may send."""

    async def send() -> tuple[str, receivers.MailReceiver]:
        authority = certificates.Authority()
        login = smtp.Login("user", "secret")
        async with receivers.MailReceiver(authority, implicit_tls=True, login=login) as server:
            context = authority.client_context()
            mail = aiosmtplib.SMTP(hostname="127.0.0.1", port=server.port, use_tls=True, tls_context=context)
            async with mail:
                try:
                    await mail.login("user", password)
                except aiosmtplib.SMTPAuthenticationError:
                    said = "no"
                else:
                    said = "yes"
                with contextlib.suppress(aiosmtplib.SMTPResponseException):
                    await mail.sendmail("s@sender.example", [AT], MESSAGE)
        return said, server

    said, server = asyncio.run(send())
    assert said == ("yes" if works else "no")
    assert [message.tls for message in server.mailbox.messages] == ([True] if works else [])


STATUSES = [
    ("ok", receivers.Status(200, body=b"thanks")),
    ("redirect", receivers.Status(302, (("Location", "https://elsewhere.example/"),))),
    ("bad-request", receivers.Status(400)),
    ("not-found", receivers.Status(404)),
    ("too-many", receivers.Status(429, (("Retry-After", "120"),))),
    ("broken", receivers.Status(500)),
]


def _receiver(authority: certificates.Authority) -> receivers.HttpsReceiver:
    return receivers.HttpsReceiver(certificates.server_context(authority.issue(("127.0.0.1",))))


@pytest.mark.parametrize("status", [case[1] for case in STATUSES], ids=[case[0] for case in STATUSES])
def test_https_answers_as_programmed_and_then_with_201(status: receivers.Status) -> None:
    """A programmed answer is given once and for its path only; headers and body are those of the program."""

    async def post() -> tuple[list[tuple[int, dict[str, str], bytes]], receivers.HttpsReceiver]:
        authority = certificates.Authority()
        answers = []
        async with _receiver(authority) as server, aiohttp.ClientSession() as web:
            server.program("/tlsrpt?x=1", status)
            for path in ("/other", "/tlsrpt?x=1", "/tlsrpt?x=1"):
                url = f"https://127.0.0.1:{server.port}{path}"
                context = authority.client_context()
                async with web.post(url, data=b"packed", ssl=context, allow_redirects=False) as response:
                    answers.append((response.status, dict(response.headers), await response.read()))
        return answers, server

    answers, server = asyncio.run(post())
    assert [code for code, _, _ in answers] == [201, status.code, 201]
    assert dict(status.headers).items() <= answers[1][1].items()
    assert answers[1][2] == status.body
    assert [(seen.method, seen.path, seen.body) for seen in server.requests] == [
        ("POST", "/other", b"packed"),
        ("POST", "/tlsrpt?x=1", b"packed"),
        ("POST", "/tlsrpt?x=1", b"packed"),
    ]
    assert server.requests[1].answer == status
    assert server.requests[0].arrived <= server.requests[1].arrived


def test_https_headers_are_kept() -> None:
    """Header fields are found in any case."""

    async def post() -> receivers.Request:
        authority = certificates.Authority()
        async with _receiver(authority) as server, aiohttp.ClientSession() as web:
            headers = {"Content-Type": "application/tlsrpt+gzip"}
            url = f"https://127.0.0.1:{server.port}/"
            async with web.post(url, data=b"x", headers=headers, ssl=authority.client_context()):
                return server.requests[0]

    request = asyncio.run(post())
    assert request.header("content-type") == "application/tlsrpt+gzip"
    assert request.header("X-Nothing") is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [(receivers.Drop(), aiohttp.ServerDisconnectedError), (receivers.Silent(), TimeoutError)],
    ids=["drop", "silent"],
)
def test_https_connections_break_or_fall_silent(answer: receivers.Answer, error: type[Exception]) -> None:
    """The client sees a lost connection or a time-out; the request is kept; the server ends at once all the same."""

    async def post() -> receivers.HttpsReceiver:
        authority = certificates.Authority()
        timeout = aiohttp.ClientTimeout(total=0.3)
        async with _receiver(authority) as server, aiohttp.ClientSession(timeout=timeout) as web:
            server.program("/", answer)
            with pytest.raises(error):
                await web.post(f"https://127.0.0.1:{server.port}/", data=b"x", ssl=authority.client_context())
        return server

    assert [seen.answer for seen in asyncio.run(post()).requests] == [answer]


def test_the_https_certificate_is_real() -> None:
    """A client that does not know the authority does not send."""

    async def post() -> receivers.HttpsReceiver:
        authority, other = certificates.Authority(), certificates.Authority("Other CA")
        async with _receiver(authority) as server, aiohttp.ClientSession() as web:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await web.post(f"https://127.0.0.1:{server.port}/", data=b"x", ssl=other.client_context())
        return server

    assert not asyncio.run(post()).requests


def test_servers_end_while_clients_are_connected() -> None:
    """Nothing waits for a client that stays."""

    async def stay() -> bytes:
        authority = certificates.Authority()
        async with receivers.MailReceiver() as mail, _receiver(authority) as https:
            reader, writer = await asyncio.open_connection("127.0.0.1", mail.port)
            _, other = await asyncio.open_connection("127.0.0.1", https.port, ssl=authority.client_context())
            greeting = await reader.readline()
        for each in (writer, other):
            each.transport.abort()
        return greeting

    assert asyncio.run(asyncio.wait_for(stay(), 10)) == b"220 localhost ESMTP\r\n"
