/**
 * What a user would get: the packed files, the entry points, the declared dependencies.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (name: string): string => readFileSync(join(root, name), "utf8");
const manifest = JSON.parse(read("package.json"));

interface Packed {
  readonly size: number;
  readonly files: readonly { readonly path: string }[];
}

function pack(): Packed {
  const args = ["pack", "--dry-run", "--json", "--ignore-scripts"];
  const text = execFileSync("npm", args, {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const parsed = JSON.parse(text);
  return Array.isArray(parsed) ? parsed[0] : (Object.values(parsed)[0] as Packed);
}

test("every entry point of package.json exists after the build, with its types", () => {
  for (const [name, target] of Object.entries<string>(manifest.exports)) {
    assert.ok(existsSync(join(root, target)), `${name}: ${target} is missing`);
    if (target.endsWith(".js")) {
      assert.ok(existsSync(join(root, target.replace(/\.js$/, ".d.ts"))), `${name}: no declarations`);
    }
  }
});

test("the binary starts with a hashbang", () => {
  assert.ok(read(manifest.bin.sluice).startsWith("#!/usr/bin/env node\n"));
});

test("the package contains what it needs at run time, and no tests, caches or outputs", () => {
  const packed = pack();
  const paths = packed.files.map((file) => file.path);
  for (const needed of [
    "LICENSE",
    "README.md",
    "dist/src/cli/main.js",
    "dist/src/report/page.js",
    "native/binding.gyp",
    "scripts/build-native.mjs",
  ]) {
    assert.ok(paths.includes(needed), `${needed} is not packed`);
  }
  const unwanted = paths.filter((path) =>
    /^(dist\/)?(tests|bench|examples|out|runs)\/|native\/build/.test(path),
  );
  assert.deepEqual(unwanted, []);
  assert.ok(packed.size < 25e6, `the package is ${packed.size} bytes`);
});

test("what src imports is declared as a dependency, and every dependency is imported", () => {
  const used = new Set<string>();
  for (const name of readdirSync(join(root, "src"), { recursive: true })) {
    const file = String(name);
    if (!file.endsWith(".ts") || file.startsWith(join("report", "page"))) continue;
    const program = read(join("src", file)).replace(/(?:\\`){3}[\s\S]*?(?:\\`){3}/g, ""); // without the examples it prints
    const statements = program.matchAll(
      /^\s*(?:import|export)\s(?:[^"';]*?\sfrom\s+)?["']([^"'\n]+)["']|\bimport\(\s*["']([^"'\n]+)["']/gm,
    );
    for (const [, fixed, dynamic] of statements) {
      const specifier = fixed ?? dynamic;
      if (specifier.startsWith(".") || specifier.startsWith("node:")) continue;
      assert.ok(!builtinModules.includes(specifier), `${file}: write node:${specifier}`);
      used.add(
        specifier
          .split("/")
          .slice(0, specifier.startsWith("@") ? 2 : 1)
          .join("/"),
      );
    }
  }
  assert.deepEqual([...used].sort(), Object.keys(manifest.dependencies).sort());
});

test("the lock file names no download host and agrees with package.json", () => {
  const lock = JSON.parse(read("package-lock.json"));
  const hosts = Object.entries<{ resolved?: string }>(lock.packages).filter(([, entry]) =>
    entry.resolved?.startsWith("http"),
  );
  assert.deepEqual(hosts, []);
  const self = lock.packages[""];
  assert.equal(self.version, manifest.version);
  assert.deepEqual(self.dependencies, manifest.dependencies);
  assert.deepEqual(self.devDependencies, manifest.devDependencies);
});

test("no dependency runs a script of its own at installation", () => {
  const lock = JSON.parse(read("package-lock.json"));
  const scripts = Object.entries<{ hasInstallScript?: boolean }>(lock.packages)
    .filter(([name, entry]) => name !== "" && entry.hasInstallScript)
    .map(([name]) => name.replace("node_modules/", ""));
  const denied = Object.keys(manifest.allowScripts ?? {}).filter(
    (name) => manifest.allowScripts[name] === false,
  );
  assert.deepEqual(scripts.sort(), denied.sort());
});
