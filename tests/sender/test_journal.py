"""The journal: names, days, restarts, half lines, full disks. Real files, and a small disk where root allows one."""

import concurrent.futures
import datetime as dt
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sender import datagram, journal

NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC).timestamp()
MIDNIGHT = dt.datetime(2026, 11, 25, tzinfo=dt.UTC).timestamp()

# id, moments at which segments are begun by restarts, their names
NAMES = [
    ("noon", [NOON], ["2026-11-24.43200000000"]),
    ("midnight", [MIDNIGHT], ["2026-11-25.00000000000"]),
    ("fractions", [NOON + 0.25], ["2026-11-24.43200250000"]),
    ("the same moment", [NOON, NOON], ["2026-11-24.43200000000", "2026-11-24.43200000001"]),
    ("an hour back", [NOON, NOON - 3600], ["2026-11-24.43200000000", "2026-11-24.43200000001"]),
    ("a day back", [MIDNIGHT, NOON], ["2026-11-25.00000000000", "2026-11-25.00000000001"]),
    ("a day on", [NOON, MIDNIGHT + 1], ["2026-11-24.43200000000", "2026-11-25.00001000000"]),
]

FOREIGN = [
    "readme.txt",
    "2026-11-24.ndjson",
    "2026-13-24.00000000000.ndjson",
    "2026-11-24.99999999999.ndjson",
    "2026-11-24.00000000000.ndjson.gz",
    "malformed.ndjson",
]

LIMITED = """
import resource, sys
from pathlib import Path
from sender import journal
writer = journal.Writer(Path(sys.argv[1]), 0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, resource.RLIM_INFINITY))
print(writer.append(b"one......\\ntwo......\\nthree....\\n", 3, 0.0))
print(writer.append(b"four\\n", 1, 0.0))
print(writer.append(b"five.....\\n", 1, 0.0))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(writer.append(b"six\\nseven\\n", 2, 0.0))
writer.close()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return where a journal may be made."""
    return tmp_path / "var" / "journal"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 128 KiB and 20 files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k,nr_inodes=20", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root and the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def everything(directory: Path, max_bytes: int = 1 << 20) -> list[bytes]:
    """Read a whole journal."""
    lines = []
    for segment in journal.segments(directory):
        offset, chunk = 0, journal.read(segment, 0, max_bytes)
        while chunk.end > offset:
            lines += chunk.lines
            offset, chunk = chunk.end, journal.read(segment, chunk.end, max_bytes)
        assert not chunk.lines
    return lines


def segment_of(path: Path, content: bytes, *, finished: bool) -> journal.Segment:
    """Return a segment with a given content."""
    path.write_bytes(content)
    return journal.Segment(dt.date(2026, 11, 24), path.name, path, finished)


def test_lines_come_back_in_order(directory: Path) -> None:
    """What is appended is read, before and after the writer ends."""
    writer = journal.Writer(directory, NOON)
    assert writer.append(b"one\ntwo\n", 2, NOON) is None
    assert writer.append(memoryview(b"three\n\n"), 2, NOON) is None
    assert everything(directory) == [b"one", b"two", b"three", b""]
    writer.close()
    assert everything(directory) == [b"one", b"two", b"three", b""]


@pytest.mark.parametrize(("moments", "expected"), [pytest.param(*row[1:], id=row[0]) for row in NAMES])
def test_each_start_begins_a_segment_with_a_greater_name(
    directory: Path, moments: list[float], expected: list[str]
) -> None:
    """Whatever the clock says, a name is never used again and sorts behind the others."""
    for moment in moments:
        journal.Writer(directory, moment).close()
    found = journal.segments(directory)
    assert [segment.name for segment in found] == [f"{name}.ndjson" for name in expected]
    assert [segment.finished for segment in found] == [True] * (len(expected) - 1) + [False]
    assert [str(segment.day) for segment in found] == [name[:10] for name in expected]


