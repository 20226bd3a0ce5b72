"""The policy socket against bare loops that do the least, and against the peer."""

import asyncio
import contextlib
import functools
import itertools
import os
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator

import uvloop

from policy import role
from sender import config
from tests.benchmarks import asking, measure, outside, peers, processes, recording, roundtrips

PEER = "postfix-mta-sts-resolver"

CACHED = 200
"""Domains that are asked for again and again."""

COLD = 3000
"""Domains that are asked for once."""

COLD_SHORT = 300

DELAY = 0.05
"""Seconds until the DNS answers about a cold domain."""

CONNECTIONS = 32

MOMENT = 0.1
"""Seconds."""

MOMENTS = 10

MOMENTS_SHORT = 3


def configured(scratch: pathlib.Path, where: outside.Outside) -> config.Config:
    """Return a configuration whose files are all in a folder."""
    return config.parse(
        f"""
[organization]
domain = "sender.example"
contact = "postmaster@sender.example"
[policy]
listen = ["unix:{scratch}/policy.sock"]
cache = "{scratch}/policy.db"
[dns]
nameservers = ["{where.nameserver}"]
[https]
ca_file = "{where.ca_file}"
allow_private = true
""",
        {},
    )


@contextlib.contextmanager
def serving(scratch: pathlib.Path, where: outside.Outside) -> Iterator[pathlib.Path]:
    """Run the policy role, with nothing in its cache; yield the path of its socket."""
    for old in scratch.glob("policy.*"):
        old.unlink()
    ours = configured(scratch, where)
    path = scratch / "policy.sock"
    with recording.receiving(path, functools.partial(role.main, ours.policy, ours.dns, ours.https, "", [])):
        yield path


class _Bare(asyncio.Protocol):
    """Knows all answers."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        self._answers = answers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # it is a stream
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answers[data])


def bare(path: pathlib.Path, answers: dict[bytes, bytes]) -> None:
    """Answer from a dictionary."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_unix_server(lambda: _Bare(answers), path)
        await server.serve_forever()

    uvloop.run(main())


def _questions(numbers: Iterable[int]) -> list[bytes]:
    """Return questions about domains, as Postfix asks them that sends reports."""
    return [asking.netstring(f"QUERYwithTLSRPT {outside.name(number)}".encode()) for number in numbers]


@contextlib.contextmanager
def _peer(scratch: pathlib.Path, where: outside.Outside) -> Iterator[pathlib.Path]:
    """Run postfix-mta-sts-resolver; yield the path of its socket."""
    if not where.policies or shutil.which("unshare") is None:
        raise measure.CannotError("a peer that keeps no answers but policies needs policy hosts: root, and unshare")
    command = peers.installed(PEER) / "mta-sts-daemon"
    path, settings, resolving = scratch / "peer.sock", scratch / "peer.yml", scratch / "resolv.conf"
    settings.write_text(
        f"path: {path}\ncache_grace: 86400\ncache: {{type: internal}}\ndefault_zone: {{timeout: 30, tlsrpt: true}}\n"
    )
    resolving.write_text(f"nameserver {outside.HOST}\n")
    inside = f"mount --bind {resolving} /etc/resolv.conf && exec {command} --verbosity error --config {settings}"
    path.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*shlex.split("unshare --mount sh -c"), inside], env={**os.environ, "SSL_CERT_FILE": str(where.ca_file)}
    )
    try:
        processes.wait(functools.partial(asking.listens, path))
        yield path
    finally:
        process.kill()
        process.wait()


Taken = Callable[[asking.Load], float]


@contextlib.contextmanager
def _against_bare(place: measure.Place, *, taken: Taken) -> Iterator[measure.Round]:
    """Measure what is ready against a loop that does the least."""
    questions = _questions(range(0, 4 * CACHED, 4))
    bare_path = place.scratch / "bare.sock"
    with outside.running(place.scratch, 4 * CACHED) as where, serving(place.scratch, where) as path:
        answers = asking.ask(path, questions)
        with recording.receiving(bare_path, functools.partial(bare, bare_path, answers)):
            processes.wait(functools.partial(asking.listens, bare_path))
            yield functools.partial(_pair, path, bare_path, questions, CONNECTIONS, taken, short=place.short)


