"""What a made-up mail server was given, and what it answers to whom.

Answers to RCPT and after DATA can be programmed for each address as a list, used up one by one,
after which everything is accepted again. Messages and recipients are kept with their time of
arrival. ``sender.demo.smtp`` carries the answers out; the only thing taken from outside is the time.
"""

import collections
import dataclasses
import datetime as dt
import enum
from typing import TypeAlias

KEPT = 10_000
"""Messages and recipients kept; older ones are dropped, so that a long load test does not fill memory."""


class Stage(enum.Enum):
    """Where in the dialogue a programmed answer is given."""

    RCPT = "rcpt"
    DATA = "data"
    """After the final dot; the answer of the first recipient that has one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """A reply with a code; 2xx accepts, after 421 the server hangs up (RFC 5321 section 3.8)."""

    code: int
    text: str = "as programmed"

    @property
    def accepts(self) -> bool:
        """Whether it is a 2yz reply (RFC 5321 section 4.2.1)."""
        return 200 <= self.code < 300  # noqa: PLR2004 # the bounds of 2yz


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """The connection breaks without a reply."""


@dataclasses.dataclass(frozen=True, slots=True)
class Silent:
    """No reply, and the connection stays open."""


Answer: TypeAlias = Reply | Drop | Silent

ACCEPTED = Reply(250, "2.0.0 accepted")


@dataclasses.dataclass(frozen=True, slots=True)
class Recipient:
    """A RCPT command."""

    address: str
    answer: Answer
    arrived: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A message."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    """As it came: CRLF line ends, without dot-stuffing."""
    tls: bool
    """Whether the session was encrypted."""
    arrived: dt.datetime


class Mailbox:
    """What came and what is answered.

    Attributes:
        messages: those that were accepted, oldest first; at most :data:`KEPT`.
        recipients: every RCPT command, accepted or not, oldest first; at most :data:`KEPT`.
    """

    def __init__(self) -> None:
        self.messages: collections.deque[Message] = collections.deque(maxlen=KEPT)
        self.recipients: collections.deque[Recipient] = collections.deque(maxlen=KEPT)
        self._programs: dict[tuple[Stage, str], collections.deque[Answer]] = {}

    def program(self, address: str, *answers: Answer, stage: Stage = Stage.RCPT) -> None:
        """Set the next answers for an address; with none, it is accepted again."""
        self._programs[stage, address] = collections.deque(answers)

    def recipient(self, address: str, now: dt.datetime) -> Answer:
        """Take note of a RCPT command; return what to answer."""
        answer = self._next(Stage.RCPT, address) or ACCEPTED
        self.recipients.append(Recipient(address, answer, now))
        return answer

    def message(self, message: Message) -> Answer:
        """Take a message, unless the answer is another; return what to answer."""
        answers = [self._next(Stage.DATA, address) for address in message.recipients]
        answer = next((answer for answer in answers if answer), ACCEPTED)
        if isinstance(answer, Reply) and answer.accepts:
            self.messages.append(message)
        return answer

    def _next(self, stage: Stage, address: str) -> Answer | None:
        program = self._programs.get((stage, address))
        return program.popleft() if program else None
