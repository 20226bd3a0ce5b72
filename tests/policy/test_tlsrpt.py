"""TLSRPT records as domains publish them (RFC 8460 section 3): the right ones, the sloppy ones, the hostile ones."""

import re
import string
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policy import tlsrpt

V = "v=TLSRPTv1;"
MAIL = "mailto:reports@example.com"
WEB = "https://reporting.example.com/v1/tlsrpt"

# id, record, its targets in order
RECORDS = [
    ("RFC 8460 section 3.1.1", "v=TLSRPTv1;rua=mailto:reports@example.com", ["reports@example.com"]),
    ("RFC 8460 section 3.1.2", "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt", [WEB]),
    ("two destinations", f"{V} rua={MAIL},{WEB}", ["reports@example.com", WEB]),
    ("white space around the comma", f"{V} rua={MAIL} ,\t{WEB}", ["reports@example.com", WEB]),
    ("trailing semicolon", f"{V} rua={MAIL};", ["reports@example.com"]),
    ("trailing semicolon and space", f"{V} rua={MAIL} ; ", ["reports@example.com"]),
    ("white space before a semicolon", f"v=TLSRPTv1 \t; rua={MAIL}\t;", ["reports@example.com"]),
    ("empty fields", f"{V};; rua={MAIL};;", ["reports@example.com"]),
    ("white space around the equals sign", f"{V} rua = {MAIL}", ["reports@example.com"]),
    ("extension before", f"{V} ext=1; rua={MAIL}", ["reports@example.com"]),
    ("extension after", f"{V} rua={MAIL}; e_x-t.1=a:b,c", ["reports@example.com"]),
    ("extension with characters of a later version", f"{V} ext=a = b \xff; rua={MAIL}", ["reports@example.com"]),
    ("extension without value", f"{V} ext=; rua={MAIL}", ["reports@example.com"]),
    ("extension named like rua", f"{V} RUA={MAIL}", []),
    ("two rua fields", f"{V} rua={MAIL}; rua={WEB}", ["reports@example.com", WEB]),
    ("no field at all", V, []),
    ("no rua", f"{V} ext=1", []),
    ("empty rua", f"{V} rua=", []),
    ("only commas", f"{V} rua= , ,", []),
    ("empty destination", f"{V} rua={MAIL},,", ["reports@example.com"]),
    ("the same twice", f"{V} rua={MAIL},{WEB},{MAIL}", ["reports@example.com", WEB]),
    ("the same target spelt twice", f"{V} rua={MAIL},MAILTO:reports@EXAMPLE.com?cc=x", ["reports@example.com"]),
    ("unknown scheme beside a known one", f"{V} rua=ftp://example.com/x,{MAIL}", ["reports@example.com"]),
    ("unusable beside usable", f"{V} rua=mailto:x,{MAIL}", ["reports@example.com"]),
]

# id, record, text of the error
INVALID = [
    ("empty", "", "does not begin with v=TLSRPTv1;"),
    ("version alone", "v=TLSRPTv1", "does not begin with v=TLSRPTv1;"),
    ("version in lower case", f"v=tlsrptv1; rua={MAIL}", "does not begin with v=TLSRPTv1;"),
    ("version key in upper case", f"V=TLSRPTv1; rua={MAIL}", "does not begin with v=TLSRPTv1;"),
    ("other version", f"v=TLSRPTv2; rua={MAIL}", "does not begin with v=TLSRPTv1;"),
    ("longer version", f"v=TLSRPTv10; rua={MAIL}", "does not begin with v=TLSRPTv1;"),
    ("version not first", f"rua={MAIL}; v=TLSRPTv1;", "does not begin with v=TLSRPTv1;"),
    ("white space first", f" {V} rua={MAIL}", "does not begin with v=TLSRPTv1;"),
    ("space for a semicolon", f"v=TLSRPTv1 rua={MAIL}", "does not begin with v=TLSRPTv1;"),
    ("rua forgotten", f"{V} {MAIL}", "a field that is not name=value: 'mailto:reports@example.com'"),
    ("semicolon for a comma", f"{V} rua={MAIL};{WEB}", f"a field that is not name=value: '{WEB}'"),
    ("no name", f"{V} ={MAIL}", "a field that is not name=value: '=mailto:reports@example.com'"),
    ("name too long", f"{V} {'x' * 33}=1", "a field that is not name=value: 'xxx"),
    ("controls in a field", f"{V} a\r\nb", "a field that is not name=value: 'a\\r\\nb'"),
    ("longer than the limit", f"{V} ext={'x' * 4096}; rua={MAIL}", "longer than 4096 characters"),
]

