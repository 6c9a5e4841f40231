"""Keeping requests: opted for only, whole, redacted, beside the answer and never at its cost."""

import orjson
import pytest
from sqlalchemy.exc import OperationalError

from graftwork.core.nouns import Keeping
from graftwork.gateway.keeper import WAITING, Keeper, Wanted, joined, keeps
from graftwork.gateway.redaction import redact_all, redacted
from graftwork.store.kept import unpacked

SECRET = "Call +49 170 1234567 or mail jane.doe@example.org"


async def opt(world, tenant, mode="all", **fields):
    async with world.store.begin() as tx:
        await tx.kept.opt(Keeping(project_id=tenant.project, mode=mode, **fields))
    await world.gateway.refresh()


async def kept(world, tenant):
    await world.gateway._keeper.close()
    async with world.store.read() as tx:
        return (await tx.kept.page(tenant.project, limit=100, order="asc")).items


@pytest.mark.parametrize(
    ("mode", "store", "expected"),
    [
        (None, True, False),
        ("off", True, False),
        ("asked", None, False),
        ("asked", False, False),
        ("asked", True, True),
        ("all", None, True),
        ("all", True, True),
        ("all", False, False),
    ],
)
def test_who_is_kept(mode, store, expected):
    keeping = None if mode is None else Keeping(project_id="p", mode=mode)
    assert keeps(keeping, store) is expected


async def test_nothing_is_kept_of_a_project_that_did_not_opt(world):
    tenant, other = await world.tenant(), await world.tenant("evil")
    await world.version(tenant)
    await opt(world, other)
    assert (await world.chat(tenant, store=True)).status == 200
    assert await kept(world, tenant) == [] == await kept(world, other)


