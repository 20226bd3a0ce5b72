"""The scenarios: what is tried, what Postfix 3.10 must do with the mail, and what the day's report must say.

Pure values; every row is a domain of its own. What is expected of the report is what RFC 8460 asks for, as far as
Postfix lets anybody know: of plaintext at level ``may``, of an MX outside the MTA-STS policy, and of connections that
could not be made it tells nothing.
"""

from policy import mtasts
from sender import session
from sender.demo import mx
from tests.lab.scenarios import Detail, Host, Mail, PolicyHost, Rua, Scenario, Seen, Sts, Tlsa

NPF = session.PolicyType.NO_POLICY_FOUND
STS = session.PolicyType.STS
TLSA = session.PolicyType.TLSA
R = session.ResultType


def _ok(kind: session.PolicyType, count: int = 1, host: int = 0) -> tuple[Seen, ...]:
    return (Seen(kind, ok=count, host=host),)


def _bad(kind: session.PolicyType, result: session.ResultType, reason: str | None = None) -> tuple[Seen, ...]:
    return (Seen(kind, failed=1, details=(Detail(result, reason=reason),)),)


def _found(result: session.ResultType, reason: str, count: int = 1) -> Seen:
    """Return what the policy room reports when there is no policy to go on with."""
    return Seen(STS, failed=count, details=(Detail(result, None, reason, count),), fetched=False)


_T = mx.Temper
_DEFERRED = Mail.DEFERRED
_HANDSHAKE = "tls-handshake-failure"
_OWN_KEY = Host(tlsa=Tlsa.OWN_KEY)
_ENFORCE = Sts()

_PLAIN = (
    Scenario("plain", tls="Trusted", report=_ok(NPF)),
    Scenario("plain-own-rua", tls="Trusted", report=_ok(NPF), rua=Rua.OWN),
    Scenario("plain-https", tls="Trusted", report=_ok(NPF), rua=Rua.HTTPS),
    Scenario("plain-both", tls="Trusted", report=_ok(NPF), rua=Rua.BOTH),
    Scenario("plain-untrusted", (Host(_T.SELF_SIGNED),), tls="Untrusted", report=_ok(NPF)),
    Scenario("plain-expired", (Host(_T.EXPIRED),), tls="Untrusted", report=_ok(NPF)),
    Scenario("plain-wrong-name", (Host(_T.WRONG_NAME),), tls="Trusted", report=_ok(NPF)),
    Scenario("plain-no-starttls", (Host(_T.NO_STARTTLS),)),  # Postfix tells nothing of plaintext at level may
    Scenario("plain-refused", (Host(_T.REFUSES_STARTTLS),)),
    Scenario(
        "plain-garbled",
        (Host(_T.GARBLES_HANDSHAKE),),
        mail=_DEFERRED,
        report=_bad(NPF, R.VALIDATION_FAILURE, _HANDSHAKE),
    ),
    Scenario(
        "plain-hangs-up", (Host(_T.HANGS_UP),), mail=_DEFERRED, report=_bad(NPF, R.VALIDATION_FAILURE, _HANDSHAKE)
    ),
    Scenario(
        "plain-latin-1",
        (Host(_T.GARBLES_HANDSHAKE, latin_1=True),),
        mail=_DEFERRED,
        report=_bad(NPF, R.VALIDATION_FAILURE, _HANDSHAKE),
    ),
    Scenario("plain-down", (Host(listens=False),), mail=_DEFERRED),
    Scenario("plain-no-record", tls="Trusted", rua=Rua.NONE),
    Scenario("plain-two-records", tls="Trusted", rua=Rua.TWICE),
    Scenario("plain-no-rua", tls="Trusted", report=_ok(NPF), rua=Rua.NOWHERE),
    Scenario("plain-implicit", tls="Trusted", report=_ok(NPF), implicit=True),
    Scenario("plain-null-mx", (), mail=Mail.BOUNCED, null_mx=True),
    Scenario("plain-ipv6", (Host(ipv6=True),), tls="Trusted", report=_ok(NPF)),
    Scenario(
        "plain-ipv6-garbled",
        (Host(_T.GARBLES_HANDSHAKE, ipv6=True),),
        mail=_DEFERRED,
        report=_bad(NPF, R.VALIDATION_FAILURE, _HANDSHAKE),
    ),
    Scenario("plain-idn", name="bücher.example", tls="Trusted", report=_ok(NPF)),
    Scenario("plain-idn-ascii", name="xn--mnchen-3ya.example", tls="Trusted", report=_ok(NPF)),
    Scenario("plain-unsigned", zone="test", tls="Trusted", report=_ok(NPF)),
    Scenario("plain-recipients", tls="Trusted", report=_ok(NPF), recipients=3),
    Scenario("plain-again", tls="Trusted", report=(Seen(NPF, ok=3, ok_reused=1),), messages=3),
    Scenario(
        "plain-second-mx",
        (Host(_T.GARBLES_HANDSHAKE), Host()),
        tls="Trusted",
        report=(Seen(NPF, ok=1, failed=1, details=(Detail(R.VALIDATION_FAILURE, 0, _HANDSHAKE),)),),
    ),
)

