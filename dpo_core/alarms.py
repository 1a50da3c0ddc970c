"""Alarms: what to know about a training before, while and after it happens, in a researcher's words.

    alarms_before   looks at the pairs as the model will see them
    alarms_held_out looks at those that it is judged by
    TrainingWatch   hears every step's metrics
    alarms_after    compares what the parent and the new checkpoint write
    alarms_canary   compares how well both predict a text that has nothing to do with the pairs

All are functions of what they are given, so that a run that was killed and resumed comes to the same alarms. A note may
well be what was meant; a warning seldom is. Importable without torch: pages and commands show alarms.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from dpo_core.alikeness import SAME, similarity
from store.wording import counted

if TYPE_CHECKING:
    from dpo_core.tokenization import TokenizedPair
    from store.models import Run
    from store.snapshots import PreferencePair

SHOWN = 20  # pairs that an alarm names: enough to look at, and a run's row stays small
MANY = 0.05  # share of pairs from which on a flaw shapes the training; below it, it is a note
END = 3  # tokens at the end in which EOS is looked for: templates may put a line break or two after it
CLEAR_PAIRS = 10  # below this, the standard error itself is a guess
CLEAR_SAMPLES = 8  # the same prompts and seeds are compared, so fewer will do
CLEAR_SHARE = 0.2  # of the length: people prefer texts 10 to 20% longer on most public data, without more ado
QUOTED = 60  # characters of a prompt, to know it again
FALL = 0.1  # nats a token: each token of the chosen completions a tenth less likely than under the parent
RISE = 0.1  # of the perplexity: trainings that leave a model's abilities alone move it by a few percent
CANARY_RISEN = "canary-perplexity-risen"
HELD_OUT = "held-out pair"
HEARD = ("rewards/chosen", "rewards/accuracies", "rewards/margins")
FEWEST_STEPS = 3  # in the average that tells a fall: one step's batch may be odd
AT_ONCE_PAIRS = 16  # judges that agree on 75% of pairs are right 16 times running in 1% of cases
AT_ONCE_MARGIN = 1.0  # a loss of 0.31 where it began at 0.69: not a hair's breadth on the right side


@dataclass(frozen=True)
class Alarm:
    """What happened and what to do about it.

    `pairs` are the ids of those concerned, `SHOWN` at most; `example` is how the prompt of the first of them begins.
    """

    name: str  # the same in every version, for scripts
    level: Literal["note", "warning"]
    text: str
    pairs: tuple[int, ...] = ()
    example: str = ""

    @property
    def title(self) -> str:
        """The name as words."""
        return self.name.replace("-", " ")

    @property
    def whole_text(self) -> str:
        """The text, and which pairs it is about."""
        more = " and more" if len(self.pairs) == SHOWN else ""
        asks = f"; the first asks: “{self.example}”" if self.example else ""
        which = f" Pairs concerned: {', '.join(map(str, self.pairs))}{more}{asks}." if self.pairs else ""
        return self.text + which


def recorded_alarms(record: dict[str, Any]) -> list[Alarm]:
    """Alarms as a checkpoint's metrics keep them; none where there are none."""
    return [Alarm(**entry | {"pairs": tuple(entry["pairs"])}) for entry in record.get("alarms", [])]


def run_alarms(run: Run) -> list[Alarm]:
    """A run's alarms: those of its result, or those so far."""
    return recorded_alarms(run.result if "alarms" in run.result else run.progress)


def left_out(
    found: Sequence[PreferencePair], kept: Sequence[TokenizedPair], *, max_length: int, context: int | None = None
) -> list[Alarm]:
    """Pairs that are not trained on: their prompts leave no room for a completion.

    `context`: how many positions the model has, where it says so.
    """
    lost = _lost(found, kept)
    remedy = "Ask shorter prompts." if max_length == context else "Raise training.max_length, or ask shorter prompts."
    text = (
        f"{_of(len(lost), len(found))} are left out: their prompts alone leave no room within "
        f"{_limit(max_length, context)}. {remedy}"
    )
    alarm = Alarm("left-out-pairs", _level(lost, found), text, tuple(lost[:SHOWN]))
    return with_examples([alarm], found) if lost else []


