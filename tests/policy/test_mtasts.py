"""MTA-STS records, policies and hosts (RFC 8461 sections 3.1, 3.2 and 4.1): the right ones, the sloppy, the hostile."""

import dataclasses
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policy import mtasts

# id, record, its id
RECORDS = [
    ("RFC 8461 section 3.1", "v=STSv1; id=20160831085700Z;", "20160831085700Z"),
    ("no delimiter at the end", "v=STSv1; id=a1", "a1"),
    ("no white space", "v=STSv1;id=a1;", "a1"),
    ("white space and tabs", "v=STSv1; \t id=a1 \t ; \t", "a1"),
    ("white space at the end", "v=STSv1; id=a1 ", "a1"),
    ("one character", "v=STSv1; id=0;", "0"),
    ("32 characters", f"v=STSv1; id={'aZ09' * 8};", "aZ09" * 8),
    ("extensions around it", "v=STSv1; a=b; id=a1; c.d_e-f=x!<>~:", "a1"),
    ("name of an extension of 32", f"v=STSv1; id=a1; {'a' * 32}=b;", "a1"),
    ("first of two ids", "v=STSv1; id=a1; id=b2;", "a1"),
    ("second id of another form", "v=STSv1; id=a1; id=b-2;", "a1"),
    ("other case of a name is an extension", "v=STSv1; ID=b2; id=a1;", "a1"),
    ("longest", "v=STSv1; id=a1; x=" + "y" * (mtasts.MAX_RECORD - 18), "a1"),
]

# id, record, part of the reason
BROKEN_RECORDS = [
    ("no fields", "v=STSv1;", "name=value: ''"),
    ("no id", "v=STSv1; a=b;", "no id"),
    ("id in upper case", "v=STSv1; ID=a1;", "no id"),
    ("empty id", "v=STSv1; id=;", "name=value: 'id='"),
    ("33 characters", f"v=STSv1; id={'a' * 33};", "1 to 32"),
    ("hyphen in the id", "v=STSv1; id=2016-08-31;", "'2016-08-31'"),
    ("first of two ids is broken", "v=STSv1; id=a-1; id=a1;", "'a-1'"),
    ("white space in the id", "v=STSv1; id=a 1;", "name=value"),
    ("white space beside =", "v=STSv1; id = a1;", "name=value"),
    ("quotes", 'v=STSv1; id="a1";', "1 to 32"),
    ("digits of another script", "v=STSv1; id=\u0661;", r"'id=\u0661'"),
    ("empty field", "v=STSv1;; id=a1;", "name=value: ''"),
    ("two delimiters at the end", "v=STSv1; id=a1;;", "name=value: ''"),
    ("field without =", "v=STSv1; id=a1; enforce", "'enforce'"),
    ("two = in an extension", "v=STSv1; id=a1; a=b=c", "'a=b=c'"),
    ("name of an extension of 33", f"v=STSv1; id=a1; {'a' * 33}=b;", "name=value"),
    ("name beginning with a hyphen", "v=STSv1; id=a1; -a=b;", "'-a=b'"),
    ("not ASCII", "v=STSv1; id=a1; a=\xfc", r"'a=\xfc'"),
    ("line feed at the end", "v=STSv1; id=a1\n", r"'id=a1\n'"),
    ("NUL", "v=STSv1; id=a1; a=\0", r"'a=\x00'"),
    ("too long", "v=STSv1; id=a1; x=" + "y" * (mtasts.MAX_RECORD - 17), "longer than 4096"),
]

# id, TXT records, the id of the one that counts
TEXTS = [
    ("none", [], None),
    ("other texts", ["v=spf1 -all", "", "hello"], None),
    ("among others", ["v=spf1 -all", "v=STSv1; id=a1;", "v=STSv2; id=b2"], "a1"),
    ("version of another case", ["v=stsv1; id=a1;"], None),
    ("longer version", ["v=STSv10; id=a1;"], None),
    ("white space before it", [" v=STSv1; id=a1;"], None),
    ("white space before the delimiter", ["v=STSv1 ; id=a1;"], None),
    ("version not first", ["id=a1; v=STSv1;"], None),
    ("version alone", ["v=STSv1"], None),
]

