"""The roles of a host as processes: which there are, and what each runs.

``recorder`` is two processes, so that nothing can stall reception: one receives and appends, the other tallies. Where
there is an Exim, a third makes datagrams of its events.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence

import structlog

from policy import listeners
from sender import config, supervisor

RECORDER = "recorder"
POLICY = "policy"
REPORTER = "reporter"
FOLLOWER = "follower"

BACKGROUND = 10
"""Niceness of what may be late: on a busy machine the processes that the MTA talks to come first."""

log = structlog.get_logger()


def serve(settings: config.Config, roles: Sequence[str]) -> int:
    """Run roles under the supervisor until SIGTERM; return the exit code."""
    inherited = listeners.systemd_sockets(os.environ, os.getpid())
    return supervisor.run(processes(settings, roles, inherited))


def processes(
    settings: config.Config, roles: Sequence[str], inherited: Sequence[socket.socket]
) -> Mapping[str, supervisor.Role]:
    """Return the processes of roles by name. What a process imports, it imports itself."""
    known: dict[str, dict[str, Callable[[], int]]] = {
        RECORDER: {"recorder": lambda: _recorder(settings, inherited), "tally": lambda: _tally(settings)},
        POLICY: {"policy": lambda: _policy(settings, inherited)},
        REPORTER: {"reporter": lambda: _reporter(settings)},
        FOLLOWER: {"follower": lambda: _follower(settings)},
    }
    if settings.recorder.exim_socket:
        known[RECORDER]["exim"] = lambda: _exim(settings)
    return {name: run for role in roles for name, run in known[role].items()}


def _recorder(settings: config.Config, inherited: Sequence[socket.socket]) -> int:
    from sender import recorder

    return recorder.main(settings, list(inherited))


def _tally(settings: config.Config) -> int:
    from sender import tally

    os.nice(BACKGROUND)
    return tally.main(settings)


def _exim(settings: config.Config) -> int:
    from sender import eximlistener

    return eximlistener.main(settings)


def _policy(settings: config.Config, inherited: Sequence[socket.socket]) -> int:
    from policy import role

    return role.main(settings.policy, settings.dns, settings.https, settings.recorder.socket, inherited)


def _reporter(settings: config.Config) -> int:
    from sender import reporter
    from sender.store import engine

    os.nice(BACKGROUND)
    try:
        store = engine.open_store(settings.store.url)
        asyncio.run(reporter.run(settings, store))
    except (engine.StoreError, config.ConfigError) as error:
        log.error("the reporter cannot run", error=str(error))
        return 1
    return 0


def _follower(settings: config.Config) -> int:
    from sender import following

    return following.main(settings)
