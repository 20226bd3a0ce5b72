r"""A real Exim in a root of its own: Debian's package and Debian's configuration, with the two files of ``conf/exim``.

:func:`running` configures and starts it; :class:`Exim` sends through its own SMTP server and reads its log. The
configuration is made by Debian's own ``update-exim4.conf`` from the split configuration of an "internet site", with
our two files where docs/exim.md says that they go. What is only for the laboratory are macros and lines beside them
(which addresses it uses).

Exim runs as ``Debian-exim``, as it does on Debian. Nothing of the package's maintainer scripts runs: users, spool and
log are made here.
"""

import contextlib
import dataclasses
import pathlib
import re
import subprocess
from collections.abc import Iterator, Sequence

from tests.lab import mta, product, sites

DEBIAN_EXIM = 103
"""User and group number in the root."""

PACKAGES = ("bookworm", ("exim4-daemon-light", "dash", "coreutils", "grep", "sed", "util-linux"))
"""Debian 12: Exim 4.96, and what Debian's script that makes its configuration needs."""

SNIPPETS = product.CHECKOUT / "conf/exim"
BINARY = "/usr/sbin/exim4"
QUEUE_ONLY = "-odq"
"""Option of a daemon that delivers nothing by itself."""

SOCKET = "run/tlsrpt/exim.sock"
"""Of tlsrpt, as conf/exim/tlsrpt.conf has it, in the root."""

_LOG = "var/log/exim4/mainlog"
_SPLIT = "etc/exim4/conf.d"
_TRANSPORT = f"{_SPLIT}/transport/30_exim4-config_remote_smtp"

_FILES = {
    "etc/passwd": f"""\
root:x:0:0:root:/root:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
mail:x:8:8:mail:/var/mail:/bin/false
uucp:x:10:10:uucp:/var/spool/uucp:/bin/false
Debian-exim:x:{DEBIAN_EXIM}:{DEBIAN_EXIM}::/var/spool/exim4:/bin/false
""",
    "etc/group": f"root:x:0:\nmail:x:8:\nnogroup:x:65534:\nDebian-exim:x:{DEBIAN_EXIM}:\n",
    "etc/mailname": "mail.sender.example\n",
}

_DEBCONF = """\
dc_eximconfig_configtype='internet'
dc_other_hostnames=''
dc_local_interfaces='{listen}'
dc_relay_nets='127.0.0.0/8'
dc_use_split_config='true'
dc_localdelivery='mail_spool'
"""
"""What Debian asks when the package is installed."""

_MACROS = f"""\
REMOTE_SMTP_INTERFACE = <; {sites.SENDER} ; {sites.SENDER_6}
MAIN_HARDCODE_PRIMARY_HOSTNAME = mail.sender.example
MAIN_HOST_LOOKUP =
MAIN_SMTPUTF8_ADVERTISE_HOSTS = *
tls_advertise_hosts =
smtp_accept_max = 0
"""
"""Only for the laboratory: which addresses mail comes from, and that it takes many messages at once, with any name."""


@dataclasses.dataclass
class Exim(mta.Server):
    """An Exim that runs; made by :func:`running`."""

    options: Sequence[str]

    LOG = _LOG
    QUEUED = re.compile(r"OK id=([\w-]+)")

    def deliveries(self) -> list[mta.Delivery]:
        """Return what became of each message at each attempt so far."""
        return [delivery for line in self.log() if (delivery := _delivery(line))]

    def handshakes(self) -> list[mta.Handshake]:
        """Return the TLS sessions with messages sent so far; ``yes``, ``no``, ``dane``."""
        lines = (line for line in self.log() if (match := _DELIVERY.match(line)) and match["sign"] == "=>")
        return [mta.Handshake(**match.groupdict()) for line in lines if (match := _HANDSHAKE.search(line))]

    @property
    def queues(self) -> bool:
        """Whether all messages wait for :meth:`flush`."""
        return QUEUE_ONLY in self.options

    def flush(self) -> None:
        """Run the queue in two stages, so that a connection is passed on to the next message for the same host."""
        self.command("-qq")

    def command(self, *arguments: str) -> str:
        """Run Exim to its end; return what it says."""
        return _run(self.root, [BINARY, *arguments])