_STS = (
    Scenario("sts", sts=_ENFORCE, tls="Verified", report=_ok(STS)),
    Scenario("sts-wildcard", sts=Sts(mx=("*.{}",)), tls="Verified", report=_ok(STS)),
    Scenario("sts-idn", name="straße.example", sts=_ENFORCE, tls="Verified", report=_ok(STS)),
    Scenario("sts-ipv6", (Host(ipv6=True),), sts=_ENFORCE, tls="Verified", report=_ok(STS)),
    Scenario("sts-again", sts=_ENFORCE, tls="Verified", report=(Seen(STS, ok=3, ok_reused=1),), messages=3),
    Scenario(
        "sts-expired",
        (Host(_T.EXPIRED),),
        _ENFORCE,
        _bad(STS, R.CERTIFICATE_EXPIRED),
        _DEFERRED,
        tls="Untrusted",
    ),
    Scenario(
        "sts-wrong-name",
        (Host(_T.WRONG_NAME),),
        _ENFORCE,
        _bad(STS, R.CERTIFICATE_HOST_MISMATCH),
        _DEFERRED,
        tls="Trusted",
    ),
    Scenario(
        "sts-unknown-issuer",
        (Host(_T.UNKNOWN_ISSUER),),
        _ENFORCE,
        _bad(STS, R.CERTIFICATE_NOT_TRUSTED, "unable_to_get_local_issuer_certificate"),
        _DEFERRED,
        tls="Untrusted",
    ),
    Scenario(
        "sts-self-signed",
        (Host(_T.SELF_SIGNED),),
        _ENFORCE,
        _bad(STS, R.CERTIFICATE_NOT_TRUSTED, "self-signed_certificate"),
        _DEFERRED,
        tls="Untrusted",
    ),
    Scenario("sts-no-starttls", (Host(_T.NO_STARTTLS),), _ENFORCE, _bad(STS, R.STARTTLS_NOT_SUPPORTED), _DEFERRED),
    Scenario("sts-refused", (Host(_T.REFUSES_STARTTLS),), _ENFORCE, _bad(STS, R.STARTTLS_NOT_SUPPORTED), _DEFERRED),
    Scenario(
        "sts-garbled",
        (Host(_T.GARBLES_HANDSHAKE),),
        _ENFORCE,
        _bad(STS, R.VALIDATION_FAILURE, _HANDSHAKE),
        _DEFERRED,
    ),
    Scenario("sts-hangs-up", (Host(_T.HANGS_UP),), _ENFORCE, _bad(STS, R.VALIDATION_FAILURE, _HANDSHAKE), _DEFERRED),
    Scenario(
        "sts-other-mx", sts=Sts(mx=("mail.{}",)), mail=_DEFERRED
    ),  # of an MX outside the policy Postfix tells nothing
    Scenario(
        "sts-second-mx",
        (Host(_T.EXPIRED), Host()),
        _ENFORCE,
        (Seen(STS, ok=1, failed=1, details=(Detail(R.CERTIFICATE_EXPIRED),)),),
        tls="Untrusted Verified",
    ),
    Scenario(
        "sts-own-rua",
        (Host(_T.WRONG_NAME),),
        _ENFORCE,
        _bad(STS, R.CERTIFICATE_HOST_MISMATCH),
        _DEFERRED,
        rua=Rua.OWN,  # the report comes in all the same, because it says TLS-Required: No
        tls="Trusted",
    ),
    Scenario("sts-testing", sts=Sts(mtasts.Mode.TESTING), tls="Trusted", report=_ok(NPF)),
    Scenario(
        "sts-testing-expired", (Host(_T.EXPIRED),), sts=Sts(mtasts.Mode.TESTING), tls="Untrusted", report=_ok(NPF)
    ),
    Scenario("sts-none", sts=Sts(mtasts.Mode.NONE), tls="Trusted", report=_ok(NPF)),
)

