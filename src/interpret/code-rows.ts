/**
 * Codes of n samples on the host, row by row: 8 bytes a firing. A boosted SAE's parts follow its base.
 * D width · E width of a decoder row · F features of base and parts together · L directions.
 */
import { type AnySae, disposeCodes, encode, featuresOf, inParts, sparseCodes } from "../sae/index.ts";
import { type Device, linear, sqrt, square, sum } from "../tensor/index.ts";
import { usageError } from "../util/index.ts";

/** Row i fires features[offsets[i]] to features[offsets[i + 1] - 1], with values above 0. */
export interface CodeRows {
  readonly rows: number;
  /** F */
  readonly width: number;
  /** [rows + 1] */
  readonly offsets: Int32Array;
  readonly features: Int32Array;
  readonly values: Float32Array;
}

/** Collects codes block by block. */
export class CodeRowsBuilder {
  readonly #width: number;
  readonly #offsets: number[] = [0];
  #features = new Int32Array(1 << 12);
  #values = new Float32Array(1 << 12);
  #size = 0;

  constructor(width: number) {
    this.#width = width;
  }

  /** Appends one firing to the row that is open. */
  add(feature: number, value: number): void {
    if (this.#size === this.#values.length) {
      const [features, values] = [new Int32Array(2 * this.#size), new Float32Array(2 * this.#size)];
      features.set(this.#features);
      values.set(this.#values);
      this.#features = features;
      this.#values = values;
    }
    this.#features[this.#size] = feature;
    this.#values[this.#size++] = value;
  }

  /** Ends the row that is open. */
  endRow(): void {
    this.#offsets.push(this.#size);
  }

  finish(): CodeRows {
    return {
      rows: this.#offsets.length - 1,
      width: this.#width,
      offsets: Int32Array.from(this.#offsets),
      features: this.#features.slice(0, this.#size),
      values: this.#values.slice(0, this.#size),
    };
  }
}

/** Rows encoded at a time. */
const BATCH = 1024;

/** Codes of activations x [n, D]; `k` is the budget of a topk base. */
export async function encodeRows(
  device: Device,
  sae: AnySae,
  x: Float32Array,
  { k }: { readonly k?: number } = {},
): Promise<CodeRows> {
  const { base, parts } = inParts(sae);
  if (base.config.transcoder)
    throw usageError("codes of samples: a transcoder's features are of another point");
  const D = base.config.dIn;
  const builder = new CodeRowsBuilder(featuresOf(sae));
  for (let from = 0; from < x.length; from += BATCH * D) {
    const block = x.subarray(from, from + BATCH * D);
    const slots = [];
    let offset = 0;
    for (const part of [base, ...parts]) {
      const codes = await sparseCodes(
        device.scope(() =>
          encode(part, device.tensor(block, [block.length / D, D]), part === base ? { k } : {}),
        ),
      );
      const [values, indices] = [await codes.values.floats(), await codes.indices.ints()];
      slots.push({ values, indices, offset, width: codes.values.shape[1] });
      disposeCodes(codes);
      offset += part.config.features;
    }
    for (let row = 0; row < block.length / D; row++) {
      for (const { values, indices, offset, width } of slots) {
        for (let s = row * width; s < (row + 1) * width; s++) {
          if (values[s] > 0) builder.add(offset + indices[s], values[s]);
        }
      }
      builder.endRow();
    }
  }
  return builder.finish();
}

/** Values of some features, [rows, features.length]. */
export function featureColumns(codes: CodeRows, features: readonly number[]): Float32Array {
  const column = new Map(features.map((feature, i) => [feature, i]));
  const out = new Float32Array(codes.rows * features.length);
  for (let row = 0; row < codes.rows; row++) {
    for (let s = codes.offsets[row]; s < codes.offsets[row + 1]; s++) {
      const at = column.get(codes.features[s]);
      if (at !== undefined) out[row * features.length + at] = codes.values[s];
    }
  }
  return out;
}

/** The codes of some rows, in their order. */
export function pickRows(codes: CodeRows, rows: readonly number[] | Int32Array): CodeRows {
  const builder = new CodeRowsBuilder(codes.width);
  rows.forEach((row) => {
    for (let s = codes.offsets[row]; s < codes.offsets[row + 1]; s++)
      builder.add(codes.features[s], codes.values[s]);
    builder.endRow();
  });
  return builder.finish();
}

/** Codes times a number. */
export const scaleCodes = (codes: CodeRows, by: number): CodeRows => ({
  ...codes,
  values: codes.values.map((v) => v * by),
});

/** Decoder rows of base and parts beside directions: what a feature of value 1 writes along each. */
export interface DecoderAlong {
  /** Dot products of decoder rows and directions, [F, L]. */
  readonly dots: Float32Array;
  /** Lengths of the decoder rows, [F]. */
  readonly norms: Float32Array;
}

/** `directions` [L, E]. */
export async function decoderAlong(
  device: Device,
  sae: AnySae,
  directions: Float32Array,
): Promise<DecoderAlong> {
  const { base, parts } = inParts(sae);
  const E = base.config.dOut;
  const L = directions.length / E;
  const dots = new Float32Array(featuresOf(sae) * L);
  const norms = new Float32Array(featuresOf(sae));
  let at = 0;
  for (const { params, config } of [base, ...parts]) {
    const found = device.scope(() => ({
      dots: linear(params.wDec, device.tensor(directions, [L, E])),
      norms: sqrt(sum(square(params.wDec), { axes: [1] })),
    }));
    dots.set(await found.dots.floats(), at * L);
    norms.set(await found.norms.floats(), at);
    found.dots.dispose();
    found.norms.dispose();
    at += config.features;
  }
  return { dots, norms };
}
