"""Whether a model can be started from, told without loading it: `pairloop init` asks before it makes a workspace.

Reads file names, two JSON files and the headers of the weights. Importable without torch, and over in milliseconds.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_core.errors import ModelError
from dpo_core.workspace import resolve_model

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_CAUSAL = re.compile(r"(ForCausalLM|LMHeadModel)$")
HUB_SECONDS = 10
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # "./model" is a folder that is not there, not an id


@dataclass(frozen=True)
class BaseReport:
    """What `check_base` found out. `path` is what `from_pretrained` is given: a folder, or a hub id."""

    path: str
    architecture: str
    parameters: int | None
    has_chat_template: bool
    context_length: int | None


@dataclass(frozen=True)
class Weights:
    """A model as its files describe it: where they are, config.json, and the shape of every tensor."""

    folder: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Listing:
    """A model's files, wherever they are."""

    path: str
    names: frozenset[str]
    fetch: Callable[[str], Path]  # a file of that name on this machine

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file; empty if there is none. Raises ModelError."""
        if name not in self.names:
            return {}
        try:
            content = json.loads(self.fetch(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{name} of {self.path} cannot be read: {error}. Copy or download the model again."
            ) from error
        return content if isinstance(content, dict) else {}


def check_base(base: str, folder: Path) -> BaseReport:
    """Look at the model that a workspace in `folder` would start from. Raises ModelError that says what to do."""
    listing = _listing(base, folder)
    config = listing.read("config.json")
    architecture = _architecture(listing, config)
    _check_tokenizer(listing)
    return BaseReport(
        path=listing.path,
        architecture=architecture,
        parameters=_parameters(listing),
        has_chat_template=_has_chat_template(listing),
        context_length=config.get("max_position_embeddings") or config.get("n_positions"),
    )


def weights_here(base: str, folder: Path) -> Weights | None:
    """A model's description where its files are on this machine, in a folder or in the cache; None where not.

    Never asks the hub: what is shown on every page may not wait for it.
    """
    path = Path(resolve_model(base, folder))
    try:
        listing = _folder_listing(path if path.is_dir() else _cached(base))
        shards = [listing.fetch(name) for name in sorted(_shards(listing))]
        shapes = {name: shape for shard in shards for name, shape in _shapes(shard).items()}
        return Weights(Path(listing.path), listing.read("config.json"), shapes) if shapes else None
    except (ModelError, OSError, ValueError):  # ValueError: no name that a model of the hub can have
        return None


def _cached(base: str) -> Path:
    """The folder of a hub id in this machine's cache. Raises LocalEntryNotFoundError (an OSError), or ValueError."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base, local_files_only=True))


def _listing(base: str, folder: Path) -> _Listing:
    if not base.strip():
        raise ModelError("No model is named. Give a folder, or an id such as Qwen/Qwen2.5-0.5B-Instruct.")
    path = Path(resolve_model(base, folder))
    if path.is_dir():
        return _folder_listing(path)
    if path.is_file():
        raise ModelError(f"{path} is a file. Give the folder that has the model's config.json, tokenizer and weights.")
    if not HUB_ID.fullmatch(base):
        raise ModelError(f"There is no folder {base}.{_near(folder / Path(base).expanduser())}")
    return _hub_listing(base, folder)


def _near(wanted: Path) -> str:
    """The model folder beside `wanted` whose name is nearest, as a sentence."""
    siblings = [path for path in _subfolders(wanted.parent) if (path / "config.json").is_file()]
    near = difflib.get_close_matches(wanted.name, [path.name for path in siblings], n=1, cutoff=0.4)
    return f" Did you mean {wanted.parent / near[0]}?" if near else ""


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _folder_listing(path: Path) -> _Listing:
    listing = _Listing(str(path), frozenset(entry.name for entry in path.iterdir()), path.joinpath)
    if "config.json" in listing.names:
        return listing
    if "adapter_config.json" in listing.names:
        of = listing.read("adapter_config.json").get("base_model_name_or_path", "the one it was trained on")
        raise ModelError(f"{path} is a LoRA adapter, not a model. Merge it into its base ({of}) and give the result.")
    if any(name.endswith(".gguf") for name in listing.names):
        raise ModelError(f"{path} has GGUF weights, which cannot be trained. Give the original transformers folder.")
    inside = [child for child in _subfolders(path) if (child / "config.json").is_file()]
    hint = f" Did you mean {inside[0]}?" if inside else _near(path)
    raise ModelError(f"{path} is not a model: it has no config.json.{hint}")


