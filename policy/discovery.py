"""Does this domain ask for reports? The TLSRPT record of a policy domain, from the DNS (RFC 8460 section 3).

Joins ``policy.resolver``, which asks, and ``policy.tlsrpt``, which judges; nothing of its own but the name asked for.
"""

from policy import resolver, tlsrpt

LABELS = "_smtp._tls"
"""Where a policy domain publishes (RFC 8460 section 3)."""


async def tlsrpt_record(resolver: resolver.Resolver, domain: str) -> tlsrpt.Record | None:
    """Return the TLSRPT record of a policy domain; ``None``: it does not ask for reports.

    Args:
        resolver: whom to ask.
        domain: the policy domain as A-labels.

    Raises:
        tlsrpt.InvalidRecordError: it publishes something that cannot be used.
        resolver.TemporaryError: ask again later.
    """
    return tlsrpt.choose(await resolver.txt(f"{LABELS}.{domain}") or ())
