"""Duels: runs that write them, how many a round asks for; and decisions, the promotions so far among them."""

import sqlalchemy as sa
from alembic import op

import store.models

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PROMOTED = """
INSERT INTO decision (action, round_id, about_id, checkpoint_id, "by", gate, forced, created_at)
SELECT decision, id, result_checkpoint_id,
       CASE WHEN decision = 'promote' THEN result_checkpoint_id ELSE checkpoint_id END,
       COALESCE(decided_by, ''), '{}', false, COALESCE(decided_at, created_at)
FROM round WHERE decision IS NOT NULL AND result_checkpoint_id IS NOT NULL ORDER BY number
"""


def upgrade() -> None:
    with op.batch_alter_table("run") as batch:  # SQLite writes the table anew
        batch.drop_constraint("kind_known", type_="check")
        batch.create_check_constraint("kind_known", "kind IN ('sample', 'train', 'evaluate', 'duel')")
    op.add_column("round", sa.Column("duels", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "decision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("round_id", sa.Integer(), sa.ForeignKey("round.id"), nullable=True),
        sa.Column("about_id", sa.Integer(), sa.ForeignKey("checkpoint.id"), nullable=False),
        sa.Column("checkpoint_id", sa.Integer(), sa.ForeignKey("checkpoint.id"), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("gate", sa.JSON(), nullable=False),
        sa.Column("forced", sa.Boolean(), nullable=False),
        sa.Column("created_at", store.models.UtcDateTime(), nullable=False),
        sa.CheckConstraint("action IN ('promote', 'keep', 'roll_back')", name="action_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_decision_round_id", "decision", ["round_id"])
    op.execute(PROMOTED)
