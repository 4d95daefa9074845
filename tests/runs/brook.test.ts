/**
 * The settings of the bundled model and of its twin.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { packageRoot } from "../golden.ts";

const settings = (name: string) => JSON.parse(readFileSync(join(packageRoot(), "runs", name), "utf8"));

test("brook's twin differs in its routed keys and values only: the same tokens, order, sizes and schedule", () => {
  const { kvRouting, routerLr, ...shared } = settings("brook-lime.json");
  assert.deepEqual(shared, settings("brook.json"));
  assert.equal(kvRouting, "learned");
  assert.ok(Math.abs(routerLr * shared.lr - 1e-2) < 1e-12, "routers learn at the paper's rate");
});
