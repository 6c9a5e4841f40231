"""The data helpers over HTTP: new files of the project, reports, and refusals with every finding."""

import orjson


def rows(count, answer="yes"):
    return [
        {
            "messages": [
                {"role": "user", "content": f"Question number {n} about {chr(97 + n % 26) * 9}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for n in range(count)
    ]


def lines(items):
    return b"\n".join(map(orjson.dumps, items))


async def upload(world, tenant, items, name="data.jsonl"):
    sent = {"files": {"file": (name, lines(items))}, "data": {"purpose": "fine-tune"}}
    return (await world.call(tenant, "POST", "/v1/files", **sent)).json()["id"]


async def content(world, tenant, file):
    return (await world.call(tenant, "GET", f"/v1/files/{file['id']}/content")).content


async def test_a_file_is_split_into_files_of_the_project(world):
    tenant = await world.tenant()
    file = await upload(world, tenant, rows(40))
    asked = {"file": file, "valid": 0.2, "test": 0.1, "seed": 3}
    made = (await world.call(tenant, "POST", "/api/datasets/split", json=asked)).json()
    assert made["parts"] == {"train": 28, "valid": 8, "test": 4}
    assert {part: one["filename"] for part, one in made["files"].items()} == {
        "train": "data.train.jsonl",
        "valid": "data.valid.jsonl",
        "test": "data.test.jsonl",
    }
    parts = [await content(world, tenant, one) for one in made["files"].values()]
    assert sorted(b"".join(parts).splitlines()) == sorted(map(orjson.dumps, rows(40)))
    again = (await world.call(tenant, "POST", "/api/datasets/split", json=asked)).json()
    assert [await content(world, tenant, one) for one in again["files"].values()] == parts


async def test_duplicates_are_dropped_files_mixed_and_compared(world):
    tenant = await world.tenant()
    double = await upload(world, tenant, rows(10) + rows(2))
    made = (await world.call(tenant, "POST", "/api/datasets/dedup", json={"file": double})).json()
    assert (made["kept"], made["exact"], made["files"]["rows"]["filename"]) == (10, 2, "data.dedup.jsonl")
    other = await upload(world, tenant, rows(5, "no"))
    asked = {"sources": [{"file": made["files"]["rows"]["id"], "weight": 2}, {"file": other}], "rows": 12}
    mixed = (await world.call(tenant, "POST", "/api/datasets/mix", json=asked)).json()
    assert [source["taken"] for source in mixed["sources"]] == [8, 4]
    two = {"before": double, "after": made["files"]["rows"]["id"]}
    compared = (await world.call(tenant, "POST", "/api/datasets/diff", json=two)).json()
    assert (compared["same"], compared["removed"], compared["added"]) == (10, [11, 12], [])


async def test_numbers_of_a_form_a_body_and_a_stored_file(world):
    tenant = await world.tenant()
    sent = lines(rows(12))
    path = "/api/datasets/stats"
    form = await world.call(tenant, "POST", path, files={"file": ("a.jsonl", sent)}, data={"near": "0.9"})
    raw = await world.call(tenant, "POST", path + "?near=0.9", content=sent)
    stored = await upload(world, tenant, rows(12))
    kept = await world.call(tenant, "POST", f"{path}?file={stored}&near=0.9")
    assert form.json() == raw.json() == kept.json()
    assert form.json()["rows"] == 12 and form.json()["tokens"]["tokens"] > 100
    bad = await world.call(tenant, "POST", path, files={"file": ("a", sent)}, data={"near": "7"})
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "near")
    missing = await world.call(tenant, "POST", path, files={"other": ("a", b"x")})
    assert missing.json()["error"]["param"] == "file"


async def test_a_broken_file_is_refused_with_every_finding(world):
    tenant = await world.tenant()
    file = await upload(world, tenant, [*rows(3), {"messages": []}, {"messages": "x"}])
    refused = await world.call(tenant, "POST", "/api/datasets/split", json={"file": file})
    assert refused.status_code == 400
    found = refused.json()["error"]["graftwork"]["findings"]
    assert [(one["file"], one["line"]) for one in found] == [("data.jsonl", 4), ("data.jsonl", 5)]


async def test_values_that_cannot_be_are_refused_and_named(world):
    tenant = await world.tenant()
    file = await upload(world, tenant, rows(10))
    for path, body, param in (
        ("split", {"file": file, "valid": 0}, "valid"),
        ("split", {"file": file, "valid": 0.6, "test": 0.6}, "valid"),
        ("split", {"file": file, "near": 2}, "near"),
        ("mix", {"sources": [{"file": file, "weight": 0}]}, "sources.0.weight"),
        ("dedup", {"file": file, "colour": 1}, "colour"),
    ):
        refused = await world.call(tenant, "POST", f"/api/datasets/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
