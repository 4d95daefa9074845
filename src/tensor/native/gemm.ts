/**
 * Bindings of the matrix products: matmul, linear and linearTopK.
 * Letters as in the kernels: C [M, N] = A [M, K] · B [K, N]; B tokens, F features, D width for linearTopK.
 */
import { type KernelTensor, sizeOf } from "../types.ts";
import { type Addon, dtypeCode } from "./addon.ts";
import { addressOf } from "./call.ts";

/** As coded in the argument block. */
const activationCode = { none: 0, relu: 1, silu: 2, gelu: 3, geluTanh: 4 } as const;

type Activation = keyof typeof activationCode;

/** Extents and strides of a stack of matrices whose leading axes collapse to one. */
function stack({ shape, strides }: KernelTensor) {
  const n = shape.length;
  const batch = sizeOf(shape.slice(0, -2));
  const [rows, cols, rowStride, colStride] = [shape[n - 2], shape[n - 1], strides[n - 2], strides[n - 1]];
  return { batch, rows, cols, rowStride, colStride, batchStride: n > 2 ? strides[n - 3] : 0 };
}

export function gemmKernels(addon: Addon, pool: number, isa?: string) {
  const ids = addon.kernels(isa);
  const args = addon.args;

  /** a [..., M, K] · b [..., K, N]; rows of a stack that meets one b count as one tall matrix. */
  function matmul([a, b]: readonly KernelTensor[], [c]: readonly KernelTensor[]): void {
    const [A, B] = [stack(a), stack(b)];
    const oneB = b.shape.length === 2;
    const tall = oneB && A.batchStride === A.rows * A.rowStride;
    const m = tall ? A.rows * A.batch : A.rows;
    const batch = tall ? 1 : A.batch;
    args.set([addressOf(a), addressOf(b), addressOf(c), m, B.cols, A.cols]);
    args.set([A.rowStride, A.colStride, B.rowStride, B.colStride, B.cols], 6);
    args.set([batch, A.batchStride, oneB ? 0 : B.batchStride, A.rows * B.cols, dtypeCode[b.dtype]], 11);
    args.fill(0, 16, 21);
    addon.call(pool, ids.matmul);
  }

  /** activation(x [..., K] · wᵀ + bias), w [N, K] in f32, f16 or bf16. */
  function linear(
    [x, w, bias]: readonly (KernelTensor | undefined)[],
    [y]: readonly KernelTensor[],
    { activation }: { readonly activation: Activation },
  ): void {
    const [N, K] = w!.shape;
    const m = sizeOf(x!.shape.slice(0, -1));
    args.set([addressOf(x!), addressOf(w!), addressOf(y), m, N, K, K, 1, 1, K, N]);
    args.set([1, 0, 0, 0, dtypeCode[w!.dtype], bias ? addressOf(bias) : 0, activationCode[activation]], 11);
    args.fill(0, 18, 21);
    addon.call(pool, ids.matmul);
  }

  /** The k largest of relu(x [B, D] · w [F, D]ᵀ + bias [F]) by row: values and indices [B, k]. */
  function linearTopK(
    [x, w, bias]: readonly KernelTensor[],
    [values, indices]: readonly KernelTensor[],
    { k }: { readonly k: number },
  ): void {
    const [F, D] = w.shape;
    args.set([addressOf(x), addressOf(w), addressOf(bias), addressOf(values), addressOf(indices)]);
    args.set([x.shape[0], F, D, k, 1], 5);
    addon.call(pool, ids.linearTopK);
  }

  return { matmul, linear, linearTopK };
}
