"""Findings as the recorder's room reads them, and handed over to real datagram sockets that are full, gone, or back."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from policy import findings, mtasts, verdict
from sender import datagram as door
from sender import session

LINES = ("version: STSv1", "mode: enforce", "mx: mx.example.com", "mx: *.example.net", "max_age: 86400")
POLICY = mtasts.parse_policy("\r\n".join(LINES).encode())
RECORD = "v=TLSRPTv1; rua=mailto:tls@example.com"

# id, finding, code of libtlsrpt, result type of RFC 8460
CODES = [
    (one.value, verdict.Finding(one, reason), code, result)
    for one, reason, code, result in [
        (
            verdict.FindingType.STS_POLICY_FETCH_ERROR,
            "http-404",
            301,
            session.ResultType.STS_POLICY_FETCH_ERROR,
        ),
        (verdict.FindingType.STS_POLICY_INVALID, "media-type", 302, session.ResultType.STS_POLICY_INVALID),
        (verdict.FindingType.STS_WEBPKI_INVALID, "certificate-expired", 303, session.ResultType.STS_WEBPKI_INVALID),
    ]
]

FINDING = CODES[0][1]


@contextlib.contextmanager
def _listen(path: Path) -> Iterator[socket.socket]:
    """Be a recorder that takes nothing by itself; its socket file is gone afterwards."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(5)
        try:
            yield sock
        finally:
            path.unlink()


def _take(sock: socket.socket, count: int) -> list[bytes]:
    return [sock.recv(262_144) for _ in range(count)]


def test_every_type_of_finding_has_a_code() -> None:
    """A new type must not meet a KeyError on the day somebody's policy host is down."""
    assert {case[1].result_type for case in CODES} == set(verdict.FindingType)


@pytest.mark.parametrize(("finding", "code", "result"), [pytest.param(*case[1:], id=case[0]) for case in CODES])
def test_a_finding_is_read_as_a_failed_session(finding: verdict.Finding, code: int, result: session.ResultType) -> None:
    """The recorder's side reads what this side writes: an sts session that failed, with the cause."""
    octets = findings.datagram("example.com", finding, RECORD, POLICY)
    read = door.decode(octets)
    assert (read.domain, read.record) == ("example.com", RECORD)
    [told] = read.results
    assert told.policy == session.Policy(
        session.PolicyType.STS, "example.com", LINES, ("mx.example.com", "*.example.net")
    )
    assert told.failed
    assert told.failures == (session.Failure(result, failure_reason_code=finding.reason),)
    assert json.loads(octets)["policies"][0]["failure-details"] == [{"c": code, "f": finding.reason}]


def test_what_is_not_known_is_left_out() -> None:
    """Without a record and a policy there are no empty values, which receivers of reports refuse."""
    told = json.loads(findings.datagram("example.com", FINDING))
    assert told == {
        "dpv": "1",
        "d": "example.com",
        "policies": [
            {
                "policy-type": 2,
                "policy-domain": "example.com",
                "failure-details": [{"c": 301, "f": "http-404"}],
                "t": 1,
                "f": 1,
            }
        ],
    }


def test_the_largest_policy_fits_into_a_datagram(tmp_path: Path) -> None:
    """64 KiB of policy, told twice, and the longest record still go through the socket."""
    hosts = "".join(f"mx: {number:060}.example.com\n" for number in range(840))
    policy = mtasts.parse_policy(f"version: STSv1\nmode: enforce\nmax_age: 1\n{hosts}".encode())
    octets = findings.datagram("example.com", FINDING, "v=TLSRPTv1;" + "x" * 4000, policy)
    assert len(octets) > 100_000

    async def hand_over() -> None:
        with _listen(tmp_path / "s") as sock:
            recorder = findings.Recorder(tmp_path / "s")
            recorder.send(octets)
            assert _take(sock, 1) == [octets]
            recorder.close()

    asyncio.run(hand_over())