TEXTS_THAT_FAIL = [
    ("two", ["v=STSv1; id=a1;", "v=STSv1; id=b2;"], "2 MTA-STS records where exactly one is allowed"),
    ("two that are equal", ["v=STSv1; id=a1;", "v=STSv1; id=a1;"], "2 MTA-STS records"),
    ("a good and a broken one", ["v=STSv1; id=a1;", "v=STSv1;"], "2 MTA-STS records"),
    ("a broken one", ["v=spf1 -all", "v=STSv1; id=;"], "name=value"),
]


@pytest.mark.parametrize(("text", "id_"), [pytest.param(*case[1:], id=case[0]) for case in RECORDS])
def test_a_good_record_has_an_id(text: str, id_: str) -> None:
    """RFC 8461 section 3.1: fields in any order, extensions ignored, the first of equal names."""
    assert mtasts.choose([text]) == mtasts.parse_record(text) == mtasts.Record(id_)


@pytest.mark.parametrize(("text", "reason"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN_RECORDS])
def test_a_broken_record_is_refused_with_a_short_reason(text: str, reason: str) -> None:
    """The reason can stand in a line for a postmaster."""
    with pytest.raises(mtasts.InvalidRecordError) as caught:
        mtasts.parse_record(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_a_text_of_another_version_is_no_record() -> None:
    """Whoever calls it with one is told."""
    with pytest.raises(mtasts.InvalidRecordError, match="does not begin with v=STSv1;"):
        mtasts.parse_record("v=STSv2; id=a1;")


@pytest.mark.parametrize(("texts", "id_"), [pytest.param(*case[1:], id=case[0]) for case in TEXTS])
def test_records_that_do_not_begin_with_the_version_are_discarded(texts: list[str], id_: str | None) -> None:
    """RFC 8461 section 3.1; none is left: there is no MTA-STS."""
    assert mtasts.choose(iter(texts)) == (id_ and mtasts.Record(id_))


@pytest.mark.parametrize(("texts", "reason"), [pytest.param(*case[1:], id=case[0]) for case in TEXTS_THAT_FAIL])
def test_several_records_are_none_that_can_be_used(texts: list[str], reason: str) -> None:
    """RFC 8461 section 3.1: exactly one."""
    with pytest.raises(mtasts.InvalidRecordError, match=reason):
        mtasts.choose(texts)


@given(st.lists(st.one_of(st.text(), st.from_regex(r"\Av=STSv1;[ a-z0-9=;\t]{0,40}\Z"))))
@example(["v=STSv1; id=\ud800"])
def test_any_texts_give_a_record_or_none_or_an_error(texts: list[str]) -> None:
    """Nothing but InvalidRecordError comes out, and an id that came out can be stored, compared and printed."""
    try:
        record = mtasts.choose(texts)
    except mtasts.InvalidRecordError:
        return
    assert record is None or (record.id.isascii() and record.id.isalnum() and 1 <= len(record.id) <= 32)


ENFORCE, TESTING, NONE = mtasts.Mode.ENFORCE, mtasts.Mode.TESTING, mtasts.Mode.NONE
GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"
LONG_NAME = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))

