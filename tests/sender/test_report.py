"""``sender.report``: every document satisfies the JSON Schema of RFC 8460, and the schema is no rubber stamp."""

import copy
import datetime as dt
import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sender
from sender import config, report, session

SCHEMA = json.loads((Path(sender.__file__).parent / "rfc8460.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

IDENTITY = config.Identity(
    name="Example Inc.",
    domain="example.com",
    contact="tls-reports@example.com",
    sender="noreply-tls-reports@example.com",
)
DAY = dt.date(2026, 11, 24)

STS = session.Policy(
    session.PolicyType.STS,
    "example.net",
    ("version: STSv1", "mode: testing", "mx: *.mail.example.net", "max_age: 86400"),
    ("*.mail.example.net",),
)
TLSA = session.Policy(session.PolicyType.TLSA, "mx.example.net", ("3 1 1 " + "AB" * 32,))
NONE = session.Policy(session.PolicyType.NO_POLICY_FOUND, "example.net")
EXPIRED = session.Failure(
    session.ResultType.CERTIFICATE_EXPIRED,
    sending_mta_ip="192.0.2.1",
    receiving_mx_hostname="mx.example.net",
    receiving_mx_helo="mx.example.net",
    receiving_ip="2001:db8::25",
    additional_information="https://example.com/chain",
    failure_reason_code="certificate_has_expired",
)
BARE = session.Failure(session.ResultType.VALIDATION_FAILURE)

WHOLE = """\
{
  "organization-name": "Example Inc.",
  "date-range": {
    "start-datetime": "2026-11-24T00:00:00Z",
    "end-datetime": "2026-11-24T23:59:59Z"
  },
  "contact-info": "tls-reports@example.com",
  "report-id": "t1@example.com",
  "policies": [
    {
      "policy": {
        "policy-type": "sts",
        "policy-string": [
          "version: STSv1",
          "mode: testing",
          "mx: *.mail.example.net",
          "max_age: 86400"
        ],
        "policy-domain": "example.net",
        "mx-host": [
          "*.mail.example.net"
        ]
      },
      "summary": {
        "total-successful-session-count": 10,
        "total-failure-session-count": 3
      },
      "failure-details": [
        {
          "result-type": "certificate-expired",
          "sending-mta-ip": "192.0.2.1",
          "receiving-mx-hostname": "mx.example.net",
          "receiving-mx-helo": "mx.example.net",
          "receiving-ip": "2001:db8::25",
          "failed-session-count": 2,
          "additional-information": "https://example.com/chain",
          "failure-reason-code": "certificate_has_expired"
        },
        {
          "result-type": "validation-failure",
          "failed-session-count": 1
        }
      ]
    }
  ]
}
"""


def _document(*counts: report.PolicyCount) -> bytes:
    return report.document(IDENTITY, DAY, "t1@example.com", counts)


def _json(*counts: report.PolicyCount) -> Any:
    """Return a document as JSON that satisfies the schema."""
    instance = json.loads(_document(*counts))
    VALIDATOR.validate(instance)
    return instance


def _detail(failure: session.Failure, policy: session.Policy = STS) -> Any:
    return _json(report.PolicyCount(policy, 0, 1, ((failure, 1),)))["policies"][0]["failure-details"][0]


def test_document_is_written_as_the_rfc_shows_it() -> None:
    """Keys in the RFC's order, indented by two, one line feed at the end; the most frequent failure is first."""
    written = _document(report.PolicyCount(STS, 10, 3, ((BARE, 1), (EXPIRED, 2))))
    assert written.decode() == WHOLE
    VALIDATOR.validate(json.loads(written))


def test_document_does_not_depend_on_the_order_of_the_counts() -> None:
    """The same counts in another order give the same bytes: tlsa, sts, no-policy-found."""
    counts = [
        report.PolicyCount(NONE, 1, 0, ()),
        report.PolicyCount(STS, 1, 2, ((BARE, 1), (EXPIRED, 1))),
        report.PolicyCount(TLSA, 1, 0, ()),
    ]
    turned = [report.PolicyCount(c.policy, c.successful, c.failed, c.failures[::-1]) for c in reversed(counts)]
    assert _document(*counts) == _document(*turned)
    types = [result["policy"]["policy-type"] for result in _json(*counts)["policies"]]
    assert types == ["tlsa", "sts", "no-policy-found"]


def test_keys_without_value_are_left_out() -> None:
    """No ``""``, no ``null``, no empty list: the key is not there."""
    result = _json(report.PolicyCount(NONE, 1, 0, ()))["policies"][0]
    assert set(result) == {"policy", "summary"}
    assert set(result["policy"]) == {"policy-type", "policy-domain"}


@pytest.mark.parametrize("policy_type", [session.PolicyType.TLSA, session.PolicyType.NO_POLICY_FOUND])
def test_mx_host_is_for_sts_only(policy_type: session.PolicyType) -> None:
    """Other policies have no mx-host, even when a sender told one."""
    policy = session.Policy(policy_type, "example.net", (), ("mx.example.net",))
    assert "mx-host" not in _json(report.PolicyCount(policy, 1, 0, ()))["policies"][0]["policy"]


@pytest.mark.parametrize(
    ("given_hosts", "expected"),
    [
        pytest.param(("MX.example.net",), ["mx.example.net"], id="lower-case"),
        pytest.param(("bücher.example",), ["xn--bcher-kva.example"], id="a-label"),
        pytest.param((".example.net", "*.example.org"), ["*.example.net", "*.example.org"], id="wildcard"),
        pytest.param(("mx.example.net", "", "no host"), ["mx.example.net"], id="what-is-none"),
        pytest.param(("", "*.", "*"), None, id="nothing-left"),
    ],
)
def test_mx_host_holds_patterns_as_in_rfc_8461(given_hosts: tuple[str, ...], expected: list[str] | None) -> None:
    """Patterns are written as A-labels with ``*.``; the key is left out when none remains."""
    policy = session.Policy(session.PolicyType.STS, "example.net", ("", "version: STSv1"), given_hosts)
    written = _json(report.PolicyCount(policy, 1, 0, ()))["policies"][0]["policy"]
    assert written.get("mx-host") == expected
    assert written["policy-string"] == ["version: STSv1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::25", "2001:db8::25"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "::ffff:c000:201"),
        ("192.0.2.256", None),
        ("mx.example.net", None),
        ("", None),
    ],
)
def test_addresses_are_valid_or_left_out(text: str, expected: str | None) -> None:
    """An IP address has its RFC 5952 form; receivers refuse a whole report for one that is none."""
    detail = _detail(session.Failure(session.ResultType.CERTIFICATE_EXPIRED, sending_mta_ip=text, receiving_ip=text))
    assert (detail.get("sending-mta-ip"), detail.get("receiving-ip")) == (expected, expected)


