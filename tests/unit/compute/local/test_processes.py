import os
import shutil
import subprocess

import pytest

from graftwork.compute.local import processes

PS = """
    1     0     1 Ss   Thu Nov 19 10:00:00 2026
  212     1   212 S+   Thu Nov 19 10:00:01 2026
  213   212   212 Z    Thu Nov 19 10:00:02 2026
"""


def test_what_ps_says_is_read_without_the_dead():
    assert processes.parse_ps(PS.strip("\n")) == [
        processes.Process(1, 0, 1, None, "Thu Nov 19 10:00:00 2026"),
        processes.Process(212, 1, 212, None, "Thu Nov 19 10:00:01 2026"),
    ]


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_ps_and_proc_agree():
    columns = ["-o", "pid=", "-o", "ppid=", "-o", "pgid=", "-o", "stat=", "-o", "lstart="]
    said = subprocess.run(
        ["ps", "-p", str(os.getpid()), *columns], capture_output=True, text=True, check=True
    )
    [by_ps] = processes.parse_ps(said.stdout)
    me = processes.look(os.getpid())
    assert (by_ps.pid, by_ps.parent, by_ps.group) == (me.pid, me.parent, me.group)


@pytest.mark.skipif(not processes.has_proc(), reason="needs Linux's /proc")
def test_a_process_with_an_odd_name_is_read(tmp_path):
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to(shutil.which("sleep"))
    with subprocess.Popen([str(odd), "60"], start_new_session=True) as process:
        try:
            seen = processes.look(process.pid)
            assert (seen.parent, seen.group, seen.session) == (os.getpid(), process.pid, process.pid)
            assert processes.lives(process.pid, seen.birth)
            assert not processes.lives(process.pid, seen.birth + "0")
            assert processes.members(process.pid, process.pid) == [seen]
            assert processes.members(process.pid, 1) == []
            assert seen in processes.children(os.getpid())
        finally:
            process.kill()
        process.wait()
    assert processes.look(process.pid) is None


@pytest.mark.skipif(not processes.has_proc(), reason="needs Linux's /proc")
def test_a_zombie_does_not_live():
    with subprocess.Popen(["true"], start_new_session=True) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet collected
        assert processes.look(process.pid) is None
        assert processes.members(process.pid, process.pid) == []
