"""Look at everything of some roles, side by side; what takes too long is said to."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

from sender import config, daily
from sender.check import database, findings, machine, names, postfix, relay, sockets

PATIENCE = 15.0
"""Seconds for one subject: more than each of its time-outs, less than a person waits."""

RECORDER, POLICY, REPORTER = "recorder", "policy", "reporter"

ROLES = (RECORDER, POLICY, REPORTER)


async def look(settings: config.Config, roles: Sequence[str]) -> list[findings.Finding]:
    """Return what was found, in the order of the way of the data.

    Args:
        settings: of the installation.
        roles: of this host.

    Raises:
        config.ConfigError: the configuration cannot be used; one line.
    """
    subjects = list(_subjects(settings, roles))
    looking = (_guarded(name, subject) for name, subject in subjects)
    return [finding for found in await asyncio.gather(*looking) for finding in found]


Subject = Callable[[], Awaitable[list[findings.Finding]]]


def _subjects(settings: config.Config, roles: Sequence[str]) -> Iterator[tuple[str, Subject]]:
    now = dt.datetime.now(dt.UTC)
    if RECORDER in roles:
        yield "machine", _in_thread(lambda: machine.look(settings))
        yield "recorder-socket", _in_thread(lambda: sockets.recorder(settings))
    if POLICY in roles:
        yield "policy-socket", _in_thread(lambda: sockets.policy(settings))
        yield "dnssec", lambda: _one(names.validates(settings))
    if RECORDER in roles or POLICY in roles:
        yield "postfix", _in_thread(lambda: postfix.look(settings))
    if RECORDER in roles or REPORTER in roles:
        yield "store", _in_thread(lambda: database.look(settings, now))
    if REPORTER in roles:
        identity = config.identity(settings)
        signer = daily.load_signer(settings, identity)
        yield "dns", lambda: _all(names.look(settings, identity, signer))
        yield "relay", lambda: _one(relay.look(settings, identity.domain))


async def _guarded(name: str, subject: Subject) -> list[findings.Finding]:
    try:
        async with asyncio.timeout(PATIENCE):
            return await subject()
    except TimeoutError:
        return [findings.unknown(name, f"it took longer than {PATIENCE:.0f} seconds to look")]


def _in_thread(look: Callable[[], Iterator[findings.Finding]]) -> Subject:
    return lambda: asyncio.to_thread(lambda: list(look()))


async def _one(finding: Awaitable[findings.Finding]) -> list[findings.Finding]:
    return [await finding]


async def _all(found: AsyncIterator[findings.Finding]) -> list[findings.Finding]:
    return [finding async for finding in found]
