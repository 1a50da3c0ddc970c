"""How fast completions are written: `sample_completions` beside plain `model.generate`, on the same prompts.

    PYTHONPATH=. python tests/benchmarks/sampling.py                    # the demo model, else a random 25M Qwen2
    PYTHONPATH=. python tests/benchmarks/sampling.py --model FOLDER --prompts 32 --max-new-tokens 200

Prints tokens per second for both, their ratio, and where the time to a run's first pair goes. On a machine that does
other work as well, `--threads 1 --cpu-time` counts this process's seconds and not the others'.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORDS = "Tell me how people in a small town by the sea cook fish without oil and still like it"


def main() -> None:
    given = parse()
    clock = time.process_time if given.cpu_time else time.perf_counter
    started = clock()
    import torch

    from dpo_core.config import SamplingSettings
    from dpo_core.sampling import FIRST_BATCH, sample_completions

    imported = clock()
    if given.threads:
        torch.set_num_threads(given.threads)
    model, tokenizer = load(given.model)
    loaded = clock()
    settings = SamplingSettings(max_new_tokens=given.max_new_tokens, batch_size=given.batch_size, attempts=1)
    prompts = read_prompts(given.prompts)
    sample_completions(model, tokenizer, prompts[:FIRST_BATCH], settings, seed=0)
    first = clock()
    print(f"import {imported - started:.1f} s, load {loaded - imported:.1f} s, first batch {first - loaded:.1f} s")
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    threads = torch.get_num_threads()
    print(f"{parameters:.1f}M parameters, {len(prompts)} prompts, {threads} threads, best of {given.repeats}")

    def ours() -> int:
        written = sample_completions(model, tokenizer, prompts, settings, seed=1)
        return sum(new.tokens or 0 for completions in written for new in completions)

    def plain() -> int:
        return generate(model, tokenizer, prompts, settings)

    generate_speed, our_speed = best(given.repeats, plain, clock), best(given.repeats, ours, clock)
    print(f"| {'':<32} | tokens/s | ratio |\n| --- | ---: | ---: |")
    print(f"| {'generate(num_return_sequences=2)':<32} | {generate_speed:8.0f} |  1.00 |")
    print(f"| {'sample_completions':<32} | {our_speed:8.0f} | {our_speed / generate_speed:5.2f} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a folder; 'random' for a Qwen2 of 25M with random weights")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch sees fit")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's CPU seconds, not the clock's")
    return parser.parse_args()


def load(folder: str) -> tuple[Any, Any]:
    """The model asked for, the demo model if there is one, or a random one with the demo's kind of tokenizer."""
    from transformers import AutoModelForCausalLM

    from dpo_core.policies import load_tokenizer

    demo = ROOT / "data" / "demo" / "model"
    if folder != "random" and (folder or demo.is_dir()):
        path = folder or str(demo)
        return AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval(), load_tokenizer(path)
    return random_qwen2()


def random_qwen2() -> tuple[Any, Any]:
    """About 27M parameters, a token for each byte. Its completions run long: EOS is as unlikely as any token."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.dpo_core.conftest import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=9,
        num_attention_heads=8,
        num_key_value_heads=4,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Qwen2ForCausalLM(config).eval(), tokenizer


def read_prompts(count: int) -> list[list[dict[str, str]]]:
    """The demo's prompts, or sentences of 3 to 60 words."""
    path = ROOT / "data" / "demo" / "prompts.jsonl"
    if path.exists():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()][:count]
        return [row.get("messages") or row.get("prompt") for row in rows]
    texts = [" ".join((WORDS.split() * 4)[: 3 + 7 * index % 57]) for index in range(count)]
    return [[{"role": "user", "content": text}] for text in texts]


def generate(model: Any, tokenizer: Any, prompts: list[list[dict[str, str]]], settings: Any) -> int:
    """Plain generation, batched and sorted the same way; returns how many tokens it kept."""
    from dpo_core.policies import render_prompt

    tokenizer.padding_side = "left"
    texts = sorted((render_prompt(tokenizer, prompt) for prompt in prompts), key=len)
    kept = 0
    for start in range(0, len(texts), settings.batch_size):
        batch = tokenizer(
            texts[start : start + settings.batch_size], return_tensors="pt", padding=True, add_special_tokens=False
        )
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=0,
            max_new_tokens=settings.max_new_tokens,
            num_return_sequences=2,
            pad_token_id=tokenizer.pad_token_id,
        )
        kept += sum(length(row, tokenizer.eos_token_id) for row in output[:, batch["input_ids"].shape[1] :].tolist())
    return kept


def length(tokens: list[int], eos: int) -> int:
    return tokens.index(eos) + 1 if eos in tokens else len(tokens)


def best(repeats: int, work: Callable[[], int], clock: Callable[[], float]) -> float:
    """The highest tokens per second of some repeats: on a shared machine, the least disturbed one."""
    speeds = []
    for _ in range(repeats):
        started = clock()
        speeds.append(work() / (clock() - started))
    return max(speeds)


if __name__ == "__main__":
    main()
