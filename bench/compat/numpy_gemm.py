"""Bare float32 products by numpy's BLAS (OpenBLAS in its own wheels), GFLOP/s; flags as in torch_gemm.py.

A second opinion on the yardstick: where this is faster than PyTorch, the ratio against the better of the two counts.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "peers"))

from bench_common import Clock, emit, parser  # noqa: E402

ARGS = parser(__doc__)
ARGS.add_argument("--shape", action="append", help="m,k,n; may be repeated (default: 1024,1024,1024 and 4096,512,8192)")
ARGS.add_argument("--steps", type=int, default=20)
ARGS.add_argument("--warmup", type=int, default=3)


def main(a):
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(a.threads)
    import numpy as np

    rng = np.random.default_rng(0)
    products = {}
    for shape in a.shape or ["1024,1024,1024", "4096,512,8192"]:
        m, k, n = (int(v) for v in shape.split(","))
        A = rng.standard_normal((m, k), dtype=np.float32)
        B = rng.standard_normal((k, n), dtype=np.float32)
        out = np.zeros((m, n), dtype=np.float32)
        clock = Clock()
        for step in range(a.warmup + a.steps):
            if step == a.warmup:
                clock = Clock()
            with clock("gemm"):
                np.matmul(A, B, out=out)
        products[shape] = round(2 * m * n * k / clock.median("gemm") / 1e6, 1)
    with open("/proc/self/maps") as maps:
        loaded = maps.read()
    found = [name for name in ("openblas", "mkl_rt", "blis", "atlas") if name in loaded]
    emit(a, {"benchmark": "gemm", "numpy": np.__version__, "blas": ",".join(found) or "reference", "gflops": products})


if __name__ == "__main__":
    main(ARGS.parse_args())