def test_more_than_the_queue_takes_arrives_in_order(tmp_path: Path) -> None:
    """The kernel's queue is short; a burst waits here and follows as the recorder takes."""

    async def burst() -> None:
        with _listen(tmp_path / "s") as sock:
            recorder = findings.Recorder(tmp_path / "s")
            sent = [b"%d" % number for number in range(3000)]
            for octets in sent:
                recorder.send(octets)
            assert await asyncio.to_thread(_take, sock, len(sent)) == sent
            assert (recorder.sent, recorder.lost) == (3000, 0)
            recorder.close()

    asyncio.run(burst())


def test_a_stuck_recorder_costs_bounded_memory(tmp_path: Path) -> None:
    """What does not fit is lost and counted, at once and at the end; nothing waits for it."""

    async def stuck() -> None:
        with _listen(tmp_path / "s"):
            recorder = findings.Recorder(tmp_path / "s")
            for _ in range(findings.MAX_WAITING + 2000):
                recorder.send(b"x")
            queued = recorder.sent
            assert 0 < queued < 2000
            assert recorder.lost == 2000 - queued
            recorder.close()
            assert (recorder.sent, recorder.lost) == (queued, findings.MAX_WAITING + 2000 - queued)
            large = findings.Recorder(tmp_path / "s")
            for _ in range(2000):
                large.send(b"x" * 100_000)
            assert large.lost >= 2000 - findings.MAX_WAITING_OCTETS // 100_000 - queued
            large.close()

    with structlog.testing.capture_logs():
        asyncio.run(stuck())


def test_the_end_hands_over_what_waits(tmp_path: Path) -> None:
    """As far as there is room by then."""

    async def end() -> None:
        with _listen(tmp_path / "s") as sock:
            recorder = findings.Recorder(tmp_path / "s")
            while not recorder._waiting:
                recorder.send(b"%d" % recorder.sent)
            count = recorder.sent + 1
            first = _take(sock, 1)
            recorder.close()
            assert first + _take(sock, count - 1) == [b"%d" % number for number in range(count)]
            assert (recorder.sent, recorder.lost) == (count, 0)

    asyncio.run(end())


def test_a_recorder_that_was_started_again_is_found(tmp_path: Path) -> None:
    """A new socket at the same path, as after each restart, gets the next finding; none while there is no socket."""

    async def again() -> None:
        recorder = findings.Recorder(tmp_path / "s")
        recorder.send(b"too early")
        for text in (b"first", b"second", b"third"):
            with _listen(tmp_path / "s") as sock:
                recorder.send(text)
                assert _take(sock, 1) == [text]
        recorder.send(b"too late")
        assert (recorder.sent, recorder.lost) == (3, 2)
        recorder.close()

    with structlog.testing.capture_logs():
        asyncio.run(again())


def test_what_waited_for_a_recorder_that_died_is_lost(tmp_path: Path) -> None:
    """A burst that waits is given up with the recorder, and the next finding goes to the new one."""

    async def died() -> None:
        with _listen(tmp_path / "s"):
            recorder = findings.Recorder(tmp_path / "s")
            for _ in range(2000):
                recorder.send(b"old")
            queued = recorder.sent
        for _ in range(500):
            if recorder.lost:
                break
            await asyncio.sleep(0.01)
        assert recorder.lost == 2000 - queued
        with _listen(tmp_path / "s") as sock:
            recorder.send(b"new")
            assert _take(sock, 1) == [b"new"]
        recorder.close()

    with structlog.testing.capture_logs():
        asyncio.run(died())


def test_a_recorder_that_is_down_is_told_once_a_minute(tmp_path: Path) -> None:
    """A site without a recorder does not get a line for each mail; the counter has them all."""
    now = 1000.0
    recorder = findings.Recorder(tmp_path / "s", clock=lambda: now)
    with structlog.testing.capture_logs() as logs:
        for _ in range(50):
            recorder.send(b"x")
        now += 59
        recorder.send(b"x")
        now += 1
        recorder.send(b"x")
    assert [(line["lost"], line["error"]) for line in logs] == [
        (1, "No such file or directory"),
        (52, logs[0]["error"]),
    ]
    assert recorder.lost == 52
    recorder.close()
