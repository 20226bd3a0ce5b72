"""The cache of policies in real files: across restarts and kills, bounded, and without a file that can be used."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from policy import cache, mtasts, verdict

NOW = 1_800_000_000.0
DAY = 86_400

POLICY = mtasts.parse_policy(b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n")
FAILURE = cache.Failure("2", verdict.Finding(verdict.FindingType.STS_WEBPKI_INVALID, "certificate-expired"), NOW - 100)

# id, what is kept
KEPT = [
    ("a policy", cache.Kept("example.com", "1", POLICY, NOW - DAY)),
    ("a policy and a failure", cache.Kept("example.com", "1", POLICY, NOW - DAY, FAILURE)),
    ("a failure", cache.Kept("example.com", failure=FAILURE)),
    ("an expired policy and a failure", cache.Kept("example.com", "1", POLICY, NOW - 8 * DAY, FAILURE)),
]

# id, lines of a policy's file
FILES = [
    ("crlf", b"version: STSv1\r\nmode: none\r\nmax_age: 1\r\n"),
    ("no end of line", b"version: STSv1\nmode: none\nmax_age: 1"),
    ("blank lines", b"\nversion: STSv1\n\n\nmode: none\nmax_age: 1\n\n\n"),
    ("not ascii", "version: STSv1\nmode: none\nmax_age: 1\nnote: Grüße\u2028 \n".encode()),
    ("the longest", b"version: STSv1\nmode: none\nmax_age: 1\nnote: ".ljust(mtasts.MAX_POLICY, b"x")),
]

KILLED = """
import os, signal, sqlite3, sys
from policy import cache, mtasts
kept = cache.Cache(sys.argv[1], 1_800_000_000.0)
policy = mtasts.parse_policy(b"version: STSv1\\nmode: none\\nmax_age: 86400\\n")
for number in range(200):
    kept.put(cache.Kept(f"{number}.example", "1", policy, 1_800_000_000.0))
other = sqlite3.connect(sys.argv[1])
while other.execute("SELECT count(*) FROM policies").fetchone() != (200,):
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


def _reopen(path: Path, *kept: cache.Kept, now: float = NOW) -> list[cache.Kept]:
    """Put, close, and return what another process finds."""
    first = cache.Cache(path, NOW)
    for one in kept:
        first.put(one)
    first.close()
    second = cache.Cache(path, now)
    second.close()
    return list(second)


@pytest.mark.parametrize("kept", [pytest.param(case[1], id=case[0]) for case in KEPT])
def test_what_is_put_is_there_after_a_restart(tmp_path: Path, kept: cache.Kept) -> None:
    """All of it; an expired policy stays as long as its failure does."""
    assert _reopen(tmp_path / "lib" / "policy.db", kept) == [kept]


@pytest.mark.parametrize("body", [pytest.param(case[1], id=case[0]) for case in FILES])
def test_a_policy_is_kept_line_by_line(tmp_path: Path, body: bytes) -> None:
    """Reports tell its lines as they were published."""
    kept = cache.Kept("example.com", "1", mtasts.parse_policy(body), NOW)
    assert _reopen(tmp_path / "policy.db", kept) == [kept]


@given(st.lists(st.sampled_from(["", " ", "a: b", "mx: mx.example.com", "note: \u2028\u0085"]), max_size=5))
def test_any_lines_are_read_back(lines: list[str]) -> None:
    """Whatever policy can be parsed has the same lines after it was written."""
    body = "\n".join(["version: STSv1", "mode: none", "max_age: 5", *lines])
    policy = mtasts.parse_policy(body.encode())
    assert mtasts.parse_policy(cache._text(policy.lines)) == policy


def test_the_last_put_counts(tmp_path: Path) -> None:
    """A failure is forgotten with the next policy, in memory and in the file."""
    old, new = KEPT[1][1], cache.Kept("example.com", "2", POLICY, NOW)
    assert _reopen(tmp_path / "policy.db", old, new) == [new]


def test_what_has_expired_is_not_read(tmp_path: Path) -> None:
    """A policy ends with its max_age, to the second, whether we run or not."""
    kept = cache.Kept("example.com", "1", POLICY, NOW)
    path = tmp_path / "policy.db"
    assert _reopen(path, kept, now=NOW + 7 * DAY - 1) == [kept]
    assert _reopen(path, now=NOW + 7 * DAY) == []
    assert _reopen(path) == []


def test_a_clock_that_was_set_back_does_not_prolong_a_policy(tmp_path: Path) -> None:
    """What seems to come from the future is taken as fetched now."""
    [kept] = _reopen(tmp_path / "policy.db", KEPT[1][1], now=NOW - 30 * DAY)
    assert (kept.fetched, kept.failure and kept.failure.at) == (NOW - 30 * DAY, NOW - 30 * DAY)


