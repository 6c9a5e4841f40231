"""A small byte-level BPE tokenizer, trained on the spot, and model folders around it."""

import json
from pathlib import Path

import pytest
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from graftwork.data import Renderer

settings.register_profile("graftwork", deadline=None)  # machines are shared; a slow moment is no defect
settings.load_profile("graftwork")

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "</s>",
    "<s>",
]

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

CHATML_MARKED = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' -%}
{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}{{ '\\n' }}
{%- else -%}
{{ message.content }}<|im_end|>{{ '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer() -> Tokenizer:
    text = (
        Path(json.__file__).read_text()
        + (json.__doc__ or "") * 3
        + "user assistant system tool naïve 数 🦜 " * 40
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory):
    """(template, eos) → a folder with tokenizer files and this chat template."""
    content = train_tokenizer().to_str()

    def make(template: str | None, eos: str = "<|im_end|>", **config) -> Path:
        folder = tmp_path_factory.mktemp("model")
        (folder / "tokenizer.json").write_text(content)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "bos_token": "<s>",
            **config,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


@pytest.fixture(scope="session")
def renderer(make_folder) -> Renderer:
    """ChatML with generation marks."""
    return Renderer.load(make_folder(CHATML_MARKED))