# id, file, mode, patterns, max_age
POLICIES: list[tuple[str, bytes, mtasts.Mode, tuple[str, ...], int]] = [
    ("CRLF", GOOD, ENFORCE, ("mx.example.com",), 604800),
    ("LF", GOOD.replace(b"\r\n", b"\n"), ENFORCE, ("mx.example.com",), 604800),
    ("both", GOOD.replace(b"\r\n", b"\n", 2), ENFORCE, ("mx.example.com",), 604800),
    ("no line end at the end", GOOD.removesuffix(b"\r\n"), ENFORCE, ("mx.example.com",), 604800),
    (
        "RFC 8461 section 3.2",
        b"version: STSv1\nmode: enforce\nmx: mail.example.com\nmx: *.example.net\nmx: c.example.com\nmax_age: 604800",
        ENFORCE,
        ("mail.example.com", "*.example.net", "c.example.com"),
        604800,
    ),
    ("any order", b"max_age:1\nmx:a.b\nmode:testing\nversion:STSv1", TESTING, ("a.b",), 1),
    ("white space", b" version \t: \tSTSv1 \nmode:\tenforce\t\r\n\tmx:  a.b \nmax_age: 1 \r\n", ENFORCE, ("a.b",), 1),
    ("blank lines", b"\n\r\n" + GOOD + b" \t\r\n\n\n", ENFORCE, ("mx.example.com",), 604800),
    ("extensions", b"a: b c\nX_y-z.1: \xc3\xbc\xe2\x82\xac: {}\n" + GOOD, ENFORCE, ("mx.example.com",), 604800),
    ("name of an extension of 32", b"a" * 32 + b": b\n" + GOOD, ENFORCE, ("mx.example.com",), 604800),
    ("other case of a name", b"Mode: none\nMX: b\xc3\xbc\n" + GOOD, ENFORCE, ("mx.example.com",), 604800),
    ("testing", GOOD.replace(b"enforce", b"testing"), TESTING, ("mx.example.com",), 604800),
    ("none", b"version: STSv1\nmode: none\nmax_age: 86400\n", NONE, (), 86400),
    ("none with mx", GOOD.replace(b"enforce", b"none"), NONE, ("mx.example.com",), 604800),
    ("first version wins", GOOD + b"version: STSv2\n", ENFORCE, ("mx.example.com",), 604800),
    ("first mode wins", GOOD + b"mode: none\n", ENFORCE, ("mx.example.com",), 604800),
    ("first max_age wins", GOOD + b"max_age: x\n", ENFORCE, ("mx.example.com",), 604800),
    ("zero", GOOD.replace(b"604800", b"0"), ENFORCE, ("mx.example.com",), 0),
    ("leading zeros", GOOD.replace(b"604800", b"0000000060"), ENFORCE, ("mx.example.com",), 60),
    ("a year", GOOD.replace(b"604800", b"31557600"), ENFORCE, ("mx.example.com",), 31557600),
    ("a second more", GOOD.replace(b"604800", b"31557601"), ENFORCE, ("mx.example.com",), 31557600),
    ("ten digits (erratum 7282)", GOOD.replace(b"604800", b"9999999999"), ENFORCE, ("mx.example.com",), 31557600),
    ("mx in upper case", GOOD.replace(b"mx.ex", b"*.EX"), ENFORCE, ("*.example.com",), 604800),
    ("mx twice", GOOD + b"mx: MX.example.com\nmx: b.example", ENFORCE, ("mx.example.com", "b.example"), 604800),
    ("mx of A-labels", GOOD.replace(b"example.com", b"xn--bcher-kva.de"), ENFORCE, ("mx.xn--bcher-kva.de",), 604800),
    ("mx of one label", GOOD + b"mx: localhost\nmx: *.com", ENFORCE, ("mx.example.com", "localhost", "*.com"), 604800),
    ("longest mx", GOOD.replace(b"mx.example.com", b"*." + LONG_NAME.encode()), ENFORCE, (f"*.{LONG_NAME}",), 604800),
    ("longest", GOOD + b"a: " + b"b" * (mtasts.MAX_POLICY - len(GOOD) - 3), ENFORCE, ("mx.example.com",), 604800),
]  # fmt: skip


def _mx(value: bytes) -> bytes:
    return GOOD + b"mx: " + value + b"\r\n"


