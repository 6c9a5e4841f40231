"""Real processes of the local provider: nothing survives its end, runs twice, or is told a secret."""

import asyncio
import fcntl
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from graftwork.compute.adoption import launch_once
from graftwork.compute.local import processes
from graftwork.compute.local.folder import MachineFolder, Order, ProcessRecord, SupervisorRecord
from graftwork.compute.local.models import LocalOptions
from graftwork.compute.local.provider import LocalProvider
from graftwork.compute.port import BadRequest, LaunchSpec, Need, NoCapacity, Unknown
from graftwork.core.states import Observed

NAME = "gw-test-job-1"
SRC = Path(__file__).parents[3] / "src"
linux = pytest.mark.skipif(not processes.has_proc(), reason="needs Linux's /proc and prctl")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "machines").mkdir()
    return tmp_path / "machines"


@pytest.fixture
async def provider(root):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/home/me",
        "DATABASE_URL": "secret",
        "RUNPOD_API_KEY": "x",
    }
    provider = LocalProvider(root, LocalOptions(slots=3, grace=0.5), environment=environment)
    yield provider
    for machine in await provider.find(""):
        await provider.terminate(machine.name)
        await until(provider, machine.name, Observed.GONE)


async def launch(provider, script, *, name=NAME, lasts=60.0, env=None):
    """A machine that runs a Python script."""
    spec = LaunchSpec(
        command=[sys.executable, "-S", "-c", script],
        run_uri="file:///runs/1",
        deadline=time.time() + lasts,
        env=env or {},
    )
    return await provider.launch(name, spec, (await provider.offers(Need()))[0])


async def until(provider, name, *states):
    end = time.monotonic() + 15
    while (machine := await provider.describe(name)).state not in states:
        assert time.monotonic() < end, machine
        await asyncio.sleep(0.01)
    return machine


async def until_true(check):
    end = time.monotonic() + 15
    while not check():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def said(provider, lines=1):
    """The first words of the machine, once they are there."""
    page = await provider.logs(NAME)
    end = time.monotonic() + 15
    while len(page.lines) < lines:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
        page = await provider.logs(NAME)
    return page.lines


def alive(pid):
    return processes.look(pid) is not None


async def test_a_machine_sees_its_own_environment_and_no_secret(provider, root):
    await launch(
        provider, "import os, json; print(json.dumps(dict(os.environ)))", env={"TOKEN": "of-the-run"}
    )
    await until(provider, NAME, Observed.EXITED)
    seen = json.loads((await provider.logs(NAME)).lines[0])
    assert seen.pop("PYTHONPATH") == str(SRC)
    seen.pop("LC_CTYPE", None)  # set by Python itself
    assert seen == {
        "PATH": os.environ["PATH"],
        "HOME": "/home/me",
        "TOKEN": "of-the-run",
        "GRAFTWORK_RUN": "file:///runs/1",
        "GRAFTWORK_MACHINE": NAME,
    }
    supervisor = MachineFolder(root / NAME).read(SupervisorRecord)
    assert supervisor is not None
    for path in (root / NAME).iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name == "lock", path


@linux
async def test_the_supervisor_holds_no_secret_either(provider, root):
    await launch(provider, "import time; time.sleep(60)")
    supervisor = MachineFolder(root / NAME).read(SupervisorRecord)
    environment = Path(f"/proc/{supervisor.pid}/environ").read_bytes()
    assert b"secret" not in environment and b"RUNPOD" not in environment


async def test_a_machine_imports_the_control_planes_own_code(provider):
    await launch(provider, "import graftwork; print(graftwork.__file__)")
    await until(provider, NAME, Observed.EXITED)
    assert (await provider.logs(NAME)).lines == [str(SRC / "graftwork" / "__init__.py")]


