"""A session as a datagram: the inverse of ``sender.datagram``, for what is found out by ourselves.

Pure. What it writes is described in ``docs/datagram.md``; decoding it gives the same session, provided that its values
are in the form that decoding gives them (A-labels in lower case, canonical addresses, printable texts).
"""

import msgspec

from sender import datagram, session

_TYPES = {kind: number for number, kind in datagram.POLICY_TYPES.items()}
_CODES = {kind: code for code, kind in datagram.RESULT_TYPES.items()}


class _Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    c: int
    s: str | None = None
    n: str | None = None
    h: str | None = None
    r: str | None = None
    a: str | None = None
    f: str | None = None


class _Policy(msgspec.Struct, frozen=True, omit_defaults=True, rename="kebab"):
    policy_type: int
    policy_domain: str
    t: int
    f: int
    policy_string: tuple[str, ...] = ()
    mx_host: tuple[str, ...] = ()
    failure_details: tuple[_Detail, ...] = ()


class _Datagram(msgspec.Struct, frozen=True, omit_defaults=True):
    version: str = msgspec.field(name="dpv")
    domain: str = msgspec.field(name="d")
    policies: tuple[_Policy, ...]
    record: str | None = msgspec.field(name="pr", default=None)


_ENCODER = msgspec.json.Encoder()


def encode(told: session.Session) -> bytes:
    """Return a session as libtlsrpt would send it."""
    policies = tuple([_policy(result) for result in told.results])
    return _ENCODER.encode(_Datagram(version="1", domain=told.domain, policies=policies, record=told.record))


def _policy(result: session.Result) -> _Policy:
    return _Policy(
        policy_type=_TYPES[result.policy.type],
        policy_domain=result.policy.domain,
        t=len(result.failures),
        f=int(result.failed),
        policy_string=result.policy.strings,
        mx_host=result.policy.mx_hosts,
        failure_details=tuple([_detail(failure) for failure in result.failures]),
    )


def _detail(failure: session.Failure) -> _Detail:
    return _Detail(
        c=_CODES[failure.result_type],
        s=failure.sending_mta_ip,
        n=failure.receiving_mx_hostname,
        h=failure.receiving_mx_helo,
        r=failure.receiving_ip,
        a=failure.additional_information,
        f=failure.failure_reason_code,
    )
