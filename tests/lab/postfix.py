"""A real Postfix in a root of its own: Debian's package and master.cf, one of our snippets, what the laboratory needs.

:func:`running` configures and starts it; :class:`Postfix` sends through its own SMTP server and reads its log.
main.cf is the snippet from conf/postfix exactly as it is, after lines that are only for the laboratory (which
addresses it uses, long back-offs). smtp runs in a chroot, as in Debian's master.cf.

Nothing of the package's maintainer scripts runs: users, spool and the files of the chroot are made here.
"""

import contextlib
import datetime as dt
import os
import pathlib
import re
import signal
from collections.abc import Iterator, Mapping

from tests.lab import mta, rows, sites

POSTFIX, POSTDROP = 101, 102
"""User and group numbers in the root."""

QUEUE = "var/spool/postfix"
LOG = "var/log/postfix.log"
MASTER = "/usr/lib/postfix/sbin/master"

_PASSWD = f"""\
root:x:0:0:root:/root:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
postfix:x:{POSTFIX}:{POSTFIX}::/var/spool/postfix:/bin/false
"""
_GROUP = f"root:x:0:\nnogroup:x:65534:\npostfix:x:{POSTFIX}:\npostdrop:x:{POSTDROP}:\n"

_FILES = {
    "etc/passwd": _PASSWD,
    "etc/group": _GROUP,
    "etc/postfix/dynamicmaps.cf": "",
}

_FOLDERS = {
    **dict.fromkeys(
        ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"),
        (0o700, POSTFIX, 0),
    ),
    "maildrop": (0o730, POSTFIX, POSTDROP),
    "public": (0o710, POSTFIX, POSTDROP),
    "pid": (0o755, 0, 0),
}

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


SENDING: Mapping[str, str] = {
    "smtp_bind_address": sites.SENDER,
    "smtp_bind_address6": sites.SENDER_6,
    "smtp_connection_cache_destinations": ", ".join(row.domain for row in rows.ALL if row.messages > 1),
    "smtp_connection_cache_time_limit": "30s",
}
"""For mail to the scenarios: where it leaves from, and whose connections are kept for the next message if any are."""

_TLSPROXY = "tlsproxy  unix  -       -       y       -       0       tlsproxy\n"
"""Connections with TLS are used again only with this service, which Debian's master.cf has commented out."""


_DELIVERY = re.compile(
    r"postfix/\w+\[\d+\]: (?P<queue_id>\w+): to=<(?P<recipient>[^>]*)>.*?, relay=(?P<relay>[^,]*), .*?"
    r"dsn=(?P<dsn>[\d.]+), status=(?P<status>\w+) \((?P<text>.*)\)$"
)
_HANDSHAKE = re.compile(
    r"(?P<word>\w+) TLS connection established to (?:\[\w+\] )?(?P<host>[^\s\[]+)\[(?P<address>[0-9a-f.:]+)\]"
)


class Postfix(mta.Server):
    """A Postfix that runs; made by :func:`running`."""

    LOG = LOG
    QUEUED = re.compile(r"queued as (\w+)")

    @property
    def queue(self) -> pathlib.Path:
        """The queue directory, which is smtp's chroot, seen from outside."""
        return self.root / QUEUE

    def rotate(self) -> None:
        """Rename the log, and have Postfix make a new one: what ``postfix logrotate`` does, but for compressing it."""
        path = self.root / LOG
        path.rename(path.with_name(f"{path.name}.{dt.datetime.now(dt.UTC):%Y%m%d-%H%M%S-%f}"))
        os.kill(self.process.pid, signal.SIGHUP)

    def remove_service(self, name: str) -> None:
        """Take a service out of master.cf, and go by it."""
        services = self.root / "etc/postfix/master.cf"
        kept = [line for line in services.read_text().splitlines() if not line.startswith(f"{name} ")]
        services.write_text("\n".join([*kept, ""]))
        os.kill(self.process.pid, signal.SIGHUP)
        self.wait(lambda: any("reload" in line for line in self.log()))

    def deliveries(self) -> list[mta.Delivery]:
        """Return what became of each message at each attempt so far."""
        return [mta.Delivery(**match.groupdict()) for line in self.log() if (match := _DELIVERY.search(line))]

    def handshakes(self) -> list[mta.Handshake]:
        """Return the TLS sessions with receiving servers so far; ``Verified``, ``Trusted``, ``Untrusted``."""
        return [mta.Handshake(**match.groupdict()) for line in self.log() if (match := _HANDSHAKE.search(line))]


def prepare(root: pathlib.Path) -> pathlib.Path:
    """Make users, spool and devices in a folder with the package unpacked; return the queue directory."""
    mta.prepare(root, _FILES)
    queue = root / QUEUE
    (queue / "etc").mkdir(parents=True, exist_ok=True)
    os.chown(queue, 0, 0)
    queue.chmod(0o755)
    for name, (mode, user, group) in _FOLDERS.items():
        mta.folder(queue / name, mode, user, group)
    for name, text in mta.RESOLVING.items():  # as Debian does: smtp's chroot is there
        (queue / name).write_text(text)
    mta.folder(root / "var/lib/postfix", 0o755, POSTFIX, POSTFIX)
    mta.folder(root / "var/log", 0o755, 0, 0)
    mta.folder(queue / "run/tlsrpt", 0o755, 0, POSTFIX)
    return queue


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
    mta.trust(root, authorities)


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
    with mta.started(root, [MASTER, "-c", "/etc/postfix", "-d"]) as process:
        server = Postfix(root, listen, process)
        server.wait(lambda: any("daemon started" in line for line in server.log()))
        yield server
