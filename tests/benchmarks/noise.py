"""What it buys to tell the loss how far each label can be believed, with annotators who flip a known share of theirs.

    PYTHONPATH=. python tests/benchmarks/noise.py [--seeds 5] [--tastes warm structured] [--pairs 60] [--flips 0 0.1]
        [--gold 0.1] [--repeats 0.1] [--in-earnest 0.5] [--out FILE.jsonl]

One round of the demo: three simulated annotators, of whom one flips a third of the share named, one that share and one
five thirds of it, go through the queue that the Label page uses; half of the pairs are judged by all three, the others
by one. The same labels are then trained on in four ways: each believed alike (`confidence = "ignore"`); weighed by the
votes on its pair (`"agreement"`); by how reliable its annotators were found to be (`"reliability"`); by TRL's one
guess for all pairs (`robust`, with the very share of wrong labels among the pairs trained on as `label_smoothing`,
which nobody would know; where three judge a pair it is less than the share of flipped verdicts). `--gold` and
`--repeats` are shares of what is asked, as in `[queue]`: by default there are none, and reliability has the overlap
alone to go by. `--in-earnest` is the share of errors that are the same whenever the same person sees the same texts;
the others are drawn anew, which only repeats can tell. Judged by the taste, without noise, on 100 prompts that nobody
was asked about (but for gold, which is not trained on): how often the implicit reward agrees with it, and how often the
checkpoint's completion pleases more than the base's. Each way is held against "ignore" on the same labels.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from sqlmodel import select

from dpo_core.carry_out import carry_out_here
from dpo_core.config import Settings
from dpo_core.demo import open_demo
from dpo_core.filters import training_filter
from dpo_core.logps import pair_logps
from dpo_core.loop import Step, read_loop, start_round, start_training
from dpo_core.over_seeds import mean_over_seeds
from dpo_core.policies import load_policy
from dpo_core.queueing import queue_rules
from dpo_core.sampling import sample_completions
from dpo_core.simulate import Persona
from dpo_core.tastes import Taste, load_taste
from dpo_core.tokenization import tokenize_pairs
from dpo_core.truth import prompt_text
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.checkpoints import base_checkpoint, get_checkpoint
from store.comparisons import Choice, record_comparison
from store.database import reading, writing
from store.importing import import_gold
from store.models import Pair, Role, Run, RunStatus
from store.pairs import ShownPair, next_pair
from store.preferences import poll_comparisons
from store.prompts import all_prompts
from store.snapshots import PreferencePair

FLIPS = (0.0, 0.1, 0.2, 0.3)
TEAM = {"careful": 1 / 3, "usual": 1.0, "careless": 5 / 3}  # times the share that is flipped on average
JUDGES, OVERLAP = 3, 0.5
MOST_SMOOTHED = 0.45  # half of the labels wrong tell nothing: the loss divides by one less twice this share
OTHER = {Choice.LEFT: Choice.RIGHT, Choice.RIGHT: Choice.LEFT}


def ways(wrong: float) -> dict[str, dict[str, Any]]:
    """The changes to [training] that make each way. `wrong`: the share of labels that are."""
    return {
        "ignore": {"confidence": "ignore"},
        "agreement": {"confidence": "agreement"},
        "reliability": {"confidence": "reliability"},
        "robust, told the share": {
            "confidence": "ignore",
            "loss_type": ["robust"],
            "label_smoothing": min(wrong, MOST_SMOOTHED),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tastes", nargs="+", default=["warm", "structured"])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--out", type=Path, help="Each result as a line, as soon as it is there.")
    parser.add_argument("--flips", nargs="+", type=float, default=FLIPS, help="Shares of verdicts flipped on average.")
    parser.add_argument("--gold", type=float, default=0.0)
    parser.add_argument("--repeats", type=float, default=0.0)
    parser.add_argument("--in-earnest", type=float, default=0.0)
    asked = parser.parse_args()
    found = []
    for seed in range(asked.seeds):
        for taste in asked.tastes:
            for result in results(load_taste(taste), seed, asked):
                found.append(result | {"taste": taste, "seed": seed})
                if asked.out:
                    with asked.out.open("a") as lines:
                        lines.write(json.dumps(found[-1]) + "\n")
    print_found(found)


def results(taste: Taste, seed: int, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every share of flips and every way to train, on the same completions."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = sampled(Path(folder) / "fresh", seed, asked)
        exam = Exam(fresh, taste, seed)
        if asked.gold:
            exam.add_gold(fresh)
        for flips in asked.flips:
            judged = copied(fresh, f"judged-{flips}")
            said = judge(judged, taste, flips, seed, asked.in_earnest)
            wrong = wrong_labels(judged, taste)
            for name, changes in ways(wrong).items():
                trained = copied(judged, f"{flips}-{name}")
                train(trained, changes)
                told = {"flips": flips, "way": name, "verdicts_right": said, "labels_right": 1 - wrong}
                yield told | exam.mark(trained)
                shutil.rmtree(trained.folder)


def copied(workspace: Workspace, name: str) -> Workspace:
    """The same, in a folder of its own."""
    workspace.engine.dispose()  # the last connection to close folds the WAL into the file
    folder = shutil.copytree(workspace.folder, workspace.folder.parent / name)
    return Workspace(Path(folder), workspace.settings)


def sampled(folder: Path, seed: int, asked: argparse.Namespace) -> Workspace:
    """A demo workspace whose first round is written."""
    settings = open_demo(folder).settings.model_dump()
    comparisons = round(asked.pairs * (1 + OVERLAP * (JUDGES - 1)))
    settings["round"] |= {"comparisons": comparisons, "comparisons_per_pair": JUDGES}
    settings["round"] |= {"spare_pairs": 0, "held_out_share": 0.1}
    settings["queue"] |= {"overlap": OVERLAP, "gold": asked.gold, "repeats": asked.repeats, "repeat_after": 5}
    settings["sampling"] |= {"seed": 1_000_000 * seed}
    settings["training"] |= {"seed": seed, "drift_samples": 0}
    settings["duels"] |= {"against_parent": 0, "against_base": 0}
    workspace = Workspace(folder, Settings.model_validate(settings))
    start_round(workspace, by="benchmark")
    carry_out(workspace)
    return workspace


def carry_out(workspace: Workspace) -> Run:
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None and run.id is not None
    finished = carry_out_here(workspace, run.id)
    assert finished.status == RunStatus.DONE, finished.error
    return finished


def judge(workspace: Workspace, taste: Taste, flips: float, seed: int, in_earnest: float) -> float:
    """Have everybody judge until nothing is asked any more. Returns the share of decided verdicts that are right."""
    lots, right = random.Random(f"{seed}:{flips}"), []
    with writing(workspace.engine) as session:
        people = {name: get_or_add_annotator(session=session, name=name, role=Role.ANNOTATOR).id or 0 for name in TEAM}
        state = read_loop(session=session)
    assert state.round is not None and state.round.id is not None and state.step == Step.COMPARE
    rules, persona = queue_rules(workspace.settings), Persona(taste)
    working = list(people)
    while working:
        name = lots.choice(working)
        with writing(workspace.engine) as session:
            shown = next_pair(session=session, round_id=state.round.id, annotator_id=people[name], rules=rules)
            if shown is None:
                working.remove(name)
                continue
            # The same lots whenever this person sees these texts, for errors in earnest; fresh ones for the others.
            own = random.Random(f"{seed}:{flips}:{name}:{sorted((shown.left, shown.right))}")
            drawn = own if own.random() < in_earnest else lots
            choice = flipped(persona, shown, TEAM[name] * flips, drawn)
            right += [choice == persona.choose(shown, lots)] if choice != Choice.TIE else []
            record_comparison(session=session, pair_id=shown.pair_id, annotator_id=people[name], choice=choice)
    return mean(right)


def flipped(persona: Persona, shown: ShownPair, chance: float, lots: random.Random) -> Choice:
    choice = persona.choose(shown, lots)
    return OTHER.get(choice, choice) if lots.random() < chance else choice


def wrong_labels(workspace: Workspace, taste: Taste) -> float:
    """The share of the preferences to train on that are the wrong way round."""
    with reading(workspace.engine) as session:
        parent = base_checkpoint(session=session).id or 0
        wanted = training_filter(workspace.settings.training, session=session, checkpoint_id=parent)
        poll = poll_comparisons(session=session, filter=wanted)
    trained = [each for each in poll.preferences if not each.held_out]
    return mean(
        float(taste(prompt_text(each.prompt), each.chosen) < taste(prompt_text(each.prompt), each.rejected))
        for each in trained
    )


def train(workspace: Workspace, changes: dict[str, Any]) -> None:
    start_training(workspace, by="benchmark", early=True, force=True, changes=changes)
    carry_out(workspace)


class Exam:
    """Prompts that nobody was asked about, with completions by the base: two to tell apart, one to be better than."""

    def __init__(self, workspace: Workspace, taste: Taste, seed: int) -> None:
        self._taste, self._seed, self._sampling = taste, seed, workspace.settings.sampling
        with reading(workspace.engine) as session:
            asked = set(session.exec(select(Pair.prompt_id)))
            self._prompts = [prompt.messages for prompt in all_prompts(session=session) if prompt.id not in asked][:100]
            base = base_checkpoint(session=session)
        model, tokenizer = load_policy(workspace, base)
        self._known = list(self._decided(model, tokenizer))
        self._pairs = tokenize_pairs(self._known, tokenizer, max_length=512)
        self._reference = pair_logps(model, tokenizer, self._pairs)
        self._base = self._scores(model, tokenizer, self._seed + 1)

    def _decided(self, model: Any, tokenizer: Any) -> Iterator[PreferencePair]:
        """Pairs by the base of which one pleases more."""
        both = sample_completions(model, tokenizer, self._prompts, self._sampling, seed=self._seed + 77)
        for number, (messages, written) in enumerate(zip(self._prompts, both, strict=True)):
            scored = sorted((self._taste(prompt_text(messages), one.text), one.text) for one in written)
            if len(scored) == 2 and scored[0][0] < scored[1][0]:
                yield PreferencePair(number, list(messages), scored[1][1], scored[0][1], "a", 1.0, 1)

    def add_gold(self, workspace: Workspace) -> None:
        """Let the exam's pairs be gold pairs as well: they measure people, and nothing is trained on them."""
        path = workspace.folder / "gold.jsonl"
        rows = ({"prompt": each.messages, "chosen": each.chosen, "rejected": each.rejected} for each in self._known)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        import_gold(engine=workspace.engine, path=path, held_out_share=0.0)

    def _scores(self, model: Any, tokenizer: Any, seed: int) -> list[float]:
        written = sample_completions(model, tokenizer, self._prompts, self._sampling, per_prompt=1, seed=seed)
        texts = [completions[0].text if completions else "" for completions in written]
        return [self._taste(prompt_text(asked), text) for asked, text in zip(self._prompts, texts, strict=True)]

    def mark(self, workspace: Workspace) -> dict[str, float]:
        """Accuracy of the implicit reward, and win rate over the base (ties half)."""
        with reading(workspace.engine) as session:
            checkpoint = get_checkpoint(session=session, name="round-1")
        model, tokenizer = load_policy(workspace, checkpoint)
        both = zip(pair_logps(model, tokenizer, self._pairs), self._reference, strict=True)
        margins = [(new.chosen - new.rejected) - (old.chosen - old.rejected) for new, old in both]
        scores = zip(self._scores(model, tokenizer, self._seed + 2), self._base, strict=True)
        return {
            "accuracy": mean(float(margin > 0) for margin in margins),
            "win_rate": mean(1.0 if new > old else 0.5 if new == old else 0.0 for new, old in scores),
            "trained_on": checkpoint.metrics["train"]["pairs"],
        }