_DELIVERY = re.compile(r"^[-\d]+ [:\d]+ (?P<queue_id>\S+) (?P<sign>=>|->|==|\*\*) (?P<recipient>\S+?):? (?P<text>.*)$")
_HANDSHAKE = re.compile(r"\bH=(?P<host>\S+) \[(?P<address>[0-9a-f.:]+)\].*? CV=(?P<word>\w+)")
_RELAY = re.compile(r"\bH=(\S+ \[[0-9a-f.:]+\])")
_STATUS = {"=>": "sent", "->": "sent", "==": "deferred", "**": "bounced"}


def _delivery(line: str) -> mta.Delivery | None:
    match = _DELIVERY.match(line)
    if match is None:
        return None
    sign, text = match["sign"], match["text"]
    relay = _RELAY.search(text)
    return mta.Delivery(
        match["queue_id"], match["recipient"], relay[1] if relay else "", _STATUS[sign], _words(sign, text)
    )


def _words(sign: str, text: str) -> str:
    """Return what matters of a line, without router, transport and host."""
    if _STATUS[sign] != "sent":
        return text.partition(": ")[2] or text
    handshake = _HANDSHAKE.search(text)
    return f"CV={handshake['word']}" if handshake else "in the clear"


def prepare(root: pathlib.Path) -> None:
    """Make users, spool, log and devices in a folder with the package unpacked."""
    mta.prepare(root, _FILES)
    for name in ("var/spool/exim4", "var/log/exim4", "run/exim4", "var/lib/exim4"):
        mta.folder(root / name, 0o750, DEBIAN_EXIM, DEBIAN_EXIM)
    mta.folder(root / "tmp", 0o1777, 0, 0)
    mta.folder(root / "run/tlsrpt", 0o755, 0, 0)


def settings(root: pathlib.Path, listen: str) -> dict[str, dict[str, object]]:
    """Return what docs/exim.md puts into tlsrpt's configuration, and Exim as the relay for reports.

    Args:
        root: of Exim.
        listen: the address of its SMTP server.
    """
    return {
        "recorder": {"exim_socket": str(root / SOCKET), "socket_group": str(DEBIAN_EXIM)},
        "policy": {"socket_group": ""},
        "mail": {"relay": f"smtp://{listen}:25"},
    }


def configure(root: pathlib.Path, authorities: bytes, listen: str, snippets: pathlib.Path) -> None:
    """Write Debian's answers and our files, and have Debian's script make the configuration of them."""
    (root / "etc/exim4/update-exim4.conf.conf").write_text(_DEBCONF.format(listen=listen))
    (root / _SPLIT / "main/00_local_tlsrpt").write_text((snippets / "tlsrpt.conf").read_text())
    (root / _SPLIT / "main/000_laboratory").write_text(_MACROS)
    with (root / _TRANSPORT).open("a") as file:
        file.write(f"\n{(snippets / 'transport.conf').read_text()}")
    mta.trust(root, authorities)
    _run(root, ["/usr/bin/dash", "/usr/sbin/update-exim4.conf"])


def _run(root: pathlib.Path, command: Sequence[str]) -> str:
    done = subprocess.run(
        ["chroot", str(root), *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=mta.PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@contextlib.contextmanager
def running(
    root: pathlib.Path,
    authorities: bytes,
    *,
    listen: str,
    options: Sequence[str] = (),
    snippets: pathlib.Path = SNIPPETS,
) -> Iterator[Exim]:
    """Run Exim in this network namespace.

    Args:
        root: what :func:`prepare` has prepared.
        authorities: trust anchors in PEM.
        listen: the address of its SMTP server.
        options: of the daemon's command line.
        snippets: a folder with our two files, or with others to show what comes of them.
    """
    configure(root, authorities, listen, snippets)
    with mta.started(root, [BINARY, "-bdf", *options]) as process:
        server = Exim(root, listen, process, options)
        server.wait(lambda: any("daemon started" in line for line in server.log()))
        yield server
