"""The files of one export, and the commands that serve it with each engine."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.config import PairConfig, SelectConfig
from bench.cost.config_json import DraftKind, read_config
from bench.errors import CheckpointError
from bench.export.checkpoint import (
    borrowed_head,
    has_same_rows,
    read_embedding,
    read_head,
    trim_decoder_lm,
    trim_eagle3,
    trim_lm_head,
    trim_mtp,
)
from bench.export.gguf_files import cut_gguf, gguf_architecture, unknown_tensors, write_eagle3_gguf
from bench.export.gguf_mtp import READS_D2T, architecture_of, sidecar_objections, write_mtp_gguf
from bench.export.layouts import with_draft_vocab_size
from bench.export.vocab_maps import Provenance, write_maps
from bench.models.draft_config import Layout, chosen_layers, feature_layers, num_target_layers
from bench.models.eagle_files import CONFIG, EagleFiles, open_eagle
from bench.models.engines import (
    LLAMA_CPP,
    OF_DECODER_LM,
    SGLANG,
    VLLM,
    VLLM_RUNNER,
    needs_first_runner,
    objections,
)
from bench.models.fetching import resolve_config, resolve_model
from bench.models.mtp import OF_TARGET, has_own_head, open_mtp
from bench.models.weights import StoredTensor
from bench.vocab.draft_vocab import DraftVocab, IntArray

EXPORTS, GGUF = "exports", "draft.gguf"


@dataclass(frozen=True)
class Export:
    """A vocabulary and the draft to trim.

    Attributes:
        chosen: the vocabulary.
        counts: counts of every target token in the domain's ranking responses `(V,)`.
        must_keep: ids in every vocabulary, of any size.
        provenance: origin of the vocabulary, written with every file.
        pair: target and draft.
        draft_folder: the draft's files.
        kind: kind of draft.
        settings: `checkpoint` and `eagle3_config` say what to write.
        gguf: a GGUF file of the draft, whose head is cut; without it one is written from the weights.
    """

    chosen: DraftVocab
    counts: IntArray
    must_keep: list[int]
    provenance: Provenance
    pair: PairConfig
    draft_folder: Path
    kind: DraftKind
    settings: SelectConfig
    gguf: Path | None = None


def write_exports(folder: Path, export: Export) -> None:
    """Writes every file of an export into `folder`/exports.

    Raises:
        CheckpointError: the draft, or the configuration that the user gave, cannot be trimmed.
    """
    out = folder / EXPORTS
    out.mkdir()
    write_maps(export.chosen, export.counts, export.must_keep, export.provenance, out)
    _write_config(out, export)
    if export.settings.checkpoint:
        _write_checkpoints(out, export)
        _write_gguf(out, export)


def serve_commands(export: Export, target: str, gamma: int, folder: Path, written: Path) -> dict[str, str]:
    """By engine, the command line that loads the trimmed draft, or why it computes something else.

    Args:
        export: what was written.
        target: the folder or hub id that engines load.
        gamma: draft length.
        folder: where the export will stand.
        written: where its files are now.
    """
    if not export.settings.checkpoint:
        return {}
    if export.kind is DraftKind.DECODER_LM:
        return _decoder_lm_commands(export, target, gamma, folder)
    if export.kind is DraftKind.MTP:
        return _mtp_commands(export, target, gamma, folder, written)
    source = export.draft_folder if export.kind is DraftKind.EAGLE else written / "draft"
    files, against = _opened(source, export)
    if export.kind is DraftKind.EAGLE:
        against[VLLM].append("it cuts no head of an EAGLE-1 or EAGLE-2 draft")
    if files.embedding is not None:
        against[SGLANG] += _replaced_embedding(files.embedding, export.pair)
    commands = _commands(target, gamma, folder, source, export.kind, needs_first_runner(files.config))
    return {
        engine: f"not loaded as measured: {', '.join(reasons)}" if reasons else commands[engine]
        for engine, reasons in against.items()
    }


def speculative_config(draft: str | Path, gamma: int) -> dict[str, Any]:
    """What vLLM takes as `--speculative-config` for an EAGLE-3 draft."""
    return {"method": "eagle3", "model": str(draft), "num_speculative_tokens": gamma}


def _commands(
    target: str, gamma: int, folder: Path, source: Path, kind: DraftKind, needs_runner: bool
) -> dict[str, str]:
    """Command lines by engine."""
    is_eagle3 = kind is DraftKind.EAGLE3
    path = str(folder / EXPORTS / "draft") if is_eagle3 else str(source)
    settings = json.dumps(speculative_config(path, gamma))
    runner = f"{VLLM_RUNNER} " if needs_runner else ""
    map_path = folder / EXPORTS / "sglang" / "token_map.pt"
    token_map = "" if is_eagle3 else f" --speculative-token-map {map_path}"
    return {
        VLLM: f"{runner}vllm serve {target} --speculative-config '{settings}'",
        SGLANG: f"python -m sglang.launch_server --model-path {target} "
        f"--speculative-algorithm {'EAGLE3' if is_eagle3 else 'EAGLE'} "
        f"--speculative-draft-model-path {path} --speculative-num-steps {gamma} --speculative-eagle-topk 1 "
        f"--speculative-num-draft-tokens {gamma + 1}{token_map}",
        LLAMA_CPP: f"llama-server --model <target as GGUF> --spec-type draft-eagle3 "
        f"--spec-draft-model {folder / EXPORTS / GGUF} --spec-draft-n-max {gamma}",
    }


def _decoder_lm_commands(export: Export, target: str, gamma: int, folder: Path) -> dict[str, str]:
    """By engine, what serves a decoder LM with all of its tokens, or why none serves a trimmed one."""
    if not export.chosen.is_full:
        return {engine: f"not loaded as measured: {why}" for engine, why in OF_DECODER_LM.items()}
    path = folder / EXPORTS / "draft"
    settings = {"method": "draft_model", "model": str(path), "num_speculative_tokens": gamma}
    return {
        VLLM: f"vllm serve {target} --speculative-config '{json.dumps(settings)}'",
        SGLANG: f"python -m sglang.launch_server --model-path {target} --speculative-algorithm STANDALONE "
        f"--speculative-draft-model-path {path} --speculative-num-steps {gamma} --speculative-eagle-topk 1 "
        f"--speculative-num-draft-tokens {gamma + 1}",
        LLAMA_CPP: f"not written: convert {path}, beside the target's tokenizer, with convert_hf_to_gguf.py",
    }


def _mtp_commands(export: Export, target: str, gamma: int, folder: Path, written: Path) -> dict[str, str]:
    """By engine, what serves an MTP module with the vocabulary, or why nothing does."""
    sidecar = (
        "llama-server --model <target as GGUF> --spec-type draft-mtp "
        f"--spec-draft-model {folder / EXPORTS / GGUF} --spec-draft-n-max {gamma}"
    )
    if not export.chosen.is_full:
        sidecar += "  # since its pull request 29143, which was open in November 2026"
    map_path = folder / EXPORTS / "sglang" / "token_map.pt"
    nextn = (
        f"python -m sglang.launch_server --model-path {target} --speculative-algorithm NEXTN "
        f"--speculative-num-steps {gamma} --speculative-eagle-topk 1 "
        f"--speculative-num-draft-tokens {gamma + 1} --speculative-token-map {map_path}"
    )
    alone = "not loaded: it takes MTP modules out of the target's own files"
    reasons = _sidecar_objections(export, written)
    return {
        VLLM: "not loaded as measured: it cuts no head of an MTP module"
        if export.pair.draft == OF_TARGET
        else alone,
        SGLANG: nextn if export.pair.draft == OF_TARGET else alone,
        LLAMA_CPP: f"not loaded: {', '.join(reasons)}" if reasons else sidecar,
    }


def _sidecar_objections(export: Export, written: Path) -> list[str]:
    """What keeps llama.cpp from an MTP module with the vocabulary."""
    if export.gguf:
        arch: str | None = gguf_architecture(written / GGUF)
    else:
        files = open_mtp(written / "draft", may_be_quantised=True)
        if reasons := sidecar_objections(files, _target_of(export.pair)):
            return reasons
        arch = architecture_of(files.config)
    return [] if export.chosen.is_full or arch in READS_D2T else [f"the MTP layer of its {arch} reads no d2t"]


def _write_config(out: Path, export: Export) -> None:
    """An EAGLE-3 configuration with the new size: the user's, or else that of the draft."""
    given = export.settings.eagle3_config
    if given is None and export.kind is not DraftKind.EAGLE3:
        return
    path = Path(given) if given else export.draft_folder / CONFIG
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"select.eagle3_config={path} cannot be read: {error}") from error
    edited = with_draft_vocab_size(text, len(export.chosen), str(path))
    (out / "eagle3_config.json").write_bytes(edited.encode("utf-8"))


