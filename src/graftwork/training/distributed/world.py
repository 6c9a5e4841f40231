"""Who am I among how many: read off the environment that a launcher or a cluster gives its processes.

Two kinds of environment are told apart. ``torchrun`` (and ``srun`` with several tasks on a node) names this
*process*: it has a rank. RunPod clusters, Kubeflow, Kubernetes indexed jobs, SageMaker, SkyPilot, and
``srun`` with one task on each node, name this *node*: ``launch.py`` starts its processes and ranks them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.core.errors import InvalidRequest

PORT = 29500
"""Where rank 0 listens when nobody names a port; torchrun's default too."""
NOTES = "GRAFTWORK_RANK_NOTES"
"""Environment variable: there is a supervisor, and this is the folder where ranks that do not write the run
folder leave how they ended."""
LOST = 76
"""Exit code of a rank that ended because another one was gone: the other one is the news, not this one."""
Env = Mapping[str, str]


def note_of(folder: Path, rank: int) -> Path:
    """Where a rank's note lies: what would have been its ``result.json``."""
    return folder / f"rank-{rank}.json"


@dataclass(frozen=True, slots=True)
class World:
    """A place among the processes of one run.

    Attributes:
        source: whose variables said so: alone, torchrun, runpod, slurm, kubeflow, kubernetes, sagemaker,
            skypilot.
        node: this node's number, from 0.
        nodes: how many there are.
        address: host that rank 0 runs on.
        port: where rank 0 listens there.
        rank: this process's number among all, None where only the node is known.
        size: processes of all nodes, None with ``rank``.
        local_rank: this process's number on its node.
        local_size: processes of this node, where that is known.
    """

    source: str = "alone"
    node: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = PORT
    rank: int | None = None
    size: int | None = None
    local_rank: int = 0
    local_size: int = 1

    @property
    def several(self) -> bool:
        """Whether this process is one of several."""
        return self.size is not None and self.size > 1

    def seats(self, processes: int, port: int | None = None) -> list[dict[str, str]]:
        """torchrun's variables for each of ``processes`` processes of this node."""
        return [
            {
                "RANK": str(self.node * processes + local),
                "WORLD_SIZE": str(self.nodes * processes),
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(processes),
                "GROUP_RANK": str(self.node),
                "MASTER_ADDR": self.address,
                "MASTER_PORT": str(port or self.port),
            }
            for local in range(processes)
        ]


ALONE = World()


def ranks_of(env: Env) -> World:
    """The place that ``env`` names; alone where it names none.

    Raises:
        InvalidRequest: ``invalid_ranks``, the variables are incomplete or contradict each other.
    """
    for needed, read in _LAUNCHERS:
        if all(name in env for name in needed):
            return _checked(read(env))
    return ALONE


def _torchrun(env: Env) -> World:
    size, local = _number(env, "WORLD_SIZE"), _number(env, "LOCAL_WORLD_SIZE", 0)
    return World(
        source="torchrun",
        node=_number(env, "GROUP_RANK", 0),
        nodes=size // local if local else 1,
        address=env.get("MASTER_ADDR", "127.0.0.1"),
        port=_number(env, "MASTER_PORT", PORT),
        rank=_number(env, "RANK"),
        size=size,
        local_rank=_number(env, "LOCAL_RANK"),
        local_size=local or 1,
    )


def _runpod(env: Env) -> World:
    """RunPod clusters; also what our own Kubernetes jobs set beside the completion index."""
    return World(
        source="runpod",
        node=_number(env, "NODE_RANK"),
        nodes=_number(env, "NUM_NODES"),
        address=_text(env, "PRIMARY_ADDR", "MASTER_ADDR"),
        port=_number(env, "PRIMARY_PORT", _number(env, "MASTER_PORT", PORT)),
    )


def _kubeflow(env: Env) -> World:
    """``PET_*``: what Kubeflow's TrainJob and PyTorchJob tell torchrun."""
    return World(
        source="kubeflow",
        node=_number(env, "PET_NODE_RANK"),
        nodes=_number(env, "PET_NNODES"),
        address=_text(env, "PET_MASTER_ADDR", "MASTER_ADDR"),
        port=_number(env, "PET_MASTER_PORT", _number(env, "MASTER_PORT", PORT)),
    )


def _kubernetes(env: Env) -> World:
    """An indexed Job: Kubernetes gives the index, the Job's template the number and the first pod's name."""
    return World(
        source="kubernetes",
        node=_number(env, "JOB_COMPLETION_INDEX"),
        nodes=_number(env, "NUM_NODES"),
        address=_text(env, "MASTER_ADDR"),
        port=_number(env, "MASTER_PORT", PORT),
    )


