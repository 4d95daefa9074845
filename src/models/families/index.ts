/**
 * Checkpoint families, by `model_type` of `config.json`.
 */
import { inputError } from "../../util/index.ts";
import type { Json } from "./config.ts";
import type { Family } from "./family.ts";
import { gemma2, gemma3 } from "./gemma.ts";
import { gptNeox } from "./gpt-neox.ts";
import { gpt2 } from "./gpt2.ts";
import { lime } from "./lime.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { qwen2, qwen3 } from "./qwen.ts";
import { residualLlama } from "./residual.ts";

const FAMILIES: Readonly<Record<string, Family>> = {
  llama,
  lime,
  llama_residual: residualLlama,
  mistral,
  qwen2,
  qwen3,
  gemma2,
  gemma3_text: gemma3,
  gpt2,
  gpt_neox: gptNeox,
};

/** The family of a `config.json`; an unknown one is refused by name. */
export function familyOf(config: Json): Family {
  const type = String(config.model_type);
  const family = Object.hasOwn(FAMILIES, type) ? FAMILIES[type] : undefined;
  if (family) return family;
  const known = Object.keys(FAMILIES).join(", ");
  throw inputError(
    `config.json: model_type ${JSON.stringify(config.model_type)} is not supported; known: ${known}`,
  );
}

export type { Json } from "./config.ts";
export type { Family } from "./family.ts";
export { llamaNames } from "./llama.ts";
export { llamaConfig } from "./write.ts";
