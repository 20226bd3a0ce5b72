"""A sending mail server that runs in a root of its own: what is the same whichever server it is.

:class:`Server` is what tests send with and wait for; :func:`prepare` makes the files that every server needs in a
folder with unpacked packages, :func:`started` runs it.
"""

import abc
import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

PATIENCE = 30.0
"""Seconds for anything that is not meant to take long."""

GLANCE = 0.02
"""Seconds between two looks at the log."""

RESOLVING = {
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\noptions trust-ad\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "etc/services": "smtp 25/tcp mail\nsubmission 587/tcp\n",
}
"""Whom the C library asks: nobody but the laboratory's resolver."""

AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
"""Where Debian has the trust anchors."""

_DEVICES = {"null": (1, 3), "urandom": (1, 9)}


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """A line of the log that says what became of a message at one attempt."""

    queue_id: str
    recipient: str
    relay: str
    status: str
    """Postfix's words: ``sent``, ``deferred``, ``bounced``."""
    text: str
    dsn: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Handshake:
    """A line of the log about a TLS session."""

    word: str
    """What the server makes of the certificate, in its own words."""
    host: str
    address: str


@dataclasses.dataclass
class Server(abc.ABC):
    """A mail server that runs."""

    root: pathlib.Path
    listen: str
    """The address of its SMTP server, port 25."""
    process: subprocess.Popen[bytes]

    LOG: ClassVar[str]
    """Its log in the root."""
    QUEUED: ClassVar[re.Pattern[str]]
    """What its answer to a message says; the group is the queue id."""

    @abc.abstractmethod
    def deliveries(self) -> list[Delivery]:
        """Return what became of each message at each attempt so far."""

    @abc.abstractmethod
    def handshakes(self) -> list[Handshake]:
        """Return the TLS sessions with receiving servers so far."""

    @property
    def queues(self) -> bool:
        """Whether all messages wait for :meth:`flush`."""
        return False

    def flush(self) -> None:  # noqa: B027 # most servers do nothing here
        """Try the messages that wait."""

    def log(self) -> list[str]:
        """Return the whole log, line by line, with what was rotated."""
        path = self.root / self.LOG
        paths = [*sorted(path.parent.glob(f"{path.name}.*")), path]
        return [line for one in paths if one.exists() for line in one.read_text(errors="replace").splitlines()]

    def send(self, recipients: Sequence[str], text: str = "hello", sender: str = "alice@sender.example") -> str:
        """Hand a message to the SMTP server; return its queue id."""
        with smtplib.SMTP(self.listen, 25, timeout=PATIENCE) as client:
            client.ehlo("client.sender.example")
            needed = [] if all(address.isascii() for address in recipients) else ["SMTPUTF8"]
            _expect(client.docmd("MAIL", " ".join([f"FROM:<{sender}>", *needed])))
            for address in recipients:
                client.send(f"RCPT TO:<{address}>\r\n".encode())
                _expect(client.getreply())
            reply = client.data(f"From: <{sender}>\r\nSubject: test\r\n\r\n{text}\r\n")
        _expect(reply)
        queued = self.QUEUED.search(reply[1].decode())
        assert queued, reply
        return queued[1]

    def settle(self, queue_ids: Mapping[str, int], patience: float = PATIENCE) -> None:
        """Wait until messages were tried: so many lines of the log for each queue id.

        Raises:
            AssertionError: it takes too long.
        """

        def settled() -> bool:
            seen = [delivery.queue_id for delivery in self.deliveries()]
            return all(seen.count(queue_id) >= count for queue_id, count in queue_ids.items())

        self.wait(settled, patience)

    def wait(self, true: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until something is true.

        Raises:
            AssertionError: it takes too long, or the server has ended; the text has the end of the log.
        """
        deadline = time.monotonic() + patience
        while not true():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                raise AssertionError("\n".join([f"waited in vain (server: {ended})", *self.log()[-40:]]))
            time.sleep(GLANCE)


def _expect(reply: tuple[int, bytes]) -> None:
    assert 200 <= reply[0] < 300, reply


def prepare(root: pathlib.Path, files: Mapping[str, str]) -> None:
    """Make files and devices in a folder with a package unpacked."""
    for name, text in {**RESOLVING, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, numbers in _DEVICES.items():
        os.mknod(root / "dev" / name, 0o020666, os.makedev(*numbers))
        (root / "dev" / name).chmod(0o666)


def folder(path: pathlib.Path, mode: int, user: int, group: int) -> None:
    """Make a folder that belongs to somebody."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, user, group)
    path.chmod(mode)


def trust(root: pathlib.Path, authorities: bytes) -> None:
    """Put trust anchors in PEM where Debian has them."""
    path = root / AUTHORITIES
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(authorities)


@contextlib.contextmanager
def started(root: pathlib.Path, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in its root, in this network namespace.

    Args:
        root: becomes its root folder; has what it says on standard error in ``master.log``.
        command: stays in the foreground.
    """
    with (root / "master.log").open("wb") as log:
        process = subprocess.Popen(
            ["chroot", str(root), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
