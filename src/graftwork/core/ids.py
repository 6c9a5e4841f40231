"""Identifiers: opaque, unguessable, sortable where order matters; names derived from them."""

from __future__ import annotations

import re
import secrets
import time
import uuid

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghijkmnpqrstuvwxyz"

FILE = "file-"
JOB = "ftjob-"
SWEEP = "sweep_"
EVENT = "ftevent-"
CHECKPOINT = "ftckpt_"
ORGANIZATION = "org-"
PROJECT = "proj_"
KEY = "key_"
ADAPTER = "adapter_"
EVALUATION = "eval_"
ENDPOINT = "ep_"
REPLICA = "rep_"
PLACEMENT = "plc_"
EXPORT = "exp_"
MIRROR = "mir_"


def new_id(prefix: str, length: int = 20) -> str:
    """A fresh random id such as ``ftjob-3Jx…``; ``length`` characters of about 5.8 bits each."""
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(length))


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562, version 7): 48 bits of unix milliseconds, then random bits."""
    millis = time.time_ns() // 1_000_000
    value = (millis & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    return str(uuid.UUID(int=value))


def slug(text: str, limit: int = 64) -> str:
    """Lower-case letters, digits, ``-`` and ``_`` of ``text``: what an adapter name may hold."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:limit]


def machine_name(install: str, job_id: str, fence: int) -> str:
    """The deterministic name ``gw-<install>-<run>-<fence>`` that makes a launch findable again."""
    return f"gw-{install}-{slug(job_id.removeprefix(JOB))}-{fence}"


def fine_tuned_model(base: str, organization: str, suffix: str, tail: str) -> str:
    """``ft:{base}:{org}:{suffix}:{id}``, the name OpenAI gives a fine-tuned model."""
    return f"ft:{base}:{organization}:{suffix}:{tail}"


def checkpoint_model(model: str, step: int) -> str:
    """The name of a checkpoint of a fine-tuned model: ``…:ckpt-step-{n}``."""
    return f"{model}:ckpt-step-{step}"
