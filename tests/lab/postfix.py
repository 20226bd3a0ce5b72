"""A real Postfix in a root of its own: Debian's package and master.cf, one of our snippets, what the laboratory needs.

:func:`running` configures and starts it; :class:`Postfix` sends through its own SMTP server and reads its log.
main.cf is the snippet from conf/postfix exactly as it is, after lines that are only for the laboratory (which
addresses it uses, long back-offs). smtp runs in a chroot, as in Debian's master.cf.

Nothing of the package's maintainer scripts runs: users, spool and the files of the chroot are made here.
"""

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

POSTFIX, POSTDROP = 101, 102
"""User and group numbers in the root."""

QUEUE = "var/spool/postfix"
LOG = "var/log/postfix.log"
MASTER = "/usr/lib/postfix/sbin/master"

PATIENCE = 30.0
"""Seconds for anything that is not meant to take long."""

GLANCE = 0.02
"""Seconds between two looks at the log."""

_PASSWD = f"""\
root:x:0:0:root:/root:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
postfix:x:{POSTFIX}:{POSTFIX}::/var/spool/postfix:/bin/false
"""
_GROUP = f"root:x:0:\nnogroup:x:65534:\npostfix:x:{POSTFIX}:\npostdrop:x:{POSTDROP}:\n"

_FILES = {
    "etc/passwd": _PASSWD,
    "etc/group": _GROUP,
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\noptions trust-ad\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "etc/services": "smtp 25/tcp mail\nsubmission 587/tcp\n",
    "etc/postfix/dynamicmaps.cf": "",
}

_CHROOT = ("etc/hosts", "etc/resolv.conf", "etc/nsswitch.conf", "etc/services")
"""What Debian copies into the queue directory, where smtp's chroot is."""

_FOLDERS = {
    **dict.fromkeys(
        ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"),
        (0o700, POSTFIX, 0),
    ),
    "maildrop": (0o730, POSTFIX, POSTDROP),
    "public": (0o710, POSTFIX, POSTDROP),
    "pid": (0o755, 0, 0),
}

_DEVICES = {"null": (1, 3), "urandom": (1, 9)}

SETTINGS: Mapping[str, str] = {
    "compatibility_level": "3.6",
    "myhostname": "mail.sender.example",
    "mydestination": "",
    "local_recipient_maps": "",
    "alias_maps": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "all",
    "mynetworks": "127.0.0.0/8",
    "smtpd_peername_lookup": "no",
    "maillog_file": f"/{LOG}",
    "minimal_backoff_time": "1h",
    "queue_run_delay": "1h",
    "smtp_destination_concurrency_limit": "20",
    "smtp_connect_timeout": "5s",
    "smtp_starttls_timeout": "10s",
    "notify_classes": "",
}
"""Lines that are only for the laboratory: deferred mail stays deferred, and nothing is for this host."""


