/**
 * Whether the native kernels can be tested here. With CI set they must be: a missing build fails instead of skipping.
 */
import type { BackendName } from "../src/tensor/index.ts";
import { loadAddon } from "../src/tensor/native/addon.ts";

function reason(): string | undefined {
  try {
    loadAddon();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Why tests of the native kernels are skipped; undefined where they run. */
export const nativeMissing = process.env.CI ? undefined : reason();

/** The backends that a test of both runs on. */
export const BACKENDS: readonly BackendName[] = nativeMissing ? ["ref"] : ["ref", "native"];

/** The backend asked for, or ref where there is no other. */
export const usable = (backend: BackendName): BackendName => (nativeMissing ? "ref" : backend);
