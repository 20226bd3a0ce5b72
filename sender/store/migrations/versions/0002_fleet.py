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
    skipped = sa.text("state = 'skipped'")
    key = ["day", "domain", "closing"]
    op.create_index("domain_days_skipped", "domain_days", key, sqlite_where=skipped, postgresql_where=skipped)
    settled = sa.text("settled IS NOT NULL")
    op.create_index("deliveries_settled", "deliveries", ["settled"], sqlite_where=settled, postgresql_where=settled)
