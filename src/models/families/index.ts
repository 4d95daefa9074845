/**
 * Checkpoint families, by `model_type` of `config.json`.
 */
import { inputError } from "../../util/index.ts";
import type { ParamNames } from "../params.ts";
import type { ModelSpec } from "../spec.ts";
import { llamaConfig, llamaNames, llamaSpec } from "./llama.ts";

export interface Family {
  readonly names: ParamNames;
  readonly spec: (config: Readonly<Record<string, unknown>>) => ModelSpec;
  readonly config: (spec: ModelSpec) => Record<string, unknown>;
}

const FAMILIES: Readonly<Record<string, Family>> = {
  llama: { names: llamaNames, spec: llamaSpec, config: llamaConfig },
};

/** The family of a `config.json`; an unknown one is refused by name. */
export function familyOf(config: Readonly<Record<string, unknown>>): Family {
  const type = String(config.model_type);
  const family = Object.hasOwn(FAMILIES, type) ? FAMILIES[type] : undefined;
  if (family) return family;
  const known = Object.keys(FAMILIES).join(", ");
  throw inputError(
    `config.json: model_type ${JSON.stringify(config.model_type)} is not supported; known: ${known}`,
  );
}

export { llamaNames } from "./llama.ts";
