/**
 * Bundles the browser scripts of the reports (src/report/page) with Observable Plot into dist/src/report/page.js and
 * sweep-page.js, which the pages inline. The licences of what is bundled stand at its head, because every report carries a copy.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = new URL("../", import.meta.url);
const path = (name) => fileURLToPath(new URL(name, root));

async function licence(name) {
  const text = await readFile(path(`node_modules/${name}/LICENSE`), "utf8");
  return `${name}\n${text.trim()}`;
}

const notices = await Promise.all(["@observablehq/plot", "d3"].map(licence));
await build({
  entryPoints: { page: path("src/report/page/main.ts"), "sweep-page": path("src/report/page/sweep.ts") },
  outdir: path("dist/src/report"),
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  banner: { js: `/* Contains:\n${notices.join("\n\n").replaceAll("*/", "* /")}\n*/` },
  logLevel: "warning",
});