# id, file, part of the reason
BROKEN_POLICIES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "no version"),
    ("only blank lines", b"\r\n \n", "no version"),
    ("HTML", b"<!doctype html>\n<p>404</p>\n", "line 1 is not a name, a colon and a value: '<!doctype html>'"),
    ("no version", GOOD.replace(b"version", b"version2"), "no version"),
    ("name in upper case", GOOD.replace(b"version", b"Version"), "no version"),
    ("other version", GOOD.replace(b"STSv1", b"STSv2"), "not STSv1: 'STSv2'"),
    ("version in lower case", GOOD.replace(b"STSv1", b"stsv1"), "not STSv1: 'stsv1'"),
    ("first version is another", b"version: STSv2\n" + GOOD, "not STSv1"),
    ("no mode", GOOD.replace(b"mode", b"moder"), "no mode"),
    ("other mode", GOOD.replace(b"enforce", b"report"), "'report'"),
    ("mode in upper case", GOOD.replace(b"enforce", b"Enforce"), "'Enforce'"),
    ("first mode is another", b"mode: report\n" + GOOD, "'report'"),
    ("no mx", GOOD.replace(b"mx:", b"nx:"), "no mx"),
    ("no mx in testing", GOOD.replace(b"mx:", b"nx:").replace(b"enforce", b"testing"), "no mx"),
    ("no max_age", GOOD.replace(b"max_age", b"maxage"), "no max_age"),
    ("no max_age in mode none", b"version: STSv1\nmode: none\n", "no max_age"),
    ("negative", GOOD.replace(b"604800", b"-1"), "ten digits: '-1'"),
    ("plus", GOOD.replace(b"604800", b"+1"), "ten digits"),
    ("underscore", GOOD.replace(b"604800", b"604_800"), "ten digits"),
    ("fraction", GOOD.replace(b"604800", b"1.5"), "ten digits"),
    ("unit", GOOD.replace(b"604800", b"7d"), "ten digits"),
    ("eleven digits", GOOD.replace(b"604800", b"00000604800"), "ten digits"),
    ("digits of another script", GOOD.replace(b"604800", "\u0661".encode()), r"ten digits: '\u0661'"),
    ("mx of U-labels", _mx("bücher.example".encode()), r"A-labels: 'b\xfccher.example'"),
    ("mx that is ASCII in lower case", _mx("\u212aelvin.example".encode()), r"A-labels: '\u212a"),
    ("mx of several names", _mx(b"a.example, b.example"), "A-labels"),
    ("star alone", _mx(b"*"), "A-labels: '*'"),
    ("star and dot", _mx(b"*."), "A-labels"),
    ("star in a label", _mx(b"mx*.example.com"), "A-labels"),
    ("star not leftmost", _mx(b"mx.*.example.com"), "A-labels"),
    ("two stars", _mx(b"*.*.example.com"), "A-labels"),
    ("Postfix's form", _mx(b".example.com"), "A-labels"),
    ("final dot", _mx(b"mx.example.com."), "A-labels"),
    ("two dots", _mx(b"mx..example.com"), "A-labels"),
    ("underscore in a name", _mx(b"my_mx.example.com"), "A-labels"),
    ("leading hyphen", _mx(b"-mx.example.com"), "A-labels"),
    ("trailing hyphen", _mx(b"mx-.example.com"), "A-labels"),
    ("label of 64", _mx(b"a" * 64 + b".example"), "A-labels"),
    ("name of 254", _mx(LONG_NAME.encode() + b"x"), "A-labels"),
    ("address", _mx(b"[192.0.2.1]"), "A-labels"),
    ("address of a person", _mx(b"a@example.com"), "A-labels"),
    ("port", _mx(b"mx.example.com:25"), "A-labels"),
    ("bad mx in mode none", _mx(b"*").replace(b"enforce", b"none"), "A-labels"),
    ("empty mx", _mx(b""), "line 5 is not a name, a colon and a value: 'mx: '"),
    ("empty extension", GOOD + b"a:", "line 5 is not"),
    ("line without a colon", GOOD + b"hello", "line 5 is not"),
    ("equals sign", GOOD.replace(b": ", b"="), "line 1 is not"),
    ("bad name", GOOD + b"a b: c", "line 5 is not"),
    ("name of 33", GOOD + b"a" * 33 + b": b", "line 5 is not"),
    ("comment", b"# ours\n" + GOOD, "line 1 is not"),
    ("byte order mark", b"\xef\xbb\xbf" + GOOD, r"line 1 is not a name, a colon and a value: '\ufeffversion: STSv1'"),
    ("CR only", GOOD.replace(b"\r\n", b"\r"), "line 1 has a control character"),
    ("CR twice", GOOD.replace(b"\r\n", b"\r\r\n"), "line 1 has a control character"),
    ("NUL", GOOD + b"a: b\0c", "line 5 has a control character"),
    ("tab in a value", GOOD + b"a: b\tc", "line 5 has a control character"),
    ("DEL", GOOD + b"a: b\x7f", "line 5 has a control character"),
    ("Latin-1", GOOD + b"a: \xfc", "not UTF-8"),
    ("UTF-16", GOOD.decode().encode("utf-16"), "not UTF-8"),
    ("surrogate", GOOD + b"a: \xed\xa0\x80", "not UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "mode", "mx", "max_age"), [pytest.param(*case[1:], id=case[0]) for case in POLICIES])
def test_a_good_policy_is_read(body: bytes, mode: mtasts.Mode, mx: tuple[str, ...], max_age: int) -> None:
    """RFC 8461 section 3.2."""
    policy = mtasts.parse_policy(body)
    assert (policy.mode, policy.mx, policy.max_age) == (mode, mx, max_age)


@pytest.mark.parametrize(("body", "reason"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN_POLICIES])
def test_a_broken_policy_is_refused_with_a_short_reason(body: bytes, reason: str) -> None:
    """The reason can stand in a line for a postmaster; its code goes into a report."""
    with pytest.raises(mtasts.InvalidPolicyError) as caught:
        mtasts.parse_policy(body)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()
    assert re.fullmatch(r"(line|version|mode|mx|max-age)-(missing|invalid)|not-utf-8|too-long", caught.value.code)


def test_one_octet_too_many_is_too_long() -> None:
    """A file without an end is no policy."""
    with pytest.raises(mtasts.InvalidPolicyError, match="longer than 65536 octets") as caught:
        mtasts.parse_policy(GOOD + b"a: " + b"b" * (mtasts.MAX_POLICY - len(GOOD) - 2))
    assert caught.value.code == "too-long"


# id, line ends, lines of a policy in front of which they stand, as published and for reports
LINES: list[tuple[str, bytes, tuple[str, ...], tuple[str, ...]]] = [
    ("line ends are cut off", b"a: b\r\nc: d\n", ("a: b", "c: d"), ("a: b", "c: d")),
    ("white space is kept", b" a:\tb \r\n", (" a:\tb ",), ("a:\tb",)),
    ("blank lines are kept", b"a: b\n\r\n \n\n", ("a: b", "", " ", ""), ("a: b",)),
    ("no other line ends", "a: b\x85\u2028c\n".encode(), ("a: b\x85\u2028c",), ("a: b\x85\u2028c",)),
    ("UTF-8", "a: bü€\n".encode(), ("a: bü€",), ("a: bü€",)),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "published", "told"), [pytest.param(*case[1:], id=case[0]) for case in LINES])
