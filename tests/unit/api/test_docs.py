"""docs/api.md says what there is, and its example runs."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from fastapi.routing import iter_route_contexts

from graftwork.gateway.requests import ROUTES
from graftwork.serving.wire.server import LoopbackServer

PAGE = Path(__file__).parents[3] / "docs" / "api.md"


async def test_the_tables_hold_every_route_and_no_other(world):
    documented = set(re.findall(r"^\| ([A-Z]+) \| `([^`]+)` \|", PAGE.read_text(), flags=re.MULTILINE))
    there = {("POST", path) for path in ROUTES}
    for route in iter_route_contexts(world.edge.api.routes):
        there |= {(method, route.path) for method in (route.methods or set()) - {"HEAD"}}
    assert documented == there


async def test_the_example_runs(world):
    tenant = await world.tenant()
    await world.finish(tenant, await world.job(tenant))
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    server = LoopbackServer(world.edge)
    serving = asyncio.create_task(server.run_here())
    await server.listening.wait()
    environment = {"GRAFTWORK_URL": server.url, "GRAFTWORK_API_KEY": tenant.key}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    server.stop()
    await serving
    assert done.returncode == 0, done.stderr
    first, event, *_, last = done.stdout.splitlines()
    assert first == "validating_files validating"
    assert event.startswith("info Created fine-tuning job")
    assert last.startswith("base says hello")