_FINDINGS = (
    ("sts-404", PolicyHost.MISSING, R.STS_POLICY_FETCH_ERROR, "http-404"),
    ("sts-500", PolicyHost.BROKEN, R.STS_POLICY_FETCH_ERROR, "http-500"),
    ("sts-redirect", PolicyHost.REDIRECTS, R.STS_POLICY_FETCH_ERROR, "redirect"),
    ("sts-host-down", PolicyHost.REFUSES, R.STS_POLICY_FETCH_ERROR, "connection-refused"),
    ("sts-host-nowhere", PolicyHost.NOWHERE, R.STS_POLICY_FETCH_ERROR, "no-address"),
    ("sts-no-mx", PolicyHost.NO_MX, R.STS_POLICY_INVALID, "mx-missing"),
    ("sts-html", PolicyHost.HTML, R.STS_POLICY_INVALID, "media-type"),
    ("sts-host-expired", PolicyHost.EXPIRED, R.STS_WEBPKI_INVALID, "certificate-expired"),
    ("sts-host-wrong-name", PolicyHost.WRONG_NAME, R.STS_WEBPKI_INVALID, "certificate-host-mismatch"),
    ("sts-host-self-signed", PolicyHost.SELF_SIGNED, R.STS_WEBPKI_INVALID, "certificate-not-trusted"),
)
"""Policies that cannot be had: mail goes out as without one, and the report tells both."""

_RECORDS = (
    ("sts-two-records", ("v=STSv1; id=1;", "v=STSv1; id=2;"), "several-records"),
    ("sts-bad-record", ("v=STSv1; id=no_good;",), "record-invalid"),
)

_UNFETCHED = (
    *(
        Scenario(id_, sts=Sts(host=host), tls="Trusted", report=(_found(result, reason), *_ok(NPF)))
        for id_, host, result, reason in _FINDINGS
    ),
    *(
        Scenario(
            id_,
            sts=Sts(records=records),
            tls="Trusted",
            report=(_found(R.STS_POLICY_INVALID, reason), *_ok(NPF)),
        )
        for id_, records, reason in _RECORDS
    ),
    Scenario(
        "sts-404-twice",
        sts=Sts(host=PolicyHost.MISSING),
        tls="Trusted",
        messages=2,
        report=(_found(R.STS_POLICY_FETCH_ERROR, "http-404", 2), Seen(NPF, ok=2, ok_reused=1)),
    ),
)

