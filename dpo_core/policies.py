"""Loading policies: a checkpoint's weights and its tokenizer, with a chat template whatever the model.

torch and transformers are imported where they are used: `pairloop init` calls `check_base`, which needs neither and is
in `base_model.py`. Weights are safetensors only and no model brings code of its own (`trust_remote_code` is off).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_core.base_model import HUB_ID
from dpo_core.errors import ModelError
from dpo_core.workspace import Workspace
from store.checkpoints import full_weights_below
from store.database import reading
from store.hashing import content_hash, file_hash
from store.models import Checkpoint
from store.prompts import Message

if TYPE_CHECKING:
    import torch

# For models without a chat template. Separators stand BEFORE a turn: an assistant turn then ends with EOS itself, and
# nothing follows the token that training should teach. No space ends the prompt: byte-level tokenizers put it into the
# completion's first word, so that the tokens of the prompt are a prefix of those of prompt + completion.
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\\n\\n' }}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
_PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<|finetune_right_pad_id|>", "<unk>")
_PROBE = "pairloop"  # a word whose end is looked for in a rendered conversation


def load_tokenizer(path: str) -> Any:
    """The tokenizer in a folder (or of a hub id), with a pad token and a chat template. Raises ModelError."""
    from transformers import AutoTokenizer

    tokenizer = _loaded("tokenizer", path, partial(AutoTokenizer.from_pretrained, path, trust_remote_code=False))
    if tokenizer.eos_token is None:
        raise ModelError(
            f"The tokenizer of {path} names no end-of-sequence token, so no completion would ever end. "
            "Set eos_token in its tokenizer_config.json."
        )
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = _pad_token(tokenizer)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _plain_template(tokenizer)
    return tokenizer


def _pad_token(tokenizer: Any) -> str:
    # A token of its own where the vocabulary has one: a collator that masks padding by its id would mask EOS as well.
    # None is added: the model's embedding has no row for it.
    known = tokenizer.get_vocab()
    names = [name for name in _PAD_NAMES if name in known and name != tokenizer.eos_token]
    return names[0] if names else str(tokenizer.eos_token)


def _plain_template(tokenizer: Any) -> str:
    # Llama-style tokenizers put BOS before every text by themselves; a rendered conversation must say so.
    puts_bos = tokenizer.bos_token is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if puts_bos else "") + PLAIN_TEMPLATE


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The prompt as the model reads it, up to where its answer begins. Raises ModelError if the template refuses."""
    return _rendered(tokenizer, messages, add_generation_prompt=True)


def _rendered(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"The model's chat template refuses a prompt with the turns {roles}: {error}. "
            "Some models take no system message: put its text into the first user message."
        ) from error


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The tokens of a rendered prompt. The template has written BOS where the model wants one: none is added."""
    # Not verbose: what is too long for the model is left out after this, so its warning of errors would be untrue.
    ids = tokenizer(render_prompt(tokenizer, messages), add_special_tokens=False, verbose=False).input_ids
    return [int(token) for token in ids]


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a completion: those of the generation config, EOS, and what the template ends a turn with."""
    return _stop_ids(model.generation_config, tokenizer)


def saved_stop_ids(path: str, tokenizer: Any) -> frozenset[int]:
    """`stop_ids` of the model in a folder (or of a hub id), without loading its weights. Raises ModelError."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(path)
    except OSError:  # it has none of its own: transformers then takes what the model's configuration says
        generation = GenerationConfig.from_model_config(load_config(path))
    return _stop_ids(generation, tokenizer)


def _stop_ids(generation: Any, tokenizer: Any) -> frozenset[int]:
    named = generation.eos_token_id if generation is not None else None
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named]), _turn_end(tokenizer)}
    return frozenset(token for token in found if token is not None)


def _turn_end(tokenizer: Any) -> int | None:
    """`<|im_end|>` and its like: the special token right after an assistant's words, which need not be EOS."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
    after = _rendered(tokenizer, turns, add_generation_prompt=False).rpartition(_PROBE)[2]
    ids = tokenizer(after.strip(), add_special_tokens=False).input_ids
    return ids[0] if ids and ids[0] in _special_ids(tokenizer) else None


