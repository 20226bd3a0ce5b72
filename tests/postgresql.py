"""A real PostgreSQL of the tests' own: in a folder, on a Unix socket and where wanted on loopback or in a namespace."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping

PROGRAMS = pathlib.Path("/usr/lib/postgresql")
"""Where Debian has them, a folder for each version."""

SETTINGS = {
    "fsync": "off",  # the machine does not crash in a test
    "max_connections": "200",
    "unix_socket_permissions": "0777",
    "timezone": "Pacific/Kiritimati",  # as far from UTC as can be: nothing may depend on it
    "log_min_messages": "warning",
}


@functools.cache
def programs() -> pathlib.Path | None:
    """Return the folder of PostgreSQL's programs; ``None`` where it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return pathlib.Path(found).resolve().parent
    folders = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    return next((path for path in reversed(folders) if (path / "initdb").exists()), None)


def _user() -> str | None:
    """Return whom the server runs as: PostgreSQL refuses to be root."""
    if os.geteuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@dataclasses.dataclass
class Server:
    """A server that :func:`start` started."""

    folder: pathlib.Path
    listen: str
    """Address for TCP; empty: the Unix socket only."""
    prefix: tuple[str, ...] = ()
    """Of the command that starts it: the network namespace it is in."""

    PORT = 5432

    def url(self, database: str) -> str:
        """Return ``store.url`` for a database, over the Unix socket."""
        return f"postgresql://tlsrpt@/{database}?host={self.folder}"

    def run(self, sql: str, database: str = "postgres") -> list[str]:
        """Run SQL as the owner of everything; the lines it gives, columns parted by ``|``."""
        done = subprocess.run(
            [str(_program("psql")), "-XAtq", "-h", str(self.folder), "-U", "tlsrpt", "-c", sql, database],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.splitlines()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._control("start", "-w", "-t", "30", "-l", str(self.folder / "log"), prefix=self.prefix)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``smart``, ``fast`` or ``immediate`` (as a crash does)."""
        self._control("stop", "-m", mode)

    def restart(self) -> None:
        """Stop it as a crash does, and start it again."""
        self.stop("immediate")
        self.start()

    def promote(self) -> None:
        """Make a standby the primary."""
        self._control("promote", "-w", "-t", "30")

    def wait_until_caught_up(self, primary: "Server") -> None:
        """Wait until a standby has all that its primary has."""
        (position,) = primary.run("SELECT pg_current_wal_lsn()")
        deadline = time.monotonic() + 30
        while self.run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != ["t"]:
            assert time.monotonic() < deadline, "the standby does not follow"

    def _control(self, verb: str, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        command = (str(_program("pg_ctl")), verb, "-D", str(self.folder / "data"), *arguments)
        _run(*command, prefix=prefix)


def _program(name: str) -> pathlib.Path:
    folder = programs()
    assert folder is not None, "PostgreSQL is not installed"
    return folder / name


def _run(*command: str, prefix: tuple[str, ...] = ()) -> None:
    user = _user()
    as_user = () if user is None else ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups")
    done = subprocess.run(
        [*prefix, *as_user, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the server
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}"


@contextlib.contextmanager
def start_standby(primary: Server) -> Iterator[Server]:
    """Run a standby of a server, which follows it over its Unix socket."""
    with _folder() as folder:
        source = ("-h", str(primary.folder), "-U", "tlsrpt", "-D", str(folder / "data"))
        _run(str(_program("pg_basebackup")), *source, "-R", "-c", "fast", "--no-sync")
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{folder}'\n")
        with _running(Server(folder, "")) as server:
            yield server


@contextlib.contextmanager
def start(settings: Mapping[str, str] = {}, *, listen: str = "", prefix: tuple[str, ...] = ()) -> Iterator[Server]:
    """Run a server in a folder of its own until the end of the context.

    Args:
        settings: for ``postgresql.conf``, beyond :data:`SETTINGS`.
        listen: address for TCP; empty: the Unix socket only.
        prefix: of the command that starts it.
    """
    with _folder() as folder:
        options = ("-U", "tlsrpt", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        _run(str(_program("initdb")), "-D", str(folder / "data"), *options)
        lines = {**SETTINGS, "listen_addresses": listen, "unix_socket_directories": str(folder), **settings}
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        if listen:
            with (folder / "data" / "pg_hba.conf").open("a") as file:
                file.write("host all all 0.0.0.0/0 trust\n")
        with _running(Server(folder, listen, prefix)) as server:
            yield server


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tlsrpt-pg-"))  # short: the path of a socket has 107 octets
    try:
        if (user := _user()) is not None:
            shutil.chown(folder, user)
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        with contextlib.suppress(AssertionError):  # a test may have left it stopped
            server.stop("immediate")
