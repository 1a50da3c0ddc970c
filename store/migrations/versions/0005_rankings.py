"""Completions ranked together: slates, rankings, and the comparisons that come of them."""

import sqlalchemy as sa
from alembic import op

import store.models

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_slates()
    _add_rankings()
    _refer("pair", "slate_id", "slate")
    _refer("pair", "follows", "pair")
    _refer("comparison", "ranking_id", "ranking")
    op.create_index("ix_pair_slate_id", "pair", ["slate_id"])
    op.create_index("ix_comparison_ranking_id", "comparison", ["ranking_id"])


def _add_slates() -> None:
    op.create_table(
        "slate",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("prompt_id", sa.Integer(), sa.ForeignKey("prompt.id"), nullable=False),
        sa.Column("round_id", sa.Integer(), sa.ForeignKey("round.id"), nullable=True),
        sa.Column("content_hash", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("order_seed", sa.BigInteger(), nullable=False),
        sa.Column("created_at", store.models.UtcDateTime(), nullable=False),
        sa.CheckConstraint("size >= 2", name="size_enough"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_slate_prompt_id", "slate", ["prompt_id"])
    op.create_index("ix_slate_content_hash", "slate", ["content_hash"])
    _unique("slate_imported_once", "slate", ["content_hash"], where="round_id IS NULL")
    op.create_table(
        "slate_item",
        sa.Column("slate_id", sa.Integer(), sa.ForeignKey("slate.id"), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("completion_id", sa.Integer(), sa.ForeignKey("completion.id"), nullable=False),
        sa.PrimaryKeyConstraint("slate_id", "place"),
        sa.UniqueConstraint("slate_id", "completion_id", name="item_once"),
    )
    op.create_index("ix_slate_item_completion_id", "slate_item", ["completion_id"])


def _add_rankings() -> None:
    op.create_table(
        "ranking",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("slate_id", sa.Integer(), sa.ForeignKey("slate.id"), nullable=False),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("tiers", sa.JSON(), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("guidelines_id", sa.Integer(), sa.ForeignKey("guidelines.id"), nullable=True),
        sa.Column("created_at", store.models.UtcDateTime(), nullable=False),
        sa.Column("superseded_at", store.models.UtcDateTime(), nullable=True),
        sa.CheckConstraint("outcome IN ('ranked', 'all_bad', 'skip')", name="outcome_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    _unique("ranking_current", "ranking", ["slate_id", "annotator_id"], where="superseded_at IS NULL")


def _refer(table: str, column: str, to: str) -> None:
    # Written out: Alembic cannot add a column with its foreign key to SQLite without writing the table anew.
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER REFERENCES {to} (id)")


def _unique(name: str, table: str, columns: list[str], *, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=True, sqlite_where=condition, postgresql_where=condition)
