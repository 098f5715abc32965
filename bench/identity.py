"""What a stored result was made of: a hash of every ingredient.

Every cache, the resuming of a run, the check of an export and the comparison of runs use this. README.md has
a table of what each stored result depends on.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.assets import CATALOG, sha256_of

WEIGHTS, CHAT_TEMPLATE, TOKENIZER, GENERATION = "weights", "chat template", "tokenizer", "generation settings"

_CONFIG, _CODE = "configuration", "code"

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")

_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken"),
)

# Notes of the library that wrote a file: they change nothing in a result.
_NOTES = ("transformers_version", "name_or_path", "tokenizer_file", "vocab_file")

# Generation settings that do not change what a model generates; libraries add and drop them.
_NO_GENERATION = (
    *("use_cache", "output_attentions", "output_hidden_states", "return_dict_in_generate"),
    *("bos_token_id", "pad_token_id"),
)

# Files in the hub's cache are links to blobs that are named by their sha256.
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Identity:
    """Hash or value of every ingredient, by name."""

    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """sha256 of all ingredients."""
        return hash_of(dict(self.parts))

    def also(self, **parts: Any) -> "Identity":
        """The same with further ingredients."""
        return Identity({**self.parts, **parts})

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Names of the ingredients that both have and that differ."""
        return [name for name, value in self.parts.items() if name in recorded and recorded[name] != value]


def hash_of(value: Any) -> str:
    """sha256 of a value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_model(name: str, folder: Path) -> Identity:
    """Ingredients of a target or draft.

    A catalogue model is converted from one pinned file, whose hash covers everything but later edits of its
    text files.

    Args:
        name: its name in the configuration.
        folder: its files.
    """
    texts = {
        CHAT_TEMPLATE: hash_of(_templates(folder)),
        GENERATION: hash_of(_generation(folder)),
    }
    if name in CATALOG:
        return Identity({WEIGHTS: CATALOG[name].sha256, **texts})
    parts = {
        WEIGHTS: weights_sha256(folder),
        _CONFIG: hash_of(_json(folder / "config.json")),
        TOKENIZER: _of_files(folder, _TOKENIZER_FILES),
        **texts,
        _CODE: _of_files(folder, ("*.py",)),
    }
    return Identity(parts)


def of_tokenizer(tokenizer: Any) -> Identity:
    """Ingredients of a loaded tokenizer: all that decides how a conversation becomes tokens."""
    return Identity(
        {
            TOKENIZER: hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
            CHAT_TEMPLATE: hash_of(tokenizer.chat_template),
            "special tokens": hash_of({key: str(v) for key, v in tokenizer.special_tokens_map.items()}),
        }
    )


def weights_sha256(folder: Path) -> str:
    """sha256 of the weights: of the file, or of the hashes of all shards and their index.

    A folder without weights is known by its `config.json`.
    """
    for pattern in ("model.safetensors", *_WEIGHT_FILES):
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) == 1:
            return _sha256(found[0])
        if found:
            return hash_of([[path.name, _sha256(path)] for path in found])
    return sha256_of(folder / "config.json")


def index_sha256(folder: Path) -> str:
    """As `weights_sha256`, but of shards only their index, as runs without an identity recorded it."""
    index = folder / "model.safetensors.index.json"
    return sha256_of(index) if index.exists() else weights_sha256(folder)


def _sha256(path: Path) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name):
        return blob.name
    return sha256_of(path)


def _of_files(folder: Path, patterns: Iterable[str]) -> str:
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return hash_of([[path.name, _of_file(path)] for path in found])


def _of_file(path: Path) -> str:
    # The vocabulary is large, and no library writes notes into it.
    is_notes = path.suffix == ".json" and path.name not in ("tokenizer.json", "vocab.json")
    return hash_of(_json(path)) if is_notes else _sha256(path)


def _json(path: Path) -> Any:
    """The values of a JSON file without notes and chat template; None if there is none."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ["unreadable", sha256_of(path)]
    if not isinstance(values, dict):
        return values
    dropped = (*_NOTES, "chat_template")
    return {key: value for key, value in values.items() if key not in dropped and not key.startswith("_")}


def _generation(folder: Path) -> dict[str, Any] | None:
    values = _read_json(folder / "generation_config.json")
    dropped = (*_NOTES, *_NO_GENERATION)
    return values and {k: v for k, v in values.items() if k not in dropped and not k.startswith("_")}


def _templates(folder: Path) -> dict[str, str]:
    """Every chat template of a model by its name, whichever file it is in."""
    inside = (_read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if isinstance(inside, list):
        inside = {entry.get("name"): entry.get("template") for entry in inside if isinstance(entry, dict)}
    found = dict(inside) if isinstance(inside, dict) else {} if inside is None else {"default": inside}
    found |= (
        {"default": v}
        if (v := (_read_json(folder / "chat_template.json") or {}).get("chat_template"))
        else {}
    )
    for path in [*folder.glob("chat_template.jinja"), *folder.glob("additional_chat_templates/*.jinja")]:
        found["default" if path.parent == folder else path.stem] = path.read_text("utf-8", "replace")
    return found


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
