"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "closings",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("domain", KEY, nullable=False, comment="empty: every domain"),
        sa.Column("closed", sa.Integer(), nullable=False, comment="how often"),
        sa.PrimaryKeyConstraint("day", "domain"),
    )
    op.create_table(
        "deliveries",
        sa.Column("report_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="of the rua in its record, from 1"),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("domain", KEY, nullable=False),
        sa.Column("rua", sa.Text(), nullable=False, comment="as published"),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False, comment="the address or URL"),
        sa.Column("mail_domain", sa.Text(), nullable=True, comment="of a mail address; for the loop guard"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_attempt", sa.BigInteger(), nullable=True),
        sa.Column("next_attempt", sa.BigInteger(), nullable=True, comment="none once settled"),
        sa.Column("leased_until", sa.BigInteger(), nullable=True, comment="somebody is at it until then"),
        sa.Column("settled", sa.BigInteger(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True, comment="the last one"),
        sa.PrimaryKeyConstraint("report_id", "number"),
    )
    op.create_index("deliveries_by_day", "deliveries", ["day", "domain"])
    op.create_index("deliveries_by_mail_domain", "deliveries", ["mail_domain", "state", "settled"])
    op.create_index("deliveries_due", "deliveries", ["state", "next_attempt"])
    op.create_table(
        "domain_days",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("domain", KEY, nullable=False),
        sa.Column("closing", sa.Integer(), nullable=False),
        sa.Column("record", sa.Text(), nullable=True, comment="the TLSRPT record the last session brought"),
        sa.Column("successful", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="undecided, reported or skipped"),
        sa.Column("reason", sa.Text(), nullable=True, comment="why it is not reported"),
        sa.PrimaryKeyConstraint("day", "domain", "closing"),
        postgresql_partition_by="RANGE (day)",
    )
    where = sa.text("state = 'undecided'")
    op.create_index(
        "domain_days_undecided", "domain_days", ["day", "domain", "closing"], sqlite_where=where, postgresql_where=where
    )
    op.create_table(
        "failures",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("domain", KEY, nullable=False),
        sa.Column("closing", sa.Integer(), nullable=False),
        sa.Column("policy", KEY, nullable=False),
        sa.Column("failure", KEY, nullable=False, comment="key of the failure"),
        sa.Column("result_type", sa.Text(), nullable=False),
        sa.Column("sending_mta_ip", sa.Text(), nullable=True),
        sa.Column("receiving_mx_hostname", sa.Text(), nullable=True),
        sa.Column("receiving_mx_helo", sa.Text(), nullable=True),
        sa.Column("receiving_ip", sa.Text(), nullable=True),
        sa.Column("additional_information", sa.Text(), nullable=True),
        sa.Column("failure_reason_code", sa.Text(), nullable=True),
        sa.Column("sessions", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "domain", "closing", "policy", "failure"),
        postgresql_partition_by="RANGE (day)",
    )
    op.create_table(
        "malformed",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("reason", KEY, nullable=False),
        sa.Column("datagrams", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "reason"),
    )
    op.create_table(
        "policies",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("domain", KEY, nullable=False),
        sa.Column("closing", sa.Integer(), nullable=False),
        sa.Column("policy", KEY, nullable=False, comment="key of the policy"),
        sa.Column("policy_type", sa.Text(), nullable=False),
        sa.Column("policy_domain", KEY, nullable=False),
        sa.Column("policy_strings", sa.Text(), nullable=False, comment="JSON array"),
        sa.Column("mx_hosts", sa.Text(), nullable=False, comment="JSON array"),
        sa.Column("host_told", sa.Integer(), nullable=False, comment="1: the MX host needs no report of it any more"),
        sa.Column("successful", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "domain", "closing", "policy"),
        postgresql_partition_by="RANGE (day)",
    )
    where = sa.text("policy_type = 'tlsa' AND host_told = 0")
    op.create_index(
        "policies_by_host", "policies", ["day", "policy_domain"], sqlite_where=where, postgresql_where=where
    )
    op.create_table(
        "positions",
        sa.Column("journal", KEY, nullable=False, comment="its identity, not its host's name"),
        sa.Column("segment", KEY, nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="bytes of the segment that have been tallied"),
        sa.PrimaryKeyConstraint("journal", "segment"),
    )
    op.create_table(
        "reports",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("domain", KEY, nullable=False, comment="the policy domain the report is about"),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("report_id", KEY, nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("successful", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False, comment="the document, gzipped, exactly as sent"),
        sa.PrimaryKeyConstraint("day", "domain", "revision"),
        sa.UniqueConstraint("report_id"),
    )
