/**
 * Llama with routed keys and values (LIMe, arXiv 2502.09245): a Llama's config under a name of its own, so that nobody reads
 * the model without its routers, and `kv_routing`, which says what they read.
 */
import { inputError } from "../../util/index.ts";
import type { KvRoutingSpec } from "../spec.ts";
import { type ConfigReader, specReader } from "./config.ts";
import type { Family } from "./family.ts";
import { llamaFiles, llamaKeys, llamaNames } from "./llama.ts";

const KINDS = { learned: "learned", average: "average" } as const;

function routing(c: ConfigReader): KvRoutingSpec {
  const keys = c.object("kv_routing");
  if (!keys) throw inputError("config.json: kv_routing is missing; without it the model is a llama");
  const [first, last] = [keys.optional("first"), keys.optional("last")];
  const found = {
    kind: keys.choice("kind", KINDS),
    ...(first !== undefined && { first }),
    ...(last !== undefined && { last }),
  };
  keys.finish();
  return found;
}

export const lime: Family = {
  names: llamaNames,
  spec: specReader("lime", (c) => ({ ...llamaKeys(c), kvRouting: routing(c) })),
  ...llamaFiles,
};