def test_earlier_segments_are_never_appended_to(directory: Path) -> None:
    """A half line that a killed writer left is not joined with what comes after a restart."""
    journal.Writer(directory, NOON).close()
    journal.segments(directory)[0].path.write_bytes(b"whole\nhal")
    writer = journal.Writer(directory, NOON)
    writer.append(b"next\n", 1, NOON)
    writer.close()
    assert everything(directory) == [b"whole", b"hal", b"next"]


def test_a_segment_belongs_to_one_day(directory: Path) -> None:
    """The day is that of the clock at the append; a clock set back does not bring yesterday back."""
    writer = journal.Writer(directory, NOON)
    writer.append(b"today\n", 1, MIDNIGHT - 0.001)
    writer.append(b"tomorrow\n", 1, MIDNIGHT)
    writer.append(b"set back\n", 1, MIDNIGHT - 10)
    writer.close()
    days = [(str(segment.day), segment.path.read_bytes()) for segment in journal.segments(directory)]
    assert days == [("2026-11-24", b"today\n"), ("2026-11-25", b"tomorrow\nset back\n")]


def test_turn_ends_a_day_without_a_datagram(directory: Path) -> None:
    """A reader sees that a day is complete although nothing came after midnight."""
    writer = journal.Writer(directory, NOON)
    assert writer.turn(MIDNIGHT - 1) is None
    assert [segment.finished for segment in journal.segments(directory)] == [False]
    assert writer.turn(MIDNIGHT) is None
    assert writer.turn(MIDNIGHT + 1) is None
    assert [(str(segment.day), segment.finished) for segment in journal.segments(directory)] == [
        ("2026-11-24", True),
        ("2026-11-25", False),
    ]
    writer.close()


def test_a_segment_ends_at_its_size(directory: Path) -> None:
    """Batches are not divided, and a batch longer than a segment has one of its own."""
    writer = journal.Writer(directory, NOON, max_bytes=10)
    for batch in (b"1234\n", b"5678\n", b"9\n", b"longer than a segment\n", b"0\n"):
        writer.append(batch, 1, NOON)
    writer.close()
    contents = [segment.path.read_bytes() for segment in journal.segments(directory)]
    assert contents == [b"1234\n5678\n", b"9\n", b"longer than a segment\n", b"0\n"]


def test_one_writer_only(directory: Path) -> None:
    """A second one is told so, and the first one's end makes room."""
    writer = journal.Writer(directory, NOON)
    with pytest.raises(journal.JournalBusyError, match=r"journal: another process writes this journal: stop the other"):
        journal.Writer(directory, NOON)
    assert len(journal.segments(directory)) == 1
    writer.close()
    journal.Writer(directory, NOON).close()


def test_rights(directory: Path) -> None:
    """The group may read, others may not."""
    before = os.umask(0)
    try:
        journal.Writer(directory, NOON).close()
    finally:
        os.umask(before)
    assert directory.stat().st_mode & 0o777 == 0o750
    assert journal.segments(directory)[0].path.stat().st_mode & 0o777 == 0o640


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    """A file in the way is one line that names it."""
    (tmp_path / "journal").write_text("")
    with pytest.raises(journal.JournalError, match=r"journal: the journal cannot be written: File exists"):
        journal.Writer(tmp_path / "journal", NOON)
    with pytest.raises(journal.JournalError, match=r"journal: the journal cannot be read: Not a directory"):
        journal.segments(tmp_path / "journal")


def test_no_journal_has_no_segments(directory: Path) -> None:
    """Before the first start there is nothing, which is no error."""
    assert journal.segments(directory) == []


def test_foreign_files_are_ignored(directory: Path) -> None:
    """Only what a writer may have made is a segment."""
    directory.mkdir(parents=True)
    for name in FOREIGN:
        (directory / name).write_text("x\n")
    assert journal.segments(directory) == []
    journal.Writer(directory, NOON).close()
    assert len(journal.segments(directory)) == 1


