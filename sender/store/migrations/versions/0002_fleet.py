"""Several hosts and reporters: who records, who is at which domain-day; listings by index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "recorders",
        sa.Column("journal", KEY, nullable=False, comment="its identity"),
        sa.Column("host", sa.Text(), nullable=False, comment="a name for people"),
        sa.Column("tallied", sa.BigInteger(), nullable=False, comment="all that was received until then is counted"),
        sa.Column("ended", sa.Boolean(), nullable=False, comment="it was stopped in order, and is not waited for"),
        sa.PrimaryKeyConstraint("journal"),
    )
    leased = sa.Column("leased_until", sa.BigInteger(), comment="a reporter is at it until then; PostgreSQL only")
    op.add_column("domain_days", leased)
    key = ["day", "closing", "domain"]  # what is closed and what is open lie apart
    op.drop_index("domain_days_undecided", "domain_days")
    for state in ("undecided", "skipped"):
        where = sa.text(f"state = '{state}'")
        op.create_index(f"domain_days_{state}", "domain_days", key, sqlite_where=where, postgresql_where=where)
    op.drop_index("deliveries_due", "deliveries")
    op.create_index("deliveries_due", "deliveries", ["state", "next_attempt", "report_id", "number"])
    where = sa.text("settled IS NOT NULL")
    key = ["settled", "report_id", "number"]
    op.create_index("deliveries_settled", "deliveries", key, sqlite_where=where, postgresql_where=where)
