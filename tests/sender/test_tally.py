"""The tally: from the journal into the store, exactly once, whoever gets in between."""

import datetime as dt
import pathlib
import threading

import pytest

from sender import journal, set_aside, tally
from sender.store import engine, listings

pytestmark = pytest.mark.both_stores

NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
GOOD = b'{"d":"a.example","pr":"v=TLSRPTv1;","policies":[{"policy-type":9,"t":0,"f":0}]}\n'


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    """Return where the journal is."""
    return tmp_path / "journal"


def _append(directory: pathlib.Path, *batches: bytes, now: dt.datetime = NOON) -> None:
    writer = journal.Writer(directory, now.timestamp())
    for batch in batches:
        assert writer.append(batch, batch.count(b"\n"), now.timestamp()) is None
    writer.close()


def _sessions(store: engine.Store) -> dict[str, int]:
    with store.read() as connection:
        rows = list(listings.pending_days(connection))
    return {f"{row.domain} {row.day}": row.successful + row.failed for row in rows}


def test_what_was_appended_is_counted_once(store: engine.Store, directory: pathlib.Path) -> None:
    """However often the tally looks, and whatever is appended in between."""
    counted = tally.Tally(store, directory, "mta.example")
    assert counted.catch_up(NOON) == 0
    _append(directory, GOOD * 3)
    assert [counted.catch_up(NOON), counted.catch_up(NOON)] == [3, 0]
    _append(directory, GOOD)
    assert tally.Tally(store, directory, "mta.example").catch_up(NOON) == 1
    assert _sessions(store) == {"a.example 2026-11-23": 4}


def test_sessions_count_for_the_day_they_were_received_on(store: engine.Store, directory: pathlib.Path) -> None:
    """Whenever they are tallied."""
    _append(directory, GOOD)
    _append(directory, GOOD * 2, now=NOON + dt.timedelta(days=1))
    tally.Tally(store, directory, "mta.example").catch_up(NOON + dt.timedelta(days=5))
    assert _sessions(store) == {"a.example 2026-11-23": 1, "a.example 2026-11-24": 2}


def test_many_tallies_at_once_count_nothing_twice(store: engine.Store, directory: pathlib.Path) -> None:
    """The daemon's, that of `tlsrpt report` and that of `tlsrpt pending` may meet."""
    _append(directory, *[GOOD * 100] * 50)
    tallies = [tally.Tally(store, directory, "mta.example") for _ in range(4)]
    counted: list[int] = []
    threads = [threading.Thread(target=lambda one=one: counted.append(one.catch_up(NOON))) for one in tallies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counted) == 5000
    assert _sessions(store) == {"a.example 2026-11-23": 5000}


def test_two_journals_in_one_store_add_up(store: engine.Store, directory: pathlib.Path) -> None:
    """Positions are kept by journal, though segments may have the same names."""
    _append(directory, GOOD)
    other = directory.with_name("other")
    _append(other, GOOD)
    for one in (directory, other, directory, other):
        tally.Tally(store, one, "mta.example").catch_up(NOON)
    assert _sessions(store) == {"a.example 2026-11-23": 2}


def test_a_journal_that_moves_is_not_counted_again(store: engine.Store, directory: pathlib.Path) -> None:
    """On another path, or a host with another name: a container that was made anew has both."""
    _append(directory, GOOD)
    assert tally.Tally(store, directory, "mta.example").catch_up(NOON) == 1
    moved = directory.rename(directory.with_name("moved"))
    assert tally.Tally(store, moved, "mta.example").catch_up(NOON) == 0


def test_malformed_datagrams_are_set_aside_and_counted_by_reason(store: engine.Store, directory: pathlib.Path) -> None:
    """They stop nothing, and a person can look at them."""
    _append(directory, b"nonsense\n" + GOOD + b"\xff\xfe\n" + b"{}\n" + b"nonsense\n")
    tally.Tally(store, directory, "mta.example").catch_up(NOON)
    with store.read() as connection:
        malformed = {reason: datagrams for _, reason, datagrams in listings.malformed(connection)}
    assert malformed == {"not-json": 3, "no-domain": 1}
    assert "nonsense" in (directory / set_aside.NAME).read_text()
    assert _sessions(store) == {"a.example 2026-11-23": 1}