# id, URI as published, its target
USABLE = [
    ("address", "mailto:tls@example.com", "tls@example.com"),
    ("case of the local part is kept", "mailto:TLS@Example.COM", "TLS@example.com"),
    ("scheme in upper case", "MAILTO:tls@example.com", "tls@example.com"),
    ("percent-encoded", "mailto:tls%21reports%40example.com", "tls!reports@example.com"),
    ("plus and dots", "mailto:tls+a.b-c_d@example.com", "tls+a.b-c_d@example.com"),
    ("final dot", "mailto:tls@example.com.", "tls@example.com"),
    ("encoded U-label", "mailto:tls@b%C3%BCcher.example", "tls@xn--bcher-kva.example"),
    ("header fields are cut", "mailto:tls@example.com?subject=x&bcc=b@example.com", "tls@example.com"),
    ("fragment is cut", "mailto:tls@example.com#x", "tls@example.com"),
    ("local part of 64", f"mailto:{'a' * 64}@example.com", f"{'a' * 64}@example.com"),
    ("URL", "https://example.com/tlsrpt?a=b&c=%2C", "https://example.com/tlsrpt?a=b&c=%2C"),
    ("scheme and host in upper case", "HTTPS://EXAMPLE.com/Path", "https://example.com/Path"),
    ("no path", "https://example.com", "https://example.com/"),
    ("query without path", "https://example.com?q", "https://example.com/?q"),
    ("default port", "https://example.com:443/", "https://example.com/"),
    ("empty port", "https://example.com:/x", "https://example.com/x"),
    ("port", "https://example.com:8443/", "https://example.com:8443/"),
    ("fragment", "https://example.com/x#y", "https://example.com/x"),
    ("encoded path is kept", "https://example.com/a%2Fb%3B", "https://example.com/a%2Fb%3B"),
    ("two slashes in the path", "https://example.com//x", "https://example.com//x"),
    ("IPv4", "https://192.0.2.1/x", "https://192.0.2.1/x"),
    ("IPv6", "https://[2001:DB8:0::1]:8443/x", "https://[2001:db8::1]:8443/x"),
]

# id, URI as published, part of the reason
UNUSABLE = [
    ("http", "http://example.com/", "only mailto: and https: are supported"),
    ("bare address", "tls@example.com", "no scheme"),
    ("bare host", "example.com", "no scheme"),
    ("mailto with slashes", "mailto://tls@example.com", "without //"),
    ("encoded comma", "mailto:a@example.com%2Cb@example.com", "more than one address"),
    ("encoded line feed", "mailto:tls@example.com%0ABcc:x@example.net", "plain ASCII"),
    ("encoded CRLF in the local part", "mailto:a%0D%0Ab@example.com", "plain ASCII"),
    ("encoded NUL", "mailto:a%00@example.com", "plain ASCII"),
    ("encoded space", "mailto:a%20b@example.com", "plain ASCII"),
    ("encoded quotes", "mailto:%22a%20b%22@example.com", "plain ASCII"),
    ("encoded angle brackets", "mailto:%3Ca@example.com%3E", "plain ASCII|not a domain"),
    ("encoded colon", "mailto:group:a@example.com", "plain ASCII"),
    ("encoded twice", "mailto:a%2540example.com", "plain ASCII"),
    ("not UTF-8", "mailto:%FF@example.com", "not UTF-8"),
    ("local part beyond ASCII", "mailto:t%C3%BC@example.com", "plain ASCII"),
    ("local part of 65", f"mailto:{'a' * 65}@example.com", "plain ASCII"),
    ("two dots", "mailto:a..b@example.com", "plain ASCII"),
    ("two at signs", "mailto:a@b@example.com", "plain ASCII"),
    ("no local part", "mailto:@example.com", "plain ASCII"),
    ("no domain", "mailto:tls", "plain ASCII"),
    ("empty domain", "mailto:tls@", "not a domain"),
    ("empty", "mailto:", "plain ASCII"),
    ("this very host", "mailto:root@localhost", "not the address of a domain"),
    ("address literal", "mailto:tls@[192.0.2.1]", "not a domain"),
    ("bare IP address", "mailto:tls@192.0.2.1", "not the address of a domain"),
    ("DMARC's size limit", "mailto:tls@example.com!10m", "not a domain"),
    ("address too long", f"mailto:{'a' * 64}@{'b' * 63}.{'c' * 63}.{'d' * 63}.example", "longer than 254"),
    ("broken encoding in an address", "mailto:a%zz@example.com", "percent-encod"),
    ("raw UTF-8", "mailto:t\xc3\xbc@example.com", "percent-encod"),
    ("raw space", "mailto:a b@example.com", "percent-encod"),
    ("raw control", "mailto:a\r\nb@example.com", "percent-encod"),
    ("trailing line feed", "https://example.com/\n", "percent-encod"),
    ("backslash", "https://example.com\\@example.net/", "percent-encod"),
    ("user in the URL", "https://a@example.com/", "user name or password"),
    ("password in the URL", "https://a:b@example.com/", "user name or password"),
    ("no host", "https:///x", "no host"),
    ("no slashes", "https:example.com", "no host"),
    ("only a port", "https://:443/", "not a host and port"),
    ("port 0", "https://example.com:0/", "not a port"),
    ("port beyond 65535", "https://example.com:65536/", "not a port"),
    ("port with letters", "https://example.com:x/", "not a host and port"),
    ("port with a sign", "https://example.com:+443/", "not a host and port"),
    ("host with a hyphen first", "https://-a.example/", "not a domain"),
    ("encoded host", "https://ex%61mple.com/", "not a domain"),
    ("short IPv4", "https://127.1/", "not an IP address"),
    ("IPv4 in one number", "https://2130706433/", "not an IP address"),
    ("hexadecimal IPv4", "https://0x7f.0.0.0x1/", "not an IP address"),
    ("IPv4 in brackets", "https://[192.0.2.1]/", "not an IP address|not a URL"),
    ("unclosed bracket", "https://[::1/", "not a URL"),
    ("text after the bracket", "https://[::1]x/", "not a URL|not a host"),
    ("IPv6 with zone", "https://[fe80::1%25eth0]/", "not a URL|not a host"),
    ("broken IPv6", "https://[1:2]/", "not an IP address|not a URL"),
    ("URL too long", "https://example.com/" + "x" * 2000, "longer than 2000"),
]