def _hub_listing(base: str, folder: Path) -> _Listing:
    """The files of a hub id: those in this machine's cache if it is there, else what the hub says."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _folder_listing(Path(snapshot_download(base, local_files_only=True)))
    except (LocalEntryNotFoundError, ModelError):  # not there, or the leavings of a download that broke off
        pass
    try:
        files = (
            HfApi().model_info(base, timeout=HUB_SECONDS).siblings or []
        )  # list_repo_files would try for half a minute
        return _Listing(
            base, frozenset(file.rfilename for file in files), lambda name: Path(hf_hub_download(base, name))
        )
    except Exception as error:  # the client's own errors, its HTTP library's and the system's have no base in common
        said = str(error).strip().split("\n")[0]
        raise ModelError(
            f"{base} was looked for as a folder in {folder} and in {Path.cwd()}, in the download cache, and on "
            f"huggingface.co, which lacks it or cannot be reached ({said}).{_near(folder / base)} "
            f"Check the name; without a connection, download it elsewhere (`hf download {base}`) and give its folder."
        ) from error


def _architecture(listing: _Listing, config: dict[str, Any]) -> str:
    names = config.get("architectures") or []
    if not names:
        return str(config.get("model_type", "unknown"))
    causal = [str(name) for name in names if _CAUSAL.search(str(name))]
    if not causal:
        raise ModelError(
            f"{listing.path} is a {names[0]}, which does not write text left to right. pairloop needs a causal LM: "
            "an architecture that ends in ForCausalLM or LMHeadModel."
        )
    return causal[0]


def _check_tokenizer(listing: _Listing) -> None:
    if not any(name in listing.names for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{listing.path} has no tokenizer (tokenizer.json). Save it beside the weights: "
            "`tokenizer.save_pretrained(folder)`, or copy the tokenizer files of the model it was trained from."
        )


def _parameters(listing: _Listing) -> int | None:
    """How many parameters the weights hold, from their headers; None on the hub. Raises ModelError."""
    shards = _shards(listing)
    if not Path(listing.path).is_dir():
        return None
    return sum(math.prod(shape) for name in sorted(shards) for shape in _shapes(listing.fetch(name)).values())


def _shards(listing: _Listing) -> set[str]:
    """The files that hold the weights. Raises ModelError where there are none, or some are missing."""
    weights = {name for name in listing.names if name.endswith(".safetensors")}
    if not weights:
        raise _no_safetensors(listing)
    if not Path(listing.path).is_dir():
        return weights
    index = listing.read("model.safetensors.index.json")
    shards = set(index["weight_map"].values()) if "weight_map" in index else weights
    if shards - weights:
        raise ModelError(
            f"{listing.path} lacks {', '.join(sorted(shards - weights))}. Copy or download the model again."
        )
    return shards


def _no_safetensors(listing: _Listing) -> ModelError:
    pickled = sorted(name for name in listing.names if name.endswith(_PICKLED) and "training_args" not in name)
    if not pickled:
        return ModelError(f"{listing.path} has no weights (model.safetensors). Copy or download the model again.")
    return ModelError(
        f"{listing.path} has its weights in {pickled[0]}, a pickle, which can run any code when it is opened; pairloop "
        "opens safetensors only. If you trust its source, convert it once:\n"
        '  python -c "from transformers import AutoModelForCausalLM as M; '
        f'M.from_pretrained({listing.path!r}).save_pretrained({listing.path!r})"'
    )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a safetensors file, from its header: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("its header is cut off")
            header = json.loads(stream.read(length))
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        if path.stat().st_size < 8 + length + end:
            raise ValueError(f"it should have {8 + length + end} bytes and has {path.stat().st_size}")
        return {name: tuple(entry["shape"]) for name, entry in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not whole: {error}. Download it again (a file of a few lines is a Git LFS pointer: "
            "`git lfs pull` fetches the weights)."
        ) from error


def _has_chat_template(listing: _Listing) -> bool:
    named = {"chat_template.jinja", "chat_template.json"} & listing.names
    return bool(named) or bool(listing.read("tokenizer_config.json").get("chat_template"))
