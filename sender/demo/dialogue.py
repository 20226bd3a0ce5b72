"""The client's end of an SMTP dialogue (RFC 5321, RFC 3207): a command, a reply, TLS.

It says what was read, word for word, because a TLS report repeats it; what follows from it is decided in
``sender.demo.client``. No pipelining; octets that follow a STARTTLS reply too early are not looked for.
"""

import asyncio
import contextlib
import dataclasses
import ssl

REPLY_SECONDS = 10.0
"""How long each reply and the handshake may take: on loopback milliseconds, silence is meant."""

MAX_REPLY_LINES = 100
"""Lines of one reply; an EHLO reply has some twenty."""

SERVICE_READY = 220
COMPLETED = 250
START_MAIL_INPUT = 354
"""Reply codes (RFC 5321 section 4.2.3)."""


class DialogueError(Exception):
    """The connection broke, or the server says no before TLS was a question."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a server says (RFC 5321 section 4.2)."""

    code: int
    """0 when it has none."""
    text: str
    """All lines with their codes, joined by CRLF, without the last line end."""

    @property
    def offers_starttls(self) -> bool:
        """Whether it is an EHLO reply with STARTTLS (RFC 3207 section 4)."""
        return any(line[4:].upper() == "STARTTLS" for line in self.text.split("\r\n"))


class Connection:
    """The client's end of an SMTP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def addresses(self) -> tuple[str, str]:
        """Return our IP address and theirs."""
        return self._writer.get_extra_info("sockname")[0], self._writer.get_extra_info("peername")[0]

    async def expect(self, line: str | None, code: int) -> Reply:
        """Send a line, if any; return a reply that must have a code.

        Raises:
            DialogueError: there is none, or it has another code.
        """
        reply = await (self.command(line) if line is not None else self._reply())
        if reply.code != code:
            raise DialogueError(f"the server says {reply.text!r}")
        return reply

    async def command(self, line: str) -> Reply:
        """Send a line; return the reply.

        Raises:
            DialogueError: there is none.
        """
        try:
            self._writer.write(line.encode() + b"\r\n")
            await self._writer.drain()
        except OSError as error:
            raise DialogueError(f"connection lost: {error}") from error
        return await self._reply()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> str:
        """Do the handshake; return version and cipher.

        Raises:
            OSError: it failed; with ssl.SSLCertVerificationError because of the certificate.
        """
        await self._writer.start_tls(context, server_hostname=host, ssl_handshake_timeout=REPLY_SECONDS)
        name, version, _ = self._writer.get_extra_info("cipher")
        return f"{self._writer.get_extra_info('ssl_object').version() or version} {name}"

    async def close(self) -> None:
        """End the connection, in whatever state it is."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _reply(self) -> Reply:
        lines: list[str] = []
        try:
            async with asyncio.timeout(REPLY_SECONDS):
                while not lines or lines[-1][3:4] == "-":
                    lines.append((await self._reader.readuntil(b"\r\n"))[:-2].decode("utf-8", "replace"))
                    if len(lines) > MAX_REPLY_LINES:
                        raise DialogueError("the server's reply does not end")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise DialogueError(f"no reply: {error!r}") from error
        code = lines[-1][:3]
        return Reply(int(code) if code.isdecimal() else 0, "\r\n".join(lines))
