"""Datagrams: every capture of a real Postfix, every rule of the door, and anything at all."""

import ipaddress
import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy import names
from sender import datagram, session

R = session.ResultType

CAPTURES = Path(__file__).parents[1] / "data" / "postfix-3.10.jsonl"

# (label of the capture, policy type, failed, result types, reason codes)
CAPTURED = [
    ("a1-nopolicy-success", "no-policy-found", False, [], []),
    ("a2-nopolicy-untrusted-cert-level-may", "no-policy-found", False, [], []),
    ("a5-nopolicy-handshake-garbage", "no-policy-found", True, [R.VALIDATION_FAILURE], ["tls-handshake-failure"]),
    ("a6-nopolicy-handshake-hangup", "no-policy-found", True, [R.VALIDATION_FAILURE], ["tls-handshake-failure"]),
    ("a10-tlsrpt-record-without-rua", "no-policy-found", False, [], []),
    ("a11-level-encrypt-no-starttls", "no-policy-found", True, [R.STARTTLS_NOT_SUPPORTED], [None]),
    ("a12-level-encrypt-selfsigned", "no-policy-found", False, [], []),
    ("a13-level-secure-local-policy-mismatch", "no-policy-found", True, [R.CERTIFICATE_HOST_MISMATCH], [None]),
    ("b1-sts-no-starttls", "sts", True, [R.STARTTLS_NOT_SUPPORTED], [None]),
    ("b2-dane-no-starttls", "tlsa", True, [R.STARTTLS_NOT_SUPPORTED], [None]),
    ("b3-sts-starttls-refused-454", "sts", True, [R.STARTTLS_NOT_SUPPORTED], [None]),
    ("c1-sts-success", "sts", False, [], []),
    ("c2-sts-hostname-mismatch", "sts", True, [R.CERTIFICATE_HOST_MISMATCH], [None]),
    (
        "c3-sts-untrusted-issuer-unknown",
        "sts",
        True,
        [R.CERTIFICATE_NOT_TRUSTED],
        ["unable_to_get_local_issuer_certificate"],
    ),
    (
        "c4-sts-untrusted-ca-in-chain",
        "sts",
        True,
        [R.CERTIFICATE_NOT_TRUSTED],
        ["self-signed_certificate_in_certificate_chain"],
    ),
    ("c5-sts-self-signed", "sts", True, [R.CERTIFICATE_NOT_TRUSTED], ["self-signed_certificate"]),
    ("c6-sts-expired", "sts", True, [R.CERTIFICATE_EXPIRED], [None]),
    ("c8-sts-no-san", "sts", False, [], []),
    ("c10-sts-policy-fetch-error", "sts", True, [R.STS_POLICY_FETCH_ERROR], [None]),
    ("c11-sts-webpki-invalid", "sts", True, [R.STS_WEBPKI_INVALID], [None]),
    ("c12-sts-policy-invalid", "sts", True, [R.STS_POLICY_INVALID], [None]),
    ("c13-sts-validation-failure", "sts", True, [R.VALIDATION_FAILURE], [None]),
    ("c17-sts-testing-as-may-success", "sts", False, [], []),
    ("c18-sts-testing-as-may-mismatch", "sts", False, [], []),
    ("c20-sts-testing-as-encrypt-mismatch", "sts", False, [], []),
    ("c21-may-policy-failure-fetch-error", "sts", False, [], []),
    ("c22-encrypt-policy-failure-fetch-error", "sts", False, [], []),
    ("c24-no-policy-found-attr", "no-policy-found", False, [], []),
    ("c25-no-policy-found-with-failure", "no-policy-found", False, [], []),
    ("c26-policy-ttl-attr", "sts", False, [], []),
    ("d1-dane-311-success", "tlsa", False, [], []),
    ("d2-dane-tlsa-mismatch", "tlsa", True, [R.CERTIFICATE_NOT_TRUSTED], [None]),
    ("d3-dane-only-tlsa-mismatch", "tlsa", True, [R.CERTIFICATE_NOT_TRUSTED], [None]),
    ("d4-dane-two-records-success", "tlsa", False, [], []),
    ("d5-dane-201-ta-success", "tlsa", False, [], []),
    ("d6-dane-211-ta-hostname-mismatch", "tlsa", True, [R.CERTIFICATE_HOST_MISMATCH], [None]),
    ("d7-dane-ee-expired-is-success", "tlsa", False, [], []),
    ("d8-dane-ta-expired", "tlsa", True, [R.CERTIFICATE_EXPIRED], [None]),
    ("d9-dane-unusable-pkix-101", "no-policy-found", False, [], []),
    ("d11-dane-unusable-mtype-9", "tlsa", True, [R.TLSA_INVALID], ["all-TLSA-records-unusable"]),
]

