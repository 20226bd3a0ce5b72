"""Unix sockets: rights, stale files, live ones, and those that systemd hands over. Real sockets in a real directory."""

import errno
import grp
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policy import listeners

KINDS = [socket.SOCK_DGRAM, socket.SOCK_STREAM]

INHERITING = """
import os, socket, sys
from policy import listeners
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[1]}
assert listeners.systemd_sockets(environment, os.getpid() + 1) == []
try:
    sockets = listeners.systemd_sockets(environment, os.getpid())
except listeners.ListenError as error:
    sys.exit(str(error))
for sock in sockets:
    print(sock.fileno(), sock.type.name, sock.get_inheritable(), sock.getblocking())
print(listeners.choose(sockets, socket.AF_UNIX, socket.SOCK_STREAM).fileno())
print(listeners.choose(sockets, socket.AF_INET, socket.SOCK_STREAM))
"""

# id, variables, error or None for no sockets
VARIABLES = [
    ("no variables", {}, None),
    ("another process", {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, None),
    ("no process", {"LISTEN_FDS": "1"}, None),
    ("no sockets", {"LISTEN_PID": "7", "LISTEN_FDS": "0"}, None),
    ("no number", {"LISTEN_PID": "7", "LISTEN_FDS": "one"}, "LISTEN_FDS='one': not a number"),
    ("no count", {"LISTEN_PID": "7"}, "LISTEN_FDS='': not a number"),
    ("too many", {"LISTEN_PID": "7", "LISTEN_FDS": "1000"}, "LISTEN_FDS='1000': not a number up to 32"),
]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Return where a socket may be made; afterwards nothing but the socket is there."""
    path = tmp_path / "run" / "s.sock"
    yield path
    if path.parent.exists():
        assert [entry.name for entry in path.parent.iterdir() if entry != path] == []


def use(path: Path, kind: socket.SocketKind) -> None:
    """Connect."""
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_bound_socket_can_be_connected_to(path: Path, kind: socket.SocketKind) -> None:
    """The directory is made, the mode is the one asked for whatever the umask, and it works at once."""
    with listeners.bind_unix(path, kind, 0o620) as sock:
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        assert sock.getblocking()
        assert not sock.get_inheritable()
        use(path, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_stale_socket_is_taken_over(path: Path, kind: socket.SocketKind) -> None:
    """A file that a killed process left is replaced."""
    listeners.bind_unix(path, kind, 0o600).close()
    with pytest.raises(ConnectionRefusedError):
        use(path, kind)
    with listeners.bind_unix(path, kind, 0o660):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        use(path, kind)


@pytest.mark.parametrize("live", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_live_socket_is_left_alone(path: Path, kind: socket.SocketKind, live: socket.SocketKind) -> None:
    """A socket in use is not taken away, of whatever kind it is."""
    with listeners.bind_unix(path, live, 0o600):
        inode = path.stat().st_ino
        with pytest.raises(
            listeners.SocketBusyError, match=r"s\.sock: another process listens on this socket: stop it"
        ):
            listeners.bind_unix(path, kind, 0o600)
        assert path.stat().st_ino == inode
        use(path, live)


def test_busy_socket_with_a_full_backlog_is_live(path: Path) -> None:
    """That nobody can connect at the moment does not make it stale, and looking does not wait."""
    with listeners.bind_unix(path, socket.SOCK_STREAM, 0o600) as sock:
        sock.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))
            with pytest.raises(listeners.SocketBusyError):
                listeners.bind_unix(path, socket.SOCK_STREAM, 0o600)


@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_socket_is_never_removed(path: Path, link: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """Neither a file nor a link is ours to replace."""
    path.parent.mkdir()
    if link:
        path.symlink_to("/dev/null")
    else:
        path.write_text("precious")
    with pytest.raises(listeners.ListenError, match=r"s\.sock: there is a file that is no socket: move it away"):
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o600)
    assert path.is_symlink() if link else path.read_text() == "precious"


def test_group_by_name_and_number(path: Path) -> None:
    """The group of the process by its name and its number; another one where root may give it."""
    own = os.getgid()
    for group in (grp.getgrgid(own).gr_name, str(own), *(["12345"] if os.geteuid() == 0 else [])):
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o660, group).close()
        assert path.stat().st_gid == (int(group) if group.isdigit() else own)


@pytest.mark.parametrize("group", ["no-such-group", "-1", "99999999999999999999", "\u0661"])
def test_unknown_group_is_named(path: Path, group: str) -> None:
    """The error tells which, and nothing is made."""
    with pytest.raises(listeners.ListenError, match=f"there is no group '{group}': create it"):
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o660, group)
    assert not path.exists()


def test_longest_path(tmp_path: Path) -> None:
    """107 bytes work, 108 are an error that says so."""
    name = "s" * (listeners.MAX_PATH - len(os.fsencode(tmp_path)) - 1)
    listeners.bind_unix(tmp_path / name, socket.SOCK_DGRAM, 0o600).close()
    with pytest.raises(listeners.ListenError, match="the path of a socket has at most 107 bytes"):
        listeners.bind_unix(tmp_path / f"{name}s", socket.SOCK_DGRAM, 0o600)


@pytest.mark.parametrize("path", ["", "/"])
def test_no_path(path: str) -> None:
    """A path without a file name is no crash."""
    with pytest.raises(listeners.ListenError, match="give one with a file name"):
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o600)


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """The error names the path and what is wrong."""
    (tmp_path / "file").write_text("")
    with pytest.raises(listeners.ListenError, match=r"file/s\.sock: cannot be bound: File exists: look at"):
        listeners.bind_unix(tmp_path / "file" / "s.sock", socket.SOCK_DGRAM, 0o600)


def test_directory_that_cannot_be_written() -> None:
    """Without the right to write there the error tells what is needed."""
    with pytest.raises(listeners.ListenError, match=r"s\.sock: cannot be bound: .*: (let|look)"):
        listeners.bind_unix("/proc/self/s.sock", socket.SOCK_DGRAM, 0o600)


def test_unlink_of_a_missing_file_is_no_error(path: Path) -> None:
    """Whoever removed it, it is gone."""
    listeners.bind_unix(path, socket.SOCK_DGRAM, 0o600).close()
    listeners.unlink(path)
    listeners.unlink(path)
    assert not path.exists()


@pytest.mark.parametrize(("variables", "error"), [pytest.param(*row[1:], id=row[0]) for row in VARIABLES])
def test_variables_of_systemd(variables: dict[str, str], error: str | None) -> None:
    """Variables that are not for us, or make no sense."""
    if error is None:
        assert listeners.systemd_sockets(variables, 7) == []
    else:
        with pytest.raises(listeners.ListenError, match=error):
            listeners.systemd_sockets(variables, 7)


def inherit(*descriptors: int) -> subprocess.CompletedProcess[str]:
    """Run a process that finds these descriptors from 3 on, as systemd does it."""
    count = len(descriptors)
    redirections = " ".join(f"{3 + n}<&{descriptor}" for n, descriptor in enumerate(descriptors))
    command = f'exec "$0" -c "$1" {count} {redirections}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, INHERITING],
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_sockets_of_systemd(path: Path, tmp_path: Path) -> None:
    """They are found, do not go to children, block, and are chosen by their kind."""
    with (
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o600) as datagrams,
        listeners.bind_unix(tmp_path / "t", socket.SOCK_STREAM, 0o600) as stream,
    ):
        datagrams.setblocking(False)
        done = inherit(datagrams.fileno(), stream.fileno())
    expected = ["3 SOCK_DGRAM False True", "4 SOCK_STREAM False True", "4", "None"]
    assert (done.stderr, done.stdout.splitlines()) == ("", expected)


def test_descriptor_of_systemd_that_is_no_socket() -> None:
    """A wrong unit file is told in one line."""
    with Path("/dev/null").open() as file:
        done = inherit(file.fileno())
    assert done.stderr.strip() == f"LISTEN_FDS: descriptor 3 is no socket: {os.strerror(errno.ENOTSOCK)}"
