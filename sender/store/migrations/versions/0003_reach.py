"""Whom reports do not go to, and by which rule a delivery goes where it goes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "suppressions",
        sa.Column("target", KEY, nullable=False, comment="an address or URL, as deliveries have it"),
        sa.Column("until", sa.BigInteger(), nullable=True, comment="none: for ever"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target"),
    )
    op.add_column("deliveries", sa.Column("rule", sa.Text(), comment="why it goes there"))