def test_lines_are_kept_as_published_and_told_without_white_space(
    lines: bytes, published: tuple[str, ...], told: tuple[str, ...]
) -> None:
    """Postfix strips them on their way to a report, too: the same policy from both must be one."""
    policy = mtasts.parse_policy(lines + GOOD)
    assert policy.lines == (*published, *mtasts.parse_policy(GOOD).lines)
    assert policy.strings == (*told, *mtasts.parse_policy(GOOD).strings)


def test_a_good_policy_has_its_lines_as_published() -> None:
    """Also what it repeats, and what we do not know."""
    body = b"version: STSv1\r\n\r\n x: y\nmode: testing\r\nmode: none\nmx: A.b\r\nmx: a.B\nmax_age: 9999999999"
    lines = ("version: STSv1", "", " x: y", "mode: testing", "mode: none", "mx: A.b", "mx: a.B", "max_age: 9999999999")
    assert mtasts.parse_policy(body).lines == lines


FIELDS = st.sampled_from(
    [b"version: STSv1", b"mode: enforce", b"mode: none", b"mx: *.a.b", b"mx: c", b"max_age: 1", b"x: y", b"", b"\xff"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b""])
FILES = st.lists(st.tuples(FIELDS, ENDS)).map(lambda lines: b"".join(b"".join(line) for line in lines))


