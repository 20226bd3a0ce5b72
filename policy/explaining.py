"""One domain, looked up for a person: what the policy socket answers, and every step that leads there.

A conductor. Everything is asked anew, the policy host included, so that what is wrong there shows now; beside that the
policy that the socket keeps goes on to hold, as there. Nothing is kept and no finding is told to the recorder.

Known limits: the socket remembers its answer until the DNS answers it stands on end, so after a change it may answer as
before for that time.
"""

import asyncio
import dataclasses

from policy import dane, discovery, https, postfix, resolver, sts, tlsrpt, verdict


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """What a domain asks for."""

    decided: verdict.Verdict
    record: tlsrpt.Record | None
    """How it wants to hear of failures; ``None``: not at all, or see ``trouble``."""
    trouble: str | None
    """A sentence: its TLSRPT record cannot be used, or is not known now, and why."""

    def answers(self) -> dict[str, str]:
        """Return what Postfix is told, by map name."""
        named = {postfix.QUERY: False, postfix.QUERY_WITH_TLSRPT: True}
        return {name.decode(): postfix.answer(self.decided, tlsrpt=tlsrpt).decode() for name, tlsrpt in named.items()}


async def explain(
    dns: resolver.Resolver, client: https.Client, domain: str, known: sts.Known | None, *, port: int = 443
) -> Explanation:
    """Look a domain up.

    Args:
        dns: whom to ask.
        client: fetches the policy.
        domain: A-labels in lower case.
        known: the policy that is kept and has not expired.
        port: of policy hosts; another one than 443 is for tests.
    """
    about_dane, about_sts, (record, trouble) = await asyncio.gather(
        dane.look_up(dns, domain),
        sts.look_up(dns, client, domain, known, refresh=True, port=port),
        _reports(dns, domain),
    )
    return Explanation(verdict.decide(domain, about_dane.dane, about_sts.sts), record, trouble)


async def _reports(dns: resolver.Resolver, domain: str) -> tuple[tlsrpt.Record | None, str | None]:
    try:
        return await discovery.tlsrpt_record(dns, domain), None
    except tlsrpt.InvalidRecordError as error:
        return None, f"The TLSRPT record cannot be used: {error}."
    except resolver.TemporaryError as error:
        return None, f"The TLSRPT record is not known now: {error}."
