"""A Debian that apt and dpkg have installed in a folder, with all maintainer scripts, and processes in it.

:func:`installed` makes one with what every Debian has, once, and keeps it as :mod:`tests.lab.roots` does;
:func:`running` gives a copy of it process ids and mounts of its own and runs commands in it with a shell. When it ends
all its processes end. systemd is installed and does not run: :class:`Unit` reads its units, so that a test can do what
they say.

Known limits: of a unit only the keys that :class:`Unit` names are looked at.
"""

import contextlib
import dataclasses
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Container, Iterator, Mapping, Sequence

from tests.lab import mta, roots

SUITE = "trixie"

PACKAGES = ("?essential", "apt", "passwd", "ca-certificates", "systemd", "procps", "hostname", "util-linux")
"""What every Debian has, as far as it matters here."""

HOSTNAME = "mail.example.com"

PATIENCE = 300.0
"""Seconds for a command; apt-get install fetches 60 MB."""

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}

_INIT = '$SIG{CHLD} = "IGNORE"; sleep 1000 while 1'
"""The first process, in Perl, which every Debian has: it buries the processes that nobody waits for."""


def installed() -> pathlib.Path:
    """Return a folder with an installed Debian, shared: copy it before you change anything.

    Raises:
        subprocess.CalledProcessError: apt or dpkg failed.
    """
    return roots.fetch(SUITE, PACKAGES, install=_install)


def _install(root: pathlib.Path, packages: Sequence[pathlib.Path]) -> None:
    """Have dpkg install packages that are unpacked already, with their maintainer scripts."""
    for name, numbers in _DEVICES.items():
        os.mknod(root / "dev" / name, 0o020666, os.makedev(*numbers))
        (root / "dev" / name).chmod(0o666)
    for name, target in {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        (root / "dev" / name).symlink_to(target)
    (root / "tmp").chmod(0o1777)
    for folder in ("info", "updates"):
        (root / "var/lib/dpkg" / folder).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/status").touch()
    _forbid_services(root)
    mirror = f"deb {roots.mirror()} {SUITE} main\n"
    (root / "etc/apt").mkdir(parents=True, exist_ok=True)
    (root / "etc/apt/sources.list").write_text(mirror)
    copies = root / "packages"
    copies.mkdir()
    for package in packages:
        shutil.copy(package, copies)
    with running(root) as machine:
        machine.run("dpkg --force-depends --install /packages/*.deb")
        machine.run("dpkg --configure --pending")
    shutil.rmtree(copies)


def _forbid_services(root: pathlib.Path) -> None:
    """Have maintainer scripts start nothing: what starts is up to the test."""
    path = root / "usr/sbin/policy-rc.d"
    path.write_text("#!/bin/sh\nexit 101\n")
    path.chmod(0o755)


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """What is looked at of a systemd unit."""

    settings: Mapping[str, tuple[str, ...]]
    """The values of each key, in order."""

    def all(self, key: str) -> tuple[str, ...]:
        """Return the values of a key."""
        return self.settings.get(key, ())

    def one(self, key: str, default: str = "") -> str:
        """Return the last value of a key."""
        return (default, *self.all(key))[-1]


def unit(text: str) -> Unit:
    """Read a unit; sections do not matter, as no key here is in two."""
    found: dict[str, tuple[str, ...]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";")):
            found[key] = (*found.get(key, ()), value)
    return Unit(found)


@dataclasses.dataclass
class Machine:
    """A Debian that processes run in; made by :func:`running`."""

    root: pathlib.Path
    first: int
    """The process that has its namespaces."""
    environment: dict[str, str]

    def command(self, text: str, variables: Mapping[str, str] | None = None, folder: str = "/") -> list[str]:
        """Return what runs a command line in it with a shell, as a child of its own."""
        settings = [f"{key}={value}" for key, value in {**self.environment, **(variables or {})}.items()]
        entering = [f"--{name}=/proc/{self.first}/ns/{file}" for name, file in _NAMESPACES]
        script = f"cd {shlex.quote(folder)} && {text}"
        return ["nsenter", *entering, "--", "chroot", str(self.root), "env", "-i", *settings, "sh", "-c", script]

    def run(
        self,
        text: str,
        variables: Mapping[str, str] | None = None,
        *,
        folder: str = "/",
        good: Container[int] = (0,),
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end.

        Raises:
            AssertionError: its exit code is none of the good ones; the text has what it said.
        """
        done = subprocess.run(
            self.command(text, variables, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode in good, f"{text}: exit code {done.returncode}\n{done.stdout[-4000:]}"
        return done

    def unit(self, name: str) -> Unit:
        """Return a unit, of the administrator or of a package."""
        folders = [self.root / folder for folder in ("etc/systemd/system", "usr/lib/systemd/system")]
        (path, *_) = [folder / name for folder in folders if (folder / name).exists()]
        return unit(path.read_text())


_NAMESPACES = (("mount", "mnt"), ("pid", "pid_for_children"), ("uts", "uts"))


@contextlib.contextmanager
def running(root: pathlib.Path, environment: Mapping[str, str] | None = None) -> Iterator[Machine]:
    """Run a machine in the network namespace of its caller.

    Args:
        root: an installed Debian, which is changed.
        environment: more variables for all its commands.
    """
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME} mail\n::1 localhost\n")
    (root / "etc/hostname").write_text(f"{HOSTNAME}\n")
    separate = ["--mount", "--pid", "--uts", "--fork", "--kill-child", f"--mount-proc={root / 'proc'}"]
    process = subprocess.Popen(
        ["unshare", *separate, "chroot", str(root), "perl", "-e", _INIT], stdin=subprocess.DEVNULL
    )
    try:
        machine = Machine(root, process.pid, {**_ENVIRONMENT, **(environment or {})})
        _wait(process, root)
        machine.run(f"hostname {HOSTNAME}")
        yield machine
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], root: pathlib.Path) -> None:
    """Wait until the first process runs in its root, behind its mounts."""
    deadline = time.monotonic() + mta.PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            (child,) = children(process.pid)
            if pathlib.Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"perl\0"):
                return
        time.sleep(mta.GLANCE)
    raise AssertionError(f"{root}: its first process does not start")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started: what :meth:`Machine.command` runs is one."""
    return [int(number) for number in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end(process: subprocess.Popen[bytes]) -> None:
    """End what :meth:`Machine.command` runs, as systemd does: asked first, killed if that does not help."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError):
            for child in children(process.pid):
                os.kill(child, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(mta.PATIENCE)
            return
