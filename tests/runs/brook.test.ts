/**
 * The bundled models: brook and its twin, and the settings that they were trained with.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openSafetensors } from "../../src/formats/index.ts";
import { packageRoot } from "../golden.ts";

const settings = (name: string) => JSON.parse(readFileSync(join(packageRoot(), "runs", name), "utf8"));

test("brook's twin differs in its routed keys and values only: the same tokens, order, sizes and schedule", () => {
  const { kvRouting, routerLr, ...shared } = settings("brook-lime.json");
  assert.deepEqual(shared, settings("brook.json"));
  assert.equal(kvRouting, "learned");
  assert.ok(Math.abs(routerLr * shared.lr - 1e-2) < 1e-12, "routers learn at the paper's rate");
});

test("the twins that ship have one vocabulary and the same parameters, but for the twin's routers", () => {
  const [plain, routed] = ["brook", "brook-lime"].map((name) => {
    const folder = join(packageRoot(), "models", name);
    const weights = openSafetensors(join(folder, "model.safetensors"));
    const shapes = new Map(weights.names().map((tensor) => [tensor, weights.info(tensor).shape]));
    weights.close();
    const text = (file: string) => readFileSync(join(folder, file), "utf8");
    return { config: JSON.parse(text("config.json")), tokenizer: text("tokenizer.json"), shapes };
  });
  const { kv_routing, ...shared } = routed.config;
  assert.equal(kv_routing.kind, "learned");
  const { architectures, model_type, pad_token_id } = shared; // brook's file is from before the padding token was named
  assert.deepEqual(shared, { ...plain.config, architectures, model_type, pad_token_id });
  assert.equal(routed.tokenizer, plain.tokenizer);
  const routers = [...routed.shapes].filter(([name]) => !plain.shapes.has(name));
  assert.deepEqual(
    routers.map(([name, shape]) => `${/lime_router/.test(name)} ${shape}`),
    [2, 3, 4, 5, 6].map((sources) => `true 4,${4 * sources}`),
  );
  for (const [name, shape] of plain.shapes) assert.deepEqual(routed.shapes.get(name), shape, name);
});
