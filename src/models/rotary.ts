/**
 * Tables of rotary positions. RoFormer (arXiv 2104.09864) with the pairing of halves; stretched as Llama 3 does.
 */
import type { Device, Tensor } from "../tensor/index.ts";
import { type Llama3Scaling, type ModelSpec, rotaryWidth } from "./spec.ts";

/** Radians per position of each pair: [R/2]. */
export function rotaryFrequencies(spec: ModelSpec): Float64Array {
  const width = rotaryWidth(spec);
  const { theta, scaling } = spec.positions;
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

/** cos and sin of every angle up to `positions`: [positions, R/2] each. Kept: the caller disposes them. */
export function rotaryTables(
  device: Device,
  spec: ModelSpec,
  positions: number,
): { cos: Tensor; sin: Tensor } {
  const frequencies = rotaryFrequencies(spec);
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
