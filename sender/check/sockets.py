"""The sockets: somebody listens, and Postfix may connect."""

import contextlib
import dataclasses
import grp
import os
import pathlib
import pwd
import socket
import stat
from collections.abc import Iterator, Sequence

from policy import endpoints, socketmap
from sender import config
from sender.check import findings

POSTFIX = ("postfix",)
"""The user that Postfix connects as."""

EXIM = ("Debian-exim", "exim")
"""The users that Exim connects as, by distribution."""

TIMEOUT = 2.0
"""Seconds for a connection, and for an answer, on the same machine."""

QUESTION = socketmap.reply(b"CHECK localhost")
"""A map that the policy socket does not have: it says so at once, and looks nothing up."""

MAX_ANSWER = 1024
"""Octets of the answer to that, which has some thirty."""


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """Somebody who is to connect."""

    name: str
    group: str
    """That he logs in with."""
    uid: int
    gids: frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Rights:
    """Who may do what with a file, as ``stat`` tells."""

    mode: int
    uid: int
    gid: int


def may(user: User, rights: Rights, wanted: int) -> bool:
    """Tell whether somebody has rights on a file.

    Args:
        user: who.
        rights: of the file.
        wanted: bits of read (4), write (2), execute or search (1).
    """
    if user.uid == 0:
        return True
    shift = 6 if user.uid == rights.uid else 3 if rights.gid in user.gids else 0
    return (rights.mode >> shift) & wanted == wanted


def mta(names: Sequence[str]) -> User | None:
    """Return the first user of some that there is on this machine; ``None``: none."""
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            groups = {group.gr_gid for group in grp.getgrall() if name in group.gr_mem}
            return User(name, grp.getgrgid(entry.pw_gid).gr_name, entry.pw_uid, frozenset({entry.pw_gid, *groups}))
    return None


def recorder(settings: config.Config) -> Iterator[findings.Finding]:
    """Look at where session results come in."""
    yield _file("recorder-socket", pathlib.Path(settings.recorder.socket), socket.SOCK_DGRAM, mta(POSTFIX))
    if settings.recorder.exim_socket:
        yield _file("exim-socket", pathlib.Path(settings.recorder.exim_socket), socket.SOCK_STREAM, mta(EXIM))


def policy(settings: config.Config) -> Iterator[findings.Finding]:
    """Look at where policies are asked for."""
    for address in endpoints.parse_all(settings.policy.listen):
        if isinstance(address, endpoints.UnixAddress):
            yield _file("policy-socket", address.path, socket.SOCK_STREAM, mta(POSTFIX))
        else:
            yield _port(address)


def _port(address: endpoints.InetAddress) -> findings.Finding:
    id_, where = "policy-socket", f"{address.host}:{address.port}"
    try:
        with socket.create_connection((address.host, address.port), timeout=TIMEOUT) as probe:
            return _dumb(probe, where) or findings.ok(id_, f"the policy socket answers at {where}")
    except OSError as error:
        return findings.error(id_, f"nobody listens at {where}: {error.strerror or error}", "tlsrpt serve policy")


def _dumb(probe: socket.socket, where: str) -> findings.Finding | None:
    """Ask a policy socket something; ``None``: it answers."""
    try:
        probe.sendall(QUESTION)
        if probe.recv(MAX_ANSWER):
            return None
        why = "closes the connection"
    except OSError as error:
        why = error.strerror or str(error)
    found = f"whoever listens at {where} does not answer ({why}): Postfix keeps its mail in the queue"
    return findings.error("policy-socket", found, "restart tlsrpt serve policy; its log tells why")


def _file(id_: str, path: pathlib.Path, kind: socket.SocketKind, user: User | None) -> findings.Finding:
    role = "policy" if id_ == "policy-socket" else "recorder"
    start = f"tlsrpt serve {role}"
    try:
        status = path.stat()
    except FileNotFoundError:
        return findings.error(id_, f"there is no socket at {path}", start)
    except OSError as error:
        return findings.unknown(id_, f"{path}: {error.strerror}: run tlsrpt check as the user that tlsrpt runs as")
    if not stat.S_ISSOCK(status.st_mode):
        return findings.error(id_, f"{path} is no socket", f"rm {path}, then {start}")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.settimeout(TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except PermissionError:
            return findings.unknown(id_, f"{path}: run tlsrpt check as root or as the user that tlsrpt runs as")
        except OSError as error:
            return findings.error(id_, f"nobody listens at {path}: {error.strerror or error}", start)
        dumb = _dumb(probe, str(path)) if role == "policy" else None
    return dumb or _reachable(id_, path, user, role)


def _reachable(id_: str, path: pathlib.Path, user: User | None, role: str) -> findings.Finding:
    if user is None:
        return findings.ok(id_, f"somebody listens at {path}")
    for directory in reversed(path.parents):
        if not may(user, _rights(directory), 1):
            return findings.error(id_, f"{user.name} may not enter {directory}", f"chmod o+x {directory}")
    if not may(user, _rights(path), 2):
        cure = f'set {role}.socket_group = "{user.group}" (and {role}.socket_mode = "0660"), then restart tlsrpt'
        return findings.error(id_, f"{user.name} may not write to {path}", cure)
    return findings.ok(id_, f"{user.name} may connect to {path}, and somebody listens")


def _rights(path: pathlib.Path) -> Rights:
    status = path.stat()
    return Rights(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
