export type { ActivationIndex, ActivationSpec, ShardEntry } from "./activation-index.ts";
export * from "./activation-reader.ts";
export * from "./activation-writer.ts";
export * from "./parquet.ts";
export * from "./row-filter.ts";
export * from "./shuffle-buffer.ts";
