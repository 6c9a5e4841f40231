"""What left Graftwork works without Graftwork: the adapter in plain transformers + PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Up, rows

pytestmark = pytest.mark.slow
BASE = ROOT / "src" / "graftwork" / "models" / "seedling"


def download(up: Up, folder: Path) -> Path:
    """The production version's adapter, fetched as a user would."""
    import io
    import zipfile

    import httpx

    answer = httpx.get(
        f"{up.url}/api/adapters/tickets/versions/1/download",
        headers={"authorization": f"Bearer {up.api_key}"},
    )
    assert answer.status_code == 200, answer.text
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_plain_peft_gives_the_served_answers_token_for_token(up: Up, trained, tmp_path: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = download(up, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder).eval()
    client = up.client()
    for row in rows("tickets.valid.jsonl")[:12]:
        *asked, _ = row["messages"]
        ids = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=64, do_sample=False)
        mine = out[0, ids["input_ids"].shape[1] :].tolist()
        served = client.chat.completions.create(
            model="tickets", messages=asked, temperature=0, max_tokens=64, logprobs=True
        )
        pieces = [token.token for token in served.choices[0].logprobs.content]
        eos = tokenizer.eos_token_id
        plain = [token for token in mine if token != eos]
        assert served.choices[0].message.content == tokenizer.decode(plain)
        assert len(pieces) - len(plain) in (0, 1)
        assert served.usage.completion_tokens == len(mine)
