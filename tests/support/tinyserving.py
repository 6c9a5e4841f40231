"""Base models of a few thousand random weights, adapters for them, and an engine over them."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from graftwork.serving.client import EngineClient
from graftwork.serving.embedded.engine import EmbeddedBackend
from graftwork.serving.embedded.model import BaseModel
from graftwork.serving.embedded.scheduler import Limits
from graftwork.serving.wire.app import build_app
from graftwork.serving.wire.backend import Scored, Step, Work
from graftwork.serving.wire.codec import TokenizerCodec

END = 2
VOCABULARY = 400
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ALL = ATTENTION + MLP

_TEMPLATE = (
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if tools -%}{{- 'tools ' + (tools | tojson) -}}{%- endif -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": END,
    "initializer_range": 0.3,
}


def make_base(folder: Path, architecture: str = "qwen3") -> Path:
    """Write a random model, its byte-level tokenizer and its template into ``folder``."""
    folder.mkdir(parents=True)
    torch.manual_seed(11)
    if architecture == "qwen3":
        model: Any = Qwen3ForCausalLM(Qwen3Config(head_dim=12, tie_word_embeddings=True, **_SIZES))
    else:
        model = LlamaForCausalLM(LlamaConfig(**_SIZES))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|pad|>", "clean_up_tokenization_spaces": False})
    )
    (folder / "chat_template.jinja").write_text(_TEMPLATE)
    return folder


def make_adapter(
    folder: Path,
    base: Path,
    *,
    rank: int = 4,
    alpha: float = 8,
    targets: tuple[str, ...] = ALL,
    seed: int = 0,
    size: float = 0.2,
    config: dict[str, Any] | None = None,
    change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
) -> Path:
    """Write a random adapter in PEFT's format. ``change`` may spoil the tensors, ``config`` adds fields."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    tensors: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and path.endswith(targets):
            key = f"base_model.model.{path}.lora_"
            tensors[f"{key}A.weight"] = torch.randn(rank, module.in_features, generator=random) * size
            tensors[f"{key}B.weight"] = torch.randn(module.out_features, rank, generator=random) * size
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted({target.split(".")[-1] for target in targets}),
        **(config or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def plain_model(base: Path, adapter: Path | None) -> Any:
    """What everybody else would run: transformers, with PEFT for an adapter."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        # PEFT asks for a property that transformers has renamed; nothing of ours.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()


@torch.no_grad()
def plain_greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """``count`` tokens by ``generate``, greedy, not ending at an end token."""
    out = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return out[0, len(prompt) :].tolist()


@torch.no_grad()
def plain_logprobs(model: Any, tokens: list[int]) -> torch.Tensor:
    """[len(tokens), vocabulary]: log-probabilities after each token, by one plain forward."""
    return torch.log_softmax(model(torch.tensor([tokens])).logits[0].float(), dim=-1)


class Collector:
    """A sink that keeps what it is told, and can be awaited until the end."""

    def __init__(self, on_step: Callable[[], None] = lambda: None) -> None:
        self.steps: list[Step] = []
        self.done = asyncio.Event()
        self._on_step = on_step

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        if step.finish is not None or step.error is not None:
            self.done.set()
        self._on_step()

    @property
    def scored(self) -> list[Scored]:
        """All generated tokens."""
        return [token for step in self.steps for token in step.tokens]

    @property
    def tokens(self) -> list[int]:
        """Their ids."""
        return [token.id for token in self.scored]


@asynccontextmanager
async def engine(base: Path, **limits: int) -> AsyncIterator[EmbeddedBackend]:
    """An engine in this process, ended at the end."""
    model = BaseModel(base, torch.device("cpu"), torch.float32)
    backend = EmbeddedBackend(model, TokenizerCodec(base), "tiny", Limits(**limits))
    try:
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def client_of(backend: EmbeddedBackend) -> AsyncIterator[EngineClient]:
    """A client of an engine in this process, through its HTTP application but without a socket."""
    transport = httpx.ASGITransport(build_app(backend, "secret"))
    async with EngineClient("http://engine", "secret", transport=transport) as client:
        yield client


async def ask(backend: EmbeddedBackend, work: Work) -> Collector:
    """Submit a work and wait for its end."""
    collector = Collector()
    backend.submit(work, collector)
    await collector.done.wait()
    return collector
