"""``/api/sweeps``."""

from __future__ import annotations

from typing import Any

from tests.unit.api.conftest import BASE, World


async def body(world: World, tenant: Any, **fields: Any) -> dict[str, Any]:
    return {"model": BASE, "training_file": await world.upload(tenant), "suffix": "support", **fields}


async def test_a_sweep_is_created_listed_shown_and_cancelled(world: World):
    tenant, stranger = await world.tenant(), await world.tenant("other")
    search = {"ranks": [4, 8], "rates": [1, 2], "trials": 3}
    asked = await body(world, tenant, search=search, graftwork={"max_cost": "1"}, seed=3)
    made = (await world.call(tenant, "POST", "/api/sweeps", json=asked)).json()
    assert (made["object"], made["state"], made["rung"], made["best"]) == ("sweep", "running", 0, None)
    assert [trial["number"] for trial in made["trials"]] == [1, 2, 3]
    assert all(trial["rank"] in (4, 8) and trial["rate"] in (1, 2) for trial in made["trials"])
    shown = await world.call(tenant, "GET", f"/api/sweeps/{made['id']}")
    assert shown.json() == made
    listed = (await world.call(tenant, "GET", "/api/sweeps")).json()
    assert [sweep["id"] for sweep in listed["data"]] == [made["id"]]
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = await world.call(stranger, method, f"/api/sweeps/{made['id']}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "sweep_not_found"
    assert (await world.call(stranger, "GET", "/api/sweeps")).json()["data"] == []
    assert (await world.call(tenant, "POST", f"/api/sweeps/{made['id']}/cancel")).status_code == 200


async def test_what_is_wrong_is_named(world: World):
    tenant = await world.tenant()
    for fields, code in (
        ({"search": {"trials": 99}}, "sweep_too_large"),
        ({"graftwork": {"holdout": 0}}, "sweep_without_held_out"),
        ({"search": {"rates": [-1]}}, None),
        ({"surprise": 1}, None),
        ({"model": "nothing"}, "model_not_found"),
    ):
        asked = await body(world, tenant, **fields)
        answer = await world.call(tenant, "POST", "/api/sweeps", json=asked)
        assert answer.status_code in (400, 404), answer.text
        if code is not None:
            assert answer.json()["error"]["code"] == code
