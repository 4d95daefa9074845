"""`torch_lm.py` for machines without transformers: the same Llama written in plain PyTorch, the same three modes.

The arithmetic is that of Hugging Face's eager Llama (float32, RMSNorm, rotary halves, grouped queries, SwiGLU, untied
head, cache grown by concatenation); the library's bookkeeping between the operators is missing, so this is the faster peer
of the two where a step is short. Runs from PyTorch 1.13 on; before 2.4 Adam cannot be fused on a CPU.
Shapes: B batch, T tokens, d width, H query heads, G key-value heads, c head width.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

from bench_common import Clock, emit, parser, setup  # noqa: E402

SIZES = {
    "forward": dict(d=512, layers=8, heads=8, kv_heads=2, ffn=1408, vocab=32000, ctx=128, batch=8),
    "train": dict(d=256, layers=6, heads=8, kv_heads=4, ffn=688, vocab=4096, ctx=256, batch=32),
    "generate": dict(d=512, layers=8, heads=8, kv_heads=2, ffn=1408, vocab=32000, ctx=256, batch=1),
}

ARGS = parser(__doc__)
ARGS.add_argument("mode", choices=list(SIZES))
ARGS.add_argument("--arch", choices=["llama"], default="llama")
for flag in ("d", "layers", "heads", "kv-heads", "ffn", "vocab", "ctx", "batch", "layer"):
    ARGS.add_argument("--" + flag, type=int)
ARGS.add_argument("--steps", type=int, default=5)
ARGS.add_argument("--warmup", type=int, default=1)
ARGS.add_argument("--prompt", type=int, default=16)
ARGS.add_argument("--new-tokens", type=int, default=64)
ARGS.add_argument("--sample", action="store_true")
ARGS.add_argument("--adam", choices=["fused", "plain"], default="fused")

args = ARGS.parse_args()
torch = setup(args)

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402


def rotate(x, cos, sin):
    """x [B, H, T, c]; pairs (i, i + c/2) turn by the angle of position and frequency i."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def attend(q, k, v, causal):
    """softmax(q k^T / sqrt(c)) v; the fused operator where PyTorch has it."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        T = q.shape[-2]
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ v


class Block(nn.Module):
    def __init__(self, s):
        super().__init__()
        d, self.H, self.G = s["d"], s["heads"], s["kv_heads"]
        self.c = d // self.H
        self.norm1, self.norm2 = RMSNorm(d), RMSNorm(d)
        self.q = nn.Linear(d, d, bias=False)
        self.k = nn.Linear(d, self.G * self.c, bias=False)
        self.v = nn.Linear(d, self.G * self.c, bias=False)
        self.o = nn.Linear(d, d, bias=False)
        self.gate = nn.Linear(d, s["ffn"], bias=False)
        self.up = nn.Linear(d, s["ffn"], bias=False)
        self.down = nn.Linear(s["ffn"], d, bias=False)

    def forward(self, x, turn, past):
        B, T, d = x.shape
        y = self.norm1(x)
        q = rotate(self.q(y).view(B, T, self.H, self.c).transpose(1, 2), *turn)
        k = rotate(self.k(y).view(B, T, self.G, self.c).transpose(1, 2), *turn)
        v = self.v(y).view(B, T, self.G, self.c).transpose(1, 2)
        if past:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        wide_k, wide_v = (t.repeat_interleave(self.H // self.G, 1) for t in (k, v))
        z = attend(q, wide_k, wide_v, causal=T > 1)
        x = x + self.o(z.transpose(1, 2).reshape(B, T, d))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), (k, v)




class Llama(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.embed = nn.Embedding(s["vocab"], s["d"])
        self.blocks = nn.ModuleList(Block(s) for _ in range(s["layers"]))
        self.norm = RMSNorm(s["d"])
        self.head = nn.Linear(s["d"], s["vocab"], bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        c = s["d"] // s["heads"]
        angle = torch.arange(2048)[:, None] * 10000.0 ** (-torch.arange(0, c, 2) / c)
        angle = torch.cat([angle, angle], 1)
        self.cos, self.sin = angle.cos(), angle.sin()

    def base(self, ids, cache=None, capture=None, stop=False):
        """([B, T, d] after the final norm, stream after block `capture`); `stop` ends there."""
        at = cache[0][0].shape[2] if cache and cache[0] else 0
        T = ids.shape[1]
        turn = self.cos[at:at + T], self.sin[at:at + T]
        x, seen = self.embed(ids), None
        for layer, block in enumerate(self.blocks):
            x, kept = block(x, turn, cache[layer] if cache else None)
            if cache is not None:
                cache[layer] = kept
            if layer == capture:
                seen = x
                if stop:
                    return None, seen
        return self.norm(x), seen


class Gemm:
    """A bare [tokens, d] x [d, ffn] product, as in torch_lm.py."""

    def __init__(self, s):
        tokens = s["batch"] * s["ctx"]
        self.x, self.W, self.out = torch.randn(tokens, s["d"]), torch.randn(s["d"], s["ffn"]), torch.zeros(tokens, s["ffn"])
        self.flops = 2 * tokens * s["d"] * s["ffn"]

    def __call__(self, clock):
        with clock("gemm"):
            torch.mm(self.x, self.W, out=self.out)

    def gflops(self, clock):
        return round(self.flops / clock.median("gemm") / 1e6, 1)


def repeat(a, step):
    clock = Clock()
    for i in range(a.warmup + a.steps):
        if i == a.warmup:
            clock = Clock()
        step(clock)
    return clock


def forward(a, s):
    model = Llama(s).eval()
    layer = s["layers"] // 2 - 1 if a.layer is None else a.layer
    gemm = Gemm(s)

    def step(clock):
        ids = torch.randint(0, s["vocab"], (s["batch"], s["ctx"]))
        gemm(clock)
        with clock("logits"):
            model.head(model.base(ids, capture=layer)[0])
        with clock("no_head"):
            model.base(ids, capture=layer)
        with clock("stopped"):
            model.base(ids, capture=layer, stop=True)

    with torch.inference_mode():
        clock = repeat(a, step)
    tokens = s["batch"] * s["ctx"]
    return {"layer": layer, "gemm_gflops": gemm.gflops(clock), "phases_ms": clock.medians("gemm"),
            **{f"{k}_tokens_per_second": round(tokens / clock.median(k) * 1e3, 1) for k in ("logits", "no_head", "stopped")}}


def train(a, s):
    model = Llama(s).train()
    fused = {"fused": True} if a.adam == "fused" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, **fused)
    gemm = Gemm(s)

    def step(clock):
        ids = torch.randint(0, s["vocab"], (s["batch"], s["ctx"]))
        gemm(clock)
        with clock("step"):
            with clock("forward"):
                logits = model.head(model.base(ids)[0])[:, :-1]
                loss = F.cross_entropy(logits.reshape(-1, s["vocab"]), ids[:, 1:].reshape(-1))
            with clock("backward"):
                loss.backward()
            with clock("optimizer"):
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    clock = repeat(a, step)
    tokens = s["batch"] * s["ctx"]
    return {"adam": a.adam, "step_ms": round(clock.median("step"), 1), "gemm_gflops": gemm.gflops(clock),
            "tokens_per_second": round(tokens / clock.median("step") * 1e3, 1), "phases_ms": clock.medians("step", "gemm")}


def pick(logits, sample):
    return torch.multinomial(logits.softmax(-1), 1) if sample else logits.argmax(-1, keepdim=True)


def generate(a, s):
    model = Llama(s).eval()
    whole, decode, n = [], [], a.new_tokens
    with torch.inference_mode():
        for step in range(a.warmup + a.steps):
            ids = torch.randint(0, s["vocab"], (s["batch"], a.prompt))
            start = time.perf_counter()
            cache = [None] * s["layers"]
            token = pick(model.head(model.base(ids, cache)[0][:, -1]), a.sample)
            first = time.perf_counter()
            for _ in range(n - 1):
                token = pick(model.head(model.base(token, cache)[0][:, -1]), a.sample)
            end = time.perf_counter()
            if step >= a.warmup:
                whole.append(s["batch"] * n / (end - start))
                decode.append(s["batch"] * (n - 1) / (end - first))
    return {"prompt": a.prompt, "new_tokens": n, "sampled": a.sample,
            "generate_tokens_per_second": round(statistics.median(whole), 1),
            "loop_decode_tokens_per_second": round(statistics.median(decode), 1)}


sizes = {k: getattr(args, k) or v for k, v in SIZES[args.mode].items()}
found = {"forward": forward, "train": train, "generate": generate}[args.mode](args, sizes)
emit(args, {"benchmark": "lm-" + args.mode, "arch": "llama-plain", **sizes, "steps": args.steps, **found})
