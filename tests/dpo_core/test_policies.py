"""Policies load whole or not at all, and every model reads a prompt the way it was trained to."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dpo_core.base_model import check_base
from dpo_core.errors import ModelError
from dpo_core.policies import encode_prompt, load_config, load_policy, load_tokenizer, render_prompt, stop_ids
from dpo_core.tokenization import tokenize_pairs
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint, base_checkpoint
from store.database import writing
from store.models import Checkpoint
from store.snapshots import PreferencePair

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello there"}]
ANSWER = {"role": "assistant", "content": "Hello to you there"}


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """One: in models this small, threads only wait for each other, a thousand times longer beside other work."""
    torch.set_num_threads(1)


def merging_tokenizer(**special: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE that merges spaces into words, as GPT-2's does; no chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=sorted({str(token) for token in special.values()}),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["User: Hello to you there Assistant: Hello there kind"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **special)


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    tokenizer.save_pretrained(folder)
    return str(folder)


def base_of(workspace: Workspace) -> Checkpoint:
    with writing(workspace.engine) as session:
        return base_checkpoint(session=session)


def test_plain_template_reads_as_stated_and_ends_a_turn_with_eos(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(merging_tokenizer(eos_token="<eos>"), tmp_path))
    assert render_prompt(tokenizer, CHAT) == "Be kind.\n\nUser: Hello there\n\nAssistant:"
    whole = tokenizer.apply_chat_template([*CHAT, ANSWER, CHAT[1]], tokenize=False, add_generation_prompt=True)
    assert whole == (
        "Be kind.\n\nUser: Hello there\n\nAssistant: Hello to you there<eos>\n\nUser: Hello there\n\nAssistant:"
    )
    answered = tokenizer.apply_chat_template([*CHAT, ANSWER], tokenize=False)
    assert answered.endswith("<eos>")


def test_plain_prompt_is_a_token_prefix_where_spaces_merge_into_words(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(merging_tokenizer(eos_token="<eos>"), tmp_path))
    assert len(tokenizer.tokenize(" Hello")) == 1  # the merge that a trailing space in the prompt would break
    prompt = encode_prompt(tokenizer, CHAT)
    whole = tokenizer.apply_chat_template([*CHAT, ANSWER], return_dict=False)
    assert whole[: len(prompt)] == prompt


def test_plain_template_writes_bos_only_where_the_tokenizer_would(tmp_path: Path) -> None:
    plain = merging_tokenizer(eos_token="<eos>", bos_token="<bos>")
    assert not render_prompt(load_tokenizer(saved(plain, tmp_path / "a")), CHAT).startswith("<bos>")
    number = plain.convert_tokens_to_ids("<bos>")
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", number)]
    )
    tokenizer = load_tokenizer(saved(plain, tmp_path / "b"))
    assert encode_prompt(tokenizer, CHAT).count(number) == 1


@pytest.mark.parametrize(
    ("special", "pad"),
    [
        ({"eos_token": "<eos>"}, "<eos>"),
        ({"eos_token": "<eos>", "unk_token": "<unk>"}, "<unk>"),
        ({"eos_token": "<eos>", "pad_token": "<eos>", "bos_token": "<|endoftext|>"}, "<|endoftext|>"),
        ({"eos_token": "<eos>", "pad_token": "<mine>"}, "<mine>"),
    ],
)
def test_pad_token_is_one_of_its_own_where_the_vocabulary_has_one(
    tmp_path: Path, special: dict[str, str], pad: str
) -> None:
    tokenizer = merging_tokenizer(**special)
    size = len(tokenizer)
    loaded = load_tokenizer(saved(tokenizer, tmp_path))
    assert (loaded.pad_token, len(loaded)) == (pad, size)


def test_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(saved(merging_tokenizer(), tmp_path))


def test_stop_ids_hold_what_the_template_ends_a_turn_with() -> None:
    tokenizer = merging_tokenizer(eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1))
    model.generation_config.eos_token_id = [3, 7]
    expected = {3, 7, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert stop_ids(model, tokenizer) == expected


def test_template_that_refuses_a_role_says_so_in_words() -> None:
    tokenizer = merging_tokenizer(eos_token="<eos>")
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ModelError, match=r"turns system, user: System role not supported.*first user message"):
        render_prompt(tokenizer, CHAT)


def test_full_checkpoint_loads_with_the_weights_on_disk(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    model, tokenizer = load_policy(workspace, base_of(workspace))
    on_disk = AutoModelForCausalLM.from_pretrained(workspace.settings.model.base).state_dict()
    assert not model.training and tokenizer.chat_template
    assert all(torch.equal(value, on_disk[name]) for name, value in model.state_dict().items())


def test_lora_checkpoint_is_the_base_and_its_adapter(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    base, tokenizer = load_policy(workspace, base_of(workspace))
    ids = torch.tensor([encode_prompt(tokenizer, CHAT)])
    plain = base(ids).logits.detach()
    checkpoint, adapted = add_lora(workspace, base, tokenizer, ids)
    model, _ = load_policy(workspace, checkpoint)
    assert torch.allclose(model(ids).logits, adapted, atol=1e-6) and not torch.allclose(adapted, plain, atol=1e-2)
    assert not any(weight.requires_grad for weight in model.parameters())
    trainable, _ = load_policy(workspace, checkpoint, trainable=True)
    assert {name for name, weight in trainable.named_parameters() if weight.requires_grad} == {
        name for name, _ in trainable.named_parameters() if "lora_" in name
    }


def add_lora(workspace: Workspace, base: Any, tokenizer: Any, ids: torch.Tensor) -> tuple[Checkpoint, torch.Tensor]:
    """A LoRA checkpoint in the workspace, and the logits that it gives."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(base, config).eval()
    folder = workspace.folder / "checkpoints" / "round-1"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with writing(workspace.engine) as session:
        checkpoint = add_checkpoint(session=session, name="round-1", path="checkpoints/round-1", kind="lora")
    return checkpoint, model(ids).logits.detach()


