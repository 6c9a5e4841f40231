"""``graft train``: a data set in, an adapter out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from graftwork.cli.connection import Server, connect, existing_file, given
from graftwork.cli.output import confirm, duration, put, put_json, say
from graftwork.cli.watch import follow, outcome
from graftwork.core.errors import InvalidRequest
from graftwork.core.specs import Method, Quantization, TrainerName


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to train; what is not given is chosen by rule.

    Attributes
    ----------
    epochs:
        Passes over the data.
    rank:
        LoRA rank.
    beta:
        How strongly a preference method is held to the model it began with.
    lora_plus:
        Learning rate of B over that of A (LoRA+).
    neftune_alpha:
        Noise on the embeddings (NEFTune).
    trainer:
        The trainer, if not the automatic one.
    quantization:
        Hold the base in 4 bits (nf4).
    """

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    rslora: bool = False
    beta: float | None = None
    lora_plus: float | None = None
    neftune_alpha: float | None = None
    trainer: TrainerName | None = None
    quantization: Quantization | None = None
    early_stopping: int | None = None

    def request(self, method: Method) -> dict[str, Any]:
        """``method`` of the request, and under ``graftwork`` what OpenAI has no word for."""
        lora = {
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "rslora": self.rslora or None,
        }
        options = {
            "lora": given(lora),
            "lora_plus": self.lora_plus,
            "neftune_alpha": self.neftune_alpha,
            "trainer": self.trainer,
            "quantization": self.quantization,
            "early_stopping": self.early_stopping,
        }
        asked = {
            "n_epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }
        if method == "dpo":
            asked["beta"] = self.beta
        elif method != "sft":
            options |= {"method": method, "preference": given({"beta": self.beta})}
        kind = "dpo" if method == "dpo" else "supervised"
        named = {"type": kind, kind: {"hyperparameters": given(asked)}}
        return {"method": named, "graftwork": given(options)}


AS_CHOSEN = Tuning()


def train(
    file: str,
    /,
    *,
    base: str = "seedling",
    method: Method = "sft",
    validation: str | None = None,
    suffix: str | None = None,
    seed: int | None = None,
    tuning: Tuning = AS_CHOSEN,
    max_cost: str | None = None,
    plan: bool = False,
    detach: bool = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"])] = False,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Upload a data set, train an adapter on it, and follow the job.

    The file is checked and the plan (tokens, steps, price) is shown first. Ctrl-C detaches; the job goes on.

    Parameters
    ----------
    file:
        Training data: JSONL, JSON, CSV or Parquet; chat, prompt/completion and other shapes.
    base:
        Base model: `seedling`, a hub name such as Qwen/Qwen3-0.6B, or a folder; or what to go on from: an
        `ft:` name, a checkpoint's name, `support@3`.
    method:
        Supervised (sft), from preferences (dpo, orpo, kto), or on plain texts (cpt).
    validation:
        Held-out data; without it a tenth of the training rows is held out.
    suffix:
        Name of the adapter; a new version of it, if it exists.
    max_cost:
        Refuse the job if it would cost more dollars than this.
    plan:
        Show what the job would do (does it fit, how long, what cost, on what, why), and start nothing.
    detach:
        Print the job's id and return.
    yes:
        Do not ask before starting.
    """
    server = connect()
    training, held_out = existing_file(file), existing_file(validation) if validation else None
    _confirm(server, base, training, method, max_cost, yes or plan)
    body: dict[str, Any] = {"model": base, "suffix": suffix, "seed": seed, **tuning.request(method)}
    body["graftwork"] |= given({"max_cost": max_cost})
    body["training_file"] = server.upload(training)["id"]
    if held_out:
        body["validation_file"] = server.upload(held_out)["id"]
    if plan:
        return _planned(server, given(body), json)
    job = server.post("/v1/fine_tuning/jobs", given(body))
    say(f"Job {job['id']} created.")
    code = 0
    if not detach:
        job = follow(server, job["id"])
        code = outcome(job)
    if json:
        put_json(job)
    else:
        put(job["id"] if detach or quiet else job.get("fine_tuned_model") or job["id"])
    return code


def _planned(server: Server, body: dict[str, Any], json: bool) -> int:
    """Show the plan; the files it was made of are deleted again. Exit code 0: it fits; 2: it does not."""
    try:
        found = server.post("/api/jobs/plan", body)
    finally:
        for name in ("training_file", "validation_file"):
            if name in body:
                server.call("DELETE", f"/v1/files/{body[name]}")
    if json:
        put_json(found)
        return 0 if found["fits"] else 2
    for line in _plan_lines(found):
        put(line)
    return 0 if found["fits"] else 2


def _plan_lines(found: dict[str, Any]) -> list[str]:
    """A plan for people: the verdict first, then how it came about."""
    memory = found["memory_bytes"] / (1 << 30)
    form = "4-bit base, " if found["quantization"] == "nf4" else ""
    lines = [
        f"fits: {'yes' if found['fits'] else 'no'} ({memory:.1f} GiB at most)",
        f"how long: {duration(found['seconds'])} for {found['steps']:,} steps",
        f"what cost: {found['price']} for {found['trained_tokens']:,} tokens"
        + (f"; the machine {found['machine_cost']}" if found["machine_cost"] else ""),
        f"on what: {found['machine'] or 'any machine'}, {form}by the {found['trainer']} trainer",
    ]
    lines += [f"why: {sentence}" for sentence in found["why"]]
    return lines + [f"{name}: {why}" for name, why in found["explained"].items()]


def _confirm(
    server: Server, base: str, training: Path, method: Method, max_cost: str | None, yes: bool
) -> None:
    """Show what the check found and ask before a job that costs something is started."""
    from graftwork.cli.dataset import checked, complain, summary

    report = checked(server, training, base, method)
    if not report["ok"]:
        complain(report, training)
        raise InvalidRequest(
            f"{training} has {len(report['findings'])} problems; nothing was started.",
            fix="Mend the lines above and try again.",
            code="invalid_training_file",
        )
    for line in summary(report):
        say(line)
    price = (report.get("estimate") or {}).get("price_micro")
    if yes or not price or max_cost is not None:
        return
    confirm("This job costs money and nobody can be asked.", "Give --yes, or a cap with --max-cost 5.")
