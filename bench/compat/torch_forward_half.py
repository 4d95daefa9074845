"""A forward pass stopped after one layer, with weights in bfloat16: what `peers/torch_lm.py` does in float32 only.

Hugging Face's model with random weights, all of it in the type that is asked for, as `from_pretrained(dtype=…)` gives it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

from bench_common import Clock, emit, parser, setup  # noqa: E402

ARGS = parser(__doc__)
ARGS.add_argument("--arch", choices=["gpt2", "llama"], default="llama")
ARGS.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
for flag, default in dict(d=512, layers=8, heads=8, kv_heads=2, ffn=1408, vocab=32000, ctx=128, batch=8).items():
    ARGS.add_argument("--" + flag.replace("_", "-"), type=int, default=default)
ARGS.add_argument("--steps", type=int, default=5)
ARGS.add_argument("--warmup", type=int, default=1)
args = ARGS.parse_args()
torch = setup(args)
import transformers  # noqa: E402

if args.arch == "gpt2":
    config = transformers.GPT2Config(
        n_embd=args.d, n_layer=args.layers, n_head=args.heads, n_inner=args.ffn, vocab_size=args.vocab,
        n_positions=args.ctx)
else:
    config = transformers.LlamaConfig(
        hidden_size=args.d, num_hidden_layers=args.layers, num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads, intermediate_size=args.ffn, vocab_size=args.vocab,
        max_position_embeddings=args.ctx)
model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, args.dtype)).eval()
blocks = model.transformer.h if args.arch == "gpt2" else model.model.layers


class Found(Exception):
    pass


def hook(_module, _inputs, output):
    raise Found


blocks[args.layers // 2 - 1].register_forward_hook(hook)
clock = Clock()
with torch.inference_mode():
    for step in range(args.warmup + args.steps):
        if step == args.warmup:
            clock = Clock()
        ids = torch.randint(0, args.vocab, (args.batch, args.ctx))
        with clock("stopped"):
            try:
                model.base_model(ids, use_cache=False)
            except Found:
                continue
            raise SystemExit("the hook was not reached")
tokens = args.batch * args.ctx
sizes = {k: getattr(args, k) for k in ("d", "layers", "heads", "kv_heads", "ffn", "vocab", "ctx", "batch")}
emit(args, {"benchmark": "lm-forward", "arch": args.arch, "dtype": args.dtype, **sizes, "steps": args.steps,
            "stopped_tokens_per_second": round(tokens / clock.median("stopped") * 1e3, 1),
            "phases_ms": clock.medians()})
