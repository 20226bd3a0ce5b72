"""The recorder: what is received is in the journal, at the stop, on a full disk, while the disk is slow."""

import contextlib
import datetime as dt
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import structlog

from policy import listeners
from sender import config, datagram, journal, recorder

NOON = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC).timestamp()
MIDNIGHT = dt.datetime(2026, 11, 25, tzinfo=dt.UTC).timestamp()

# id, datagrams, lines of the journal
LINES = [
    ("one", [b'{"d":1}'], [b'{"d":1}']),
    ("several", [b"one", b"two", b"three"], [b"one", b"two", b"three"]),
    ("a line feed within", [b"one", b'{\n "d":\n1}\n', b"three"], [b"one", b'{  "d": 1} ', b"three"]),
    ("only line feeds", [b"\n", b"\n\n"], [b" ", b"  "]),
    ("an empty one", [b"", b"two"], [b"", b"two"]),
    ("any byte", [bytes(range(256))], [bytes(range(256)).replace(b"\n", b" ")]),
    ("200 KB", [b"x" * 200_000, b"two"], [b"x" * 200_000, b"two"]),
]

PROGRAM = """
import sys
from pathlib import Path
from sender import config, recorder
section = config.Recorder(socket=sys.argv[1], journal=sys.argv[2], socket_group=sys.argv[3])
sys.exit(recorder.main(config.Config(recorder=section), []))
"""