def _lost(found: Sequence[PreferencePair], kept: Sequence[TokenizedPair]) -> list[int]:
    known = {pair.pair_id for pair in kept}
    return sorted(pair.pair_id for pair in found if pair.pair_id not in known)


def with_examples(alarms: Sequence[Alarm], found: Sequence[PreferencePair]) -> list[Alarm]:
    """The alarms, each with the beginning of the first pair's prompt: ids alone are shown nowhere else."""
    asked = {pair.pair_id: " ".join(pair.messages[-1]["content"].split()) for pair in found}
    first = [asked.get(alarm.pairs[0], "") if alarm.pairs else "" for alarm in alarms]
    return [
        replace(alarm, example=text if len(text) <= QUOTED else text[:QUOTED].rstrip() + "…")
        for alarm, text in zip(alarms, first, strict=True)
    ]


def alarms_before(
    pairs: Sequence[TokenizedPair],
    *,
    eos_ids: Collection[int],
    max_length: int,
    context: int | None = None,
    ties: Sequence[TokenizedPair] = (),
) -> list[Alarm]:
    """What can be told from the tokens alone. `eos_ids`: the tokens that end a completion; `context` as `left_out`.

    `ties` that are trained on have ends and prompts as well, but nothing in them was chosen: they may be alike.
    """
    every = [*pairs, *ties]
    return [
        *_cut(every, max_length, context),
        *_tails_lost(every),
        *_missing_eos(every, eos_ids),
        *_near_identical(pairs),
        *_length_bias(pairs),
    ]


def _cut(pairs: Sequence[TokenizedPair], max_length: int, context: int | None) -> list[Alarm]:
    cut = [pair for pair in pairs if pair.chosen_cut or pair.rejected_cut]
    text = (
        f"The end of a completion is cut off in {_of(len(cut), len(pairs))}, by {_limit(max_length, context)}: neither "
        f"the end nor the token that closes it is learned from. {_uncut(cut, max_length, context)}"
    )
    return [Alarm("cut-completions", _level(cut, pairs), text, _ids(cut))] if cut else []


def _uncut(cut: Sequence[TokenizedPair], max_length: int, context: int | None) -> str:
    """What it takes for nothing to be cut."""
    longest = max(
        (
            len(pair.prompt_ids)
            + max(len(pair.chosen_ids) + pair.chosen_cut, len(pair.rejected_ids) + pair.rejected_cut)
            for pair in cut
        ),
        default=0,
    )
    return f"The longest pair needs {longest} tokens: {_longer_or_shorter(max_length, context)}"


def _limit(max_length: int, context: int | None) -> str:
    """What texts are held to: the model's own positions, which no setting adds to, or max_length."""
    return f"the model's own {context} positions" if max_length == context else f"max_length = {max_length} tokens"


def _longer_or_shorter(max_length: int, context: int | None) -> str:
    if max_length == context:
        return "a higher max_length cannot help. Have shorter texts written (sampling.max_new_tokens), or import such."
    room = f", up to the {context} positions that the model has" if context else ""
    return f"raise training.max_length{room}."


def _tails_lost(pairs: Sequence[TokenizedPair]) -> list[Alarm]:
    lost = [pair for pair in pairs if pair.prompt_tail_lost]
    if not lost:
        return []
    text = (
        f"The end of the prompt is lost in {_of(len(lost), len(pairs))} (up to "
        f"{counted(max(pair.prompt_tail_lost for pair in lost), 'token')}): the chat template renders it differently "
        "once a completion follows, so the model is trained on a context that it does not see when it writes. Mend the "
        "template: a prompt with its completion must begin with the very tokens of the prompt alone."
    )
    return [Alarm("lost-prompt-tails", "warning", text, _ids(lost))]