@pytest.mark.parametrize(("text", "targets"), [pytest.param(*case[1:], id=case[0]) for case in RECORDS])
def test_records_give_their_targets_in_order(text: str, targets: list[str]) -> None:
    """The grammar of the RFC with the leniency its receivers have, too."""
    record = tlsrpt.parse_record(text)
    assert [rua.target for rua in record.rua] == targets
    assert record.text == text


@pytest.mark.parametrize(("text", "reason"), [pytest.param(*case[1:], id=case[0]) for case in INVALID])
def test_what_is_no_record_says_why(text: str, reason: str) -> None:
    """The reason is for the postmaster of that domain."""
    with pytest.raises(tlsrpt.InvalidRecordError, match=re.escape(reason)) as caught:
        tlsrpt.parse_record(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("uri", "target"), [pytest.param(*case[1:], id=case[0]) for case in USABLE])
def test_usable_uris_are_normalised(uri: str, target: str) -> None:
    """The URI stays as published, the target has one spelling, which is its own normal form."""
    scheme = tlsrpt.Scheme(uri.partition(":")[0].lower())
    record = tlsrpt.parse_record(f"{V} rua= {uri}")
    assert record == tlsrpt.Record(record.text, (tlsrpt.Rua(uri, scheme, target),), ())


@pytest.mark.parametrize(("uri", "reason"), [pytest.param(*case[1:], id=case[0]) for case in UNUSABLE])
def test_unusable_uris_are_kept_with_a_reason(uri: str, reason: str) -> None:
    """Nothing is sent there, and the operator can see why."""
    record = tlsrpt.parse_record(f"{V} rua={uri},{MAIL}")
    assert [rua.target for rua in record.rua] == ["reports@example.com"]
    assert [one.uri for one in record.unusable] == [uri]
    assert re.search(reason, record.unusable[0].reason)


def test_destinations_beyond_the_limit_are_unusable() -> None:
    """A record cannot make us send a report to the whole world; a target named twice counts once."""
    uris = [f"mailto:r{number}@example.com" for number in range(12)]
    record = tlsrpt.parse_record(f"{V} rua={','.join([uris[0], *uris])}")
    assert [rua.uri for rua in record.rua] == uris[:10]
    assert record.unusable == tuple(tlsrpt.Unusable(uri, "more than 10 destinations") for uri in uris[10:])


