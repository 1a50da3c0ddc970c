"""Which two of a prompt's completions are worth a person's time.

    select_pair    texts, and the policy's implicit rewards of them, in; which two to ask about out

    near      the two whose rewards are closest: there the policy does not know, and learns most from being told
    far       the two whose rewards are farthest apart: there it is sure, and would be confidently wrong
    diverse   the two texts least alike
    mixed     one of these, drawn for each prompt
    random    any two

None of these asks about near-duplicates where two others are there. A share of the prompts is left to chance entirely
(`slice`): the first two texts as they were written, near-duplicates or not. That share is what the others are measured
by (store/selected.py). Held-out prompts are left to chance as well: what judges a policy must not be selected by it.
One pair is asked for each prompt, and prompts take turns (store/prompts.py), so pairs are spread over prompts whatever
the rule.

Every draw follows from the name it is given. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from dpo_core.alikeness import SAME, similarity, words_and_signs
from dpo_core.config import SelectionSettings
from store.hashing import text_hash
from store.models import SelectedBy

BY_REWARD = ("near", "far", "mixed")  # rules that ask for rewards
MIXTURE = (SelectedBy.NEAR, SelectedBy.FAR, SelectedBy.DIVERSE)
Two = tuple[int, int]


@dataclass(frozen=True)
class Selected:
    """Two completions, by their places, in the order in which they were written; and why these.

    `margin`: the reward of the first less that of the second, where rewards are known.
    """

    two: Two
    by: SelectedBy
    margin: float | None


def select_pair(
    texts: Sequence[str], *, settings: SelectionSettings, named: str, rewards: Sequence[float] | None = None
) -> Selected:
    """The two of these different texts to ask about; there are two at least.

    `rewards`: what the policy thinks of each. Without them (the base writes, which has moved away from nothing)
    near and far are drawn at random, and said to be. `named`: what the draws follow from.
    """
    draw = Random(int(text_hash(f"select:{named}")[:12], 16))
    by = _rule(settings, draw, known=rewards is not None)
    # Where only two came out, they are what any rule selects, and count as such: left out, prompts on which the policy
    # has little to say would be missing on this side of the comparison alone.
    two = (0, 1) if by == SelectedBy.SLICE else _best(texts, by, rewards or (), draw)
    margin = None if rewards is None else rewards[two[0]] - rewards[two[1]]
    return Selected(two, by, margin)


def _rule(settings: SelectionSettings, draw: Random, *, known: bool) -> SelectedBy:
    if draw.random() < settings.random_share:
        return SelectedBy.SLICE
    by = draw.choice(MIXTURE) if settings.by == "mixed" else SelectedBy(settings.by)
    return SelectedBy.RANDOM if by in (SelectedBy.NEAR, SelectedBy.FAR) and not known else by


def _best(texts: Sequence[str], by: SelectedBy, rewards: Sequence[float], draw: Random) -> Two:
    """Which two the rule takes, of all that are no near-duplicates; of all where all are."""
    every = list(combinations(range(len(texts)), 2))
    draw.shuffle(every)  # so that chance decides between equals
    tokens = [words_and_signs(text) for text in texts]
    alike = {(one, other): similarity(tokens[one], tokens[other]) for one, other in every}
    costs: dict[SelectedBy, Callable[[Two], float]] = {
        SelectedBy.NEAR: lambda two: abs(rewards[two[0]] - rewards[two[1]]),
        SelectedBy.FAR: lambda two: -abs(rewards[two[0]] - rewards[two[1]]),
        SelectedBy.DIVERSE: alike.__getitem__,
        SelectedBy.RANDOM: lambda two: 0.0,
    }
    return min([two for two in every if alike[two] < SAME] or every, key=costs[by])  # the first of several
