/**
 * The environment variables of Python's huggingface_hub.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { hubSettings } from "../../src/hub/index.ts";
import { temporaryFolder } from "../temporary.ts";

const NAMES = [
  "HF_HOME",
  "HF_HUB_CACHE",
  "HUGGINGFACE_HUB_CACHE",
  "HF_TOKEN",
  "HUGGING_FACE_HUB_TOKEN",
  "HF_TOKEN_PATH",
  "HF_ENDPOINT",
  "HF_HUB_OFFLINE",
  "TRANSFORMERS_OFFLINE",
  "XDG_CACHE_HOME",
];

/** The settings under these variables and none else. */
function under(variables: Readonly<Record<string, string>>) {
  const before = NAMES.map((name) => [name, process.env[name]] as const);
  for (const name of NAMES) delete process.env[name];
  Object.assign(process.env, variables);
  try {
    return hubSettings();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}

test("the cache is HF_HUB_CACHE, else hub in HF_HOME, else in the user's cache", () => {
  assert.equal(under({ HF_HUB_CACHE: "/a", HF_HOME: "/b" }).cacheDir, "/a");
  assert.equal(under({ HF_HOME: "/b" }).cacheDir, join("/b", "hub"));
  assert.equal(under({ HF_HUB_CACHE: "~/c" }).cacheDir, join(homedir(), "c"));
  assert.equal(under({ XDG_CACHE_HOME: "/x" }).cacheDir, join("/x", "huggingface", "hub"));
  assert.equal(under({}).cacheDir, join(homedir(), ".cache", "huggingface", "hub"));
});

test("the token is HF_TOKEN, else that of the token file", () => {
  using temp = temporaryFolder();
  mkdirSync(join(temp.path, "home"));
  writeFileSync(join(temp.path, "home", "token"), "hf_file\n");
  writeFileSync(join(temp.path, "other"), "hf_other");
  const HF_HOME = join(temp.path, "home");
  assert.equal(under({ HF_HOME, HF_TOKEN: " hf_env\n" }).token, "hf_env");
  assert.equal(under({ HF_HOME }).token, "hf_file");
  assert.equal(under({ HF_HOME, HF_TOKEN_PATH: join(temp.path, "other") }).token, "hf_other");
  assert.equal(under({ HF_HOME: temp.path }).token, undefined);
  assert.throws(() => under({ HF_TOKEN: "hf_ä" }), /the token of the hub .* signs that no token has/);
  assert.throws(() => under({ HF_TOKEN: "hf a" }), /the token of the hub .* holds blanks/);
});

test("HF_ENDPOINT is an address; HF_HUB_OFFLINE is 1, true, yes or on", () => {
  assert.equal(under({ HF_ENDPOINT: "http://localhost:1/" }).endpoint, "http://localhost:1");
  assert.throws(() => under({ HF_ENDPOINT: "localhost" }), /HF_ENDPOINT=localhost: an address was expected/);
  for (const value of ["1", "true", "YES", "on"]) assert.ok(under({ HF_HUB_OFFLINE: value }).offline);
  for (const value of ["0", "false", ""]) assert.ok(!under({ HF_HUB_OFFLINE: value }).offline);
});
