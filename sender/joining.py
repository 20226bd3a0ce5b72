"""What lines of one process tell together: attempts to deliver with TLS, each with the domain it was for.

Pure. Postfix's TLS lines name no message. They belong to the next ``QUEUEID: to=<...>`` of the same process, because a
process delivers one message at a time. What is counted is TLS sessions, so a message for ten recipients, or
ten messages over one connection, are one; several servers tried for one message are several.

With ``smtp_tls_connection_reuse`` the details of certificates and TLSA records come from ``tlsproxy``, another process:
they are joined by server.

Positions (``at``) are bytes from any beginning; they only tell how far lines are apart. What is remembered reaches back
:data:`REQUEST_SPAN` or as far as :attr:`Joiner.oldest`, no further: who reads again from there gets the same attempts.

Known limits: a recipient's domain is taken for the next hop, except with another port than 25 or a host that is told to
be a relay host. A delivery without TLS is only noticed when it succeeded, from a service that has used TLS before. A
message that is tried again at once for the same recipients, by the same process, counts once.
"""

import collections
import dataclasses
from collections.abc import Iterable

from sender import postfixlog, session

OPEN_SPAN = 16 * 1024 * 1024
"""Bytes of log in which a session must find its delivery: an hour on a server with 20 deliveries a second. The process
of one that does not was killed."""

REQUEST_SPAN = 1024 * 1024
"""Bytes of log in which all recipients of one message are told; their lines follow each other."""

MAX_PROCESSES = 4096
"""Processes remembered; Postfix runs 100 of a kind by default."""

MAX_OPEN = 64
"""Sessions of one delivery; Postfix tries five addresses by default (``smtp_mx_address_limit``)."""

MAX_PROXIED = 1024
"""Servers of which ``tlsproxy`` told something that ``smtp`` has not come to yet."""

MAX_SERVICES = 32
"""Services (``postfix/smtp``, ``postfix/relay/smtp``) known to use TLS; more are not looked at for plaintext."""

_SMTP_PORTS = frozenset(("", "25"))


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, in the words of RFC 8460 section 4.3."""

    result_type: session.ResultType
    reason: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to set up TLS, as far as the log tells."""

    next_hop: str
    """The recipient's domain as it was written, or the relay host."""
    relayed: bool
    """The next hop is a host of our own choice: domains have no say in how it is secured."""
    server: postfixlog.Server | None
    trust: postfixlog.Trust | None
    """``None``: there was no TLS."""
    problem: Problem | None
    """``None`` with ``trust`` of ``None``: it was not tried, the server does not offer it or refused it."""
    stopped: bool
    """The problem kept mail from going this way."""


@dataclasses.dataclass(slots=True)
class _Session:
    server: postfixlog.Server | None
    trust: postfixlog.Trust | None = None
    problem: Problem | None = None
    stopped: bool = False


@dataclasses.dataclass(slots=True)
class _Process:
    sessions: list[_Session] = dataclasses.field(default_factory=list)
    problems: dict[postfixlog.Server, Problem] = dataclasses.field(default_factory=dict)
    request: tuple[str, str] | None = None
    """The delivery told last."""
    servers: dict[postfixlog.Server | None, int] = dataclasses.field(default_factory=dict)
    """Those it was counted for, with the position of the last line that told so."""
    unproxied: bool = False
    """``tlsproxy`` could not be reached: the handshake that fails next is nobody's fault."""

    def counts(self, server: postfixlog.Server | None, at: int) -> bool:
        """Tell whether the present delivery is to be counted for a server, which it was not by a line near this one."""
        near = at - self.servers.get(server, at - REQUEST_SPAN - 1) <= REQUEST_SPAN
        self.servers[server] = at
        return not near


_Key = tuple[str, str, str]


