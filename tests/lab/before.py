"""What the log of a Postfix before 3.10 tells instead of what Postfix 3.10 reports: every difference, with its reason.

Pure values. Whatever is not in :data:`DIFFERENT` (and :data:`REUSED`) must be as with Postfix 3.10, and what is in it
must be as it says. What is different everywhere, because no log tells it, is in :func:`site`.
"""

import dataclasses
from collections.abc import Mapping

from tests.lab import sites
from tests.lab.differences import Difference, in_place
from tests.lab.rows import NPF, STS, TLSA, R
from tests.lab.scenarios import Detail, Seen

_NOBODY_LOOKED = Difference(
    "nobody has looked for the TLSRPT record yet; the reporter finds that there is none", (Seen(NPF, ok=1),)
)
_UNTRUSTED = "a certificate that does not fit the policy is Untrusted in the log, also where its issuer is trusted"

DIFFERENT: Mapping[str, Difference] = {
    "plain-no-record": _NOBODY_LOOKED,
    "plain-two-records": _NOBODY_LOOKED,
    "sts-wrong-name": Difference(_UNTRUSTED, tls="Untrusted"),
    "dane-authority-wrong-name": Difference(_UNTRUSTED, tls="Untrusted"),
    "sts-unknown-issuer": Difference(
        "one text for every issuer that is not trusted",
        (Seen(STS, failed=1, details=(Detail(R.CERTIFICATE_NOT_TRUSTED, reason="untrusted-issuer"),)),),
    ),
    "sts-other-mx": Difference(
        "before 3.10 the policy map names certificates, not MX hosts: the host is tried, and its certificate refused",
        (Seen(STS, failed=1, details=(Detail(R.CERTIFICATE_HOST_MISMATCH),)),),
        tls="Untrusted",
    ),
    "sts-own-rua": Difference(
        "Postfix before 3.10 does not know TLS-Required: No, so the report waits as other mail does",
        tls="Untrusted",
        waits=True,
    ),
    "sts-testing": Difference("tlsrpt tells what a policy in testing would have stopped: nothing", (Seen(STS, ok=1),)),
    "sts-testing-expired": Difference(
        "tlsrpt tells what a policy in testing would have stopped; why a certificate is not believed is logged only"
        " where that stops mail",
        (Seen(STS, failed=1, details=(Detail(R.CERTIFICATE_NOT_TRUSTED, reason="untrusted"),)),),
    ),
    "dane-alias": Difference(
        "the log has the name that is in the MX record, not the one that its CNAME leads to",
        (Seen(TLSA, ok=1, as_listed=True),),
    ),
}
"""By id of the scenario."""

REUSED: Mapping[str, Difference] = {
    "plain-second-mx": Difference(
        "tlsproxy logs a handshake that fails, and names only an address; smtp goes on to the next host",
        (Seen(NPF, ok=1, failed=1, details=(Detail(R.VALIDATION_FAILURE, None, "tls-handshake-failure"),)),),
    ),
    "sts-404-twice": Difference(
        "the policy socket is not asked for a delivery over a connection that is used again",
        (
            Seen(STS, failed=1, details=(Detail(R.STS_POLICY_FETCH_ERROR, None, "http-404"),), fetched=False),
            Seen(NPF, ok=1),
        ),
    ),
}
"""More of them where connections are used again."""


def difference(id_: str, *, reuse: bool) -> Difference | None:
    """Return what is listed for a scenario."""
    return (REUSED.get(id_) if reuse else None) or DIFFERENT.get(id_)


def site(place: sites.Site, *, reuse: bool) -> sites.Site:
    """Return a scenario of Postfix 3.10 in its place as it goes here: without what no log tells.

    Args:
        place: the scenario as it is with Postfix 3.10.
        reuse: whether connections are used again.
    """
    listed = difference(place.scenario.id, reuse=reuse)
    row = place.scenario if listed is None else listed.applied(place.scenario)
    return in_place(place, dataclasses.replace(row, report=tuple(map(_logged, row.report))))


def _logged(seen: Seen) -> Seen:
    """Leave out our own address, and what the host calls itself."""
    return dataclasses.replace(seen, details=tuple(dataclasses.replace(one, ends=False) for one in seen.details))
