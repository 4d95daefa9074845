"""Loading a model with transformers: the counterpart of `sluice bench lm-load`.

Makes a checkpoint of random weights, then starts a process for every step, which imports torch and transformers, loads
the model and takes the hidden state after the middle layer for one window. Milliseconds; MB of 2^20 bytes.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

STARTED = time.time()  # of a step's process, as near to its start as Python lets us


def status_mb(key):
    """VmRSS or VmHWM (the peak) of this process."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s*(\d+) kB$", text, re.M).group(1)) / 1024


def step(folder, dtype, tokens, threads):
    import torch
    import transformers

    torch.set_num_threads(threads)
    start_mb = status_mb("VmRSS")
    began = time.time()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    load_ms = (time.time() - began) * 1000
    peak_mb = status_mb("VmHWM")
    held_mb = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers

    class Found(Exception):
        pass

    def hook(_module, _inputs, output):
        raise Found(output)

    blocks[len(blocks) // 2 - 1].register_forward_hook(hook)
    ids = torch.arange(tokens)[None] * 7919 % model.config.vocab_size
    try:
        with torch.inference_mode():
            model(ids, use_cache=False)
        raise SystemExit("the hook was not reached")
    except Found:
        pass
    print(json.dumps({
        "load_ms": load_ms, "first_ms": (time.time() - STARTED) * 1000, "held_mb": held_mb, "start_mb": start_mb,
        "peak_mb": peak_mb,
    }))


if len(sys.argv) > 1 and sys.argv[1] == "--step":
    step(*json.loads(sys.argv[2]))
    sys.exit()

import bench_common  # noqa: E402
from bench_common import emit, parser  # noqa: E402


class WithChildren(bench_common.Neighbours):
    """The processes that are measured are this program's own."""

    @staticmethod
    def read():
        busy, at = bench_common.Neighbours.read()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return busy - children.ru_utime - children.ru_stime, at


bench_common.NEIGHBOURS = WithChildren()

SHAPES = {
    "gpt2-small": ("gpt2", dict(n_embd=768, n_layer=12, n_head=12, vocab_size=50257, n_positions=1024)),
    "llama-512": ("llama", dict(
        hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2, intermediate_size=1408,
        vocab_size=32000, max_position_embeddings=2048)),
}
DTYPES = {"f32": "float32", "bf16": "bfloat16"}

ARGS = parser(__doc__)
ARGS.add_argument("--shape", choices=list(SHAPES), default="gpt2-small")
ARGS.add_argument("--dtype", choices=list(DTYPES), default="f32")
ARGS.add_argument("--tokens", type=int, default=256)
ARGS.add_argument("--steps", type=int, default=5)
ARGS.add_argument("--warmup", type=int, default=1)
args = ARGS.parse_args()


def median(values):
    return sorted(values)[len(values) // 2]


with tempfile.TemporaryDirectory() as folder:
    make = (
        "import sys, json, torch, transformers as t\n"
        "kind, sizes, dtype, folder = json.loads(sys.argv[1])\n"
        "config = t.AutoConfig.for_model(kind, **sizes)\n"
        "t.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)\n"
    )
    dtype = DTYPES[args.dtype]
    subprocess.run([sys.executable, "-c", make, json.dumps([*SHAPES[args.shape], dtype, folder])], check=True,
                   capture_output=True)
    found = []
    for _ in range(args.warmup + args.steps):
        run = subprocess.run(
            [sys.executable, __file__, "--step", json.dumps([folder, dtype, args.tokens, args.threads])],
            check=True, capture_output=True, text=True)
        found.append(json.loads(run.stdout.strip().split("\n")[-1]))
    found = found[args.warmup:]

load_ms = median([f["load_ms"] for f in found])
first_ms = median([f["first_ms"] for f in found])
emit(args, {
    "benchmark": "lm-load", "model": args.shape, "dtype": args.dtype, "tokens": args.tokens, "steps": args.steps,
    "step_ms": round(load_ms, 1), "first_activation_ms": round(first_ms, 1),
    "held_mb": round(found[0]["held_mb"], 1),
    "memory_multiple": round(median([(f["peak_mb"] - f["start_mb"]) / f["held_mb"] for f in found]), 3),
    "loads_per_second": round(1000 / load_ms, 4), "first_activations_per_second": round(1000 / first_ms, 4),
})