class Joiner:
    """Takes events in the order of the log, gives attempts.

    Args:
        relayhosts: names or addresses of hosts that take mail for other domains (Postfix's ``relayhost``).
        services: programs that are known to use TLS, from an earlier run.
    """

    def __init__(self, relayhosts: Iterable[str] = (), services: Iterable[str] = ()) -> None:
        self.unjoined = 0
        """Sessions dropped because no delivery followed, or there were too many."""
        self._relayhosts = frozenset(name.lower().rstrip(".") for name in relayhosts)
        self._services = dict.fromkeys(services)
        self._processes: collections.OrderedDict[_Key, _Process] = collections.OrderedDict()
        self._open: dict[_Key, int] = {}
        self._settled: collections.deque[tuple[int, int]] = collections.deque()
        """Where deliveries near the last line were, and where they began, each later than the one before."""
        self._proxied: collections.OrderedDict[tuple[str, postfixlog.Server], tuple[int, Problem]] = (
            collections.OrderedDict()
        )

    @property
    def oldest(self) -> int | None:
        """Position of the oldest line that still waits for its delivery, or found one near the last line."""
        waiting = next(iter(self._open.values()), None)
        settled = self._settled[0][1] if self._settled else None
        return min((at for at in (waiting, settled) if at is not None), default=None)

    @property
    def services(self) -> tuple[str, ...]:
        """Programs that were seen to use TLS."""
        return tuple(self._services)

    def feed(self, line: postfixlog.Line, event: postfixlog.Event, at: int) -> list[Attempt]:
        """Take the event of a line; return the attempts that are complete with it.

        Args:
            line: who wrote it.
            event: what it means.
            at: its position, greater than that of the line before.
        """
        self._forget(at)
        if line.service == postfixlog.TLSPROXY:
            self._proxy(line.process[0], event, at)
            return []
        process = self._process(line.process)
        if isinstance(event, postfixlog.Delivery):
            return self._deliver(line, process, event, at)
        if isinstance(event, postfixlog.Died):
            self._drop(line.process)
            return []
        self._note(line, process, event)
        if (process.sessions or process.problems or process.unproxied) and line.process not in self._open:
            self._open[line.process] = at
        return []

    def _process(self, key: _Key) -> _Process:
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = _Process()
            if len(self._processes) > MAX_PROCESSES:
                self._drop(next(iter(self._processes)))
        else:
            self._processes.move_to_end(key)
        return process

    def _drop(self, key: _Key) -> None:
        process = self._processes.pop(key, None)
        self.unjoined += len(process.sessions) if process else 0
        self._open.pop(key, None)

    def _forget(self, at: int) -> None:
        """Forget what is too far back."""
        while self._settled and at - self._settled[0][0] > REQUEST_SPAN:
            self._settled.popleft()
        while self._open:
            key, since = next(iter(self._open.items()))
            if at - since <= OPEN_SPAN:
                break
            self._drop(key)
        while self._proxied:
            since, _ = next(iter(self._proxied.values()))
            if at - since <= REQUEST_SPAN and len(self._proxied) <= MAX_PROXIED:
                break
            self._proxied.popitem(last=False)

    def _proxy(self, host: str, event: postfixlog.Event, at: int) -> None:
        match event:
            case postfixlog.BadCertificate(server, words):
                problem = problem_of(words)
            case postfixlog.UnusableTlsa(server):
                problem = UNUSABLE_TLSA
            case _:
                return
        _, known = self._proxied.pop((host, server), (at, problem))
        self._proxied[host, server] = (at, known if known is UNUSABLE_TLSA else problem)

    def _note(self, line: postfixlog.Line, process: _Process, event: postfixlog.Event) -> None:
        match event:
            case postfixlog.Established(reused=True):
                self._uses_tls(line)
            case postfixlog.Established(server, trust):
                self._uses_tls(line)
                problem = process.problems.pop(server, None) or self._proxied_problem(line.process[0], server)
                self._begin(process, _Session(server, trust, problem))
            case postfixlog.BadCertificate(server, problem) if len(process.problems) < MAX_OPEN:
                process.problems.setdefault(server, problem_of(problem))
            case postfixlog.UnusableTlsa(server) if len(process.problems) < MAX_OPEN:
                process.problems[server] = UNUSABLE_TLSA
            case postfixlog.HandshakeFailed(server):
                self._uses_tls(line)
                self._begin(process, _Session(server, None, HANDSHAKE, stopped=True))
            case postfixlog.NoProxy():
                process.unproxied = True
            case postfixlog.Trouble(complaint, server):
                self._complain(process, complaint, server)
            case _:
                pass

    def _proxied_problem(self, host: str, server: postfixlog.Server) -> Problem | None:
        found = self._proxied.pop((host, server), None)
        return found[1] if found else None

    def _uses_tls(self, line: postfixlog.Line) -> None:
        if len(self._services) < MAX_SERVICES:
            self._services.setdefault(line.process[1])

    def _begin(self, process: _Process, begun: _Session) -> None:
        if len(process.sessions) < MAX_OPEN:
            process.sessions.append(begun)
        else:
            self.unjoined += 1

    def _complain(self, process: _Process, complaint: postfixlog.Complaint, server: postfixlog.Server | None) -> None:
        """Take a complaint about the server that was tried last, or tried without TLS."""
        last = process.sessions[-1] if process.sessions else None
        if complaint is postfixlog.Complaint.CERTIFICATE:
            if last is not None and last.trust is not None:
                last.stopped = True
                last.problem = last.problem or _unexplained(last.trust)
        elif complaint is postfixlog.Complaint.HANDSHAKE:
            if process.unproxied:
                process.unproxied = False
            elif last is None or last.problem is not HANDSHAKE:
                self._begin(process, _Session(server, None, HANDSHAKE, stopped=True))
        else:
            self._begin(process, _Session(server, None, NO_STARTTLS, stopped=True))

    def _deliver(self, line: postfixlog.Line, process: _Process, event: postfixlog.Delivery, at: int) -> list[Attempt]:
        if event.request != process.request or len(process.servers) > MAX_OPEN:
            process.request, process.servers = event.request, {}
        pending = process.sessions
        blamed = event.blamed or event.server
        if event.complaint:
            if process.counts(blamed, at) or pending:
                self._complain(process, event.complaint, blamed)
        elif not pending and self._is_plain(line, event) and process.counts(event.server, at):
            pending.append(_Session(event.server))
        process.sessions, process.problems, process.unproxied = [], {}, False
        self._close(line.process, at)
        process.servers.update((one.server, at) for one in pending)
        return [attempt for one in pending if (attempt := self._attempt(one, event)) is not None]

    def _close(self, key: _Key, at: int) -> None:
        """Note that what a process had open is settled; where it began is needed as long as the delivery is near."""
        since = self._open.pop(key, at)
        while self._settled and self._settled[-1][1] >= since:
            self._settled.pop()
        self._settled.append((at, since))

    def _is_plain(self, line: postfixlog.Line, event: postfixlog.Delivery) -> bool:
        return event.server is not None and event.sent and event.fresh and line.process[1] in self._services

    def _attempt(self, one: _Session, event: postfixlog.Delivery) -> Attempt | None:
        relayed = event.port not in _SMTP_PORTS or self._is_relayhost(one.server)
        if relayed and one.server is None:
            return None
        next_hop = one.server.host if relayed and one.server is not None else event.domain
        return Attempt(next_hop, relayed, one.server, one.trust, one.problem, one.stopped)

    def _is_relayhost(self, server: postfixlog.Server | None) -> bool:
        return server is not None and not self._relayhosts.isdisjoint((server.host.lower().rstrip("."), server.ip))


