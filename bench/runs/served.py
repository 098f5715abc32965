"""The planned variants of a run in vLLM: what it loads, and in which folders that lies meanwhile."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import Config
from bench.config.run import VllmConfig
from bench.cost.config_json import DraftKind, read_config
from bench.decoding.vllm_engine import (
    VllmError,
    VllmProcess,
    python_of_environment,
    vllm_process,
    vllm_settings,
)
from bench.decoding.vllm_server import NAME as SERVER
from bench.decoding.vllm_server import VllmServer, port_for, vllm_server
from bench.device import Device
from bench.errors import ConfigError
from bench.export.bundle import speculative_config
from bench.export.checkpoint import borrowed_head, trim_eagle3
from bench.measure.served import Found, ServedPlan, Setting, Start
from bench.measure.workload import Workload
from bench.models.draft_config import Layout
from bench.models.eagle_files import open_eagle
from bench.models.engines import VLLM, objections
from bench.records import FailureRecord
from bench.records.store import Done
from bench.runs.pair import Pair
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab

# Tokens that the chat template or the last round may add beyond prompt and answer.
_SLACK_TOKENS = 64

# Of the GPU memory that the models of this process leave.
_MEMORY_SHARE = 0.9


def check_ready(config: VllmConfig) -> None:
    """Says what is missing before anything is loaded.

    Raises:
        VllmError: there is no vLLM.
        ConfigError: another program listens on the port of servers.
    """
    python_of_environment()
    if config.num_servers:
        port_for(config.port)


def check_contexts(contexts: Sequence[int], max_new_tokens: int, target: Mapping[str, Any]) -> None:
    """Refuses contexts that the target cannot hold together with an answer.

    Args:
        contexts: in tokens.
        max_new_tokens: of an answer.
        target: its `config.json`.

    Raises:
        ConfigError: one is too long.
    """
    most = target.get("max_position_embeddings")
    if contexts and most is not None and max(contexts) > (longest := most - max_new_tokens - _SLACK_TOKENS):
        raise ConfigError(
            f"vllm.contexts={max(contexts)} is too long: the target takes {most:,} tokens, answer included; "
            f"choose at most {longest}"
        )


class VllmStage:
    """Decodes planned variants of workloads in vLLM.

    Args:
        config: the run's configuration.
        pair: target and draft.
        device: where they are.

    Raises:
        ConfigError: vLLM does not decode this pair as it was measured.
    """

    def __init__(self, config: Config, pair: Pair, device: Device):
        self._config, self._pair, self._device = config, pair, device
        self._draft, self._target = pair.draft_folder, pair.target_folder
        kind = DraftKind(pair.draft.shape.kind)
        if kind is not DraftKind.EAGLE3:
            raise ConfigError(f"engine=vllm decodes EAGLE-3 drafts, and this is one of kind {kind.value}")
        files = open_eagle(self._draft, kind, config.pair.ignore_keys)
        against = objections(files.config, read_config(self._draft / "config.json")[1], files.layers)[VLLM]
        if against:
            raise ConfigError(f"engine=vllm does not load this draft as measured: {', '.join(against)}")
        measure, wanted = config.measure, config.vllm
        check_contexts(wanted.contexts, measure.max_new_tokens, pair.target_config)
        offline = ServedPlan(
            wanted.concurrency,
            wanted.num_processes,
            measure.max_new_tokens,
            measure.temperature,
            measure.seed,
            _settings(wanted),
        )
        online = replace(
            offline, num_processes=wanted.num_servers, settings=[Setting()], engine=SERVER, in_parts=False
        )
        self._plans: list[tuple[ServedPlan, Start]] = [(offline, self._process), (online, self._server)]

    def num_steps(self, num_variants: int) -> int:
        """Records of one domain."""
        return sum(plan.num_steps(num_variants) for plan, _ in self._plans)

    def run(
        self, workload: Workload, variants: Sequence[Variant], done: Done
    ) -> Iterator[Found | FailureRecord]:
        """Decodes the workload's prompts with every variant, in processes and in servers."""
        for plan, start in self._plans:
            yield from plan.run(start, workload, variants, done)

    @contextmanager
    def _process(self, workload: Workload, variant: Variant) -> Iterator[VllmProcess]:
        with self._model(workload, variant) as settings, vllm_process(settings) as engine:
            yield engine

    @contextmanager
    def _server(self, workload: Workload, variant: Variant) -> Iterator[VllmServer]:
        port = self._config.vllm.port
        with self._model(workload, variant) as settings, vllm_server(settings, self._text, port) as engine:
            yield engine

    @contextmanager
    def _model(self, workload: Workload, variant: Variant) -> Iterator[dict[str, Any]]:
        """What vLLM makes its model with; the draft lies in a folder until the block ends."""
        longest = max(len(prompt.token_ids) for prompt in workload.prompts)
        longest = max(longest, *self._config.vllm.contexts, 0)
        longest += self._config.measure.max_new_tokens + _SLACK_TOKENS
        is_on_cpu = self._device.torch_device.type == "cpu"
        with tempfile.TemporaryDirectory(prefix="vocabtrim-draft-") as folder:
            settings = vllm_settings(
                self._target,
                str(self._pair.dtype).removeprefix("torch."),
                longest,
                max(self._config.vllm.concurrency),
                None if variant.is_plain else self._speculative(workload, variant, Path(folder)),
                is_on_cpu,
            )
            yield settings | ({} if is_on_cpu else self._memory())

    def _text(self, token_ids: Sequence[int]) -> str:
        """The text of a prompt, as servers take it.

        Raises:
            VllmError: it does not give these tokens again.
        """
        tokenizer = self._pair.target.tokenizer
        text = str(tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))
        if list(tokenizer(text, add_special_tokens=False)["input_ids"]) != list(token_ids):
            raise VllmError(
                "vllm bench serve takes prompts as text, and the text of a prompt gives other tokens; leave "
                "servers out: vllm.num_servers=0"
            )
        return text

    def _speculative(self, workload: Workload, variant: Variant, folder: Path) -> dict[str, Any]:
        """Writes the trimmed draft, and says how vLLM takes it."""
        vocab_size, pair = self._pair.target.vocab_size, self._config.pair
        ids = workload.order[: variant.vocab_size]
        head = borrowed_head(self._draft, lambda: self._target)
        vocab, draft = DraftVocab(np.sort(ids), vocab_size), folder / "draft"
        trim_eagle3(self._draft, vocab, head, Layout.SAFEAILAB, draft, pair.target)
        return speculative_config(draft, variant.draft_length)

    @staticmethod
    def _memory() -> dict[str, float]:
        """Share of the GPU that vLLM may take beside the models that this process holds."""
        free, total = torch.cuda.mem_get_info()
        return {"gpu_memory_utilization": round(_MEMORY_SHARE * free / total, 3)}


def _settings(config: VllmConfig) -> list[Setting]:
    """That of the run, then one for every further temperature and context length."""
    return [
        Setting(),
        *(Setting(temperature=value) for value in config.temperatures),
        *(Setting(context_tokens=value) for value in config.contexts),
    ]
