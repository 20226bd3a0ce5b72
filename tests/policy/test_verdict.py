"""DANE and MTA-STS put together: which one holds, and what is told besides."""

import dataclasses

import pytest

from policy import mtasts, verdict

ONLY, DANE, SECURE, NONE = verdict.Level
ENFORCE = mtasts.parse_policy(b"version: STSv1\nmode: enforce\nmx: mx.example.com\nmax_age: 1\n")
TESTING = dataclasses.replace(ENFORCE, mode=mtasts.Mode.TESTING)
WITHDRAWN = dataclasses.replace(ENFORCE, mode=mtasts.Mode.NONE, mx=())
FINDING = verdict.Finding(verdict.FindingType.STS_POLICY_FETCH_ERROR, "http-404")

# id, level of DANE, whether something had no answer, policy, level, number of steps added
VERDICTS: list[tuple[str, verdict.Level | None, bool, mtasts.Policy | None, verdict.Level, int]] = [
    ("nothing", None, False, None, NONE, 0),
    ("DANE for all", ONLY, False, None, ONLY, 0),
    ("DANE for some", DANE, False, None, DANE, 0),
    ("a policy", None, False, ENFORCE, SECURE, 0),
    ("testing", None, False, TESTING, NONE, 0),
    ("withdrawn", None, False, WITHDRAWN, NONE, 0),
    ("DANE for all before a policy", ONLY, False, ENFORCE, ONLY, 1),
    ("DANE for some before a policy", DANE, False, ENFORCE, DANE, 1),
    ("DANE for all beside testing", ONLY, False, TESTING, ONLY, 0),
    ("DANE for some beside testing", DANE, False, TESTING, DANE, 0),
    ("DANE for some beside none", DANE, False, WITHDRAWN, DANE, 0),
    ("trouble, nothing known", None, True, None, NONE, 0),
    ("trouble, a policy", None, True, ENFORCE, SECURE, 0),
    ("trouble, testing", None, True, TESTING, NONE, 0),
    ("trouble at some hosts", DANE, True, None, DANE, 0),
    ("trouble at some hosts, a policy", DANE, True, ENFORCE, ONLY, 2),
    ("trouble at some hosts, testing", DANE, True, TESTING, DANE, 0),
    ("trouble at some hosts, withdrawn", DANE, True, WITHDRAWN, DANE, 0),
    ("trouble, DANE for all, a policy", ONLY, True, ENFORCE, ONLY, 1),
]


@pytest.mark.parametrize("finding", [None, FINDING], ids=["nothing found", "finding"])
@pytest.mark.parametrize(
    ("dane", "trouble", "policy", "level", "added"), [pytest.param(*case[1:], id=case[0]) for case in VERDICTS]
)
def test_dane_goes_before_mta_sts(
    dane: verdict.Level | None,
    policy: mtasts.Policy | None,
    level: verdict.Level,
    added: int,
    finding: verdict.Finding | None,
    *,
    trouble: bool,
) -> None:
    """RFC 8461 section 2; policies that do not enforce are kept, and so are findings, but about a withdrawn policy."""
    id_ = "id1" if policy else None
    decided = verdict.decide(
        "example.com",
        verdict.Dane(dane, ("one", "two"), "mx.example.com: no answer" if trouble else None),
        verdict.Sts(policy, id_, finding, ("three",)),
    )
    steps = decided.steps
    told = None if policy is WITHDRAWN else finding
    assert decided == verdict.Verdict("example.com", level, policy, id_, told, steps)
    assert [step.text for step in steps[:3]] == ["one", "two", "three"]
    assert [step.about.value for step in steps] == ["dane", "dane", "mta-sts", *["answer"] * added]


def test_the_steps_say_why_a_policy_is_set_aside() -> None:
    """A postmaster reads which of the two holds, and what holds while the DNS is in trouble."""
    sts = verdict.Sts(ENFORCE, "id1", None, ())
    decided = verdict.decide("example.com", verdict.Dane(DANE, (), "mx2.example.com: no answer"), sts)
    first, last = decided.steps
    assert first.text == "DANE goes before MTA-STS, so mail is not held to the MTA-STS policy."
    assert last.text == (
        "The MTA-STS policy asks for authentication, and the DNS does not tell now whether all hosts have TLSA "
        "records: until it does, mail goes only where the certificate matches TLSA records."
    )


def test_a_policy_holds_where_dane_cannot_check_anything() -> None:
    """No usable TLSA record at any host: DANE asks for TLS only, so there is no check that a policy could override."""
    sts = verdict.Sts(ENFORCE, "id1", None, ())
    decided = verdict.decide("example.com", verdict.Dane(DANE, (), None, authenticates=False), sts)
    assert decided.level is SECURE
    assert [step.text for step in decided.steps] == [
        "DANE asks for TLS with any certificate, the MTA-STS policy for TLS with the right one: that does for both."
    ]
    without = verdict.decide(
        "example.com", verdict.Dane(DANE, (), None, authenticates=False), verdict.Sts(TESTING, "id1", None, ())
    )
    assert without.level is DANE


def test_levels_are_words_of_postfix() -> None:
    """They go into answers as they are; result types, into reports."""
    assert [str(level) for level in verdict.Level] == ["dane-only", "dane", "secure", "none"]
    assert [str(kind) for kind in verdict.FindingType] == [
        "sts-policy-fetch-error",
        "sts-policy-invalid",
        "sts-webpki-invalid",
    ]


@pytest.mark.parametrize("level", [SECURE, NONE])
def test_dane_has_levels_of_its_own(level: verdict.Level) -> None:
    """Else MTA-STS could come in as DANE."""
    with pytest.raises(ValueError, match="not a level of DANE"):
        verdict.Dane(level, (), None)


@pytest.mark.parametrize("policy", [None, WITHDRAWN], ids=["no policy", "no hosts"])
def test_secure_needs_a_policy_with_hosts(policy: mtasts.Policy | None) -> None:
    """Without hosts to match, a server would take any, or none."""
    with pytest.raises(ValueError, match="secure without a policy"):
        verdict.Verdict("example.com", SECURE, policy, "id1", None, ())
