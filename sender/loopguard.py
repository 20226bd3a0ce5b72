"""The loop guard: a report mail makes a TLS session, which would make a report tomorrow, for ever.

Pure. RFC 8460 section 3 says that such a session SHOULD NOT be in the next report; nothing in a session tells
that it was one. So where *all* sessions of a domain-day can be our own report mails, no report goes out. ``TLS-
Required: No`` stops the loop only with Postfix of August 2025 and later.

Known limit: a session of our own beside sessions of others is reported with them; a report mail that the relay
keeps trying against an MX that fails is no longer told from other mail after its first failure. A domain that
takes report mails for many others has, beside them, few sessions of its own on some days, and gets no report
for such a day.
"""

import datetime as dt

LEAD = dt.timedelta(hours=1)
"""A report mail handed over so long before midnight may make its session after it: relays queue."""


def window(day: dt.date) -> tuple[dt.datetime, dt.datetime]:
    """Return from when to when report mails must have been handed over to be sessions of a day."""
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    return start - LEAD, start + dt.timedelta(days=1)


def all_our_own(successful: int, failed: int, mailed: int) -> bool:
    """Tell whether all sessions of a domain-day can be report mails.

    A mail makes at most one success, and one failure where the first of two MX hosts is broken.

    Args:
        successful: sessions of the domain-day.
        failed: likewise.
        mailed: report mails handed over for addresses at the domain in the :func:`window` of the day.
    """
    return mailed > 0 and successful <= mailed and failed <= mailed
