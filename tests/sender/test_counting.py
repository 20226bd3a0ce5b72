"""From datagrams to counts: distinct bytes first, bounded detail, nothing lost."""

import collections
import itertools

from sender import counting
from sender.session import Failure, Policy, PolicyType, ResultType

STS = b'{"d":"%b","pr":"v=TLSRPTv1;rua=mailto:r@a.example","policies":[{"policy-type":2,"t":0,"f":0}]}'


def test_equal_datagrams_are_counted_and_distinct_ones_kept_apart() -> None:
    """Three equal and one other: four sessions of two domains."""
    counts = counting.count({STS % b"a.example": 3, STS % b"B.example": 1})
    assert {name: domain.successful for name, domain in counts.domains.items()} == {"a.example": 3, "b.example": 1}
    assert counts.domains["a.example"].record == "v=TLSRPTv1;rua=mailto:r@a.example"


def test_different_spellings_of_a_domain_are_one() -> None:
    """Names are compared as A-labels in lower case."""
    counts = counting.count({STS % "bücher.example".encode(): 1, STS % b"XN--BCHER-KVA.example.": 1})
    assert [(name, domain.successful) for name, domain in counts.domains.items()] == [("xn--bcher-kva.example", 2)]


def test_malformed_datagrams_stop_nothing_and_are_counted_once_each() -> None:
    """What cannot be read is set aside with its reason and its number."""
    counts = counting.count(collections.Counter([b"\xff", STS % b"a.example", b"\xff", b"{}"]))
    assert counts.domains["a.example"].successful == 1
    assert sorted((raw, times) for raw, _, times in counts.malformed) == [(b"{}", 1), (b"\xff", 2)]


def _policy(number: int) -> Policy:
    return Policy(PolicyType.STS, "a.example", (f"version: {number}",))


def _counts(policies: int = 1, failures: int = 0) -> counting.DomainCounts:
    counts = counting.DomainCounts(record="v=TLSRPTv1;")
    for number in range(policies):
        numbers = counts.policies[_policy(number)] = counting.PolicyCounts(successful=1, failed=failures)
        for failure in range(failures):
            numbers.failures[Failure(ResultType.VALIDATION_FAILURE, failure_reason_code=str(failure))] = 1
    return counts


def test_a_domain_with_ever_new_policies_is_bounded_and_no_session_is_lost() -> None:
    """Beyond the bound sessions are counted under a policy without particulars, whatever the store has already."""
    counts = _counts(policies=counting.MAX_POLICIES * 2)
    known = {counting.key(_policy(number)) for number in range(10)}
    bounded = counting.bound_policies("a.example", counts, known)
    kept = {counting.key(policy) for policy in bounded.policies} | known
    assert len(kept) == counting.MAX_POLICIES + 1
    assert bounded.successful == counts.successful
    assert bounded.policies[Policy(PolicyType.STS, "a.example")].successful == counting.MAX_POLICIES
    assert bounded.record == counts.record


def test_a_hostile_server_cannot_fill_the_store_with_failure_details() -> None:
    """Beyond the bound failures are counted under one of their result type."""
    counts = _counts(policies=2, failures=counting.MAX_FAILURES)
    bounded = counting.bound_failures(counts, set())
    sums = [numbers.failures.total() for numbers in bounded.policies.values()]
    assert sums == [counting.MAX_FAILURES] * 2
    distinct = sum(len(numbers.failures) for numbers in bounded.policies.values())
    assert distinct == counting.MAX_FAILURES + 1
    assert bounded.policies[_policy(1)].failures == {Failure(ResultType.VALIDATION_FAILURE): counting.MAX_FAILURES}


def test_known_failures_are_counted_where_they_are_and_new_ones_find_no_room() -> None:
    """What the store has already takes the room, and keeps being counted in particular."""
    counts = _counts(failures=3)
    policy = counting.key(_policy(0))
    known = {(policy, str(number)) for number in range(counting.MAX_FAILURES - 1)}
    known.add((policy, counting.key(Failure(ResultType.VALIDATION_FAILURE, failure_reason_code="2"))))
    bounded = counting.bound_failures(counts, known).policies[_policy(0)].failures
    assert bounded == {
        Failure(ResultType.VALIDATION_FAILURE): 2,
        Failure(ResultType.VALIDATION_FAILURE, failure_reason_code="2"): 1,
    }


def test_keys_tell_values_apart() -> None:
    """Values that differ in one field, or have the same text in another field, have different keys."""
    values: list[Policy | Failure] = [
        Failure(ResultType.VALIDATION_FAILURE),
        Failure(ResultType.VALIDATION_FAILURE, receiving_mx_hostname="a.example"),
        Failure(ResultType.VALIDATION_FAILURE, receiving_mx_helo="a.example"),
        Policy(PolicyType.STS, "a.example"),
        Policy(PolicyType.STS, "a.example", ("a", "b")),
        Policy(PolicyType.STS, "a.example", ("a",), ("b",)),
    ]
    assert all(counting.key(one) != counting.key(other) for one, other in itertools.combinations(values, 2))
    assert counting.key(Policy(PolicyType.STS, "a.example")) == counting.key(values[3])
