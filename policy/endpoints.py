"""The sockets of ``policy.listen``: bound by ourselves, or handed over by systemd.

A rim, beside ``policy.listeners``, which knows Unix sockets. :func:`parse` reads an item, :func:`listen` makes sockets
that listen, for ``policy.server``.

Known limits: a name stands for all its addresses at the time of binding, each with a socket of its own.
"""

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from policy import listeners

BACKLOG = 1024
"""Connections that may wait to be accepted: all processes of a Postfix that was just started."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """``unix:PATH``."""

    path: Path


@dataclass(frozen=True, slots=True)
class InetAddress:
    """``inet:HOST:PORT``."""

    host: str
    """A name or an address, IPv6 without its brackets."""
    port: int


_INET = re.compile(r"inet:(?:\[(?P<ip>[^\[\]]+)\]|(?P<host>[^:\[\]/ ]+)):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65535


def parse(text: str, key: str = "policy.listen") -> UnixAddress | InetAddress:
    """Read an address to listen on; ``key`` is that of the configuration.

    Raises:
        ValueError: it is neither of the two; the text names key, value and cure.
    """
    kind, _, path = text.partition(":")
    if kind == "unix" and Path(path).name:
        return UnixAddress(Path(path))
    match = _INET.fullmatch(text)
    if match and 0 < int(match["port"]) <= _MAX_PORT:
        return InetAddress(match["ip"] or match["host"], int(match["port"]))
    cure = 'give "unix:PATH" or "inet:HOST:PORT", for example "inet:127.0.0.1:8461" or "inet:[::1]:8461"'
    raise ValueError(f'{key}: "{text}": {cure}')


def parse_all(addresses: Iterable[str]) -> list[UnixAddress | InetAddress]:
    """Read ``policy.listen``.

    Raises:
        ValueError: an address cannot be read, or there is none.
    """
    parsed = [parse(text) for text in addresses]
    if not parsed:
        raise ValueError('policy.listen is empty: give at least one address, for example "inet:127.0.0.1:8461"')
    return parsed


@dataclass(frozen=True, slots=True)
class Listening:
    """Sockets that listen."""

    sockets: tuple[socket.socket, ...]
    own_paths: tuple[Path, ...]
    """Socket files that are ours to remove, not systemd's."""

    def close(self) -> None:
        """Stop to listen."""
        for path in self.own_paths:
            listeners.unlink(path)
        for sock in self.sockets:
            sock.close()


def listen(
    addresses: Iterable[str], inherited: Sequence[socket.socket] = (), *, mode: int = 0o666, group: str = ""
) -> Listening:
    """Return the sockets to serve on.

    Unix stream sockets of systemd replace all ``unix:`` addresses, whatever their path; a TCP socket of systemd
    replaces the ``inet:`` addresses with its port. Other sockets of systemd are somebody else's.

    Args:
        addresses: items of ``policy.listen``.
        inherited: sockets that systemd handed over.
        mode: of a socket file.
        group: of a socket file; empty: that of the process.

    Raises:
        ValueError: an address cannot be read, or there is none.
        ListenError: one cannot be had.
    """
    parsed = parse_all(addresses)
    streams = [sock for sock in inherited if sock.type == socket.SOCK_STREAM]
    sockets: dict[socket.socket, None] = {}
    paths: list[Path] = []
    try:
        for address in parsed:
            found = [sock for sock in streams if _replaces(sock, address)]
            sockets.update(dict.fromkeys(found or _bind(address, mode, group)))
            if isinstance(address, UnixAddress) and not found:
                paths.append(address.path)
    except BaseException:
        Listening(tuple(sock for sock in sockets if sock not in streams), tuple(paths)).close()
        raise
    return Listening(tuple(sockets), tuple(paths))


def _replaces(sock: socket.socket, address: UnixAddress | InetAddress) -> bool:
    if isinstance(address, UnixAddress):
        return sock.family == socket.AF_UNIX
    return sock.family in {socket.AF_INET, socket.AF_INET6} and sock.getsockname()[1] == address.port


def _bind(address: UnixAddress | InetAddress, mode: int, group: str) -> list[socket.socket]:
    if isinstance(address, UnixAddress):
        return [listeners.bind_unix(address.path, socket.SOCK_STREAM, mode, group)]
    bound: list[socket.socket] = []
    try:
        for family, kind, _, _, name in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
            bound.append(_bind_tcp(family, kind, name))
    except OSError as error:
        for sock in bound:
            sock.close()
        shown = f"[{address.host}]" if ":" in address.host else address.host
        cure = "stop what listens there, or choose another address"
        raise listeners.ListenError(
            f"inet:{shown}:{address.port}: cannot be bound: {error.strerror}: {cure}"
        ) from error
    return bound


def _bind_tcp(family: int, kind: int, name: object) -> socket.socket:
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)  # type: ignore[arg-type]  # as getaddrinfo gave it
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
