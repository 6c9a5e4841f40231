"""Run by the lane's own Python: every kernel through Triton's real compiler and assembler, without a GPU.

Prints one JSON object: for each kernel, precision and GPU the size of its program in bytes.
"""

import importlib.util
import json
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

spec = importlib.util.spec_from_file_location("kernels", sys.argv[1])
kernels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernels)

POINTERS = {"scale": "*fp32", "losses": "*fp32", "slopes": "*fp32", "targets": "*i64", "hits": "*i1"}
NUMBERS = {"int": "i32", "float": "fp32"}


def signature(kernel, kind):
    """Of each argument its type; what the compiler has to know is left out."""
    found = {}
    for param in kernel.params:
        said = kernel.fn.__annotations__[param.name]
        if said == "tl.tensor":
            found[param.name] = POINTERS.get(param.name, f"*{kind}")
        else:
            found[param.name] = NUMBERS.get(said, "constexpr")
    return found


def build(kernel, kind, arch, known):
    source = ASTSource(fn=kernel, signature=signature(kernel, kind), constexprs=known)
    return len(triton.compile(source, target=GPUTarget("cuda", arch, 32)).asm["cubin"])


made = {}
for arch in (80, 90):
    for name in ("norm", "norm_back", "turn", "turn_back", "gate", "gate_back", "answer"):
        kernel = getattr(kernels, f"_{name}")
        flags = [param.name for param in kernel.params if param.name in ("normed", "sloped")]
        for kind in ("fp32",) if name == "answer" else ("fp32", "bf16", "fp16"):
            for given in (True, False) if flags else (None,):
                known = {flag: given for flag in flags} | {"block": 64}
                made[f"{name} {kind} sm_{arch} {given}"] = build(kernel, kind, arch, known)
print(json.dumps(made))