OK = '"policies":[{"policy-type":9,"f":0}]'

# id, datagram, reason
MALFORMED = [
    ("nothing", b"", "empty"),
    ("white space", b" \n\t", "empty"),
    ("as long as the buffer", b"{" + b" " * (datagram.MAX_DATAGRAM - 1), "truncated"),
    ("longer than the buffer", b"x" * (datagram.MAX_DATAGRAM + 1), "truncated"),
    ("half a string", b'{"d":"exam', "unterminated"),
    ("half an object", b'{"d":"example.com"', "unterminated"),
    ("not utf-8", b'{"d":"\xff",' + OK.encode() + b"}", "not-utf8"),
    ("a surrogate in utf-8", b'{"d":"\xed\xa0\x80",' + OK.encode() + b"}", "not-utf8"),
    ("a lone surrogate", b'{"d":"a\\ud800",' + OK.encode() + b"}", "not-json"),
    ("a byte order mark", b'\xef\xbb\xbf{"d":"example.com",' + OK.encode() + b"}", "not-json"),
    ("two objects", b"{}{}", "not-json"),
    ("a log line", b"Nov 24 postfix/smtp: TLSRPT: status=success", "not-json"),
    ("deep arrays", b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "too-deep"),
    ("an array", b"[]", "wrong-format"),
    ("null", b"null", "wrong-format"),
    ("a domain that is a number", b'{"d":1,' + OK.encode() + b"}", "wrong-format"),
    ("policies that are none", b'{"d":"example.com","policies":"sts"}', "wrong-format"),
    ("a policy type that is a word", b'{"d":"example.com","policies":[{"policy-type":"sts","f":0}]}', "wrong-format"),
    ("no policy type", b'{"d":"example.com","policies":[{"f":0}]}', "wrong-format"),
    ("no outcome", b'{"d":"example.com","policies":[{"policy-type":9}]}', "wrong-format"),
    ("an outcome of 2", b'{"d":"example.com","policies":[{"policy-type":9,"f":2}]}', "wrong-format"),
    ("an outcome that is true", b'{"d":"example.com","policies":[{"policy-type":9,"f":true}]}', "wrong-format"),
    ("a huge number", b'{"d":"example.com","policies":[{"policy-type":' + b"9" * 9000 + b',"f":0}]}', "wrong-format"),
    ("a later version", b'{"dpv":"2","d":"example.com",' + OK.encode() + b"}", "unsupported-version"),
    ("a later version with other types", b'{"dpv":"2","d":{"name":"example.com"}}', "unsupported-version"),
    ("a version that is a number", b'{"dpv":2,"d":"example.com",' + OK.encode() + b"}", "unsupported-version"),
    ("no domain", b"{" + OK.encode() + b"}", "no-domain"),
    ("an empty domain", b'{"d":"",' + OK.encode() + b"}", "no-domain"),
    ("a domain with a blank", b'{"d":"example com",' + OK.encode() + b"}", "bad-domain"),
    ("a domain with a nul", b'{"d":"example\\u0000.com",' + OK.encode() + b"}", "bad-domain"),
    ("an IP for a domain", b'{"d":"192.0.2.1",' + OK.encode() + b"}", "bad-domain"),
    ("a domain of 100,000 characters", b'{"d":"' + b"a." * 50_000 + b'",' + OK.encode() + b"}", "bad-domain"),
    (
        "a bad policy domain",
        b'{"d":"example.com","policies":[{"policy-type":9,"policy-domain":"-","f":0}]}',
        "bad-domain",
    ),
    ("no policies", b'{"d":"example.com"}', "no-policy"),
    ("an empty list of policies", b'{"d":"example.com","policies":[]}', "no-policy"),
    (
        "17 policies",
        b'{"d":"example.com","policies":[' + b",".join([b'{"policy-type":9,"f":0}'] * 17) + b"]}",
        "too-many-policies",
    ),
    ("policy type 3", b'{"d":"example.com","policies":[{"policy-type":3,"f":0}]}', "unknown-policy-type"),
    (
        "code 999",
        b'{"d":"example.com","policies":[{"policy-type":9,"f":1,"failure-details":[{"c":999}]}]}',
        "unknown-code",
    ),
]

