"""Whether a domain-day gets a report: each way it can go, with the reason a postmaster reads."""

import pytest

from policy import tlsrpt
from sender import decision, rules
from sender.decision import Absent, Broken, Found, Later

GOOD = "v=TLSRPTv1; rua=mailto:r@a.example,https://a.example/t"
TABLE = [
    ("a record", Found(tlsrpt.parse_record(GOOD)), None, {}, ["mailto:r@a.example", "https://a.example/t"]),
    ("no record", Absent(), None, {}, "there is no TLSRPT record"),
    ("withdrawn", Absent(), GOOD, {}, "the TLSRPT record was withdrawn"),
    ("two records", Broken("2 records"), GOOD, {}, "the TLSRPT record cannot be used: 2 records"),
    ("no rua", Found(tlsrpt.parse_record("v=TLSRPTv1;")), GOOD, {}, "the TLSRPT record has no rua"),
    (
        "no usable rua",
        Found(tlsrpt.parse_record("v=TLSRPTv1; rua=ftp://a.example/x")),
        GOOD,
        {},
        "the TLSRPT record has no usable rua: ftp://a.example/x: ",
    ),
    ("DNS fails, the session knows", Later("SERVFAIL"), GOOD, {}, ["mailto:r@a.example", "https://a.example/t"]),
    ("DNS fails, nobody knows", Later("SERVFAIL"), None, {}, decision.Wait("SERVFAIL")),
    ("DNS fails, the session's is unusable", Later("SERVFAIL"), "v=TLSRPTv2;", {}, decision.Wait("SERVFAIL")),
    ("nothing failed", Found(tlsrpt.parse_record(GOOD)), None, {"failed": 0, "success_only": False}, "nothing failed"),
    ("our own", Found(tlsrpt.parse_record(GOOD)), None, {"mailed": 5}, decision.SkipOwn("our own report mails")),
    ("our own, no record", Absent(), None, {"mailed": 5}, decision.SkipOwn("our own report mails")),
]


@pytest.mark.parametrize(
    ("lookup", "seen", "changes", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_decision(
    lookup: decision.Lookup,
    seen: str | None,
    changes: dict[str, int],
    expected: list[str] | str | decision.Wait | decision.SkipOwn,
) -> None:
    """A list of rua means a report to them; a text means none, for that reason."""
    numbers = {"successful": 4, "failed": 1, "mailed": 0, "success_only": True} | changes
    made = decision.decide(
        lookup,
        domain="a.example",
        reach=rules.EVERYTHING,
        seen=seen,
        successful=numbers["successful"],
        failed=numbers["failed"],
        mailed=numbers["mailed"],
        success_only=bool(numbers["success_only"]),
    )
    if isinstance(expected, list):
        assert isinstance(made, decision.Send)
        assert [one.uri for one in made.rua] == expected
    else:
        assert not isinstance(made, decision.Send)
        kind, text = (decision.Skip, expected) if isinstance(expected, str) else (type(expected), expected.reason)
        assert isinstance(made, kind)
        assert text in made.reason
