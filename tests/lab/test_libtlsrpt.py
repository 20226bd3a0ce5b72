"""libtlsrpt's own C interface against our recorder: every function, every code, and texts that need care.

The library is Debian 13's, loaded into this process; the recorder is the real one. What the tally makes of what arrived
is what ``sender.datagram`` decodes from the journal, and what ``tlsrpt pending`` counts.
"""

import ctypes
import errno
import json
import os
import pathlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from sender import datagram, session
from sender.demo import certificates
from tests.lab import libtlsrpt, namespace, product
from tests.lab.libtlsrpt import Failure, Policy

TLSA, STS, NO_POLICY_FOUND = 1, 2, 9
RECORD = b"v=TLSRPTv1; rua=mailto:tls@reports.example"

CODES = {
    201: session.ResultType.STARTTLS_NOT_SUPPORTED,
    202: session.ResultType.CERTIFICATE_HOST_MISMATCH,
    203: session.ResultType.CERTIFICATE_NOT_TRUSTED,
    204: session.ResultType.CERTIFICATE_EXPIRED,
    205: session.ResultType.VALIDATION_FAILURE,
    301: session.ResultType.STS_POLICY_FETCH_ERROR,
    302: session.ResultType.STS_POLICY_INVALID,
    303: session.ResultType.STS_WEBPKI_INVALID,
    304: session.ResultType.TLSA_INVALID,
    305: session.ResultType.DNSSEC_INVALID,
    306: session.ResultType.DANE_REQUIRED,
}

KINDS = {
    TLSA: session.PolicyType.TLSA,
    STS: session.PolicyType.STS,
    NO_POLICY_FOUND: session.PolicyType.NO_POLICY_FOUND,
}

REASONS = [
    ("plain", b"some_reason", "some_reason"),
    ("quote", b'a"b', 'a"b'),
    ("backslash", b"a\\b\\\\c", "a\\b\\\\c"),
    ("json", b'","f":0}]}', '","f":0}]}'),
    ("slash", b"a/b", "a/b"),
    ("line-ends", b"a\r\nb\nc", "a  b c"),
    ("tab", b"a\tb", "a b"),
    ("controls", bytes(range(1, 32)) + b"x", "x"),
    ("delete", b"a\x7fb", "ab"),
    ("umlaut", "grüß".encode(), "grüß"),
    ("emoji", "\N{ENVELOPE}\N{GRINNING FACE}".encode(), "\N{ENVELOPE}\N{GRINNING FACE}"),
    ("line-separator", "a\u2028b".encode(), "a b"),
    ("right-to-left", "a\u202eb".encode(), "ab"),
    ("percent", b"%s%n%d", "%s%n%d"),
    ("long", b"r" * 5000, "r" * datagram.MAX_REASON),
    ("empty", b"", None),
]
"""A reason code as octets, and what of it may be in a report."""

INTERNAL = 10000
"""What the numbers of the library's own errors begin with."""

CANCELLED, NAME_TOO_LONG, UNFINISHED, NO_CONNECTION, NESTED, NO_POLICIES = 10703, 10711, 10712, 10713, 10731, 10732
OUTSIDE_OF_POLICY = 10722
SENDTO = 13000

ERRORS = [
    (CANCELLED, "cancelled"),
    (NAME_TOO_LONG, "too long"),
    (UNFINISHED, "not properly paired"),
    (NO_CONNECTION, "NULL"),
    (10721, "main memstream"),
    (OUTSIDE_OF_POLICY, "ps memstream"),
    (10723, "mx memstream"),
    (10724, "fd memstream"),
    (NESTED, "Two calls"),
    (NO_POLICIES, "No policies"),
    (11000 + errno.EMFILE, "socket in tlsrpt_open"),
    (12000 + errno.EBADF, "close in tlsrpt_close"),
    (SENDTO + errno.EAGAIN, "sendto in finishdr"),
    (41000 + errno.ENOMEM, "malloc in opencon"),
    (99000, "UNKNOWN"),
]


