"""The scenarios as they go with Exim: those of ``tests.lab.rows``, but for the differences that are listed here.

Pure values. Whatever is not in :data:`DIFFERENCES` must be with Exim as it is with Postfix, and what is in it must be
as it says, each for its reason. One thing is different everywhere: Exim does not tell the TLSA records
(:func:`site`).
"""

from collections.abc import Mapping

from tests.lab import rows, scenarios, sites
from tests.lab.differences import Difference, in_place
from tests.lab.rows import NPF, STS, TLSA, R
from tests.lab.scenarios import Detail, Mail, Seen

IN_THE_CLEAR = "Exim delivers in the clear where there is no TLS, and that is told"
TO_THE_FIRST = "Exim delivers to the first MX host, be it in the clear or with a bad certificate"
WORDS = "the reason is in the words of Exim or GnuTLS"
NO_STS = "Exim knows no MTA-STS: mail goes out, and the session is judged by the policy"
NO_WORDS = f"{NO_STS}; Exim gives no reason for a certificate that it lets pass"

GARBLED = "gnutls_handshake: Error decoding the received TLS packet."
HUNG_UP = "gnutls_handshake: The TLS connection was non-properly terminated."
DIFFERS = "certificate verification failed: Verification failed. The certificate differs."
REFUSED = "starttls-refused"

_SENT = Mail.SENT
_NO_STARTTLS = rows._bad(NPF, R.STARTTLS_NOT_SUPPORTED)
_MISMATCH = Detail(R.CERTIFICATE_NOT_TRUSTED, reason=DIFFERS)

_RECORDED = Difference("recorded all the same: Exim does not look whether the domain wants reports", rows._ok(NPF))

DIFFERENCES: Mapping[str, Difference] = {
    "plain-no-starttls": Difference(IN_THE_CLEAR, _NO_STARTTLS),
    "plain-refused": Difference(IN_THE_CLEAR, rows._bad(NPF, R.STARTTLS_NOT_SUPPORTED, REFUSED)),
    "plain-garbled": Difference(IN_THE_CLEAR, rows._bad(NPF, R.VALIDATION_FAILURE, GARBLED), _SENT),
    "plain-hangs-up": Difference(IN_THE_CLEAR, rows._bad(NPF, R.VALIDATION_FAILURE, HUNG_UP), _SENT),
    "plain-latin-1": Difference(IN_THE_CLEAR, rows._bad(NPF, R.VALIDATION_FAILURE, GARBLED), _SENT),
    "plain-ipv6-garbled": Difference(IN_THE_CLEAR, rows._bad(NPF, R.VALIDATION_FAILURE, GARBLED), _SENT),
    "plain-second-mx": Difference(TO_THE_FIRST, rows._bad(NPF, R.VALIDATION_FAILURE, GARBLED)),
    "plain-no-record": _RECORDED,
    "plain-two-records": _RECORDED,
    "sts-expired": Difference(NO_STS, mail=_SENT),
    "sts-wrong-name": Difference(NO_STS, mail=_SENT),
    "sts-unknown-issuer": Difference(NO_WORDS, rows._bad(STS, R.CERTIFICATE_NOT_TRUSTED), _SENT),
    "sts-self-signed": Difference(NO_WORDS, rows._bad(STS, R.CERTIFICATE_NOT_TRUSTED), _SENT),
    "sts-no-starttls": Difference(NO_STS, mail=_SENT),
    "sts-refused": Difference(NO_STS, rows._bad(STS, R.STARTTLS_NOT_SUPPORTED, REFUSED), _SENT),
    "sts-garbled": Difference(NO_STS, rows._bad(STS, R.VALIDATION_FAILURE, GARBLED), _SENT),
    "sts-hangs-up": Difference(NO_STS, rows._bad(STS, R.VALIDATION_FAILURE, HUNG_UP), _SENT),
    "sts-other-mx": Difference(NO_STS, rows._bad(STS, R.VALIDATION_FAILURE, "mx-not-in-policy"), _SENT),
    "sts-second-mx": Difference(TO_THE_FIRST, rows._bad(STS, R.CERTIFICATE_EXPIRED)),
    "sts-own-rua": Difference(NO_STS, mail=_SENT),
    "sts-testing": Difference("a policy in testing is told as one", rows._ok(STS)),
    "sts-testing-expired": Difference("a policy in testing is told as one", rows._bad(STS, R.CERTIFICATE_EXPIRED)),
    "sts-404-twice": Difference(
        "what a domain asks for is remembered for some minutes, so the policy is asked for once",
        (rows._found(R.STS_POLICY_FETCH_ERROR, "http-404"), Seen(NPF, ok=2, ok_reused=1)),
    ),
    "dane-authority-wrong-name": Difference("Exim lets it pass; the session is judged by the TLSA record", mail=_SENT),
    "dane-mismatch": Difference(WORDS, rows._bad(TLSA, R.CERTIFICATE_NOT_TRUSTED, DIFFERS)),
    "dane-no-starttls": Difference(
        WORDS,
        rows._bad(
            TLSA,
            R.STARTTLS_NOT_SUPPORTED,
            "a TLS session is required, but the server did not offer TLS support",
        ),
    ),
    "dane-garbled": Difference(WORDS, rows._bad(TLSA, R.VALIDATION_FAILURE, GARBLED)),
    "dane-unknown-digest": Difference("TLSA records that Exim cannot use count as none", rows._ok(NPF)),
    "dane-bogus": Difference(
        "Exim tells it; there is no connection",
        (
            Seen(
                TLSA,
                failed=1,
                details=(Detail(R.DNSSEC_INVALID, reason="DANE error: tlsa lookup DEFER", ends=False),),
            ),
        ),
    ),
    "dane-second-mx": Difference(WORDS, (Seen(TLSA, failed=1, details=(_MISMATCH,)), Seen(TLSA, ok=1, host=1))),
    "dane-some-mismatch": Difference(WORDS, (Seen(TLSA, failed=1, details=(_MISMATCH,)), *rows._ok(NPF))),
    "both-mismatch": Difference(WORDS, (Seen(TLSA, failed=1, details=(_MISMATCH,)),)),
}
"""By id of the scenario."""


def _row(row: scenarios.Scenario) -> scenarios.Scenario:
    difference = DIFFERENCES.get(row.id)
    return row if difference is None else difference.applied(row)


ALL = tuple(map(_row, rows.ALL))
"""Every row, as it goes with Exim."""


def site(place: sites.Site) -> sites.Site:
    """Return a scenario of Postfix in its place as it goes with Exim."""
    return in_place(place, _row(place.scenario))