def _write_checkpoints(out: Path, export: Export) -> None:
    folder, chosen, pair = export.draft_folder, export.chosen, export.pair
    target = partial(_target_of, pair)
    if export.kind is DraftKind.DECODER_LM:
        trim_decoder_lm(folder, chosen, target, out)
        return
    if export.kind is DraftKind.MTP:
        trim_mtp(folder, chosen, None if has_own_head(folder) else read_head(target()), out / "draft")
        return
    head = borrowed_head(folder, target)
    if export.kind is DraftKind.EAGLE:
        # Engines cut the head of these drafts, which is the target's, by a token map.
        trim_lm_head(folder, chosen, out / "lm_head", head)
        return
    for layout, place in ((Layout.SAFEAILAB, "draft"), (Layout.SPECULATORS, "draft-speculators")):
        trim_eagle3(folder, chosen, head, layout, out / place, pair.target)


def _write_gguf(out: Path, export: Export) -> None:
    """The draft for llama.cpp: cut out of the user's file, or made of the trimmed weights."""
    if export.gguf:
        cut_gguf(export.gguf, export.chosen, out / GGUF)
    elif export.kind is DraftKind.EAGLE3:
        files, against = _opened(out / "draft", export)
        if not against[LLAMA_CPP]:
            write_eagle3_gguf(files, _feature_layers(files, export.pair), out / GGUF)
    elif export.kind is DraftKind.MTP:
        module, target = open_mtp(out / "draft", may_be_quantised=True), _target_of(export.pair)
        if not sidecar_objections(module, target):
            write_mtp_gguf(module, target, out / GGUF)


