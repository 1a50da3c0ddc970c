"""Exchanges of the Playground: what two checkpoints were asked, and what they wrote."""

import sqlalchemy as sa
from alembic import op

import store.models

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = store.models.UtcDateTime()
    op.create_table(
        "exchange",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("asked_by_id", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("checkpoint_a_id", sa.Integer(), sa.ForeignKey("checkpoint.id"), nullable=False),
        sa.Column("checkpoint_b_id", sa.Integer(), sa.ForeignKey("checkpoint.id"), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("text_a", sa.String(), nullable=False),
        sa.Column("text_b", sa.String(), nullable=False),
        sa.Column("made", sa.JSON(), nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", moment, nullable=True),
        sa.Column("prompt_id", sa.Integer(), sa.ForeignKey("prompt.id"), nullable=True),
        sa.Column("pair_id", sa.Integer(), sa.ForeignKey("pair.id"), nullable=True),
        sa.Column("kept_from", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=True),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("finished_at", moment, nullable=True),
        sa.CheckConstraint("status IN ('waiting', 'writing', 'done', 'failed', 'stopped')", name="status_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    for column in ("asked_by_id", "status", "pair_id"):
        op.create_index(f"ix_exchange_{column}", "exchange", [column])