@pytest.mark.parametrize(
    ("information", "reason", "expected"),
    [
        pytest.param("https://a.example/x", "why", ("https://a.example/x", "why"), id="uri"),
        pytest.param("some text", None, (None, "some text"), id="text"),
        pytest.param("some text", "why", (None, "why; some text"), id="text-and-reason"),
        pytest.param("", "", (None, None), id="empty"),
    ],
)
def test_additional_information_is_a_uri(
    information: str, reason: str | None, expected: tuple[str | None, str | None]
) -> None:
    """Text that is no URI belongs to the reason (RFC 8460 section 4.4, ``additional-info-uri``)."""
    failure = session.Failure(
        session.ResultType.VALIDATION_FAILURE, additional_information=information, failure_reason_code=reason
    )
    detail = _detail(failure)
    assert (detail.get("additional-information"), detail.get("failure-reason-code")) == expected


def test_counts_stop_at_32_bits() -> None:
    """Counts beyond 2^32-1 are written as 2^32-1."""
    result = _json(report.PolicyCount(STS, 2**40, 2**32, ((BARE, 2**32),)))["policies"][0]
    assert set(result["summary"].values()) == {4294967295}
    assert result["failure-details"][0]["failed-session-count"] == 4294967295


def test_text_is_utf_8_whatever_came_in() -> None:
    """Umlauts are written as they are; a lone surrogate cannot be written and becomes a question mark."""
    failure = session.Failure(session.ResultType.VALIDATION_FAILURE, failure_reason_code="ungültig \udcff")
    assert _detail(failure)["failure-reason-code"] == "ungültig ?"
    assert "ungültig".encode() in _document(report.PolicyCount(STS, 0, 1, ((failure, 1),)))


