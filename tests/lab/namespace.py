"""A network namespace with nothing but loopback, on which documentation addresses live: nothing can leave it.

:func:`entered` takes the whole process in: processes and threads that it starts are inside, too; sockets made before
stay outside. Every server of the laboratory has an address of its own here, so that all can listen on ports 25 and
443. Sockets in files are not in a network namespace; the length of their queues is (``net.unix.max_dgram_qlen``).

Needs root on Linux and iproute2. To be used from the main thread, one at a time.
"""

import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator

CLONE_NEWNET = 0x40000000
"""Of <sched.h>."""

OURS = pathlib.Path("/proc/thread-self/ns/net")

QUEUE = pathlib.Path("/proc/sys/net/unix/max_dgram_qlen")
"""Datagrams that the kernel keeps for a socket that was made in this namespace."""

PATIENCE = 10
"""Seconds for ip."""


def missing() -> str | None:
    """Return what is lacking for a namespace; ``None``: nothing."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root: network namespaces need it"
    if shutil.which("ip") is None:
        return "no ip: apt-get install iproute2"
    try:
        with _unshared():
            return None
    except OSError as error:
        return f"no network namespace: {error}"


@contextlib.contextmanager
def entered(addresses: Iterable[str], *, queue: int = 512) -> Iterator[None]:
    """Be in a new network namespace.

    Args:
        addresses: IPv4 and IPv6, put on loopback.
        queue: datagrams that the kernel keeps for a socket; what docs and systemd set.
    """
    with _unshared():
        commands = ["link set lo up", *(f"address add {address} dev lo nodad" for address in addresses)]
        text = "\n".join(command if ":" in command else command.removesuffix(" nodad") for command in commands)
        subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True, timeout=PATIENCE)
        QUEUE.write_text(f"{queue}\n")
        yield


_outside: list[int] = []
"""The namespaces that were there before, open as long as we are in another; the first is that of the machine."""


@contextlib.contextmanager
def left() -> Iterator[None]:
    """Be outside of all for a while, wherever we are: packages are fetched there."""
    if not _outside:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    inside = os.open(OURS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.setns(_outside[0], CLONE_NEWNET))
        try:
            yield
        finally:
            _check(libc.setns(inside, CLONE_NEWNET))
    finally:
        os.close(inside)


@contextlib.contextmanager
def _unshared() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    _outside.append(os.open(OURS, os.O_RDONLY | os.O_CLOEXEC))
    try:
        _check(libc.unshare(CLONE_NEWNET))
        try:
            yield
        finally:
            _check(libc.setns(_outside[-1], CLONE_NEWNET))
    finally:
        os.close(_outside.pop())


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
