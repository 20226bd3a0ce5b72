"""Whoever asks a socketmap: many connections with one question each on its way, from one process that does little else.

The same for the yardsticks, the policy socket and peers; it takes about as long for a question as the fastest of them.
"""

import contextlib
import dataclasses
import math
import pathlib
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence

RECEIVED = 65536
"""Octets that are taken at once: a whole answer."""

PATIENCE = 60.0
"""Seconds without an answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What asking came to."""

    seconds: float
    spans: list[float]
    """Of each question until its answer, in seconds, ascending."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.spans) / self.seconds

    @property
    def p99(self) -> float:
        """Seconds within which 99 of 100 answers came."""
        return self.spans[len(self.spans) * 99 // 100]


def together(loads: Sequence[Load]) -> Load:
    """Return what several loads came to."""
    return Load(sum(load.seconds for load in loads), sorted(span for load in loads for span in load.spans))


def netstring(text: bytes) -> bytes:
    """Return a question as it is sent."""
    return b"%d:%b," % (len(text), text)


def listens(path: pathlib.Path) -> bool:
    """Tell whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(str(path)) == 0


def ask(path: pathlib.Path, questions: Iterable[bytes]) -> dict[bytes, bytes]:
    """Ask one question after the other; return them with their answers."""
    with _connected(path) as sock:
        sock.settimeout(PATIENCE)
        return {question: _exchanged(sock, question) for question in questions}


def _exchanged(sock: socket.socket, question: bytes) -> bytes:
    sock.sendall(question)
    answer = sock.recv(RECEIVED)
    if answer[-1:] != b",":
        raise AssertionError(f"not an answer: {answer!r}")
    return answer


def load(path: pathlib.Path, questions: Iterable[bytes], connections: int, seconds: float = math.inf) -> Load:
    """Ask until there are no more questions or the time is over; each connection asks as soon as it has its answer."""
    rest = iter(questions)
    spans: list[float] = []
    asked: dict[int, float] = {}
    clock, answer = time.perf_counter, bytearray(RECEIVED)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(_connected(path)) for _ in range(connections)]
        poller = stack.enter_context(select.epoll())
        calls = {sock.fileno(): (sock.recv_into, sock.send) for sock in socks}
        started = clock()
        for sock, question in zip(socks, rest, strict=False):
            poller.register(sock, select.EPOLLIN)
            asked[sock.fileno()] = clock()
            sock.send(question)
        while asked:
            events = poller.poll(PATIENCE)
            if not events:
                raise TimeoutError(f"{path} does not answer")
            if clock() - started > seconds:
                rest = iter(())
            for descriptor, _ in events:
                receive, send = calls[descriptor]
                if answer[receive(answer) - 1] != _COMMA:
                    raise AssertionError("not an answer")
                now = clock()
                spans.append(now - asked.pop(descriptor))
                for question in rest:
                    asked[descriptor] = now
                    send(question)
                    break
        taken = clock() - started
    return Load(taken, sorted(spans))


_COMMA = ord(",")


@contextlib.contextmanager
def _connected(path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(path))
        yield sock
