"""A validating resolver: Debian's unbound in a root of its own, with its own zones and trust anchors for them.

It asks nobody else: what is not in its zones does not exist.
"""

import contextlib
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence

import dns.flags
import dns.message
import dns.query

from tests.lab import zone as zones

ADDRESS = "127.0.0.1"
PORT = 53

STARTED_WITHIN = 10.0
"""Seconds."""

_CONFIG = """\
server:
    interface: {address}
    port: {port}
    do-daemonize: no
    use-syslog: no
    logfile: ""
    chroot: ""
    username: ""
    directory: "/etc/unbound"
    pidfile: ""
    module-config: "validator iterator"
    num-threads: 1
    so-reuseport: no
    do-not-query-localhost: no
    qname-minimisation: no
    val-log-level: 1
    val-bogus-ttl: 5
    local-zone: "." always_nxdomain
remote-control:
    control-enable: no
"""


@contextlib.contextmanager
def running(root: pathlib.Path, served: Sequence[zones.Zone]) -> Iterator[str]:
    """Run unbound in this network namespace; the value is ``HOST:PORT``.

    Args:
        root: a folder with the package unpacked, which is changed.
        served: the zones it has.
    """
    folder = root / "etc/unbound"
    folder.mkdir(parents=True, exist_ok=True)
    for zone in served:
        (folder / f"{zone.name}.zone").write_text(zone.text)
    (folder / "lab.conf").write_text(_CONFIG.format(address=ADDRESS, port=PORT) + "".join(map(section, served)))
    command = ["chroot", str(root), "/usr/sbin/unbound", "-d", "-p", "-c", "/etc/unbound/lab.conf"]
    with (root / "unbound.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(process, root, f"{served[0].name}.")
        yield f"{ADDRESS}:{PORT}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def section(zone: zones.Zone) -> str:
    """Return the part of a configuration that serves a zone, whose file is in /etc/unbound."""
    anchor = f'    trust-anchor: "{zone.anchor}"\n' if zone.anchor else f'    domain-insecure: "{zone.name}."\n'
    return f"""\
server:
    local-zone: "{zone.name}." transparent
{anchor}auth-zone:
    name: "{zone.name}."
    zonefile: "/etc/unbound/{zone.name}.zone"
    for-downstream: no
    for-upstream: yes
    fallback-enabled: no
"""


def _wait(process: subprocess.Popen[bytes], root: pathlib.Path, name: str) -> None:
    """Wait until it answers."""
    query = dns.message.make_query(name, "SOA", want_dnssec=True)
    deadline = time.monotonic() + STARTED_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, dns.exception.Timeout):
            answer = dns.query.udp(query, ADDRESS, timeout=0.5, port=PORT)
            if answer.answer and answer.flags & dns.flags.AD:
                return
        time.sleep(0.02)
    raise RuntimeError(f"unbound does not answer: {(root / 'unbound.log').read_text()}")
