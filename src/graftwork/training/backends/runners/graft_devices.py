"""Say what this Python computes on, as ``["cuda", 2]``. Runs in a tool's environment."""

from __future__ import annotations

import importlib.util
import json
import os
import sys


def devices() -> tuple[str, int]:
    """Kind and number."""
    if importlib.util.find_spec("torch_neuronx") or os.environ.get("NEURON_RT_NUM_CORES"):
        return "neuron", int(os.environ.get("NEURON_RT_NUM_CORES", "2"))
    import torch

    return ("cuda", torch.cuda.device_count()) if torch.cuda.is_available() else ("cpu", 1)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(devices()) + "\n")
