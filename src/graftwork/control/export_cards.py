"""What the model card of an exported version says, out of its receipt."""

from __future__ import annotations

from pathlib import Path

from graftwork.core.ids import slug
from graftwork.core.nouns import Version
from graftwork.core.specs import BaseRef
from graftwork.export.request import About
from graftwork.registry import DataReceipt, Receipt, receipt_of
from graftwork.store import Tx

_MEASURES = float | int


async def about_version(tx: Tx, version: Version) -> About:
    """Names, base, training and scores of a version; the licence is the base model's, not known here."""
    adapter = await tx.adapters.get(version.project_id, version.adapter_id)
    name = adapter.name if adapter else version.adapter_id
    project = await tx.projects.get(version.project_id)
    organization = await tx.organizations.get(project.organization_id) if project else None
    receipt = receipt_of(version.manifest)
    return About(
        name=f"{name}-{version.number}",
        title=f"{name}@{version.number}",
        publisher=(slug(organization.name) if organization else "") or "graftwork",
        base=receipt.base.name,
        base_repository=_public(receipt.base),
        base_revision=receipt.base.revision,
        licence="",
        facts={"version": f"`{name}@{version.number}`, id `{version.id}`", **_facts(receipt)},
        scores=_scores(receipt),
    )


def _facts(receipt: Receipt) -> dict[str, str]:
    lora, schedule = receipt.lora, receipt.schedule
    facts = {
        "method": receipt.method,
        "training data": _data(receipt.train),
        "LoRA": f"rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}",
        "schedule": f"step {receipt.step} of {schedule.total_steps}, {schedule.n_epochs} epochs, "
        f"{schedule.batch_size} rows a step, learning rate {schedule.learning_rate:g} ({schedule.decay})",
        "trained tokens": str(receipt.trained_tokens),
        "gate": str(receipt.verdict),
    }
    if receipt.valid is not None:
        facts["validation data"] = _data(receipt.valid)
    return facts


def _scores(receipt: Receipt) -> dict[str, dict[str, float]]:
    """Measures by model: ``new``, ``base``, ``live``."""
    report = receipt.evaluation.report if receipt.evaluation is not None else {}
    scores = report.get("scores")
    found: dict[str, dict[str, float]] = {}
    for model, summary in scores.items() if isinstance(scores, dict) else ():
        measures = summary.get("measures") if isinstance(summary, dict) else None
        if isinstance(measures, dict):
            found[model] = {key: float(v) for key, v in measures.items() if isinstance(v, _MEASURES)}
    return found


def _data(data: DataReceipt) -> str:
    return f"{data.rows} rows, sha256 `{data.sha256}`"


def _public(base: BaseRef) -> str:
    """The repository's name; a local folder's place on this machine is nobody else's business."""
    return Path(base.repository).name if Path(base.repository).is_absolute() else base.repository
