"""Questions to llama.cpp itself, through the package xllamacpp, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """
import json, os, sys, urllib.request
import xllamacpp
asked = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.use_jinja = asked["file"], 256, 1, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.warmup = False
server = xllamacpp.Server(params)
address = server.listening_address
def post(path, **body):
    request = urllib.request.Request(address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))
def complete(prompt):
    found = post("/completion", prompt=prompt, n_predict=asked["new_tokens"], temperature=0, return_tokens=True,
                 ignore_eos=True, n_probs=asked["rows"], cache_prompt=False)
    steps = found.get("completion_probabilities", [])
    return found["tokens"], [{t["id"]: t["logprob"] for t in step["top_logprobs"]} for step in steps]
answers = {
    "texts": [post("/tokenize", content=t, add_special=False, parse_special=False)["tokens"] for t in asked["texts"]],
    "dialogues": [post("/apply-template", messages=d)["prompt"] for d in asked["dialogues"]],
    "completions": [complete(p) for p in asked["prompts"]],
}
print("answers:" + json.dumps(answers), flush=True)
os._exit(0)
"""


def ask_llama_cpp(file: Path, *, rows: int = 0, **asked: Any) -> dict[str, Any]:
    """``texts`` as ids, ``dialogues`` as text, and of each of ``prompts`` the next ``new_tokens`` with, where ``rows``
    is not 0, the log-probabilities of as many tokens at each (none where a token is no whole character).
    """
    pytest.importorskip("xllamacpp")
    body = json.dumps({"file": str(file), "rows": rows, **asked})
    done = subprocess.run([sys.executable, "-c", _PROGRAM], input=body, capture_output=True, text=True, timeout=120)
    assert "answers:" in done.stdout, done.stderr
    return json.loads(done.stdout.rpartition("answers:")[2])
