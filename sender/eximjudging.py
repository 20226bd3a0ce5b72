"""What an attempt of Exim means by the policy of the domain: a session of RFC 8460.

Pure. Exim tells whether it held a server to TLSA records; of MTA-STS it knows nothing, so what the domain asks for
comes from the policy socket:

- Exim held the server to TLSA records: ``tlsa``. Exim does not tell the records, only that there are some. The session
  fails where the certificate matched none of them, also when Exim let it pass: with usage 2 (an authority) it does not
  look at the name as long as the authority is one that it trusts anyway (seen with 4.96, GnuTLS).
- the domain has an MTA-STS policy, enforced or in testing: ``sts``. The session is judged by it whatever Exim did: it
  fails without TLS, with a certificate that Exim could not verify, and at an MX host that the policy does not name.
- else ``no-policy-found``. Any TLS is a success then, as mail went over it; none at all is a failure, because Exim uses
  STARTTLS wherever it is offered: this is what a stripped STARTTLS looks like.

Exim does not tell what is wrong with a certificate that it lets pass. It tells the names and the end of it, which leave
few possibilities (:func:`_certificate`). Without these (a snippet of one's own) it is ``validation-failure``.

Known limits: the policy is that of now, not that of the delivery. An untrusted certificate that has another name or has
ended as well counts by that.
"""

from policy import mtasts, names
from sender import applied, datagram, eximevents, eximjoining, session

_Found = tuple[session.ResultType, str | None]
"""A result type, and its reason."""


def judge(attempt: eximjoining.Attempt, asked: applied.Applied, now: float) -> session.Session | None:
    """Return an attempt as a session.

    Args:
        attempt: of Exim.
        asked: what its domain asks for.
        now: Unix seconds.

    Returns:
        ``None``: its domain is none, or not known.
    """
    domain = names.host_name(attempt.domain)
    if domain is None:
        return None
    policy = _policy(attempt, domain, asked)
    found = _found(attempt, policy, asked.sts, now)
    failures = () if found is None else (_failure(attempt, *found),)
    return session.Session(domain, None, (session.Result(policy, failed=found is not None, failures=failures),))


def _policy(attempt: eximjoining.Attempt, domain: str, asked: applied.Applied) -> session.Policy:
    host = names.host_name(attempt.host)
    if attempt.tlsa and host is not None:
        return session.Policy(session.PolicyType.TLSA, host)
    if asked.sts is not None and asked.sts.mode is not mtasts.Mode.NONE:
        return session.Policy(session.PolicyType.STS, domain, asked.sts.strings, asked.sts.mx)
    return session.Policy(session.PolicyType.NO_POLICY_FOUND, domain)


_DANE = {
    "dane-required": session.ResultType.DANE_REQUIRED,
    "dnssec-invalid": session.ResultType.DNSSEC_INVALID,
    "tlsa-invalid": session.ResultType.TLSA_INVALID,
    "starttls-not-supported": session.ResultType.STARTTLS_NOT_SUPPORTED,
}
"""Words of Exim's ``dane:fail``; the other one is ``validation-failure``."""

_BAD_CERTIFICATE = "certificate verification failed"
_BAD_CERTIFICATES = (_BAD_CERTIFICATE, "certificate verify failed")
"""Exim's words with GnuTLS, and with OpenSSL."""


def _found(
    attempt: eximjoining.Attempt, policy: session.Policy, sts: mtasts.Policy | None, now: float
) -> _Found | None:
    """Return what went wrong by the policy; ``None``: nothing."""
    match attempt.outcome:
        case eximjoining.Outcome.NOT_OFFERED:
            return session.ResultType.STARTTLS_NOT_SUPPORTED, None
        case eximjoining.Outcome.REFUSED:
            return session.ResultType.STARTTLS_NOT_SUPPORTED, "starttls-refused"
        case eximjoining.Outcome.DANE | eximjoining.Outcome.FAILED:
            return _stopped(attempt, now), _reason(attempt)
        case eximjoining.Outcome.ESTABLISHED if policy.type is session.PolicyType.TLSA and not attempt.matched:
            return _certificate(attempt, now)
        case eximjoining.Outcome.ESTABLISHED if policy.type is session.PolicyType.STS and sts is not None:
            return _shortcoming(attempt, sts, now)
    return None


def _reason(attempt: eximjoining.Attempt) -> str | None:
    """Return Exim's words without what is the same in all of them."""
    return attempt.reason.removeprefix("TLS session:").replace("(", "").replace(")", "").strip() or None


def _stopped(attempt: eximjoining.Attempt, now: float) -> session.ResultType:
    """Return what Exim gave up for; a certificate that matches no TLSA record is not trusted, as Postfix has it."""
    bad_certificate = any(words in attempt.reason for words in _BAD_CERTIFICATES)
    if attempt.outcome is eximjoining.Outcome.DANE:
        found = _DANE.get(attempt.dane, session.ResultType.VALIDATION_FAILURE)
        return session.ResultType.CERTIFICATE_NOT_TRUSTED if bad_certificate else found
    return _certificate(attempt, now)[0] if bad_certificate else session.ResultType.VALIDATION_FAILURE


def _shortcoming(attempt: eximjoining.Attempt, sts: mtasts.Policy, now: float) -> _Found | None:
    """Return what an MTA-STS policy does not allow of TLS that Exim used (RFC 8461 section 4)."""
    if not attempt.verified:
        return _certificate(attempt, now)
    if not mtasts.allows(sts, attempt.host):
        return session.ResultType.VALIDATION_FAILURE, "mx-not-in-policy"
    return None


def _certificate(attempt: eximjoining.Attempt, now: float) -> _Found:
    """Return what is wrong with a certificate that Exim did not verify.

    With GnuTLS, ``(certificate verification failed)`` and nothing behind it means the wrong name; with ``certificate
    invalid`` behind it, anything else. Of one that it lets pass there is not even that.
    """
    words = attempt.reason.strip()
    if words.endswith(f"({_BAD_CERTIFICATE})"):
        return session.ResultType.CERTIFICATE_HOST_MISMATCH, None
    if attempt.certificate is None:
        return session.ResultType.VALIDATION_FAILURE, "certificate-not-verified"
    if attempt.certificate.not_after < now:
        return session.ResultType.CERTIFICATE_EXPIRED, None
    if _BAD_CERTIFICATE not in words and not _is_for(attempt.certificate, attempt.host):
        return session.ResultType.CERTIFICATE_HOST_MISMATCH, None
    return session.ResultType.CERTIFICATE_NOT_TRUSTED, None


def _is_for(certificate: eximevents.Certificate, host: str) -> bool:
    """Tell whether a host has one of the names, or may have: ``*`` stands for the first label (RFC 6125 6.4)."""
    name = names.host_name(host)
    if certificate.names is None or name is None:
        return True
    told = {text.lower().rstrip(".") for text in certificate.names}
    return name in told or f"*.{name.partition('.')[2]}" in told


def _failure(attempt: eximjoining.Attempt, result_type: session.ResultType, reason: str | None) -> session.Failure:
    return session.Failure(
        result_type=result_type,
        sending_mta_ip=attempt.sending_ip or None,
        receiving_mx_hostname=names.host_name(attempt.host),
        receiving_mx_helo=datagram.ehlo_name(attempt.helo),
        receiving_ip=attempt.ip or None,
        failure_reason_code=reason,
    )
