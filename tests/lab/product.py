"""tlsrpt as it runs at a site: the real commands, with a configuration for the laboratory.

:func:`serving` runs ``tlsrpt serve`` with its sockets in a Postfix's queue directory; :class:`Tlsrpt` runs other
commands with the same configuration and tells the processes of the roles apart.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sender.demo import certificates
from tests.lab import mta, postfix, sites

CHECKOUT = pathlib.Path(__file__).parents[2]

SELECTOR = "tlsrpt"
"""Of the DKIM key."""

PATIENCE = 30.0
"""Seconds for a command or a start."""


@dataclasses.dataclass
class Tlsrpt:
    """A configuration, and ``tlsrpt serve`` that may run with it."""

    folder: pathlib.Path
    queue: pathlib.Path
    """The queue directory that has the sockets."""
    process: subprocess.Popen[bytes] | None = None
    programs: pathlib.Path | None = None
    """A folder with programs that it finds before the machine's."""

    @property
    def config(self) -> pathlib.Path:
        """The configuration file."""
        return self.folder / "tlsrpt.toml"

    @property
    def recorder_socket(self) -> pathlib.Path:
        """Where sessions go to."""
        return self.queue / "run/tlsrpt/tlsrpt.sock"

    @property
    def policy_socket(self) -> pathlib.Path:
        """Where policies come from."""
        return self.queue / "run/tlsrpt/policy.sock"

    def write(
        self,
        nameserver: str,
        authority: certificates.Authority,
        key: certificates.DkimKey,
        more: Mapping[str, Mapping[str, object]] | None = None,
    ) -> None:
        """Write the configuration and the files that it names."""
        ca_file, dkim_file = self.folder / "ca.pem", self.folder / "dkim.pem"
        authority.write_ca(ca_file)
        dkim_file.touch(mode=0o600)
        dkim_file.write_bytes(key.private_pem)
        group = str(postfix.POSTFIX)
        sections: dict[str, dict[str, object]] = {
            "organization": {
                "name": "Sender Example Inc.",
                "domain": sites.ORGANIZATION,
                "contact": f"tls-reports@{sites.ORGANIZATION}",
            },
            "recorder": {
                "socket": str(self.recorder_socket),
                "socket_group": group,
                "journal": str(self.folder / "journal"),
            },
            "store": {"url": f"sqlite:///{self.folder / 'tlsrpt.db'}"},
            "policy": {
                "listen": [f"unix:{self.policy_socket}"],
                "socket_group": group,
                "cache": str(self.folder / "policy.db"),
            },
            "dns": {"nameservers": [nameserver]},
            "mail": {"relay": "smtp://127.0.0.1:25", "dkim_selector": SELECTOR, "dkim_key": str(dkim_file)},
            "https": {"ca_file": str(ca_file), "allow_private": True},
        }
        for name, values in (more or {}).items():
            sections.setdefault(name, {}).update(values)
        self.config.write_text("".join(map(_section, sections.items())))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [sys.executable, "-m", "sender", *arguments, "--config", str(self.config)]
        return subprocess.run(
            command,
            cwd=CHECKOUT,
            env=self._environment(),
            text=True,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *roles: str) -> None:
        """Start ``tlsrpt serve``, and wait until its sockets are there."""
        command = [sys.executable, "-m", "sender", "serve", *roles, "--log", "json", "--config", str(self.config)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wanted = {"recorder": self.recorder_socket, "policy": self.policy_socket}
        self.wait(lambda: all(path.is_socket() for role, path in wanted.items() if role in roles))
        if "follower" in roles:
            self.wait(lambda: any(row["event"] == "follower started" for row in self.events()))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, all of its processes at once for SIGKILL; return the exit code of the supervisor."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        path = self.folder / "serve.log"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n") and line.startswith(b"{")]

    def journal(self) -> list[str]:
        """Return what was recorded, as it stands in the recorder's journal."""
        paths = sorted((self.folder / "journal").glob("2*.ndjson"))
        return [line for path in paths for line in path.read_text().splitlines()]

    def pid(self, role: str) -> int:
        """Return the process that a role is now."""
        return [int(row["pid"]) for row in self.events() if row["event"] == "started" and row["role"] == role][-1]

    def signal(self, role: str, number: signal.Signals) -> None:
        """Send a signal to the process of a role."""
        os.kill(self.pid(role), number)

    def wait(self, true: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Wait until something is true.

        Raises:
            AssertionError: it takes too long, or tlsrpt has ended; the text has its log.
        """
        deadline = time.monotonic() + patience
        while not true():
            ended = self.process.poll() if self.process is not None else None
            if ended is not None or time.monotonic() > deadline:
                raise AssertionError(f"waited in vain (exit code {ended}): {self.events()[-20:]}")
            time.sleep(mta.GLANCE)

    def _environment(self) -> dict[str, str]:
        """Return this process's environment, without what would override the configuration."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TLSRPT_")}
        path = os.pathsep.join(map(str, filter(None, (self.programs, kept.get("PATH")))))
        return {**kept, "PATH": path, "PYTHONPATH": str(CHECKOUT)}


@contextlib.contextmanager
def serving(
    folder: pathlib.Path,
    queue: pathlib.Path,
    nameserver: str,
    authority: certificates.Authority,
    key: certificates.DkimKey,
    roles: tuple[str, ...] = ("recorder", "policy"),
    *,
    more: Mapping[str, Mapping[str, object]] | None = None,
    programs: pathlib.Path | None = None,
) -> Iterator[Tlsrpt]:
    """Run ``tlsrpt serve`` in this network namespace.

    Args:
        folder: an existing folder for its files.
        queue: Postfix's queue directory, or what else is to have the sockets.
        nameserver: ``HOST:PORT``.
        authority: whom it trusts.
        key: for DKIM.
        roles: which.
        more: values for its configuration, by section.
        programs: a folder with programs that it finds before the machine's.
    """
    tlsrpt = Tlsrpt(folder, queue, programs=programs)
    tlsrpt.write(nameserver, authority, key, more)
    try:
        tlsrpt.start(*roles)
        yield tlsrpt
    finally:
        if tlsrpt.process is not None:
            _kill(tlsrpt.process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left, also what is stopped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _section(section: tuple[str, Mapping[str, object]]) -> str:
    name, values = section
    return "".join([f"[{name}]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in values.items())])
