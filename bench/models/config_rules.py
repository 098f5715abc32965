"""Every key of a `config.json` gets a verdict: honoured, known to be irrelevant, or refused.

The rules are data (`draft_config.py`, `target_config.py`); this file applies them and prints them as the
tables of `bench/models/README.md`. It imports no torch, so that a refusal costs no time and no download.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bench.errors import CheckpointError

Check = Callable[[Any, Mapping[str, Any]], bool]


class Verdict(Enum):
    """What happens to a key."""

    HONOURED = "honoured"
    IRRELEVANT = "irrelevant"
    REFUSED = "refused"


def _always(_value: Any, _values: Mapping[str, Any]) -> bool:
    return True


def one_of(*values: Any) -> Check:
    """Passes these values only."""
    return lambda value, _: value in values


def is_off(value: Any, _values: Mapping[str, Any]) -> bool:
    """Passes what switches a feature off."""
    return value in (None, False, 0, "", [], {})


@dataclass(frozen=True)
class Rule:
    """What is done about some keys.

    Attributes:
        keys: names; inside of a block as `block.key`; with a `*` at the end all that begin so.
        verdict: of values that pass.
        why: what the key does here, or why it does nothing.
        passes: whether a value, beside all the others, is taken.
        values: the values that pass, in words, for the table.
        instead: what a user can do about any other.
        explain: says what is wrong with a value that does not pass; None where `values` says it all.
    """

    keys: tuple[str, ...]
    verdict: Verdict
    why: str
    passes: Check = _always
    values: str = "all"
    instead: str = ""
    explain: Callable[[Any], str | None] | None = None

    def fits(self, name: str) -> bool:
        """Whether the rule is about this key."""
        return any(name.startswith(key[:-1]) if key.endswith("*") else name == key for key in self.keys)


def honoured(*keys: str, why: str, passes: Check = _always, values: str = "all", instead: str = "") -> Rule:
    """A rule for keys that change what is computed."""
    return Rule(keys, Verdict.HONOURED, why, passes, values, instead)


def irrelevant(*keys: str, why: str, passes: Check = _always, values: str = "all", instead: str = "") -> Rule:
    """A rule for keys that do not, at least with the values that pass."""
    return Rule(keys, Verdict.IRRELEVANT, why, passes, values, instead)


def refused(
    *keys: str, why: str, instead: str, passes: Check = is_off, values: str = "off or absent"
) -> Rule:
    """A rule for keys that would change what is computed in a way that is not supported."""
    return Rule(keys, Verdict.REFUSED, why, passes, values, instead)


# Keys that change nothing in any model: of training, of tokens, and of libraries.
TRAINING_KEYS = (
    *("attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "dropout", "initializer_range"),
    *("initializer_factor", "embed_requires_grad", "use_cache", "output_router_logits"),
    *("router_aux_loss_coef", "decoder_sparse_step", "gradient_checkpointing"),
)
TOKEN_KEYS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "eod_token_id"),
    *("pad_id", "image_*", "video_*", "vision_*", "im_*_id", "im_start_id", "im_end_id", "im_newline_id"),
    *("text_start_id", "text_end_id", "mask_init_id", "org_vocab_size"),
)
LIBRARY_KEYS = (
    *("transformers_version", "speculators_version", "speculators_config", "transformers_weights"),
    *("_name_or_path", "_model_name_or_path", "_attn_implementation", "_attn_implementation_autoset"),
    *("auto_map", "library_name", "unsloth_fixed", "unsloth_version", "task_specific_params", "id2label"),
    *("label2id", "problem_type", "return_dict", "output_attentions", "output_hidden_states"),
    *("chunk_size_feed_forward", "is_encoder_decoder", "is_decoder", "add_cross_attention"),
    *("tokenizer_class", "prefix", "torchscript", "finetuning_task"),
)


@dataclass(frozen=True)
class Reading:
    """What was made of one key of one configuration."""

    key: str
    value: Any
    verdict: Verdict
    why: str


def read_keys(
    values: Mapping[str, Any],
    rules: Sequence[Rule],
    where: str,
    blocks: Collection[str] = (),
    ignored: Collection[str] = (),
) -> list[Reading]:
    """The verdict on every key; a null counts as absent, as it does in the engines.

    Args:
        values: of the `config.json`.
        rules: the first that fits a key decides.
        where: name of the file, for errors.
        blocks: keys whose own keys are read as `block.key`.
        ignored: keys that the user takes the responsibility for.

    Raises:
        CheckpointError: a value is refused, or no rule knows the key.
    """
    readings, problems = [], []
    for name, value in _entries(values, blocks):
        rule = next((rule for rule in rules if rule.fits(name)), None)
        if value is None:
            readings.append(Reading(name, value, Verdict.IRRELEVANT, "not set"))
        elif name in ignored:
            readings.append(Reading(name, value, Verdict.IRRELEVANT, "ignored by pair.ignore_keys"))
        elif rule is None:
            problems.append(
                f"{name}={_shown(value)} is not known, and may change what the model computes; take it "
                f"out of the file, or pair.ignore_keys=[{name}] if it does not"
            )
        elif not rule.passes(value, values):
            why = f"{rule.why} ({rule.explain(value)})" if rule.explain else rule.why
            problems.append(f"{name}={_shown(value)} is not supported: {why}; {rule.instead}")
        else:
            # A refused key whose value switches it off does nothing.
            verdict = Verdict.IRRELEVANT if rule.verdict is Verdict.REFUSED else rule.verdict
            readings.append(Reading(name, value, verdict, rule.why))
    if problems:
        raise CheckpointError(f"{where}: {'; also: '.join(problems)}")
    return readings


def table(rules: Sequence[Rule]) -> str:
    """The rules as a Markdown table."""
    lines = [
        "| key | verdict | what it does, or why it does nothing | values | any other |",
        "|---|---|---|---|---|",
    ]
    for rule in rules:
        keys = ", ".join(f"`{key}`" for key in rule.keys)
        lines.append(f"| {keys} | {rule.verdict.value} | {rule.why} | {rule.values} | {rule.instead} |")
    return "\n".join(lines) + "\n"


def _entries(values: Mapping[str, Any], blocks: Collection[str]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key in blocks and isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
