"""What automatic rounds were refused last; and rounds that are done are paused no more."""

import sqlalchemy as sa
from alembic import op

import store.models

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refusal",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("round_id", sa.Integer(), sa.ForeignKey("round.id"), nullable=True),
        sa.Column("created_at", store.models.UtcDateTime(), nullable=False),
        sa.CheckConstraint("id = 1", name="one_refusal"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("UPDATE round SET paused_at = NULL WHERE status = 'done'")
