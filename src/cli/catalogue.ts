/**
 * All commands, in the order of the overview. Only names and summaries are loaded until one is called.
 */
import type { CatalogueEntry } from "./command.ts";

export const catalogue: readonly CatalogueEntry[] = [
  {
    name: "doctor",
    summary: "what this machine can do: kernels, threads, memory, compiler, texts",
    load: async () => (await import("./commands/doctor.ts")).doctor,
  },
];
