"""The policy role: the parts of the policy socket put together, as a process that runs until SIGTERM.

The top conductor of this room, and the rim of uvloop. A site can run this role alone: without a recorder findings have
nowhere to go.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from socket import socket

import structlog
import uvloop

from policy import answers, cache, endpoints, findings, https, listeners, resolver, server, settings, statistics

log = structlog.get_logger()


def check(policy: settings.Policy, dns: settings.Dns, fetching: settings.Https) -> None:
    """Find out whether :func:`main` would work, without listening or connecting anywhere.

    Raises:
        ValueError: something in the configuration cannot be used; the text names key, value and cure.
    """
    endpoints.parse_all(policy.listen)
    try:
        listeners.group_id(policy.socket_group)
    except listeners.ListenError as error:
        raise ValueError(f"policy.socket_group: {error}") from error
    https.Client(fetching, resolver.Resolver(dns.nameservers))


def main(
    policy: settings.Policy,
    dns: settings.Dns,
    fetching: settings.Https,
    recorder: str,
    inherited: Sequence[socket],
    started: Callable[[], None] = lambda: None,
    numbers: statistics.Statistics | None = None,
) -> int:
    """Answer policy queries until SIGTERM; return the exit code.

    Args:
        policy: the sockets and the cache.
        dns: whom to ask.
        fetching: how to connect to policy hosts.
        recorder: path of the recorder's socket, for findings; empty: there is no recorder.
        inherited: sockets that systemd handed over.
        started: is called once queries are answered.
        numbers: what is counted for monitoring.
    """
    try:
        listening = endpoints.listen(
            policy.listen, inherited, mode=int(policy.socket_mode, 8), group=policy.socket_group
        )
        uvloop.run(_serve(policy, dns, fetching, recorder, listening, started, numbers))
    except (listeners.ListenError, ValueError) as error:
        log.error("the policy socket cannot run", error=str(error))
        return 1
    return 0


async def _serve(
    policy: settings.Policy,
    dns: settings.Dns,
    fetching: settings.Https,
    recorder: str,
    listening: endpoints.Listening,
    started: Callable[[], None],
    numbers: statistics.Statistics | None,
) -> None:
    names = resolver.Resolver(dns.nameservers)
    telling = findings.Recorder(recorder) if recorder else None
    kept = cache.Cache(policy.cache, time.time())
    try:
        async with https.Client(fetching, names) as client:
            answering = answers.Answers(
                names, client, kept, report=telling.send if telling else _ignore, numbers=numbers
            )
            renewing = asyncio.create_task(answering.run())
            log.info("policy socket started", listen=" ".join(policy.listen), policies=len(kept))
            started()
            try:
                await server.run(answering, listening)
            finally:
                renewing.cancel()
                await answering.close()
                log.info("policy socket stopped")
    finally:
        if telling:
            telling.close()
        kept.close()


def _ignore(_finding: bytes) -> None:
    """Tell nobody."""
