"""The tables, as SQLAlchemy Core knows them; ``migrations`` makes them.

Keys lead with (day, domain), so that a database can spread them. Times are whole seconds since 1970 (UTC),
because both back ends compare and index those alike. A *closing* numbers the times a day was closed for a
domain: counts carry the number of the closing that takes them, 1 for the regular one at midnight; what comes
later carries 2. On PostgreSQL the tables of counts have a part for each day (``partitions``).
"""

import sqlalchemy as sa

metadata = sa.MetaData()

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that is part of a key: both back ends order it by its octets."""


UNDECIDED = "undecided"
"""State of a domain-day: no report was built or refused yet."""
REPORTED = "reported"
"""State of a domain-day: its report is built."""
SKIPPED = "skipped"
"""State of a domain-day: no report goes out, its reason tells why."""

positions = sa.Table(
    "positions",
    metadata,
    sa.Column("journal", KEY, primary_key=True, comment="its identity, not its host's name"),
    sa.Column("segment", KEY, primary_key=True),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False, comment="bytes of the segment that have been tallied"),
)

recorders = sa.Table(
    "recorders",
    metadata,
    sa.Column("journal", KEY, primary_key=True, comment="its identity"),
    sa.Column("host", sa.Text, nullable=False, comment="a name for people"),
    sa.Column("tallied", sa.BigInteger, nullable=False, comment="all that was received until then is counted"),
    sa.Column("ended", sa.Boolean, nullable=False, comment="it was stopped in order, and is not waited for"),
)

malformed = sa.Table(
    "malformed",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("reason", KEY, primary_key=True),
    sa.Column("datagrams", sa.BigInteger, nullable=False),
)

sums = sa.Table(
    "sums",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("journal", KEY, primary_key=True, comment="its identity: each host has rows of its own to write"),
    sa.Column("kind", KEY, primary_key=True, comment="successful, failed, or a result type"),
    sa.Column("sessions", sa.BigInteger, nullable=False),
)

closings = sa.Table(
    "closings",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("domain", KEY, primary_key=True, comment="empty: every domain"),
    sa.Column("closed", sa.Integer, nullable=False, comment="how often"),
)

domain_days = sa.Table(
    "domain_days",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("domain", KEY, primary_key=True),
    sa.Column("closing", sa.Integer, primary_key=True),
    sa.Column("record", sa.Text, comment="the TLSRPT record the last session brought"),
    sa.Column("successful", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, comment="undecided, reported or skipped"),
    sa.Column("reason", sa.Text, comment="why it is not reported"),
    sa.Column("leased_until", sa.BigInteger, comment="a reporter is at it until then; PostgreSQL only"),
    postgresql_partition_by="RANGE (day)",
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("domain", KEY, primary_key=True),
    sa.Column("closing", sa.Integer, primary_key=True),
    sa.Column("policy", KEY, primary_key=True, comment="key of the policy"),
    sa.Column("policy_type", sa.Text, nullable=False),
    sa.Column("policy_domain", KEY, nullable=False),
    sa.Column("policy_strings", sa.Text, nullable=False, comment="JSON array"),
    sa.Column("mx_hosts", sa.Text, nullable=False, comment="JSON array"),
    sa.Column("host_told", sa.Integer, nullable=False, comment="1: the MX host needs no report of it any more"),
    sa.Column("successful", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    postgresql_partition_by="RANGE (day)",
)

failures = sa.Table(
    "failures",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("domain", KEY, primary_key=True),
    sa.Column("closing", sa.Integer, primary_key=True),
    sa.Column("policy", KEY, primary_key=True),
    sa.Column("failure", KEY, primary_key=True, comment="key of the failure"),
    sa.Column("result_type", sa.Text, nullable=False),
    sa.Column("sending_mta_ip", sa.Text),
    sa.Column("receiving_mx_hostname", sa.Text),
    sa.Column("receiving_mx_helo", sa.Text),
    sa.Column("receiving_ip", sa.Text),
    sa.Column("additional_information", sa.Text),
    sa.Column("failure_reason_code", sa.Text),
    sa.Column("sessions", sa.BigInteger, nullable=False),
    postgresql_partition_by="RANGE (day)",
)

reports = sa.Table(
    "reports",
    metadata,
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("domain", KEY, primary_key=True, comment="the policy domain the report is about"),
    sa.Column("revision", sa.Integer, primary_key=True),
    sa.Column("report_id", KEY, nullable=False, unique=True),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("successful", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("packed", sa.LargeBinary, nullable=False, comment="the document, gzipped, exactly as sent"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("report_id", KEY, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, comment="of the rua in its record, from 1"),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("domain", KEY, nullable=False),
    sa.Column("rua", sa.Text, nullable=False, comment="as published"),
    sa.Column("scheme", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False, comment="the address or URL"),
    sa.Column("mail_domain", sa.Text, comment="of a mail address; for the loop guard"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_attempt", sa.BigInteger),
    sa.Column("next_attempt", sa.BigInteger, comment="none once settled"),
    sa.Column("leased_until", sa.BigInteger, comment="somebody is at it until then"),
    sa.Column("settled", sa.BigInteger),
    sa.Column("answer", sa.Text, comment="the last one"),
    sa.Column("rule", sa.Text, comment="why it goes there"),
    sa.Column("bounced", sa.BigInteger, comment="when the mail came back for good"),
    sa.Column("bounce", sa.Text, comment="status and reason of that"),
)

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column("target", KEY, primary_key=True, comment="an address or URL, as deliveries have it"),
    sa.Column("until", sa.BigInteger, comment="none: for ever"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
)

sa.Index(
    "domain_days_undecided",
    domain_days.c.day,
    domain_days.c.closing,
    domain_days.c.domain,
    sqlite_where=domain_days.c.state == UNDECIDED,
    postgresql_where=domain_days.c.state == UNDECIDED,
)
sa.Index(
    "domain_days_skipped",
    domain_days.c.day,
    domain_days.c.closing,
    domain_days.c.domain,
    sqlite_where=domain_days.c.state == SKIPPED,
    postgresql_where=domain_days.c.state == SKIPPED,
)
sa.Index(
    "policies_by_host",
    policies.c.day,
    policies.c.policy_domain,
    sqlite_where=(policies.c.policy_type == "tlsa") & (policies.c.host_told == 0),
    postgresql_where=(policies.c.policy_type == "tlsa") & (policies.c.host_told == 0),
)
sa.Index("deliveries_due", deliveries.c.state, deliveries.c.next_attempt, deliveries.c.report_id, deliveries.c.number)
sa.Index("deliveries_by_mail_domain", deliveries.c.mail_domain, deliveries.c.state, deliveries.c.settled)
sa.Index("deliveries_by_day", deliveries.c.day, deliveries.c.domain)
sa.Index(
    "deliveries_settled",
    deliveries.c.settled,
    deliveries.c.report_id,
    deliveries.c.number,
    sqlite_where=deliveries.c.settled.is_not(None),
    postgresql_where=deliveries.c.settled.is_not(None),
)
