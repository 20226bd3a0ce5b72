"""Deliver reports: claim what is due, send each by mail or HTTPS, note how it went.

A conductor: ``message`` and ``signature`` make the mail, ``mail`` and ``policy.https`` carry it, ``outcome``
says what the answer means, ``noting`` keeps it, some deliveries at a time.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import functools
import math
from collections.abc import Callable, Coroutine

import structlog

from policy import https, tlsrpt
from sender import config, dsn, mail, message, noting, outcome, signature
from sender.store import deliveries, engine, reports

log = structlog.get_logger()

BATCH = 50
"""Deliveries claimed at a time, and HTTPS deliveries under way at a time: few are in the air when a process dies
(``noting`` adds fewer than ``noting.UNNOTED``)."""

PER_CONNECTION = 20
"""Mails of a batch that are worth a connection of their own: while one message is on its way, another is made."""

CONTENT_TYPE = "application/tlsrpt+gzip"
"""RFC 8460 section 5.4."""

ANY = deliveries.Selection()

Work = tuple[deliveries.Delivery, reports.Report]


Attempt = noting.Attempt


@dataclasses.dataclass(frozen=True, slots=True)
class Courier:
    """What delivering needs, put together once."""

    store: engine.Store
    identity: config.Identity
    retry_for: float
    """Seconds (RFC 8460 section 5.5)."""
    relay: mail.Relay
    ca_file: str
    signer: signature.Signer | None
    client: https.Client
    fraction: Callable[[], float]
    """Makes a number in [0, 1) for the jitter."""
    clock: Callable[[], dt.datetime]
    """Tells the time, aware."""
    timeouts: mail.Timeouts | None = None
    takes_bounces: bool = False
    """Whether each mail has an envelope sender of its own."""

    async def deliver(
        self, selection: deliveries.Selection = ANY, stopped: Callable[[], bool] = lambda: False
    ) -> list[Attempt]:
        """Make one batch of the deliveries that are due; an empty list when none is.

        Args:
            selection: which.
            stopped: whether no further attempt is to be begun; those not made are left as they were.

        Raises:
            store.engine.StoreError: the store cannot be used; what was sent but not noted is sent again.
        """
        batch = self._claim(selection)
        mails = collections.deque(one for one in batch if one[0].scheme == tlsrpt.Scheme.MAILTO)
        posts = [one for one in batch if one[0].scheme == tlsrpt.Scheme.HTTPS]
        async with noting.Notes(self.store) as notes:
            posted = (self._guarded(notes, delivery, self._post(delivery, made)) for delivery, made in posts)
            sent = (self._send(notes, mails, stopped) for _ in range(math.ceil(len(mails) / PER_CONNECTION)))
            done = await asyncio.gather(*sent, *posted, return_exceptions=True)
            for result in done:  # all have ended before one raises
                if isinstance(result, BaseException):
                    raise result
        return notes.noted

    def _claim(self, selection: deliveries.Selection) -> list[Work]:
        def work(connection: engine.Connection) -> list[Work]:
            claimed = deliveries.claim(connection, self.clock(), BATCH, selection)
            made = reports.by_id(connection, {one.report_id for one in claimed})
            return [(one, made[one.report_id]) for one in claimed]

        return self.store.change(work)

    async def _send(self, notes: noting.Notes, mails: collections.deque[Work], stopped: Callable[[], bool]) -> None:
        """Send the first of the mails that are left, over one connection, until none is."""
        until = self.clock() + deliveries.LEASE / 2
        connection = mail.Connection(self.relay, self.identity.domain, ca_file=self.ca_file, timeouts=self.timeouts)
        async with connection:
            while mails:
                await notes.recovered()
                if stopped() or self.clock() > until:  # a slow relay: the leases do not last for the rest
                    left = [one for one, _ in mails]
                    self.store.change(functools.partial(deliveries.release, claimed=left))
                    mails.clear()
                    return
                delivery, made = mails.popleft()
                await self._guarded(notes, delivery, self._send_one(connection, delivery, made))

    async def _send_one(
        self, connection: mail.Connection, delivery: deliveries.Delivery, made: reports.Report
    ) -> outcome.Outcome:
        composed = compose(self.identity, self.signer, delivery, made)
        sender = self.identity.sender
        if self.takes_bounces:
            sender = dsn.sender(sender, delivery.report_id, delivery.number)
        return await connection.send(sender, delivery.target, composed)

    async def _post(self, delivery: deliveries.Delivery, made: reports.Report) -> outcome.Outcome:
        try:
            answer = await self.client.post(delivery.target, made.packed, CONTENT_TYPE)
        except https.RefusedAddressError as error:
            return outcome.Refused(str(error))
        except https.HttpsError as error:
            return outcome.Deferred(str(error), None)
        return outcome.of_http(answer.status, answer.reason, answer.retry_after, self.clock())

    async def _guarded(
        self, notes: noting.Notes, delivery: deliveries.Delivery, sending: Coroutine[None, None, outcome.Outcome]
    ) -> None:
        """Note how an attempt ends; one that cannot be made must not keep all others from being made."""
        try:
            answer = await sending
        except Exception as error:
            log.exception("a delivery cannot be made, tried again", report_id=delivery.report_id, rua=delivery.rua)
            answer = outcome.Deferred(outcome.clean(f"the delivery cannot be made: {error!r}"), None)
        notes.add(self._ended(delivery, answer))

    def _ended(self, delivery: deliveries.Delivery, answer: outcome.Outcome) -> Attempt:
        now = self.clock()
        step = outcome.next_step(
            answer, delivery.attempts + 1, delivery.first_attempt or now, now, self.retry_for, self.fraction()
        )
        return Attempt(delivery, now, step)


def compose(
    identity: config.Identity,
    signer: signature.Signer | None,
    delivery: deliveries.Delivery,
    made: reports.Report,
) -> bytes:
    """Return the message of a delivery, signed if there is a signer (RFC 8460 section 5.3).

    It is the same each time but for the time in the signature.
    """
    composed = message.compose(
        message.Mail(
            identity=identity,
            policy_domain=made.domain,
            day=made.day,
            report_id=made.report_id,
            packed=made.packed,
            created=made.created,
            recipient=delivery.target,
            message_id=message.message_id(made.report_id, delivery.number),
        )
    )
    return composed if signer is None else signer.sign(composed)