# (code, result type), FIELD of libtlsrpt's tlsrpt_failure_t
CODES = [
    (201, R.STARTTLS_NOT_SUPPORTED),
    (202, R.CERTIFICATE_HOST_MISMATCH),
    (203, R.CERTIFICATE_NOT_TRUSTED),
    (204, R.CERTIFICATE_EXPIRED),
    (205, R.VALIDATION_FAILURE),
    (301, R.STS_POLICY_FETCH_ERROR),
    (302, R.STS_POLICY_INVALID),
    (303, R.STS_WEBPKI_INVALID),
    (304, R.TLSA_INVALID),
    (305, R.DNSSEC_INVALID),
    (306, R.DANE_REQUIRED),
]

# (reason sent with code 205, whether it is certificate-not-trusted)
REASONS = [
    ("self-signed_certificate", True),
    ("self signed certificate", True),
    ("self_signed_certificate_in_certificate_chain", True),
    ("self signed certificate in certificate chain", True),
    ("self-signed certificate in certificate chain", True),
    ("unable_to_get_local_issuer_certificate", True),
    ("unable to get issuer certificate", True),
    ("unable_to_verify_the_first_certificate", True),
    ("tls-handshake-failure", False),
    ("self", False),
    ("certificate_revoked", False),
]

# id, EHLO reply, name
EHLO = [
    ("a whole reply", "250-mx.example.com\r\n250-SIZE 1\r\n250 HELP", "mx.example.com"),
    ("with a greeting", "250-mx.example.com greets you\r\n250 HELP", "mx.example.com"),
    ("one line", "250 mx.example.com", "mx.example.com"),
    ("line feeds only", "250-mx.example.com\n250 HELP", "mx.example.com"),
    ("no code", "mx.example.com hello", "mx.example.com"),
    ("a name that begins with digits", "123-mx.example.com", "mx.example.com"),
    ("upper case and a final dot", "250-MX.Example.COM.\r\n250 HELP", "mx.example.com"),
    ("u-labels", "250-mx.b\u00fccher.example\r\n250 SMTPUTF8", "mx.xn--bcher-kva.example"),
    ("an address literal", "250-[192.0.2.1] hello", "[192.0.2.1]"),
    ("an IPv6 literal", "250-[ipv6:2001:DB8:0::1]\r\n", "[IPv6:2001:db8::1]"),
    ("a bare address", "250-192.0.2.1 hello", None),
    ("a literal of nothing", "250-[mx.example.com]", None),
    ("a bad literal", "250-[192.0.2.999]", None),
    ("only a code", "250", None),
    ("an empty first line", "250-\r\n250-mx.example.com", None),
    ("nothing", "", None),
    ("words", "250 Hello!", None),
    ("a script", "250-<script>alert(1)</script>", None),
    ("a nul in the name", "250-mx\x00.example.com", None),
    ("a megabyte", "250-" + "a" * 1_000_000, None),
]

# id, wire field, value, attribute, expected
DETAILS = [
    ("IPv4", "s", "192.0.2.1", "sending_mta_ip", "192.0.2.1"),
    ("IPv6 shortened", "r", "2001:DB8:0:0:0:0:0:1", "receiving_ip", "2001:db8::1"),
    ("IPv4 in IPv6", "r", "::ffff:192.0.2.1", "receiving_ip", "192.0.2.1"),
    ("IPv6 with a zone", "r", "fe80::1%eth0", "receiving_ip", None),
    ("leading zeros", "s", "192.0.02.1", "sending_mta_ip", None),
    ("no IP", "s", "unknown", "sending_mta_ip", None),
    ("an empty IP", "s", "", "sending_mta_ip", None),
    ("a long IP", "s", "1" * 10_000, "sending_mta_ip", None),
    ("MX", "n", "MX.Example.COM.", "receiving_mx_hostname", "mx.example.com"),
    ("MX that is a literal", "n", "[192.0.2.1]", "receiving_mx_hostname", None),
    ("MX that is an IP", "n", "192.0.2.1", "receiving_mx_hostname", None),
    ("MX that is null", "n", None, "receiving_mx_hostname", None),
    ("EHLO", "h", "250-mx.example.com hi\r\n250 HELP", "receiving_mx_helo", "mx.example.com"),
    ("URI", "a", "https://example.com/why?x=1", "additional_information", "https://example.com/why?x=1"),
    ("URI of another kind", "a", "javascript:alert(1)", "additional_information", None),
    ("URI with a line feed", "a", "https://example.com/\nx", "additional_information", None),
    ("URI with a line feed behind", "a", "https://example.com/\n", "additional_information", None),
    ("URI that is long", "a", "https://example.com/" + "x" * 3000, "additional_information", None),
    ("reason", "f", " tls-handshake-failure ", "failure_reason_code", "tls-handshake-failure"),
    ("reason of controls", "f", "\x00\x1b[31mred\u202e\u200b", "failure_reason_code", "[31mred"),
    ("reason that is empty", "f", "", "failure_reason_code", None),
    ("reason of blanks", "f", " \t ", "failure_reason_code", None),
    ("reason that is long", "f", "x" * 5000, "failure_reason_code", "x" * datagram.MAX_REASON),
]