@dataclass
class Running:
    """A recorder in a thread of this process."""

    path: Path
    journal: Path
    now: float = NOON
    log: structlog.testing.LogCapture = field(default_factory=structlog.testing.LogCapture)
    totals: recorder.Totals | None = None

    def lines(self) -> list[bytes]:
        """Return what the journal has, half lines left out."""
        return [line for segment in journal.segments(self.journal) for line in journal.read(segment, 0, 1 << 26).lines]

    def send(self, *datagrams: bytes) -> None:
        """Send, waiting for room."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            client.connect(str(self.path))
            for content in datagrams:
                client.send(content)

    def events(self) -> list[str]:
        """Return what was logged."""
        return [entry["event"] for entry in self.log.entries]


class SlowDisk(journal.Writer):
    """A journal on a disk that takes as long to sync as the test wants."""

    ready = threading.Event()
    syncing = threading.Event()

    def sync(self) -> None:
        """Sync when the disk is ready."""
        self.syncing.set()
        assert self.ready.wait(30)
        super().sync()


@contextlib.contextmanager
def running(
    folder: Path, writer: type[journal.Writer] = journal.Writer, directory: Path | None = None
) -> Iterator[Running]:
    """Run a recorder in a thread, and stop it at the end."""
    this = Running(folder / "s", directory or folder / "journal")
    log = structlog.wrap_logger(None, [this.log], structlog.make_filtering_bound_logger(0))
    reading, writing = os.pipe()

    def run() -> None:
        with listeners.bind_unix(this.path, socket.SOCK_DGRAM, 0o600) as sock:
            open_journal = writer(this.journal, this.now)
            listening.set()
            this.totals = recorder.run(
                sock, open_journal, stop=reading, own_path=this.path, clock=lambda: this.now, log=log
            )

    listening = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    assert listening.wait(10)
    try:
        yield this
    finally:
        os.write(writing, b"x")
        thread.join(30)
        os.close(reading)
        os.close(writing)
    assert not thread.is_alive()


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for the recorder."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)


@pytest.mark.parametrize(("datagrams", "lines"), [pytest.param(*row[1:], id=row[0]) for row in LINES])
def test_a_datagram_is_a_line(tmp_path: Path, datagrams: list[bytes], lines: list[bytes]) -> None:
    """Each one is on a line of its own, byte for byte but for line feeds, in the order received."""
    with running(tmp_path) as this:
        this.send(*datagrams)
    assert this.lines() == lines
    assert this.totals == recorder.Totals(received=len(lines), truncated=0, lost=0)
    assert this.events() == []


def test_a_datagram_is_appended_at_once(tmp_path: Path) -> None:
    """It does not wait for the next one, or for the end."""
    with running(tmp_path) as this:
        for number in range(1, 4):
            this.send(b"x")
            wait_until(lambda: len(this.lines()) == number)  # noqa: B023 (used within the round)


def test_too_long_a_datagram_is_kept_cut_and_seen_as_truncated(tmp_path: Path) -> None:
    """Its neighbours are not harmed, the log tells once, and whoever decodes it sees what it is."""
    too_long = b'{"d":"' + b"x" * datagram.MAX_DATAGRAM
    with running(tmp_path) as this:
        this.send(b"before", too_long, b"after", too_long)
    assert this.lines() == [b"before", too_long[: datagram.MAX_DATAGRAM], b"after", too_long[: datagram.MAX_DATAGRAM]]
    with pytest.raises(datagram.MalformedError) as caught:
        datagram.decode(this.lines()[1])
    assert caught.value.reason is datagram.Reason.TRUNCATED
    assert this.totals == recorder.Totals(received=4, truncated=2, lost=0)
    assert this.events() == ["datagrams truncated: longer than the format allows"]


def test_warnings_are_repeated_after_a_minute(tmp_path: Path) -> None:
    """A flood is told once a minute, with the total."""
    too_long = b"x" * (datagram.MAX_DATAGRAM + 1)
    with running(tmp_path) as this:
        for number, now in enumerate((NOON, NOON + 59, NOON + 61, NOON + 70), start=1):
            this.now = now
            this.send(too_long)
            wait_until(lambda: len(this.lines()) == number)  # noqa: B023 (used within the round)
    assert [entry["total"] for entry in this.log.entries] == [1, 3]


def test_midnight_begins_a_segment(tmp_path: Path) -> None:
    """What comes after midnight UTC is in the segment of the new day."""
    with running(tmp_path) as this:
        this.send(b"today")
        wait_until(lambda: this.lines() == [b"today"])
        this.now = MIDNIGHT
        this.send(b"tomorrow")
    contents = [(str(segment.day), segment.path.read_bytes()) for segment in journal.segments(this.journal)]
    assert contents == [("2026-11-24", b"today\n"), ("2026-11-25", b"tomorrow\n")]


def test_what_was_queued_before_the_stop_is_appended(tmp_path: Path) -> None:
    """Even if the stop comes first, and then nobody can send any more."""
    reading, writing = os.pipe()
    path = tmp_path / "s"
    with (
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o600) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.connect(str(path))
        for number in range(5):
            client.send(b"%d" % number)
        os.write(writing, b"x")
        totals = recorder.run(sock, journal.Writer(tmp_path / "journal", NOON), stop=reading, own_path=path)
        assert totals.received == 5
        assert not path.exists()
        with pytest.raises(BrokenPipeError):
            client.send(b"late")
    os.close(reading)
    os.close(writing)
    (segment,) = [found for found in journal.segments(tmp_path / "journal") if found.path.stat().st_size]
    assert segment.path.read_bytes() == b"0\n1\n2\n3\n4\n"


def test_socket_of_systemd_stays(tmp_path: Path) -> None:
    """It is neither removed nor refuses: what comes between two recorders waits for the next one."""
    path = tmp_path / "s"
    with (
        listeners.bind_unix(path, socket.SOCK_DGRAM, 0o600) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.connect(str(path))
        for content in (b"one", b"two"):
            reading, writing = os.pipe()
            client.send(content)
            os.write(writing, b"x")
            assert recorder.run(sock, journal.Writer(tmp_path / "journal", NOON), stop=reading).received == 1
            os.close(reading)
            os.close(writing)
        assert path.exists()
        client.send(b"three")
        assert sock.recv(100) == b"three"


def test_written_data_is_synced_within_a_second(tmp_path: Path) -> None:
    """The thread does it without being asked, each time."""
    writer = SlowDisk
    writer.ready.set()
    with running(tmp_path, writer) as this:
        for content in (b"one", b"two"):
            writer.syncing.clear()
            this.send(content)
            started = time.monotonic()
            assert writer.syncing.wait(10)
            assert time.monotonic() - started < 1
        writer.syncing.clear()
        assert not writer.syncing.wait(2 * recorder.SYNC_AFTER), "nothing was written, so nothing is to be synced"


def test_slow_disk_does_not_stall_reception(tmp_path: Path) -> None:
    """While a sync takes its time senders do not wait, and when it is over all is written in order."""
    SlowDisk.ready.clear()
    SlowDisk.syncing.clear()
    with running(tmp_path, SlowDisk) as this:
        this.send(b"first")
        assert SlowDisk.syncing.wait(10)
        datagrams = [b"%d" % number for number in range(5000)]
        this.send(*datagrams)
        assert this.lines() == [b"first"]
        SlowDisk.ready.set()
        wait_until(lambda: len(this.lines()) == 5001)
    assert this.lines() == [b"first", *datagrams]


def test_slow_disk_does_not_fill_the_memory(tmp_path: Path) -> None:
    """When the buffer is half full it is written, sync or not."""
    SlowDisk.ready.clear()
    SlowDisk.syncing.clear()
    content = b"x" * 200_000
    with running(tmp_path, SlowDisk) as this:
        this.send(b"first")
        assert SlowDisk.syncing.wait(10)
        this.send(*[content] * 100)
        assert len(this.lines()) > 1
        SlowDisk.ready.set()
    assert this.lines() == [b"first"] + [content] * 100


def test_full_disk_is_survived(tmp_path: Path) -> None:
    """What does not fit is counted and told; with room again it goes on, and tells that, too."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs root and the right to mount a tmpfs")
    try:
        filler = disk / "filler"
        with running(tmp_path, directory=disk / "journal") as this:
            filler.write_bytes(bytes(30_000))
            this.send(*[b"%099d" % number for number in range(1000)])
            wait_until(lambda: bool(this.log.entries))
            filler.unlink()
            this.send(b"again")
            wait_until(lambda: this.lines()[-1] == b"again")
        lines = this.lines()
        assert this.totals is not None
        assert this.totals.received == 1001
        assert len(lines) == 1001 - this.totals.lost
        assert {len(line) for line in lines[:-1]} == {99}
        assert this.events() == [
            "datagrams lost: the journal cannot be written",
            "the journal can be written again",
        ]
        assert this.log.entries[0]["error"] == f"{disk}/journal: No space left on device"
        assert this.log.entries[1]["lost"] == this.totals.lost > 0
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_sigterm_under_load_loses_nothing(
    tmp_path: Path, start_recorder: Callable[[config.Config], BaseProcess]
) -> None:
    """Every datagram that the kernel took from a sender before the end is in the journal."""
    section = config.Recorder(socket=str(tmp_path / "run" / "s"), journal=str(tmp_path / "journal"))
    process = start_recorder(config.Config(recorder=section))
    accepted = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(section.socket)
        with contextlib.suppress(ConnectionError):
            while True:
                client.send(b"%d" % accepted)
                accepted += 1
                if accepted == 3000:
                    process.terminate()
    process.join(20)
    assert process.exitcode == 0
    assert accepted >= 3000
    assert not Path(section.socket).exists()
    (segment,) = journal.segments(Path(section.journal))
    assert segment.path.read_bytes() == b"".join(b"%d\n" % number for number in range(accepted))


