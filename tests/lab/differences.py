"""Where another server differs from Postfix 3.10 in a scenario: data, each with its reason.

Pure. What is not listed must be as with Postfix 3.10, and what is listed must be as it says and must be different.
"""

import dataclasses

from tests.lab import scenarios, sites


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """What comes of a scenario instead; ``None``: the same. See ``tests.lab.scenarios.Scenario``."""

    why: str
    report: tuple[scenarios.Seen, ...] | None = None
    mail: scenarios.Mail | None = None
    tls: str | None = None
    waits: bool | None = None

    def applied(self, row: scenarios.Scenario) -> scenarios.Scenario:
        """Return the scenario as it goes here."""
        return dataclasses.replace(
            row,
            report=row.report if self.report is None else self.report,
            mail=row.mail if self.mail is None else self.mail,
            tls=row.tls if self.tls is None else self.tls,
            waits=row.waits if self.waits is None else self.waits,
        )

    def vain(self, row: scenarios.Scenario) -> list[str]:
        """Return the names of what is listed and is no difference; all of them: nothing is."""
        listed = {name: value for name in _OUTCOME if (value := getattr(self, name)) is not None}
        return [name for name, value in listed.items() if value == getattr(row, name)] if listed else list(_OUTCOME)


_OUTCOME = ("report", "mail", "tls", "waits")


def in_place(site: sites.Site, row: scenarios.Scenario) -> sites.Site:
    """Return a place with the scenario as it goes here, and without TLSA records: only Postfix 3.10 tells them."""
    hosts = tuple(dataclasses.replace(host, tlsa=()) for host in site.hosts)
    return dataclasses.replace(site, scenario=row, hosts=hosts)
