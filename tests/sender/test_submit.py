"""``tlsrpt submit``: lines into a real datagram socket, with a reader that is slow, full, gone or never was."""

import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from policy import listeners
from sender import submit

CAPTURES = Path(__file__).parents[1] / "data" / "postfix-3.10.jsonl"

GOOD = b'{"d":"example.com","policies":[{"policy-type":9,"f":0}]}'
END = b"end"

# id, lines, datagrams sent, (number, beginning of the reason) of bad ones
LINES = [
    ("none", [], [], []),
    ("one", [GOOD + b"\n"], [GOOD], []),
    ("no line end", [GOOD], [GOOD], []),
    ("a DOS line end", [GOOD + b"\r\n"], [GOOD], []),
    ("blank lines", [b"\n", GOOD, b"  \r\n", b""], [GOOD], []),
    ("a bad one between", [GOOD, b"{\n", GOOD], [GOOD, GOOD], [(2, "unterminated: ")]),
    ("only bad ones", [b"\n", b"x\n", b'{"d":""}\n'], [], [(2, "not-json: "), (3, "no-domain: ")]),
    ("too long a one", [b"x" * 300_000], [], [(1, "truncated: ")]),
]


@dataclass
class Reader:
    """What a recorder's socket received."""

    path: str
    sock: socket.socket
    received: list[bytes] = field(default_factory=list)

    def run(self, limit: int = 1 << 30) -> None:
        """Receive until the end is told, or so many came."""
        while len(self.received) < limit and (content := self.sock.recv(1 << 20)) != END:
            self.received.append(content)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """Receive in a thread."""
    with listeners.bind_unix(folder / "s", socket.SOCK_DGRAM, 0o600) as sock:
        reader = Reader(str(folder / "s"), sock)
        thread = threading.Thread(target=reader.run)
        thread.start()
        try:
            yield reader
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.sendto(END, reader.path)
            thread.join()


@pytest.mark.parametrize(("lines", "sent", "bad"), [pytest.param(*row[1:], id=row[0]) for row in LINES])
def test_lines(tmp_path: Path, lines: list[bytes], sent: list[bytes], bad: list[tuple[int, str]]) -> None:
    """Good lines are sent as they are, bad ones are told with their number, blank ones are nothing."""
    with reading(tmp_path) as reader:
        summary = submit.submit(lines, reader.path)
    assert reader.received == sent
    assert summary.sent == len(sent)
    assert summary.rejected == len(bad)
    assert [line.number for line in summary.bad] == [number for number, _ in bad]
    for line, (_, reason) in zip(summary.bad, bad, strict=True):
        assert line.reason.startswith(reason)


def test_captures_of_postfix_are_sent(tmp_path: Path) -> None:
    """What Postfix sent once can be sent again."""
    captures = [json.loads(line) for line in CAPTURES.read_text(encoding="utf-8").splitlines()]
    lines = [text.encode() for capture in captures for text in capture["datagrams"]]
    with reading(tmp_path) as reader:
        assert submit.submit(lines, reader.path) == submit.Summary(sent=40, rejected=0, bad=[])
    assert reader.received == lines


def test_many_lines_block_instead_of_dropping(tmp_path: Path) -> None:
    """Far more than the kernel queues all arrive, in order, and progress is told on the way."""
    lines = [b'{"d":"d%d.example","policies":[{"policy-type":9,"f":0}]}' % number for number in range(3500)]
    told: list[int] = []
    with reading(tmp_path) as reader:
        assert submit.submit(lines, reader.path, told.append).sent == 3500
    assert reader.received == lines
    assert told == [1000, 2000, 3000, 3500]


def test_datagram_of_255_kb_passes(tmp_path: Path) -> None:
    """The buffer of the kernel is large enough for all that the recorder takes."""
    line = GOOD[:-1] + b',"x":"' + b"x" * 255_000 + b'"}'
    with reading(tmp_path) as reader:
        assert submit.submit([line] * 3, reader.path).sent == 3
    assert reader.received == [line] * 3


def test_bad_lines_told_are_bounded(tmp_path: Path) -> None:
    """A wrong file of any length does not fill the memory."""
    with reading(tmp_path) as reader:
        summary = submit.submit(itertools.repeat(b"x", 5000), reader.path)
    assert summary.rejected == 5000
    assert len(summary.bad) == submit.MAX_BAD


def test_no_socket(tmp_path: Path) -> None:
    """One line that names the path and what to look for."""
    with pytest.raises(submit.SubmitError, match=r"/s: no such socket: is `tlsrpt serve recorder` running") as caught:
        submit.submit([GOOD], str(tmp_path / "s"))
    assert caught.value.sent == 0


def test_nobody_listens(tmp_path: Path) -> None:
    """A stale socket file is not a recorder."""
    listeners.bind_unix(tmp_path / "s", socket.SOCK_DGRAM, 0o600).close()
    with pytest.raises(submit.SubmitError, match=r"/s: nobody receives: is `tlsrpt serve recorder` running"):
        submit.submit([GOOD], str(tmp_path / "s"))


@pytest.mark.parametrize("path", ["/dev/null", "/" + "s" * 200, "/dev"])
def test_path_that_is_no_socket(path: str) -> None:
    """Whatever is there instead is one line, too."""
    with pytest.raises(submit.SubmitError, match=f"{path}: "):
        submit.submit([GOOD], path)


def test_reader_that_dies_in_the_middle(tmp_path: Path) -> None:
    """The error tells how many were taken, which is at least what was read, and at most a queue more."""
    sock = listeners.bind_unix(tmp_path / "s", socket.SOCK_DGRAM, 0o600)
    reader = Reader(str(tmp_path / "s"), sock)

    def run() -> None:
        reader.run(limit=500)
        sock.close()

    thread = threading.Thread(target=run)
    thread.start()
    with pytest.raises(submit.SubmitError, match=r"/s: after \d+ sent: nobody receives") as caught:
        submit.submit(itertools.repeat(GOOD), reader.path)
    thread.join()
    assert len(reader.received) == 500
    assert caught.value.sent >= 500
    assert f"after {caught.value.sent} sent" in str(caught.value)
