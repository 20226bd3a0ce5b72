"""Domain names from outside: one spelling inside, or an error."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policy import names

LONGEST = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))

NAMES = [
    ("plain", "example.com", "example.com"),
    ("upper case", "MX1.Example.COM", "mx1.example.com"),
    ("final dot", "example.com.", "example.com"),
    ("one label", "localhost", "localhost"),
    ("underscores", "_smtp._tls.example.com", "_smtp._tls.example.com"),
    ("hyphens in third and fourth place", "r3---sn.example.com", "r3---sn.example.com"),
    ("digits", "4.example.com", "4.example.com"),
    ("A-label", "XN--BCHER-KVA.example", "xn--bcher-kva.example"),
    ("U-label", "bücher.example", "xn--bcher-kva.example"),
    ("U-label in upper case", "BÜCHER.Example.", "xn--bcher-kva.example"),
    ("decomposed U-label", "bu\u0308cher.example", "xn--bcher-kva.example"),
    ("sharp s is kept", "faß.example", "xn--fa-hia.example"),
    ("U-label beside underscores", "_smtp._tls.bücher.example", "_smtp._tls.xn--bcher-kva.example"),
    ("U-label beside hyphens", "r3---sn.bücher.example", "r3---sn.xn--bcher-kva.example"),
    ("full-width letters", "ｅｘａｍｐｌｅ.com", "example.com"),
    ("ideographic dots", "example。com。", "example.com"),
    ("right to left", "דוגמה.example", "xn--6dbbec0c.example"),
    ("longest", LONGEST, LONGEST),
]

NOT_NAMES = [
    ("empty", ""),
    ("root", "."),
    ("empty label", "a..b"),
    ("two final dots", "example.com.."),
    ("leading dot", ".example.com"),
    ("label of 64", "a" * 64 + ".example"),
    ("too long", LONGEST + "x"),
    ("U-label too long once encoded", "ü" * 62 + ".example"),
    ("leading hyphen", "-a.example"),
    ("trailing hyphen", "a-.example"),
    ("space", "exa mple.com"),
    ("line feed at the end", "example.com\n"),
    ("line feed after the final dot", "example.com.\n"),
    ("NUL", "example\0.com"),
    ("quote", 'exa"mple.com'),
    ("slash", "example.com/x"),
    ("maps to a slash", "℀.example"),
    ("at", "a@example.com"),
    ("colon", "example.com:25"),
    ("address literal", "[192.0.2.1]"),
    ("IPv6", "2001:db8::1"),
    ("backslash", "example\\.com"),
    ("wildcard", "*.example.com"),
    ("lone surrogate", "\ud800.example"),
    ("joiner without context", "\u200d.example"),
    ("emoji", "\U0001f4e7.example"),
    ("only ignored characters", "\u00ad"),
    ("much too long", "ü" * 300_000),
]


@pytest.mark.parametrize(("text", "expected"), [pytest.param(*case[1:], id=case[0]) for case in NAMES])
def test_every_spelling_of_a_name_becomes_one(text: str, expected: str) -> None:
    """Case, final dot, U-labels: one spelling is left."""
    assert names.a_label(text) == expected


@pytest.mark.parametrize("text", [pytest.param(case[1], id=case[0]) for case in NOT_NAMES])
def test_what_is_no_name_is_refused_with_a_short_reason(text: str) -> None:
    """The reason can stand in a log line: it is short and without controls."""
    with pytest.raises(names.InvalidNameError, match="not a domain name") as caught:
        names.a_label(text)
    assert len(str(caught.value)) < 2000
    assert str(caught.value).isprintable()


@given(st.one_of(st.text(), st.from_regex(r"[ß-ſ\-_.A-Za-z。]{1,80}", fullmatch=True)))
@example("xn--a")
def test_any_text_gives_a_name_or_an_error(text: str) -> None:
    """Nothing but InvalidNameError comes out, and a name that came out stays as it is."""
    try:
        name = names.a_label(text)
    except names.InvalidNameError:
        return
    assert name.isascii()
    assert len(name) <= names.MAX_NAME
    assert names.a_label(name) == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


LOCAL_PARTS = [
    ("plain", "tls-reports", True),
    ("dots and signs", "a.b+c=d?e", True),
    ("64 octets", "a" * 64, True),
    ("65 octets", "a" * 65, False),
    ("empty", "", False),
    ("a dot at the end", "a.", False),
    ("a blank", "a b", False),
    ("a line end", "a\n", False),
    ("a letter beyond ASCII", "é", False),
    ("an encoded-word", "=?utf-8?q?v=40evil.example=2C?=", False),
]


@pytest.mark.parametrize(("text", "expected"), [row[1:] for row in LOCAL_PARTS], ids=[row[0] for row in LOCAL_PARTS])
def test_only_what_means_the_same_everywhere_is_a_local_part(text: str, *, expected: bool) -> None:
    """Nothing that an SMTP server or a reader of header fields could take for something else."""
    assert names.is_local_part(text) is expected
