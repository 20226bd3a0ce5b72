"""The words of RFC 8460 as values: policy types, result types, policies, failures, sessions.

Pure. What a datagram says (``sender.datagram``) and what a report says (``sender.report``) are both
made of these; they compare and hash by value, so they are the keys of every count in between. msgspec's structs,
because a tally makes a million of them and dataclasses are four times as slow to make.
"""

import enum

import msgspec


class PolicyType(enum.StrEnum):
    """Which kind of policy was applied (RFC 8460 section 4.4, ``policy-type``)."""

    TLSA = "tlsa"
    STS = "sts"
    NO_POLICY_FOUND = "no-policy-found"


class ResultType(enum.StrEnum):
    """Why a session failed (RFC 8460 section 4.3, ``result-type``)."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    CERTIFICATE_EXPIRED = "certificate-expired"
    VALIDATION_FAILURE = "validation-failure"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"


class Policy(msgspec.Struct, frozen=True, gc=False):
    """A policy as it was applied (RFC 8460 section 4.4, ``policy``)."""

    type: PolicyType
    domain: str
    """The policy domain: the recipient domain, or for ``tlsa`` the TLSA base domain (the MX host)."""
    strings: tuple[str, ...] = ()
    """The policy line by line, or one TLSA record each (``policy-string``)."""
    mx_hosts: tuple[str, ...] = ()
    """The ``mx`` patterns of an ``sts`` policy (``mx-host``)."""


class Failure(msgspec.Struct, frozen=True, gc=False):
    """One failure of a session (RFC 8460 section 4.4, ``failure-details`` without its count).

    ``None`` means not known; an empty string never occurs.
    """

    result_type: ResultType
    sending_mta_ip: str | None = None
    receiving_mx_hostname: str | None = None
    receiving_mx_helo: str | None = None
    receiving_ip: str | None = None
    additional_information: str | None = None
    failure_reason_code: str | None = None


class Result(msgspec.Struct, frozen=True, gc=False):
    """How a session went by one policy: the final word, and what went wrong on the way (without repeats)."""

    policy: Policy
    failed: bool
    failures: tuple[Failure, ...] = ()


class Session(msgspec.Struct, frozen=True, gc=False):
    """One attempt to set up TLS with one receiving MTA."""

    domain: str
    """The recipient domain (next hop), as A-labels in lower case."""
    record: str | None
    """The TLSRPT record the MTA saw, whole; ``None`` when it did not tell."""
    results: tuple[Result, ...]
    """One for each policy; at least one."""
