"""Datagrams of libtlsrpt, compared byte for byte with what a real Postfix 3.10 sent."""

import pytest

from sender import datagram, session
from sender.demo import libtlsrpt

STS = session.Policy(
    session.PolicyType.STS,
    "b.example",
    ("version: STSv1", "mode: enforce", "mx: mx.b.example", "max_age: 604800"),
    ("mx.b.example",),
)

CASES = [
    (
        "no-policy-success",
        session.Session(
            "a.example",
            "v=TLSRPTv1; rua=mailto:tlsrpt@a.example",
            (session.Result(session.Policy(session.PolicyType.NO_POLICY_FOUND, "a.example"), failed=False),),
        ),
        (
            b'{"d": "a.example","pr": "v=TLSRPTv1; rua=mailto:tlsrpt@a.example","policies":[{"policy-type":9,'
            b'"policy-domain": "a.example","t":0,"f":0}]}'
        ),
    ),
    (
        "sts-untrusted",
        session.Session(
            "b.example",
            "v=TLSRPTv1; rua=mailto:tlsrpt@b.example",
            (
                session.Result(
                    STS,
                    failed=True,
                    failures=(
                        session.Failure(
                            session.ResultType.VALIDATION_FAILURE,
                            sending_mta_ip="192.0.2.1",
                            receiving_mx_hostname="mx.b.example",
                            receiving_mx_helo="250-mx.b.example\r\n250-SIZE 33554432\r\n250 HELP",
                            receiving_ip="192.0.2.46",
                            failure_reason_code="self-signed_certificate",
                        ),
                    ),
                ),
            ),
        ),
        (
            b'{"d": "b.example","pr": "v=TLSRPTv1; rua=mailto:tlsrpt@b.example","policies":[{"policy-type":2,'
            b'"policy-domain": "b.example","policy-string":["version: STSv1","mode: enforce","mx: mx.b.example",'
            b'"max_age: 604800"],"mx-host":["mx.b.example"],"failure-details":[{"c":205,"s": "192.0.2.1",'
            b'"n": "mx.b.example","h": "250-mx.b.example\\r\\n250-SIZE 33554432\\r\\n250 HELP","r": "192.0.2.46",'
            b'"f": "self-signed_certificate"}],"t":1,"f":1}]}'
        ),
    ),
    (
        "tlsa-success",
        session.Session(
            "d.example",
            "v=TLSRPTv1; rua=mailto:tlsrpt@d.example",
            (
                session.Result(
                    session.Policy(session.PolicyType.TLSA, "mx.d.example", ("3 1 1 D9548831",)), failed=False
                ),
            ),
        ),
        (
            b'{"d": "d.example","pr": "v=TLSRPTv1; rua=mailto:tlsrpt@d.example","policies":[{"policy-type":1,'
            b'"policy-domain": "mx.d.example","policy-string":["3 1 1 D9548831"],"t":0,"f":0}]}'
        ),
    ),
]


@pytest.mark.parametrize(("seen", "octets"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_session_is_written_as_postfix_writes_it(seen: session.Session, octets: bytes) -> None:
    """Spaces, order and omissions are those of libtlsrpt."""
    assert libtlsrpt.datagram(seen) == octets


@pytest.mark.parametrize("result_type", list(session.ResultType))
def test_every_result_type_has_its_code(result_type: session.ResultType) -> None:
    """The recorder's reader gets back each result type of RFC 8460."""
    policy = session.Policy(session.PolicyType.STS, "a.example")
    result = session.Result(policy, failed=True, failures=(session.Failure(result_type),))
    read = datagram.decode(libtlsrpt.datagram(session.Session("a.example", "v=TLSRPTv1", (result,))))
    assert [failure.result_type for failure in read.results[0].failures] == [result_type]