async def test_a_command_has_no_input_and_a_folder_of_its_own(provider, root):
    await launch(provider, "import sys, os; print(repr(sys.stdin.read()), os.getcwd())")
    await until(provider, NAME, Observed.EXITED)
    assert (await provider.logs(NAME)).lines == [f"'' {root / NAME / 'work'}"]


async def test_a_command_has_the_usual_signal_handlers(provider):
    script = "import signal; print([signal.getsignal(s) == signal.SIG_DFL for s in (1, 15, 17)])"
    await launch(provider, script)
    await until(provider, NAME, Observed.EXITED)
    assert (await provider.logs(NAME)).lines == ["[True, True, True]"]


async def test_a_program_that_is_not_there_is_an_error_that_says_so(provider):
    spec = LaunchSpec(command=["no-such-program"], run_uri="x", deadline=time.time() + 60)
    await provider.launch(NAME, spec, (await provider.offers(Need()))[0])
    machine = await until(provider, NAME, Observed.ERROR)
    assert "did not start" in machine.message and "No such file" in machine.message


async def test_termination_gives_the_command_time_to_save(provider):
    await launch(
        provider,
        "import signal, sys, time\n"
        "def stop(*_):\n    print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)",
    )
    await said(provider)
    await provider.terminate(NAME)
    gone = await until(provider, NAME, Observed.GONE)
    assert gone.exit_code == 0
    assert (await provider.logs(NAME)).lines == ["ready", "saved"]


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(60)
"""


async def test_a_command_that_will_not_stop_is_killed_after_the_grace(provider):
    await launch(provider, STUBBORN)
    await said(provider)
    start = time.monotonic()
    await provider.terminate(NAME)
    assert (await provider.describe(NAME)).state is Observed.RUNNING  # gone is said of what is gone
    gone = await until(provider, NAME, Observed.GONE)
    assert time.monotonic() - start >= 0.5
    assert gone.exit_code == -signal.SIGKILL


async def test_a_stubborn_command_is_killed_at_its_deadline(provider):
    await launch(provider, STUBBORN, lasts=1.0)
    ended = await until(provider, NAME, Observed.EXITED)
    assert ended.exit_code == -signal.SIGKILL and "deadline" in ended.message


FAMILY = """
import os, subprocess, sys, time
code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
kids = [subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=new, stdout=subprocess.PIPE)
        for new in (False, True)]
for kid in kids:
    kid.stdout.readline()
print(os.getpid(), *(kid.pid for kid in kids), flush=True)
"""


@linux
@pytest.mark.parametrize("end", ["terminate", "exit"])
async def test_children_do_not_outlive_the_machine_even_in_another_session(provider, end):
    await launch(provider, FAMILY + ("time.sleep(60)" if end == "terminate" else "os._exit(3)"))
    pids = [int(pid) for pid in (await said(provider))[0].split()]
    if end == "terminate":
        assert all(alive(pid) for pid in pids)
        await provider.terminate(NAME)
        await until(provider, NAME, Observed.GONE)
    else:
        assert (await until(provider, NAME, Observed.EXITED)).exit_code == 3
    assert not any(alive(pid) for pid in pids)


CONTROL_PLANE = """
import asyncio, sys, time
from pathlib import Path
from graftwork.compute.local.models import LocalOptions
from graftwork.compute.local.provider import LocalProvider
from graftwork.compute.port import LaunchSpec, Need

async def main(root, name, command):
    provider = LocalProvider(Path(root), LocalOptions(slots=3, grace=0.5))
    spec = LaunchSpec(command=command, run_uri="file:///runs/1", deadline=time.time() + 60)
    offers = await provider.offers(Need())
    print("about to launch", flush=True)
    machine = await provider.launch(name, spec, offers[0])
    print(machine.id, flush=True)
    await asyncio.sleep(60)

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


def control_plane(root, *command):
    """Another control plane, in a process of its own, that is about to launch and then stays."""
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    arguments = [sys.executable, "-c", CONTROL_PLANE, str(root), NAME, *command]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "about to launch\n"
    return process


