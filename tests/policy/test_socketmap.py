"""The socketmap protocol: requests however they are cut, lengths that lie, keys of all kinds."""

import itertools
import operator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policy import socketmap

LONGEST = b"QUERY " + b"a" * 506

# id, octets, requests
STREAMS: list[tuple[str, bytes, list[tuple[bytes, bytes]]]] = [
    ("nothing", b"", []),
    ("one", b"17:QUERY example.com,", [(b"QUERY", b"example.com")]),
    ("two", b"17:QUERY example.com,9:JSON a.de,", [(b"QUERY", b"example.com"), (b"JSON", b"a.de")]),
    ("empty", b"0:,", [(b"", b"")]),
    ("empty key", b"6:QUERY ,", [(b"QUERY", b"")]),
    ("no space", b"5:QUERY,", [(b"QUERY", b"")]),
    ("several spaces", b"9:QUERY  a ,", [(b"QUERY", b" a ")]),
    ("any octets", b"9:Q \xff\0,:\r\n1,", [(b"Q", b"\xff\0,:\r\n1")]),
    ("a netstring in it", b"11:QUERY 3:a,,,", [(b"QUERY", b"3:a,,")]),
    ("longest", b"512:%b,1:a," % LONGEST, [(b"QUERY", b"a" * 506), (b"a", b"")]),
    ("incomplete", b"17:QUERY example.com,17:QUERY exam", [(b"QUERY", b"example.com")]),
    ("comma missing yet", b"17:QUERY example.com", []),
    ("colon missing yet", b"512", []),
    ("length missing yet", b"5", []),
    ("longest, incomplete", b"512:%b" % LONGEST, []),
]

# id, octets: all but the last are well so far, the last is one too many
WRONG: list[tuple[str, bytes]] = [
    ("letter", b"G"),
    ("line feed", b"\n"),
    ("space", b" "),
    ("minus", b"-"),
    ("plus", b"+"),
    ("NUL", b"\0"),
    ("comma", b","),
    ("digit of Latin-1", b"\xb2"),
    ("letter after a digit", b"1x"),
    ("space after a digit", b"1 "),
    ("no length", b":"),
    ("leading zero", b"00"),
    ("leading zero before the right length", b"05"),
    ("one too long", b"513"),
    ("much too long", b"999"),
    ("a gigabyte", b"1000"),
    ("five digits", b"5120"),
    ("other end", b"5:QUERY;"),
    ("longer than announced", b"5:QUERYw"),
    ("end of a line", b"5:QUERY\n"),
    ("no comma after nothing", b"0:x"),
    ("second one", b"5:QUERY,5:QUERY;"),
]  # fmt: skip