# id, pattern, expected
MX_HOSTS = [
    ("a name", "mx.example.com", ["mx.example.com"]),
    ("a pattern", "*.Example.com", ["*.example.com"]),
    ("as Postfix writes a pattern", ".example.com", ["*.example.com"]),
    ("u-labels", "*.b\u00fccher.example", ["*.xn--bcher-kva.example"]),
    ("a star only", "*", []),
    ("a dot only", ".", []),
    ("a star within", "mx.*.example.com", []),
    ("two stars", "*.*.example.com", []),
    ("empty", "", []),
    ("an address", "192.0.2.1", []),
]


def captured() -> list[tuple[str, bytes]]:
    """Return (label, datagram) of every capture."""
    captures = [json.loads(line) for line in CAPTURES.read_text(encoding="utf-8").splitlines()]
    assert len(captures) == 50
    return [(capture["label"], text.encode()) for capture in captures for text in capture["datagrams"]]


def policy(**fields: object) -> bytes:
    """Return a datagram with one policy."""
    wire = {"policy-type": 9, "f": 0} | {name.replace("_", "-"): value for name, value in fields.items()}
    return json.dumps({"d": "example.com", "policies": [wire]}).encode()


def failure(**fields: object) -> session.Failure:
    """Return what one failure detail decodes to."""
    decoded = datagram.decode(policy(f=1, failure_details=[{"c": 205} | fields]))
    return decoded.results[0].failures[0]


def test_every_capture_is_in_the_table() -> None:
    """Every datagram that was captured has its expectation."""
    assert [label for label, _ in captured()] == [row[0] for row in CAPTURED]


@pytest.mark.parametrize(
    ("content", "kind", "failed", "types", "reasons"),
    [pytest.param(content, *row[1:], id=label) for (label, content), row in zip(captured(), CAPTURED, strict=True)],
)
def test_capture(content: bytes, kind: str, failed: bool, types: list[str], reasons: list[str | None]) -> None:  # noqa: FBT001 (a row of the table)
    """What a real Postfix sent decodes to what happened."""
    decoded = datagram.decode(content)
    (result,) = decoded.results
    assert decoded.domain.endswith(".e2e.example")
    assert decoded.record is not None
    assert decoded.record.startswith("v=TLSRPTv1;")
    assert (result.policy.type, result.failed) == (kind, failed)
    assert [detail.result_type for detail in result.failures] == types
    assert [detail.failure_reason_code for detail in result.failures] == reasons
    for detail in result.failures:
        assert detail.sending_mta_ip == "192.0.2.1"
        assert detail.receiving_mx_hostname == detail.receiving_mx_helo == f"mx.{decoded.domain}"


def test_sts_capture_in_full() -> None:
    """A capture with everything in it, value by value."""
    decoded = datagram.decode(dict(captured())["c3-sts-untrusted-issuer-unknown"])
    domain = "c3-sts-untrusted-issuer-unknown.e2e.example"
    assert decoded == session.Session(
        domain=domain,
        record=f"v=TLSRPTv1; rua=mailto:tlsrpt@{domain}",
        results=(
            session.Result(
                session.Policy(
                    session.PolicyType.STS,
                    domain,
                    ("version: STSv1", "mode: enforce", f"mx: mx.{domain}", "max_age: 604800"),
                    (f"mx.{domain}",),
                ),
                failed=True,
                failures=(
                    session.Failure(
                        R.CERTIFICATE_NOT_TRUSTED,
                        sending_mta_ip="192.0.2.1",
                        receiving_mx_hostname=f"mx.{domain}",
                        receiving_mx_helo=f"mx.{domain}",
                        receiving_ip="192.0.2.44",
                        failure_reason_code="unable_to_get_local_issuer_certificate",
                    ),
                ),
            ),
        ),
    )