TEXT = st.none() | st.text(min_size=1)
FAILURES = st.builds(session.Failure, st.sampled_from(session.ResultType), TEXT, TEXT, TEXT, TEXT, TEXT, TEXT)
DOMAINS = st.from_regex(r"[a-z]{1,9}\.example", fullmatch=True)
POLICIES = st.builds(
    session.Policy,
    st.sampled_from(session.PolicyType),
    DOMAINS,
    st.lists(st.text()).map(tuple),
    st.lists(st.text()).map(tuple),
)
COUNTS = st.builds(
    report.PolicyCount,
    POLICIES,
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.dictionaries(FAILURES, st.integers(1, 2**40), max_size=4).map(lambda failures: tuple(failures.items())),
)


@given(st.lists(COUNTS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=60)
def test_every_document_satisfies_the_schema_and_is_read_back(counts: list[report.PolicyCount]) -> None:
    """Whatever senders told: the document is valid, and ``parse`` reads it without loss."""
    written = _document(*counts)
    VALIDATOR.validate(json.loads(written))
    parsed = report.parse(written)
    assert len(parsed.policies) == len(counts)
    assert report.parse(report.unpack(report.pack(written))) == parsed


def _sessions(written: bytes) -> tuple[int, int, int]:
    parsed = report.parse(written)
    return (
        sum(result.summary.total_successful_session_count for result in parsed.policies),
        sum(result.summary.total_failure_session_count for result in parsed.policies),
        sum(detail.failed_session_count for result in parsed.policies for detail in result.failure_details),
    )


def test_too_many_failures_lose_their_rarest_details_but_no_session() -> None:
    """A document above ten megabytes keeps its most frequent details and counts the others by result type."""
    many = tuple(
        (
            session.Failure(list(session.ResultType)[number % 3], failure_reason_code=f"{number} {'x' * 20_000}"),
            number + 1,
        )
        for number in range(600)
    )
    total = sum(sessions for _, sessions in many)
    written = _document(report.PolicyCount(STS, 7, total, many), report.PolicyCount(TLSA, 1, 0, ()))
    VALIDATOR.validate(json.loads(written))
    assert report.MAX_DOCUMENT - 50_000 < len(written) <= report.MAX_DOCUMENT
    assert _sessions(written) == (8, total, total)
    details = report.parse(written).policies[1].failure_details
    merged = [detail for detail in details if detail.failure_reason_code is None]
    kept = [detail for detail in details if detail.failure_reason_code is not None]
    assert len(merged) == 3
    assert [detail.failed_session_count for detail in kept] == list(range(600, 600 - len(kept), -1))


def test_too_many_policies_lose_their_text_but_no_session() -> None:
    """Ten megabytes of policy text: the least used policies become one without text."""
    counts = [
        report.PolicyCount(
            session.Policy(session.PolicyType.STS, "example.net", (f"{number}", "x" * 100_000)),
            number,
            1,
            ((BARE, 1), (EXPIRED, 1)),
        )
        for number in range(120)
    ]
    written = _document(*counts)
    VALIDATOR.validate(json.loads(written))
    assert report.MAX_DOCUMENT - 200_000 < len(written) <= report.MAX_DOCUMENT
    assert _sessions(written) == (sum(range(120)), 120, 240)
    without_text = [result for result in report.parse(written).policies if not result.policy.policy_string]
    assert len(without_text) == 1


def test_packed_bytes_are_the_same_every_time() -> None:
    """Gzip carries no time and no name; any gunzip reads it."""
    packed = report.pack(b"{}\n")
    assert packed == report.pack(b"{}\n")
    assert packed[4:8] == bytes(4)
    assert gzip.decompress(packed) == report.unpack(packed) == b"{}\n"


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        pytest.param(b"", "cut short", id="empty"),
        pytest.param(b"{}", "not gzip", id="json"),
        pytest.param(gzip.compress(b"{}")[:-1], "cut short", id="cut"),
        pytest.param(gzip.compress(b"{}") + b"x", "bytes after", id="trailing"),
        pytest.param(gzip.compress(bytes(report.MAX_DOCUMENT + 1)), "longer than", id="bomb"),
    ],
)
def test_broken_gzip_is_refused(packed: bytes, reason: str) -> None:
    """What is not one whole gzip member of bearable size is no report."""
    with pytest.raises(report.InvalidReportError, match=reason):
        report.unpack(packed)