def _missing_eos(pairs: Sequence[TokenizedPair], eos_ids: Collection[int]) -> list[Alarm]:
    # A completion that was cut lost its end with the rest, which is an alarm of its own.
    endless = [
        pair
        for pair in pairs
        if (not pair.chosen_cut and not set(pair.chosen_ids[-END:]) & set(eos_ids))
        or (not pair.rejected_cut and not set(pair.rejected_ids[-END:]) & set(eos_ids))
    ]
    text = (
        f"In {_of(len(endless), len(pairs))} a completion does not end with a token that ends a turn (EOS), so the "
        "model is not taught where to stop. Let the chat template write eos_token after the assistant's words."
    )
    return [Alarm("missing-eos", "warning", text, _ids(endless))] if endless else []


def _near_identical(pairs: Sequence[TokenizedPair]) -> list[Alarm]:
    alike = [pair for pair in pairs if similarity(pair.chosen_ids, pair.rejected_ids) >= SAME]
    if not alike:
        return []
    text = (
        f"In {_of(len(alike), len(pairs))} chosen and rejected share {SAME:.0%} of their tokens or more"
        f"{_identical(alike)}. Where so little differs, DPO tends to lower the likelihood of both (Pal et al. 2024). "
        "Call what is as good as the same a tie: it teaches no difference. Leave such rows out of what you import; "
        "where pairloop writes the texts, a higher sampling.temperature makes them differ more."
    )
    return [Alarm("near-identical-pairs", _level(alike, pairs), text, _ids(alike))]


def _identical(alike: Sequence[TokenizedPair]) -> str:
    """How many of them do not differ at all, and how many of those would if nothing were cut off; or nothing."""
    same = [pair for pair in alike if pair.chosen_ids == pair.rejected_ids]
    cut = sum(bool(pair.chosen_cut or pair.rejected_cut) for pair in same)
    because = f" ({cut} of these only because the rest was cut off)" if cut else ""
    return f"; {len(same)} of them are the same token for token, which teaches nothing{because}" if same else ""


def _length_bias(pairs: Sequence[TokenizedPair]) -> list[Alarm]:
    chosen, rejected = [len(pair.chosen_ids) for pair in pairs], [len(pair.rejected_ids) for pair in pairs]
    if not _clear_change(rejected, chosen, CLEAR_PAIRS):
        return []
    text = (
        f"Chosen completions are {_change(rejected, chosen)} than rejected ones (mean {fmean(chosen):.0f} against "
        f"{fmean(rejected):.0f} tokens): DPO learns length along with the rest. If length is not what people chose by, "
        'train with loss_type = ["sigmoid_norm"], which weighs each token the same (and needs a far larger beta), or '
        "compare more pairs of similar length."
    )
    return [Alarm("length-bias", "note", text)]


def alarms_held_out(
    found: Sequence[PreferencePair], kept: Sequence[TokenizedPair], *, max_length: int, context: int | None = None
) -> list[Alarm]:
    """What makes judging less true than it looks, told from the held-out pairs. Arguments as `left_out`.

    Training pairs have alarms of the same kind: those are about what is learned, these about what is measured.
    """
    limit, lost = _limit(max_length, context), _lost(found, kept)
    cut = [pair for pair in kept if pair.chosen_cut or pair.rejected_cut]
    tails = [pair for pair in kept if pair.prompt_tail_lost]
    gone = (
        f"{_of(len(lost), len(found), HELD_OUT)} are not judged by: their prompts alone leave no room within {limit}. "
        "Held-out accuracy speaks for shorter prompts only."
    )
    short = (
        f"In {_of(len(cut), len(kept), HELD_OUT)} the end of a completion is cut off by {limit}: people compared the "
        f"whole texts, the checkpoint is judged by their beginnings. {_uncut(cut, max_length, context)}"
    )
    elsewhere = (
        f"In {_of(len(tails), len(kept), HELD_OUT)} the chat template loses the end of the prompt once a completion "
        "follows: the checkpoint is judged in a context that it does not see when it writes. Mend the template."
    )
    alarms = [
        Alarm("held-out-pairs-left-out", _level(lost, found), gone, tuple(lost[:SHOWN])),
        Alarm("held-out-completions-cut", _level(cut, kept), short, _ids(cut)),
        Alarm("held-out-prompt-tails-lost", "warning", elsewhere, _ids(tails)),
    ]
    return with_examples([alarm for alarm in alarms if alarm.pairs], found)