def _sagemaker(env: Env) -> World:
    """SageMaker's training toolkit: hosts are ``algo-1`` …; the first in order of name is rank 0."""
    try:
        hosts = sorted(json.loads(env["SM_HOSTS"]), key=_natural)
    except (ValueError, TypeError) as error:
        raise _wrong("SM_HOSTS", env["SM_HOSTS"], "a JSON list of host names") from error
    if not hosts or env["SM_CURRENT_HOST"] not in hosts:
        raise _wrong("SM_CURRENT_HOST", env["SM_CURRENT_HOST"], f"one of {', '.join(hosts) or 'no hosts'}")
    return World(
        source="sagemaker",
        node=hosts.index(env["SM_CURRENT_HOST"]),
        nodes=len(hosts),
        address=hosts[0],
        port=_number(env, "MASTER_PORT", PORT),
    )


def _skypilot(env: Env) -> World:
    addresses = env["SKYPILOT_NODE_IPS"].split()
    return World(
        source="skypilot",
        node=_number(env, "SKYPILOT_NODE_RANK"),
        nodes=_number(env, "SKYPILOT_NUM_NODES", len(addresses)),
        address=addresses[0] if addresses else "127.0.0.1",
        port=_number(env, "MASTER_PORT", PORT),
    )


def _slurm(env: Env) -> World:
    """``srun``. The port follows from the job's number, so that two jobs of one node do not meet."""
    nodes, tasks = _number(env, "SLURM_NNODES"), _number(env, "SLURM_NTASKS")
    several = tasks > nodes
    listed = hosts_of(env.get("SLURM_STEP_NODELIST") or env["SLURM_JOB_NODELIST"])
    world = World(
        source="slurm",
        node=_number(env, "SLURM_NODEID"),
        nodes=nodes,
        address=env.get("MASTER_ADDR") or listed[0],
        port=_number(env, "MASTER_PORT", 20000 + _number(env, "SLURM_JOB_ID", 0) % 20000),
        rank=_number(env, "SLURM_PROCID") if several else None,
        size=tasks if several else None,
        local_rank=_number(env, "SLURM_LOCALID") if several else 0,
        local_size=-(-tasks // max(1, nodes)),
    )
    if tasks < nodes:
        raise _wrong("SLURM_NTASKS", str(tasks), f"at least one task on each of {nodes} nodes")
    return world


_LAUNCHERS: tuple[tuple[tuple[str, ...], Callable[[Env], World]], ...] = (
    (("RANK", "WORLD_SIZE", "LOCAL_RANK"), _torchrun),  # first: what a cluster says of the node stays set
    (("PET_NODE_RANK", "PET_NNODES"), _kubeflow),
    (("NODE_RANK", "NUM_NODES"), _runpod),
    (("JOB_COMPLETION_INDEX", "NUM_NODES"), _kubernetes),
    (("SM_HOSTS", "SM_CURRENT_HOST"), _sagemaker),
    (("SKYPILOT_NODE_RANK", "SKYPILOT_NODE_IPS"), _skypilot),
    (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NNODES", "SLURM_NODEID", "SLURM_JOB_NODELIST"), _slurm),
)


def hosts_of(nodelist: str) -> list[str]:
    """Host names of Slurm's short form: ``gpu[01-03,7],login`` is gpu01, gpu02, gpu03, gpu7, login."""
    found: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        pieces = re.split(r"\[([^\]]*)\]", part)
        names = [pieces[0]]
        for numbers, after in zip(pieces[1::2], pieces[2::2], strict=True):
            names = [name + number + after for name in names for number in _numbers(numbers, nodelist)]
        found += names
    if not found:
        raise _wrong("SLURM_JOB_NODELIST", nodelist, "a list of hosts")
    return found


def _numbers(text: str, nodelist: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isdecimal() and last.isdecimal()):
            raise _wrong("SLURM_JOB_NODELIST", nodelist, "hosts like gpu[01-03,7]")
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return found


def _checked(world: World) -> World:
    if not 0 <= world.node < max(1, world.nodes):
        raise _wrong(f"{world.source}'s node rank", str(world.node), f"below the {world.nodes} nodes")
    if world.rank is not None and not (world.size and 0 <= world.rank < world.size):
        raise _wrong(f"{world.source}'s rank", str(world.rank), f"below the {world.size} processes")
    return world


def _natural(name: str) -> list[tuple[int, str]]:
    """``algo-10`` after ``algo-2``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _text(env: Env, *names: str) -> str:
    for name in names:
        if env.get(name):
            return env[name]
    raise InvalidRequest(
        f"The environment says which node this is, but not where the first one is: {names[0]} is not set.",
        fix=f"Set {names[0]} to the address of node 0.",
        code="invalid_ranks",
        param=names[0],
    )


def _number(env: Env, name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise _wrong(name, str(text), "a number")
    return int(text)


def _wrong(name: str, seen: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} is {seen!r} and should be {wanted}.",
        fix="Start the trainer with the launcher's own variables, or unset them.",
        code="invalid_ranks",
        param=name,
    )
