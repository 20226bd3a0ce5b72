"""Datagrams as Postfix sends them, of many domains, and processes that send them.

The mix of a large site: few domains have most of the sessions; of those with a TLSRPT record three in five have an
MTA-STS policy, and one in five is at one of :data:`PROVIDERS` mail hosts with TLSA records; every twentieth session has
failed. The same seed gives the same datagrams.
"""

import contextlib
import hashlib
import pathlib
import random
import socket
import time
from collections.abc import Iterator

import msgspec

SEED = 8460

FAILING = 0.05
"""Share of sessions that failed."""

PROVIDERS = 500
"""Mail hosts with TLSA records."""

TLSA = 3
"""Domains whose number by 5 leaves this rest have TLSA records, those below an MTA-STS policy, those above nothing."""


def datagrams(number: int, domains: int, seed: int = SEED) -> list[bytes]:
    """Return datagrams; each domain comes up where there are enough of them.

    Args:
        number: how many.
        domains: of how many different recipient domains.
        seed: of the draw.
    """
    draw = random.Random(seed)
    first = list(range(min(number, domains)))
    rest = [int(domains * draw.random() ** 3) for _ in range(number - len(first))]
    chosen = first + rest
    draw.shuffle(chosen)
    made: dict[tuple[int, bool], bytes] = {}
    lines = []
    for index in chosen:
        key = index, draw.random() < FAILING
        if key not in made:
            made[key] = datagram(f"d{index}.example", index, failed=key[1])
        lines.append(made[key])
    return lines


def datagram(domain: str, index: int, *, failed: bool) -> bytes:
    """Return one datagram in Postfix's form (docs/datagram.md)."""
    mx = f"mx.provider{index % PROVIDERS}.example" if index % 5 == TLSA else f"mx{index % 2}.{domain}"
    policy = _policy(domain, mx, index)
    if failed:
        policy["failure-details"] = [
            {
                "c": 202 if index % 2 else 205,
                "s": "192.0.2.1",
                "n": mx,
                "r": f"198.51.100.{index % 250}",
                "h": f"250-{mx} greets you\n250 HELP",
            }
        ]
    policy |= {"t": int(failed), "f": int(failed)}
    return msgspec.json.encode(
        {"dpv": "1", "d": domain, "pr": f"v=TLSRPTv1;rua=mailto:tls-reports@{domain}", "policies": [policy]}
    )


def _policy(domain: str, mx: str, index: int) -> dict[str, object]:
    kind = index % 5
    if kind < TLSA:
        strings = ["version: STSv1", "mode: enforce", f"mx: *.{domain}", "max_age: 604800"]
        return {"policy-type": 2, "policy-string": strings, "policy-domain": domain, "mx-host": [f"*.{domain}"]}
    if kind == TLSA:
        strings = [f"3 1 1 {hashlib.sha256(mx.encode()).hexdigest().upper()}"]
        return {"policy-type": 1, "policy-string": strings, "policy-domain": mx}
    return {"policy-type": 9, "policy-domain": domain}


LONGEST = 65536
"""Bytes of a datagram that a bare loop takes."""

LATE = 0.0001
"""Seconds that a steady sender may be behind."""


def send(path: pathlib.Path, lines: list[bytes]) -> float:
    """Send datagrams to a socket, waiting while its queue is full; return the seconds it took."""
    with _connected(path) as sock:
        transmit = sock.send
        started = time.perf_counter()
        for line in lines:
            transmit(line)
        return time.perf_counter() - started


def pour(path: pathlib.Path, lines: list[bytes], rate: float) -> int:
    """Send datagrams at a steady rate and drop what does not fit, as Postfix does; return how many were dropped.

    Where this process itself was held up, it goes on at that rate: it does not make up for it in a burst.
    """
    dropped = 0
    with _connected(path) as sock:
        transmit, clock = sock.send, time.perf_counter
        started = clock()
        for number, line in enumerate(lines):
            due = started + number / rate
            while (now := clock()) < due:
                pass
            if now - due > LATE:
                started += now - due
            try:
                transmit(line, socket.MSG_DONTWAIT)
            except BlockingIOError:
                dropped += 1
    return dropped


@contextlib.contextmanager
def _connected(path: pathlib.Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(path))
        yield sock
