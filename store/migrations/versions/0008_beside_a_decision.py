"""A decision on a pair in doubt stands beside what its maker said as an annotator, and replaces it no more."""

import sqlalchemy as sa
from alembic import op

import store.models

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CURRENT = sa.text("superseded_at IS NULL")
# Whose latest verdict on a pair ended, while a decision of theirs stands; with each decision that may have ended it.
ENDED = """
SELECT said.id, said.superseded_at, ruling.created_at
FROM comparison AS said
JOIN comparison AS ruling ON ruling.pair_id = said.pair_id AND ruling.annotator_id = said.annotator_id
LEFT JOIN ranking ON ranking.id = said.ranking_id
WHERE NOT said.adjudicates AND said.superseded_at IS NOT NULL AND ranking.superseded_at IS NULL
  AND ruling.adjudicates AND ruling.id > said.id
  AND EXISTS (SELECT 1 FROM comparison AS standing WHERE standing.pair_id = said.pair_id
              AND standing.annotator_id = said.annotator_id AND standing.adjudicates
              AND standing.superseded_at IS NULL)
  AND NOT EXISTS (SELECT 1 FROM comparison AS later WHERE later.pair_id = said.pair_id
                  AND later.annotator_id = said.annotator_id AND NOT later.adjudicates AND later.id > said.id)
"""
# As in 0006: a gold pair is of no round, and was asked in the one that had been opened last.
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
# A decision about the pair that stands for a slate had closed the whole slate.
REOPENED = """
UPDATE pair SET open_slots = wanted - answered.number
FROM (SELECT asked.id AS pair_id, COUNT(said.id) AS number
      FROM pair AS asked
      LEFT JOIN (SELECT comparison.id, comparison.pair_id FROM comparison
                 JOIN annotator ON annotator.id = comparison.annotator_id
                 WHERE comparison.superseded_at IS NULL AND comparison.verdict <> 'skip'
                       AND NOT comparison.adjudicates AND annotator.retracted_at IS NULL) AS said
             ON said.pair_id = asked.id
      WHERE asked.slate_id IS NOT NULL AND asked.follows IS NULL
            AND EXISTS (SELECT 1 FROM comparison AS ruling WHERE ruling.pair_id = asked.id AND ruling.adjudicates)
      GROUP BY asked.id) AS answered
WHERE answered.pair_id = pair.id AND pair.wanted > answered.number
"""


def upgrade() -> None:
    op.drop_index("comparison_current", "comparison")
    op.create_index(
        "comparison_current",
        "comparison",
        ["pair_id", "annotator_id", "adjudicates"],
        unique=True,
        sqlite_where=CURRENT,
        postgresql_where=CURRENT,
    )
    replaced = _replaced()
    for number in replaced:
        op.get_bind().execute(sa.text("UPDATE comparison SET superseded_at = NULL WHERE id = :id"), {"id": number})
    if replaced:
        op.execute("DELETE FROM round_work")
        op.execute(COUNTED)
    op.execute(REOPENED)


def _replaced() -> set[int]:
    """The verdicts that a decision ended, by when they did: both were written in one transaction."""
    moment = store.models.UtcDateTime()
    found = sa.text(ENDED).columns(id=sa.Integer(), superseded_at=moment, created_at=moment)
    rows = op.get_bind().execute(found)
    return {number for number, ended, ruled in rows if abs((ended - ruled).total_seconds()) < 1}
