"""llama.cpp, asked in JSON on standard input: run by the lane's own Python, which has its Python build.

    {"model": path, "lora": path or null, "texts": […], "conversations": […], "prompts": […],
     "questions": […]}

answers ``tokens`` of the texts, ``prompts`` of the conversations, ``probs`` of the likeliest tokens after
each prompt of tokens, greedy ``answers`` to the questions; and
``{"quantize": path}`` llama.cpp's blocks of the rows in an .npy file.
"""

import ctypes
import json
import sys
import urllib.request

import numpy as np
import xllamacpp


def serve(model: str, lora: str | None):
    """A llama.cpp server in this process, on a free loopback port."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.port = 2048, 1, 0
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads, threads.poll = 1, 0  # a busy wait would take the core from others
    params.warmup = False
    params.verbosity = 0
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(lora, 1.0)]
    return xllamacpp.Server(params)


def quantize(path: str) -> dict[str, list[int]]:
    """llama.cpp's own blocks of the rows in an .npy file, by type."""
    module = sys.modules["xllamacpp.xllamacpp"]
    function = ctypes.CDLL(module.__file__).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    rows = np.ascontiguousarray(np.load(path))
    found = {}
    for name, kind in (("q5_0", 6), ("q8_0", 8), ("q4_k", 12), ("q6_k", 14)):
        out = np.zeros(rows.size * 2, np.uint8)
        size = function(kind, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, None)
        found[name] = out[:size].tolist()
    return found


def main() -> None:
    asked = json.load(sys.stdin)
    if "quantize" in asked:
        json.dump(quantize(asked["quantize"]), sys.stdout)
        return
    server = serve(asked["model"], asked.get("lora"))

    def call(path: str, body: dict) -> dict:
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    told = {
        "tokens": [
            call("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            for text in asked.get("texts", [])
        ],
        "prompts": [call("/apply-template", talk)["prompt"] for talk in asked.get("conversations", [])],
        "probs": [
            {
                str(entry["id"]): entry["logprob"]
                for entry in call(
                    "/completion", {"prompt": tokens, "n_predict": 1, "temperature": 0, "n_probs": 20}
                )["completion_probabilities"][0]["top_logprobs"]
            }
            for tokens in asked.get("prompts", [])
        ],
        "answers": [
            call(
                "/v1/chat/completions",
                {"messages": question, "temperature": 0, "max_tokens": asked.get("max_tokens", 64)},
            )["choices"][0]["message"]["content"]
            for question in asked.get("questions", [])
        ],
    }
    json.dump(told, sys.stdout)


main()
