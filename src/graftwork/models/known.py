"""Published base models, by the sizes in their published configs: a plan of one needs no download.

No commit is written down here that was not seen: entries say ``main``, and are pinned to the commit that this
is when a job first uses them (``models.pin``); the cache knows it from then on.
"""

from __future__ import annotations

from typing import Any

from graftwork.core.specs import LoraSpec
from graftwork.models.entry import CatalogueEntry, Prices
from graftwork.models.rates import lora_rate, prices
from graftwork.models.shape import LinearAttention, Shape
from graftwork.models.support import support_of

_LLAMA = "{} (Meta's community licence; ask for access on the Hub)"
_MASK = "its template marks no answers; they are found by rendering each conversation in steps"
_QWEN = "ChatML with tools and <think>; " + _MASK


def known_entry(name: str, revision: str, shape: Shape, licence: str, **fields: Any) -> CatalogueEntry:
    """An entry with rates and prices by rule, and trainers and engines by the family's support.

    Raises:
        InvalidRequest: nobody trains or serves the family (``model_unsupported``).
    """
    rate, why = lora_rate(shape)
    support = support_of(shape.family, name)
    given: dict[str, Any] = {
        "source": "local" if name.startswith("/") else "hub",
        "repository": name,
        "lora_learning_rate": rate,
        "rate_reason": why,
        "lora": LoraSpec(),
        "prices": _prices(shape),
        "engines": support.served_by,
        "trainers": support.trainers,
    }
    return CatalogueEntry(name=name, revision=revision, shape=shape, licence=licence, **{**given, **fields})


def _prices(shape: Shape) -> Prices:
    """By what a token costs and what memory a base takes: of a mixture the geometric mean of both sizes."""
    active = shape.active_parameters + shape.embedding_parameters
    return prices(round((active * shape.parameters) ** 0.5) if shape.experts else shape.parameters)


def _shape(
    family: str, sizes: tuple[int, int, int, int, int, int], vocab: int, context: int, **more: Any
) -> Shape:
    hidden, layers, wide, heads, kv, dim = sizes
    return Shape(
        family=family,
        hidden=hidden,
        layers=layers,
        intermediate=wide,
        heads=heads,
        kv_heads=kv,
        head_dim=dim,
        vocab=vocab,
        context=context,
        **{"tied": False, **more},
    )


def _qwen(name: str, sizes: tuple[int, int, int, int, int, int], **more: Any) -> CatalogueEntry:
    shape = _shape(more.pop("family", "qwen3"), sizes, 151_936, more.pop("context", 40_960), **more)
    return known_entry(f"Qwen/{name}", "main", shape, "apache-2.0", chat=_QWEN)


def _llama(name: str, licence: str, sizes: tuple[int, int, int, int, int, int]) -> CatalogueEntry:
    shape = _shape("llama", sizes, 128_256, 131_072)
    chat = f"Llama 3 headers, with tools; {_MASK}"
    return known_entry(f"meta-llama/{name}", "main", shape, _LLAMA.format(licence), chat=chat)


def _mistral(
    name: str, sizes: tuple[int, int, int, int, int, int], vocab: int, **more: Any
) -> CatalogueEntry:
    shape = _shape("mistral", sizes, vocab, 32_768)
    chat = f"[INST], with tools; {_MASK}"
    return known_entry(f"mistralai/{name}", "main", shape, "apache-2.0", chat=chat, **more)


def _gemma(name: str, sizes: tuple[int, int, int, int, int, int], windowed: int) -> CatalogueEntry:
    shape = _shape("gemma3_text", sizes, 262_144, 32_768, tied=True, window=512, windowed_layers=windowed)
    chat = f"<start_of_turn>, no system role and no tools of its own; {_MASK}"
    return known_entry(f"google/{name}", "main", shape, "gemma (Google's terms; ask on the Hub)", chat=chat)


def _glm(name: str, sizes: tuple[int, int, int, int, int, int]) -> CatalogueEntry:
    shape = _shape("glm4", sizes, 151_552, 32_768, fused_mlp=True)
    return known_entry(f"zai-org/{name}", "main", shape, "mit", chat=f"[gMASK]<sop>, with tools; {_MASK}")


def _gpt_oss(name: str, layers: int, experts: int) -> CatalogueEntry:
    shape = _shape(
        "gpt_oss",
        (2880, layers, 2880, 64, 8, 64),
        201_088,
        131_072,
        experts=experts,
        active_experts=4,
        window=128,
        windowed_layers=layers // 2,
    )
    return known_entry(
        f"openai/{name}",
        "main",
        shape,
        "apache-2.0",
        chat=f"harmony, with channels and tools; {_MASK}",
        notes="Published in MXFP4; training loads it in bfloat16, which needs four times the file's size.",
    )


KNOWN: tuple[CatalogueEntry, ...] = (
    _qwen("Qwen3-0.6B", (1024, 28, 3072, 16, 8, 128), tied=True),
    _qwen("Qwen3-1.7B", (2048, 28, 6144, 16, 8, 128), tied=True),
    _qwen("Qwen3-4B", (2560, 36, 9728, 32, 8, 128), tied=True),
    _qwen("Qwen3-8B", (4096, 36, 12288, 32, 8, 128)),
    _qwen("Qwen3-14B", (5120, 40, 17408, 40, 8, 128)),
    _qwen("Qwen3-32B", (5120, 64, 25600, 64, 8, 128)),
    _qwen("Qwen3-30B-A3B", (2048, 48, 768, 32, 4, 128), family="qwen3_moe", experts=128, active_experts=8),
    _qwen(
        "Qwen3-Next-80B-A3B-Instruct",
        (2048, 48, 512, 16, 2, 256),
        family="qwen3_next",
        context=262_144,
        experts=512,
        active_experts=10,
        shared=512,
        gated=True,
        linear_attention=LinearAttention(layers=36, key_heads=16, value_heads=32, key_dim=128, value_dim=128),
    ),
    _llama("Llama-3.1-8B-Instruct", "llama3.1", (4096, 32, 14336, 32, 8, 128)),
    _llama("Llama-3.1-70B-Instruct", "llama3.1", (8192, 80, 28672, 64, 8, 128)),
    _llama("Llama-3.3-70B-Instruct", "llama3.3", (8192, 80, 28672, 64, 8, 128)),
    _mistral("Mistral-7B-Instruct-v0.3", (4096, 32, 14336, 32, 8, 128), 32_768),
    _mistral(
        "Mistral-Small-24B-Instruct-2501",
        (5120, 40, 32768, 32, 8, 128),
        131_072,
        notes="The later Small models read images too and are another architecture (mistral3).",
    ),
    _gemma("gemma-3-270m-it", (640, 18, 2048, 4, 1, 256), 15),
    _gemma("gemma-3-1b-it", (1152, 26, 6912, 4, 1, 256), 22),
    _glm("GLM-4-9B-0414", (4096, 40, 13696, 32, 2, 128)),
    _glm("GLM-4-32B-0414", (6144, 61, 23040, 48, 8, 128)),
    _gpt_oss("gpt-oss-20b", 24, 32),
    _gpt_oss("gpt-oss-120b", 36, 128),
)
"""Hub models, in the order in which they are listed."""
