"""The datagrams that libtlsrpt writes for an MTA, byte for byte as Postfix 3.10 sends them with libtlsrpt 0.5.0.

Pure; the counterpart of the recorder's reader, which the demo's sending MTA and tests need. A
``session.Session`` is taken as the MTA sees it: ``receiving_mx_helo`` is the whole EHLO reply, and an untrusted
issuer is a validation-failure with OpenSSL's reason. Without ``dpv``, which came with 0.5.1.
"""

import json
from collections.abc import Iterable, Iterator

from sender import session

_POLICY_TYPES = {
    session.PolicyType.TLSA: 1,
    session.PolicyType.STS: 2,
    session.PolicyType.NO_POLICY_FOUND: 9,
}

CODES = {
    session.ResultType.STARTTLS_NOT_SUPPORTED: 201,
    session.ResultType.CERTIFICATE_HOST_MISMATCH: 202,
    session.ResultType.CERTIFICATE_NOT_TRUSTED: 203,
    session.ResultType.CERTIFICATE_EXPIRED: 204,
    session.ResultType.VALIDATION_FAILURE: 205,
    session.ResultType.STS_POLICY_FETCH_ERROR: 301,
    session.ResultType.STS_POLICY_INVALID: 302,
    session.ResultType.STS_WEBPKI_INVALID: 303,
    session.ResultType.TLSA_INVALID: 304,
    session.ResultType.DNSSEC_INVALID: 305,
    session.ResultType.DANE_REQUIRED: 306,
}


def datagram(seen: session.Session) -> bytes:
    """Return a session's datagram."""
    members = [f'"d": {_text(seen.domain)}']
    if seen.record is not None:
        members.append(f'"pr": {_text(seen.record)}')
    members.extend(_array("policies", (_policy(result) for result in seen.results)))
    return _object(members).encode()


def _policy(result: session.Result) -> str:
    policy = result.policy
    members = [f'"policy-type":{_POLICY_TYPES[policy.type]}', f'"policy-domain": {_text(policy.domain)}']
    members.extend(_array("policy-string", (_text(line) for line in policy.strings)))
    members.extend(_array("mx-host", (_text(host) for host in policy.mx_hosts)))
    members.extend(_array("failure-details", (_failure(failure) for failure in result.failures)))
    members.extend((f'"t":{len(result.failures)}', f'"f":{result.failed:d}'))
    return _object(members)


def _failure(failure: session.Failure) -> str:
    values = {
        "s": failure.sending_mta_ip,
        "n": failure.receiving_mx_hostname,
        "h": failure.receiving_mx_helo,
        "r": failure.receiving_ip,
        "a": failure.additional_information,
        "f": failure.failure_reason_code,
    }
    known = [f'"{key}": {_text(value)}' for key, value in values.items() if value is not None]
    return _object([f'"c":{CODES[failure.result_type]}', *known])


def _object(members: Iterable[str]) -> str:
    return "{" + ",".join(members) + "}"


def _array(key: str, values: Iterable[str]) -> Iterator[str]:
    """Yield a member, unless it would be empty."""
    joined = ",".join(values)
    if joined:
        yield f'"{key}":[{joined}]'


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
