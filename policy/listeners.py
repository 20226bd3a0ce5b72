"""The rim to Unix sockets: bind one with the right rights, take over a stale one, accept those systemd hands over.

A socket file is made under a temporary name and moved into place, so that it never exists with wrong rights,
and a stale one (its process died) is replaced in one step. A socket that somebody listens on, and a file that is
no socket, are never touched. Socket activation is that of sd_listen_fds(3).

Known limits: two processes that take over the same stale file in the same moment both succeed, and the later has it;
who can be started twice needs a lock of its own. ``ss -x`` shows the temporary name.
"""

import asyncio
import contextlib
import errno
import grp
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

MAX_PATH = 107
"""Bytes of a socket's path (``sun_path`` in unix(7), less the final NUL)."""

BACKLOG = 128
"""Connections that may wait to be accepted on a stream socket; a server may listen again with another number."""

MAX_INHERITED = 32
"""Sockets taken from systemd; a unit of this project has two."""

FIRST_INHERITED = 3
"""The first descriptor that systemd hands over (``SD_LISTEN_FDS_START``)."""


class ListenError(Exception):
    """The socket cannot be had; the text is one line that names path, cause and cure."""


class SocketBusyError(ListenError):
    """Somebody listens on it."""


def bind_unix(path: Path | str, kind: socket.SocketKind, mode: int, group: str = "") -> socket.socket:
    """Return a blocking Unix socket bound to a path; a stream socket listens already.

    Args:
        path: of the socket file; its directory is created when missing.
        kind: ``SOCK_DGRAM`` or ``SOCK_STREAM``.
        mode: of the file, for example ``0o660``; who may write may connect.
        group: name or number of the file's group; empty: that of the process.

    Raises:
        SocketBusyError: somebody listens on it.
        ListenError: it cannot be bound.
    """
    path = Path(path)
    if not path.name:
        raise ListenError(f"{path}: this is no path of a socket: give one with a file name")
    temporary = path.with_name(f".{os.getpid():x}")
    if max(len(os.fsencode(path)), len(os.fsencode(temporary))) > MAX_PATH:
        raise ListenError(f"{path}: the path of a socket has at most {MAX_PATH} bytes: choose a shorter one")
    gid = group_id(group)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_free(path, kind)
        return _bind(temporary, path, kind, mode, gid)
    except OSError as error:
        raise ListenError(f"{path}: cannot be bound: {error.strerror}: {_cure(error, path)}") from error


def unlink(path: Path | str) -> None:
    """Remove a socket file of our own, so that nobody connects any more; errors do not matter at that point."""
    with contextlib.suppress(OSError):
        Path(path).unlink()


def systemd_sockets(environment: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Return the sockets that systemd handed over; none when it was not us that it started.

    To be called once: each call makes new socket objects of the same descriptors.

    Args:
        environment: with ``LISTEN_PID`` and ``LISTEN_FDS``.
        pid: of the process they must be meant for.

    Raises:
        ListenError: a descriptor is no socket, or the variables make no sense.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return []
    text = environment.get("LISTEN_FDS", "")
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_INHERITED):
        raise ListenError(f"LISTEN_FDS={text!r}: not a number up to {MAX_INHERITED}: leave it to systemd")
    return [_inherited(descriptor) for descriptor in range(FIRST_INHERITED, FIRST_INHERITED + int(text))]


async def accept(sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], backlog: int) -> asyncio.Server:
    """Serve the connections of a stream socket, Unix or TCP; its file stays when the server is closed.

    Args:
        sock: bound.
        protocol: makes one for each connection.
        backlog: connections that may wait to be accepted.
    """
    loop = asyncio.get_running_loop()
    if sock.family != socket.AF_UNIX:
        return await loop.create_server(protocol, sock=sock, backlog=backlog)
    if sys.version_info >= (3, 13):  # where Python would remove the socket file, which may be another's by then
        return await loop.create_unix_server(protocol, sock=sock, backlog=backlog, cleanup_socket=False)
    return await loop.create_unix_server(protocol, sock=sock, backlog=backlog)


def choose(
    sockets: Iterable[socket.socket], family: socket.AddressFamily, kind: socket.SocketKind
) -> socket.socket | None:
    """Return the first socket of a family and kind; ``None`` when there is none."""
    return next((sock for sock in sockets if (sock.family, sock.type) == (family, kind)), None)


_GROUP_NUMBER = re.compile(r"[0-9]{1,9}\Z")


def group_id(group: str) -> int:
    """Return the number of a group given by name or number; -1, which means no change, for an empty text.

    Raises:
        ListenError: there is no such group.
    """
    if not group:
        return -1
    try:
        return int(group) if _GROUP_NUMBER.match(group) else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ListenError(f"there is no group {group!r}: create it, or name another one") from error


def _check_free(path: Path, kind: socket.SocketKind) -> None:
    """Raise unless there is nothing at the path, or a socket that nobody listens on."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{path}: there is a file that is no socket: move it away, or choose another path")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(os.fspath(path))
    if result in {errno.ECONNREFUSED, errno.ENOENT}:
        return
    if result in {0, errno.EAGAIN, errno.EPROTOTYPE}:
        raise SocketBusyError(f"{path}: another process listens on this socket: stop it, or choose another path")
    raise OSError(result, os.strerror(result))


def _bind(temporary: Path, path: Path, kind: socket.SocketKind, mode: int, group_id: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        temporary.unlink(missing_ok=True)
        sock.bind(os.fspath(temporary))
        os.chown(temporary, -1, group_id)
        temporary.chmod(mode)
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
        temporary.replace(path)
    except BaseException:
        sock.close()
        unlink(temporary)
        raise
    return sock


def _cure(error: OSError, path: Path) -> str:
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"let this user write {path.parent} and be a member of the socket's group"
    if error.errno == errno.EROFS:
        return f"let this service write {path.parent} (ReadWritePaths= in systemd)"
    return f"look at {path.parent}"


def _inherited(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"LISTEN_FDS: descriptor {descriptor} is no socket: {error.strerror}") from error
    sock.setblocking(True)
    return sock
