"""DPO training: pairloop beside TRL, on the same pairs, the same weights, the same order.

    PYTHONPATH=. python tests/benchmarks/training.py ../shared/data/hh-harmless-test.jsonl.gz
    PYTHONPATH=. python tests/benchmarks/training.py --pairs 64 --sizes small --precisions fp32 --tunings full

Without a file the pairs are made up, with long prompts and short completions. Each row of the table is a process of its
own, so that peak memory is its own; every arm trains `--pairs` pairs once, in batches of eight. "set-up" is everything
between having the pairs as messages and the first step: tokenization, reference log-probs, trainer. Ratios are to
"TRL best" (reference computed ahead, no gradient checkpointing) of the same size, tuning and precision.

"of peak" is the arithmetic that the model needs for the unique tokens of all pairs (6 per weight and token where all
weights are trained, 4 with an adapter; attention not counted) over what this machine's largest matrix products reach in
the same precision, measured beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dpo_core.worker import run_environment  # noqa: E402

ARMS = ("TRL default", "TRL best", "pairloop")
SIZES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6},
    "large": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}
VOCABULARY = 16_000
BATCH = 8
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    """Run every arm in a process of its own and print the table."""
    given = parse()
    if given.arm:
        print(json.dumps(run_arm(given)))
        return
    with tempfile.TemporaryDirectory(prefix="pairloop-benchmark-") as made:
        pairs = read_pairs(given.file) if given.file else made_up_pairs()
        pairs = random.Random(given.seed).sample(pairs, min(given.pairs, len(pairs)))
        (Path(made) / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        save_tokenizer(Path(made), pairs)
        print(f"{len(pairs)} pairs from {given.file.name if given.file else 'nowhere: made up'}, batch {BATCH}")
        print(HEADER)
        for size, tuning, precision in product(given.sizes, given.tunings, given.precisions):
            rows = {arm: measured(Path(made), arm, size, tuning, precision, given) for arm in given.arms}
            for arm, row in rows.items():
                print(table_line(arm, size, tuning, precision, row, rows.get("TRL best")), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="preferences in any format that `pairloop import` takes")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--tunings", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    for name in ("arm", "size", "tuning", "precision"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


HEADER = (
    "| size | tuning | precision | | set-up s | train s | pairs/s | x in training | x in all | peak MB | of TRL best "
    "| of peak | last loss |\n| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def table_line(
    arm: str, size: str, tuning: str, precision: str, row: dict[str, float], best: dict[str, float] | None
) -> str:
    best = best or row
    whole, whole_best = row["setup"] + row["train"], best["setup"] + best["train"]
    return (
        f"| {size} | {tuning} | {precision} | {arm} | {row['setup']:.1f} | {row['train']:.1f} "
        f"| {row['pairs'] / row['train']:.2f} | {best['train'] / row['train']:.2f} | {whole_best / whole:.2f} "
        f"| {row['peak_mb']:.0f} | {row['peak_mb'] / best['peak_mb']:.2f} | {row['of_peak']:.0%} | {row['loss']:.6f} |"
    )


def measured(
    folder: Path, arm: str, size: str, tuning: str, precision: str, given: argparse.Namespace
) -> dict[str, float]:
    options = {"arm": arm, "size": size, "tuning": tuning, "precision": precision, "folder": folder}
    options |= {"max-length": given.max_length, "threads": given.threads, "seed": given.seed}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in options.items())]
    # pairloop's as its worker starts a run; TRL's as anybody starts a script.
    environment = run_environment(given.threads or os.cpu_count() or 1) if arm == "pairloop" else None
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(f"{arm} ({size}, {tuning}, {precision}) failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """The file's preferences as messages and two texts."""
    from store.reading_files import BadLine, read_rows
    from store.row_shapes import ReadPreference, read_preference

    found = [read_preference(row.values) for row in read_rows(path) if not isinstance(row, BadLine)]
    return [
        {"messages": pair.messages, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in found
        if isinstance(pair, ReadPreference)
    ]


def made_up_pairs(count: int = 256) -> list[dict[str, Any]]:
    """Prompts of 400 to 700 words and completions of 5 to 60: summaries, or answers about a document."""
    draw = random.Random(0)
    syllables = ["ka", "lo", "mi", "ren", "tos", "va", "du", "pel", "shi", "gar", "no", "wet"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(900)]

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(least, most)))

    return [
        {"messages": [{"role": "user", "content": text(400, 700)}], "chosen": text(5, 60), "rejected": text(5, 60)}
        for _ in range(count)
    ]


def save_tokenizer(folder: Path, pairs: list[dict[str, Any]]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    marks = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for pair in pairs for text in (pair["chosen"], pair["rejected"], pair["messages"][-1]["content"])]
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "tokenizer")


