"""Look at everything of some roles, side by side; what takes too long or fails is said to, and stops nothing else.

What blocks (a disk that is gone, a database that is locked) has a thread that is left behind, so that it holds up
neither the others nor the end of the command.
"""

import asyncio
import contextlib
import datetime as dt
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from sender import config, daily
from sender.check import database, findings, follower, machine, names, postfix, relay, sockets

PATIENCE = 12.0
"""Seconds for one subject: more than each of its time-outs; with the start of the command, a person waits 15."""

LIBC_RESOLVER = "timeout:2 attempts:2"
"""For host names that the C library looks up (RES_OPTIONS, resolv.conf(5)): with three dead servers its own 5 seconds
become 30, and nothing can stop it."""

RECORDER, POLICY, REPORTER, FOLLOWER = "recorder", "policy", "reporter", "follower"

ROLES = (RECORDER, POLICY, REPORTER)


async def look(
    settings: config.Config, roles: Sequence[str], patience: float = PATIENCE, *, alive: bool = False
) -> list[findings.Finding]:
    """Return what was found, in the order of the way of the data.

    Args:
        settings: of the installation.
        roles: of this host.
        patience: seconds for one subject.
        alive: look at the sockets only.

    Raises:
        config.ConfigError: the configuration cannot be used; one line.
    """
    os.environ.setdefault("RES_OPTIONS", LIBC_RESOLVER)
    subjects = list(_sockets(settings, roles) if alive else _subjects(settings, roles))
    looking = (_guarded(name, subject, patience) for name, subject in subjects)
    return [finding for found in await asyncio.gather(*looking) for finding in found]


Subject = Callable[[], AsyncIterator[findings.Finding]]


def _subjects(settings: config.Config, roles: Sequence[str]) -> Iterator[tuple[str, Subject]]:
    now = dt.datetime.now(dt.UTC)
    if RECORDER in roles:
        yield "machine", _in_thread(lambda: machine.look(settings))
    yield from _sockets(settings, roles)
    if POLICY in roles:
        yield "dnssec", lambda: _one(names.validates(settings))
    if FOLLOWER in roles:
        yield "follower-log", _in_thread(lambda: follower.look(settings))
    if RECORDER in roles or POLICY in roles:
        yield "postfix", _in_thread(lambda: postfix.look(settings))
    if RECORDER in roles or REPORTER in roles:
        yield "store", _in_thread(lambda: database.look(settings, now))
    if REPORTER in roles:
        identity = config.identity(settings)
        signer = daily.load_signer(settings, identity)
        yield "dns", lambda: names.look(settings, identity, signer)
        yield "relay", lambda: _one(relay.look(settings, identity.domain))


def _sockets(settings: config.Config, roles: Sequence[str]) -> Iterator[tuple[str, Subject]]:
    if RECORDER in roles:
        yield "recorder-socket", _in_thread(lambda: sockets.recorder(settings))
    if POLICY in roles:
        yield "policy-socket", _in_thread(lambda: sockets.policy(settings))


async def _guarded(name: str, subject: Subject, patience: float) -> list[findings.Finding]:
    found: list[findings.Finding] = []
    try:
        async with asyncio.timeout(patience):
            async for finding in subject():
                found.append(finding)  # noqa: PERF401 - what was found is kept if a later one fails
    except TimeoutError:
        cure = "something hangs: run it again, then look at what is named here"
        found.append(findings.warning(name, f"it took longer than {patience:g} seconds to look", cure))
    except config.ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - the others are told all the same
        what = " ".join(f"{type(error).__name__}: {error}".split())
        found.append(findings.error(name, f"looking failed: {what}", "a fault of tlsrpt, perhaps: please report it"))
    return found


def _in_thread(look: Callable[[], Iterator[findings.Finding]]) -> Subject:
    return lambda: _threaded(look)


async def _threaded(look: Callable[[], Iterator[findings.Finding]]) -> AsyncIterator[findings.Finding]:
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[findings.Finding | Exception | None] = asyncio.Queue()

    def tell(one: findings.Finding | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(told.put_nowait, one)

    def work() -> None:
        try:
            for finding in look():
                tell(finding)
        except Exception as error:  # noqa: BLE001 - raised where somebody waits for it
            tell(error)
        else:
            tell(None)

    threading.Thread(target=work, daemon=True).start()
    while (one := await told.get()) is not None:
        if isinstance(one, Exception):
            raise one
        yield one


async def _one(finding: Awaitable[findings.Finding]) -> AsyncIterator[findings.Finding]:
    yield await finding