def test_unterminated_tail_waits_until_the_segment_is_finished(tmp_path: Path) -> None:
    """The writer may be about to write the rest; once a later segment exists it is not."""
    growing = segment_of(tmp_path / "segment", b"one\ntw", finished=False)
    assert journal.read(growing, 0, 100) == journal.Chunk([b"one"], 4)
    assert journal.read(growing, 4, 100) == journal.Chunk([], 4)
    finished = segment_of(tmp_path / "segment", b"one\ntw", finished=True)
    assert journal.read(finished, 0, 100) == journal.Chunk([b"one", b"tw"], 6)
    assert journal.read(finished, 4, 100) == journal.Chunk([b"tw"], 6)
    assert journal.read(finished, 6, 100) == journal.Chunk([], 6)


def test_offset_beyond_the_end(tmp_path: Path) -> None:
    """After a power failure a file may be shorter than it was: there is nothing to read."""
    segment = segment_of(tmp_path / "segment", b"one\n", finished=True)
    assert journal.read(segment, 100, 10) == journal.Chunk([], 100)


@pytest.mark.parametrize("finished", [False, True])
@given(lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b" "))), size=st.integers(1, 40))
def test_any_chunk_size_reads_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory,
    finished: bool,  # noqa: FBT001 (a parameter of the test)
    lines: list[bytes],
    size: int,
) -> None:
    """A line longer than the chunk makes progress, and none is read twice or divided."""
    path = tmp_path_factory.getbasetemp() / "segment"
    segment = segment_of(path, b"".join(line + b"\n" for line in lines) + b"tail", finished=finished)
    found, offset = [], 0
    chunk = journal.read(segment, offset, size)
    while chunk.end > offset:
        found += chunk.lines
        offset = chunk.end
        chunk = journal.read(segment, offset, size)
    assert chunk == journal.Chunk([], offset)
    assert found == lines + [b"tail"] * finished


def test_longest_line_is_whole(tmp_path: Path) -> None:
    """A datagram of the greatest length comes back in one piece, without a second line behind it."""
    line = b"x" * datagram.MAX_DATAGRAM
    segment = segment_of(tmp_path / "segment", line + b"\nnext\n", finished=False)
    for size in (100, len(line), len(line) + 1, 1 << 20):
        first = journal.read(segment, 0, size)
        rest = journal.read(segment, first.end, size)
        assert first.lines + rest.lines == [line, b"next"]


def test_damaged_segment_makes_progress(tmp_path: Path) -> None:
    """Zeros without end, as a file system may leave them, are read in pieces and not into memory whole."""
    segment = segment_of(tmp_path / "segment", bytes(3 * journal.MAX_LINE) + b"\nnext\n", finished=False)
    offset, lines = 0, []
    for _ in range(10):
        chunk = journal.read(segment, offset, 1000)
        assert sum(map(len, chunk.lines)) <= journal.MAX_LINE
        lines += chunk.lines
        offset = chunk.end
    assert lines[-1] == b"next"


def test_newest_segment_is_never_removed(directory: Path) -> None:
    """Its name tells the next writer which names were used."""
    writer = journal.Writer(directory, NOON)
    writer.turn(MIDNIGHT)
    first, last = journal.segments(directory)
    journal.remove(first)
    with pytest.raises(ValueError, match="the newest segment cannot be removed"):
        journal.remove(last)
    assert [segment.name for segment in journal.segments(directory)] == [last.name]
    writer.close()


def test_sync_from_another_thread_while_segments_come_and_go(directory: Path) -> None:
    """Nothing is lost, no descriptor is left open, whatever the order of things."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (a count)
    writer = journal.Writer(directory, NOON, max_bytes=50)
    ended = threading.Event()

    def sync() -> None:
        while not ended.is_set():
            writer.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    expected = [str(number).encode() for number in range(2000)]
    for line in expected:
        assert writer.append(line + b"\n", 1, NOON) is None
    ended.set()
    thread.join()
    writer.close()
    assert everything(directory) == expected
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 (a count)


def test_file_that_may_not_grow_keeps_whole_lines(directory: Path) -> None:
    """What fits stays, the rest is counted, a half line is cut off, and it goes on once there is room."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(directory)], check=True, capture_output=True, text=True, timeout=60
    )
    assert everything(directory) == [b"one......", b"two......", b"four", b"six", b"seven"]
    error = f"Loss(datagrams=1, error='{directory}: File too large')"
    assert done.stdout.splitlines() == [error, "None", error, "None"]


