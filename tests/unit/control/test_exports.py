"""Exports: made once, in the background, by a process; pushed with a token that nobody keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from controlhouse import House
from fakehub import TOKEN, FakeHub

from graftwork.control.reconcilers.exports import ExportReconciler, export_in_process
from graftwork.core.errors import Conflict, InvalidRequest, NotFound, PlatformError, RateLimited
from graftwork.core.states import ExportState
from graftwork.export.request import Answer, Request


class Exporter:
    """Stands for the process: remembers what it was asked, and answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.answer: Answer | None = None
        self.dies = 0

    async def __call__(self, request: Request) -> Answer:
        self.asked.append(request)
        if self.dies:
            self.dies -= 1
            raise PlatformError("The export process died.", code="export_died")
        if self.answer is not None:
            return self.answer
        request.into.mkdir(parents=True)
        (request.into / "a.gguf").write_bytes(
            b"GGUF" + (request.adapter / "adapter_config.json").read_bytes()
        )
        url = f"https://hub/{request.push.repository}" if request.push else None
        return Answer(files=["a.gguf"], url=url)


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


def reconciler(house: House, exporter) -> ExportReconciler:
    return ExportReconciler(
        house.store,
        house.artifacts,
        house.bases,
        house.tokens,
        folder=house.root / "exports",
        clock=house.clock,
        bell=house.bell,
        pace=replace(house.pace, tries=3),
        owner="test",
        exporter=exporter,
    )


async def trained(house: House) -> str:
    """An adapter's name, with one version."""
    job = (await house.create()).job
    await house.until(job.id)
    return "codes"


async def test_an_export_is_made_and_can_be_downloaded(both: House, exporter: Exporter):
    name = await trained(both)
    exports, loop = both.services.exports, reconciler(both, exporter)
    made = await exports.create(both.project.id, f"{name}@1", format="gguf", quant="q8_0")
    assert made.state is ExportState.PENDING
    with pytest.raises(Conflict):
        await exports.file(both.project.id, made.id, "a.gguf")
    await loop.once()
    done = await exports.get(both.project.id, made.id)
    assert done.state is ExportState.SUCCEEDED
    assert done.finished_at == both.clock.now()
    size, pieces = await exports.file(both.project.id, made.id, "a.gguf")
    data = b"".join([piece async for piece in pieces])
    assert data.startswith(b"GGUF{")
    assert size == len(data)
    with pytest.raises(NotFound):
        await exports.file(both.project.id, made.id, "../a.gguf")
    [request] = exporter.asked
    assert (request.format, request.quant) == ("gguf", "q8_0")
    assert request.about.title == "codes@1"
    assert request.about.publisher == "acme"
    assert request.about.scores["new"]["exact_match"] == 1.0
    assert "sha256" in request.about.facts["training data"]
    assert not list((both.root / "exports").iterdir())


async def test_the_same_export_is_made_once(house: House, exporter: Exporter):
    name = await trained(house)
    exports, loop = house.services.exports, reconciler(house, exporter)
    first = await exports.create(house.project.id, name, format="merged")
    assert (await exports.create(house.project.id, f"{name}@1", format="merged")).id == first.id
    await loop.once()
    assert (await exports.create(house.project.id, name, format="merged")).id == first.id
    assert (await exports.create(house.project.id, name, format="gguf")).id != first.id
    assert len(await exports.list(house.project.id)) == 2


async def test_what_the_owner_must_mend_ends_it_at_once(house: House, exporter: Exporter):
    name = await trained(house)
    exports, loop = house.services.exports, reconciler(house, exporter)
    exporter.answer = Answer(code="template_unsupported", message="It counts.", fix="Use gguf.", user=True)
    made = await exports.create(house.project.id, name, format="ollama")
    await loop.once()
    failed = await exports.get(house.project.id, made.id)
    assert failed.state is ExportState.FAILED
    assert failed.error == {"code": "template_unsupported", "message": "It counts. Use gguf."}
    again = await exports.create(house.project.id, name, format="ollama")
    assert again.id != made.id