async def test_a_machine_outlives_a_killed_control_plane(provider, root):
    with control_plane(root, "sleep", "60") as other:
        launched = other.stdout.readline().strip()
        other.kill()
    machine = await provider.describe(NAME)
    assert (machine.state, machine.id) == (Observed.RUNNING, launched)
    assert [m.id for m in await provider.find("gw-test-")] == [launched]
    await provider.terminate(NAME)
    await until(provider, NAME, Observed.GONE)


async def test_four_control_planes_launching_one_name_run_the_command_once(provider, root, tmp_path):
    ran = tmp_path / "ran"
    command = ("sh", "-c", f"echo once >> {ran}; sleep 60")
    others = [control_plane(root, *command) for _ in range(4)]
    ids = {other.stdout.readline().strip() for other in others}
    for other in others:
        other.kill()
        other.communicate()
    assert len(ids) == 1
    await until_true(ran.exists)
    await provider.terminate(NAME)
    await until(provider, NAME, Observed.GONE)
    assert ran.read_text() == "once\n"


@pytest.mark.parametrize("seed", range(6))
async def test_a_control_plane_killed_at_any_moment_of_a_launch_leaves_one_run(
    provider, root, tmp_path, seed
):
    ran = tmp_path / "ran"
    command = ["sh", "-c", f"echo once >> {ran}; sleep 60"]
    delays = random.Random(seed)
    for _ in range(2):  # two control planes die, a third one ends the work
        other = control_plane(root, *command)
        time.sleep(delays.uniform(0.0, 0.08))
        other.kill()
        other.communicate()
    spec = LaunchSpec(command=command, run_uri="file:///runs/1", deadline=time.time() + 60)
    offer = (await provider.offers(Need()))[0]
    machine = None
    while machine is None:
        with suppress(Unknown):  # as a reconciler does: again, with the same name
            machine = await launch_once(provider, NAME, spec, offer)
    await until_true(ran.exists)
    await provider.terminate(NAME)
    await until(provider, NAME, Observed.GONE)
    assert ran.read_text() == "once\n"


async def test_slots_are_counted_across_restarts(root):
    first = LocalProvider(root, LocalOptions(slots=1, grace=0.5))
    await launch(first, "import time; time.sleep(60)")
    second = LocalProvider(root, LocalOptions(slots=1, grace=0.5))
    with pytest.raises(NoCapacity):
        await launch(second, "pass", name="gw-test-job-2")
    await second.terminate(NAME)
    await until(second, NAME, Observed.GONE)
    await launch(second, "pass", name="gw-test-job-2")
    await until(second, "gw-test-job-2", Observed.EXITED)


