"""Adapter files out of a run folder into artifacts, every byte checked against the trainer's own hashes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from graftwork.artifacts import Artifacts
from graftwork.control.plan import plan_of
from graftwork.control.reconcilers.jobs.context import Context
from graftwork.core.errors import PlatformError
from graftwork.core.nouns import Job, Weights
from graftwork.registry import require_adapter
from graftwork.runs.documents import Probe


async def stored_weights(
    ctx: Context, job: Job, folder: str, files: Mapping[str, str], probes: Sequence[Probe]
) -> Weights:
    """Copy ``files`` (name to sha256) of a folder of the run, and describe them as weights. Repeatable.

    Raises:
        PlatformError: a file is not what its hash says (``run_folder_corrupt``).
        InvalidData: the files are no adapter of the job's base model.
    """
    reader = ctx.reader(job)
    contents = {name: await asyncio.to_thread(reader.file, f"{folder}/{name}") for name in sorted(files)}
    shapes = (await ctx.bases.get(job.base)).shape.adapter_shapes
    await asyncio.to_thread(require_adapter, contents, shapes=shapes)
    stored = {name: await ctx.artifacts.put(data) for name, data in contents.items()}
    if stored != dict(files):
        raise PlatformError(
            f"The adapter in {folder} is not what its manifest says.",
            fix="The attempt cannot be used; start another.",
            code="run_folder_corrupt",
        )
    spec = plan_of(job).spec
    return Weights(
        digest=Artifacts.digest_of(stored),
        project_id=job.project_id,
        base=job.base,
        files=stored,
        probes=[probe.model_dump() for probe in probes],
        created_at=ctx.clock.now(),
        rank=0 if spec is None else max(spec.lora.rank, spec.lora.expert_rank or 0),
    )
