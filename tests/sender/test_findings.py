"""What the policy socket finds wrong arrives in the reports, beside what the MTA itself reports.

The real ``tlsrpt serve recorder policy``, asked over its socket, in a made-up internet where nothing listens at the
policy host's port 443; the real ``tlsrpt report`` closes the day, and a receiver verifies what it got.
"""

import asyncio
import json
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from policy import cache, mtasts
from sender import journal
from sender.demo import dns, internet, verify, zone

Serve = Callable[..., Any]

DOMAIN = "domain.example"
QUERIES = 7
POLICY = mtasts.parse_policy(b"version: STSv1\r\nmode: enforce\r\nmx: mx.domain.example\r\nmax_age: 864000\r\n\r\n")
SECURE = b"OK secure match=mx.domain.example servername=hostname"

PLAIN_SESSION = {"d": DOMAIN, "policies": [{"policy-type": 9, "policy-domain": DOMAIN, "t": 0, "f": 0}]}
STS_SESSION = {
    "d": DOMAIN,
    "policies": [
        {
            "policy-type": 2,
            "policy-domain": DOMAIN,
            "policy-string": ["version: STSv1", "mode: enforce", "mx: mx.domain.example", "max_age: 864000"],
            "mx-host": ["mx.domain.example"],
            "t": 0,
            "f": 0,
        }
    ],
}
"""As Postfix tells a session by the policy that the socket handed it."""


def ask(path: pathlib.Path, name: str, times: int) -> list[bytes]:
    """Ask about the domain as Postfix does, all over one connection; return the answers."""
    query = f"{name} {DOMAIN}"
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as replies:
        client.settimeout(30)
        client.connect(str(path))
        answers = []
        for _ in range(times):
            client.sendall(f"{len(query)}:{query},".encode())
            length = 0
            while (octet := replies.read(1)) != b":":
                length = 10 * length + int(octet)
            answers.append(replies.read(length + 1)[:-1])
    return answers


def tell(path: pathlib.Path, session: dict[str, Any]) -> None:
    """Hand a session to the recorder."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.send(json.dumps(session).encode())


def wait_for_lines(folder: pathlib.Path, wanted: int) -> None:
    """Wait until the recorder has appended so many datagrams."""
    deadline = time.monotonic() + 20
    while sum(one.path.read_bytes().count(b"\n") for one in journal.segments(folder)) < wanted:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


async def reported(net: internet.Internet) -> dict[str, Any]:
    """Close the day, and return the one report that was received."""
    command = [sys.executable, "-m", "sender", "report", "--day", "today", "--now"]
    command += ["--config", str(net.directory / "tlsrpt.toml")]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    (message,) = net.mail.mailbox.messages
    verified = await verify.mail(message.content, net.nameserver)
    assert [check.name for check in verified.checks if not check.passed] == []
    assert verified.document is not None
    document: dict[str, Any] = json.loads(verified.document)
    return document


CASES = [
    ("no policy is known", None, PLAIN_SESSION, b"NOTFOUND "),
    ("a policy is kept", POLICY, STS_SESSION, SECURE),
]


@pytest.mark.parametrize(("kept", "session", "answer"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_an_unreachable_policy_host_is_in_the_report_with_the_number_of_queries(
    serve: Serve, tmp_path: pathlib.Path, kept: mtasts.Policy | None, session: dict[str, Any], answer: bytes
) -> None:
    """One failure for each query; of a kept policy, by the same policy as the MTA's own sessions."""

    async def scenario() -> dict[str, Any]:
        async with internet.start(tmp_path, ()) as net:
            net.zone.put(f"_smtp._tls.{DOMAIN}", zone.Txt(f"v=TLSRPTv1; rua=mailto:tlsrpt@{DOMAIN}"))
            net.zone.put(f"_mta-sts.{DOMAIN}", zone.Txt("v=STSv1; id=2;"))
            net.zone.put(f"mta-sts.{DOMAIN}", zone.A(dns.LOOPBACK))
            if kept is not None:
                known = cache.Cache(tmp_path / "policy.db", time.time())
                known.put(cache.Kept(DOMAIN, "1", kept, time.time()))
                known.close()
            (tmp_path / "tlsrpt.toml").write_text(net.config_text())
            served = serve("recorder", "policy", "--config", str(tmp_path / "tlsrpt.toml"))
            await asyncio.to_thread(served.wait_for, "recorder started")
            await asyncio.to_thread(served.wait_for, "policy socket started")
            assert set(await asyncio.to_thread(ask, net.policy_socket, "QUERY", QUERIES)) == {answer}
            tell(net.recorder_socket, session)
            await asyncio.to_thread(wait_for_lines, tmp_path / "journal", QUERIES + 1)
            document = await reported(net)
            assert await asyncio.to_thread(served.end) == 0
            assert not net.policy_socket.exists()
            return document

    policies = {row["policy"]["policy-type"]: row for row in asyncio.run(scenario())["policies"]}
    found = policies["sts"]
    reason = "connection-refused"
    assert found["failure-details"] == [
        {"result-type": "sts-policy-fetch-error", "failed-session-count": QUERIES, "failure-reason-code": reason}
    ]
    if kept is None:
        assert found["policy"] == {"policy-type": "sts", "policy-domain": DOMAIN}
        assert found["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": QUERIES}
        beside = policies["no-policy-found"]["summary"]
        assert beside == {"total-successful-session-count": 1, "total-failure-session-count": 0}
    else:
        assert list(policies) == ["sts"], "one policy, whoever tells of it"
        assert found["policy"]["policy-string"] == list(kept.strings)
        assert found["policy"]["mx-host"] == ["mx.domain.example"]
        assert found["summary"] == {"total-successful-session-count": 1, "total-failure-session-count": QUERIES}
