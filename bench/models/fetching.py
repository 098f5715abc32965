"""Models by name: of the catalogue, a local folder, or a repository of the hub, as local folders.

From the hub only the files that are read are fetched, each once: the configuration first, so that a model can
be refused before its weights are fetched; then the tokenizer, and one form of the weights. Code comes only
with `trust_remote_code`.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bench.assets import CATALOG, build_once, cache_dir, fetch
from bench.errors import AssetError
from bench.models.weights import INDEXES, PICKLED, WEIGHTS, indexed_names

CONFIG = "config.json"

# Configurations, tokenizers and chat templates of all kinds, in the repository's own folder.
_SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")

_CODE = ("*.py",)


def resolve_config(name: str, revision: str | None = None) -> Path:
    """Folder with the `config.json` of a model; from the hub nothing else is fetched.

    Raises:
        AssetError: it can be had from nowhere.
    """
    if name in CATALOG or Path(name).is_dir():
        return resolve_model(name, revision)
    folder = _snapshot(name, revision, (CONFIG,))
    if not (folder / CONFIG).exists():
        raise AssetError(f"{name} has no {CONFIG}; name a model in the layout of transformers")
    return folder


def resolve_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """As `resolve_model`, without weights from the hub."""
    if name in CATALOG or Path(name).is_dir():
        return resolve_model(name, revision)
    return _snapshot(name, revision, (*_SMALL_FILES, *(_CODE if trust_remote_code else ())))


def resolve_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """Local folder in `transformers` layout for a catalogue name, a folder or a hub id.

    Raises:
        AssetError: the model can be had from none of the three.
    """
    if name in CATALOG:
        source = fetch(name)
        folder = cache_dir() / "models" / source.name
        return build_once(folder, lambda new: _convert_gguf(source, new), _is_whole)
    if Path(name).is_dir():
        return Path(name)
    folder = resolve_tokenizer(name, revision, trust_remote_code)
    return _snapshot(name, revision, _weight_names(name, revision, folder))


def _weight_names(name: str, revision: str | None, folder: Path) -> list[str]:
    """The files of a repository that hold its weights once; `folder` has its small files."""
    present = _names_in(name, revision, folder)
    for whole, index in zip((WEIGHTS, PICKLED), INDEXES, strict=True):
        if whole in present:
            return [whole]
        if index in present:
            return indexed_names(folder / index)
    endings = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
    others = sorted(file for file in present if "/" not in file and file.endswith(endings))
    raise AssetError(
        f"{name} has neither {WEIGHTS} nor {PICKLED}, whole or in shards with an index"
        + (
            f", but {', '.join(others[:3])}; convert it to safetensors"
            if others
            else "; check name and network"
        )
    )


def _names_in(name: str, revision: str | None, folder: Path) -> Collection[str]:
    """Files of a repository; without a connection, those that are here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return HfApi().list_repo_files(name, revision=revision)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return [path.name for path in folder.iterdir()]


def _snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Folder of a hub repository with the files that match `patterns`; those of folders inside it are not.

    Raises:
        AssetError: the hub did not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"])
        )
    except HFValidationError as error:
        what = "is a file" if Path(name).is_file() else "is no folder that is here"
        raise AssetError(
            f"model {name!r} {what}; give a local folder, or a hub id such as owner/name"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AssetError(
            f"model {name!r} is neither in the catalogue ({', '.join(CATALOG)}) nor a folder, and the "
            f"hub did not give it: {reason} - check the name and the network, or give a local folder"
        ) from error


def _is_whole(folder: Path) -> bool:
    """Whether a converted model was not cut short; only the header of its weights is read."""
    try:
        with safe_open(folder / WEIGHTS, framework="numpy"):
            return (folder / CONFIG).stat().st_size > 0 and (folder / "tokenizer.json").stat().st_size > 0
    except (OSError, SafetensorError):
        return False


def _convert_gguf(source: Path, folder: Path) -> None:
    """Dequantises a GGUF file once into bfloat16 safetensors."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    gguf = next(source.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
    values = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    # A model loaded from GGUF refuses to be saved; the same weights in a plain model do not.
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    plain.load_state_dict(model.state_dict())
    plain.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf).save_pretrained(folder)
