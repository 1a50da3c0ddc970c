"""How many labels the loop needs to be 80% better than where it began, by how the pairs to ask about are chosen.

    PYTHONPATH=. python tests/benchmarks/asking.py --out FILE.jsonl [--seeds 0 1 2 3 4] [--tastes warm structured]
        [--ways random random4 near far diverse mixed offline] [--rounds 3] [--comparisons 40] [--duels 30]

`pairloop simulate` on the demo, over and over: each way goes round the loop with annotators of a known taste, a tenth
of whose verdicts are a coin toss, and after each round the checkpoint's true win rate over the base is sampled by the
taste itself. "offline" is what there is without a loop: one round with as many labels as the others have given by then.
"random4" takes any two of four completions that are no near-duplicates: what the rules gain over it is the rule's, and
what it gains over "random" comes of leaving out near-duplicates.
The permanent random slice is part of each way that chooses. Labels are those that are trained on or held out; blind
duels with the parent come on top in every way but offline, and say whether their intervals hold the truth.

Results are lines of FILE: what is there is not run again, so that it can be stopped at any time, and shared between
processes that are given different seeds. The tables are of all that is there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from dpo_core.config import Settings
from dpo_core.demo import open_demo
from dpo_core.over_seeds import GOAL, count_verdicts, labels_to_goal, median_to_goal
from dpo_core.simulate import Measured, Persona, RoundReport, simulate
from dpo_core.tastes import load_taste
from dpo_core.workspace import Workspace
from tests.benchmarks.noise import difference
from ui.simulation_words import verdicts_words

WAYS = ("random", "random4", "near", "far", "diverse", "mixed", "offline")
CANDIDATES = 4
Case = tuple[str, str, int, int]  # way, taste, seed, rounds that are made one: 1 but for offline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=range(5))
    parser.add_argument("--tastes", nargs="+", default=["warm", "structured"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--comparisons", type=int, default=40)
    parser.add_argument("--duels", type=int, default=30, help="With the parent, a round; 0: a third quicker.")
    asked = parser.parse_args()
    for case in cases(asked.ways, asked.tastes, asked.seeds, asked.rounds):
        if case not in {case_of(each) for each in there(asked.out)}:
            found = run(case, asked.rounds, asked.comparisons, asked.duels)
            with asked.out.open("a") as lines:
                lines.write("".join(json.dumps(each) + "\n" for each in found))
    print_efficiency(there(asked.out))
    print_coverage(there(asked.out))


def cases(ways: Sequence[str], tastes: Sequence[str], seeds: Sequence[int], rounds: int) -> Iterator[Case]:
    for seed in seeds:
        for taste in tastes:
            for way in ways:
                if way != "offline":
                    yield way, taste, seed, 1
                else:  # as many labels as one round has is what random has after its first
                    yield from (("offline", taste, seed, joined) for joined in range(2, rounds + 1))


def case_of(line: dict[str, Any]) -> Case:
    return line["way"], line["taste"], line["seed"], line["joined"]


def there(path: Path) -> list[dict[str, Any]]:
    """What is known so far; once, where two processes ran the same."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return list({(case_of(each), each["labels"]): each for each in found}.values())


def run(case: Case, rounds: int, comparisons: int, duels: int) -> list[dict[str, Any]]:
    """One simulation: what it came to after each round."""
    way, taste, seed, joined = case
    with tempfile.TemporaryDirectory(prefix="pairloop-asking-") as folder:
        reports = simulate(
            with_way(open_demo(Path(folder)), way, duels),
            rounds=rounds if way != "offline" else 1,
            comparisons=comparisons * joined,
            persona=Persona(load_taste(taste), noise=0.1),
            seed=seed,
        )
    told = {"way": way, "taste": taste, "seed": seed, "joined": joined}
    return [told | {"labels": comparisons * joined * report.round} | figures(report) for report in reports]


def with_way(workspace: Workspace, way: str, duels: int) -> Workspace:
    asked = workspace.settings.model_dump()
    asked["duels"] |= {"against_parent": 0 if way == "offline" else duels, "against_base": 0}
    asked["sampling"] |= {"batch_size": 64}  # for a small model hardly slower than 16, and the texts are the same
    asked["training"] |= {"drift_samples": 0}  # which tell, and change nothing
    asked["worker"] |= {"threads": torch.get_num_threads()}  # OMP_NUM_THREADS=1, to run one on each core
    if way not in ("random", "offline"):
        asked["selection"] |= {"candidates": CANDIDATES, "by": "random" if way == "random4" else way}
    return Workspace(workspace.folder, Settings.model_validate(asked))


def figures(report: RoundReport) -> dict[str, Any]:
    return {"win_rate": report.win_rate, "measured": report.as_dict()["measured"]}


def print_efficiency(lines: list[dict[str, Any]]) -> None:
    """For each taste and way: the true win rate by labels, labels to the goal, and the last against random's."""
    curves: dict[tuple[str, str], dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for each in lines:
        curves[each["taste"], each["way"]][each["seed"]][each["labels"]] = each["win_rate"]
    for (taste, way), seeds in curves.items():
        if way == "offline":  # what it has after one round's labels is what random has
            for seed, curve in seeds.items():
                first = curves.get((taste, "random"), {}).get(seed, {})
                curve |= {labels: rate for labels, rate in first.items() if labels < min(curve)}
    at = sorted({each["labels"] for each in lines})
    heads = "".join(f" after {labels} |" for labels in at)
    print(f"| taste | way | seeds |{heads} labels to {GOAL:.0%} (median) | last, against random |")
    print(f"| --- | --- | ---: |{' ---: |' * len(at)} ---: | ---: |")
    for (taste, way), seeds in sorted(curves.items()):
        rates = "".join(f" {mean(known):.0%} |" if (known := at_labels(seeds, count)) else " – |" for count in at)
        plain = curves.get((taste, "random"), {})
        last = [
            seeds[seed][at[-1]] - plain[seed][at[-1]]
            for seed in seeds.keys() & plain.keys()
            if at[-1] in seeds[seed] and at[-1] in plain[seed]
        ]
        print(f"| {taste} | {way} | {len(seeds)} |{rates} {goal_words(seeds, at[-1])} | {difference(last)} |")


def at_labels(seeds: dict[int, dict[int, float]], labels: int) -> list[float]:
    return [curve[labels] for curve in seeds.values() if labels in curve]


def goal_words(seeds: dict[int, dict[int, float]], most: int) -> str:
    """The median of the labels it took, where more than half of the seeds came there; and how many did."""
    needed = [labels_to_goal(list(curve.items())) for curve in seeds.values()]
    middle = median_to_goal(needed)
    reached = f"({sum(labels is not None for labels in needed)} of {len(needed)})"
    return f"more than {most} {reached}" if middle is None else f"{middle:.0f} {reached}"


def print_coverage(lines: list[dict[str, Any]]) -> None:
    """How often the intervals of blind duels with the parent held the truth, and what the verdicts were worth."""
    found = count_verdicts([Measured.from_dict(each["measured"]) for each in lines if each["measured"]])
    print(f"\n{verdicts_words(found)}")


if __name__ == "__main__":
    main()
