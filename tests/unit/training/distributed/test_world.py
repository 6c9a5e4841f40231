"""Ranks read off the variables of every launcher and cluster."""

import pytest

from graftwork.core.errors import InvalidRequest
from graftwork.training.distributed.world import World, hosts_of, ranks_of

CASES = {
    "nothing": ({}, World()),
    "torchrun": (
        {
            "RANK": "5",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4",
            "GROUP_RANK": "1",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "1234",
        },
        World("torchrun", 1, 2, "10.0.0.1", 1234, 5, 8, 1, 4),
    ),
    "runpod cluster": (
        {
            "NODE_RANK": "1",
            "NUM_NODES": "2",
            "WORLD_SIZE": "16",
            "NUM_TRAINERS": "8",
            "PRIMARY_ADDR": "10.65.0.2",
            "MASTER_ADDR": "10.65.0.2",
            "PRIMARY_PORT": "29400",
        },
        World("runpod", 1, 2, "10.65.0.2", 29400),
    ),
    "kubeflow": (
        {
            "PET_NODE_RANK": "2",
            "PET_NNODES": "3",
            "PET_NPROC_PER_NODE": "auto",
            "PET_MASTER_ADDR": "job-node-0-0.job",
            "PET_MASTER_PORT": "29400",
            "JOB_COMPLETION_INDEX": "2",
        },
        World("kubeflow", 2, 3, "job-node-0-0.job", 29400),
    ),
    "kubeflow's PyTorchJob, which gives pods ranks too": (
        {
            "RANK": "1",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "job-master-0",
            "MASTER_PORT": "23456",
            "PET_NODE_RANK": "1",
            "PET_NNODES": "2",
        },
        World("kubeflow", 1, 2, "job-master-0", 23456),
    ),
    "indexed job": (
        {"JOB_COMPLETION_INDEX": "0", "NUM_NODES": "2", "MASTER_ADDR": "gw-0.gw"},
        World("kubernetes", 0, 2, "gw-0.gw", 29500),
    ),
    "sagemaker, ten hosts by number": (
        {
            "SM_HOSTS": str([f"algo-{n}" for n in range(10, 0, -1)]).replace("'", '"'),
            "SM_CURRENT_HOST": "algo-10",
        },
        World("sagemaker", 9, 10, "algo-1", 29500),
    ),
    "skypilot": (
        {
            "SKYPILOT_NODE_RANK": "1",
            "SKYPILOT_NODE_IPS": "10.1.0.1\n10.1.0.2",
            "SKYPILOT_NUM_NODES": "2",
        },
        World("skypilot", 1, 2, "10.1.0.1", 29500),
    ),
    "slurm, one task a node": (
        {
            "SLURM_PROCID": "1",
            "SLURM_NTASKS": "2",
            "SLURM_NNODES": "2",
            "SLURM_NODEID": "1",
            "SLURM_LOCALID": "0",
            "SLURM_JOB_ID": "40007",
            "SLURM_JOB_NODELIST": "gpu[07-08]",
        },
        World("slurm", 1, 2, "gpu07", 20007),
    ),
    "slurm, a task for each GPU": (
        {
            "SLURM_PROCID": "6",
            "SLURM_NTASKS": "8",
            "SLURM_NNODES": "2",
            "SLURM_NODEID": "1",
            "SLURM_LOCALID": "2",
            "SLURM_JOB_ID": "1",
            "SLURM_JOB_NODELIST": "a,b",
        },
        World("slurm", 1, 2, "a", 20001, 6, 8, 2, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ranks_of(name):
    environment, world = CASES[name]
    assert ranks_of(environment) == world


def test_what_a_node_starts_knows_itself_again():
    node = ranks_of(CASES["runpod cluster"][0])
    seats = [ranks_of({**CASES["runpod cluster"][0], **seat}) for seat in node.seats(8)]
    assert [seat.rank for seat in seats] == list(range(8, 16))
    assert {(seat.size, seat.node, seat.nodes, seat.address, seat.port) for seat in seats} == {
        (16, 1, 2, "10.65.0.2", 29400)
    }
    assert [seat.local_rank for seat in seats] == list(range(8))


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"NODE_RANK": "2", "NUM_NODES": "2", "MASTER_ADDR": "a"},
        {"NODE_RANK": "0", "NUM_NODES": "2"},
        {"JOB_COMPLETION_INDEX": "0", "NUM_NODES": "2"},
        {"SM_HOSTS": "algo-1", "SM_CURRENT_HOST": "algo-1"},
        {"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-2"},
    ],
)
def test_contradictions_are_refused(environment):
    with pytest.raises(InvalidRequest) as caught:
        ranks_of(environment)
    assert caught.value.code == "invalid_ranks" and caught.value.fix


@pytest.mark.parametrize(
    ("short", "hosts"),
    [
        ("a", ["a"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("r[1-2]n[1,3].lan", ["r1n1.lan", "r1n3.lan", "r2n1.lan", "r2n3.lan"]),
    ],
)
def test_hosts_of(short, hosts):
    assert hosts_of(short) == hosts


def test_hosts_of_nothing():
    for text in ("", "gpu[a-b]"):
        with pytest.raises(InvalidRequest):
            hosts_of(text)
