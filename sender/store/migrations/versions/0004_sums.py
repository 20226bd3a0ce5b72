"""Sessions by day and kind over all domains, so that nobody has to go through the counts of a month for a plot."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the table, with what was counted before."""
    op.create_table(
        "sums",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("journal", KEY, nullable=False, comment="its identity: each host has rows of its own to write"),
        sa.Column("kind", KEY, nullable=False, comment="successful, failed, or a result type"),
        sa.Column("sessions", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "journal", "kind"),
    )
    for select in (
        "SELECT day, '', 'successful', sum(successful) FROM domain_days GROUP BY day",
        "SELECT day, '', 'failed', sum(failed) FROM domain_days GROUP BY day",
        "SELECT day, '', result_type, sum(sessions) FROM failures GROUP BY day, result_type",
    ):
        op.execute(f"INSERT INTO sums (day, journal, kind, sessions) {select}")