def test_a_killed_process_loses_nothing_that_was_written(tmp_path: Path) -> None:
    """SQLite's log is found and used at the next start."""
    path = tmp_path / "policy.db"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    assert len(_reopen(path)) == 200


def test_rows_are_bounded_and_the_unused_go_first(tmp_path: Path) -> None:
    """In memory and in the file; to be asked for is to be used."""
    path = tmp_path / "policy.db"
    kept = cache.Cache(path, NOW, max_rows=3)
    for name in ("a", "b", "c"):
        kept.put(cache.Kept(name, "1", POLICY, NOW))
    assert kept.get("a") is not None
    kept.put(cache.Kept("d", "1", POLICY, NOW))
    assert [one.domain for one in kept] == ["c", "a", "d"]
    kept.close()
    assert {one.domain for one in _reopen(path)} == {"a", "c", "d"}


def test_weight_is_bounded() -> None:
    """Policies of 64 KiB in a thousand short lines push others out, not the process."""
    body = b"version: STSv1\nmode: none\nmax_age: 99\n" + b"a: b\n" * 10_000
    heavy = mtasts.parse_policy(body)
    kept = cache.Cache("", NOW, max_weight=3 * cache.weight(heavy))
    for number in range(10):
        kept.put(cache.Kept(f"{number}.example", "1", heavy, NOW))
    assert [one.domain for one in kept] == ["7.example", "8.example", "9.example"]
    kept.put(cache.Kept("7.example", failure=FAILURE))
    kept.put(cache.Kept("10.example", "1", heavy, NOW))
    assert len(kept) == 4


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mail (text TEXT)")
    database.close()


def _later(path: Path) -> None:
    _reopen(path, KEPT[0][1])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


# id, how to spoil the file, what is said
UNUSABLE = [
    ("not a database", lambda path: path.write_bytes(b"not a database, " * 1000), "file is not a database"),
    ("a directory", lambda path: path.mkdir(), "unable to open database file"),
    ("another program's", _foreign, "this is the database of another program"),
    ("a later version's", _later, "a later version of tlsrpt wrote this file"),
]


@pytest.mark.parametrize(("spoil", "error"), [pytest.param(*case[1:], id=case[0]) for case in UNUSABLE])
def test_without_a_usable_file_all_works_from_memory(tmp_path: Path, spoil: object, error: str) -> None:
    """It is said once, with the cure, and the file stays as it is: it may be somebody's."""
    assert callable(spoil)
    path = tmp_path / "policy.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with structlog.testing.capture_logs() as logs:
        kept = cache.Cache(path, NOW)
        kept.put(KEPT[0][1])
        assert kept.get("example.com") == KEPT[0][1]
        kept.close()
    assert [(line["log_level"], line["path"], line["error"]) for line in logs] == [("error", str(path), error)]
    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_rights_is_no_reason_to_fail(tmp_path: Path) -> None:
    """The service may run as a user who cannot write there."""
    tmp_path.chmod(0o500)
    with structlog.testing.capture_logs() as logs:
        kept = cache.Cache(tmp_path / "policy.db", NOW)
        kept.put(KEPT[0][1])
        kept.close()
    assert len(logs) == 1


def test_a_path_below_a_file_is_no_reason_to_fail(tmp_path: Path) -> None:
    """The directory cannot be made."""
    (tmp_path / "file").touch()
    with structlog.testing.capture_logs() as logs:
        kept = cache.Cache(tmp_path / "file" / "policy.db", NOW)
        kept.put(KEPT[0][1])
        kept.close()
    assert len(logs) == 1


def test_an_older_table_is_thrown_away(tmp_path: Path) -> None:
    """It is only a cache."""
    path = tmp_path / "policy.db"
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA application_id = {cache._APPLICATION}")
        database.execute("CREATE TABLE policies (domain TEXT)")
        database.execute("INSERT INTO policies VALUES ('example.com')")
    database.close()
    assert _reopen(path, KEPT[0][1]) == [KEPT[0][1]]


# id, column, value that makes no sense
ROWS = [
    ("no policy", "policy", b"hello"),
    ("not UTF-8", "policy", b"\xff"),
    ("unknown finding", "failed_type", "weather"),
]


@pytest.mark.parametrize(("column", "value"), [pytest.param(*case[1:], id=case[0]) for case in ROWS])
def test_a_row_that_makes_no_sense_is_dropped(tmp_path: Path, column: str, value: object) -> None:
    """The others are read."""
    path = tmp_path / "policy.db"
    other = cache.Kept("other.example", "1", POLICY, NOW)
    _reopen(path, KEPT[1][1], other)
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE policies SET {column} = ? WHERE domain = 'example.com'", (value,))
    database.close()
    assert _reopen(path) == [other]


