"""A round is decided once: of two who did at the same moment, only the later counted, and the round says so."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

OF_ROUND = sa.text("action <> 'roll_back'")
# The earlier stays on record, as one that is of no round.
LATER = """
UPDATE decision SET round_id = NULL
WHERE action <> 'roll_back' AND round_id IS NOT NULL
  AND id NOT IN (SELECT MAX(id) FROM decision WHERE action <> 'roll_back' AND round_id IS NOT NULL GROUP BY round_id)
"""


def upgrade() -> None:
    op.execute(LATER)
    op.create_index(
        "decision_of_round", "decision", ["round_id"], unique=True, sqlite_where=OF_ROUND, postgresql_where=OF_ROUND
    )