@contextlib.contextmanager
def _against_peer(place: measure.Place, *, connections: int) -> Iterator[measure.Round]:
    """Measure what is ready against the peer."""
    questions = _questions(range(0, 4 * CACHED, 4))
    peers.installed(PEER)  # from outside of the namespace
    with (
        outside.running(place.scratch, 4 * CACHED) as where,
        _peer(place.scratch, where) as peer_path,
        serving(place.scratch, where) as path,
    ):
        for answers in (asking.ask(path, questions), asking.ask(peer_path, questions)):
            if any(b":OK secure match=" not in answer for answer in answers.values()):
                raise AssertionError("a domain with a policy has another answer")
        yield functools.partial(_pair, path, peer_path, questions, connections, _rate, short=place.short)


def _pair(
    ours: pathlib.Path, theirs: pathlib.Path, questions: list[bytes], connections: int, taken: Taken, *, short: bool
) -> measure.Sample:
    """Ask both in turn, for a moment each, so that what else the machine does hits both."""
    loads: tuple[list[asking.Load], list[asking.Load]] = [], []
    for _ in range(MOMENTS_SHORT if short else MOMENTS):
        for path, some in zip((theirs, ours), loads, strict=True):
            some.append(asking.load(path, itertools.cycle(questions), connections, MOMENT))
    yardstick, figure = (taken(asking.together(some)) for some in loads)
    return measure.Sample(figure, yardstick)


def _rate(load: asking.Load) -> float:
    return load.rate


def _p99(load: asking.Load) -> float:
    return load.p99 * 1000


@contextlib.contextmanager
def _cold(place: measure.Place) -> Iterator[measure.Round]:
    """Measure domains that nobody asked for before."""
    domains = COLD_SHORT if place.short else COLD
    questions = _questions(range(domains))
    with outside.running(place.scratch, domains, delay=DELAY) as where:

        def one_round() -> measure.Sample:
            yardstick = roundtrips.seconds(where, domains, CONNECTIONS)
            with serving(place.scratch, where) as path:
                load = asking.load(path, questions, CONNECTIONS)
            if len(load.spans) != domains:
                raise AssertionError(f"{len(load.spans)} answers to {domains} questions")
            return measure.Sample(load.seconds, yardstick)

        yield one_round


BENCHMARKS = (
    measure.Benchmark(
        id="policy",
        what=f"policy socket: answers that are ready, {CONNECTIONS} connections",
        unit="answers/s",
        yardstick="a bare uvloop protocol with a dictionary",
        target=0.7,
        guard=0.35,
        prepare=functools.partial(_against_bare, taken=_rate),
    ),
    measure.Benchmark(
        id="policy-p99",
        what=f"policy socket: 99 of 100 such answers come within, {CONNECTIONS} connections",
        unit="ms",
        yardstick="a bare uvloop protocol with a dictionary",
        target=3.0,
        guard=6.0,
        at_most=True,
        prepare=functools.partial(_against_bare, taken=_p99),
    ),
    measure.Benchmark(
        id="policy-peer",
        what=f"policy socket: answers that are ready, {CONNECTIONS} connections",
        unit="answers/s",
        yardstick="postfix-mta-sts-resolver",
        target=4.0,
        prepare=functools.partial(_against_peer, connections=CONNECTIONS),
    ),
    measure.Benchmark(
        id="policy-peer-one",
        what="policy socket: answers that are ready, one connection",
        unit="answers/s",
        yardstick="postfix-mta-sts-resolver",
        target=2.0,
        prepare=functools.partial(_against_peer, connections=1),
    ),
    measure.Benchmark(
        id="policy-cold",
        what=f"policy socket: {COLD:,} cold domains, DNS after {DELAY * 1000:.0f} ms, {CONNECTIONS} connections",
        unit="s",
        yardstick="the same round trips of DNS and HTTPS alone",
        target=1.5,
        guard=3.0,
        at_most=True,
        prepare=_cold,
        rounds=3,
    ),
)