def test_writes_that_fail_are_told_once_and_made_up_for(tmp_path: Path) -> None:
    """A full disk or a lock held too long passes; what was not written then is written with the next."""
    path = tmp_path / "policy.db"
    with structlog.testing.capture_logs() as logs:
        kept = cache.Cache(path, NOW)
        assert kept._writer is not None
        kept._writer._database.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for name in ("a", "b"):
            kept.put(cache.Kept(name, "1", POLICY, NOW))
            while not (kept._writer._failing and kept._writer._waiting):
                pass
        other.execute("ROLLBACK")
        other.close()
        kept.put(cache.Kept("c", "1", POLICY, NOW))
        kept.close()
    assert [line["error"] for line in logs] == ["database is locked"]
    assert {one.domain for one in _reopen(path)} == {"a", "b", "c"}


def test_one_domain_is_looked_at_while_the_cache_is_in_use(tmp_path: Path) -> None:
    """By another process, without a word to the one that writes."""
    path, (_, one) = tmp_path / "policy.db", KEPT[1]
    assert cache.look(path, "a.example", NOW) is None
    assert cache.look("", "a.example", NOW) is None
    kept = cache.Cache(path, NOW)
    kept.put(one)
    deadline = time.monotonic() + 10
    while cache.look(path, one.domain, NOW) is None:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)
    assert cache.look(path, one.domain, NOW) == one
    assert cache.look(path, "b.example", NOW) is None
    kept.close()
    assert cache.look(path, one.domain, NOW) == one
    path.write_text("This is a letter, not a database.\n" * 100)
    with pytest.raises(cache.CacheError, match="cannot be read"):
        cache.look(path, one.domain, NOW)


def _files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return what the files of a folder have in them, and when they were written, but for SQLite's shared memory."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.endswith("-shm")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("name", ["policy.db", "a b?c#d%20e&mode=rwc.db", "ü/policy.db"])
def test_to_look_changes_nothing(tmp_path: Path, name: str) -> None:
    """Whatever the file is called; nothing is made where nothing is."""
    path = tmp_path / name
    assert cache.look(path, "example.com", NOW) is None
    assert list(tmp_path.iterdir()) == []
    [kept] = _reopen(path, KEPT[1][1])
    before = _files(path.parent)
    assert cache.look(path, "example.com", NOW) == kept
    assert cache.look(path, "other.example", NOW) is None
    assert _files(path.parent) == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_a_killed_process_had_written_is_seen(tmp_path: Path) -> None:
    """It is in SQLite's log still, which is left for the next start."""
    path = tmp_path / "policy.db"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    before = _files(tmp_path)
    assert "policy.db-wal" in before
    kept = [cache.look(path, f"{number}.example", NOW) for number in range(200)]
    assert [one.id for one in kept if one] == ["1"] * 200
    assert _files(tmp_path) == before
    assert len(_reopen(path)) == 200


@pytest.mark.parametrize(("spoil", "error"), [pytest.param(*case[1:], id=case[0]) for case in UNUSABLE])
def test_a_file_that_cannot_be_looked_at_is_told(tmp_path: Path, spoil: object, error: str) -> None:
    """In one line with its path; the file stays as it is."""
    assert callable(spoil)
    path = tmp_path / "policy.db"
    spoil(path)
    before = _files(tmp_path)
    with pytest.raises(cache.CacheError) as caught:
        cache.look(path, "example.com", NOW)
    assert str(caught.value) == f"{path}: cannot be read: {error}"
    assert _files(tmp_path) == before


def test_what_is_looked_at_is_judged_as_in_the_cache(tmp_path: Path) -> None:
    """An expired policy does not hold; one from the future is from now; a row that makes no sense is none."""
    path = tmp_path / "policy.db"
    _reopen(path, cache.Kept("example.com", "1", POLICY, NOW))
    for now, holds in ((NOW + 7 * DAY - 1, True), (NOW + 7 * DAY, False)):
        kept = cache.look(path, "example.com", now)
        assert kept is not None
        assert kept.holds(now) is holds
    kept = cache.look(path, "example.com", NOW - DAY)
    assert kept is not None
    assert kept.fetched == NOW - DAY
    with sqlite3.connect(path) as database:
        database.execute("UPDATE policies SET policy = ?", (b"hello",))
    database.close()
    assert cache.look(path, "example.com", NOW) is None


def test_to_look_does_not_wait_for_who_writes(tmp_path: Path) -> None:
    """The policy socket may be in the middle of a transaction."""
    path = tmp_path / "policy.db"
    kept = cache.Cache(path, NOW)
    kept.put(KEPT[0][1])
    while cache.look(path, "example.com", NOW) is None:
        pass
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM policies")
        began = time.monotonic()
        assert cache.look(path, "example.com", NOW) == KEPT[0][1]
        assert time.monotonic() - began < cache.BUSY_TIMEOUT / 2
        other.execute("ROLLBACK")
    kept.close()
