export * from "./errors.ts";
export * from "./format.ts";
export * from "./fs.ts";
export * from "./half.ts";
export * from "./names.ts";
export * from "./progress.ts";
export * from "./rng.ts";
export * from "./stats.ts";