def test_largest_document_is_unpacked() -> None:
    """The limit itself is still allowed."""
    assert len(report.unpack(gzip.compress(bytes(report.MAX_DOCUMENT)))) == report.MAX_DOCUMENT


def test_report_id_and_file_name_are_as_the_rfc_wants_them() -> None:
    """The unique part of the file name has only letters and digits; the range is the day's first and last second."""
    assert report.report_id("2026-11-24.x_7", IDENTITY) == "2026-11-24.x_7@example.com"
    name = report.filename("example.com", "example.net", DAY, "2026-11-24.x_7@example.com")
    assert name == "example.com!example.net!1795478400!1795564799!20261124x7.json.gz"


VALID = json.loads(WHOLE)
LEAVE_OUT = object()
POLICY, DETAIL = ("policies", 0, "policy"), ("policies", 0, "failure-details", 0)

BROKEN: list[tuple[str, tuple[str | int, ...], object]] = [
    *((f"no-{key}", (key,), LEAVE_OUT) for key in VALID),
    ("no-start", ("date-range", "start-datetime"), LEAVE_OUT),
    ("no-end", ("date-range", "end-datetime"), LEAVE_OUT),
    ("no-policy", POLICY, LEAVE_OUT),
    ("no-policy-type", (*POLICY, "policy-type"), LEAVE_OUT),
    ("no-policy-domain", (*POLICY, "policy-domain"), LEAVE_OUT),
    ("no-summary", ("policies", 0, "summary"), LEAVE_OUT),
    ("no-successes", ("policies", 0, "summary", "total-successful-session-count"), LEAVE_OUT),
    ("no-failures", ("policies", 0, "summary", "total-failure-session-count"), LEAVE_OUT),
    ("no-result-type", (*DETAIL, "result-type"), LEAVE_OUT),
    ("no-detail-count", (*DETAIL, "failed-session-count"), LEAVE_OUT),
    ("own-key", ("x",), 1),
    ("own-key-in-range", ("date-range", "x"), 1),
    ("own-key-in-result", ("policies", 0, "x"), 1),
    ("own-key-in-policy", (*POLICY, "x"), 1),
    ("own-key-in-summary", ("policies", 0, "summary", "x"), 1),
    ("own-key-in-detail", (*DETAIL, "x"), 1),
    ("empty-name", ("organization-name",), ""),
    ("null-name", ("organization-name",), None),
    ("contact-without-at", ("contact-info",), "example.com"),
    ("contact-with-name", ("contact-info",), "X <x@example.com>"),
    ("contact-in-u-labels", ("contact-info",), "x@bücher.example"),
    ("bare-report-id", ("report-id",), "t1"),
    ("report-id-in-brackets", ("report-id",), "<t1@example.com>"),
    ("range-with-offset", ("date-range", "start-datetime"), "2026-11-24T00:00:00+00:00"),
    ("range-with-fraction", ("date-range", "end-datetime"), "2026-11-24T23:59:59.999Z"),
    ("range-of-no-day", ("date-range", "start-datetime"), "2026-13-24T00:00:00Z"),
    ("range-ends-at-24", ("date-range", "end-datetime"), "2026-11-25T00:00:00Z"),
    ("no-policies-at-all", ("policies",), []),
    ("unknown-policy-type", (*POLICY, "policy-type"), "dane"),
    ("policy-string-no-array", (*POLICY, "policy-string"), "version: STSv1"),
    ("policy-string-empty", (*POLICY, "policy-string"), []),
    ("policy-string-of-empty", (*POLICY, "policy-string"), [""]),
    ("policy-domain-in-u-labels", (*POLICY, "policy-domain"), "bücher.example"),
    ("policy-domain-with-dot", (*POLICY, "policy-domain"), "example.net."),
    ("mx-host-of-tlsa", (*POLICY, "policy-type"), "tlsa"),
    ("mx-host-of-no-policy", (*POLICY, "policy-type"), "no-policy-found"),
    ("mx-host-no-array", (*POLICY, "mx-host"), "mx.example.net"),
    ("mx-host-empty", (*POLICY, "mx-host"), []),
    ("mx-host-nested", (*POLICY, "mx-host"), [["mx.example.net"]]),
    ("mx-host-of-postfix", (*POLICY, "mx-host"), [".example.net"]),
    ("count-of-text", ("policies", 0, "summary", "total-successful-session-count"), "10"),
    ("count-below-zero", ("policies", 0, "summary", "total-successful-session-count"), -1),
    ("count-too-high", ("policies", 0, "summary", "total-failure-session-count"), 2**32),
    ("details-empty", ("policies", 0, "failure-details"), []),
    ("details-null", ("policies", 0, "failure-details"), None),
    ("result-type-by-number", (*DETAIL, "result-type"), 204),
    ("result-type-unknown", (*DETAIL, "result-type"), "expired"),
    ("ipv4-out-of-range", (*DETAIL, "sending-mta-ip"), "192.0.2.256"),
    ("ip-is-a-name", (*DETAIL, "receiving-ip"), "mx.example.net"),
    ("ip-in-brackets", (*DETAIL, "receiving-ip"), "[2001:db8::25]"),
    ("ip-too-long", (*DETAIL, "receiving-ip"), "1:2:3:4:5:6:7:8:9"),
    ("ip-empty", (*DETAIL, "receiving-ip"), ""),
    ("helo-empty", (*DETAIL, "receiving-mx-helo"), ""),
    ("hostname-null", (*DETAIL, "receiving-mx-hostname"), None),
    ("detail-of-no-session", (*DETAIL, "failed-session-count"), 0),
    ("information-no-uri", (*DETAIL, "additional-information"), "some text"),
    ("reason-empty", (*DETAIL, "failure-reason-code"), ""),
]