def test_an_adapter_sits_on_the_full_weights_it_was_trained_on(make_workspace: Callable[..., Workspace]) -> None:
    workspace = make_workspace()
    model, tokenizer = load_policy(workspace, base_of(workspace))
    with torch.no_grad():
        model.model.norm.weight.mul_(1.5)
    folder = workspace.folder / "checkpoints" / "trained"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = torch.tensor([encode_prompt(tokenizer, CHAT)])
    adapter, adapted = add_lora(workspace, model, tokenizer, ids)
    with writing(workspace.engine) as session:
        trained = add_checkpoint(session=session, name="trained", path="checkpoints/trained")
        adapter.parent_id = trained.id
        session.add(adapter)
    loaded, _ = load_policy(workspace, adapter)
    assert torch.allclose(loaded(ids).logits, adapted, atol=1e-6)


def test_a_checkpoint_whose_folder_is_gone_is_not_looked_for_on_the_hub(
    make_workspace: Callable[..., Workspace],
) -> None:
    with pytest.raises(ModelError, match=r"weights of round-1 are not there"):
        load_policy(make_workspace(), Checkpoint(name="round-1", path="checkpoints/round-1"))


def test_a_base_whose_folder_is_gone_is_not_taken_for_a_name_on_the_hub(tmp_path: Path) -> None:
    gone = str(tmp_path / "model")
    for load in (load_tokenizer, load_config):
        with pytest.raises(ModelError, match=f"There is no folder {gone}"):
            load(gone)


def test_long_prompts_are_encoded_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = merging_tokenizer(eos_token="<eos>")
    tokenizer.model_max_length = 4
    tokenizer = load_tokenizer(saved(tokenizer, tmp_path))
    monitored = logging.getLogger("transformers")
    monitored.addHandler(caplog.handler)
    try:
        assert len(encode_prompt(tokenizer, CHAT)) > 4
        item = PreferencePair(1, [{"role": "user", "content": "What?"}], "yes " * 9, "no", "a", 1.0, 1)
        assert tokenize_pairs([item], tokenizer, max_length=64)
        assert "indexing errors" not in caplog.text
        tokenizer("What is longer than four tokens?")
        assert "indexing errors" in caplog.text
    finally:
        monitored.removeHandler(caplog.handler)


def test_weights_that_are_missing_are_not_made_up(
    make_workspace: Callable[..., Workspace], tiny_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensors are missing, such as model.norm.weight"):
        load_policy(make_workspace(), Checkpoint(name="broken", path=str(broken)))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_checkpoint_that_is_gone_is_an_error_in_words(make_workspace: Callable[..., Workspace], kind: str) -> None:
    with pytest.raises(ModelError, match="checkpoints/gone"):
        load_policy(make_workspace(), Checkpoint(name="gone", path="checkpoints/gone", kind=kind))


def test_truncated_weights_are_an_error_in_words(
    make_workspace: Callable[..., Workspace], tiny_model: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_policy(make_workspace(), Checkpoint(name="broken", path=str(broken)))
    with pytest.raises(ModelError, match=f"it should have {len(whole)} bytes and has {len(whole) // 2}"):
        check_base(str(broken), tmp_path)


def test_check_base_reports_what_is_there(tiny_model: Path, tmp_path: Path) -> None:
    report = check_base(str(tiny_model), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert report.architecture == "LlamaForCausalLM"
    assert report.parameters == sum(weight.numel() for weight in model.parameters())
    assert report.has_chat_template and report.context_length == 256


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _encoder(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))


def _adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (_without("config.json"), r"has no config.json\. Did you mean .*tiny-llama"),
        (_without("tokenizer.json"), r"has no tokenizer .*save_pretrained"),
        (_without("model.safetensors"), "has no weights"),
        (_pickled, r"a pickle, which can run any code.*\n.*save_pretrained"),
        (_encoder, "BertForMaskedLM, which does not write text left to right"),
        (_adapter, r"LoRA adapter.*some/base"),
        (_pointer, "git lfs pull"),
    ],
)
def test_check_base_says_what_is_wrong(
    tiny_model: Path, tmp_path: Path, harm: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "tiny-llama")
    folder = shutil.copytree(tiny_model, tmp_path / "tiny-lama")
    harm(folder)
    with pytest.raises(ModelError, match=says):
        check_base("tiny-lama", tmp_path)


def test_check_base_suggests_the_nearest_folder(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "models" / "tiny-llama")
    with pytest.raises(ModelError, match=r"There is no folder ./models/tiny-lama\. Did you mean .*models/tiny-llama\?"):
        check_base("./models/tiny-lama", tmp_path)


def test_check_base_offline_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"(?s)looked for as a folder in .*cache.*hf download no/such-model"):
        check_base("no/such-model", tmp_path)


def test_check_base_loads_no_torch(tiny_model: Path) -> None:
    import subprocess
    import sys

    code = f"""
import sys
from pathlib import Path
from dpo_core.base_model import check_base
check_base({str(tiny_model)!r}, Path("."))
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