def print_found(found: list[dict[str, Any]]) -> None:
    """A row for each share of flips and each way: means over seeds and tastes, and the difference to "ignore"."""
    by: dict[tuple[float, str], dict[tuple[str, int], dict[str, Any]]] = defaultdict(dict)
    for each in found:
        by[each["flips"], each["way"]][each["taste"], each["seed"]] = each
    head = "| flipped | verdicts right | labels right | way | accuracy | against ignore | win rate over base |"
    print(f"{head} against ignore |\n| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for (flips, way), cases in by.items():
        right = (mean(each[what] for each in cases.values()) for what in ("verdicts_right", "labels_right"))
        told = [f"{flips:.0%}", *(f"{share:.0%}" for share in right), way]
        for figure in ("accuracy", "win_rate"):
            told.append(f"{mean(each[figure] for each in cases.values()):.1%}")
            plain = by[flips, "ignore"]
            told.append(difference([cases[key][figure] - plain[key][figure] for key in cases if key in plain]))
        print(f"| {' | '.join(told)} |")


def difference(of: list[float]) -> str:
    """The mean of paired differences in points, with its 95% interval (Student's t)."""
    found = mean_over_seeds(of)
    if found.value is None or found.interval is None or not any(of):
        return "–"
    low, high = found.interval
    return f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main()