def _broken(path: tuple[str | int, ...], value: object) -> Any:
    instance = copy.deepcopy(VALID)
    inner = instance
    for step in path[:-1]:
        inner = inner[step]
    if value is LEAVE_OUT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return instance


@pytest.mark.parametrize(("path", "value"), [pytest.param(path, value, id=name) for name, path, value in BROKEN])
def test_schema_refuses_broken_documents(path: tuple[str | int, ...], value: object) -> None:
    """Each single fault makes a good document invalid."""
    assert VALIDATOR.is_valid(VALID)
    assert not VALIDATOR.is_valid(_broken(path, value))


def test_schema_is_a_schema() -> None:
    """The file itself is valid JSON Schema 2020-12."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


NOT_REPORTS = ["no-policies", "own-key", "null-name", "unknown-policy-type", "count-too-high", "result-type-unknown"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(WHOLE.replace("Example Inc.", "\udcff").encode(errors="surrogateescape"), id="bad-text"),
        *(
            pytest.param(json.dumps(_broken(path, value)).encode(), id=name)
            for name, path, value in BROKEN
            if name in NOT_REPORTS
        ),
    ],
)
def test_parse_refuses_what_is_no_report(text: bytes) -> None:
    """Unknown keys, words and types are errors."""
    with pytest.raises(report.InvalidReportError):
        report.parse(text)
