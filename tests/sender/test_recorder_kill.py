"""``kill -9`` of a recorder under load, over and over: what was appended stays, and is never mixed up."""

import contextlib
import random
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from sender import config, journal

ROUNDS = 40
SEED = 8460
PADDING = "x" * 200
Load = Callable[[str, Callable[[int], bytes]], contextlib.AbstractContextManager[None]]


def contents(directory: Path) -> dict[str, bytes]:
    """Return all segments."""
    return {segment.name: segment.path.read_bytes() for segment in journal.segments(directory)}


def test_kill_9_loses_nothing_that_was_appended(
    tmp_path: Path, start_recorder: Callable[[config.Config], BaseProcess], load: Load
) -> None:
    """Each round begins a segment, takes the socket over, keeps all that was there, adds whole datagrams in order."""
    chance = random.Random(SEED)
    print(f"seed {SEED}")  # noqa: T201 (shown when the test fails)
    section = config.Recorder(socket=str(tmp_path / "s"), journal=str(tmp_path / "journal"))
    directory = Path(section.journal)
    before: dict[str, bytes] = {}
    with load(section.socket, lambda number: f"{number} {PADDING}".encode()):
        for number in range(1, ROUNDS + 1):
            process = start_recorder(config.Config(recorder=section))
            process.join(chance.uniform(0, 0.05))
            held = contents(directory)
            process.kill()
            process.join()
            after = contents(directory)
            assert len(after) == number
            assert all(after[name] == content for name, content in before.items())
            assert all(after[name].startswith(content) for name, content in held.items())
            before = after
    check_numbers(directory)


def check_numbers(directory: Path) -> None:
    """Assert that all lines are whole, distinct and in order, except for a tail of each segment."""
    seen = -1
    for segment in journal.segments(directory):
        whole, _, _tail = segment.path.read_bytes().rpartition(b"\n")
        for line in whole.splitlines():
            number, _, padding = line.decode().partition(" ")
            assert padding == PADDING
            assert int(number) > seen
            seen = int(number)
    assert seen > ROUNDS, "there was no load to speak of"