def test_a_line_cut_by_a_crash_is_malformed_once_its_segment_is_finished(
    store: engine.Store, directory: pathlib.Path
) -> None:
    """While the segment is the newest, the rest of the line may still come."""
    _append(directory, GOOD)
    (segment,) = journal.segments(directory)
    with segment.path.open("ab") as file:
        file.write(GOOD[:20])
    counted = tally.Tally(store, directory, "mta.example")
    assert counted.catch_up(NOON) == 1
    _append(directory, GOOD)
    assert counted.catch_up(NOON) == 2
    with store.read() as connection:
        assert [row[1:] for row in listings.malformed(connection)] == [("unterminated", 1)]
    assert _sessions(store) == {"a.example 2026-11-23": 2}


def test_the_journal_holds_while_the_store_is_away(tmp_path: pathlib.Path, directory: pathlib.Path) -> None:
    """A store that fails in the middle loses nothing: all is counted when it is back."""
    url = f"sqlite:///{tmp_path / 'tlsrpt.db'}"
    store = engine.open_store(url)
    _append(directory, GOOD * 2)
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE policies RENAME TO gone")
    with pytest.raises(engine.StoreError, match="no such table"):
        tally.Tally(store, directory, "mta.example").catch_up(NOON)
    with store.write() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO policies")
    assert tally.Tally(store, directory, "mta.example").catch_up(NOON) == 2
    assert _sessions(store) == {"a.example 2026-11-23": 2}
    store.close()


def test_segments_that_have_served_are_removed_after_days(store: engine.Store, directory: pathlib.Path) -> None:
    """Not before they are tallied, not at once, and never the newest."""
    _append(directory, GOOD)
    _append(directory, GOOD, now=NOON + dt.timedelta(hours=1))
    counted = tally.Tally(store, directory, "mta.example")
    counted.catch_up(NOON + dt.timedelta(days=2))
    assert len(journal.segments(directory)) == 2
    counted.catch_up(NOON + dt.timedelta(days=3))
    assert len(journal.segments(directory)) == 1
    assert _sessions(store) == {"a.example 2026-11-23": 2}


def test_a_segment_that_cannot_be_read_is_an_error_and_holds_no_other_up(
    store: engine.Store, directory: pathlib.Path
) -> None:
    """The postmaster is told the cure; all other segments are counted."""
    _append(directory, GOOD)
    (directory / "2026-11-23.00000000001.ndjson").mkdir()
    with pytest.raises(journal.JournalError, match=r"cannot be read: .*: make it readable for this user, or move it"):
        tally.Tally(store, directory, "mta.example").catch_up(NOON)
    assert _sessions(store) == {"a.example 2026-11-23": 1}


def test_a_segment_that_another_tally_has_just_removed_is_not_counted_again(
    store: engine.Store, directory: pathlib.Path
) -> None:
    """Read, and then counted, removed and forgotten by the other before this one could commit."""
    for hour in (0, 1):
        _append(directory, GOOD, now=NOON + dt.timedelta(hours=hour))
    segment, _ = journal.segments(directory)
    identity = journal.identity(directory)
    slow = tally.Tally(store, directory, "mta.example")
    stretch = tally.read_stretch(segment, 0, journal.size(segment))
    assert tally.Tally(store, directory, "mta.example").catch_up(NOON + dt.timedelta(days=5)) == 2
    assert slow._commit(identity, segment, 0, stretch) == 0
    assert _sessions(store) == {"a.example 2026-11-23": 2}


def test_equal_datagrams_meet_however_many_there_are(directory: pathlib.Path) -> None:
    """More bytes than are counted at once, but few different ones, are one stretch."""
    number = 2 * tally.STRETCH // len(GOOD)
    _append(directory, GOOD * number)
    (segment,) = journal.segments(directory)
    stretch = tally.read_stretch(segment, 0, journal.size(segment))
    assert stretch.datagrams == {GOOD.rstrip(b"\n"): number}
    assert stretch.end == journal.size(segment)


def test_a_stretch_of_different_datagrams_is_bounded(store: engine.Store, directory: pathlib.Path) -> None:
    """It ends where it is full, in whole lines; what is behind it is counted next."""
    number = 3 * tally.STRETCH // (2 * 1024)
    _append(directory, b"".join(b"%06d %b\n" % (count, b"x" * 1010) for count in range(number)))
    (segment,) = journal.segments(directory)
    stretch = tally.read_stretch(segment, 0, journal.size(segment))
    assert tally.STRETCH <= sum(map(len, stretch.datagrams)) < tally.STRETCH + 2 * tally.PIECE
    assert sum(len(line) + 1 for line in stretch.datagrams) == stretch.end
    assert tally.Tally(store, directory, "mta.example").catch_up(NOON) == number
