"""Which base models may be named, what is known of them, and where their files lie."""

import json
import os
from pathlib import Path

import pytest

from graftwork.core.errors import InvalidRequest, NotFound
from graftwork.core.specs import BaseRef
from graftwork.models import Catalogue, Prices, base_ref, locate, pin
from graftwork.models.entry import Shape
from graftwork.models.folder import revision_of, seedling_folder

from .conftest import CONFIG, safetensors

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """A hub with one model in a folder."""

    def __init__(self, source: Path, names: list[str] | None = None, error: Exception | None = None) -> None:
        self.source, self.names, self.error = source, names, error
        self.calls: list[str] = []

    def resolve(self, repository, revision):
        self.calls.append(f"resolve {repository} {revision}")
        if self.error is not None:
            raise self.error
        return COMMIT, self.names or [path.name for path in self.source.iterdir()]

    def download(self, repository, commit, patterns, cache):
        self.calls.append(f"download {commit}")
        folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
        folder.mkdir(parents=True)
        for path in self.source.iterdir():
            if any(path.match(pattern) for pattern in patterns):
                (folder / path.name).write_bytes(path.read_bytes())
        return folder


def test_known_models_need_no_download_and_have_their_published_size():
    catalogue = Catalogue()
    for name, billions in [
        ("Qwen3-0.6B", 0.596),
        ("Qwen3-1.7B", 1.72),
        ("Qwen3-4B", 4.02),
        ("Qwen3-8B", 8.19),
    ]:
        entry = catalogue.get(f"Qwen/{name}")
        assert entry.parameters / 1e9 == pytest.approx(billions, rel=0.002)
        assert (entry.family, entry.vocab, entry.licence) == ("qwen3", 151_936, "apache-2.0")
        assert 4e-4 < entry.lora_learning_rate < 6e-4
        assert entry.prices.train > entry.prices.input > 0


def test_an_unknown_or_forbidden_name_is_not_found(make_model):
    folder = make_model()
    for name in ("gpt-4o", "Nobody/model", str(folder), "/does/not/exist", "../etc", ""):
        with pytest.raises(NotFound) as caught:
            Catalogue(allow=["/srv/*"]).get(name)
        assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_an_allowed_folder_is_described_and_pinned_to_its_content(make_model, tmp_path):
    folder = make_model()
    catalogue = Catalogue(allow=[f"{tmp_path}/*"])
    entry = catalogue.get(str(folder))
    assert (entry.source, entry.hidden, entry.layers, entry.context) == ("local", 64, 2, 256)
    assert entry.linear_modules == (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    ref = base_ref(entry)
    assert (ref.name, ref.revision) == (str(folder), revision_of(folder))
    assert locate(ref, tmp_path / "cache") == locate(entry, tmp_path / "cache") == folder
    assert pin(entry, tmp_path) == entry


def test_dots_do_not_lead_out_of_what_is_allowed(make_model, tmp_path):
    make_model("secret")
    (tmp_path / "open").mkdir()
    with pytest.raises(NotFound):
        Catalogue(allow=[f"{tmp_path}/open/*"]).get(f"{tmp_path}/open/../secret")
    (tmp_path / "open" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(NotFound):
        Catalogue(allow=[f"{tmp_path}/open/*"]).get(f"{tmp_path}/open/link")


def test_a_changed_folder_is_refused(make_model, tmp_path):
    folder = make_model()
    ref = base_ref(Catalogue(allow=["*"]).get(str(folder)))
    (folder / "model.safetensors").write_bytes(safetensors(1000, b"\1"))
    with pytest.raises(InvalidRequest) as caught:
        locate(ref, tmp_path)
    assert caught.value.code == "base_changed"
    with pytest.raises(NotFound):
        locate(BaseRef(name="x", repository=str(tmp_path / "gone"), revision="0"), tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_every_file_that_matters_is_in_the_revision(make_model, name):
    folder = make_model()
    before = revision_of(folder)
    (folder / "README.md").write_text("words")
    assert revision_of(folder) == before
    path = folder / name
    path.write_text((path.read_text() if path.exists() else "") + " ")
    assert revision_of(folder) != before


def test_large_weights_are_sampled(make_model):
    folder = make_model()
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(safetensors(0))
        file.truncate(80 << 20)
    before = revision_of(folder)
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"x")
    assert revision_of(folder) != before


@pytest.mark.parametrize("where", ["python", "config", "tokenizer"])
def test_a_model_that_brings_code_is_refused(make_model, where):
    folder = make_model(auto_map={"AutoModel": "x.Y"} if where == "config" else None)
    if where == "python":
        (folder / "modeling.py").write_text("")
    if where == "tokenizer":
        (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {}}))
    with pytest.raises(InvalidRequest) as caught:
        Catalogue(allow=["*"]).get(str(folder))
    assert caught.value.code == "model_needs_code"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(make_model, name):
    folder = make_model()
    (folder / name).unlink()
    with pytest.raises(InvalidRequest, match=name.split(".")[-1]) as caught:
        Catalogue(allow=["*"]).get(str(folder))
    assert caught.value.code == "model_folder_invalid"