@pytest.fixture(scope="module")
def recorder(postfix_310: pathlib.Path, scratch: pathlib.Path) -> Iterator[product.Tlsrpt]:
    """A recorder that runs, in a namespace where the kernel's queue has its default length."""
    folder = scratch / "libtlsrpt"
    (folder / "run/tlsrpt").mkdir(parents=True)
    with (
        namespace.entered((), queue=10),
        product.serving(
            folder, folder, "127.0.0.1:53", certificates.Authority(), certificates.dkim_key(), ("recorder",)
        ) as tlsrpt,
    ):
        yield tlsrpt


@pytest.fixture(scope="module")
def library(postfix_310: pathlib.Path) -> ctypes.CDLL:
    """Debian's library."""
    return libtlsrpt.load(postfix_310)


@pytest.fixture
def connection(library: ctypes.CDLL, recorder: product.Tlsrpt) -> Iterator[libtlsrpt.Handle]:
    """A connection to the recorder."""
    handle = libtlsrpt.Handle()
    assert library.tlsrpt_open(ctypes.byref(handle), os.fsencode(recorder.recorder_socket)) == 0
    yield handle
    assert library.tlsrpt_close(ctypes.byref(handle)) == 0
    assert handle.value is None


def _lines(recorder: product.Tlsrpt, domain: str, count: int = 1) -> list[bytes]:
    """Return what was recorded about a domain, once it is so much."""
    folder, wanted = recorder.folder / "journal", f'"{domain}"'.encode()

    def find() -> list[bytes]:
        lines = [line for path in folder.glob("2*.ndjson") for line in path.read_bytes().splitlines()]
        return [line for line in lines if wanted in line]

    recorder.wait(lambda: len(find()) >= count)
    return find()


def _session(recorder: product.Tlsrpt, domain: str) -> session.Session:
    """Return the one session that was recorded about a domain."""
    (line,) = _lines(recorder, domain)
    return datagram.decode(line)


def test_every_function_of_the_header_is_called_here(library: ctypes.CDLL) -> None:
    """The table of functions has all of tlsrpt.h, and the library has all of the table."""
    assert all(getattr(library, name) for name in libtlsrpt.functions())
    source = pathlib.Path(__file__).read_text() + pathlib.Path(libtlsrpt.__file__).read_text()
    assert {name for name in libtlsrpt.functions() if f"library.{name}(" not in source} == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", CODES)
def test_every_code_under_every_policy(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt, kind: int, code: int
) -> None:
    """Each pair of a policy type and a failure code comes out as the words of RFC 8460."""
    domain = f"code-{kind}-{code}.example"
    failure = Failure(
        code,
        b"192.0.2.1",
        b"mx.code.example",
        b"250-mx.code.example at your service\r\n250 HELP",
        b"2001:db8::25",
        b"https://code.example/why",
        b"because",
    )
    policy = Policy(kind, f"policy.{domain}".encode(), failures=(failure,), final=1)
    assert set(libtlsrpt.report(library, connection, domain.encode(), RECORD, (policy,))) == {0}
    expected = session.Failure(
        result_type=CODES[code],
        sending_mta_ip="192.0.2.1",
        receiving_mx_hostname="mx.code.example",
        receiving_mx_helo="mx.code.example",
        receiving_ip="2001:db8::25",
        additional_information="https://code.example/why",
        failure_reason_code="because",
    )
    applied = session.Policy(KINDS[kind], f"policy.{domain}")
    result = session.Result(applied, failed=True, failures=(expected,))
    assert _session(recorder, domain) == session.Session(domain, RECORD.decode(), (result,))


