"""Stored completions through the stock SDK, what a project opts for, and data sets out of its requests."""

import httpx
import openai
import orjson
import pytest

from graftwork.control.reconcilers.base import Pace
from graftwork.control.reconcilers.retention import Retention
from graftwork.control.services.kept import tidy


async def ready(world, name="acme"):
    tenant = await world.tenant(name)
    job = await world.job(tenant)
    version = await world.finish(tenant, job)
    await world.place(tenant, version.weights)
    await world.edge.gateway.refresh()
    return tenant


async def opt(world, tenant, **fields):
    answer = await world.call(tenant, "PUT", "/api/kept", json=fields)
    await world.edge.gateway.refresh()
    return answer.json()


async def ask(world, tenant, text, **fields):
    body = {"model": "support", "messages": [{"role": "user", "content": text}]} | fields
    answer = await world.call(tenant, "POST", "/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    await world.edge.gateway._keeper.close()
    return answer


def client(world, tenant):
    transport = httpx.ASGITransport(world.edge)
    http = httpx.AsyncClient(transport=transport, base_url="http://edge")
    return openai.AsyncOpenAI(api_key=tenant.key, base_url="http://edge/v1", http_client=http)


async def test_nothing_is_kept_until_the_project_opts_for_it(world):
    tenant = await ready(world)
    await ask(world, tenant, "before", store=True)
    off = (await world.call(tenant, "GET", "/api/kept")).json()
    assert off == {"mode": "off", "days": 30, "redact": True, "requests": 0, "bytes": 0}
    assert (await opt(world, tenant, mode="asked", days=7))["days"] == 7
    await ask(world, tenant, "unasked")
    await ask(world, tenant, "asked", store=True)
    now = (await world.call(tenant, "GET", "/api/kept")).json()
    assert (now["mode"], now["redact"], now["requests"]) == ("asked", True, 1) and now["bytes"] > 0
    for bad in ({"mode": "some"}, {"days": 0}, {"days": 366}, {"colour": 1}):
        assert (await world.call(tenant, "PUT", "/api/kept", json=bad)).status_code == 400


async def test_the_sdk_lists_reads_marks_and_deletes_them(world):
    tenant, other = await ready(world), await world.tenant("evil")
    await opt(world, tenant, mode="all")
    for text in ("one", "two", "three"):
        await ask(world, tenant, text, metadata={"text": text}, stream=text == "two")
    sdk, strange = client(world, tenant), client(world, other)
    found = [kept async for kept in await sdk.chat.completions.list(limit=2)]
    assert [kept.metadata["text"] for kept in found] == ["one", "two", "three"]
    one = await sdk.chat.completions.retrieve(found[1].id)
    assert one.choices[0].message.content.endswith("says two") and one.model == "support"
    asked = await sdk.chat.completions.messages.list(one.id)
    assert [message.content for message in asked.data] == ["two"]
    marked = await sdk.chat.completions.update(one.id, metadata={"good": "yes"})
    assert marked.metadata == {"good": "yes"}
    for call in (
        strange.chat.completions.retrieve(one.id),
        strange.chat.completions.delete(one.id),
        strange.chat.completions.update(one.id, metadata={}),
        strange.chat.completions.messages.list(one.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await call
    assert (await strange.chat.completions.list()).data == []
    assert (await sdk.chat.completions.delete(one.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.chat.completions.retrieve(one.id)
    assert (await world.call(tenant, "GET", "/api/kept")).json()["requests"] == 2


async def test_a_data_set_is_made_of_them(world):
    tenant, other = await ready(world), await world.tenant("evil")
    await opt(world, tenant, mode="all")
    for text in ("one", "two", "one"):
        await ask(world, tenant, text)
    await ask(world, tenant, "cut off here", max_tokens=1)
    made = (await world.call(tenant, "POST", "/api/datasets/from-logs", json={"model": "support"})).json()
    assert (made["requests"], made["rows"], made["duplicates"]) == (4, 2, 1)
    assert made["skipped"] == {"answer_cut_off": 1}
    data = (await world.call(tenant, "GET", f"/v1/files/{made['file']['id']}/content")).content
    rows = [orjson.loads(line) for line in data.splitlines()]
    assert [row["messages"][0]["content"] for row in rows] == ["one", "two"]
    assert rows[0]["messages"][1]["role"] == "assistant"
    for asked, count in (({"model": "seedling"}, 0), ({"since": 2e9}, 0), ({"limit": 1}, 1)):
        found = (await world.call(tenant, "POST", "/api/datasets/from-logs", json=asked)).json()
        assert found["requests"] == count and (found["file"] is None) == (found["rows"] == 0)
    theirs = (await world.call(other, "POST", "/api/datasets/from-logs", json={})).json()
    assert (theirs["requests"], theirs["file"]) == (0, None)


async def test_they_are_deleted_on_demand_and_in_time(world):
    tenant = await ready(world)
    await opt(world, tenant, mode="all")
    for text in ("one", "two", "three"):
        await ask(world, tenant, text)
    none = await world.call(tenant, "DELETE", "/api/kept?before=1000")
    assert none.json() == {"deleted": 0}
    assert await tidy(world.store, rows=2) == 1
    assert (await world.call(tenant, "DELETE", "/api/kept?model=support")).json() == {"deleted": 2}
    assert (await world.call(tenant, "GET", "/api/kept")).json()["requests"] == 0
    loop = Retention(world.store, world.platform.clock, None, Pace(poll=60))
    assert await loop.once() == 0
