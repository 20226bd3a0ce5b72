"""The roles of a host as processes: which there are, and what each runs.

``recorder`` is two processes, so that nothing can stall reception: one receives and appends, the other tallies. Where
there is an Exim, a third makes datagrams of its events.
"""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from policy import listeners, statistics
from sender import config, metrics, readiness, supervisor

RECORDER = "recorder"
POLICY = "policy"
REPORTER = "reporter"
BOUNCES = "bounces"
"""No role of its own: a reporter with ``bounces.listen`` has this process, too."""
WEB = "web"
"""No role of its own: each host with ``web.listen`` runs this process, too."""
FOLLOWER = "follower"

BACKGROUND = 10
"""Niceness of what may be late: on a busy machine the processes that the MTA talks to come first."""

log = structlog.get_logger()


NEEDED = {
    "tally": {"recorder", "store"},
    "policy": {"policy", "dns", "https"},
    "reporter": {"organization", "recorder", "store", "dns", "report", "mail", "bounces", "https", "rule"},
    "bounces": {"organization", "store", "mail", "bounces"},
    "web": {"organization", "recorder", "store", "report", "web"},
    "follower": {"organization", "recorder", "policy", "follower"},
}
"""Sections of the configuration that a process reads; those that are not named are never started again for one."""

FIXED = {
    "recorder": ("socket", "socket_mode", "socket_group", "journal", "exim_socket"),
    "bounces": ("listen",),
    "web": ("listen",),
}
"""Keys that hold until a restart: who hands in session results must not meet a closed door, and what is to be counted
for monitoring must be known from the start."""


def serve(settings: config.Config, roles: Sequence[str], load: Callable[[], config.Config]) -> int:
    """Run roles under the supervisor until SIGTERM; return the exit code.

    Args:
        settings: the configuration.
        roles: of this host.
        load: reads and checks the configuration anew.
    """
    inherited = listeners.systemd_sockets(os.environ, os.getpid())
    current = settings

    def reload() -> Mapping[str, supervisor.Role]:
        nonlocal current
        try:
            wanted = load()
        except config.ConfigError as error:
            log.error("the configuration is not reloaded", error=str(error))
            return {}
        new, left = reloadable(current, wanted)
        if left:
            log.warning("these keys need a restart", keys=left)
        changed = [name for name in config.Config.__struct_fields__ if getattr(current, name) != getattr(new, name)]
        current = new
        again = processes(new, roles, inherited, directory)
        renewed = {name: role for name, role in again.items() if NEEDED.get(name, set()) & set(changed)}
        log.info("reloaded", changed=changed, restarted=list(renewed))
        return renewed

    with contextlib.ExitStack() as stack:
        directory = ""
        if settings.web.listen:
            directory = stack.enter_context(_folder_for_metrics())
        return supervisor.run(processes(settings, roles, inherited, directory), reload=reload)


def _folder_for_metrics() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory(prefix="tlsrpt-metrics-")
    except OSError as error:
        cure = "let TMPDIR name one that can be written to, or leave web.listen empty"
        raise config.ConfigError(f"web.listen: there is no folder for metrics: {error}: {cure}") from error


def reloadable(current: config.Config, wanted: config.Config) -> tuple[config.Config, list[str]]:
    """Return the configuration as far as it can be had without a restart, and the keys that cannot."""
    new, left = wanted, []
    for section, keys in FIXED.items():
        before, after = getattr(current, section), getattr(wanted, section)
        left += [f"{section}.{key}" for key in keys if getattr(before, key) != getattr(after, key)]
        kept = msgspec.structs.replace(after, **{key: getattr(before, key) for key in keys})
        new = msgspec.structs.replace(new, **{section: kept})
    return new, left


def processes(
    settings: config.Config, roles: Sequence[str], inherited: Sequence[socket.socket], directory: str = ""
) -> Mapping[str, supervisor.Role]:
    """Return the processes of roles by name. What a process imports, it imports itself.

    Args:
        settings: the configuration.
        roles: of this host.
        inherited: sockets that systemd handed over.
        directory: where they publish metrics; empty: nowhere.
    """
    known: dict[str, dict[str, Callable[[], int]]] = {
        RECORDER: {"recorder": lambda: _recorder(settings, inherited), "tally": lambda: _tally(settings)},
        POLICY: {"policy": lambda: _policy(settings, inherited)},
        REPORTER: {"reporter": lambda: _reporter(settings)},
        FOLLOWER: {"follower": lambda: _follower(settings)},
    }
    if settings.recorder.exim_socket:
        known[RECORDER]["exim"] = lambda: _exim(settings)
    if settings.bounces.listen:
        known[REPORTER][BOUNCES] = lambda: _bounces(settings)
    running = {name: run for role in roles for name, run in known[role].items()}
    if settings.web.listen:
        running[WEB] = lambda: _web(settings, roles, directory)
    return {name: _published(name, directory, run) for name, run in running.items()}


def _published(name: str, directory: str, run: Callable[[], int]) -> supervisor.Role:
    def begin() -> int:
        metrics.begin(name, directory)
        return run()

    return begin


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

    numbers = statistics.Statistics()
    with metrics.publishing(lambda: _publish_policy(numbers)):
        return role.main(
            settings.policy,
            settings.dns,
            settings.https,
            settings.recorder.socket,
            inherited,
            started=readiness.tell,
            numbers=numbers,
        )


def _publish_policy(numbers: statistics.Statistics) -> None:
    for outcome, total in dict(numbers.answers).items():
        metrics.reach(metrics.ANSWERS, outcome, total=total)
    for outcome, total in dict(numbers.fetches).items():
        metrics.reach(metrics.FETCHES, outcome, total=total)
    while numbers.waits:
        metrics.observe(metrics.WAITS, numbers.waits.popleft())
    metrics.show(metrics.READY, value=numbers.ready)
    metrics.show(metrics.LOOKUPS, value=numbers.under_way)
    metrics.show(metrics.KEPT, value=numbers.kept)


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


def _bounces(settings: config.Config) -> int:
    from sender import bouncing

    return bouncing.main(settings)


def _web(settings: config.Config, roles: Sequence[str], directory: str) -> int:
    from sender.web import serving

    os.nice(BACKGROUND)
    return serving.main(settings, directory, records=RECORDER in roles, reports=REPORTER in roles)


def _follower(settings: config.Config) -> int:
    from sender import following

    return following.main(settings)
