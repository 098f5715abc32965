"""`task=check`: what of a pair will be honoured, refused and assumed, and whether a draft's map is sound.

Reads configurations, the tokenizer, and of weights that are here nothing but the map.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.config import PairConfig
from bench.cost.config_json import DraftKind, kind_of, read_config
from bench.errors import AssetError, BenchError, VocabError
from bench.export.files import stated_hash
from bench.models.checkpoint import SHIPPED
from bench.models.config_rules import Verdict
from bench.models.decoder_lm import trimmed_head
from bench.models.draft_config import (
    LAST,
    EagleConfig,
    chosen_layers,
    feature_layers,
    layer_note,
    num_target_layers,
    read_draft_keys,
)
from bench.models.eagle_files import num_layers_in
from bench.models.engines import LLAMA_CPP, OF_DECODER_LM, objections
from bench.models.fetching import CONFIG, resolve_config, resolve_tokenizer
from bench.models.mtp import OF_TARGET, open_mtp
from bench.models.mtp_config import check_model_type
from bench.models.target_config import plan_target
from bench.models.weights import (
    INDEXES,
    PICKLED,
    WEIGHTS,
    StoredTensor,
    as_integers,
    open_weights,
    weight_files,
    without_prefix,
)
from bench.text.tokenizer import load_tokenizer
from bench.vocab.draft_vocab import DraftVocab, IntArray

_RANKS = (2, 4, 8)


@dataclass
class Findings:
    """What was found.

    Attributes:
        lines: what holds.
        problems: what is refused or broken; any of them makes the exit code 2.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """What `action` returns; None where it is refused, which is then a problem."""
        try:
            return action()
        except BenchError as error:
            self.problems.append(str(error))
            return None


def run_check(pair: PairConfig, console: Console) -> int:
    """Prints the findings.

    Returns:
        The exit code: 2 where there is a problem.
    """
    found = check_pair(pair)
    for line in found.lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for problem in found.problems:
        console.print(f"Problem: {problem}", soft_wrap=True, markup=False, highlight=False)
    return BenchError.exit_code if found.problems else 0


def check_pair(pair: PairConfig) -> Findings:
    """Everything that configurations and the map say about a pair."""
    found = Findings()
    target = found.attempt(lambda: _target(pair, found))
    folder = found.attempt(lambda: _folder_of_draft(pair))
    if folder is None:
        return found
    values = found.attempt(lambda: read_config(folder / CONFIG)[1])
    if pair.draft == OF_TARGET:
        kind: DraftKind | None = DraftKind.MTP
    else:
        kind = None if values is None else found.attempt(lambda: kind_of(values, str(folder / CONFIG)))
    if kind is DraftKind.MTP:
        _mtp(folder, found)
        return found
    if kind is DraftKind.DECODER_LM:
        found.lines.append("draft: a decoder LM, which reads no features of a target")
        found.attempt(lambda: plan_target(values, str(folder / CONFIG), pair.trust_remote_code))
        if trimmed := found.attempt(lambda: trimmed_head(folder)):
            vocab = trimmed[0]
            found.lines.append(f"  its LM head has {len(vocab):,} of {vocab.target_vocab_size:,} tokens")
            found.lines += [f"  {engine}: not as it is here: {why}" for engine, why in OF_DECODER_LM.items()]
    if kind is None or kind is DraftKind.DECODER_LM:
        return found
    found.lines.append(f"draft: {kind.label}")
    read = found.attempt(lambda: read_draft_keys(values, str(folder / CONFIG), kind, pair.ignore_keys))
    if read is None:
        return found
    config, readings = read
    for verdict in (Verdict.HONOURED, Verdict.IRRELEVANT):
        keys = [f"{r.key}={r.value}" for r in readings if r.verdict is verdict and r.value is not None]
        found.lines.append(f"  {verdict.value}: {', '.join(keys) or 'nothing'}")
    tensors = found.attempt(lambda: _tensors_here(folder)) or {}
    if tensors:
        config = replace(config, num_layers=num_layers_in(tensors))
    _engines(config, values, tensors, found)
    if target is not None:
        _fit(pair, config, target, str(folder / CONFIG), found)
    _map(pair, config, folder, tensors, found)
    return found