def _parsed(netstrings: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the requests in netstrings that a reader gave."""
    parsed = [socketmap.request(netstring) for netstring in netstrings]
    assert [_netstring(socketmap.text(netstring)) for netstring in netstrings] == netstrings
    return [request for request in parsed if request is not None]


def _read(reader: socketmap.Reader, octets: bytes) -> list[tuple[bytes, bytes]]:
    return _parsed(reader.feed(octets))


def _read_all(pieces: list[bytes]) -> tuple[list[tuple[bytes, bytes]], str | None]:
    """Return the requests in all pieces together, and the error that ended them."""
    reader = socketmap.Reader()
    requests = []
    try:
        for piece in pieces:
            requests += _read(reader, piece)
    except socketmap.ProtocolError as error:
        return requests + _parsed(error.before), str(error)
    return requests, None


def _singly(octets: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in octets]


@pytest.mark.parametrize(("octets", "requests"), [pytest.param(*case[1:], id=case[0]) for case in STREAMS])
def test_requests_are_read_however_they_are_cut(octets: bytes, requests: list[tuple[bytes, bytes]]) -> None:
    """Whole, octet by octet, and cut in two anywhere."""
    assert _read_all([octets]) == (requests, None)
    assert _read_all(_singly(octets)) == (requests, None)
    for place in range(len(octets)):
        assert _read_all([octets[:place], octets[place:]]) == (requests, None)


@pytest.mark.parametrize(("octets", "requests"), [pytest.param(*case[1:], id=case[0]) for case in STREAMS])
def test_only_one_whole_request_is_a_request(octets: bytes, requests: list[tuple[bytes, bytes]]) -> None:
    """Neither a part of one, nor several, nor one and a part."""
    whole = len(requests) == 1 and octets.endswith(b",") and _read_all([octets[:-1]])[0] == []
    assert socketmap.request(octets) == (requests[0] if whole else None)


@pytest.mark.parametrize("octets", [pytest.param(case[1], id=case[0]) for case in WRONG])
def test_nonsense_is_no_request(octets: bytes) -> None:
    """Whatever follows."""
    assert socketmap.request(octets) is None
    assert socketmap.request(octets + b",") is None


@pytest.mark.parametrize("octets", [pytest.param(case[1], id=case[0]) for case in WRONG])
def test_nonsense_is_refused_at_its_first_wrong_octet(octets: bytes) -> None:
    """No more is waited for, let alone kept."""
    assert _read_all([octets[:-1]])[1] is None
    requests, error = _read_all([octets])
    assert error is not None
    assert error.isprintable()
    assert _read_all(_singly(octets)) == (requests, error)
    assert requests == [(b"QUERY", b"")] * octets.count(b"QUERY,")


def test_requests_before_nonsense_are_given() -> None:
    """A client that goes wrong gets the answers to what was right; nothing comes after the error."""
    reader = socketmap.Reader()
    with pytest.raises(socketmap.ProtocolError, match="no comma") as caught:
        reader.feed(b"9:JSON a.de,3:a,5:QUERY,")
    assert caught.value.before == [b"9:JSON a.de,"]
    with pytest.raises(socketmap.ProtocolError, match="no comma") as caught:
        reader.feed(b"5:QUERY,")
    assert caught.value.before == []


def _netstring(payload: bytes) -> bytes:
    return b"%d:%b," % (len(payload), payload)


PAYLOADS = st.lists(st.binary(max_size=socketmap.MAX_REQUEST), max_size=5)
GOOD = PAYLOADS.map(lambda payloads: b"".join(map(_netstring, payloads)))
DIGITS = st.lists(st.sampled_from(b"0123456789:,a\xff"), max_size=30).map(bytes)


@given(PAYLOADS, st.lists(st.integers(min_value=0), max_size=8))
def test_any_payloads_come_out_as_they_went_in(payloads: list[bytes], cuts: list[int]) -> None:
    """Whatever octets they have, wherever the stream is cut."""
    octets = b"".join(map(_netstring, payloads))
    places = sorted({0, len(octets), *(cut % (len(octets) + 1) for cut in cuts)})
    pieces = [octets[start:end] for start, end in itertools.pairwise(places)]
    requests, error = _read_all(pieces)
    assert error is None
    assert requests == [(name, key) for name, _, key in (payload.partition(b" ") for payload in payloads)]


@given(st.one_of(st.binary(), DIGITS, st.builds(operator.add, GOOD, DIGITS)))
@example(b"512:" + b"a" * 513)
@example(b"600")
def test_any_octets_mean_the_same_whole_and_octet_by_octet(octets: bytes) -> None:
    """Requests, then perhaps a ProtocolError: the cuts make no difference, but for its words."""
    (whole, error), (single, same_error) = _read_all([octets]), _read_all(_singly(octets))
    assert (whole, bool(error)) == (single, bool(same_error))


@given(st.binary(min_size=1), st.integers(1, 2000))
@example(b"512:aaaaaaaaaaaa", 2000)
def test_a_reader_holds_less_than_one_request(piece: bytes, times: int) -> None:
    """However much is fed without an end."""
    reader = socketmap.Reader()
    try:
        for _ in range(times):
            _read(reader, piece)
            assert len(reader.rest) <= len(b"512:") + socketmap.MAX_REQUEST
    except socketmap.ProtocolError:
        pass


# id, text of the answer, as sent
REPLIES = [
    ("not found", b"NOTFOUND ", b"9:NOTFOUND ,"),
    ("dane", b"OK dane", b"7:OK dane,"),
    ("octets, not characters", "OK ü".encode(), b"5:OK \xc3\xbc,"),
    ("empty", b"", b"0:,"),
]


@pytest.mark.parametrize(("text", "sent"), [pytest.param(*case[1:], id=case[0]) for case in REPLIES])
def test_an_answer_is_a_netstring(text: bytes, sent: bytes) -> None:
    """With its length in octets."""
    assert socketmap.reply(text) == sent


# id, key, domain
KEYS: list[tuple[str, str, str | None]] = [
    ("domain", "example.com", "example.com"),
    ("upper case", "Example.COM", "example.com"),
    ("subdomain", "a.b.example.com", "a.b.example.com"),
    ("U-labels", "bücher.example", "xn--bcher-kva.example"),
    ("A-labels", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("final dot", "example.com.", "example.com"),
    ("underscore", "a_b.example.com", "a_b.example.com"),
    ("digits", "4.example", "4.example"),
    ("port 25", "example.com:25", "example.com"),
    ("port smtp", "example.com:smtp", "example.com"),
    ("U-labels and port", "bücher.example:25", "xn--bcher-kva.example"),
    ("other port", "example.com:587", None),
    ("other service", "example.com:submission", None),
    ("port of the same digits", "example.com:025", None),
    ("port of another script", "example.com:\u0662\u0665", None),
    ("no port after the colon", "example.com:", None),
    ("port and more", "example.com:25:25", None),
    ("port alone", ":25", None),
    ("parent", ".example.com", None),
    ("top-level parent", ".com", None),
    ("host in brackets", "[mx.example.com]", None),
    ("host in brackets, port", "[mx.example.com]:25", None),
    ("IPv4 in brackets", "[192.0.2.1]", None),
    ("IPv6 in brackets", "[IPv6:2001:db8::1]:25", None),
    ("IPv4", "192.0.2.1", None),
    ("IPv4, port", "192.0.2.1:25", None),
    ("IPv4, short", "127.1", None),
    ("IPv4 of another script", "\u0661.\u0661", None),
    ("IPv6", "2001:db8::1", None),
    ("IPv6 ending like a port", "2001:db8::25", None),
    ("IPv6 that looks like host and port", "::25", None),
    ("no dot", "localhost", None),
    ("no dot but the final one", "com.", None),
    ("path", "/var/run/socket", None),
    ("Unix socket", "unix:/var/run/socket", None),
    ("address", "user@example.com", None),
    ("wildcard", "*.example.com", None),
    ("empty", "", None),
    ("dot", ".", None),
    ("star", "*", None),
    ("space", "example.com ", None),
    ("line feed", "example.com\n", None),
    ("NUL", "example.com\0", None),
    ("too long", "a." * 130 + "com", None),
]


@pytest.mark.parametrize(("text", "domain"), [pytest.param(*case[1:], id=case[0]) for case in KEYS])
def test_a_key_is_a_domain_or_is_not_looked_up(text: str, domain: str | None) -> None:
    """Policies are about the MX hosts of a domain, at port 25."""
    assert socketmap.key(text.encode()) == (domain and socketmap.Domain(domain))


def test_a_key_that_is_not_utf_8_is_not_looked_up() -> None:
    """Postfix sends UTF-8; whoever sends else gets an answer, too."""
    assert socketmap.key("bücher.example".encode("latin-1")) is None


@given(st.one_of(st.binary(), st.text().map(str.encode), st.from_regex(rb"\A[a-z0-9.:\[\]\-]{1,20}\Z")))
def test_any_key_gets_an_answer(octets: bytes) -> None:
    """And one that is looked up is a name that can be asked for."""
    domain = socketmap.key(octets)
    if domain is not None:
        assert domain.a_label.isascii()
        assert "." in domain.a_label.strip(".")
        assert socketmap.key(domain.a_label.encode()) == domain


def test_a_reader_tells_whether_a_request_is_unfinished() -> None:
    """Also where the last octet so far is a comma."""
    reader = socketmap.Reader()
    for octets, unfinished in ((b"", False), (b"7:QUERY ,", True), (b",", False), (b"1:a,2", True), (b":bc,", False)):
        reader.feed(octets)
        assert bool(reader.rest) is unfinished