async def test_plain_and_streamed_answers_are_kept_as_one(both):
    tenant, other = await both.tenant(), await both.tenant("evil")
    version = await both.version(tenant)
    await opt(both, tenant, days=7)
    plain = await both.chat(tenant, temperature=0.5, metadata={"team": "a"})
    streamed = await both.chat(tenant, stream=True, stream_options={"include_usage": True})
    assert plain.status == streamed.status == 200
    one, two = await kept(both, tenant)
    assert await kept(both, other) == []
    assert (one.id, one.metadata) == (plain.json()["id"], {"team": "a"})
    assert (one.model, one.base, one.adapter, one.version) == ("support", "seedling", "support", "support@1")
    assert one.name == version.model and one.expires_at - one.created_at == 7 * 86_400
    first, second = unpacked(one), unpacked(two)
    assert first["answer"] == plain.json()
    assert first["request"] == {"messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}
    assert second["request"] == {"messages": [{"role": "user", "content": "hello"}]}
    said = [answer["answer"]["choices"][0]["message"]["content"] for answer in (first, second)]
    assert said[0] == said[1] == plain.json()["choices"][0]["message"]["content"]
    assert second["answer"]["choices"][0]["finish_reason"] == "stop"
    assert second["answer"]["usage"]["prompt_tokens"] == first["answer"]["usage"]["prompt_tokens"]


async def test_a_request_chooses_with_store(world):
    tenant = await world.tenant()
    await world.version(tenant)
    await opt(world, tenant, "asked")
    await world.chat(tenant)
    await world.chat(tenant, store=False)
    asked = await world.chat(tenant, store=True)
    assert [one.id for one in await kept(world, tenant)] == [asked.json()["id"]]
    await opt(world, tenant, "off")
    await world.chat(tenant, store=True)
    assert len(await kept(world, tenant)) == 1


async def test_engines_never_see_what_is_kept(world):
    tenant = await world.tenant()
    await world.version(tenant)
    await opt(world, tenant)
    answer = await world.chat(tenant, store=True, metadata={"a": "b"})
    assert answer.status == 200  # the engine refuses fields that it does not know
    for bad in ({"store": "yes"}, {"metadata": {"a": 1}}, {"metadata": {str(n): "x" for n in range(17)}}):
        refused = await world.chat(tenant, **bad)
        assert (refused.status, refused.json()["error"]["param"]) == (400, next(iter(bad)))


async def test_failures_and_raw_completions_are_not_kept(world):
    tenant = await world.tenant()
    await world.version(tenant)
    await opt(world, tenant)
    assert (await world.chat(tenant, "nothing")).status == 404
    await world.post("/v1/completions", tenant, {"model": "support", "prompt": "hello"})
    assert await kept(world, tenant) == []


async def test_a_caller_who_leaves_is_not_kept(world, line):
    tenant = await world.tenant()
    await world.version(tenant)
    await opt(world, tenant)
    world.engine.backend.say = lambda model, messages: "word " * 500
    world.engine.backend.delay = 0.01
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    caller = line(world.gateway, "/v1/chat/completions", tenant.key, body | {"max_tokens": 400})
    await caller.until(6)
    await caller.hang_up()
    assert await kept(world, tenant) == []


async def test_persons_and_keys_are_blotted_out_unless_not_wanted(world):
    tenant = await world.tenant()
    await world.version(tenant)
    await opt(world, tenant)
    await world.chat(tenant, messages=[{"role": "user", "content": SECRET}])
    await opt(world, tenant, redact=False)
    await world.chat(tenant, messages=[{"role": "user", "content": SECRET}])
    blotted, plain = map(unpacked, await kept(world, tenant))
    assert blotted["request"]["messages"][0]["content"] == "Call [phone] or mail [email]"
    assert "jane.doe" not in str(blotted)
    assert plain["request"]["messages"][0]["content"] == SECRET


async def test_the_operator_may_change_or_refuse_what_is_kept(make_world):
    def mine(kept):
        if "never" in str(kept):
            return None
        if "broken" in str(kept):
            raise KeyError("oops")
        return {**kept, "seen": True}

    async with make_world(redact=mine) as world:
        tenant = await world.tenant()
        await world.version(tenant)
        await opt(world, tenant)
        for text in ("never", "broken", "fine"):
            answer = await world.chat(tenant, messages=[{"role": "user", "content": text}])
            assert answer.status == 200
        [only] = await kept(world, tenant)
        assert unpacked(only)["seen"] and world.gateway._keeper.dropped == 1


def wanted(number, size=10, answer=None):
    body = answer or orjson.dumps({"choices": [{"message": {"content": "x"}}]})
    names = dict.fromkeys(("model", "base", "name"), "m") | {"adapter": None, "version": None}
    keeping = Keeping(project_id="proj_x", mode="all")
    return Wanted(f"chatcmpl-{number}", keeping, {}, body, False, None, names, 1.0, size)


class FullDisk:
    """A store whose disk is full."""

    def begin(self):
        raise OperationalError("insert", {}, OSError("database or disk is full"))


async def test_a_full_disk_loses_what_is_kept_and_nothing_else():
    keeper = Keeper(FullDisk(), pause=0)
    for number in range(3):
        keeper.put(wanted(number))
    await keeper.close()
    assert (keeper.dropped, keeper.written) == (3, 0)
    keeper.put(wanted(4))
    await keeper.close()
    assert keeper.dropped == 4


async def test_what_comes_too_fast_is_dropped_not_waited_for():
    keeper = Keeper(FullDisk(), pause=60)
    for number in range(WAITING + 5):
        keeper.put(wanted(number))
    assert keeper.dropped == 5
    keeper.put(wanted(0, size=10**9))
    assert keeper.dropped == 6
    keeper._task.cancel()


async def test_an_answer_that_is_too_long_or_no_json_spoils_no_other(lite):
    keeper = Keeper(lite, pause=0)
    long = orjson.dumps({"choices": [{"message": {"content": "x" * 2_000_000}}]})
    rows = keeper._rows([wanted(1, answer=long), wanted(2, answer=b"no json"), wanted(3)])
    assert [row.id for row in rows] == ["chatcmpl-3"] and keeper.dropped == 2


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["x", "a.", "1 ", "eyJ-", "a@", "sk-", "DE12 ", "@a."])
def test_long_texts_are_searched_in_one_pass(piece):
    redacted(piece * (500_000 // len(piece)))


def event(**delta):
    finish = delta.pop("finish_reason", None)
    choice = {"index": delta.pop("index", 0), "delta": delta, "finish_reason": finish}
    return b"data: " + orjson.dumps({"id": "c", "model": "m", "created": 1, "choices": [choice]}) + b"\n\n"


def test_a_stream_adds_up_to_one_answer():
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    stream = (
        event(role="assistant")
        + event(content="Hel")
        + event(content="lo", index=1)
        + event(content="lo", finish_reason="stop")
        + event(tool_calls=[call], index=1)
        + event(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}], index=1)
        + event(
            tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}], index=1, finish_reason="tool_calls"
        )
        + b"data: [DONE]\n\n"
    )
    answer = joined(stream)
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello", "lo"]
    [made] = answer["choices"][1]["message"]["tool_calls"]
    assert (made["id"], made["function"]) == ("call_1", {"name": "look", "arguments": '{"a": 1}'})
    assert answer["choices"][1]["finish_reason"] == "tool_calls"
    with pytest.raises(ValueError, match="without choices"):
        joined(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail a.b+c@sub.example.co.uk now", "mail [email] now"),
        ("card 4111 1111 1111 1111!", "card [card]!"),
        ("card 4111111111111111", "card [card]"),
        ("order 1234567890123456 stays", "order 1234567890123456 stays"),
        ("call (030) 1234-5678", "call [phone]"),
        ("on 2026-11-21 it rained", "on 2026-11-21 it rained"),
        ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN [iban]."),
        ("key sk-proj-abcdefghijklmnop1234", "key [key]"),
        ("pi is 3.14159265358979", "pi is 3.14159265358979"),
        ("nothing here", "nothing here"),
    ],
)
def test_what_is_blotted_out(text, expected):
    assert redacted(text) == expected
    assert redact_all({"a": [text, 1, None]}) == {"a": [expected, 1, None]}
