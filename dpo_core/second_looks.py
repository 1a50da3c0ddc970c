"""Second looks after a training: what the new checkpoint finds unlikely of what it learned from is asked again, blind.

    examine_trained   one pass without gradients over some of the training's pairs, under the checkpoint on disk
    ask_again         what it thinks of them is kept, and the most unlikely go back into the queue

Its parent's log-probs are there from the training. At most EXAMINED times as many pairs are examined as go back, so
that the pass stays small beside the training whatever that was on. Whom they go to and what becomes of them is the
store's (store/second_looks.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlmodel import Session

from dpo_core.evaluate import Judged, judge, save_rewards
from dpo_core.logps import PairLogps, checkpoint_logps
from dpo_core.progress import RunProgress
from dpo_core.training_plan import Plan
from dpo_core.workspace import Workspace
from store.database import reading
from store.models import Round
from store.second_looks import SPLIT, pairs_to_examine, queue_second_looks
from store.wording import counted

log = logging.getLogger("pairloop")
EXAMINED = 10  # pairs for each that may go back: of the ten, one is the most unlikely


def examine_trained(
    workspace: Workspace, plan: Plan, reference: Sequence[PairLogps], progress: RunProgress
) -> list[Judged]:
    """Pairs of the training under its checkpoint, against what it was held close to: `reference`, as `plan.train`.

    None where pairloop.toml asks for no second looks.
    """
    most = workspace.settings.queue.second_looks * EXAMINED
    if not most:
        return []
    known = {pair.pair_id: (pair, logps) for pair, logps in zip(plan.train, reference, strict=False)}  # then come ties
    with reading(workspace.engine) as session:
        drawn = pairs_to_examine(session=session, pair_ids=list(known), most=most, seed=plan.snapshot.hash)
    pairs = [known[pair_id][0] for pair_id in drawn]
    if not pairs:
        return []
    policy = checkpoint_logps(workspace, plan.trained, pairs, plan.training, progress)
    return judge(pairs, policy, [known[pair_id][1] for pair_id in drawn])


def ask_again(
    session: Session, workspace: Workspace, *, run_id: int, current: Round, judged: Sequence[Judged], beta: float
) -> int:
    """Keep what the round's new checkpoint thinks, and ask again what it finds most unlikely; how many."""
    settings, checkpoint_id = workspace.settings, current.result_checkpoint_id
    if not judged:
        return 0
    assert current.id is not None and checkpoint_id is not None
    save_rewards(session=session, run_id=run_id, checkpoint_id=checkpoint_id, judged=judged, split=SPLIT, beta=beta)
    session.flush()
    asked = queue_second_looks(
        session=session,
        run_id=run_id,
        checkpoint_id=checkpoint_id,
        round_id=current.id,
        count=settings.queue.second_looks,
        spread=settings.duels.against_parent + settings.duels.against_base,
        seed=settings.sampling.seed + current.number,
    )
    log.info("of %s examined, %d go back for a second look", counted(len(judged), "training pair"), asked)
    return asked
