/**
 * Llama with routed keys and values (LIMe, arXiv 2502.09245): a Llama's config under a name of its own, so that nobody reads
 * the model without its routers, and `kv_routing`, which says what they read.
 */
import { inputError } from "../../util/index.ts";
import type { KvRoutingSpec } from "../spec.ts";
import { type ConfigReader, specReader } from "./config.ts";
import type { Family } from "./family.ts";
import { llamaFiles, llamaKeys, llamaNames } from "./llama.ts";

const KINDS = {
  learned: "learned",
  average: "average",
  "hidden-static": "hidden-static",
  "hidden-dynamic": "hidden-dynamic",
} as const satisfies { [K in KvRoutingSpec["kind"]]: K };

/** `kv_routing` of a config. */
export function routingKeys({
  kind,
  first,
  previous,
  last,
  from,
  topP,
}: KvRoutingSpec): Record<string, unknown> {
  return {
    kind,
    ...(first !== undefined && { first }),
    ...(previous !== undefined && { previous }),
    ...(last !== undefined && { last }),
    ...(from !== undefined && { from }),
    ...(topP !== undefined && { top_p: topP }),
  };
}

function routing(c: ConfigReader): KvRoutingSpec {
  const keys = c.object("kv_routing");
  if (!keys) throw inputError("config.json: kv_routing is missing; without it the model is a llama");
  const [first, last, from] = [keys.optional("first"), keys.optional("last"), keys.optional("from")];
  const topP = keys.optional("top_p");
  const found = {
    kind: keys.choice("kind", KINDS),
    ...(first !== undefined && { first }),
    ...(!keys.flag("previous", true) && { previous: false }),
    ...(last !== undefined && { last }),
    ...(from !== undefined && { from }),
    ...(topP !== undefined && { topP }),
  };
  keys.finish();
  return found;
}

export const lime: Family = {
  names: llamaNames,
  spec: specReader("lime", (c) => ({ ...llamaKeys(c), kvRouting: routing(c) })),
  ...llamaFiles,
};
