/**
 * Builds the C++ kernels with node-gyp; part of `npm install`, so it never fails the installation: without a compiler
 * it says what that means and exits 0. --force (`npm run native`) builds even when up to date, and exits 1 if that
 * fails. SLUICE_SKIP_NATIVE=1 skips.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const nativeDir = join(root, "native");
const builtFile = join(nativeDir, "build", "Release", "sluice_native.node");

/** In a clone there is the script `native`; an installed package is rebuilt by npm. */
const again = root.split(sep).includes("node_modules") ? "npm rebuild sluice" : "npm run native";
const forced = process.argv.includes("--force");

/** The command that runs node-gyp: npm's own copy, a local one, or whatever npx finds without the network. */
function nodeGyp() {
  const scripts = [process.env.npm_config_node_gyp];
  const npmDirs = [process.env.npm_execpath && join(dirname(process.env.npm_execpath), "..")];
  const prefix = dirname(process.execPath);
  npmDirs.push(join(prefix, "..", "lib", "node_modules", "npm"), join(prefix, "node_modules", "npm"));
  for (const dir of npmDirs)
    if (dir) scripts.push(join(dir, "node_modules", "node-gyp", "bin", "node-gyp.js"));
  scripts.push(join(root, "node_modules", "node-gyp", "bin", "node-gyp.js"));
  const script = scripts.find((s) => s?.endsWith(".js") && existsSync(s));
  if (script) return [process.execPath, script];
  return [process.platform === "win32" ? "npx.cmd" : "npx", "--no-install", "node-gyp"];
}

function upToDate() {
  if (!existsSync(builtFile)) return false;
  const built = statSync(builtFile).mtimeMs;
  const sources = readdirSync(join(nativeDir, "src")).map((name) => join(nativeDir, "src", name));
  return [join(nativeDir, "binding.gyp"), ...sources].every((path) => statSync(path).mtimeMs <= built);
}

function build() {
  const [command, ...args] = nodeGyp();
  // Not `rebuild`: the old addon stays usable until the new one replaces it.
  args.push("configure", "build", "--release", `--jobs=${Math.max(1, Math.min(8, cpus().length))}`);
  // Headers beside the running node spare a download.
  const prefix = join(dirname(process.execPath), "..");
  if (existsSync(join(prefix, "include", "node", "node_api.h"))) args.push(`--nodedir=${prefix}`);
  const result = spawnSync(command, args, { cwd: nativeDir, encoding: "utf8", maxBuffer: 1 << 26 });
  if (result.status === 0 && existsSync(builtFile)) return null;
  const output = `${result.stdout ?? ""}\n${result.stderr ?? ""}`;
  if (process.env.SLUICE_NATIVE_VERBOSE) console.error(output);
  const lines = output.split("\n");
  const telling = [/\berror: /, /not found|No such file/, /ERR! (stack|find)/, /ERR!/];
  const line = telling.map((pattern) => lines.find((l) => pattern.test(l))).find((l) => l !== undefined);
  const reason = result.error?.message ?? line ?? `node-gyp ended with ${result.status ?? result.signal}`;
  return reason.replace(/^gyp ERR! (stack )?/, "").trim();
}

if (process.env.SLUICE_SKIP_NATIVE === "1") {
  console.log(`sluice: native kernels skipped (SLUICE_SKIP_NATIVE=1); build them later with \`${again}\`.`);
} else if (upToDate() && !forced) {
  console.log("sluice: native kernels are up to date.");
} else {
  const started = Date.now();
  const failure = build();
  if (failure === null) {
    console.log(`sluice: native kernels built in ${((Date.now() - started) / 1000).toFixed(0)} s.`);
  } else {
    console.error(
      `sluice: the native kernels could not be built (${failure}); without them sluice computes with reference loops, ` +
        `slowly: install a C++17 compiler, make and Python 3, then run \`${again}\` ` +
        "(SLUICE_NATIVE_VERBOSE=1 shows the compiler's output).",
    );
    if (forced) process.exitCode = 1;
  }
}