HANDSHAKE = Problem(session.ResultType.VALIDATION_FAILURE, "tls-handshake-failure")
NO_STARTTLS = Problem(session.ResultType.STARTTLS_NOT_SUPPORTED)
UNUSABLE_TLSA = Problem(session.ResultType.TLSA_INVALID, "all-TLSA-records-unusable")
"""In the words Postfix 3.10 uses, too."""

_UNTRUSTED_ISSUER = Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED, "untrusted-issuer")

_PROBLEMS = (
    ("untrusted issuer", _UNTRUSTED_ISSUER),
    ("self-signed certificate", Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED, "self-signed_certificate")),
    ("not trusted by local or TLSA policy", Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED)),
    ("certificate has expired", Problem(session.ResultType.CERTIFICATE_EXPIRED)),
    ("num=62:", Problem(session.ResultType.CERTIFICATE_HOST_MISMATCH)),
    ("num=65:", Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED)),
    (
        "certificate not yet valid",
        Problem(session.ResultType.VALIDATION_FAILURE, "certificate_is_not_yet_valid"),
    ),
    ("certificate chain longer", Problem(session.ResultType.VALIDATION_FAILURE, "certificate_chain_too_long")),
    ("not designated for use", Problem(session.ResultType.VALIDATION_FAILURE, "unsuitable_certificate_purpose")),
)
"""Beginnings of what Postfix logs; 62 and 65 are OpenSSL's numbers for a wrong name and for no matching TLSA record."""

_MAX_REASON = 100
"""Characters; OpenSSL's own are shorter."""


def problem_of(words: str) -> Problem:
    """Put into RFC 8460's words what Postfix logs about a certificate."""
    for beginning, problem in _PROBLEMS:
        if words.startswith(beginning):
            return problem
    said = words.rpartition(":")[2].strip()[:_MAX_REASON]
    return Problem(session.ResultType.VALIDATION_FAILURE, said.replace(" ", "_") or None)


def _unexplained(trust: postfixlog.Trust) -> Problem:
    """Tell why a certificate was refused where no line does (Postfix before 3.6): the name, if the issuer is good."""
    if trust is postfixlog.Trust.TRUSTED:
        return Problem(session.ResultType.CERTIFICATE_HOST_MISMATCH)
    return Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED, "untrusted")
