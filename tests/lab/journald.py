"""A systemd journal of its own: the real systemd-journald in a root with Debian's systemd unpacked, without systemd.

It runs in a chroot, so its sockets and journal are those of the root; what it wants to know of processes it finds in
``/proc``, mounted in a mount namespace that only it is in. Syslog of servers that run in the same root goes to it.
:class:`Journal` has the ``journalctl`` that reads it, and writes what it has into a file, as a syslog daemon would.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator

SOCKET = "run/systemd/journal/dev-log"
"""Where syslog goes."""

PATIENCE = 10.0
"""Seconds for a start or an end."""

_CONFIG = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n"
"""In memory, and nothing of this machine's own messages."""

_MOUNT = """\
set -e
mount --rbind /proc "$1/proc"
mount -t cgroup2 none "$1/sys/fs/cgroup" 2>/dev/null || mount --rbind /sys/fs/cgroup "$1/sys/fs/cgroup"
exec chroot "$1" /lib/systemd/systemd-journald
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Journal:
    """A journal that is written; made by :func:`running`."""

    programs: pathlib.Path
    """A folder with nothing but the ``journalctl`` that reads it, while it is written."""

    @property
    def journalctl(self) -> pathlib.Path:
        """The program."""
        return self.programs / "journalctl"


def missing() -> str | None:
    """Return what is lacking for a journal; ``None``: nothing."""
    absent = [program for program in ("unshare", "nsenter", "mount") if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}"
    command = ["unshare", "--mount", "--propagation", "private", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return f"no mount namespace: {tried.stderr.strip()}" if tried.returncode else None


@contextlib.contextmanager
def running(root: pathlib.Path, copy: pathlib.Path) -> Iterator[Journal]:
    """Run systemd-journald.

    Args:
        root: a folder with the package unpacked, which is changed.
        copy: a file that gets each entry as a line of a log, as long as it runs.

    Raises:
        RuntimeError: it does not start; the text is what it said.
    """
    journal = _prepare(root)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((root / "journald.log").open("wb"))
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNT, "-", str(root)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.enter_context(_ended(process))
        _write(journal, process.pid, root)
        _wait(process, root, journal)
        lines = stack.enter_context(copy.open("wb"))
        following = [str(journal.journalctl), "--output=short", "--follow", "--no-tail", "--quiet", "SYSLOG_FACILITY=2"]
        stack.enter_context(_ended(subprocess.Popen(following, stdin=subprocess.DEVNULL, stdout=lines)))
        yield journal


def _prepare(root: pathlib.Path) -> Journal:
    for folder in ("run/systemd/journal", "run/log/journal", "etc/systemd", "sys/fs/cgroup", "programs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (root / "etc/systemd/journald.conf").write_text(_CONFIG)
    (root / "dev/log").symlink_to(f"/{SOCKET}")
    return Journal(root / "programs")


def _write(journal: Journal, process: int, root: pathlib.Path) -> None:
    """Write a program that runs the root's ``journalctl`` where systemd-journald is, and finds ``/proc``."""
    command = shlex.join(["nsenter", f"--mount=/proc/{process}/ns/mnt", "chroot", str(root), "/usr/bin/journalctl"])
    journal.journalctl.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    journal.journalctl.chmod(0o755)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process after use."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], root: pathlib.Path, journal: Journal) -> None:
    """Wait until there is an entry: the first one says that it has started."""
    command = [str(journal.journalctl), "--output=cat", "--lines=1", "--quiet"]
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).stdout:
            return
        time.sleep(0.02)
    raise RuntimeError(f"systemd-journald does not start: {(root / 'journald.log').read_text()}")