def test_a_config_of_another_kind_is_refused(make_model):
    for name, changes in [("a", {"hidden_size": None}), ("b", {"num_attention_heads": 0, "head_dim": None})]:
        with pytest.raises(InvalidRequest) as caught:
            Catalogue(allow=["*"]).get(str(make_model(name, **changes)))
        assert caught.value.code == "model_unsupported"
    folder = make_model("c")
    for text in ("[1]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(InvalidRequest) as caught:
            Catalogue(allow=["*"]).get(str(folder))
        assert caught.value.code == "model_folder_invalid"


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"model_type": "gemma3"}, "gemma3"), ({"quantization_config": {"bits": 4}}, "quantized")],
)
def test_a_model_that_no_engine_serves_is_refused_before_it_is_trained(make_model, tmp_path, changes, why):
    folder = make_model(**changes)
    hub = FakeHub(folder)
    for catalogue, name in [
        (Catalogue(allow=["*"]), str(folder)),
        (Catalogue(allow=["*"], cache=tmp_path / "cache", hub=hub), "someone/model"),
    ]:
        with pytest.raises(InvalidRequest, match=why) as caught:
            catalogue.get(name)
        assert caught.value.code == "model_unsupported"


def test_a_hub_model_is_fetched_once_pinned_and_then_found_without_the_hub(make_model, tmp_path):
    hub, cache = FakeHub(make_model("source")), tmp_path / "cache"
    known = Catalogue().get("Qwen/Qwen3-0.6B")
    assert known.revision == "main"
    pinned = pin(known, cache, hub)
    assert (pinned.revision, pinned.hidden) == (COMMIT, CONFIG["hidden_size"])
    folder = locate(base_ref(pinned), cache, hub)
    assert folder.name == COMMIT and (folder / "tokenizer.json").exists()
    assert hub.calls == ["resolve Qwen/Qwen3-0.6B main", f"download {COMMIT}"]
    assert Catalogue(cache=cache).get("Qwen/Qwen3-0.6B").revision == COMMIT
    assert locate(pinned, cache, FakeHub(tmp_path, error=OSError("down"))) == folder


def test_other_hub_models_must_be_allowed_and_are_described_by_their_config(make_model, tmp_path):
    hub, cache = FakeHub(make_model("source")), tmp_path / "cache"
    with pytest.raises(NotFound):
        Catalogue(cache=cache, hub=hub).get("org/model")
    assert hub.calls == []
    entry = Catalogue(allow=["org/*"], cache=cache, hub=hub).get("org/model")
    assert (entry.revision, entry.source, entry.hidden) == (COMMIT, "hub", 64)
    again = Catalogue(allow=["org/*"], cache=cache, hub=FakeHub(tmp_path, error=OSError("down"))).get(
        "org/model"
    )
    assert again == entry


