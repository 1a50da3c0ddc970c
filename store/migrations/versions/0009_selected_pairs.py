"""How a pair was selected from several completions, and what the policy thought of it then."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("pair", sa.Column("selected_by", sa.String(), nullable=True))
    op.add_column("pair", sa.Column("selected_margin", sa.Float(), nullable=True))