def test_tlsa_capture_names_the_mx_host() -> None:
    """With DANE the policy domain is the TLSA base domain, and each record is one string."""
    result = datagram.decode(dict(captured())["d4-dane-two-records-success"]).results[0]
    assert result.policy.domain == "mx.d4-dane-two-records-success.e2e.example"
    assert [text[:10] for text in result.policy.strings] == ["3 1 1 1111", "3 1 1 51CD"]


@pytest.mark.parametrize(("content", "reason"), [pytest.param(*row[1:], id=row[0]) for row in MALFORMED])
def test_malformed(content: bytes, reason: str) -> None:
    """What cannot be counted is told with a stable word and a printable text."""
    with pytest.raises(datagram.MalformedError) as caught:
        datagram.decode(content)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{reason}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_every_reason_has_a_case() -> None:
    """No reason is only written down."""
    assert {row[2] for row in MALFORMED} == set(datagram.Reason)


def test_every_cut_of_a_datagram_is_malformed() -> None:
    """No beginning of a datagram is taken for one."""
    content = dict(captured())["c1-sts-success"]
    for length in range(len(content)):
        with pytest.raises(datagram.MalformedError) as caught:
            datagram.decode(content[:length])
        assert caught.value.reason in {"empty", "unterminated"}, length


@pytest.mark.parametrize(("code", "result_type"), CODES)
def test_code(code: int, result_type: session.ResultType) -> None:
    """Each code has its result type."""
    assert failure(c=code).result_type is result_type


def test_every_result_type_has_a_code() -> None:
    """Each result type of RFC 8460 section 4.3 can be told."""
    assert {result_type for _, result_type in CODES} == set(R)


@pytest.mark.parametrize(("reason", "untrusted"), REASONS)
def test_untrusted_issuer_is_certificate_not_trusted(reason: str, untrusted: bool) -> None:  # noqa: FBT001 (a row of the table)
    """Postfix sends the general code for an unknown issuer; RFC 8460 has a word for it, and the reason stays."""
    detail = failure(f=reason)
    assert (detail.result_type is R.CERTIFICATE_NOT_TRUSTED) is untrusted
    assert detail.failure_reason_code == reason


def test_reason_does_not_change_a_precise_code() -> None:
    """Only the general code is looked into."""
    assert failure(c=204, f="self-signed_certificate").result_type is R.CERTIFICATE_EXPIRED


@pytest.mark.parametrize(("reply", "name"), [pytest.param(*row[1:], id=row[0]) for row in EHLO])
def test_ehlo_name(reply: str, name: str | None) -> None:
    """The name in the first line, or nothing."""
    assert datagram.ehlo_name(reply) == name


@pytest.mark.parametrize(
    ("key", "value", "attribute", "expected"), [pytest.param(*row[1:], id=row[0]) for row in DETAILS]
)
def test_detail(key: str, value: str | None, attribute: str, expected: str | None) -> None:
    """Each field of a failure is canonical or left out."""
    assert getattr(failure(**{key: value}), attribute) == expected


@pytest.mark.parametrize(("pattern", "expected"), [pytest.param(*row[1:], id=row[0]) for row in MX_HOSTS])
def test_mx_host(pattern: str, expected: list[str]) -> None:
    """MX patterns come out as RFC 8461 writes them, invalid ones not at all."""
    decoded = datagram.decode(policy(policy_type=2, mx_host=[pattern, pattern]))
    assert decoded.results[0].policy.mx_hosts == tuple(expected)


def test_mx_hosts_are_those_of_sts_only() -> None:
    """RFC 8460 section 4.4 has ``mx-host`` for sts alone."""
    assert datagram.decode(policy(policy_type=1, mx_host=["mx.example.com"])).results[0].policy.mx_hosts == ()


