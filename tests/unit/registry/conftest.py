"""A receipt to vary."""

import pytest

from graftwork.core.specs import BaseRef, Hyperparameters, LoraSpec, Schedule
from graftwork.core.states import Verdict
from graftwork.registry import DataReceipt, EvaluationReceipt, Receipt, digest


def a_receipt(**fields) -> Receipt:
    report = {"held_out_loss": {"base": 2.0, "new": 0.5}}
    given = {
        "job_id": "ftjob-1",
        "base": BaseRef(name="seedling", repository="seedling", revision="abc"),
        "tokenizer_hash": "t" * 64,
        "template_hash": "c" * 64,
        "train": DataReceipt(sha256="1" * 64, rows=300, file="file-1"),
        "valid": DataReceipt(sha256="2" * 64, rows=30),
        "code_version": "0.1.0",
        "lora": LoraSpec(rank=8),
        "asked": Hyperparameters(n_epochs=3),
        "schedule": Schedule(
            n_epochs=3,
            batch_size=8,
            accumulation=1,
            learning_rate_multiplier=1.0,
            learning_rate=2e-3,
            warmup_ratio=0.05,
            decay="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=512,
            eval_every=10,
            checkpoint_every=50,
            early_stopping=None,
            total_steps=113,
        ),
        "seed": 7,
        "trained_tokens": 90_000,
        "step": 110,
        "evaluation": EvaluationReceipt(
            id="eval_1", verdict=Verdict.PASS, digest=digest(report), report=report
        ),
        "verdict": Verdict.PASS,
        "cost": 4500,
        "created_at": 1000.0,
    }
    return Receipt(**{**given, **fields})


@pytest.fixture(scope="session")
def receipt() -> Receipt:
    return a_receipt()


@pytest.fixture(scope="session")
def new_receipt():
    return a_receipt
