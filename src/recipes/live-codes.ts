/**
 * Codes of a live model: windows of text in, the features that are active on each token out.
 * T tokens of a window · n windows of a block · K slots of a token.
 */
import { setImmediate } from "node:timers/promises";
import { forwardPacked, resolveHook } from "../models/index.ts";
import { type Codes, disposeCodes, encode, type Sae, sparseCodes } from "../sae/index.ts";
import { mul, reshape, sum, type Tensor } from "../tensor/index.ts";
import type { PackedBatch, TokenPacker } from "../text/index.ts";
import { inputError } from "../util/index.ts";
import type { LanguageModel } from "./language-model.ts";

export interface LiveCodesOptions {
  readonly lm: LanguageModel;
  readonly sae: Sae;
  readonly hook: string;
  readonly packer: TokenPacker;
  /** Stop before this window of the packer's first epoch. */
  readonly until: number;
  /** Windows of a forward pass; default 16. */
  readonly windows?: number;
  /** Raised, it ends the reading after the block at hand. */
  readonly signal?: AbortSignal;
}

/** Codes as they are read back: a slot with value 0 is unused. K may differ from block to block. */
export interface HostCodes {
  /** [n · T · K] */
  readonly values: Float32Array;
  /** [n · T · K] */
  readonly indices: Int32Array;
}

export interface CodesBlock extends HostCodes {
  /** [n · T] */
  readonly tokens: Int32Array;
}

/** Reads codes back as slots, and frees them. */
export async function readCodes(codes: Codes): Promise<HostCodes> {
  const sparse = await sparseCodes(codes);
  const host = { values: await sparse.values.floats(), indices: await sparse.indices.ints() };
  disposeCodes(sparse);
  return host;
}

/** Reads windows from where the packer stands. */
export async function* liveCodes(options: LiveCodesOptions): AsyncGenerator<CodesBlock> {
  const { lm, packer, windows = 16, signal } = options;
  const point = resolveHook(lm.model.spec, options.hook);
  while (packer.state.epoch === 0 && packer.state.index < options.until && !signal?.aborted) {
    const first = packer.state.index;
    const batch = packer.next(Math.min(windows, options.until - first));
    const { codes, zero } = encodeBlock(options, point, batch);
    const finite = (await zero.item()) === 0;
    zero.dispose();
    const host = await readCodes(codes);
    if (!finite) {
      throw inputError(
        `${point} is not finite in windows ${first} to ${packer.state.index - 1} of the text; the model's weights or the point are at fault`,
      );
    }
    yield { tokens: batch.tokens, ...host };
    await setImmediate(); // timers and sockets get their turn
  }
}

/** Codes of a block, and the sum of its activations times 0: NaN if one of them is not finite. */
function encodeBlock(
  { lm, sae, packer }: LiveCodesOptions,
  point: string,
  batch: PackedBatch,
): { codes: Codes; zero: Tensor } {
  return lm.model.device.scope(() => {
    const wanted = { capture: [point], stopEarly: true };
    const { captured } = forwardPacked(lm.model, batch, packer.context, wanted);
    const x = reshape(captured[point], [batch.tokens.length, -1]);
    return { codes: encode(sae, x), zero: sum(mul(x, 0)) };
  });
}