@linux
async def test_a_killed_supervisor_takes_the_command_with_it_and_is_an_error(provider, root):
    await launch(provider, "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    pid = int((await said(provider))[0])
    os.kill(MachineFolder(root / NAME).read(SupervisorRecord).pid, signal.SIGKILL)
    await until_true(lambda: not alive(pid))
    machine = await until(provider, NAME, Observed.ERROR)
    assert "supervisor was lost" in machine.message and machine.exit_code is None
    assert [m.state for m in await provider.find("gw-test-")] == [Observed.ERROR]
    adopted = await launch(provider, "raise SystemExit('never run again')")
    assert (adopted.id, adopted.state) == (machine.id, Observed.ERROR)
    await provider.terminate(NAME)
    assert (await provider.describe(NAME)).state is Observed.GONE


@linux
async def test_children_of_a_lost_machine_are_reported_hold_the_slot_and_are_killed(provider, root):
    script = FAMILY.replace("(False, True)", "(False, False)") + "time.sleep(60)"
    await launch(provider, script)
    pids = [int(pid) for pid in (await said(provider))[0].split()]
    os.kill(MachineFolder(root / NAME).read(SupervisorRecord).pid, signal.SIGKILL)
    await until_true(lambda: not alive(pids[0]))
    machine = await until(provider, NAME, Observed.ERROR)
    assert "2 processes live on" in machine.message
    with pytest.raises(NoCapacity):
        await launch(LocalProvider(root, LocalOptions(slots=1)), "pass", name="gw-test-job-2")
    await provider.terminate(NAME)
    await until(provider, NAME, Observed.GONE)
    assert not any(alive(pid) for pid in pids)


@pytest.fixture
def stranger():
    """A process group that is none of ours."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def half_made(root, **order):
    """A machine's folder as a crash in the middle of its launch leaves it."""
    folder = MachineFolder(root / NAME)
    folder.create()
    folder.deadline = time.time() + 60
    fields = {"id": "1", "name": NAME, "command": ["true"], "env": {}, "created_at": time.time()}
    folder.write(Order(**(fields | {"price_per_hour": 0, "grace": 1.0} | order)))
    return folder


async def test_a_stranger_with_the_supervisors_number_is_neither_trusted_nor_touched(
    provider, root, stranger
):
    folder = half_made(root)
    folder.write(SupervisorRecord(stranger.pid, "another-boot:1"))
    folder.write(ProcessRecord(stranger.pid, session=1, started_at=2.0))
    assert (await provider.describe(NAME)).state is Observed.ERROR
    await provider.terminate(NAME)
    assert (await provider.describe(NAME)).state is Observed.GONE
    assert stranger.poll() is None


@pytest.mark.parametrize("left", ["folder", "order", "supervisor"])
async def test_a_launch_that_crashed_before_the_command_ran_is_healed(provider, root, left):
    if left == "folder":
        MachineFolder(root / NAME).create()
    else:
        folder = half_made(root)
        if left == "supervisor":
            folder.write(SupervisorRecord(1, "another-boot:1"))
    assert (await provider.describe(NAME)).state is Observed.GONE
    assert await provider.find("gw-test-") == []
    await launch(provider, "print('healed')")
    await until(provider, NAME, Observed.EXITED)
    assert (await provider.logs(NAME)).lines == ["healed"]


def supervise(folder):
    command = [sys.executable, "-m", "graftwork.compute.local.supervisor", str(folder.path)]
    return subprocess.run(command, env={"PYTHONPATH": str(SRC)}, capture_output=True, check=False, timeout=30)


KILLED_BEFORE_RECORDING = """
import os, signal, sys
from pathlib import Path
from graftwork.compute.local.folder import MachineFolder, Order
from graftwork.compute.local.supervisor import supervise

class Folder(MachineFolder):
    def write(self, record):
        print("killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

folder = Folder(Path(sys.argv[1]))
supervise(folder, folder.read(Order))
"""


async def test_a_command_that_was_not_recorded_never_runs(provider, root, tmp_path):
    ran = tmp_path / "ran"
    folder = half_made(root, command=["/bin/sh", "-c", f"touch {ran}"])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_RECORDING, str(folder.path)],
        env={"PYTHONPATH": str(SRC)},
        capture_output=True,  # returns when the forked child has closed its end too
        check=False,
        timeout=30,
    )
    assert killed.stdout == b"killed\n" and killed.returncode == -signal.SIGKILL
    assert not ran.exists()
    assert (await provider.describe(NAME)).state is Observed.GONE
    await launch(provider, "print('healed')")
    await until(provider, NAME, Observed.EXITED)


async def test_a_supervisor_still_on_its_way_is_unknown_not_a_second_one(provider, root):
    folder = half_made(root)
    with folder.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a supervisor does before it has written who it is
        with pytest.raises(Unknown):
            await launch(provider, "pass")
        assert folder.read(SupervisorRecord) is None
    await launch(provider, "print('then')")
    await until(provider, NAME, Observed.EXITED)


