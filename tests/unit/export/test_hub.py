"""Pushes, against a loopback server of the Hub's HTTP API."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakehub import TOKEN, FakeHub
from pydantic import SecretStr

from graftwork.core.errors import Forbidden, InvalidRequest, Unauthorized, Unavailable
from graftwork.export.hub import push
from graftwork.export.request import Push

# The library's own way of sending an LFS object, which its HTTP client would like to be another.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture(autouse=True)
def without_xet(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    (made / "README.md").write_text("---\nlicense: apache-2.0\n---\n# support@1\n")
    (made / "adapter_config.json").write_text('{"r": 8}')
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    return made


def to(hub: FakeHub, repository: str = "acme/support", token: str = TOKEN, private: bool = True) -> Push:
    return Push(repository=repository, private=private, token=SecretStr(token), endpoint=hub.url)


def test_a_private_repository_is_made_and_gets_every_file_in_one_commit(folder: Path):
    with FakeHub() as hub:
        assert push(folder, to(hub)).endswith("/acme/support")
        made = hub.repositories["acme/support"]
    assert made.private
    assert made.commits == 1
    assert made.files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_that_is_there_is_pushed_to_and_keeps_its_visibility(folder: Path):
    with FakeHub() as hub:
        push(folder, to(hub, private=False))
        (folder / "README.md").write_text("# again\n")
        push(folder, to(hub, private=True))
        made = hub.repositories["acme/support"]
    assert not made.private
    assert made.files["README.md"] == b"# again\n"


@pytest.mark.parametrize(
    ("repository", "token", "fail", "error"),
    [
        ("acme/support", "hf_wrong", 0, Unauthorized),
        ("other/support", TOKEN, 0, Forbidden),
        ("acme/support", TOKEN, 400, InvalidRequest),
        ("not a name", TOKEN, 0, InvalidRequest),
    ],
)
def test_what_the_hub_refuses_is_told_without_the_token(folder, repository, token, fail, error):
    with FakeHub() as hub:
        hub.fail = fail
        with pytest.raises(error) as caught:
            push(folder, to(hub, repository, token))
    assert token not in caught.value.text
    assert caught.value.fix


def test_a_hub_that_is_away_is_told(folder: Path):
    with FakeHub() as hub:
        away = to(hub)
    with pytest.raises(Unavailable):
        push(folder, away)


def test_a_push_never_prints_its_token():
    push_ = Push(repository="a/b", private=True, token=SecretStr(TOKEN))
    assert TOKEN not in repr(push_)
    assert TOKEN not in push_.model_dump_json()
