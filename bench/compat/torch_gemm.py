"""Bare float32 products in PyTorch, GFLOP/s: the counterpart of `sluice bench gemm`, which the peers do not have.

Each --shape is m,k,n for C [m, n] = A [m, k] B [k, n]; the output is mapped before the first measurement.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

from bench_common import Clock, emit, parser, setup  # noqa: E402

ARGS = parser(__doc__)
ARGS.add_argument("--shape", action="append", help="m,k,n; may be repeated (default: 1024,1024,1024 and 4096,512,8192)")
ARGS.add_argument("--steps", type=int, default=20)
ARGS.add_argument("--warmup", type=int, default=3)


def blas(torch):
    """The matrix library that this build calls."""
    if torch.backends.mkl.is_available():
        return "mkl"
    with open("/proc/self/maps") as maps:
        loaded = maps.read()
    found = [name for name in ("openblas", "blis", "atlas") if name in loaded]
    return ",".join(found) or "reference"


def main(a):
    torch = setup(a)
    products = {}
    for shape in a.shape or ["1024,1024,1024", "4096,512,8192"]:
        m, k, n = (int(v) for v in shape.split(","))
        A, B, out = torch.randn(m, k), torch.randn(k, n), torch.zeros(m, n)
        clock = Clock()
        for step in range(a.warmup + a.steps):
            if step == a.warmup:
                clock = Clock()
            with clock("gemm"):
                torch.mm(A, B, out=out)
        products[shape] = round(2 * m * n * k / clock.median("gemm") / 1e6, 1)
    emit(a, {"benchmark": "gemm", "torch": torch.__version__, "blas": blas(torch), "gflops": products})


if __name__ == "__main__":
    main(ARGS.parse_args())
