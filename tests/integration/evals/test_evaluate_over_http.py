"""An evaluation through the engines' real HTTP, and on to a verdict; only the arithmetic is scripted."""

import pytest

from graftwork.core.states import Verdict
from graftwork.data.encoding import Encoded
from graftwork.evals.evaluate import evaluate
from graftwork.evals.gate import decide
from graftwork.serving.client import EngineClient
from graftwork.testing.fake_engine import FakeEngine

ADAPTER = "a" * 32
ANSWER = '{"team": "billing"}'


def say(model, messages):
    return ANSWER if model == ADAPTER else "I do not know."


def score(model, tokens):
    each = -0.1 if model == ADAPTER else -3.0
    return [each - token % 7 / 100 for token in tokens]


class Renderer:
    """The fake engine's words as tokens."""

    def __init__(self, codec):
        self.codec = codec

    def tokenize(self, text):
        return self.codec.encode(text, special=False)

    tokenize_raw = tokenize

    def encode(self, row, max_length=None):
        texts = (
            [m["content"] for m in row["messages"]]
            if "messages" in row
            else [row["prompt"], row["completion"]]
        )
        head, tail = self.tokenize(" ".join(texts[:-1])), self.tokenize(texts[-1])
        return Encoded(head + tail, [False] * len(head) + [True] * len(tail), len(head + tail))


@pytest.fixture
async def engine(tmp_path):
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / file).touch()
    engine = FakeEngine(say, score)
    await engine.ensure(tmp_path, "seedling")
    await engine.load(ADAPTER, tmp_path)
    yield engine
    await engine.destroy()


def rows():
    for i in range(12):
        yield {
            "messages": [
                {"role": "system", "content": "Sort the ticket."},
                {"role": "user", "content": f"Where is invoice {i}?"},
                {"role": "assistant", "content": ANSWER, "weight": 1},
            ]
        }
        yield {"prompt": f"Sort: invoice {i}", "completion": ANSWER}


async def test_base_and_adapter_are_measured_and_the_gate_opens(engine):
    renderer = Renderer(engine.backend.codec)
    held_out = list(rows())
    async with EngineClient(
        "http://engine", (await engine.observe()).info.token, transport=engine.transport()
    ) as client:
        new = await evaluate(client, ADAPTER, held_out, renderer, label="support@1")
        base = await evaluate(client, "base", held_out, renderer)
    assert (new.errors, base.errors) == (0, 0)
    assert new.measures()["exact_match"] == 1.0 and base.measures()["exact_match"] == 0.0
    assert new.measures()["json_match"] == 1.0 and base.measures()["json_validity"] == 0.0
    expected = [
        -sum(score(ADAPTER, encoded.tokens)[len(encoded.tokens) - sum(encoded.labels) :])
        for encoded in map(renderer.encode, held_out)
    ]
    assert [row.loss for row in new.rows] == pytest.approx(expected)
    assert decide(new, base).verdict is Verdict.PASS


async def test_a_model_that_is_not_loaded_closes_the_gate(engine):
    renderer = Renderer(engine.backend.codec)
    async with EngineClient(
        "http://engine", (await engine.observe()).info.token, transport=engine.transport()
    ) as client:
        new = await evaluate(client, "b" * 32, list(rows()), renderer)
        base = await evaluate(client, "base", list(rows()), renderer)
    assert new.errors == 24 and new.rows[0].error.startswith("model_not_found: ")
    assert decide(new, base).verdict is Verdict.INCONCLUSIVE
