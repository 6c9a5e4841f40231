"""What the trainer knows of its machine."""

import subprocess
import sys

import pytest
import torch

from graftwork.training.machine import describe, memory_mb, peak_bytes, quota, usable_cpus


def test_a_containers_quota_is_read_in_whole_cpus(tmp_path):
    file = tmp_path / "cpu.max"
    for text, cpus in (("max 100000", None), ("200000 100000", 2), ("50000 100000", 1), ("nonsense", None)):
        file.write_text(text)
        assert quota(file) == cpus
    assert quota(tmp_path / "none") is None


def test_there_is_a_cpu_and_some_memory():
    assert usable_cpus() >= 1
    assert 50 < memory_mb(torch.device("cpu")) < 100_000
    assert describe(torch.device("cpu"))["device"].startswith("cpu: ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's account of a process's memory")
def test_the_peak_is_this_programs_own_and_not_its_parents():
    ballast = bytearray(400 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from graftwork.training.machine import peak_bytes; print(peak_bytes() >> 20)"
    ours = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    )
    assert 100 < ours < (peak_bytes() >> 20) - 50
    del ballast
