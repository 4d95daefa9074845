/**
 * Damaged and hostile files of every format: whatever is done to the bytes, reading them ends in a SluiceError or in an SAE.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { parsePickle, writeZip, ZipFile } from "../../src/formats/index.ts";
import {
  createSae,
  disposeSae,
  loadSae,
  mapParams,
  paramShapes,
  saeConfig,
  saveSae,
} from "../../src/sae/index.ts";
import type { Device } from "../../src/tensor/index.ts";
import { Rng, SluiceError } from "../../src/util/index.ts";
import { temporaryFolder } from "../temporary.ts";
import { withDevice } from "./helpers.ts";

const fixtures = fileURLToPath(new URL("../../../tests/fixtures/formats/", import.meta.url));

/** Every folder of fixtures with files of an SAE in it. */
function folders(): string[] {
  const all = fs.readdirSync(fixtures, { recursive: true, withFileTypes: true });
  const found = all
    .filter((e) => e.isFile() && /\.(pt|npz|safetensors)$/.test(e.name))
    .map((e) => e.parentPath);
  return [...new Set(found)].filter((folder) => !/expected|refused/.test(folder)).sort();
}

const INTERESTING = [0, 1, 0x7f, 0x80, 0xff, 0x2e, 0x52, 0x63, 0x62];

/** One random change: flipped bits, other bytes, a cut, a copied or removed stretch, a large number. */
function mutate(bytes: Buffer, rng: Rng): Buffer {
  const out = Buffer.from(bytes);
  const at = rng.int(out.length);
  switch (rng.int(6)) {
    case 0:
      for (let i = 0; i < 1 + rng.int(4); i++) out[rng.int(out.length)] ^= 1 << rng.int(8);
      return out;
    case 1:
      out[at] = INTERESTING[rng.int(INTERESTING.length)];
      return out;
    case 2:
      return out.subarray(0, at);
    case 3:
      return Buffer.concat([out.subarray(0, at), out.subarray(rng.int(out.length))]);
    case 4:
      return Buffer.concat([out.subarray(0, at), out.subarray(at, at + 40), out.subarray(at)]);
    default:
      if (at + 8 <= out.length) out.writeBigUInt64LE(2n ** BigInt(rng.int(64)), at);
      return out;
  }
}

/** Stands for lists in lists, deeper than JSON.stringify can go. */
const DEEP = "@deep";
const HOSTILE = [null, -1, 0, 1e308, 2 ** 53, 1.5, "x", [], {}, true, "__proto__", [[[]]], DEEP];

/** A config with one value replaced, at any depth. */
function mutateJson(text: string, rng: Rng): string {
  const root = JSON.parse(text) as Record<string, unknown>;
  let target = root;
  for (;;) {
    const keys = Object.keys(target);
    if (keys.length === 0) break;
    const key = keys[rng.int(keys.length)];
    const inner = target[key];
    if (typeof inner !== "object" || inner === null || rng.int(4) === 0) {
      target[key] = HOSTILE[rng.int(HOSTILE.length)];
      break;
    }
    target = inner as Record<string, unknown>;
  }
  return JSON.stringify(root).replace(`"${DEEP}"`, "[".repeat(50_000) + "]".repeat(50_000));
}

/** 1 if an SAE came out; anything but a SluiceError fails. */
async function attempt(device: Device, folder: string, what: string): Promise<number> {
  try {
    const { sae } = await loadSae(device, folder, { lossy: true });
    const shapes = paramShapes(sae.config);
    mapParams(sae.params, (t, name) => assert.deepEqual(t.shape, shapes[name], name));
    disposeSae(sae);
    return 1;
  } catch (error) {
    assert.ok(error instanceof SluiceError, `${what}: ${(error as Error).stack}`);
    assert.ok(error.message.length > 20 && error.message.length < 2000, `${what}: ${error.message}`);
    return 0;
  }
}

