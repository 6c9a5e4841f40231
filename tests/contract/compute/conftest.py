"""One bench for each provider: the same levers, so that the same tests hold against all of them."""

import asyncio
import os
import time
from typing import Protocol

import pytest

from graftwork.compute.local.models import LocalOptions
from graftwork.compute.local.provider import LocalProvider
from graftwork.compute.port import LaunchSpec, MachineInfo, Need, Offer, Provider
from graftwork.core.states import Observed
from graftwork.testing.fake_clock import FakeClock
from graftwork.testing.simulated_cloud import SimulatedCloud
from graftwork.testing.simulated_provider import SimulatedProvider


class Bench(Protocol):
    """A provider with room for two machines, and the levers of its world."""

    provider: Provider

    def restarted(self) -> Provider: ...
    def now(self) -> float: ...
    async def pass_time(self, seconds: float) -> None: ...
    async def launch(self, name: str, *, says=(), exits=None, lasts=3600.0) -> MachineInfo: ...


class LocalBench:
    def __init__(self, root):
        self.root = root
        self.provider = self.restarted()

    def restarted(self):
        return LocalProvider(
            self.root, LocalOptions(slots=2, grace=2), environment={"PATH": os.environ["PATH"]}
        )

    def now(self):
        return time.time()

    async def pass_time(self, seconds):
        await asyncio.sleep(seconds)

    async def launch(self, name, *, says=(), exits=None, lasts=3600.0):
        script = "".join(f"echo {line}; " for line in says)
        script += "exec sleep 1000" if exits is None else f"exit {exits}"
        spec = LaunchSpec(command=["sh", "-c", script], run_uri="file:///run", deadline=self.now() + lasts)
        return await self.provider.launch(name, spec, await any_offer(self))


class SimulatedBench:
    def __init__(self):
        self.clock = FakeClock()
        self.cloud = SimulatedCloud(self.clock, capacity=2, provisioning_seconds=0.1, stop_seconds=0.1)
        self.provider = self.restarted()

    def restarted(self):
        return SimulatedProvider(self.cloud)

    def now(self):
        return self.clock.now()

    async def pass_time(self, seconds):
        await self.clock.advance(seconds)

    async def launch(self, name, *, says=(), exits=None, lasts=3600.0):
        spec = LaunchSpec(command=["true"], run_uri="file:///run", deadline=self.now() + lasts)
        machine = await self.provider.launch(name, spec, await any_offer(self))
        self.cloud.write(name, *says)
        if exits is not None:
            self.cloud.exit(name, exits)
        return machine


async def any_offer(bench: Bench) -> Offer:
    return (await bench.provider.offers(Need()))[0]


async def wait_for(bench: Bench, name: str, *states: Observed, within: float = 10.0) -> MachineInfo:
    end = bench.now() + within
    while (machine := await bench.provider.describe(name)).state not in states:
        assert bench.now() < end, f"{name} is {machine.state} ({machine.message}), not {states}"
        await bench.pass_time(0.02)
    return machine


@pytest.fixture(params=["local", "simulated"])
async def bench(request, tmp_path):
    bench = LocalBench(tmp_path / "machines") if request.param == "local" else SimulatedBench()
    yield bench
    for machine in await bench.provider.find(""):
        await bench.provider.terminate(machine.name)
        await wait_for(bench, machine.name, Observed.GONE)


@pytest.fixture
def until(bench):
    async def until(name, *states, within=10.0):
        return await wait_for(bench, name, *states, within=within)

    return until


@pytest.fixture
def said(bench):
    """Waits until a machine has said so many lines: it runs before it speaks."""

    async def said(name, count, within=10.0):
        end = bench.now() + within
        while len(lines := (await bench.provider.logs(name)).lines) < count and bench.now() < end:
            await bench.pass_time(0.02)
        return lines

    return said


@pytest.fixture
async def offer(bench):
    return await any_offer(bench)
