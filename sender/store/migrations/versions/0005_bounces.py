"""Which report mails came back."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the columns."""
    op.add_column("deliveries", sa.Column("bounced", sa.BigInteger(), comment="when the mail came back for good"))
    op.add_column("deliveries", sa.Column("bounce", sa.Text(), comment="status and reason of that"))