def run_arm(given: argparse.Namespace) -> dict[str, float]:
    """One arm, in this process: what it took, and the last loss."""
    import torch
    from transformers import AutoTokenizer

    if given.threads:
        torch.set_num_threads(given.threads)
    pairs = json.loads((given.folder / "pairs.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(given.folder / "tokenizer")
    model = build_model(tokenizer, given.size)
    base = peak_mb()
    started = time.perf_counter()
    trainer, unique = (ours if given.arm == "pairloop" else theirs)(model, tokenizer, pairs, given)
    ready = time.perf_counter()
    trainer.train()
    done = time.perf_counter()
    peak = peak_mb()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    needed = (6 if given.tuning == "full" else 4) * work_per_pairs(model, unique)
    reached = needed / (done - ready) / matrix_peak(torch.bfloat16 if given.precision == "bf16" else torch.float32)
    return {
        "pairs": len(pairs), "setup": ready - started, "train": done - ready, "peak_mb": peak, "base_mb": base,
        "of_peak": reached, "loss": losses[-1],
    }  # fmt: skip


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_model(tokenizer: Any, size: str) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    set_seed(0)
    shape = SIZES[size]
    config = Qwen2Config(
        vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=True,
        num_key_value_heads=shape["num_attention_heads"] // 3, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, **shape,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).to(torch.float32)


def settings(given: argparse.Namespace) -> Any:
    from dpo_core.config import TrainingSettings

    return TrainingSettings(
        learning_rate=1e-5 if given.tuning == "full" else 1e-4,
        batch_size=BATCH,
        max_length=given.max_length,
        bf16=given.precision == "bf16",
        save_steps=10**9,
        seed=given.seed,
        comparisons="all",
    )


def adapter(given: argparse.Namespace) -> Any:
    from peft import LoraConfig

    lora = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
    return lora if given.tuning == "lora" else None


Counts = tuple[int, int]  # unique tokens of all pairs, and their completion tokens


def ours(model: Any, tokenizer: Any, pairs: list[dict[str, Any]], given: argparse.Namespace) -> tuple[Any, Counts]:
    """As `dpo_core.train` does it."""
    from dpo_core.logps import pair_logps
    from dpo_core.trainer import PairTrainer, trainer_arguments, training_rows

    training = settings(given)
    tokens = tokenized(tokenizer, pairs, given)
    reference = pair_logps(model, tokenizer, tokens, bf16=training.bf16)
    trainer = PairTrainer(
        model,
        tokenizer,
        unsaved(trainer_arguments(training, given.folder / "ours")),
        training_rows(tokens, reference),
        on_log=lambda *_: None,
        peft_config=adapter(given),
        pass_tokens=training.pass_tokens,
    )
    return trainer, count(tokens)


def theirs(model: Any, tokenizer: Any, pairs: list[dict[str, Any]], given: argparse.Namespace) -> tuple[Any, Counts]:
    """TRL by itself, as its user would call it: with what it does by default, or with its quickest settings."""
    from datasets import Dataset
    from trl import DPOTrainer

    from dpo_core.trainer import trainer_arguments

    best = given.arm == "TRL best"
    arguments = unsaved(trainer_arguments(settings(given), given.folder / "theirs"))
    arguments.precompute_ref_log_probs = best
    arguments.precompute_ref_batch_size = BATCH
    arguments.gradient_checkpointing = not best
    rows = [
        {
            "prompt": pair["messages"],
            "chosen": [{"role": "assistant", "content": pair["chosen"]}],
            "rejected": [{"role": "assistant", "content": pair["rejected"]}],
        }
        for pair in pairs
    ]
    # Without a hub id TRL cannot load the reference by itself: the copy it would make is made here.
    import copy

    live = None if best or given.tuning == "lora" else copy.deepcopy(model)
    trainer = DPOTrainer(
        model=model,
        ref_model=live,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter(given),
    )
    return trainer, count(tokenized(tokenizer, pairs, given))


def unsaved(arguments: Any) -> Any:
    from transformers.trainer_utils import SaveStrategy

    arguments.save_strategy = SaveStrategy.NO
    return arguments


def tokenized(tokenizer: Any, pairs: list[dict[str, Any]], given: argparse.Namespace) -> list[Any]:
    from dpo_core.tokenization import tokenize_pairs
    from store.snapshots import PreferencePair

    found = [
        PreferencePair(index, **pair, chosen_side="a", agreement=1, annotators=1) for index, pair in enumerate(pairs)
    ]
    return tokenize_pairs(found, tokenizer, max_length=given.max_length)


def count(tokens: list[Any]) -> Counts:
    from dpo_core.logps import pair_tokens

    return sum(map(pair_tokens, tokens)), sum(len(pair.chosen_ids) + len(pair.rejected_ids) for pair in tokens)


def work_per_pairs(model: Any, counts: Counts) -> float:
    """Multiply-adds of one pass over all pairs: the layers for each unique token, the head for completion tokens."""
    layers = sum(
        weight.numel() for name, weight in model.named_parameters() if ".layers." in name and "lora" not in name
    )
    head = model.get_output_embeddings().weight.numel()
    return layers * counts[0] + head * counts[1]


def matrix_peak(dtype: Any, size: int = 2048, seconds: float = 3.0) -> float:
    """Floating-point operations per second of a large matrix product: the best of what fits into `seconds`."""
    import torch

    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + seconds
    multiply: Callable[[], Any] = lambda: torch.mm(left, right)  # noqa: E731
    multiply()
    while time.perf_counter() < until:
        started = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    main()
