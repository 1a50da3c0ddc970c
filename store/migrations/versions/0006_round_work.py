"""How much of each round everybody has done, counted once from what was said before."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A gold pair is of no round: it was asked in the one that had been opened last.
COUNTED = """
INSERT INTO round_work (round_id, annotator_id, judged, measured)
SELECT round_id, annotator_id, SUM(judged), SUM(1 - judged) FROM (
    SELECT comparison.annotator_id AS annotator_id,
           CASE WHEN pair.purpose = 'gold'
                THEN (SELECT MAX(round.id) FROM round WHERE round.created_at <= comparison.created_at)
                ELSE pair.round_id END AS round_id,
           CASE WHEN pair.purpose IN ('train', 'duel') THEN 1 ELSE 0 END AS judged
    FROM comparison JOIN pair ON pair.id = comparison.pair_id
    WHERE comparison.superseded_at IS NULL AND comparison.verdict <> 'skip' AND NOT comparison.adjudicates
          AND pair.purpose IN ('train', 'duel', 'gold', 'repeat')
) AS standing WHERE round_id IS NOT NULL GROUP BY round_id, annotator_id
"""


def upgrade() -> None:
    op.create_table(
        "round_work",
        sa.Column("round_id", sa.Integer(), sa.ForeignKey("round.id"), autoincrement=False, nullable=False),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), autoincrement=False, nullable=False),
        sa.Column("judged", sa.Integer(), nullable=False),
        sa.Column("measured", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("round_id", "annotator_id"),
    )
    op.execute(COUNTED)