def test_tlsa_records_in_another_order_are_the_same_policy() -> None:
    """Resolvers rotate them, and Postfix hands them on as they come: one host must not become several policies."""
    first, second = "3 1 1 " + "AB" * 32, "3 1 1 " + "CD" * 32
    policies = [
        {"policy-type": 1, "policy-domain": "mx.a.example", "policy-string": strings, "f": 0}
        for strings in ([first, second], [second.lower(), first], [first, second, first])
    ]
    told = {
        datagram.decode(json.dumps({"d": "a.example", "policies": [one]}).encode()).results[0].policy
        for one in policies
    }
    assert told == {session.Policy(session.PolicyType.TLSA, "mx.a.example", (first, second))}


def test_version_1_and_no_version_are_the_same() -> None:
    """Both generations of libtlsrpt are understood."""
    old = policy()
    new = b'{"dpv":"1",' + old[1:]
    assert datagram.decode(new) == datagram.decode(old)


def test_missing_policy_domain_is_the_next_hop() -> None:
    """An older Postfix leaves it out where no policy was found."""
    assert datagram.decode(policy()).results[0].policy.domain == "example.com"
    assert datagram.decode(policy(policy_domain="")).results[0].policy.domain == "example.com"


def test_domains_become_a_labels() -> None:
    """U-labels, upper case and a final dot do not make another domain."""
    content = json.dumps({"d": "B\u00fccher.Example.", "policies": [{"policy-type": 9, "f": 0}]}).encode()
    assert datagram.decode(content).domain == "xn--bcher-kva.example"


def test_unknown_fields_are_ignored() -> None:
    """A later libtlsrpt may tell more."""
    content = b'{"new":[1],"d":"example.com","policies":[{"policy-type":9,"f":0,"t":"many","ttl":{}}]}'
    assert datagram.decode(content) == datagram.decode(policy())


def test_several_policies_are_several_results() -> None:
    """The format allows more than Postfix uses."""
    kinds = [{"policy-type": 1, "f": 1}, {"policy-type": 2, "f": 0}]
    decoded = datagram.decode(json.dumps({"d": "example.com", "policies": kinds}).encode())
    assert [(result.policy.type, result.failed) for result in decoded.results] == [("tlsa", True), ("sts", False)]


def test_success_after_failures_keeps_them() -> None:
    """The outcome and what went wrong on the way are two things."""
    result = datagram.decode(policy(f=0, failure_details=[{"c": 202}])).results[0]
    assert not result.failed
    assert len(result.failures) == 1


def test_identical_failures_appear_once() -> None:
    """A failure told twice in one datagram is one, also when only its spelling differs; their number is bounded."""
    details = [{"c": 205, "n": "mx.example.com"}, {"c": 205, "n": "MX.example.com"}, {"c": 204}]
    failures = datagram.decode(policy(f=1, failure_details=details)).results[0].failures
    assert [detail.result_type for detail in failures] == [R.VALIDATION_FAILURE, R.CERTIFICATE_EXPIRED]
    many = [{"c": 205, "f": str(number)} for number in range(3000)]
    assert len(datagram.decode(policy(f=1, failure_details=many)).results[0].failures) == datagram.MAX_FAILURES


def test_policy_strings_are_clean_and_not_empty() -> None:
    """Line ends and control characters of a policy file do not reach a report."""
    strings = ["version: STSv1\r\n", "", " ", "mode:\tenforce", "max_age: 1\x000\x7f\u0085"]
    decoded = datagram.decode(policy(policy_type=2, policy_string=strings))
    assert decoded.results[0].policy.strings == ("version: STSv1", "mode: enforce", "max_age: 10")


def test_tlsa_records_are_in_upper_case() -> None:
    """One record is one string however it was written."""
    decoded = datagram.decode(policy(policy_type=1, policy_string=["3 1 1 abCD"]))
    assert decoded.results[0].policy.strings == ("3 1 1 ABCD",)


def test_policy_beyond_64_kib_is_left_out() -> None:
    """The session counts, the policy that no policy file can be does not appear."""
    line = "mx: " + "a" * 60
    for count, kept in ((1000, 1000), (1100, 0)):
        decoded = datagram.decode(policy(policy_type=2, policy_string=[line] * count, f=1))
        assert len(decoded.results[0].policy.strings) == kept
        assert decoded.results[0].failed


