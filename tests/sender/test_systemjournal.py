"""The systemd journal through a program that speaks like journalctl, and through the real one where there is one."""

import contextlib
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from sender import logsource, systemjournal

JOURNALCTL = """#!{python}
import json, sys, time
options = dict(item[2:].partition("=")[::2] for item in sys.argv[1:] if item.startswith("--"))
assert options["output"] == "json" and "SYSLOG_FACILITY=2" in sys.argv
path = {entries!r}
place = options.get("cursor") or options.get("after-cursor")
sent = 0
while True:
    entries = [line for line in open(path) if line.endswith("\\n")]
    cursors = [json.loads(line)["__CURSOR"] for line in entries if line.startswith('{{"__CURSOR')]
    start = sent
    if not sent and place:
        start = cursors.index(place) + ("after-cursor" in options) if place in cursors else 0
    if "lines" in options:
        start = max(0, len(entries) - int(options["lines"]))
    sys.stdout.writelines(entries[start:])
    sys.stdout.flush()
    sent = len(entries)
    if "follow" not in options or (sent and entries[-1] == "end\\n"):
        break
    time.sleep(0.01)
"""

Reading = Callable[..., systemjournal.Reader]


def cursor(number: int) -> str:
    """Return a cursor as the journal makes them."""
    return f"s=5a;i={number:x};b=7;m={number};t={0x6000 + number:x};x=1"


def entry(number: int, **fields: object) -> dict[str, object]:
    """Return an entry of a smtp process."""
    usual: dict[str, object] = {
        "__CURSOR": cursor(number),
        "__REALTIME_TIMESTAMP": str(number),
        "MESSAGE": f"text {number}",
        "SYSLOG_IDENTIFIER": "postfix/smtp",
        "SYSLOG_PID": "7",
        "_PID": "8",
        "_HOSTNAME": "host",
    }
    return usual | fields


@pytest.fixture
def entries(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the journal of the test is."""
    path = tmp_path / "entries"
    path.touch()
    return path


def write(path: pathlib.Path, *rows: object) -> None:
    """Append entries; texts as they are."""
    with path.open("a") as file:
        file.writelines(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)


@pytest.fixture
def reading(tmp_path: pathlib.Path, entries: pathlib.Path) -> Iterator[Reading]:
    """Return what begins to read; ended after the test."""
    program = tmp_path / "journalctl"
    program.write_text(JOURNALCTL.format(python=sys.executable, entries=str(entries)))
    program.chmod(0o755)
    with contextlib.ExitStack() as stack:

        def begin(*, follow: bool) -> systemjournal.Reader:
            reader = systemjournal.Reader(follow=follow, program=str(program), pause=0.1)
            return stack.enter_context(contextlib.closing(reader))

        yield begin


def read(reader: systemjournal.Reader, count: int | None = None) -> list[tuple[str | None, logsource.Age]]:
    """Return texts with their age: so many, or all until the end."""
    found: list[tuple[str | None, logsource.Age]] = []
    deadline = time.monotonic() + 20
    while len(found) < count if count is not None else not reader.at_end:
        assert time.monotonic() < deadline, "waited too long"
        found += [(record.line.text if record.line else None, record.age) for record in reader.read()]
    return found


NEW, LAST, OLD = logsource.Age.NEW, logsource.Age.LAST, logsource.Age.OLD


def test_what_is_there_is_read_to_its_end(reading: Reading, entries: pathlib.Path) -> None:
    """Entries of others and broken ones among them."""
    octets = list("naïve".encode("latin-1"))
    write(
        entries,
        entry(1),
        entry(2, SYSLOG_IDENTIFIER="sshd"),
        entry(3, MESSAGE=octets),
        entry(4, MESSAGE=None),
        entry(5, MESSAGE=["twice", "told"]),
        "{ broken",
        {"MESSAGE": "no cursor"},
        entry(6, MESSAGE="x" * systemjournal.MAX_ENTRY),
        entry(7, SYSLOG_PID=None),
    )
    reader = reading(follow=False)
    texts = [text for text, _ in read(reader)]
    assert texts == ["text 1", None, "na�ve", "", "twice", "text 7"]
    assert reader.too_long == 1
    assert reader.at_end


def test_entries_are_given_as_they_come(reading: Reading, entries: pathlib.Path) -> None:
    """From the end on, if so told."""
    write(entries, entry(1), entry(2))
    reader = reading(follow=True)
    assert reader.skip_to_end() == (cursor(2), True)
    assert read(reader, 0) == []
    write(entries, entry(3))
    assert read(reader, 1) == [("text 3", NEW)]
    write(entries, entry(4), entry(5))
    assert read(reader, 2) == [("text 4", NEW), ("text 5", NEW)]


def test_an_empty_journal_has_no_end_to_begin_at(reading: Reading) -> None:
    """All that comes is new then."""
    assert reading(follow=True).skip_to_end() is None


def test_it_comes_back_to_a_cursor(reading: Reading, entries: pathlib.Path) -> None:
    """Entries up to the last one are told apart; one that was removed from the journal is passed by its time."""
    write(entries, *[entry(number) for number in range(1, 5)])
    reader = reading(follow=False)
    assert reader.resume(cursor(2), cursor(3))
    assert read(reader) == [("text 2", OLD), ("text 3", LAST), ("text 4", NEW)]
    entries.write_text("")
    write(entries, entry(2), entry(4), entry(5))
    again = reading(follow=False)
    assert again.resume(cursor(1), cursor(3))
    assert read(again) == [("text 2", OLD), ("text 4", NEW), ("text 5", NEW)]


def test_a_child_that_ends_is_started_again(reading: Reading, entries: pathlib.Path) -> None:
    """After the last entry it gave."""
    write(entries, entry(1), "end")
    reader = reading(follow=True)
    assert read(reader, 1) == [("text 1", NEW)]
    read(reader)
    entries.write_text("")
    write(entries, entry(1), entry(2))
    assert read(reader, 1) == [("text 2", NEW)]


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: pathlib.Path) -> None:
    """One line with the cure."""
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\nexit 3\n")
    failing.chmod(0o755)
    for program in ("/no/such/journalctl", str(failing)):
        reader = systemjournal.Reader(follow=False, program=program)
        with pytest.raises(logsource.LogError, match="group systemd-journal"):
            read(reader)
        with pytest.raises(logsource.LogError, match=program):
            systemjournal.Reader(follow=True, program=program).skip_to_end()


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="there is no journalctl on this machine")
def test_the_real_journalctl_takes_the_options() -> None:
    """Whether or not it has anything."""
    reader = systemjournal.Reader(follow=False)
    read(reader)
    reader.close()
    reader.skip_to_end()
