/**
 * What names an SAE by its content: the numbers and the rule, not the file, its storage type or its notes.
 */
import { createHash } from "node:crypto";
import { PARAM_NAMES, type Sae } from "./sae.ts";

/** `sha256:` of the config and of every parameter as f32, little-endian. Equal for an SAE and what is read back of it in f32. */
export async function saeHash({ config, params }: Sae): Promise<string> {
  const hash = createHash("sha256");
  hash.update(JSON.stringify(sorted(config)));
  for (const name of PARAM_NAMES) {
    const t = params[name];
    if (!t) continue;
    const data = await t.floats();
    hash.update(`${name} ${t.shape.join(" ")};`);
    hash.update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return `sha256:${hash.digest("hex")}`;
}

/** The same object with its keys in alphabetical order. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, sorted(inner)]));
}
