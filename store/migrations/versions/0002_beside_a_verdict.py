"""What is said beside a verdict; rewrites; gold pairs and repeats."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PURPOSES = "purpose IN ('train', 'duel', 'gold', 'repeat', 'rewrite', 'calibration')"


def upgrade() -> None:
    for name in ("criteria", "flags"):
        op.add_column("comparison", sa.Column(name, sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("comparison", sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("comparison", sa.Column("adjudicates", sa.Boolean(), nullable=False, server_default=sa.false()))
    _refer("completion", "rewrite_of", "completion")
    _refer("completion", "annotator_id", "annotator")
    _change_pairs()


def _change_pairs() -> None:
    with op.batch_alter_table("pair") as batch:  # SQLite writes the table anew
        batch.drop_constraint("pair_once", type_="unique")
        batch.drop_constraint("purpose_known", type_="check")
        batch.create_check_constraint("purpose_known", PURPOSES)
        batch.add_column(sa.Column("gold_verdict", sa.String(), nullable=True))
        batch.create_check_constraint(
            "gold_known", "gold_verdict IS NULL OR gold_verdict IN ('a', 'b', 'tie', 'both_bad')"
        )
        batch.add_column(sa.Column("note", sa.String(), nullable=True))
    _refer("pair", "repeats", "pair")
    _refer("pair", "asked_of", "annotator")
    _unique("pair_once", ["completion_a_id", "completion_b_id", "purpose"], where="asked_of IS NULL")
    _unique("pair_repeated_once", ["repeats", "asked_of"], where="asked_of IS NOT NULL")


def _refer(table: str, column: str, to: str) -> None:
    # Written out: Alembic cannot add a column with its foreign key to SQLite without writing the table anew.
    op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER REFERENCES {to} (id)")


def _unique(name: str, columns: list[str], *, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, "pair", columns, unique=True, sqlite_where=condition, postgresql_where=condition)
