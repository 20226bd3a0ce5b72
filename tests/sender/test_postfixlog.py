"""Lines of Postfix's log: which are ours, and what they mean."""

import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies

from sender import joining, postfixlog

DATA = pathlib.Path(__file__).parents[1] / "data"

TEXT = "Trusted TLS connection established to mx.example[192.0.2.1]:25: TLSv1.3 with cipher X"
MX = postfixlog.Server("mx.example", "192.0.2.1")

HEADS = [
    ("classic", "Nov 24 02:07:28 host postfix/smtp[31402]: ", ("host", "postfix/smtp", "31402")),
    ("first days of a month", "Nov  4 02:07:28 host postfix/smtp[1]: ", ("host", "postfix/smtp", "1")),
    ("journalctl -o short-precise", "Nov 24 02:07:28.123456 h postfix/smtp[1]: ", ("h", "postfix/smtp", "1")),
    ("RFC 3339", "2026-11-24T02:07:28.123456+00:00 host postfix/smtp[1]: ", ("host", "postfix/smtp", "1")),
    ("RFC 3339 in UTC", "2026-11-24T02:07:28Z host postfix/smtp[1]: ", ("host", "postfix/smtp", "1")),
    ("journalctl -o short-iso", "2026-11-24T02:07:28+0100 host postfix/smtp[1]: ", ("host", "postfix/smtp", "1")),
    ("with a priority", "<22>Nov 24 02:07:28 host postfix/smtp[1]: ", ("host", "postfix/smtp", "1")),
    ("relay service", "Nov 24 02:07:28 host postfix/relay/smtp[1]: ", ("host", "postfix/relay/smtp", "1")),
    ("another instance", "Nov 24 02:07:28 host postfix-out/smtp[1]: ", ("host", "postfix-out/smtp", "1")),
    ("any syslog_name", "Nov 24 02:07:28 host my.mail/out/smtp[1]: ", ("host", "my.mail/out/smtp", "1")),
    ("tlsproxy", "Nov 24 02:07:28 host postfix/tlsproxy[1]: ", ("host", "postfix/tlsproxy", "1")),
]


@pytest.mark.parametrize(("head", "process"), [case[1:] for case in HEADS], ids=[case[0] for case in HEADS])
def test_lines_of_every_form_are_read(head: str, process: tuple[str, str, str]) -> None:
    """With and without what Windows puts at an end."""
    assert postfixlog.parse(f"{head}{TEXT}".encode()) == postfixlog.Line(process, TEXT)
    assert postfixlog.parse(f"{head}{TEXT}\r".encode()) == postfixlog.Line(process, TEXT)


NOT_OURS = [
    ("nothing", ""),
    ("another daemon of Postfix", f"Nov 24 02:07:28 host postfix/smtpd[1]: {TEXT}"),
    ("delivery at home", f"Nov 24 02:07:28 host postfix/lmtp[1]: {TEXT}"),
    ("another program", f"Nov 24 02:07:28 host sshd[1]: {TEXT}"),
    ("no process (journalctl -o cat)", TEXT),
    ("no time", f"host postfix/smtp[1]: {TEXT}"),
    ("a line in a text", f"Nov 24 02:07:28 host sshd[1]: Nov 24 02:07:28 host postfix/smtp[1]: {TEXT}"),
    ("too long", f"Nov 24 02:07:28 host postfix/smtp[1]: {TEXT}{'x' * postfixlog.MAX_LINE}"),
]


@pytest.mark.parametrize("text", [case[1] for case in NOT_OURS], ids=[case[0] for case in NOT_OURS])
def test_lines_of_others_are_none_of_ours(text: str) -> None:
    """Whatever they say."""
    assert postfixlog.parse(text.encode()) is None


def delivery(
    domain: str = "example.com",
    server: postfixlog.Server | None = MX,
    complaint: postfixlog.Complaint | None = None,
    blamed: postfixlog.Server | None = None,
    **others: object,
) -> postfixlog.Delivery:
    """Return what a ``to=`` line means, where a test does not say otherwise."""
    known: dict[str, object] = {"request": ("4F5C925602B", "0.01"), "port": "25", "fresh": True, "sent": True}
    return postfixlog.Delivery(domain=domain, server=server, complaint=complaint, blamed=blamed, **known | others)  # type: ignore[arg-type] # as named


