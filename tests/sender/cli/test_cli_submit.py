"""``tlsrpt submit`` into a real recorder: what arrives is what ``pending`` counts."""

import json
import pathlib
import subprocess
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import pytest

from sender import config

Command = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[[config.Config], BaseProcess]

GOOD = '{"d":"%s","policies":[{"policy-type":9,"f":0}]}\n'
BAD = "\n" + GOOD % "a.example" + "{\n" + GOOD % "b.example" + '{"d":"\\u001b[31m"}\n' + GOOD % "b.example"


@pytest.fixture
def recorder(tlsrpt: Command, start_recorder: Start, tmp_path: pathlib.Path) -> BaseProcess:
    """A recorder of the test's configuration."""
    return start_recorder(config.load(tmp_path / "tlsrpt.toml", {}))


def counted(tlsrpt: Command, recorder: BaseProcess) -> dict[str, int]:
    """End the recorder, which takes what is queued, and return the successful sessions by domain."""
    recorder.terminate()
    recorder.join()
    return {row["domain"]: row["successful"] for row in json.loads(tlsrpt("pending", "--json").stdout)["domain_days"]}


FORMS = [
    ("a file", ["sessions.ndjson"], ""),
    ("standard input", [], GOOD % "a.example"),
    ("-", ["-"], GOOD % "a.example"),
]


@pytest.mark.parametrize(("arguments", "stdin"), [row[1:] for row in FORMS], ids=[row[0] for row in FORMS])
def test_sessions_come_from_a_file_or_standard_input(
    tlsrpt: Command, recorder: BaseProcess, tmp_path: pathlib.Path, arguments: list[str], stdin: str
) -> None:
    """And are counted."""
    (tmp_path / "sessions.ndjson").write_text(GOOD % "a.example")
    done = tlsrpt("submit", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 submitted\n", "")
    assert counted(tlsrpt, recorder) == {"a.example": 1}


def test_bad_lines_are_named_and_the_others_are_sent(tlsrpt: Command, recorder: BaseProcess) -> None:
    """With their number and a word for the reason, one line each; blank lines do not count as sessions."""
    done = tlsrpt("submit", stdin=BAD)
    assert (done.returncode, done.stdout) == (1, "3 submitted\n")
    first, second = done.stderr.splitlines()
    assert first.startswith("tlsrpt: line 3: unterminated: ")
    assert second.startswith("tlsrpt: line 5: ")
    assert "\x1b" not in second
    assert counted(tlsrpt, recorder) == {"a.example": 1, "b.example": 2}


def test_very_many_bad_lines_are_counted(tlsrpt: Command, recorder: BaseProcess) -> None:
    """A file of something else does not fill the screen."""
    done = tlsrpt("submit", stdin="x\n" * 5000)
    assert (done.returncode, done.stdout) == (1, "0 submitted\n")
    told = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in told[:20]] == [f"line {number}" for number in range(1, 21)]
    assert told[20:] == ["tlsrpt: 4,980 more lines were not sent"]