def _special_ids(tokenizer: Any) -> set[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def load_config(path: str) -> Any:
    """A model's configuration. Raises ModelError."""
    from transformers import AutoConfig

    return _loaded("configuration", path, partial(AutoConfig.from_pretrained, path, trust_remote_code=False))


def context_length(config: Any) -> int | None:
    """How many tokens, prompt and completion together, the model has positions for; None where it does not say."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def load_policy(workspace: Workspace, checkpoint: Checkpoint, *, trainable: bool = False) -> tuple[Any, Any]:
    """A checkpoint's model, in float32 and evaluation mode on the CPU, and its tokenizer.

    A LoRA checkpoint is its adapter on top of the full weights it was trained on (the base, unless full weights were
    trained before), a `PeftModel`; its adapter takes gradients only if `trainable`. Raises ModelError.
    """
    path = workspace.checkpoint_path(checkpoint)
    if checkpoint.kind != "lora":
        return _load_full(path), load_tokenizer(path)
    with reading(workspace.engine) as session:
        base = workspace.checkpoint_path(full_weights_below(session=session, checkpoint=checkpoint))
    return _load_adapter(_load_full(base), path, trainable=trainable), load_tokenizer(path)


def best_device() -> torch.device:
    """Where a model computes quickest: the GPU if there is one. As transformers' trainer chooses it."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _load_full(path: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for each file read would fill the run's log
    load = partial(
        AutoModelForCausalLM.from_pretrained,
        path,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model, info = _loaded("model", path, load)
    if info["missing_keys"]:  # transformers warns and makes them up
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"The weights in {path} are not whole: {len(missing)} tensors are missing, such as {missing[0]}. "
            "Copy or convert the model again."
        )
    return model.eval()


def _load_adapter(base: Any, path: str, *, trainable: bool) -> Any:
    if not (Path(path) / "adapter_model.safetensors").is_file():
        raise ModelError(f"The checkpoint {path} has no adapter_model.safetensors. Restore it, or go on from another.")
    from peft import PeftModel  # after the check: importing it takes seconds

    model = _loaded("adapter", path, partial(PeftModel.from_pretrained, base, path, is_trainable=trainable))
    return model.eval()


def weights_hash(workspace: Workspace, checkpoint: Checkpoint) -> str:
    """A hash of the bytes of a checkpoint's weights; for an adapter, of those below it too. Raises ModelError."""
    path = Path(_local_folder(workspace.checkpoint_path(checkpoint)))
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{path} has no weights (*.safetensors). Copy or download the model again.")
    parts = [[file.name, _hash_as_of(file, *_state(file))] for file in files]
    if checkpoint.kind == "lora":
        with reading(workspace.engine) as session:
            below = full_weights_below(session=session, checkpoint=checkpoint)
        scale = file_hash(path / "adapter_config.json")
        return content_hash([weights_hash(workspace, below), parts, scale])
    return content_hash(parts)


@lru_cache(maxsize=256)
def _hash_as_of(file: Path, size: int, changed: int) -> str:
    """A run asks for the same weights several times, and those of a real model take seconds to read."""
    return file_hash(file)


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _local_folder(path: str) -> str:
    """Where a hub id's files lie in this machine's cache, downloaded first if need be; a folder is itself."""
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    return str(_loaded("model", path, partial(snapshot_download, path, allow_patterns=patterns)))


def _loaded(what: str, path: str, load: Callable[[], Any]) -> Any:
    from safetensors import SafetensorError

    if not Path(path).is_dir() and not HUB_ID.fullmatch(path):  # the hub's client would speak of the id's form
        raise ModelError(
            f"There is no folder {path}. Put the model back there, or name the place it was moved to as base in "
            "pairloop.toml."
        )
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        said = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelError(
            f"The {what} of {path} cannot be loaded: {said}\n"
            "Check that the folder is there and whole, and that this version of transformers knows the model."
        ) from error
