"""What only a CUDA GPU can show: `make test-gpu`."""

import pytest
import torch

from bench.config import DomainSource, MeasureConfig, PairConfig, Source, VocabConfig
from bench.device import CudaDevice, default_dtype, open_device
from bench.domains import load_prompts
from bench.errors import DeviceError
from bench.measure.session import Session
from bench.measure.variants import make_variants
from bench.pair import load_pair
from bench.workloads import prepare

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device():
    return CudaDevice(0)


def test_events_time_the_gpu_not_the_host(device):
    x = torch.randn(4096, 4096, device=device.torch_device)
    device.synchronize()
    marks = [device.mark()]
    for count in (1, 8):
        for _ in range(count):
            x @ x
        marks.append(device.mark())
    device.synchronize()
    short, long = (device.elapsed_ms(a, b) for a, b in zip(marks, marks[1:], strict=False))
    print(f"\n{device.name}: one 4096^3 matmul {short:.3f} ms, eight {long:.3f} ms")
    assert 4 < long / short < 16


def test_auto_takes_the_gpu_and_bfloat16(device):
    assert open_device("auto").torch_device.type == "cuda"
    assert default_dtype(device) is torch.bfloat16


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(DeviceError, match="does not exist"):
        CudaDevice(torch.cuda.device_count())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_variants_decode_on_the_gpu(device, dtype):
    config = PairConfig("smollm2-135m", "smollm2-135m-instruct", "smollm2-135m-eagle3")
    pair = load_pair(config, device, dtype)
    measure = MeasureConfig(draft_lengths=[3], num_prompts=2, max_new_tokens=48)
    vocab, source = VocabConfig(sizes=["full", "1024"]), DomainSource("code", Source.human_eval)
    workload = prepare(pair, source, load_prompts(source), vocab, measure, lambda done, total: None).workload
    session = Session(device, pair.target, pair.draft.draft, measure.max_new_tokens, seed=0)
    variants = make_variants(list(workload.heads), [3], 49152)
    session.warm_up(workload, variants, 8)
    records = list(session.measure(workload, variants, lambda: None))
    assert len(records) == 6
    plain = {r.prompt_id: r.token_ids for r in records if r.draft_length == 0}
    for record in records:
        rate = (len(record.token_ids) - 1) / record.decode_ms * 1e3
        print(f"{dtype} k={record.vocab_size} gamma={record.draft_length}: {rate:.1f} tokens/s")
        assert 0 < record.decode_ms <= record.wall_ms * 1.05
        if dtype == "float32":
            assert record.token_ids == plain[record.prompt_id]
