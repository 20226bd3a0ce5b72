"""Answers as Postfix reads them: those of real sessions, and that none can break its syntax."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policy import mtasts, postfix, verdict

CAPTURES = pathlib.Path(__file__).parents[1] / "data" / "postfix-3.10.jsonl"
ONLY, DANE, SECURE, NONE = verdict.Level

OLD_ATTRIBUTES = {"match", "servername"}
"""Those of ours that Postfix before 3.10 takes."""
NEW_ATTRIBUTES = {"policy_type", "policy_domain", "mx_host_pattern", "policy_string"}


def _policy(*mx: str, lines: tuple[str, ...] | None = None, mode: str = "enforce") -> mtasts.Policy:
    patterns = tuple(f"mx: {pattern}" for pattern in mx)
    published = ("version: STSv1", f"mode: {mode}", *patterns, "max_age: 604800")
    return mtasts.Policy(mtasts.Mode(mode), mx, 604800, published if lines is None else lines)


def _verdict(level: verdict.Level, policy: mtasts.Policy | None = None, domain: str = "example.com") -> verdict.Verdict:
    finding = verdict.Finding(verdict.FindingType.STS_POLICY_FETCH_ERROR, "http-404")
    return verdict.Verdict(
        domain,
        level,
        policy,
        "id1" if policy else None,
        finding,
        tuple(verdict.Step(verdict.About.DANE, text) for text in ("First.", "Second.")),
    )


ALL = "policy_type=sts policy_domain=example.com"
LINES = "{ policy_string = version: STSv1 } { policy_string = mode: enforce }"
WILD, AGE = "{ policy_string = mx: *.b.de }", "{ policy_string = max_age: 604800 }"
MX = _policy("mx.example.com")

# id, verdict, answer to QUERY, what QUERYwithTLSRPT adds
ANSWERS: list[tuple[str, verdict.Verdict, str, str]] = [
    ("nothing", _verdict(NONE), "NOTFOUND ", ""),
    ("testing", _verdict(NONE, _policy("mx.example.com", mode="testing")), "NOTFOUND ", ""),
    ("withdrawn", _verdict(NONE, _policy(mode="none")), "NOTFOUND ", ""),
    ("DANE for all", _verdict(ONLY), "OK dane-only", ""),
    ("DANE for some", _verdict(DANE), "OK dane", ""),
    ("DANE beside a policy", _verdict(ONLY, MX), "OK dane-only", ""),
    ("DANE for some beside a policy", _verdict(DANE, MX), "OK dane", ""),
    (
        "policy",
        _verdict(SECURE, MX),
        "OK secure match=mx.example.com servername=hostname",
        f" {ALL} mx_host_pattern=mx.example.com {LINES} {{ policy_string = mx: mx.example.com }} {AGE}",
    ),
    (
        "several hosts and a wildcard",
        _verdict(SECURE, _policy("a.de", "*.b.de")),
        "OK secure match=a.de:.b.de servername=hostname",
        f" {ALL} mx_host_pattern=a.de mx_host_pattern=*.b.de {LINES} {{ policy_string = mx: a.de }} {WILD} {AGE}",
    ),
    (
        "blank lines are no strings",
        _verdict(SECURE, _policy("a.example", lines=("", "x: y", " ", ""))),
        "OK secure match=a.example servername=hostname",
        f" {ALL} mx_host_pattern=a.example {{ policy_string = x: y }}",
    ),
    (
        "what Postfix takes in braces",
        _verdict(SECURE, _policy("a.example", lines=("x: a=b, c:d \\ \" ' # ü €",))),
        "OK secure match=a.example servername=hostname",
        f" {ALL} mx_host_pattern=a.example {{ policy_string = x: a=b, c:d \\ \" ' # ü € }}",
    ),
    (
        "a word of Postfix among hosts",
        _verdict(SECURE, _policy("hostname", "a.de", "nexthop", "*.hostname", lines=())),
        "OK secure match=a.de:.hostname servername=hostname",
        f" {ALL} mx_host_pattern=hostname mx_host_pattern=a.de mx_host_pattern=nexthop mx_host_pattern=*.hostname",
    ),
    (
        "a word of Postfix alone",
        _verdict(SECURE, _policy("dot-nexthop", lines=())),
        "OK secure match=invalid servername=hostname",
        f" {ALL} mx_host_pattern=dot-nexthop",
    ),
]

# id, a line that Postfix would not read, or of which nobody knows what becomes
BREAKING = [
    ("opening brace", "x: {"),
    ("closing brace", "x: }"),
    ("both", "x: {}"),
    ("attribute", "x: y } match=evil.example {"),
    ("NUL", "x: \0"),
    ("line feed", "x: a\nb"),
    ("CR", "x: a\rb"),
    ("tab", "x:\ta"),
    ("escape", "x: \x1b[31m"),
    ("DEL", "x: \x7f"),
    ("C1", "x: \x85"),
]


@pytest.mark.parametrize(("decided", "plain", "more"), [pytest.param(*case[1:], id=case[0]) for case in ANSWERS])
def test_a_verdict_is_told_in_the_words_of_postfix(decided: verdict.Verdict, plain: str, more: str) -> None:
    """What only Postfix 3.10 takes comes on request only; what is not enforced, and findings, not at all."""
    assert postfix.answer(decided, tlsrpt=False).decode() == plain
    assert postfix.answer(decided, tlsrpt=True).decode() == plain + more


def _captured() -> Iterator[ParameterSet]:
    for line in CAPTURES.read_text().splitlines():
        row = json.loads(line)
        told = row["policy_answer"] or ""
        extra = any(word in told for word in ("policy_failure=", "policy_ttl=", "policy_mode="))
        if told.startswith("secure match=") and "mode: enforce" in told and not extra:
            yield pytest.param(told, row["label"].partition("-")[0], id=row["label"])


@pytest.mark.parametrize(("told", "label"), list(_captured()))
def test_an_answer_is_what_real_postfix_was_told(told: str, label: str) -> None:
    """The answers of the captures, that Postfix 3.10 understood, octet by octet."""
    attributes = Told.read(f"OK {told}".encode())
    body = "\r\n".join(attributes.strings)
    policy = mtasts.parse_policy(body.encode())
    decided = _verdict(SECURE, policy, attributes.domain)
    assert attributes.domain.startswith(label)
    assert postfix.answer(decided, tlsrpt=True).decode() == f"OK {told}"
    assert postfix.answer(decided, tlsrpt=False).decode() == f"OK {told.partition(' policy_type')[0]}"


@pytest.mark.parametrize("line", [pytest.param(case[1], id=case[0]) for case in BREAKING])
def test_a_line_that_might_break_the_answer_leaves_all_lines_out(line: str) -> None:
    """Security does not depend on what a stranger writes into his extension fields."""
    policy = _policy("mx.example.com", lines=("version: STSv1", line, "mode: enforce"))
    told = postfix.answer(_verdict(SECURE, policy), tlsrpt=True).decode()
    assert told == f"OK secure match=mx.example.com servername=hostname {ALL} mx_host_pattern=mx.example.com"


def test_lines_that_do_not_fit_are_left_out() -> None:
    """Up to the last octet that Postfix reads."""
    head = len(postfix.answer(_verdict(SECURE, _policy("a.example", lines=())), tlsrpt=True))
    room = postfix.MAX_ANSWER - head - len(" { policy_string =  }")
    fits, over = ("ü" * (room // 2) + "x" * (room % 2)), ("ü" * (room // 2) + "x" * (room % 2 + 1))
    told = postfix.answer(_verdict(SECURE, _policy("a.example", lines=(fits,))), tlsrpt=True)
    assert len(told) == postfix.MAX_ANSWER
    assert len(postfix.answer(_verdict(SECURE, _policy("a.example", lines=(over,))), tlsrpt=True)) == head


def test_the_longest_policy_is_enforced_whatever_does_not_fit() -> None:
    """Each of its hosts is in ``match``; they are many, so patterns and lines are left out."""
    body = b"version:STSv1\nmode:enforce\nmax_age:1\n"
    hosts = [f"{number:x}.a" for number in range((mtasts.MAX_POLICY - len(body)) // len("mx:1000.a\n"))]
    policy = mtasts.parse_policy(body + "".join(f"mx:{host}\n" for host in hosts).encode())
    told = postfix.answer(_verdict(SECURE, policy), tlsrpt=True)
    assert told == f"OK secure match={':'.join(hosts)} servername=hostname {ALL}".encode()


def test_an_answer_in_json_is_the_whole_verdict() -> None:
    """The keys are a contract with custom MTAs."""
    policy = _policy("*.xn--bcher-kva.example", lines=("x: ü", "", 'y: "'))
    decided = _verdict(SECURE, policy, "xn--bcher-kva.example")
    told = postfix.json(decided)
    assert told.startswith(b"OK {")
    assert json.loads(told.removeprefix(b"OK ")) == {
        "domain": "xn--bcher-kva.example",
        "level": "secure",
        "sts": {
            "mode": "enforce",
            "mx": ["*.xn--bcher-kva.example"],
            "max_age": 604800,
            "lines": ["x: ü", "", 'y: "'],
        },
        "policy_id": "id1",
        "finding": {"result_type": "sts-policy-fetch-error", "reason": "http-404"},
        "steps": [{"about": "dane", "text": "First."}, {"about": "dane", "text": "Second."}],
    }


def test_what_is_not_there_is_null_in_json() -> None:
    """All keys are always there."""
    decided = verdict.Verdict("example.com", NONE, None, None, None, ())
    told = postfix.json(decided)
    assert told == b'OK {"domain":"example.com","level":"none","sts":null,"policy_id":null,"finding":null,"steps":[]}'


SHORT, LONG = "Short.", "Long " * 10_000
MANY = tuple(f"{number}.a" for number in range(6000))
ENDLESS = (LONG,) * 200

# id, hosts, lines, steps; hosts, whether lines are there, length of the steps that are left
LONG_ONES: list[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], bool, list[int]]] = [
    ("fits", MANY, (SHORT,), (SHORT,), True, [6]),
    ("lines", ("a",), ('"' * 60_000,), (SHORT,), False, [6]),
    ("steps", ("a",), (SHORT,), (SHORT, LONG, LONG), False, [6, 1001, 1001]),
    ("lines and steps", MANY, MANY, (SHORT, LONG, LONG), False, [6, 1001, 1001]),
    ("too many steps", MANY, MANY, ENDLESS, False, []),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mx", "lines", "steps", "has_lines", "left"), [pytest.param(*case[1:], id=case[0]) for case in LONG_ONES]
)
def test_a_verdict_in_json_fits(
    mx: tuple[str, ...], lines: tuple[str, ...], steps: tuple[str, ...], left: list[int], *, has_lines: bool
) -> None:
    """Lines go first, then steps are shortened, then go, too; what decides is always there."""
    decided = _verdict(SECURE, _policy(*mx, lines=lines))
    decided = dataclasses.replace(decided, steps=tuple(verdict.Step(verdict.About.DANE, step) for step in steps))
    told = postfix.json(decided)
    assert len(told) <= postfix.MAX_ANSWER
    read = json.loads(told.removeprefix(b"OK "))
    assert read["sts"]["mx"] == list(mx)
    assert bool(read["sts"]["lines"]) is has_lines
    assert [len(step["text"]) for step in read["steps"]] == left


@dataclasses.dataclass
class Told:
    """An answer as Postfix reads it (the words of smtp_tls_policy_maps in postconf(5), and captures)."""

    level: str
    attributes: list[tuple[str, str]]

    @classmethod
    def read(cls, octets: bytes) -> "Told":
        """Read an answer; fail where Postfix would refuse it, and defer the mail."""
        assert len(octets) <= 100_000
        status, _, text = octets.decode("utf-8").partition(" ")
        assert status == "OK"
        level, *tokens = _tokens(text)
        assert level in {"dane-only", "dane", "secure"}
        return cls(level, [_name_and_value(token) for token in tokens])

    def all(self, name: str) -> list[str]:
        """Return the values of an attribute."""
        return [value for key, value in self.attributes if key == name]

    @property
    def strings(self) -> list[str]:
        """The policy strings."""
        return self.all("policy_string")

    @property
    def domain(self) -> str:
        """The policy domain."""
        (domain,) = self.all("policy_domain")
        return domain


SEPARATORS = ", \t\r\n"


def _tokens(text: str) -> Iterator[str]:
    """Yield what stands between separators; within braces, which must balance, there are none."""
    token, depth = "", 0
    for character in text:
        if depth == 0 and character in SEPARATORS:
            if token:
                yield token
            token = ""
            continue
        depth += (character == "{") - (character == "}" and depth > 0)
        token += character
    assert depth == 0
    if token:
        yield token


def _name_and_value(token: str) -> tuple[str, str]:
    if token.startswith("{"):
        assert token.find("}") == len(token) - 1, "something after the brace, or braces within"
        token = token[1:-1]
    name, equals, value = (part.strip(" \t") for part in token.partition("="))
    assert name
    assert equals
    return name, value


LABELS = st.from_regex(r"\A[a-z0-9]{1,8}\Z") | st.sampled_from(["hostname", "nexthop", "dot-nexthop", "*"])
HOSTS = st.tuples(st.booleans(), st.lists(LABELS.filter("*".__ne__), min_size=1, max_size=4)).map(
    lambda pair: ("*." if pair[0] else "") + ".".join(pair[1])
)
TEXTS = st.text() | st.sampled_from(["{", "}", "x } match=evil.example {", "=", ",", " ", "\n", "policy_string"])
POLICIES = st.builds(
    mtasts.Policy,
    st.sampled_from(mtasts.Mode),
    st.lists(HOSTS, min_size=1, max_size=20).map(tuple),
    st.integers(0, mtasts.MAX_AGE),
    st.lists(TEXTS, max_size=20).map(tuple),
)
FINDINGS = st.builds(verdict.Finding, st.sampled_from(verdict.FindingType), st.text())
STEPS = st.lists(st.text(), max_size=5).map(tuple)
VERDICTS = st.builds(
    verdict.decide,
    st.just("example.com") | st.from_regex(r"\A[a-z0-9]{1,9}\.[a-z]{2,9}\Z"),
    st.builds(verdict.Dane, st.sampled_from([ONLY, DANE, None, None]), STEPS, st.none() | st.text(min_size=1)),
    st.builds(verdict.Sts, st.none() | POLICIES, st.none() | st.text(), st.none() | FINDINGS, STEPS),
)
HUGE = _policy(*(f"{number}.example" for number in range(5000)), lines=("x: " + "ü" * 40_000,))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(VERDICTS)
@example(_verdict(SECURE, HUGE))
@example(_verdict(SECURE, _policy("hostname", lines=("{", "}"))))
def test_any_verdict_gives_an_answer_that_postfix_reads(decided: verdict.Verdict) -> None:
    """Level and hosts are those of the verdict, lines are whole or absent, and nobody smuggles an attribute in."""
    for tlsrpt in (False, True):
        octets = postfix.answer(decided, tlsrpt=tlsrpt)
        if decided.level is NONE:
            assert octets == b"NOTFOUND "
            continue
        told = Told.read(octets)
        assert told.level == decided.level
        if decided.level is not SECURE:
            assert told.attributes == []
            continue
        assert decided.sts is not None
        names = {name for name, _ in told.attributes}
        assert names <= (OLD_ATTRIBUTES | NEW_ATTRIBUTES if tlsrpt else OLD_ATTRIBUTES)
        assert told.all("servername") == ["hostname"]
        _check_match(told, decided.sts)
        if tlsrpt:
            _check_report(told, decided)


def _check_match(told: Told, policy: mtasts.Policy) -> None:
    (match,) = told.all("match")
    words = {"hostname", "nexthop", "dot-nexthop"}
    hosts = ["*" + host if host.startswith(".") else host for host in match.split(":")]
    assert hosts == ([host for host in policy.mx if host not in words] or ["invalid"])


def _check_report(told: Told, decided: verdict.Verdict) -> None:
    assert decided.sts is not None
    assert told.all("policy_type") == ["sts"]
    assert told.domain == decided.domain
    assert told.all("mx_host_pattern") in ([], list(decided.sts.mx))
    lines = [line.strip(" \t") for line in decided.sts.lines if line.strip()]
    assert told.strings in ([], lines)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(VERDICTS)
@example(_verdict(SECURE, HUGE))
def test_any_verdict_gives_json_that_fits(decided: verdict.Verdict) -> None:
    """It parses, and says at least what is to be done."""
    told = postfix.json(decided)
    assert len(told) <= postfix.MAX_ANSWER
    read = json.loads(told.removeprefix(b"OK "))
    assert (read["domain"], read["level"]) == (decided.domain, decided.level)
    assert (read["sts"] and read["sts"]["mx"]) == (decided.sts and list(decided.sts.mx))