_DANE = (
    Scenario("dane", (_OWN_KEY,), tls="Verified", report=_ok(TLSA)),
    Scenario("dane-self-signed", (Host(_T.SELF_SIGNED, Tlsa.OWN_KEY),), tls="Verified", report=_ok(TLSA)),
    Scenario("dane-expired", (Host(_T.EXPIRED, Tlsa.OWN_KEY),), tls="Verified", report=_ok(TLSA)),
    Scenario(
        "dane-rollover",
        (Host(tlsa=Tlsa.ROLLOVER),),
        tls="Verified",
        messages=6,  # the resolver may give the two records in another order each time
        report=(Seen(TLSA, ok=6, ok_reused=1),),
    ),
    Scenario("dane-authority", (Host(tlsa=Tlsa.AUTHORITY, chain=True),), tls="Verified", report=_ok(TLSA)),
    Scenario(
        "dane-authority-wrong-name",
        (Host(_T.WRONG_NAME, Tlsa.AUTHORITY, chain=True),),
        tls="Trusted",
        mail=_DEFERRED,
        report=_bad(TLSA, R.CERTIFICATE_HOST_MISMATCH),
    ),
    Scenario(
        "dane-mismatch",
        (Host(tlsa=Tlsa.OTHER_KEY),),
        tls="Untrusted",
        mail=_DEFERRED,
        report=_bad(TLSA, R.CERTIFICATE_NOT_TRUSTED),
    ),
    Scenario(
        "dane-no-starttls",
        (Host(_T.NO_STARTTLS, Tlsa.OWN_KEY),),
        mail=_DEFERRED,
        report=_bad(TLSA, R.STARTTLS_NOT_SUPPORTED),
    ),
    Scenario(
        "dane-garbled",
        (Host(_T.GARBLES_HANDSHAKE, Tlsa.OWN_KEY),),
        mail=_DEFERRED,
        report=_bad(TLSA, R.VALIDATION_FAILURE, _HANDSHAKE),
    ),
    Scenario(
        "dane-unknown-digest",
        (Host(tlsa=Tlsa.UNKNOWN_DIGEST),),
        tls="Trusted",
        report=_bad(TLSA, R.TLSA_INVALID, "all-TLSA-records-unusable"),
    ),
    Scenario("dane-pkix", (Host(tlsa=Tlsa.PKIX),), tls="Trusted", report=_ok(NPF)),
    Scenario("dane-bogus", (Host(tlsa=Tlsa.BOGUS),), mail=_DEFERRED),
    Scenario("dane-unsigned", (_OWN_KEY,), zone="test", tls="Trusted", report=_ok(NPF)),
    Scenario("dane-alias", (Host(tlsa=Tlsa.OWN_KEY, alias=True),), tls="Verified", report=_ok(TLSA)),
    Scenario("dane-ipv6", (Host(tlsa=Tlsa.OWN_KEY, ipv6=True),), tls="Verified", report=_ok(TLSA)),
    Scenario("dane-idn", (_OWN_KEY,), name="żółw.example", tls="Verified", report=_ok(TLSA)),
    Scenario("dane-again", (_OWN_KEY,), tls="Verified", report=(Seen(TLSA, ok=3, ok_reused=1),), messages=3),
    Scenario("dane-host-record", (Host(tlsa=Tlsa.OWN_KEY, record=True),), tls="Verified", report=_ok(TLSA)),
    Scenario("dane-implicit", (_OWN_KEY,), tls="Verified", report=_ok(TLSA), implicit=True),
    Scenario(
        "dane-second-mx",
        (Host(tlsa=Tlsa.OTHER_KEY), _OWN_KEY),
        tls="Untrusted Verified",
        report=(
            Seen(TLSA, failed=1, details=(Detail(R.CERTIFICATE_NOT_TRUSTED),)),
            Seen(TLSA, ok=1, host=1),
        ),
    ),
    Scenario("dane-some", (_OWN_KEY, Host()), tls="Verified", report=_ok(TLSA)),
    Scenario(
        "dane-some-mismatch",
        (Host(tlsa=Tlsa.OTHER_KEY), Host()),
        tls="Untrusted Trusted",
        report=(Seen(TLSA, failed=1, details=(Detail(R.CERTIFICATE_NOT_TRUSTED),)), *_ok(NPF)),
    ),
)

_DANE_AND_STS = (
    Scenario("both", (_OWN_KEY,), _ENFORCE, tls="Verified", report=_ok(TLSA)),
    Scenario(
        "both-mismatch",
        (Host(tlsa=Tlsa.OTHER_KEY),),
        _ENFORCE,
        _bad(TLSA, R.CERTIFICATE_NOT_TRUSTED),
        _DEFERRED,
        tls="Untrusted",
    ),
    Scenario("both-expired", (Host(_T.EXPIRED, Tlsa.OWN_KEY),), _ENFORCE, tls="Verified", report=_ok(TLSA)),
    Scenario("both-unusable", (Host(tlsa=Tlsa.UNKNOWN_DIGEST),), _ENFORCE, tls="Verified", report=_ok(STS)),
    Scenario(
        "both-404",
        (_OWN_KEY,),
        Sts(host=PolicyHost.MISSING),
        tls="Verified",
        report=(_found(R.STS_POLICY_FETCH_ERROR, "http-404"), *_ok(TLSA)),
    ),
    Scenario("both-testing", (_OWN_KEY,), Sts(mtasts.Mode.TESTING), tls="Verified", report=_ok(TLSA)),
)

ALL = (*_PLAIN, *_STS, *_UNFETCHED, *_DANE, *_DANE_AND_STS)
"""Every row; ids are unique."""