@given(st.one_of(st.binary(), FILES, st.binary().map(lambda more: GOOD + more)))
@example(b"a:b" + b" " * 60_000 + b"\0")
@example(b"\n" * mtasts.MAX_POLICY)
@example(b"mx: " + b"a-" * 30_000)
def test_any_octets_give_a_policy_or_an_error(body: bytes) -> None:
    """Nothing but InvalidPolicyError comes out; what came out is whole, and reads the same from its lines."""
    try:
        policy = mtasts.parse_policy(body)
    except mtasts.InvalidPolicyError:
        return
    assert 0 <= policy.max_age <= mtasts.MAX_AGE
    assert policy.mx or policy.mode is NONE
    assert all(pattern.isascii() and pattern == pattern.lower() for pattern in policy.mx)
    assert mtasts.parse_policy("\n".join((*policy.lines, "")).encode()) == policy


# id, pattern, host, whether it is allowed
HOSTS: list[tuple[str, str, str, bool]] = [
    ("the same", "mail.example.com", "mail.example.com", True),
    ("another", "mail.example.com", "mail2.example.com", False),
    ("case", "mail.example.com", "MAIL.example.COM", True),
    ("final dot", "mail.example.com", "mail.example.com.", True),
    ("below", "example.com", "mail.example.com", False),
    ("above", "mail.example.com", "example.com", False),
    ("RFC 8461 section 4.1: a label", "*.example.com", "mail.example.com", True),
    ("RFC 8461 section 4.1: no label", "*.example.com", "example.com", False),
    ("RFC 8461 section 4.1: two labels", "*.example.com", "foo.bar.example.com", False),
    ("end of a label", "*.example.com", "mail.badexample.com", False),
    ("empty label", "*.example.com", ".example.com", False),
    ("a label of a top-level domain", "*.com", "example.com", True),
    ("one label", "*.com", "com", False),
    ("host with an underscore", "*.example.com", "my_mx.example.com", True),
    ("host with U-labels", "xn--bcher-kva.example", "bücher.example", True),
    ("label of an IDN", "*.xn--bcher-kva.example", "mx.bücher.example", True),
    ("a star is no host", "*.example.com", "*.example.com", False),
    ("empty", "*.example.com", "", False),
    ("root", "*.example.com", ".", False),
    ("nonsense", "*.example.com", "a b.example.com", False),
    ("line feed", "mail.example.com", "mail.example.com\n", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "host", "allowed"), [pytest.param(*case[1:], id=case[0]) for case in HOSTS])
def test_a_host_is_allowed_by_a_pattern(pattern: str, host: str, *, allowed: bool) -> None:
    """RFC 8461 section 4.1: the whole name, or all but exactly its first label; among others or alone."""
    alone = mtasts.Policy(ENFORCE, (pattern,), 1, ())
    assert mtasts.allows(alone, host) is allowed
    assert mtasts.allows(dataclasses.replace(alone, mx=("z.example", pattern, "*.z.example")), host) is allowed


def test_a_policy_without_patterns_allows_no_host() -> None:
    """One of mode none: whoever asks nevertheless gets a no."""
    assert not mtasts.allows(mtasts.Policy(NONE, (), 1, ()), "mail.example.com")
