"""What only a CUDA GPU can show: `make test-gpu`."""

import pytest
import torch

from bench.config import DomainSource, MeasureConfig, PairConfig, SelectConfig, Source, VocabConfig
from bench.device import CudaDevice, default_dtype, open_device
from bench.domains import load_prompts
from bench.errors import DeviceError
from bench.measure.campaign import Campaign, Workload
from bench.measure.session import Session
from bench.pair import load_pair
from bench.records import DecodeRecord, ReplayRecord
from bench.workloads import check_sizes, count_answers, held_out_prompts, make_rankings, paper_size

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
def test_a_domain_is_measured_on_the_gpu(device, dtype):
    config = PairConfig("smollm2-135m", "smollm2-135m-instruct", "smollm2-135m-eagle3")
    pair = load_pair(config, device, dtype)
    measure = MeasureConfig(draft_lengths=[1, 3], num_prompts=2, max_new_tokens=48)
    vocab, source = VocabConfig(sizes=["full", "8192", "1024"]), DomainSource("code", Source.human_eval)
    prompts = load_prompts(source)
    rankings = make_rankings(pair, {"code": count_answers(pair, source, prompts, vocab)})
    workload = Workload(
        "code",
        held_out_prompts(pair, source, prompts, vocab, measure),
        "code",
        {name: ranking.order for name, ranking in rankings.items()},
        paper_size(pair, rankings["code"], SelectConfig()),
    )
    full_head = pair.draft.head(pair.draft.vocab)
    session = Session(device, pair.target, pair.draft.draft, full_head, measure.max_new_tokens, seed=0)
    campaign = Campaign(session, pair.draft, full_head, measure)
    records = list(campaign.run(workload, check_sizes(pair, vocab, measure)))
    decodes = [r for r in records if isinstance(r, DecodeRecord)]
    replays = {r.prompt_id: r for r in records if isinstance(r, ReplayRecord)}
    assert len(decodes) >= 2 * 3
    for record in decodes:
        rate = (len(record.token_ids) - 1) / record.decode_ms * 1e3
        print(f"{dtype} k={record.vocab_size} gamma={record.draft_length}: {rate:.1f} tokens/s")
        assert 0 < record.decode_ms <= record.wall_ms * 1.05
        if dtype == "float32" and record.draft_length:
            replay = replays[record.prompt_id]
            assert record.token_ids == replay.token_ids
            expected = replay.replayed().accepted_by_round(record.vocab_size, record.draft_length)
            assert record.accepted == expected
