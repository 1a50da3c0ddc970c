"""The loop on other people's comparisons: import HH-RLHF, snapshot, train a small model, held-out accuracy.

    python tests/benchmarks/hh_loop.py ../shared/data/hh-harmless-test.jsonl.gz

The model is a Llama of a few million parameters built from a config, with a tokenizer trained on the file. It knows no
English to begin with, so `--warm-up` steps of plain language modelling on the prompts and both completions of the
training split come first (never on held-out prompts); then everything goes through the same commands a user has.
Prints one table.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from sqlmodel import select
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dpo_core.carry_out import carry_out_here
from dpo_core.config import Settings
from dpo_core.loop import start_training
from dpo_core.workspace import Workspace, create_workspace
from store.database import reading, writing
from store.importing import import_preferences
from store.models import Completion, Prompt
from store.snapshot_filter import SnapshotFilter
from store.snapshots import cut_snapshot

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 4,096 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    marks = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=4096, special_tokens=marks, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """About 4 million parameters."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )


def warm_up(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], steps: int) -> float:
    """Plain language modelling on packed text; returns the last loss."""
    ids = torch.tensor(tokenizer("".join(texts))["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    draw = random.Random(0)
    loss = torch.zeros(())
    for _ in range(steps):
        starts = [draw.randrange(len(ids) - 257) for _ in range(8)]
        batch = torch.stack([ids[start : start + 256] for start in starts])  # (8, 256)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(loss)


def training_texts(workspace: Workspace, tokenizer: PreTrainedTokenizerFast | None) -> list[str]:
    """Prompts that are not held out, with each of their completions, as chats."""
    with reading(workspace.engine) as session:
        rows = session.exec(select(Prompt, Completion).where(Completion.prompt_id == Prompt.id)).all()
    chats = [
        [*prompt.messages, {"role": "assistant", "content": completion.text}]
        for prompt, completion in rows
        if not prompt.held_out
    ]
    if tokenizer is None:
        return [message["content"] for chat in chats for message in chat]
    return [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]


def main() -> None:
    """Everything, top to bottom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="HH-RLHF as published (JSONL, .gz too)")
    parser.add_argument("--warm-up", type=int, default=300, help="steps of language modelling before DPO")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    given = parser.parse_args()
    set_seed(0)
    folder = Path(tempfile.mkdtemp(prefix="pairloop-hh-"))
    training = {"learning_rate": given.learning_rate, "num_train_epochs": given.epochs, "max_length": 512}
    settings = {"model": {"base": "base"}, "round": {"held_out_share": 0.1}, "training": training}
    workspace = create_workspace(folder, Settings.model_validate(settings))
    clock = time.monotonic()
    report = import_preferences(engine=workspace.engine, path=given.file, held_out_share=0.1)
    imported = time.monotonic() - clock
    with writing(workspace.engine) as session:
        snapshot = cut_snapshot(session=session, folder=folder, filter=SnapshotFilter())
    tokenizer = train_tokenizer(training_texts(workspace, None))
    model = build_model(tokenizer)
    loss = warm_up(model, tokenizer, training_texts(workspace, tokenizer), given.warm_up)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    run = carry_out_here(workspace, start_training(workspace, by="benchmark").id or 0)
    if run.error:
        raise SystemExit(run.error)
    _print(report.summary(), imported, snapshot.manifest, loss, run.result)


def _print(summary: str, imported: float, manifest: dict[str, object], loss: float, result: dict[str, dict]) -> None:
    judged, trained = result["eval"], result["train"]
    low, high = judged["interval_after"]
    table = Table("what", "figure", title="HH-RLHF through the loop")
    table.add_row("import", f"{summary} ({imported:.1f} s)")
    table.add_row("snapshot", json.dumps(manifest["pairs"]))
    table.add_row("language modelling loss before DPO", f"{loss:.2f}")
    table.add_row("DPO", f"{trained['pairs']} pairs, {trained['steps']} steps, {trained['seconds']} s in all")
    table.add_row("held-out reward accuracy before", f"{judged['accuracy_before']:.3f} (the base rewards nothing)")
    table.add_row("held-out reward accuracy after", f"{judged['accuracy_after']:.3f} [{low:.3f}, {high:.3f}]")
    table.add_row("held-out ranking by likelihood", f"{judged['ranking_before']:.3f} -> {judged['ranking_after']:.3f}")
    table.add_row("held-out pairs", f"{judged['pairs']}")
    Console().print(table)


if __name__ == "__main__":
    main()
