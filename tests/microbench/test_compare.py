"""What `make microbench-compare` calls slower."""

import json

import numpy as np
import pytest

from tests.microbench.clock import GpuClock
from tests.microbench.compare import main
from tests.pretend.cuda import pretend_cuda

MACHINE = {"device_name": "GPU", "host": "a", "python": "3.12", "num_threads": 2, "cpu_affinity": 2}


@pytest.fixture
def file(tmp_path):
    def write(name, seed, factor=1.0, num_rounds=100, **machine):
        rng = np.random.default_rng(seed)
        benchmarks = [
            {"fullname": part, "stats": {"data": (scale * (1 + rng.gamma(1.0, 0.02, num_rounds))).tolist()}}
            for part, scale in (("head", 1e-3 * factor), ("search", 2e-3))
        ]
        content = {"machine_info": {"bench": {**MACHINE, **machine}}, "benchmarks": benchmarks}
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    return write


def test_what_became_slower_fails(file, capsys):
    base = file("base", 0)
    assert main([base, file("same", 1)]) == 0
    assert main([base, file("slower", 1, 1.05)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.endswith("SLOWER") for line in out] == [False, False, True, False]
    assert out[2].startswith("head: 1.0")
    assert main([base, file("faster", 1, 0.9)]) == 0


def test_what_is_not_compared_is_named(file, tmp_path, capsys):
    base = file("base", 0)
    content = json.loads((tmp_path / "base").read_text())
    content["benchmarks"][0]["stats"]["data"] = content["benchmarks"][0]["stats"]["data"][:5]
    content["benchmarks"].append({"fullname": "mapping", "stats": {"data": [1e-3] * 9}})
    (tmp_path / "new").write_text(json.dumps(content))
    assert main([base, str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "mapping: not compared, it is in one file alone",
        "head: not compared, fewer than 6 rounds were timed",
    ]


def test_noise_alone_seldom_fails(file):
    base = file("base", 0)
    assert sum(main([base, file("again", seed)]) for seed in range(1, 41)) <= 5


def test_what_cannot_be_compared_is_one_line(file, tmp_path, capsys):
    base = file("base", 0)
    assert main([base, file("other", 1, host="b")]) == 2
    assert "host was a and is b" in capsys.readouterr().err
    assert main([base, file("short", 1, num_rounds=3)]) == 2
    assert main([base, str(tmp_path / "nowhere")]) == 2
    (tmp_path / "empty").write_text("{}")
    assert main([base, str(tmp_path / "empty")]) == 2
    assert main([]) == 2
    assert all(line.startswith("microbench-compare: ") for line in capsys.readouterr().err.splitlines())


def test_the_clock_of_a_gpu_waits_for_its_work_and_keeps_its_steps():
    with pretend_cuda() as world:
        clock = GpuClock()
        before = clock()
        world.launch("work")
        world.device_us += 5e9
        after = clock()
        world.device_us += 3.0
        assert after - before == pytest.approx(5e3, rel=1e-6)
        # With the wait of the reading before; a float of milliseconds since the start has steps of 0.5 ms.
        assert 3e-6 <= clock() - after < 3e-5
