"""Receiving MTAs of the made-up internet, each with a temper.

An :class:`Mta` is the MX of a domain: an SMTP server on its own port of 127.0.0.1 that shows the
certificate, or does about STARTTLS, what its :class:`Temper` says. Which port belongs to which host
name is the routing of ``sender.demo.internet``, as nobody may listen on port 25 without being root.
"""

import enum

from sender.demo import certificates, smtp

NOBODY = "somebody-else.example"
"""The name in a certificate of the wrong name."""


class Temper(enum.Enum):
    """How a receiving MTA takes a TLS session."""

    GOOD = "good"
    EXPIRED = "expired"
    """The certificate has ended."""
    WRONG_NAME = "wrong-name"
    """The certificate is for another name."""
    UNKNOWN_ISSUER = "unknown-issuer"
    """The certificate comes from an authority nobody knows, which is not in the chain."""
    SELF_SIGNED = "self-signed"
    NO_STARTTLS = "no-starttls"
    REFUSES_STARTTLS = "refuses-starttls"
    """STARTTLS is offered, and answered with 454."""
    GARBLES_HANDSHAKE = "garbles-handshake"
    """STARTTLS is accepted; what follows is not TLS."""
    HANGS_UP = "hangs-up"
    """STARTTLS is accepted, and the connection is closed."""


_STARTTLS = {
    Temper.NO_STARTTLS: smtp.Starttls.ABSENT,
    Temper.REFUSES_STARTTLS: smtp.Starttls.REFUSED,
    Temper.GARBLES_HANDSHAKE: smtp.Starttls.GARBAGE,
    Temper.HANGS_UP: smtp.Starttls.HANG_UP,
}


class Mta(smtp.Server):
    """A receiving MTA; an async context manager.

    Args:
        host: its host name, as in the MX record.
        temper: how it takes TLS sessions.
        authority: the authority that everybody in this internet trusts.
    """

    def __init__(self, host: str, temper: Temper, authority: certificates.Authority) -> None:
        self.temper = temper
        context = certificates.server_context(certificate(host, temper, authority))
        super().__init__(host, context, starttls=_STARTTLS.get(temper, smtp.Starttls.OFFERED))


def certificate(host: str, temper: Temper, authority: certificates.Authority) -> certificates.Certificate:
    """Return the certificate that a host shows by its temper."""
    match temper:
        case Temper.SELF_SIGNED:
            return certificates.self_signed(host)
        case Temper.UNKNOWN_ISSUER:
            return certificates.Authority("Unknown Root CA").issue((host,))
        case Temper.WRONG_NAME:
            return authority.issue((NOBODY,))
        case _:
            return authority.issue((host,), expired=temper is Temper.EXPIRED)
