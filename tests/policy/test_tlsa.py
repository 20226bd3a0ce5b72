"""TLSA records as SMTP uses them (RFC 7672, RFC 7671)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy import tlsa

# id, usage, selector, matching type, octets, whether it is usable
RECORDS: list[tuple[str, int, int, int, int, bool]] = [
    ("DANE-EE SPKI SHA2-256", 3, 1, 1, 32, True),
    ("DANE-EE SPKI SHA2-512", 3, 1, 2, 64, True),
    ("DANE-EE Cert SHA2-256", 3, 0, 1, 32, True),
    ("DANE-EE Cert Full", 3, 0, 0, 900, True),
    ("DANE-EE SPKI Full", 3, 1, 0, 91, True),
    ("DANE-TA Cert SHA2-256", 2, 0, 1, 32, True),
    ("DANE-TA SPKI SHA2-512", 2, 1, 2, 64, True),
    ("DANE-TA Cert Full", 2, 0, 0, 1, True),
    ("PKIX-TA", 0, 0, 1, 32, False),
    ("PKIX-EE", 1, 1, 1, 32, False),
    ("unknown usage", 4, 1, 1, 32, False),
    ("private usage", 255, 1, 1, 32, False),
    ("unknown selector", 3, 2, 1, 32, False),
    ("private selector", 3, 255, 1, 32, False),
    ("unknown matching type", 3, 1, 3, 32, False),
    ("private matching type", 3, 1, 255, 32, False),
    ("SHA2-256 too short", 3, 1, 1, 31, False),
    ("SHA2-256 too long", 3, 1, 1, 33, False),
    ("SHA2-256 of the length of SHA2-512", 3, 1, 1, 64, False),
    ("SHA2-512 too short", 3, 1, 2, 63, False),
    ("SHA2-512 of the length of SHA2-256", 3, 1, 2, 32, False),
    ("empty digest", 3, 1, 1, 0, False),
    ("empty, Full", 3, 0, 0, 0, False),
    ("empty, unknown matching type", 3, 1, 9, 0, False),
]

# id, host, where its CNAMEs lead, base domains
NAMES: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("no alias", "mx.example.com", "mx.example.com", ("mx.example.com",)),
    ("alias", "mx.example.com", "host.example.net", ("host.example.net", "mx.example.com")),
]


@pytest.mark.parametrize(
    ("usage", "selector", "matching_type", "length", "usable"),
    [pytest.param(*case[1:], id=case[0]) for case in RECORDS],
)
def test_a_record_is_usable_or_not(usage: int, selector: int, matching_type: int, length: int, *, usable: bool) -> None:
    """RFC 7672 section 3.1: usages 2 and 3; parameters we know, data that can match."""
    assert tlsa.usable(tlsa.Record(usage, selector, matching_type, b"\xab" * length)) is usable


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=70))
def test_any_record_is_judged(usage: int, selector: int, matching_type: int, data: bytes) -> None:
    """No numbers and no data are too odd; none that is not for SMTP is usable."""
    usable = tlsa.usable(tlsa.Record(usage, selector, matching_type, data))
    assert not usable or (usage in {2, 3} and selector in {0, 1} and matching_type in {0, 1, 2} and data)


@pytest.mark.parametrize(("host", "expanded", "names"), [pytest.param(*case[1:], id=case[0]) for case in NAMES])
def test_the_expanded_name_is_the_first_base_domain(host: str, expanded: str, names: tuple[str, ...]) -> None:
    """RFC 7672 section 2.2.2: the name its CNAMEs lead to, then the name itself."""
    assert tlsa.base_names(host, expanded) == names


def test_records_are_asked_for_below_port_and_protocol() -> None:
    """RFC 7672 section 2.2.3."""
    assert tlsa.query_name("mx.example.com") == "_25._tcp.mx.example.com"