def test_a_hub_model_with_code_is_refused_before_it_is_downloaded(make_model, tmp_path):
    hub = FakeHub(make_model(), names=["config.json", "modeling_x.py"])
    with pytest.raises(InvalidRequest) as caught:
        Catalogue(allow=["*"], cache=tmp_path, hub=hub).get("org/model")
    assert caught.value.code == "model_needs_code"
    assert len(hub.calls) == 1


@pytest.mark.parametrize(
    "error", [OSError("no route to host\ndetails"), ImportError("no hub"), ValueError("bad id")]
)
def test_offline_the_error_says_to_give_a_folder(tmp_path, error):
    with pytest.raises(InvalidRequest) as caught:
        pin(Catalogue().get("Qwen/Qwen3-0.6B"), tmp_path, FakeHub(tmp_path, error=error))
    assert caught.value.code == "model_unreachable"
    assert "folder" in caught.value.fix and "\n" not in caught.value.message


def test_an_interrupted_download_is_not_taken_for_a_model(make_model, tmp_path):
    cache = tmp_path / "cache"
    base = cache / "models--Qwen--Qwen3-0.6B"
    (base / "snapshots" / COMMIT).mkdir(parents=True)
    (base / "snapshots" / COMMIT / "config.json").write_text("{}")
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(COMMIT)
    assert Catalogue(cache=cache).get("Qwen/Qwen3-0.6B").revision == "main"


def test_a_cache_filled_by_hand_serves_offline(make_model, tmp_path):
    source = make_model("source")
    base = tmp_path / "cache" / "models--Qwen--Qwen3-0.6B"
    folder = base / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(COMMIT)
    down = FakeHub(tmp_path, error=OSError("down"))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with pytest.raises(InvalidRequest):
            pin(Catalogue().get("Qwen/Qwen3-0.6B"), tmp_path / "cache", down)
        (folder / name).write_bytes((source / name).read_bytes())
    assert pin(Catalogue().get("Qwen/Qwen3-0.6B"), tmp_path / "cache", down).revision == COMMIT


def test_shards_named_by_the_index_must_be_there(make_model):
    folder = make_model()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(InvalidRequest, match="lacks model-1"):
        Catalogue(allow=["*"]).get(str(folder))
    (folder / "model-1.safetensors").write_bytes(b"")
    assert Catalogue(allow=["*"]).get(str(folder)).hidden == 64
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="index"):
        Catalogue(allow=["*"]).get(str(folder))


@pytest.mark.skipif(not seedling_folder().is_dir(), reason="needs the built-in base model, models/seedling")
def test_the_built_in_model_is_first_and_pinned(tmp_path):
    entry = Catalogue().list()[0]
    assert (entry.name, entry.source, entry.family) == ("seedling", "builtin", "qwen3")
    assert entry.parameters < 10_000_000
    assert len(base_ref(entry).revision) == 40
    assert (locate(base_ref(entry), tmp_path) / "model.safetensors").is_file()


def test_operators_set_prices():
    prices = Prices(train=1, input=2, output=3)
    assert Catalogue(prices={"Qwen/Qwen3-4B": prices}).get("Qwen/Qwen3-4B").prices == prices


def test_shapes_of_other_configs():
    moe = Shape.of_config({**CONFIG, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2})
    dense = Shape.of_config(CONFIG)
    mlp = 3 * 64 * 128 * 2
    assert dense.parameters == 500 * 64 + 2 * (64 * 64 * 2 + 64 * 32 * 2) + mlp
    assert moe.block_parameters == dense.block_parameters + 7 * mlp + 2 * 64 * 8
    assert moe.active_parameters == dense.block_parameters + mlp + 2 * 64 * 8
    nested = Shape.of_config({"model_type": "gemma3", "text_config": {**CONFIG, "tie_word_embeddings": None}})
    assert (nested.hidden, nested.tied) == (64, False)
    old = Shape.of_config({k: v for k, v in CONFIG.items() if k not in ("head_dim", "num_key_value_heads")})
    assert (old.head_dim, old.kv_heads) == (16, 4)
