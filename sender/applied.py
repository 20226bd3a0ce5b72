"""Which policy held for an attempt found in a log, and both as a datagram of libtlsrpt (``docs/datagram.md``).

Pure. The log tells what Postfix made of a certificate, the policy socket (its JSON answer) what the domain asks for:

- under DANE, a certificate that matched or stopped the mail was held to TLSA records; one that did neither belongs to a
  host without TLSA records, where no policy applied;
- under an MTA-STS policy that is enforced, what stopped the mail is the failure;
- under one in testing nothing stops the mail, so what Postfix logs as untrusted, plaintext and MX hosts that the policy
  does not name are told as failures: that is what testing is for (RFC 8461 section 5);
- else there is no policy.

Known limits: the answer is that of now, not that of the delivery. The log has neither the TLSA records nor the name in
a certificate that nobody asked for: a wrong name is not noticed in testing. What fails before a certificate is seen, at
a host without TLSA records of a domain where others have some, is told as ``tlsa``.
"""

import dataclasses

import msgspec

from policy import mtasts, names, verdict
from sender import encoding, joining, postfixlog, session


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """What a domain asks for."""

    level: verdict.Level
    sts: mtasts.Policy | None
    """Of whatever mode."""


NOTHING = Applied(verdict.Level.NONE, None)
"""The domain asks for nothing, or nobody could tell."""


class _Answer(msgspec.Struct, frozen=True):
    level: verdict.Level
    sts: mtasts.Policy | None = None


_DECODER = msgspec.json.Decoder(_Answer)


def read(reply: bytes) -> Applied | None:
    """Read an answer of the policy socket to a request in JSON.

    Args:
        reply: status, a space, and the rest (``policy.postfix.json``).

    Returns:
        ``None``: it tells nothing now.
    """
    status, _, body = reply.partition(b" ")
    if status == b"NOTFOUND":
        return NOTHING
    if status != b"OK":
        return None
    try:
        answer = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return Applied(answer.level, answer.sts)


def policy(attempt: joining.Attempt, domain: str, applied: Applied) -> session.Policy:
    """Return the policy that held for an attempt.

    Args:
        attempt: from a log.
        domain: its next hop as A-labels.
        applied: what the domain asks for.
    """
    if attempt.server is not None and _by_tlsa(attempt, applied):
        return session.Policy(session.PolicyType.TLSA, attempt.server.host)
    if _by_sts(applied) and applied.sts is not None:
        return session.Policy(session.PolicyType.STS, domain, applied.sts.strings, applied.sts.mx)
    return session.Policy(session.PolicyType.NO_POLICY_FOUND, domain)


_DANE = frozenset((verdict.Level.DANE, verdict.Level.DANE_ONLY))
_OF_TLSA = frozenset((joining.UNUSABLE_TLSA, joining.Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED)))
"""Problems that only come up where TLSA records were looked at, whoever asked for it."""


def _by_tlsa(attempt: joining.Attempt, applied: Applied) -> bool:
    if attempt.problem in _OF_TLSA:
        return True
    return applied.level in _DANE and (attempt.stopped or attempt.trust is postfixlog.Trust.VERIFIED)


def _by_sts(applied: Applied) -> bool:
    """Tell whether an MTA-STS policy is in force or in testing; DANE goes before it (RFC 8461 section 2)."""
    if applied.level is verdict.Level.SECURE:
        return True
    testing = applied.sts is not None and applied.sts.mode is mtasts.Mode.TESTING
    return testing and applied.level is verdict.Level.NONE


_UNTRUSTED = joining.Problem(session.ResultType.CERTIFICATE_NOT_TRUSTED, "untrusted")
_NOT_IN_POLICY = joining.Problem(session.ResultType.VALIDATION_FAILURE, "mx-not-in-policy")


@dataclasses.dataclass(frozen=True, slots=True)
class _Outcome:
    problem: joining.Problem | None


def _outcome(attempt: joining.Attempt, held: session.Policy, applied: Applied) -> _Outcome | None:
    """Return how an attempt went by the policy; ``None``: there is nothing to tell, as nobody asked for TLS."""
    if attempt.stopped or (attempt.problem is joining.UNUSABLE_TLSA and held.type is session.PolicyType.TLSA):
        return _Outcome(attempt.problem)
    if held.type is session.PolicyType.STS:
        return _Outcome(_shortcoming(attempt, applied))
    return _Outcome(None) if attempt.trust is not None else None


def _shortcoming(attempt: joining.Attempt, applied: Applied) -> joining.Problem | None:
    """Return what an MTA-STS policy would have stopped mail for."""
    if attempt.trust is None:
        return joining.NO_STARTTLS
    if attempt.trust is not postfixlog.Trust.VERIFIED and attempt.problem is not None:
        return attempt.problem
    if attempt.trust in {postfixlog.Trust.UNTRUSTED, postfixlog.Trust.ANONYMOUS}:
        return _UNTRUSTED
    return None if _is_allowed(attempt, applied.sts) else _NOT_IN_POLICY


def _is_allowed(attempt: joining.Attempt, sts: mtasts.Policy | None) -> bool:
    if sts is None or sts.mode is not mtasts.Mode.TESTING or attempt.server is None:
        return True
    return mtasts.allows(sts, attempt.server.host.lower().rstrip("."))


def datagram(attempt: joining.Attempt, applied: Applied) -> bytes | None:
    """Return an attempt as libtlsrpt would tell it.

    Returns:
        ``None``: it is none for a report: nobody asked for TLS and there was none, or the next hop is no domain.
    """
    domain = names.host_name(attempt.next_hop)
    if domain is None:
        return None
    held = policy(attempt, domain, applied)
    outcome = _outcome(attempt, held, applied)
    if outcome is None:
        return None
    failures = () if outcome.problem is None else (_failure(attempt.server, outcome.problem),)
    result = session.Result(held, failed=bool(failures), failures=failures)
    return encoding.encode(session.Session(domain, record=None, results=(result,)))


def _failure(server: postfixlog.Server | None, problem: joining.Problem) -> session.Failure:
    return session.Failure(
        problem.result_type,
        receiving_mx_hostname=server.host if server else None,
        receiving_ip=server.ip if server else None,
        failure_reason_code=problem.reason,
    )