_TLSPROXY = "tlsproxy  unix  -       -       y       -       0       tlsproxy\n"
"""Connections with TLS are used again only with this service, which Debian's master.cf has commented out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """A line of the log that says what became of a message at one attempt."""

    queue_id: str
    recipient: str
    relay: str
    dsn: str
    status: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Handshake:
    """A line of the log about a TLS session."""

    word: str
    """``Verified``, ``Trusted``, ``Untrusted``, ``Anonymous``."""
    host: str
    address: str


_DELIVERY = re.compile(
    r"postfix/\w+\[\d+\]: (?P<queue_id>\w+): to=<(?P<recipient>[^>]*)>.*?, relay=(?P<relay>[^,]*), .*?"
    r"dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<text>.*)\)$"
)
_HANDSHAKE = re.compile(
    r"(?P<word>\w+) TLS connection established to (?:\[\w+\] )?(?P<host>[^\s\[]+)\[(?P<address>[0-9a-f.:]+)\]"
)
_QUEUED = re.compile(r"queued as (\w+)")


@dataclasses.dataclass
class Postfix:
    """A Postfix that runs; made by :func:`running`."""

    root: pathlib.Path
    listen: str
    """The address of its SMTP server, port 25."""
    process: subprocess.Popen[bytes]

    @property
    def queue(self) -> pathlib.Path:
        """The queue directory, which is smtp's chroot, seen from outside."""
        return self.root / QUEUE

    def log(self) -> list[str]:
        """Return the whole log, line by line."""
        path = self.root / LOG
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def deliveries(self) -> list[Delivery]:
        """Return what became of each message at each attempt so far."""
        return [Delivery(**match.groupdict()) for line in self.log() if (match := _DELIVERY.search(line))]

    def handshakes(self) -> list[Handshake]:
        """Return the TLS sessions with receiving servers so far."""
        return [Handshake(**match.groupdict()) for line in self.log() if (match := _HANDSHAKE.search(line))]

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
        queued = _QUEUED.search(reply[1].decode())
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
            AssertionError: it takes too long, or Postfix has ended; the text has the end of the log.
        """
        deadline = time.monotonic() + patience
        while not true():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                raise AssertionError("\n".join([f"waited in vain (master: {ended})", *self.log()[-40:]]))
            time.sleep(GLANCE)


def _expect(reply: tuple[int, bytes]) -> None:
    assert 200 <= reply[0] < 300, reply


def prepare(root: pathlib.Path) -> pathlib.Path:
    """Make users, spool and devices in a folder with the package unpacked; return the queue directory."""
    for name, text in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    queue = root / QUEUE
    (queue / "etc").mkdir(parents=True, exist_ok=True)
    os.chown(queue, 0, 0)
    queue.chmod(0o755)
    for name, (mode, user, group) in _FOLDERS.items():
        _folder(queue / name, mode, user, group)
    for name in _CHROOT:
        (queue / name).write_text(_FILES[name])
    _folder(root / "var/lib/postfix", 0o755, POSTFIX, POSTFIX)
    _folder(root / "var/log", 0o755, 0, 0)
    _folder(queue / "run/tlsrpt", 0o755, 0, POSTFIX)
    for name, numbers in _DEVICES.items():
        os.mknod(root / "dev" / name, 0o020666, os.makedev(*numbers))
        (root / "dev" / name).chmod(0o666)
    return queue


def _folder(path: pathlib.Path, mode: int, user: int, group: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, user, group)
    path.chmod(mode)


def configure(
    root: pathlib.Path,
    snippet: pathlib.Path,
    authorities: bytes,
    listen: str,
    settings: Mapping[str, str],
    mistakes: Mapping[str, str],
) -> None:
    """Write main.cf, master.cf, and the trust anchors where Debian has them."""
    own = _lines({**SETTINGS, "inet_interfaces": listen, **settings})
    (root / "etc/postfix/main.cf").write_text(f"{own}\n{snippet.read_text()}\n{_lines(mistakes)}")
    services = (root / "usr/share/postfix/master.cf.dist").read_text()
    (root / "etc/postfix/master.cf").write_text(services + ("" if "\ntlsproxy " in services else _TLSPROXY))
    trusted = root / "etc/ssl/certs/ca-certificates.crt"
    trusted.parent.mkdir(parents=True, exist_ok=True)
    trusted.write_bytes(authorities)


def _lines(settings: Mapping[str, str]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in settings.items())


@contextlib.contextmanager
def running(
    root: pathlib.Path,
    snippet: pathlib.Path,
    authorities: bytes,
    *,
    listen: str = "127.0.0.1",
    settings: Mapping[str, str] | None = None,
    mistakes: Mapping[str, str] | None = None,
) -> Iterator[Postfix]:
    """Run Postfix in this network namespace.

    Args:
        root: what :func:`prepare` has prepared.
        snippet: one of conf/postfix, which goes into main.cf as it is.
        authorities: trust anchors in PEM.
        listen: the address of its SMTP server.
        settings: more lines that are only for the laboratory.
        mistakes: lines after the snippet, to show what comes of them.
    """
    configure(root, snippet, authorities, listen, settings or {}, mistakes or {})
    command = ["chroot", str(root), MASTER, "-c", "/etc/postfix", "-d"]
    with (root / "master.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        server = Postfix(root, listen, process)
        server.wait(lambda: any("daemon started" in line for line in server.log()))
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
