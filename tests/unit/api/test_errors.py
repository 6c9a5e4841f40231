"""Errors: OpenAI's envelope and a request id on all of them, whatever went wrong."""

import httpx
import pytest

from graftwork.api import errors
from graftwork.api.app import build

ENVELOPE = {"message", "type", "param", "code"}


def check(answer: httpx.Response, status: int, code: str, param: str | None = None) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    error = answer.json()["error"]
    assert error.keys() - {"graftwork"} == ENVELOPE
    assert (error["code"], error["param"]) == (code, param)
    return error


async def test_unknown_paths_and_methods(world):
    tenant = await world.tenant()
    check(await world.call(tenant, "GET", "/v1/nothing"), 404, "unknown_url")
    check(await world.call(None, "GET", "/"), 404, "unknown_url")
    wrong = await world.call(tenant, "PUT", "/v1/files")
    check(wrong, 405, "method_not_allowed")
    assert set(wrong.headers["allow"].split(", ")) <= {"GET", "POST"}


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[]", "invalid_value", None),
        (b"", "missing_required_parameter", None),
        (b"{}", "missing_required_parameter", "model"),
        (b'{"model": 3, "training_file": "f"}', "invalid_value", "model"),
        (b'{"model": "m", "training_file": "f", "seed": "x"}', "invalid_value", "seed"),
        (b'{"model": "m", "training_file": "f", "metadata": {"a": 1}}', "invalid_value", "metadata.a"),
        (
            b'{"model": "m", "training_file": "f", "graftwork": {"lora": {"rank": 0}}}',
            "invalid_value",
            "graftwork.lora.rank",
        ),
        (
            b'{"model": "m", "training_file": "f", "graftwork": {"eval_every": "often"}}',
            "invalid_value",
            "graftwork.eval_every",
        ),
        (
            b'{"model": "m", "training_file": "f", "graftwork": {"optimiser": 1}}',
            "unknown_parameter",
            "graftwork.optimiser",
        ),
        (
            b'{"model": "m", "training_file": "f", "method": {"type": "reinforcement"}}',
            "method_unsupported",
            "method.type",
        ),
        (b'{"model": "m", "training_file": "f", "suffix": ""}', "invalid_request", "suffix"),
    ],
)
async def test_bodies_that_cannot_be_used_are_400_and_name_the_field(world, content, code, param):
    tenant = await world.tenant()
    answer = await world.call(
        tenant, "POST", "/v1/fine_tuning/jobs", content=content, headers={"content-type": "application/json"}
    )
    check(answer, 400, code, param)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/files?limit=0", "limit"),
        ("/v1/files?limit=10001", "limit"),
        ("/v1/files?order=up", "order"),
        ("/v1/files?after=file-none", "after"),
        ("/v1/fine_tuning/jobs?limit=x", "limit"),
        ("/v1/fine_tuning/jobs?after=ftjob-none", "after"),
        ("/api/usage?since=-1", "since"),
        ("/api/bill?until=nan", "until"),
        ("/api/adapters/support/versions/0", "number"),
        ("/api/adapters/support/versions/abc", "number"),
    ],
)
async def test_queries_that_cannot_be_used(world, path, param):
    tenant = await world.tenant()
    answer = await world.call(tenant, "GET", path)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"content": b"nothing"}, "file"),
        ({"data": {"purpose": "fine-tune"}}, "file"),
        ({"files": {"file": ("a", b"x")}}, "purpose"),
        ({"files": {"file": ("a", b"x")}, "data": {"purpose": "party"}}, "purpose"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "fine-tune"}}, "file"),
        (
            {
                "files": {"file": ("a", b"x")},
                "data": {"purpose": "fine-tune", "expires_after[seconds]": "3600"},
            },
            "expires_after.anchor",
        ),
        (
            {
                "files": {"file": ("a", b"x")},
                "data": {
                    "purpose": "fine-tune",
                    "expires_after[anchor]": "created_at",
                    "expires_after[seconds]": "soon",
                },
            },
            "expires_after.seconds",
        ),
    ],
)
async def test_uploads_that_cannot_be_used(world, options, param):
    tenant = await world.tenant()
    answer = await world.call(tenant, "POST", "/v1/files", **options)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_broken_form_is_a_400(world):
    tenant = await world.tenant()
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await world.call(tenant, "POST", "/v1/files", content=b"--y\r\nrubbish", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].keys() >= ENVELOPE


async def test_a_form_is_not_read_before_the_key_is_checked(world):
    read = []

    async def form():
        read.append(1)
        yield b"--x\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await world.call(None, "POST", "/v1/files", content=form(), headers=headers)
    assert answer.status_code == 401
    assert read == []


async def test_a_json_body_over_the_limit_is_413(world):
    tenant = await world.tenant()
    body = b'{"model": "' + b"x" * errors.JSON_LIMIT + b'"}'
    answer = await world.call(tenant, "POST", "/v1/fine_tuning/jobs", content=body)
    check(answer, 413, "request_too_large")


class Broken:
    """A service that fails as bugs do."""

    async def list(self, project_id):
        raise ZeroDivisionError("secret")


async def test_a_bug_is_a_500_that_says_nothing_but_where_to_look(world, caplog):
    tenant = await world.tenant()
    world.platform.adapters = Broken()
    answer = await world.call(tenant, "GET", "/api/adapters")
    error = check(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in error["message"]
    assert answer.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_an_answer_that_breaks_off_stays_broken(world, caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    sent = []

    async def send(message):
        sent.append(message["type"])

    async def receive():
        return {"type": "http.request"}

    scope = {"type": "http", "path": "/", "method": "GET"}
    await errors.ErrorMiddleware(app)(scope, receive, send)
    assert sent == ["http.response.start"]


async def test_before_the_start_everything_is_a_503(world):
    edge = build(world.platform)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://t") as client:
        key = {"authorization": "Bearer gw_" + "a" * 12 + "_" + "b" * 40}
        for path in ("/v1/models", "/v1/chat/completions"):
            answer = await client.request(
                "POST" if "chat" in path else "GET", path, headers=key, content=b"{}"
            )
            check(answer, 503, "starting")


async def test_idempotency(world):
    tenant = await world.tenant()
    file = await world.upload(tenant)
    body = {"model": "seedling", "training_file": file, "seed": 1}
    key = {"idempotency-key": "once"}

    async def create(changed):
        return await world.call(tenant, "POST", "/v1/fine_tuning/jobs", json=changed, headers=key)

    first, again = await create(body), await create(body)
    assert first.json()["id"] == again.json()["id"]
    check(await create(body | {"seed": 2}), 409, "idempotency_conflict")
