"""The planned variants of a run in vLLM: what it loads, and in which folders that lies meanwhile."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config import Config
from bench.cost.config_json import DraftKind, read_config
from bench.decoding.vllm_engine import VllmProcess, vllm_process, vllm_settings
from bench.device import Device
from bench.errors import ConfigError
from bench.export.bundle import speculative_config
from bench.export.checkpoint import borrowed_head, trim_eagle3
from bench.measure.served import ServedPlan
from bench.measure.workload import Workload
from bench.models.draft_config import Layout
from bench.models.eagle_files import open_eagle
from bench.models.engines import VLLM, objections
from bench.records import FailureRecord, ServedRecord
from bench.records.store import Done
from bench.runs.pair import Pair
from bench.variant import Variant
from bench.vocab.draft_vocab import DraftVocab

# Tokens that the chat template or the last round may add beyond prompt and answer.
_SLACK_TOKENS = 64

# Of the GPU memory that the models of this process leave.
_MEMORY_SHARE = 0.9


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
        self.plan = ServedPlan(
            wanted.concurrency,
            wanted.num_processes,
            measure.max_new_tokens,
            measure.temperature,
            measure.seed,
        )

    def run(
        self, workload: Workload, variants: Sequence[Variant], done: Done
    ) -> Iterator[ServedRecord | FailureRecord]:
        """Decodes the workload's prompts with every variant."""
        yield from self.plan.run(self._start, workload, variants, done)

    @contextmanager
    def _start(self, workload: Workload, variant: Variant) -> Iterator[VllmProcess]:
        longest = max(len(prompt.token_ids) for prompt in workload.prompts)
        longest += self._config.measure.max_new_tokens + _SLACK_TOKENS
        is_on_cpu = self._device.torch_device.type == "cpu"
        with tempfile.TemporaryDirectory(prefix="vocabtrim-draft-") as folder:
            settings = vllm_settings(
                self._target,
                str(self._pair.dtype).removeprefix("torch."),
                longest,
                max(self.plan.concurrencies),
                None if variant.is_plain else self._speculative(workload, variant, Path(folder)),
                is_on_cpu,
            )
            with vllm_process(settings | ({} if is_on_cpu else self._memory())) as engine:
                yield engine

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