TO = "4F5C925602B: to=<u@example.com>, relay=mx.example[192.0.2.1]:25, delay=0.03, delays=0.01/0.02/0.01/0, dsn=2.0.0, "
DEFERRED = TO + "status=deferred "
SIX = postfixlog.Server("mx.example", "2001:db8::25")

EVENTS = [
    ("established", TEXT, postfixlog.Established(MX, postfixlog.Trust.TRUSTED, reused=False)),
    (
        "IPv6",
        "Verified TLS connection established to mx.example[2001:db8::25]:25: TLSv1.3",
        postfixlog.Established(SIX, postfixlog.Trust.VERIFIED, reused=False),
    ),
    (
        "reused",
        "Anonymous TLS connection reused to mx.example[192.0.2.1]:25: TLSv1.3",
        postfixlog.Established(MX, postfixlog.Trust.ANONYMOUS, reused=True),
    ),
    (
        "wrong name",
        "server certificate verification failed for mx.example[192.0.2.1]:25: num=62:hostname mismatch",
        postfixlog.BadCertificate(MX, "num=62:hostname mismatch"),
    ),
    (
        "a certificate above it",
        "CA certificate verification failed for mx.example[192.0.2.1]:25: certificate has expired",
        postfixlog.BadCertificate(MX, "certificate has expired"),
    ),
    (
        "unknown issuer",
        "certificate verification failed for mx.example[192.0.2.1]:25: untrusted issuer /CN=A B: C",
        postfixlog.BadCertificate(MX, "untrusted issuer /CN=A B: C"),
    ),
    ("handshake", "SSL_connect error to mx.example[192.0.2.1]:25: -1", postfixlog.HandshakeFailed(MX)),
    (
        "unusable TLSA",
        "warning: mx.example[192.0.2.1]:25: all TLSA records unusable, fallback to unauthenticated TLS",
        postfixlog.UnusableTlsa(MX),
    ),
    ("sent", TO + "status=sent (250 2.0.0 accepted)", delivery()),
    (
        "aliased, used before",
        TO.replace(", relay", ", orig_to=<root>, relay").replace(", delay=", ", conn_use=3, delay=") + "status=sent (",
        delivery(fresh=False),
    ),
    (
        "a long queue ID, a quoted local part, a port",
        DEFERRED.replace("4F5C925602B", "Zk9wVq3hMzRz9T1").replace("u@", '"a>, b@c"@').replace("0.01/", "7/")
        .replace(":25", ":587") + "(host mx.example[192.0.2.1] said: 450 no)",
        delivery(request=("Zk9wVq3hMzRz9T1", "7"), port="587", sent=False),
    ),
    (
        "no server",
        "4F5C925602B: to=<u@example.com>, relay=none, delay=0.03, delays=0.01/0/0/0, dsn=4.4.1, status=deferred (x)",
        delivery(server=None, port="", sent=False),
    ),
    (
        "not offered",
        f"{DEFERRED}(TLS is required, but was not offered by host mx.example[192.0.2.1])",
        delivery(sent=False, complaint=postfixlog.Complaint.NOT_OFFERED, blamed=MX),
    ),
    (
        "refused",
        f"{DEFERRED}(TLS is required, but host mx.example[192.0.2.1] refused to start TLS: 454 no)",
        delivery(sent=False, complaint=postfixlog.Complaint.REFUSED, blamed=MX),
    ),
    (
        "not verified",
        f"{DEFERRED}(Server certificate not verified)",
        delivery(sent=False, complaint=postfixlog.Complaint.CERTIFICATE),
    ),
    (
        "handshake failure",
        f"{DEFERRED}(Cannot start TLS: handshake failure)",
        delivery(sent=False, complaint=postfixlog.Complaint.HANDSHAKE),
    ),
    (
        "one of several servers",
        "4F5C925602B: TLS is required, but was not offered by host mx.example[192.0.2.1]",
        postfixlog.Trouble(postfixlog.Complaint.NOT_OFFERED, MX),
    ),
    (
        "one of several servers, verified",
        "4F5C925602B: Server certificate not trusted",
        postfixlog.Trouble(postfixlog.Complaint.CERTIFICATE, None),
    ),
    (
        "reported success",
        "TLSRPT: status=success, domain=a.example, receiving_mx=mx.example[192.0.2.1]",
        postfixlog.Reported(failed=False),
    ),
    (
        "reported failure",
        "TLSRPT: status=failure, domain=a.example, receiving_mx=mx.example[192.0.2.1], failure_type=x",
        postfixlog.Reported(failed=True),
    ),
    (
        "queue full",
        "warning: Could not report TLS handshake result to tlsrpt library: Resource temporarily unavailable (errno 11)",
        postfixlog.NotReported(full=True),
    ),
    (
        "nobody there",
        "warning: Could not report TLS handshake result to tlsrpt library: Connection refused (errno 111)",
        postfixlog.NotReported(full=False),
    ),
    ("dies", "fatal: watchdog timeout", postfixlog.Died()),
    ("no tlsproxy", "warning: connect to private/tlsproxy service: No such file or directory", postfixlog.NoProxy()),
    ("another service", "warning: connect to private/anvil service: No such file or directory", None),
    ("our own trouble", f"{DEFERRED}(TLS is required, but our TLS engine is unavailable)", delivery(sent=False)),
    ("a warning", "warning: TLS library problem: error:0A00010B:SSL routines::wrong version number", None),
    ("something of a message", "4F5C925602B: host mx.example[192.0.2.1] said: TLS is required, but", None),
    ("a complaint that a server makes", f"{DEFERRED}(host x[192.0.2.9] said: 4.7.5 Server certificate not verified)",
     delivery(sent=False)),
    ("nothing", "", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "meaning"), [case[1:] for case in EVENTS], ids=[case[0] for case in EVENTS])