# id, TXT records, targets; None: no TLSRPT record
CHOICES = [
    ("nothing", [], None),
    ("others only", ["v=spf1 -all", "", "v=TLSRPTv1", "v=TLSRPTv2; rua=mailto:a@example.com"], None),
    ("one", [f"{V}rua={MAIL}"], ["reports@example.com"]),
    ("one among others", ["v=spf1 -all", f"v=TLSRPTv1 ;rua={MAIL}", "v=TLSRPTv10;rua=x"], ["reports@example.com"]),
]


@pytest.mark.parametrize(("texts", "targets"), [pytest.param(*case[1:], id=case[0]) for case in CHOICES])
def test_records_that_do_not_begin_right_are_discarded(texts: list[str], targets: list[str] | None) -> None:
    """RFC 8460 section 3: discard first, then count."""
    record = tlsrpt.choose(texts)
    assert (record and [rua.target for rua in record.rua]) == targets


def test_two_records_are_an_error_not_an_absence() -> None:
    """The domain meant to have one: its postmaster can be told."""
    with pytest.raises(tlsrpt.InvalidRecordError, match="2 TLSRPT records where exactly one is allowed"):
        tlsrpt.choose([f"{V}rua={MAIL}", "other", f"{V}rua={WEB}"])


def test_an_unreadable_record_is_an_error_not_an_absence() -> None:
    """What begins like a record is judged as one."""
    with pytest.raises(tlsrpt.InvalidRecordError, match="not name=value"):
        tlsrpt.choose([f"{V} {MAIL}"])


ADDRESS = re.compile(r"[!-~]{1,64}@[a-z0-9_-]+(\.[a-z0-9_-]+)+")
URL = re.compile(r"https://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[1-9][0-9]{0,4})?/[!-~]*")
NOISE = st.text(alphabet=st.sampled_from(string.printable + "\0\x7f\x85\xa0ÿ\ud800😀"), max_size=40)
PIECES = st.sampled_from(
    [
        "v=TLSRPTv1",
        ";",
        ",",
        "rua=",
        "mailto:",
        "https://",
        "a",
        "@",
        "example.com",
        "/",
        "%0a",
        "%2C",
        "%",
        "[::1]",
        ":",
        "?",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, NOISE)).map("".join)).map(lambda text: f"{V}rua={text}")


@given(st.one_of(st.text(), TEXTS))
@example(f"{V}rua=mailto:a@example.com%0d%0abcc:b@example.com")
@example(f"{V}rua=https://[::ffff:0.0.0.1]")
def test_any_text_gives_clean_targets_or_an_error(text: str) -> None:
    """Whatever strangers publish, a target has no control, no space, one at sign, and is its own normal form."""
    try:
        record = tlsrpt.parse_record(text)
    except tlsrpt.InvalidRecordError:
        return
    assert len(record.rua) <= tlsrpt.MAX_RUA
    assert all(one.reason.isprintable() for one in record.unusable)
    for rua in record.rua:
        pattern = ADDRESS if rua.scheme is tlsrpt.Scheme.MAILTO else URL
        assert pattern.fullmatch(rua.target)
        assert "@" not in urllib.parse.urlsplit(rua.target).netloc
        assert rua.target.count("@") == 1 or rua.scheme is tlsrpt.Scheme.HTTPS
        assert "#" not in rua.target or rua.scheme is tlsrpt.Scheme.MAILTO


LOCAL = st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[A-Za-z0-9]{1,20}){0,2}", fullmatch=True)


@given(LOCAL, st.sampled_from(["example.com", "xn--bcher-kva.example"]))
def test_every_plain_address_survives_its_encoding(local: str, domain: str) -> None:
    """RFC 6068: what is percent-encoded comes out as it went in."""
    uri = f"mailto:{urllib.parse.quote(local, safe='')}@{domain}"
    assert [rua.target for rua in tlsrpt.parse_record(f"{V}rua={uri}").rua] == [f"{local}@{domain}"]


@given(TEXTS)
def test_a_target_read_again_stays_the_same(text: str) -> None:
    """One spelling: a URL that came out of a record goes in and out unchanged."""
    try:
        record = tlsrpt.parse_record(text)
    except tlsrpt.InvalidRecordError:
        return
    urls = [rua.target for rua in record.rua if rua.scheme is tlsrpt.Scheme.HTTPS]
    assert [rua.target for rua in tlsrpt.parse_record(f"{V}rua={','.join(urls)}").rua] == urls