/** An SAE that only our own keys describe. */
async function writeKron(device: Device, folder: string): Promise<void> {
  const encoder = { kind: "kron", m: 2, n: 2, product: "mand" } as const;
  const config = saeConfig({ dIn: 4, features: 8, encoder, activation: { kind: "topk", k: 2 } });
  const sae = createSae(device, config, { rng: new Rng(1) });
  await saveSae(folder, sae);
  disposeSae(sae);
}

test("mutated files of every format end in a clear error or in an SAE", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const rng = new Rng(20240);
    const begin = Date.now();
    let read = 0;
    let tried = 0;
    const own = path.join(temp.path, "own");
    await writeKron(device, own);
    for (let round = 0; round < 40 && Date.now() - begin < 5000; round++) {
      for (const folder of [...folders(), own]) {
        const files = fs.readdirSync(folder).filter((name) => fs.statSync(path.join(folder, name)).isFile());
        const copy = path.join(temp.path, folder === own ? "copy" : path.relative(fixtures, folder));
        if (round === 0) {
          fs.cpSync(folder, copy, { recursive: true });
          const hyper = path.join(folder, "../hyperparams.json");
          if (fs.existsSync(hyper)) fs.copyFileSync(hyper, path.join(copy, "../hyperparams.json"));
        }
        const name = files[rng.int(files.length)];
        const original = fs.readFileSync(path.join(folder, name));
        const json = name.endsWith(".json") && rng.int(4) > 0;
        const changed = json ? Buffer.from(mutateJson(original.toString(), rng)) : mutate(original, rng);
        fs.writeFileSync(path.join(copy, name), changed);
        tried++;
        read += await attempt(device, copy, `round ${round}, ${path.relative(fixtures, folder)}/${name}`);
        fs.writeFileSync(path.join(copy, name), original);
      }
    }
    assert.ok(tried > 40, `only ${tried} files were tried`);
    assert.ok(read > 0 && read < tried, `${read} of ${tried} could be read`);
  }));

test("mutated pickles in archives that are whole end in a clear error or in an SAE", () =>
  withDevice("native", async (device) => {
    using temp = temporaryFolder();
    const rng = new Rng(7);
    const begin = Date.now();
    const zip = new ZipFile(path.join(fixtures, "dl-gated/ae.pt"));
    const entries = zip.names().map((name) => [name, Buffer.from(zip.read(name))] as const);
    zip.close();
    const config = path.join(fixtures, "dl-gated/config.json");
    fs.copyFileSync(config, path.join(temp.path, "config.json"));
    let read = 0;
    let tried = 0;
    for (let round = 0; round < 100 && Date.now() - begin < 2500; round++) {
      const changed = entries.map(
        ([name, bytes]) => [name, name.endsWith(".pkl") ? mutate(bytes, rng) : bytes] as const,
      );
      await writeZip(path.join(temp.path, "ae.pt"), changed);
      read += await attempt(device, temp.path, `round ${round}`);
      tried++;
    }
    assert.ok(read > 0 && read < tried, `${read} of ${tried} could be read`);
  }));

test("random opcodes never get out of the pickle reader", () => {
  const rng = new Rng(3);
  let read = 0;
  const known = [..."(NKMJGX]})\x85\x86\x87taeusqrhjcRQb.\x88\x89\x8a"].map((c) => c.charCodeAt(0));
  for (let round = 0; round < 5_000; round++) {
    const bytes = Buffer.from(
      Array.from({ length: 1 + rng.int(40) }, () =>
        rng.int(3) > 0 ? known[rng.int(known.length)] : rng.int(256),
      ),
    );
    try {
      parsePickle("f", bytes);
      read++;
    } catch (error) {
      assert.ok(error instanceof SluiceError, `${bytes.toString("hex")}: ${(error as Error).stack}`);
    }
  }
  assert.ok(read > 0, "some are pickles");
});
