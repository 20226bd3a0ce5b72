"""The relay: that it takes our mail; none is sent."""

from sender import config, mail
from sender.check import findings

TIMEOUTS = mail.Timeouts(connect=6.0, command=3.0, data=3.0)
"""A relay is near; a check should not take long."""


async def look(settings: config.Config, name: str) -> findings.Finding:
    """Connect, with TLS and AUTH as configured, and take leave."""
    relay = mail.parse_relay(settings.mail.relay)
    async with mail.Connection(relay, name, ca_file=settings.https.ca_file, timeouts=TIMEOUTS) as connection:
        trouble = await connection.probe()
    if trouble is None:
        return findings.ok("relay", f"the relay {relay} answers, with TLS and login as configured")
    return findings.error("relay", trouble, "correct mail.relay, or start the mail server there")