async def test_a_process_that_dies_is_tried_again_and_in_the_end_given_up(house: House, exporter: Exporter):
    name = await trained(house)
    exports, loop = house.services.exports, reconciler(house, exporter)
    exporter.dies = 1
    once = await exports.create(house.project.id, name, format="gguf")
    for _ in range(3):
        await loop.once()
        await house.clock.advance(10)
    assert (await exports.get(house.project.id, once.id)).state is ExportState.SUCCEEDED
    exporter.dies = 99
    never = await exports.create(house.project.id, name, format="merged")
    for _ in range(5):
        await loop.once()
        await house.clock.advance(10)
    failed = await exports.get(house.project.id, never.id)
    assert failed.state is ExportState.FAILED
    assert failed.error is not None and failed.error["code"] == "export_died"


async def test_a_push_hands_its_token_to_the_process_alone(house: House, exporter: Exporter):
    name = await trained(house)
    exports, loop = house.services.exports, reconciler(house, exporter)
    made = await exports.push(house.project.id, name, repository="acme/codes", token="hf_secret")
    await loop.once()
    done = await exports.get(house.project.id, made.id)
    assert done.url == "https://hub/acme/codes"
    assert done.files is None
    [request] = exporter.asked
    assert request.push is not None and request.push.private
    assert request.push.token.get_secret_value() == "hf_secret"
    assert "hf_secret" not in repr(request) + repr(done)
    assert house.tokens.get(made.id) is None
    assert b"hf_secret" not in (house.root / "store.db").read_bytes()


async def test_a_push_that_a_restart_interrupted_says_so(house: House, exporter: Exporter):
    name = await trained(house)
    made = await house.services.exports.push(
        house.project.id, name, repository="acme/codes", token="hf_secret"
    )
    house.tokens.drop(made.id)  # what a new process knows
    await reconciler(house, exporter).once()
    failed = await house.services.exports.get(house.project.id, made.id)
    assert failed.error is not None and failed.error["code"] == "push_interrupted"
    assert exporter.asked == []


async def test_neighbours_see_nothing_and_bounds_hold(house: House):
    name = await trained(house)
    exports, mine = house.services.exports, house.project.id
    made = await exports.create(mine, name, format="gguf")
    other = "proj_other"
    async with house.store.begin() as tx:
        await tx.projects.create(replace(house.project, id=other, name="other"))
    for call in (
        exports.get(other, made.id),
        exports.file(other, made.id, "a.gguf"),
        exports.create(other, f"{name}@1", format="gguf"),
        exports.push(other, f"{name}@1", repository="a/b", token="t"),
    ):
        with pytest.raises(NotFound):
            await call
    assert await exports.list(other) == []
    for format in ("merged", "ollama", "lmstudio"):
        await exports.create(mine, name, format=format)
    with pytest.raises(RateLimited):
        await exports.create(mine, name, format="peft")
    for wrong in (
        {"format": "exe"},
        {"format": "gguf", "quant": "q1"},
        {"format": "gguf", "with_base": True},
    ):
        with pytest.raises(InvalidRequest):
            await exports.create(mine, name, **wrong)


@pytest.mark.slow
async def test_a_real_process_writes_the_files(house: House, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    name = await trained(house)
    made = await house.services.exports.create(house.project.id, name, format="ollama", quant="q8_0")
    await reconciler(house, export_in_process).once()
    done = await house.services.exports.get(house.project.id, made.id)
    assert done.error is None
    assert set(done.files or {}) == {"Modelfile", "README.md", "codes-1-Q8_0.gguf"}


@pytest.mark.slow
async def test_a_real_process_pushes_with_the_token_it_is_handed(house: House, monkeypatch):
    name = await trained(house)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3] / "src"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        push = house.services.exports.push
        made = await push(house.project.id, name, repository="acme/codes", token=TOKEN)
        wrong = await push(house.project.id, name, repository="acme/codes", token="hf_wrong")
        await reconciler(house, export_in_process).once()
    done = await house.services.exports.get(house.project.id, made.id)
    assert (done.error, done.url) == (None, f"{hub.url}/acme/codes")
    repository = hub.repositories["acme/codes"]
    assert repository.private
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(repository.files)
    assert b"# codes@1" in repository.files["README.md"]
    failed = await house.services.exports.get(house.project.id, wrong.id)
    assert failed.error is not None and failed.error["code"] == "hub_token"
    assert "hf_wrong" not in str(failed)