def test_full_disk(small_disk: Path) -> None:
    """Every datagram is either in the journal or told as lost, and after room was made it goes on."""
    filler = small_disk / "filler"
    writer = journal.Writer(small_disk / "journal", NOON)
    filler.write_bytes(bytes(60_000))
    batch = b"".join(b"%099d\n" % number for number in range(100))
    losses = [loss for _ in range(20) if (loss := writer.append(batch, 100, NOON))]
    assert losses
    assert losses[0].error.endswith("No space left on device")
    kept = everything(small_disk / "journal")
    assert len(kept) + sum(loss.datagrams for loss in losses) == 2000
    assert {len(line) for line in kept} == {99}
    filler.unlink()
    assert writer.append(batch, 100, NOON) is None
    writer.close()
    assert len(everything(small_disk / "journal")) == len(kept) + 100


def test_disk_without_room_for_a_segment(small_disk: Path) -> None:
    """Neither a start nor a new day on a full disk ends the recorder, and no day goes into the segment of another."""
    directory = small_disk / "journal"
    journal.Writer(directory, NOON).close()
    fill_with_files(small_disk / "filler")
    writer = journal.Writer(directory, NOON)
    assert writer.append(b"lost\n", 1, NOON) == journal.Loss(1, f"{directory}: No space left on device")
    next((small_disk / "filler").iterdir()).unlink()
    assert writer.append(b"today\n", 1, NOON) is None
    assert writer.turn(MIDNIGHT) == f"{directory}: No space left on device"
    assert writer.append(b"lost\n", 1, MIDNIGHT) == journal.Loss(1, f"{directory}: No space left on device")
    next((small_disk / "filler").iterdir()).unlink()
    assert writer.append(b"tomorrow\n", 1, MIDNIGHT) is None
    writer.close()
    assert [segment.path.read_bytes() for segment in journal.segments(directory)] == [b"", b"today\n", b"tomorrow\n"]


def fill_with_files(directory: Path) -> None:
    """Use up all inodes."""
    directory.mkdir()
    for number in range(1000):
        try:
            (directory / str(number)).touch()
        except OSError:
            return
    pytest.fail("the disk does not get full")


def test_a_journal_has_one_identity_whoever_asks_first(tmp_path: Path) -> None:
    """Many at once get the same, it stays, and nothing else is left behind."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        identities = set(pool.map(lambda _: journal.identity(tmp_path), range(64)))
    assert len(identities) == 1
    assert {journal.identity(tmp_path)} == identities
    assert [file.name for file in tmp_path.iterdir()] == [journal.IDENTITY]


def test_an_identity_that_was_lost_is_an_error(tmp_path: Path) -> None:
    """Rather than a new one, by which everything would be counted again."""
    (tmp_path / journal.IDENTITY).write_text("")
    with pytest.raises(journal.JournalError, match="is empty"):
        journal.identity(tmp_path)


def test_a_segment_that_was_removed_meanwhile_has_nothing_more(tmp_path: Path) -> None:
    """Another tally may have been faster."""
    gone = journal.Segment(dt.date(2026, 11, 23), "x", tmp_path / "x", finished=True)
    assert journal.read(gone, 7, 100) == journal.Chunk([], 7)


def test_a_writer_tells_that_the_clock_ran_ahead_once(tmp_path: Path) -> None:
    """Its datagrams go to the later day, until that day's files are moved away."""
    for now, ahead in ((NOON, False), (NOON + 9 * 86400, False), (NOON, True)):
        writer = journal.Writer(tmp_path, now)
        assert writer.is_ahead(now) is ahead
        writer.close()