def test_texts_mean_what_postfix_means(text: str, meaning: postfixlog.Event | None) -> None:
    """Word by word."""
    assert postfixlog.event(text) == meaning


WORDS = strategies.sampled_from(
    [text for _, text, _ in EVENTS] + [head for _, head, _ in HEADS] + ["to=<", ">, relay=", "@", "[", "]:", ", ", "\0"]
)


@hypothesis.given(strategies.lists(WORDS | strategies.text(max_size=20), max_size=6).map("".join))
def test_no_line_is_an_error(text: str) -> None:
    """Parts of true lines and any texts, put together anyhow."""
    postfixlog.event(text)
    postfixlog.parse(text.encode("utf-8", "surrogatepass"))
    postfixlog.line("host", text[:40], "1", text)


@hypothesis.given(strategies.binary(max_size=200))
def test_no_octets_are_an_error(octets: bytes) -> None:
    """As they may stand in a file."""
    line = postfixlog.parse(b"Nov 24 02:07:28 host postfix/smtp[1]: " + octets)
    assert line is None or line.service == "smtp"


@pytest.mark.parametrize("part", ["to=<", ">, orig_to=<", "a@", "[", "\\", '"'])
def test_a_long_line_takes_no_long_time(part: str) -> None:
    """Patterns that search must not search again and again; the whole suite would stand still otherwise."""
    text = "4F5C925602B: to=<" + part * (postfixlog.MAX_LINE // len(part))
    for _ in range(20):
        postfixlog.event(text)


def test_all_lines_of_the_capture_are_read() -> None:
    """Each is ours; all but some warnings mean something."""
    rows = [json.loads(row) for row in (DATA / "postfix-3.7-logs.jsonl").read_text().splitlines()]
    lines = [postfixlog.parse(text.encode()) for row in rows for text in row["lines"]]
    meaningless = [line.text for line in lines if line is not None and postfixlog.event(line.text) is None]
    assert None not in lines
    assert all(text.startswith("warning: ") for text in meaningless)


def test_every_problem_has_a_word_of_the_rfc() -> None:
    """What is not known is the general one, with OpenSSL's words."""
    assert joining.problem_of("num=66:IP address mismatch").reason == "IP_address_mismatch"
    assert joining.problem_of("").reason is None