def _mtp(folder: Path, found: Findings) -> None:
    found.lines.append(f"draft: {DraftKind.MTP.label}")
    found.attempt(lambda: check_model_type(read_config(folder / CONFIG)[1], str(folder / CONFIG)))
    if any((folder / name).exists() for name in (WEIGHTS, PICKLED, *INDEXES)):
        files = found.attempt(lambda: open_mtp(folder))
        if files is not None:
            layer = f"one layer of a {files.config.model_type}"
            found.lines.append(f"  {len(files.tensors)} tensors {files.prefix}*, {layer}")
            found.lines += [f"  {note}" for note in files.notes]


def _target(pair: PairConfig, found: Findings) -> dict[str, Any]:
    folder = resolve_config(pair.target, pair.target_revision)
    values = read_config(folder / CONFIG)[1]
    plan = plan_target(values, str(folder / CONFIG), pair.trust_remote_code)
    how = "the lean pass" if plan.is_lean else f"transformers ({plan.auto_class})"
    if not plan.is_lean and (quantised := values.get("quantization_config")):
        plain = {key: value for key, value in values.items() if value is not quantised}
        if plan_target(plain, str(folder / CONFIG), pair.trust_remote_code).is_lean:
            how += ", or through the lean pass where its weights are dequantised on loading"
    found.lines.append(f"target: {values.get('model_type')}, runs through {how}")
    return values.get("text_config") or values


def _folder_of_draft(pair: PairConfig) -> Path:
    if pair.draft == OF_TARGET:
        return resolve_config(pair.target, pair.target_revision)
    shipped = SHIPPED / pair.draft
    return shipped if shipped.is_dir() else resolve_config(pair.draft, pair.draft_revision)


def _tensors_here(folder: Path) -> dict[str, StoredTensor]:
    """Tensors by name, unread; none where the weights are on the hub."""
    try:
        return without_prefix(open_weights(folder))
    except AssetError:
        return {}


def _engines(config: EagleConfig, values: dict[str, Any], tensors: Collection[str], found: Findings) -> None:
    for engine, reasons in objections(config, values, tensors).items():
        how = "reads it as GGUF" if engine == LLAMA_CPP else "loads it as it is"
        verdict = how if not reasons else f"not as it is here: {'; '.join(reasons)}"
        found.lines.append(f"  {engine}: {verdict}")


def _fit(pair: PairConfig, config: EagleConfig, target: dict[str, Any], where: str, found: Findings) -> None:
    """Whether the draft reads what the target has."""
    num_layers = num_target_layers(target)
    if num_layers is not None:
        chosen = chosen_layers(pair.layer_ids)
        layers = found.attempt(lambda: feature_layers(config, num_layers, chosen, where))
        if layers is not None:
            after = ", ".join(map(str, layers))
            last = "its last hidden state" if LAST in layers else f"states after {after} layers"
            note = layer_note(config, layers, num_layers)
            found.lines.append(
                f"  assumed: the draft reads of the target {last}{f'; {note}' if note else ''}"
            )
    size = target.get("vocab_size")
    if size != config.vocab_size:
        found.lines.append(
            f"  assumed: equal ids are equal tokens; the draft has {config.vocab_size}, the target {size}: "
            "those that both have are drafted; a text with any other is refused"
        )


# The map of a trimmed head.


