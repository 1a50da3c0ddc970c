"""Holds of several annotators on one pair, guidelines, pausing a round."""

import sqlalchemy as sa
from alembic import op

import store.models

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_tables()
    op.add_column("round", sa.Column("paused_at", store.models.UtcDateTime(), nullable=True))
    # Written out: Alembic cannot add a column with its foreign key to SQLite without writing the table anew.
    op.execute("ALTER TABLE comparison ADD COLUMN guidelines_id INTEGER REFERENCES guidelines (id)")
    _change_pairs()


def _add_tables() -> None:
    moment = store.models.UtcDateTime()
    op.create_table(
        "hold",
        sa.Column("pair_id", sa.Integer(), sa.ForeignKey("pair.id"), primary_key=True),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), primary_key=True),
        sa.Column("until", moment, nullable=False),
    )
    op.create_index("ix_hold_annotator_id", "hold", ["annotator_id"])
    op.create_table(
        "queue_mark",
        sa.Column("round_id", sa.Integer(), sa.ForeignKey("round.id"), primary_key=True),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), primary_key=True),
        sa.Column("position", sa.Integer(), nullable=False),
    )
    op.create_table(
        "guidelines",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
    )
    op.create_index("ix_guidelines_hash", "guidelines", ["hash"])
    op.create_table(
        "guidelines_read",
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), primary_key=True),
        sa.Column("hash", sa.String(length=64), primary_key=True),
        sa.Column("created_at", moment, nullable=False),
    )


def _change_pairs() -> None:
    """What was held for a few minutes is held no more: whoever had it on screen is served it again."""
    op.drop_index("pair_held", "pair")
    with op.batch_alter_table("pair") as batch:  # SQLite writes the table anew
        batch.drop_column("held_by")
        batch.drop_column("held_until")
    gold = sa.text("gold_verdict IS NOT NULL")
    op.create_index("pair_gold", "pair", ["purpose", "id"], sqlite_where=gold, postgresql_where=gold)
