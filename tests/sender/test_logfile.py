"""A log file that is written, rotated and truncated by somebody else: each line once, in order."""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import strategies

from sender import logfile, logsource, postfixlog

MANY = 40
"""Rotations; none is removed."""

HEAD = "Nov 24 02:07:28 host postfix/smtp[1]: "


@pytest.fixture
def log(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the log is going to be."""
    return tmp_path / "mail.log"


def append(path: pathlib.Path, *texts: str) -> None:
    """Write lines."""
    with path.open("ab") as file:
        file.write("".join(f"{HEAD}{text}\n" for text in texts).encode())


def read(reader: logfile.Reader) -> list[str]:
    """Return all new texts that are there now."""
    return [record.line.text if record.line else "" for record in records(reader) if record.age is logsource.Age.NEW]


def records(reader: logfile.Reader) -> list[logsource.Record]:
    """Return all lines that are there now."""
    found = list(reader.read())
    while not reader.at_end:
        found += reader.read()
    return found


def test_lines_are_given_as_they_come(log: pathlib.Path) -> None:
    """Whole ones; the file need not be there yet."""
    reader = logfile.Reader(log)
    assert read(reader) == []
    append(log, "one", "two")
    assert read(reader) == ["one", "two"]
    with log.open("ab") as file:
        file.write(f"{HEAD}thr".encode())
        file.flush()
        assert read(reader) == []
        file.write(b"ee\n")
    assert read(reader) == ["three"]


def rename(log: pathlib.Path) -> None:
    """Rotate like logrotate does by default, and create the new one."""
    for number in range(MANY, 0, -1):
        if (old := log.with_name(f"{log.name}.{number}")).exists():
            old.rename(log.with_name(f"{log.name}.{number + 1}"))
    log.rename(log.with_name(f"{log.name}.1"))
    log.touch()


def date(log: pathlib.Path) -> None:
    """Rotate with a date in the name."""
    number = len(list(log.parent.iterdir()))
    log.rename(log.with_name(f"{log.name}-202611{number:02}"))
    log.touch()


def date_before_the_extension(log: pathlib.Path) -> None:
    """Rotate as ``maillog_file_rotate_suffix`` or ``dateext`` with ``extension`` may do."""
    number = len(list(log.parent.iterdir()))
    log.rename(log.with_name(f"{log.stem}-202611{number:02}{log.suffix}"))
    log.touch()


def copy_and_truncate(log: pathlib.Path) -> None:
    """Rotate with ``copytruncate``."""
    for number in range(MANY, 0, -1):
        if (old := log.with_name(f"{log.name}.{number}")).exists():
            old.rename(log.with_name(f"{log.name}.{number + 1}"))
    shutil.copy2(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)


ROTATIONS = [rename, date, date_before_the_extension, copy_and_truncate]


@pytest.mark.parametrize("rotate", ROTATIONS, ids=lambda rotate: rotate.__name__)
def test_a_rotated_log_is_read_to_its_end_first(rotate: Callable[[pathlib.Path], None], log: pathlib.Path) -> None:
    """What was added just before it was rotated, too."""
    reader = logfile.Reader(log)
    append(log, "one", "two")
    assert read(reader) == ["one", "two"]
    append(log, "three")
    rotate(log)
    append(log, "four")
    assert read(reader) == ["three", "four"]


@pytest.mark.parametrize("rotate", ROTATIONS, ids=lambda rotate: rotate.__name__)
def test_what_was_rotated_while_nobody_read_is_found(rotate: Callable[[pathlib.Path], None], log: pathlib.Path) -> None:
    """Three times; lines read again are told apart from new ones."""
    append(log, "one", "two", "three")
    first, second, _ = records(logfile.Reader(log))
    for number in range(3):
        rotate(log)
        append(log, f"later {number}")
        stamp(log, number)
    reader = logfile.Reader(log)
    assert reader.resume(first.mark, second.mark)
    found = records(reader)
    assert [(record.line and record.line.text, record.age) for record in found] == [
        ("one", logsource.Age.OLD),
        ("two", logsource.Age.LAST),
        *[(text, logsource.Age.NEW) for text in ("three", "later 0", "later 1", "later 2")],
    ]


def stamp(log: pathlib.Path, number: int) -> None:
    """Give the log a later time than the one before; a clock is coarser than this test is fast."""
    seconds = 2_000_000_000 + number
    os.utime(log, (seconds, seconds))


def test_a_writer_that_has_not_changed_over_yet_is_waited_for(log: pathlib.Path) -> None:
    """It goes on in the renamed file until something is in the new one."""
    reader = logfile.Reader(log)
    append(log, "one")
    assert read(reader) == ["one"]
    rename(log)
    assert read(reader) == []
    append(log.with_name("mail.log.1"), "two")
    assert read(reader) == ["two"]
    append(log, "three")
    append(log.with_name("mail.log.1"), "just before")
    assert read(reader) == ["just before", "three"]


def test_a_last_line_without_its_end_counts_when_the_file_is_left(log: pathlib.Path) -> None:
    """Its writer was killed."""
    reader = logfile.Reader(log)
    log.write_bytes(f"{HEAD}one".encode())
    assert read(reader) == []
    rename(log)
    append(log, "two")
    assert read(reader) == ["one", "two"]


def test_a_truncated_log_begins_anew(log: pathlib.Path) -> None:
    """Without any copy, and though it has grown beyond where it was."""
    reader = logfile.Reader(log)
    append(log, "one", "two")
    assert read(reader) == ["one", "two"]
    log.write_bytes(b"")
    assert read(reader) == []
    append(log, "three")
    assert read(reader) == ["three"]
    with log.open("wb") as file:
        file.write(f"{HEAD}another beginning {'x' * 500}\n{HEAD}four\n".encode())
    assert read(reader)[-1] == "four"


def test_lines_that_are_too_long_are_skipped_and_counted(log: pathlib.Path) -> None:
    """However long; those around them are not harmed."""
    reader = logfile.Reader(log)
    append(log, "one", "x" * postfixlog.MAX_LINE, "two", "x" * (3 * logfile.PIECE), "three", "x" * 7000)
    assert [text[:5] for text in read(reader)] == ["one", "", "two", "", "three", "xxxxx"]
    assert reader.too_long == 2
    marks = {record.mark for record in records(logfile.Reader(log))}
    assert len(marks) == 6


def test_marks_of_lines_after_a_long_one_are_right(log: pathlib.Path) -> None:
    """Who comes back to one finds that line."""
    append(log, "one", "x" * (2 * logfile.PIECE), "two", "three")
    found = records(logfile.Reader(log))
    reader = logfile.Reader(log)
    assert reader.resume(found[2].mark, found[2].mark)
    again = records(reader)
    assert [record.mark for record in again] == [record.mark for record in found[2:]]
    assert [record.age for record in again] == [logsource.Age.LAST, logsource.Age.NEW]


def test_a_log_can_be_followed_from_its_end(log: pathlib.Path) -> None:
    """From after the last whole line."""
    reader = logfile.Reader(log)
    assert reader.skip_to_end() is None
    append(log, "one", "two")
    with log.open("ab") as file:
        file.write(HEAD.encode())
    place = reader.skip_to_end()
    assert place is not None
    append(log.with_name("unrelated"), "nothing")
    with log.open("ab") as file:
        file.write(b"three\n")
    assert read(reader) == ["three"]
    later = logfile.Reader(log)
    assert later.resume(place[0], place[0])
    (record,) = records(later)
    assert record.age is logsource.Age.LAST


def test_a_log_that_is_gone_is_told(log: pathlib.Path) -> None:
    """Where it was left is nowhere; what there is now is read from its beginning."""
    append(log, "one", "two")
    one, two = records(logfile.Reader(log))
    log.unlink()
    append(log.with_name("other"), "keeps the inode busy")
    append(log, "another")
    reader = logfile.Reader(log)
    assert not reader.resume(one.mark, two.mark)
    assert not reader.resume("nonsense", "1.2.3.zz.x")
    assert read(reader) == ["another"]


def test_unrelated_files_are_not_taken_for_rotated_ones(log: pathlib.Path) -> None:
    """Files with like names and later times."""
    append(log, "one")
    reader = logfile.Reader(log)
    assert read(reader) == ["one"]
    rename(log)
    for name in ("mail.log.bak", "mail.logger", "mail-debug.log", "mail.err", "mail.log.2.gz"):
        append(log.with_name(name), "unrelated")
        stamp(log.with_name(name), 1)
    append(log, "two")
    assert read(reader) == ["two"]


WRONG = [
    ("a folder", lambda path: path.mkdir(), "not a file"),
    ("a loop", lambda path: path.symlink_to(path), "cannot be read"),
]


@pytest.mark.parametrize(("make", "text"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_no_log_is_an_error(make: Callable[[pathlib.Path], None], text: str, log: pathlib.Path) -> None:
    """One line that names the path."""
    make(log)
    with pytest.raises(logsource.LogError, match=text) as caught:
        logfile.Reader(log).read()
    assert str(log) in str(caught.value)


PADDING = "x" * 30
"""A line is long enough to know a file by."""

OPERATIONS = strategies.lists(
    strategies.sampled_from(["append", "append", "half", "read", "restart", "rename", "date", "copy"]), max_size=30
)


@hypothesis.given(OPERATIONS)
@hypothesis.settings(deadline=None)
def test_whatever_happens_each_line_is_read_once_in_order(operations: list[str]) -> None:
    """Writing, reading, rotating in any way, stopping and coming back."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(pathlib.Path(folder) / "mail.log")
        for operation in operations:
            world.do(operation)
        world.do("append")
        world.do("read")
        assert world.seen == [f"line {number} {PADDING}" for number in range(world.written)]


class World:
    """A log, its writer, its rotation, and a reader that stops and comes back."""

    def __init__(self, log: pathlib.Path) -> None:
        self.log = log
        self.log.touch()
        self.reader = logfile.Reader(log)
        self.seen: list[str] = []
        self.written = 0
        self.time = 0
        self.mark: str | None = None
        self.half = ""
        self.do("append")
        self.read()

    def do(self, operation: str) -> None:
        """Do one thing."""
        match operation:
            case "append":
                self.write(self.half or self.next(), "\n")
                self.written += 1
                self.half = ""
            case "half" if not self.half:
                text = self.next()
                self.write(text[:20], "")
                self.half = text[20:]
            case "read":
                self.read()
            case "restart" if self.mark is not None:
                self.restart(self.mark)
            case "rename" | "date" | "copy" if not self.half and self.log.stat().st_size:
                {"rename": rename, "date": date, "copy": copy_and_truncate}[operation](self.log)
                self.do("append")  # an empty file is not known by anything
            case _:
                pass

    def next(self) -> str:
        """Return the next line."""
        return f"{HEAD}line {self.written} {PADDING}"

    def write(self, *texts: str) -> None:
        """Write to the log, each time later than before."""
        with self.log.open("a") as file:
            file.writelines(texts)
        self.time += 1
        stamp(self.log, self.time)

    def read(self) -> None:
        """Take what is new."""
        for record in records(self.reader):
            self.mark = record.mark
            if record.age is logsource.Age.NEW and record.line:
                self.seen.append(record.line.text)

    def restart(self, mark: str) -> None:
        """Begin again where it stopped."""
        self.reader.close()
        self.reader = logfile.Reader(self.log)
        assert self.reader.resume(mark, mark)
