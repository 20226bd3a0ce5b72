"""``kill -9`` of recorder and tally under load: every datagram that was appended is counted once."""

import contextlib
import datetime as dt
import multiprocessing
import random
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from sender import config, journal, tally
from sender.store import engine, listings

ROUNDS = 200
SEED = 8461
LIFE = 0.08
"""Seconds a process lives at most: the tally is in the middle of the backlog then, the recorder of a write."""

TALLY = "from sender import tally\nraise SystemExit(tally.main(settings))"
Load = Callable[[str, Callable[[int], bytes]], contextlib.AbstractContextManager[None]]
DATAGRAM = (
    '{"dpv":"1","d":"n%d.example","pr":"v=TLSRPTv1;rua=mailto:r@n.example",'
    '"policies":[{"policy-type":9,"failure-details":[{"c":201,"r":"192.0.2.1"}],"t":1,"f":1}]}'
)


def test_kill_9_of_recorder_and_tally_counts_each_appended_datagram_once(
    tmp_path: Path,
    start_recorder: Callable[[config.Config], BaseProcess],
    fork_server: multiprocessing.context.ForkServerContext,
    load: Load,
) -> None:
    """200 rounds at random moments; at the end the store has exactly what the journal has."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")  # noqa: T201 - shown when the test fails
    settings = config.Config(
        recorder=config.Recorder(socket=str(tmp_path / "s"), journal=str(tmp_path / "journal")),
        store=config.Store(url=f"sqlite:///{tmp_path / 'tlsrpt.db'}"),
    )
    engine.open_store(settings.store.url).close()
    with load(settings.recorder.socket, lambda number: (DATAGRAM % number).encode()):
        for _ in range(ROUNDS):
            recorder = start_recorder(settings)
            counting = fork_server.Process(target=exec, args=(TALLY, {"settings": settings}))
            counting.start()
            victims = [recorder, counting]
            chance.shuffle(victims)
            for victim in victims:
                victim.join(chance.uniform(0, LIFE))
                victim.kill()
                victim.join()
                assert victim.exitcode == -signal.SIGKILL
            counting.close()
    check(settings)


def check(settings: config.Config) -> None:
    """Assert that the store has each line of the journal once, after the tally has caught up."""
    store = engine.open_store(settings.store.url)
    directory = Path(settings.recorder.journal)
    midway = sum(row.failed for row in _rows(store))
    tally.open_tally(settings, store).catch_up(dt.datetime.now(dt.UTC))
    appended: set[str] = set()
    tails = 0
    for segment in journal.segments(directory):
        *lines, tail = segment.path.read_bytes().split(b"\n")
        tails += bool(tail)
        domains = {line.partition(b'"d":"')[2].partition(b'"')[0].decode() for line in lines}
        assert len(domains) == len(lines)
        assert not domains & appended
        appended |= domains
    counted = {row.domain: row.failed for row in _rows(store)}
    assert counted == dict.fromkeys(appended, 1)
    assert 0 < midway <= len(appended), "tallies were killed while there was something to count"
    with store.read() as connection:
        malformed = sum(datagrams for _, _, datagrams in listings.malformed(connection))
    assert malformed <= tails
    store.close()


def _rows(store: engine.Store) -> list[listings.PendingDay]:
    with store.read() as connection:
        return list(listings.pending_days(connection))