def _map(
    pair: PairConfig, config: EagleConfig, folder: Path, tensors: dict[str, StoredTensor], found: Findings
) -> None:
    if not tensors:
        found.lines.append("  map: not audited, as the weights are not here; task=select fetches them")
        return
    if "d2t" not in tensors:
        if config.draft_vocab_size < config.vocab_size:
            found.problems.append(
                f"{folder}: the LM head is trimmed to {config.draft_vocab_size:,} tokens and has no d2t, so "
                "that engines take the first ones of the target"
            )
        else:
            found.lines.append("  map: none, the head is whole")
        return
    vocab = found.attempt(lambda: _vocab(tensors, config, folder))
    if vocab is None:
        return
    found.lines.append(f"  map: {len(vocab):,} of {vocab.target_vocab_size:,} tokens, in order and in range")
    found.problems += map_problems(vocab, _stated(folder), tensors)
    kept = found.attempt(lambda: _must_keep(pair))
    if kept is not None:
        missing = np.setdiff1d(kept, vocab.target_ids)
        if len(missing):
            shown = ", ".join(map(str, missing[:5]))
            found.problems.append(
                f"{folder}: {len(missing)} tokens that every draft must keep are not in the map, such as "
                f"{shown}: the draft cannot end a turn with them"
            )
    found.lines += rank_lines(vocab)


def _vocab(tensors: dict[str, StoredTensor], config: EagleConfig, folder: Path) -> DraftVocab:
    try:
        return DraftVocab.from_d2t(as_integers(tensors["d2t"].tensor()), config.vocab_size)
    except (VocabError, ValueError) as error:
        raise VocabError(f"{folder}: d2t is not a vocabulary map: {error}") from error


def map_problems(vocab: DraftVocab, stated: str | None, tensors: dict[str, StoredTensor]) -> list[str]:
    """What is wrong with a map that is in order and in range.

    Args:
        vocab: of the map.
        stated: hash of the ids that the file says it was written with; None without one.
        tensors: of the draft.
    """
    problems = []
    if stated is not None and stated != vocab.content_hash:
        problems.append("the map points at other tokens than those it was written with (content_hash)")
    if not vocab.is_full and not vocab.d2t.any():
        problems.append(f"the map is that of the first {len(vocab):,} ids, as if it were missing")
    if "t2d" in tensors:
        try:
            mask = as_integers(tensors["t2d"].tensor())
        except ValueError:
            problems.append(f"t2d is {tensors['t2d'].dtype}, and no list of true and false")
        else:
            if not np.array_equal(np.flatnonzero(mask), vocab.target_ids):
                problems.append("its maps d2t and t2d name different tokens")
    head = tensors.get("lm_head.weight")
    if head is not None and head.num_rows != len(vocab):
        problems.append(f"the LM head has {head.num_rows:,} rows, its map {len(vocab):,} tokens")
    return problems


def rank_lines(vocab: DraftVocab) -> list[str]:
    """How the tokens spread over tensor-parallel ranks, which hold equal ranges of the target's ids."""
    lines = []
    for num_ranks in _RANKS:
        shares = rank_shares(vocab, num_ranks)
        worst = int(np.argmax(shares))
        line = f"  {num_ranks} tensor-parallel ranks hold {', '.join(f'{share:.0%}' for share in shares)}"
        # Halfway between an even spread and all on one.
        if shares[worst] > (1 + 1 / num_ranks) / 2:
            line += f": warning, rank {worst} holds most, and the others wait for it"
        lines.append(line)
    return lines


def rank_shares(vocab: DraftVocab, num_ranks: int) -> np.ndarray:
    """Share of the tokens whose target id falls into each rank's range `(num_ranks,)`."""
    width = -(-vocab.target_vocab_size // num_ranks)
    held: IntArray = np.bincount(vocab.target_ids // width, minlength=num_ranks)
    return held / len(vocab)


def _stated(folder: Path) -> str | None:
    paths = weight_files(folder)
    return stated_hash(paths[0]) if len(paths) == 1 and paths[0].suffix == ".safetensors" else None


def _must_keep(pair: PairConfig) -> list[int]:
    folder = resolve_tokenizer(pair.target, pair.target_revision, pair.trust_remote_code)
    return load_tokenizer(folder, pair.trust_remote_code).must_keep()