def start(folder: Path, group: str = "") -> subprocess.Popen[str]:
    """Start a recorder as a program."""
    arguments = [str(folder / "s"), str(folder / "journal"), group]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program_ends_on_signals(tmp_path: Path, number: signal.Signals) -> None:
    """Both signals end it with 0, and the log tells how much it was."""
    with start(tmp_path) as process:
        wait_until((tmp_path / "s").exists)
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o660
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"one", str(tmp_path / "s"))
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "recorder started" in output
    assert "recorder stopped" in output
    assert "received" in output


def test_program_that_cannot_start_tells_why(tmp_path: Path) -> None:
    """One line, exit code 1, no traceback; and a journal that is free again."""
    with listeners.bind_unix(tmp_path / "s", socket.SOCK_DGRAM, 0o600), start(tmp_path) as process:
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "another process listens on this socket" in output
        assert "Traceback" not in output
    with start(tmp_path, group="no-such-group") as process:
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "there is no group" in output
    writer = journal.Writer(tmp_path / "journal", NOON)
    with start(tmp_path) as process:
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "another process writes this journal" in output
    writer.close()


def test_main_uses_the_socket_of_systemd(tmp_path: Path) -> None:
    """Handed over, it is used and stays; the path of the configuration is not touched."""
    program = PROGRAM.replace("[]))", "[socket.socket(fileno=int(sys.argv[4]))]))").replace(
        "import sys", "import socket, sys"
    )
    with listeners.bind_unix(tmp_path / "given", socket.SOCK_DGRAM, 0o600) as sock:
        arguments = [str(tmp_path / "s"), str(tmp_path / "journal"), "", str(sock.fileno())]
        with (
            subprocess.Popen([sys.executable, "-c", program, *arguments], pass_fds=[sock.fileno()]) as process,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
        ):
            client.sendto(b"one", str(tmp_path / "given"))
            wait_until(lambda: any(found.path.stat().st_size for found in journal.segments(tmp_path / "journal")))
            process.terminate()
            assert process.wait(20) == 0
        assert (tmp_path / "given").exists()
        assert not (tmp_path / "s").exists()
