"""Options of the local provider."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from graftwork.core.specs import Spec

KEPT = (
    *(
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TZ",
        "TMPDIR",
        "PYTHONPATH",
        "VIRTUAL_ENV",
    ),
    *("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "SSL_CERT_FILE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"),
)
"""What a machine sees of the control plane's environment. An allow-list: a new secret is not on it."""


class LocalOptions(Spec):
    """How many machines this host is, and what they cost."""

    slots: Annotated[int, Field(ge=1)] = 1
    """Machines that may live at the same time."""
    price_per_hour: Annotated[int, Field(ge=0)] = 0
    """Micro-dollars for one slot."""
    grace: Annotated[float, Field(ge=0)] = 20.0
    """Seconds between SIGTERM and SIGKILL."""
    keep_env: tuple[str, ...] = KEPT
    keep_seconds: Annotated[float, Field(ge=0)] = 7 * 86400.0
    """How long the folder of a machine that is gone is kept for its log; its name is used up as long."""
    gpu: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of one slot."""
    gpu_memory: Annotated[int, Field(ge=0)] = 0
    """Bytes on each."""