def test_record_is_clean_or_absent() -> None:
    """The record is kept whole, without what is not printable."""
    for wire, expected in (
        ("v=TLSRPTv1;\trua=mailto:a@example.com\x00", "v=TLSRPTv1; rua=mailto:a@example.com"),
        ("", None),
        ("\x00", None),
        ("x" * 70_000, None),
    ):
        content = json.dumps({"d": "example.com", "pr": wire, "policies": [{"policy-type": 9, "f": 0}]}).encode()
        assert datagram.decode(content).record == expected


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(content: bytes) -> None:
    """Bytes of any kind are a session or malformed, nothing else."""
    try:
        check(datagram.decode(content))
    except datagram.MalformedError as error:
        assert str(error).isprintable()  # noqa: PT017 (either outcome is right)


TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Cf", "Zl", "Lu", "Mn"]), max_size=6),
    st.sampled_from(
        ["example.com", "192.0.2.1", "::FFFF:1.2.3.4", "fe80::1%1", "250-mx.Example. x\r\n", "*.a.b", "[::1]"]
    ),
    st.text(string.ascii_letters + string.digits + ".-_*[]:", max_size=30),
    st.sampled_from(["https://a.example/\u0000", "http://x", "\ufb01.example", "\u0130.example", "xn--a.example"]),
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
DETAIL = st.fixed_dictionaries(
    {"c": st.sampled_from([*range(201, 206), *range(301, 307)])}, optional={key: TEXTS | st.none() for key in "snhraf"}
)
POLICY = st.fixed_dictionaries(
    {"policy-type": st.sampled_from([1, 2, 9]), "f": st.sampled_from([0, 1])},
    optional={
        "policy-domain": st.just("example.com") | TEXTS,
        "policy-string": st.lists(TEXTS, max_size=4),
        "mx-host": st.lists(TEXTS, max_size=4),
        "failure-details": st.lists(DETAIL, max_size=4),
        "t": ANYTHING,
    },
)
WIRE = st.fixed_dictionaries(
    {"d": st.just("example.com") | TEXTS, "policies": st.lists(POLICY, min_size=1, max_size=3)},
    optional={"dpv": st.just("1"), "pr": TEXTS, "x": ANYTHING},
)
BROKEN = st.tuples(WIRE, st.sampled_from(["d", "dpv", "pr", "policies"]), ANYTHING).map(
    lambda parts: {**parts[0], parts[1]: parts[2]}
)


@settings(deadline=None, max_examples=300)
@given(st.one_of(ANYTHING, WIRE, WIRE, BROKEN), st.booleans())
def test_any_structure(value: object, ascii_only: bool) -> None:  # noqa: FBT001 (hypothesis gives it)
    """JSON of any kind is malformed, or a session in which every text is strict."""
    content = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        decoded = datagram.decode(content)
    except datagram.MalformedError as error:
        assert str(error).isprintable()  # noqa: PT017 (either outcome is right)
    else:
        check(decoded)


def check(decoded: session.Session) -> None:
    """Assert what the rest of the room relies on."""
    hash(decoded)
    assert names.a_label(decoded.domain) == decoded.domain
    assert decoded.results
    texts: list[str | None] = [decoded.record]
    for result in decoded.results:
        assert names.a_label(result.policy.domain) == result.policy.domain
        assert len(set(result.failures)) == len(result.failures)
        texts += result.policy.strings
        for host in result.policy.mx_hosts:
            name = host.removeprefix("*.")
            assert names.a_label(name) == name
        for detail in result.failures:
            check_failure(detail)
            texts += [detail.failure_reason_code, detail.additional_information]
    for text in texts:
        assert text is None or (text.isprintable() and text == text.rstrip() and text.encode())


def check_failure(detail: session.Failure) -> None:
    """Assert that names and addresses are canonical."""
    for address in (detail.sending_mta_ip, detail.receiving_ip):
        assert address is None or str(ipaddress.ip_address(address)) == address
    host = detail.receiving_mx_hostname
    assert host is None or names.a_label(host) == host
    helo = detail.receiving_mx_helo
    if helo and helo.startswith("["):
        ipaddress.ip_address(helo[1:-1].removeprefix("IPv6:"))
    elif helo is not None:
        assert names.a_label(helo) == helo


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_a_version_nested_too_deeply_is_malformed(depth: int) -> None:
    """Whatever Python's limit is where it is shown: one datagram must not end the tally."""
    with pytest.raises(datagram.MalformedError):
        datagram.decode(b'{"dpv":' + b"[" * depth + b"]" * depth + b"}")
