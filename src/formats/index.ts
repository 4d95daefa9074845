export * from "./checkpoint.ts";
export * from "./hf-model.ts";
export * from "./named-array.ts";
export * from "./sae-lens.ts";
export { type SaeLensArchitecture, type SaeLensConfig, saeLensTraits } from "./sae-lens-config.ts";
export * from "./safetensors.ts";
export type { TensorInfo, TensorShape } from "./safetensors-header.ts";