class TrainingWatch:
    """Hears a training's metrics step by step, from the first, and says each alarm once."""

    def __init__(self, *, beta: float, chosen_tokens: float, pairs_per_step: float, epochs: float) -> None:
        """`chosen_tokens`: the mean length of chosen completions; `pairs_per_step`: without ties."""
        self._beta = beta
        self._chosen_tokens = chosen_tokens
        self._pairs_per_step = pairs_per_step
        self._epochs = epochs
        self._heard: list[dict[str, float]] = []
        self._said: set[str] = set()

    def hear(self, step: int, total: int, metrics: dict[str, float]) -> list[Alarm]:
        """Alarms that this step gives rise to. `metrics` have TRL's names; step 1 is the first."""
        if heard := {name: metrics[name] for name in HEARD if name in metrics}:  # a step of ties alone has none
            self._heard.append(heard)
        found = [*self._falling(step, total), *self._at_once(step, total)]
        fresh = [alarm for alarm in found if alarm.name not in self._said]
        self._said |= {alarm.name for alarm in fresh}
        return fresh

    def _last(self, name: str, steps: int) -> list[float]:
        """A metric in the last so many steps; empty where it is not known for all of them."""
        values = [entry[name] for entry in self._heard[-steps:] if name in entry]
        return values if len(values) == steps else []

    def _falling(self, step: int, total: int) -> list[Alarm]:
        """Chosen log-probs below the parent's, over a quarter of the run, from its middle on: many dip at first.

        Told by rewards/chosen, beta times the difference to the parent on the very same pairs: logps/chosen itself
        rises and falls with the length of the texts in the batch.
        """
        rewards = self._last("rewards/chosen", max(FEWEST_STEPS, total // 4))
        if not rewards or 2 * step < total:
            return []
        nats = -fmean(rewards) / self._beta
        per_token = nats / self._chosen_tokens
        if per_token <= FALL:
            return []
        text = (
            f"Chosen log-probs are falling: up to step {step} they came to lie {nats:.3g} nats below the parent's, "
            f"{per_token:.2g} a token (each {1 - math.exp(-per_token):.0%} less likely). The model moves away from "
            'both completions, and may end up writing neither kind. Raise beta, add an SFT term (loss_type = ["sigmoid'
            '", "sft"]), or lower learning_rate.'
        )
        return [Alarm("chosen-log-probs-falling", "warning", text)]

    def _at_once(self, step: int, total: int) -> list[Alarm]:
        """Everything right over half an epoch within the first one: these pairs were not trained on before."""
        epoch = total / max(1.0, self._epochs)
        window = max(math.ceil(epoch / 2), math.ceil(AT_ONCE_PAIRS / self._pairs_per_step))
        accuracies, margins = self._last("rewards/accuracies", window), self._last("rewards/margins", window)
        if step > math.ceil(epoch) or not accuracies or not margins:
            return []
        if min(accuracies) < 1.0 or fmean(margins) < AT_ONCE_MARGIN:
            return []
        text = (
            f"Accuracy is 1.0 at once: by step {step}, in the first pass, every pair was ordered as the annotators did "
            f"before it was trained on, by a mean margin of {fmean(margins):.2g}. People agree with each other on 63 "
            "to 77% of pairs, so the model has likely found a shortcut: length, a stock phrase, where a text came "
            "from. Look for what all chosen texts share before you believe the held-out accuracy."
        )
        return [Alarm("accuracy-at-once", "warning", text)]


def diverged(error: Exception, kept: str | None) -> Alarm:
    """Training came to numbers that are none. `kept`: the name of the trainer's last good checkpoint, if any."""
    left = f"The trainer's last good state, {kept}, is kept." if kept else "It had saved no state before that."
    return Alarm("diverged", "warning", f"{error} {left}")


def alarms_after(before: Sequence[int], after: Sequence[int], *, max_new_tokens: int) -> list[Alarm]:
    """How the lengths of samples changed: of the parent and of the new checkpoint, for the same prompts and seeds."""
    if not _clear_change(before, after, CLEAR_SAMPLES):
        return []
    unended = [sum(length >= max_new_tokens for length in lengths) for lengths in (before, after)]
    text = (
        f"The new checkpoint's answers are {_change(before, after)} than its parent's: {fmean(after):.0f} tokens on "
        f"average against {fmean(before):.0f}, over {counted(len(after), 'prompt')}; {unended[1]} of them "
        f"({unended[0]} before) go on to max_new_tokens = {max_new_tokens}. If nobody asked for that, read some before "
        "you promote it; a higher beta, or fewer epochs, keeps lengths closer to the parent's."
    )
    return [Alarm("sample-length-drift", "warning", text)]


def alarms_canary(found: dict[str, Any]) -> list[Alarm]:
    """How much worse the new checkpoint predicts ordinary text. `found`: as a checkpoint's metrics have `canary`."""
    if not found or is_beyond(found):
        return []
    rise = math.exp(min(found["after"] - found["before"], math.log(1e6))) - 1
    if rise <= RISE:
        return []
    text = (
        f"The new checkpoint predicts ordinary text worse than its parent: on {found['text']}, which has nothing to do "
        f"with the comparisons, its perplexity is {figured(found['perplexity_after'])} against "
        f"{figured(found['perplexity_before'])} before, {rise:,.0%} more. It may have lost some of what it could do, "
        "whatever the held-out accuracy says. Read some of its answers before you promote it; a higher beta, a lower "
        "learning_rate or fewer epochs keep it closer to its parent."
    )
    return [Alarm(CANARY_RISEN, "warning", text)]


def is_beyond(found: dict[str, Any]) -> bool:
    """Whether the parent did no better on the text than guessing, as the demo model does: there was nothing to lose."""
    return bool(found["perplexity_before"] >= found["vocabulary"])


def figured(perplexity: float) -> str:
    """A perplexity as people read it: `18.4`, `1,204`."""
    return f"{perplexity:.1f}" if perplexity < 100 else f"{perplexity:,.0f}"


def _clear_change(before: Sequence[int], after: Sequence[int], fewest: int) -> bool:
    """Whether paired lengths differ by more than CLEAR_SHARE on average, and by more than two standard errors."""
    if len(before) < max(2, fewest):
        return False
    differences = [new - old for old, new in zip(before, after, strict=True)]
    mean = abs(fmean(differences))
    return mean > CLEAR_SHARE * fmean(before) and mean > 2 * stdev(differences) / math.sqrt(len(differences))


def _change(before: Sequence[int], after: Sequence[int]) -> str:
    ratio = fmean(after) / max(1.0, fmean(before))
    return f"{abs(ratio - 1):.0%} {'longer' if ratio > 1 else 'shorter'}"


def _of(some: int, every: int, what: str = "pair") -> str:
    return f"{some} of {counted(every, what)}"


def _level(some: Sequence[Any], every: Sequence[Any]) -> Literal["note", "warning"]:
    return "warning" if len(some) >= MANY * len(every) else "note"


def _ids(pairs: Sequence[TokenizedPair]) -> tuple[int, ...]:
    return tuple(sorted(pair.pair_id for pair in pairs)[:SHOWN])