def test_success_has_nothing_but_its_policy(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """A success without any detail, of a policy whose domain is a null pointer: it is the recipient's."""
    codes = libtlsrpt.report(library, connection, b"success.example", RECORD, (Policy(NO_POLICY_FOUND),))
    assert codes == [0, 0, 0, 0]
    policy = session.Policy(session.PolicyType.NO_POLICY_FOUND, "success.example")
    found = _session(recorder, "success.example")
    assert found == session.Session("success.example", RECORD.decode(), (session.Result(policy, failed=False),))


def test_failure_with_null_pointers_has_no_particulars(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """Every text of a failure may be a null pointer."""
    policy = Policy(STS, b"null.example", failures=(Failure(201),), final=1)
    assert set(libtlsrpt.report(library, connection, b"null.example", RECORD, (policy,))) == {0}
    (result,) = _session(recorder, "null.example").results
    assert result.failures == (session.Failure(session.ResultType.STARTTLS_NOT_SUPPORTED),)


def test_several_policies_in_one_request(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """Each policy of a request is counted as a session of its own, with its own strings, hosts and failures."""
    policies = (
        Policy(TLSA, b"mx.several.example", (b"3 1 1 aabb", b"2 0 1 CCDD"), failures=(Failure(304),), final=1),
        Policy(STS, b"several.example", (b"version: STSv1", b"mx: *.several.example"), (b"*.several.example",)),
        Policy(NO_POLICY_FOUND, b"several.example", failures=(Failure(205), Failure(202)), final=1),
    )
    assert set(libtlsrpt.report(library, connection, b"several.example", RECORD, policies)) == {0}
    failure = session.Failure
    assert _session(recorder, "several.example").results == (
        session.Result(
            session.Policy(session.PolicyType.TLSA, "mx.several.example", ("2 0 1 CCDD", "3 1 1 AABB")),
            failed=True,
            failures=(failure(session.ResultType.TLSA_INVALID),),
        ),
        session.Result(
            session.Policy(
                session.PolicyType.STS,
                "several.example",
                ("version: STSv1", "mx: *.several.example"),
                ("*.several.example",),
            ),
            failed=False,
        ),
        session.Result(
            session.Policy(session.PolicyType.NO_POLICY_FOUND, "several.example"),
            failed=True,
            failures=(
                failure(session.ResultType.VALIDATION_FAILURE),
                failure(session.ResultType.CERTIFICATE_HOST_MISMATCH),
            ),
        ),
    )
    pending = json.loads(recorder.run("pending", "several.example", "--json").stdout)
    (row,) = pending["domain_days"]
    assert (row["domain"], row["successful"], row["failed"]) == ("several.example", 1, 2)


@pytest.mark.parametrize(("name", "octets", "expected"), REASONS, ids=[name for name, _, _ in REASONS])
def test_texts_arrive_as_far_as_a_report_may_have_them(
    library: ctypes.CDLL,
    connection: libtlsrpt.Handle,
    recorder: product.Tlsrpt,
    name: str,
    octets: bytes,
    expected: str | None,
) -> None:
    """What the library escapes comes out again; white space becomes a blank, what cannot be seen is left out."""
    domain = f"text-{name}.example"
    policy = Policy(
        STS, domain.encode(), (b"version: STSv1", octets), failures=(Failure(205, failure_reason_code=octets),), final=1
    )
    assert set(libtlsrpt.report(library, connection, domain.encode(), RECORD, (policy,))) == {0}
    (result,) = _session(recorder, domain).results
    assert result.failures[0].failure_reason_code == expected
    if len(octets) < datagram.MAX_REASON and expected is not None:
        assert result.policy.strings[1].strip() == expected


def test_octets_that_are_not_utf_8_are_set_aside(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """The library writes octets as they are; what is not UTF-8 is not JSON: malformed, and nothing breaks."""
    for number, octets in enumerate((b"gr\xfc\xdfe", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80")):
        policy = Policy(STS, failures=(Failure(205, failure_reason_code=octets),), final=1)
        domain = f"octets-{number}.example"
        assert set(libtlsrpt.report(library, connection, domain.encode(), RECORD, (policy,))) == {0}
        (line,) = _lines(recorder, domain)
        with pytest.raises(datagram.MalformedError) as caught:
            datagram.decode(line)
        assert caught.value.reason is datagram.Reason.NOT_UTF8
    assert libtlsrpt.report(library, connection, b"after.example", RECORD, (Policy(NO_POLICY_FOUND),))[-1] == 0
    pending = json.loads(recorder.run("pending", "after.example", "--json").stdout)
    assert [row["successful"] for row in pending["domain_days"]] == [1]


def test_domains_as_u_labels_and_a_labels_are_the_same(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """Postfix hands internationalized domains over as it has them."""
    for domain in ("bücher.example", "BÜCHER.example", "xn--bcher-kva.example"):
        assert libtlsrpt.report(library, connection, domain.encode(), RECORD, (Policy(NO_POLICY_FOUND),))[-1] == 0
        (result,) = _session(recorder, domain).results
        assert result.policy.domain == "xn--bcher-kva.example"


def test_policy_of_64_kib_arrives_whole(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """A datagram of well over 100 KiB is received whole: the longest policy, its hosts told twice."""
    hosts = tuple(f"{number:04}.{'m' * 50}.example".encode() for number in range(900))
    strings = tuple(b"mx: " + host for host in hosts)
    policy = Policy(STS, b"large.example", strings, hosts)
    assert set(libtlsrpt.report(library, connection, b"large.example", RECORD, (policy,))) == {0}
    (line,) = _lines(recorder, "large.example")
    assert len(line) > 100 * 1024
    (result,) = datagram.decode(line).results
    assert result.policy.strings == tuple(text.decode() for text in strings)
    assert result.policy.mx_hosts == tuple(text.decode() for text in hosts)


def test_datagram_that_is_too_long_for_the_kernel_is_an_error(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """The sender gets to know, and the next request goes through."""
    policy = Policy(STS, strings=(b"x" * 1_000_000,))
    codes = libtlsrpt.report(library, connection, b"too-long.example", RECORD, (policy,))
    assert codes[-1] == SENDTO + errno.EMSGSIZE
    assert libtlsrpt.report(library, connection, b"next.example", RECORD, (Policy(NO_POLICY_FOUND),))[-1] == 0
    assert _session(recorder, "next.example").domain == "next.example"


def test_wrong_calls_send_nothing(library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt) -> None:
    """Every way to call the functions in a wrong order has its own error, and nothing of it reaches the recorder."""
    request = libtlsrpt.Handle()
    reference = ctypes.byref(request)

    def begin(domain: bytes = b"wrong.example") -> None:
        assert library.tlsrpt_init_delivery_request(reference, connection, domain, RECORD) == 0

    begin()
    assert library.tlsrpt_finish_delivery_request(reference) == NO_POLICIES
    begin()
    assert library.tlsrpt_init_policy(request, STS, None) == 0
    assert library.tlsrpt_finish_delivery_request(reference) == UNFINISHED
    begin()
    assert library.tlsrpt_init_policy(request, STS, None) == 0
    assert library.tlsrpt_init_policy(request, STS, None) == NESTED
    assert library.tlsrpt_finish_policy(request, 0) == NESTED
    assert library.tlsrpt_finish_delivery_request(reference) == NESTED
    begin()
    assert library.tlsrpt_finish_policy(request, 0) == OUTSIDE_OF_POLICY
    assert library.tlsrpt_finish_delivery_request(reference) == OUTSIDE_OF_POLICY
    begin()
    assert library.tlsrpt_init_policy(request, STS, None) == 0
    assert library.tlsrpt_finish_policy(request, 0) == 0
    assert library.tlsrpt_cancel_delivery_request(reference) == 0
    assert library.tlsrpt_init_delivery_request(reference, None, b"wrong.example", RECORD) == NO_CONNECTION
    assert request.value is None
    assert libtlsrpt.report(library, connection, b"right.example", RECORD, (Policy(STS),))[-1] == 0
    _lines(recorder, "right.example")
    assert _lines(recorder, "wrong.example", 0) == []


def test_socket_that_is_not_there_is_an_error(library: ctypes.CDLL, recorder: product.Tlsrpt) -> None:
    """A name that is too long is told at once, one that nobody listens at when something is sent."""
    handle = libtlsrpt.Handle()
    assert library.tlsrpt_open(ctypes.byref(handle), b"/" + b"x" * 200) == NAME_TOO_LONG
    assert handle.value is None
    nowhere = os.fsencode(recorder.recorder_socket.with_name("nobody.sock"))
    assert library.tlsrpt_open(ctypes.byref(handle), nowhere) == 0
    codes = libtlsrpt.report(library, handle, b"nowhere.example", RECORD, (Policy(NO_POLICY_FOUND),))
    assert codes[-1] == SENDTO + errno.ENOENT
    assert library.tlsrpt_close(ctypes.byref(handle)) == 0


@pytest.mark.parametrize(("code", "words"), ERRORS, ids=[str(code) for code, _ in ERRORS])
def test_errors_explain_themselves(library: ctypes.CDLL, code: int, words: str) -> None:
    """Each error is the library's own or has an errno in it, and a text."""
    assert words in library.tlsrpt_strerror(code).decode()
    assert library.tlsrpt_error_code_is_internal(code) == (INTERNAL <= code < INTERNAL + 1000)
    assert library.tlsrpt_errno_from_error_code(code) == code % 1000


def test_socket_is_a_datagram_socket(library: ctypes.CDLL, connection: libtlsrpt.Handle) -> None:
    """The connection's socket can be had, for those who want to look at it."""
    descriptor = os.dup(library.tlsrpt_get_socket(connection))
    with socket.socket(fileno=descriptor) as sock:
        assert (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_DGRAM)


def test_recorder_that_does_not_receive_blocks_nobody(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """When the kernel's queue is full the event is an error at once; what was queued is recorded later."""
    recorder.signal("recorder", signal.SIGSTOP)
    try:
        began = time.monotonic()
        policies = (Policy(NO_POLICY_FOUND),)
        codes = [libtlsrpt.report(library, connection, b"full.example", RECORD, policies)[-1] for _ in range(100)]
        took = time.monotonic() - began
    finally:
        recorder.signal("recorder", signal.SIGCONT)
    assert set(codes) == {0, SENDTO + errno.EAGAIN}
    assert took < 1
    assert len(_lines(recorder, "full.example", codes.count(0))) == codes.count(0) < 20


def test_blocking_mode_loses_nothing(
    library: ctypes.CDLL, connection: libtlsrpt.Handle, recorder: product.Tlsrpt
) -> None:
    """Set to blocking the library waits for room, which comes as soon as the recorder goes on."""
    codes: list[int] = []

    def send() -> None:
        for _ in range(100):
            codes.extend(libtlsrpt.report(library, connection, b"blocking.example", RECORD, (Policy(STS),)))

    library.tlsrpt_set_blocking()
    try:
        recorder.signal("recorder", signal.SIGSTOP)
        thread = threading.Thread(target=send)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        recorder.signal("recorder", signal.SIGCONT)
        thread.join(product.PATIENCE)
        assert not thread.is_alive()
    finally:
        recorder.signal("recorder", signal.SIGCONT)
        library.tlsrpt_set_nonblocking()
    assert set(codes) == {0}
    assert len(_lines(recorder, "blocking.example", 100)) == 100


def test_other_memory_allocator(library: ctypes.CDLL, recorder: product.Tlsrpt) -> None:
    """An MTA may bring its own malloc and free; all that is taken is given back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    taken: list[int] = []

    def allocate(size: int) -> int:
        pointer: int = libc.malloc(size)
        taken.append(pointer)
        return pointer

    def release(pointer: int) -> None:
        taken.remove(pointer)
        libc.free(pointer)

    plain = ctypes.cast(libc.malloc, libtlsrpt.ALLOCATE), ctypes.cast(libc.free, libtlsrpt.RELEASE)
    ours = libtlsrpt.ALLOCATE(allocate), libtlsrpt.RELEASE(release)
    handle, request = libtlsrpt.Handle(), libtlsrpt.Handle()
    library.tlsrpt_set_malloc_and_free(*ours)
    try:
        assert library.tlsrpt_open(ctypes.byref(handle), os.fsencode(recorder.recorder_socket)) == 0
        assert library.tlsrpt_init_delivery_request(ctypes.byref(request), handle, b"memory.example", RECORD) == 0
        assert taken == [handle.value, request.value]
        assert library.tlsrpt_init_policy(request, NO_POLICY_FOUND, None) == 0
        assert library.tlsrpt_finish_policy(request, 0) == 0
        assert library.tlsrpt_finish_delivery_request(ctypes.byref(request)) == 0
        assert library.tlsrpt_close(ctypes.byref(handle)) == 0
    finally:
        library.tlsrpt_set_malloc_and_free(*plain)
    assert taken == []
    assert _session(recorder, "memory.example").domain == "memory.example"