async def test_a_command_killed_by_a_signal_says_so(provider):
    await launch(provider, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    machine = await until(provider, NAME, Observed.EXITED)
    assert machine.exit_code == -9 and machine.message == "The command was killed by SIGKILL."


async def test_a_supervisor_told_to_end_ends_its_machine(provider, root):
    await launch(provider, "import time; print('ready', flush=True); time.sleep(60)")
    await said(provider)
    os.kill(MachineFolder(root / NAME).read(SupervisorRecord).pid, signal.SIGTERM)
    machine = await until(provider, NAME, Observed.EXITED)
    assert machine.exit_code == -signal.SIGTERM and "terminated from outside" in machine.message


async def test_a_second_supervisor_leaves_a_supervised_or_finished_machine_alone(provider, root):
    await launch(provider, "import time; print('run', flush=True); time.sleep(60)")
    await said(provider)
    folder = MachineFolder(root / NAME)
    first = folder.read(SupervisorRecord)
    assert supervise(folder).returncode == 0
    assert folder.read(SupervisorRecord) == first
    await provider.terminate(NAME)
    await until(provider, NAME, Observed.GONE)
    await until_true(lambda: not processes.lives(first.pid, first.birth))
    assert supervise(folder).returncode == 0
    assert (await provider.logs(NAME)).lines == ["run"]


async def test_a_supervisor_without_an_order_says_so(root):
    folder = MachineFolder(root / NAME)
    folder.create()
    done = supervise(folder)
    assert done.returncode == 2 and b"holds no order" in done.stderr


async def test_a_machine_terminated_before_it_ran_never_runs(provider, root):
    folder = half_made(root)
    await provider.terminate(NAME)
    supervise(folder)
    assert folder.read(ProcessRecord) is None
    with pytest.raises(BadRequest) as refused:
        await launch(provider, "pass")
    assert refused.value.code == "machine_name_used"


async def test_a_name_is_used_up_until_its_folder_is_cleared_away(root):
    provider = LocalProvider(root, LocalOptions(keep_seconds=0.2))
    await launch(provider, "print('first')")
    await until(provider, NAME, Observed.EXITED)
    await provider.terminate(NAME)
    with pytest.raises(BadRequest):
        await launch(provider, "print('second')")
    assert (await provider.logs(NAME)).lines == ["first"]
    await asyncio.sleep(0.3)
    await launch(provider, "pass", name="gw-test-job-2")
    assert not (root / NAME).exists()
    await until(provider, "gw-test-job-2", Observed.EXITED)


async def test_an_ended_machine_that_nobody_gave_back_is_not_cleared_away(root):
    provider = LocalProvider(root, LocalOptions(keep_seconds=0.0))
    await launch(provider, "pass")
    await until(provider, NAME, Observed.EXITED)
    await launch(provider, "pass", name="gw-test-job-2")
    assert (await provider.describe(NAME)).state is Observed.EXITED
    await until(provider, "gw-test-job-2", Observed.EXITED)


async def test_a_log_gives_whole_lines_while_the_machine_lives_and_the_rest_after(provider):
    await launch(
        provider, "import os, time; os.write(2, b'err\\n'); os.write(1, b'out\\nhalf'); time.sleep(60)"
    )
    assert await said(provider, lines=2) == ["err", "out"]
    first = await provider.logs(NAME)
    await provider.terminate(NAME)
    await until(provider, NAME, Observed.GONE)
    assert (await provider.logs(NAME, first.cursor)).lines == ["half"]


async def test_a_long_log_comes_in_pages_that_join_without_a_seam(provider):
    await launch(provider, "for i in range(60000): print(f'line {i}')\nprint('x' * 700000)")
    await until(provider, NAME, Observed.EXITED)
    lines, cursor = [], None
    while (page := await provider.logs(NAME, cursor)).lines:
        lines += page.lines
        cursor = page.cursor
    assert lines[:60000] == [f"line {i}" for i in range(60000)]
    assert "".join(lines[60000:]) == "x" * 700000