def _opened(source: Path, export: Export) -> tuple[EagleFiles, dict[str, list[str]]]:
    """An EAGLE draft's files, and what keeps each engine from computing what was measured."""
    files = open_eagle(source, export.kind, export.pair.ignore_keys, may_be_quantised=True)
    against = objections(files.config, read_config(source / CONFIG)[1], files.layers)
    if not export.gguf and not against[LLAMA_CPP]:
        against[LLAMA_CPP] = unknown_tensors(files)
    return files, against


def _replaced_embedding(own: StoredTensor, pair: PairConfig) -> list[str]:
    """What SGLang, which gives every draft the target's input embedding, makes of a draft with its own."""
    try:
        is_same = has_same_rows(own, read_embedding(_target_of(pair)))
    except CheckpointError as error:
        return [f"it takes the target's input embedding, which could not be compared ({error})"]
    return [] if is_same else ["it takes the target's input embedding, and the draft has another"]


def _target_of(pair: PairConfig) -> Path:
    return resolve_model(pair.target, pair.target_revision, pair.trust_remote_code)


def _feature_layers(files: EagleFiles, pair: PairConfig) -> tuple[int, ...]:
    """The target layers that the draft reads, which a GGUF file names in any case."""
    values = read_config(resolve_config(pair.target, pair.target_revision) / CONFIG)[1]
    num_layers = num_target_layers(values.get("text_config") or values)
    if num_layers is None:
        raise CheckpointError(f"{pair.target}: its {CONFIG} does not say how many layers it has")
    return feature_layers(files.config, num_layers, chosen_layers(pair.layer_ids), str(files.folder / CONFIG))
