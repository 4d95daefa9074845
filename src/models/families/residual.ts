/**
 * Llamas whose blocks join what came before otherwise than by a sum (DenseFormer, Hyper-Connections), under a name of their own:
 * read as a llama they would compute something else.
 */
import { inputError } from "../../util/index.ts";
import type { ResidualSpec } from "../spec.ts";
import { type ConfigReader, specReader } from "./config.ts";
import type { Family } from "./family.ts";
import { llamaFiles, llamaKeys, llamaNames } from "./llama.ts";

function residual(c: ConfigReader): ResidualSpec {
  const keys = c.object("residual");
  if (!keys) throw inputError("config.json: residual is missing; without it the model is a llama");
  const kind = keys.choice("kind", { dense: "dense", hyper: "hyper" } as const);
  const found: ResidualSpec = kind === "dense" ? { kind } : { kind, streams: keys.number("streams") };
  keys.finish();
  return found;
}

export const residualLlama: Family = {
  names: llamaNames,
  spec: specReader("llama_residual", (c) => ({ ...llamaKeys(c), residual: residual(c) })),
  ...llamaFiles,
};
