/**
 * Tables of rotary positions. RoFormer (arXiv 2104.09864) with the pairing of halves; stretched as Llama 3 does.
 * R is the rotated part of a head.
 */
import type { Device, Tensor } from "../tensor/index.ts";
import { type Llama3Scaling, type ModelSpec, type RopeFrequencies, rotaryWidth } from "./spec.ts";

/** Radians per position of each pair: [R/2]. */
export function rotaryFrequencies(width: number, { theta, scaling }: RopeFrequencies): Float64Array {
  const base = Float64Array.from({ length: width / 2 }, (_, i) => theta ** ((-2 * i) / width));
  if (!scaling) return base;
  if (scaling.kind === "linear") return base.map((f) => f / scaling.factor);
  return base.map((f) => stretch(f, scaling));
}

/** Wavelengths above the original context / lowFreqFactor are stretched, those below context / highFreqFactor kept. */
function stretch(f: number, s: Llama3Scaling): number {
  const turns = (s.originalContext * f) / (2 * Math.PI);
  if (turns < s.lowFreqFactor) return f / s.factor;
  if (turns > s.highFreqFactor) return f;
  const smooth = (turns - s.lowFreqFactor) / (s.highFreqFactor - s.lowFreqFactor);
  return ((1 - smooth) * f) / s.factor + smooth * f;
}

/** [positions, R/2] each. */
export interface RotaryTable {
  readonly cos: Tensor;
  readonly sin: Tensor;
}

/** cos and sin of every angle of the first `positions`. Kept: the caller disposes them. */
function rotaryTable(device: Device, frequencies: Float64Array, positions: number): RotaryTable {
  const half = frequencies.length;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let p = 0; p < positions; p++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(p * Math.fround(frequencies[i])); // Hugging Face multiplies in f32
      cos[p * half + i] = Math.cos(angle);
      sin[p * half + i] = Math.sin(angle);
    }
  }
  return {
    cos: device.tensor(cos, [positions, half]).keep(),
    sin: device.tensor(sin, [positions, half]).keep(),
  };
}

/** Positions that the tables begin with at most: a context of 128k would fill 130 MB before anybody reads that far. */
const FIRST = 16384;

/** The tables of a model, which grow with the positions asked for. Without rotation there are none. */
export class Rotary {
  readonly #device: Device;
  readonly #windows: readonly number[];
  /** Frequencies of layers without and with a window; one entry where they are the same. */
  readonly #frequencies: readonly Float64Array[];
  #length: number;
  #tables: RotaryTable[];

  constructor(device: Device, spec: ModelSpec) {
    const { positions, contextLength, windowPattern } = spec;
    const width = rotaryWidth(spec);
    this.#device = device;
    this.#windows = windowPattern;
    this.#frequencies =
      positions.kind !== "rope" || width === 0
        ? []
        : [positions, ...(positions.windowed ? [positions.windowed] : [])].map((f) =>
            rotaryFrequencies(width, f),
          );
    this.#length = Math.min(contextLength, FIRST);
    this.#tables = this.#make();
  }

  /** Table of a layer; undefined where nothing turns. */
  of(layer: number): RotaryTable | undefined {
    return this.#windows[layer] ? this.#tables.at(-1) : this.#tables[0];
  }

  /** Makes room for `length` positions. */
  ensure(length: number): void {
    if (length <= this.#length) return;
    this.dispose();
    this.#length = Math.max(length, 2 * this.#length);
    this.#tables = this.#make();
  }

  #make(): RotaryTable[] {
    return this.#frequencies.map((f) => rotaryTable(this.#device, f, this.#length));
  }

  dispose(): void {
    for (const { cos, sin } of this.#tables) {
      cos.dispose();
      sin.dispose();
    }
  }
}
