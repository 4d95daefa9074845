#!/usr/bin/env node
/**
 * Memory of a whole `sluice sae train` from activations on disk: peak, what it is besides parameters, two moments, gradients
 * and shuffle buffer, and whether it grows. Run `npm run build` first; Linux only (/proc).
 *   node bench/sae-memory.mjs [--activations DIR | --d 512 --rows 200000] [--features 8192] [--k 32] [--batch 4096]
 *     [--tokens 2000000] [--buffer 131072] [--threads 2] [--checkpoint-minutes 1]
 * Without --activations it writes a store of random rows. The last step always writes a checkpoint, the clock may before.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ActivationWriter, openActivations } from "../dist/src/store/index.js";
import { Rng } from "../dist/src/util/index.js";

const cli = join(dirname(fileURLToPath(import.meta.url)), "..", "dist", "src", "cli", "main.js");
const MB = 2 ** 20;

const { values } = parseArgs({
  options: {
    activations: { type: "string" },
    d: { type: "string", default: "512" },
    rows: { type: "string", default: "200000" },
    features: { type: "string", default: "8192" },
    k: { type: "string", default: "32" },
    batch: { type: "string", default: "4096" },
    tokens: { type: "string", default: "2000000" },
    buffer: { type: "string", default: "131072" },
    threads: { type: "string", default: "2" },
    "checkpoint-minutes": { type: "string", default: "1" },
  },
});

/** A store of normal rows, D wide. */
async function randomStore(folder, width, rows) {
  const writer = await ActivationWriter.open(folder, {
    hook: "random",
    model: { id: "random", hash: "none" },
    width,
    dtype: "f32",
    seed: 0,
    source: "normal numbers",
  });
  const rng = new Rng(0);
  for (let done = 0; done < rows; done += 4096) {
    const n = Math.min(4096, rows - done);
    const zeros = new Int32Array(n);
    const activations = rng.fillNormal(new Float32Array(n * width));
    await writer.append({ activations, tokens: zeros, positions: zeros, documents: zeros });
  }
  await writer.finish();
}

function rssMb(pid) {
  try {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
  } catch {
    return Number.NaN; // it has just ended
  }
}

/** Runs the training; gives its JSON, its memory once a second and the names of the checkpoints that were seen. */
function train(args, out) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cli, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    const samples = [];
    const checkpoints = new Set();
    let stdout = "";
    child.stdout.on("data", (text) => {
      stdout += text;
    });
    const began = performance.now();
    const timer = setInterval(() => {
      const mb = rssMb(child.pid);
      if (mb > 0) samples.push({ minutes: (performance.now() - began) / 60_000, mb });
      try {
        for (const name of readdirSync(join(out, "checkpoints")))
          if (!name.startsWith(".")) checkpoints.add(name);
      } catch {
        return; // none yet
      }
    }, 1000);
    child.on("error", reject);
    child.on("close", (code) => {
      clearInterval(timer);
      if (code === 0) resolve({ result: JSON.parse(stdout), samples, checkpoints: checkpoints.size });
      else reject(new Error(`sae train ended with code ${code}`));
    });
  });
}

/** Least squares, MB a minute; NaN for less than three samples. */
function slope(samples) {
  if (samples.length < 3) return Number.NaN;
  const mean = (f) => samples.reduce((sum, s) => sum + f(s), 0) / samples.length;
  const t = mean((s) => s.minutes);
  const m = mean((s) => s.mb);
  return mean((s) => (s.minutes - t) * (s.mb - m)) / mean((s) => (s.minutes - t) ** 2);
}

const temp = mkdtempSync(join(tmpdir(), "sluice-memory-"));
try {
  const folder = values.activations ?? join(temp, "acts");
  if (!values.activations) await randomStore(folder, Number(values.d), Number(values.rows));
  const store = await openActivations(folder, { verify: false });
  const { width: D, rows } = store;
  store.close();
  const F = Number(values.features);
  const out = join(temp, "sae");
  const names = ["features", "k", "batch", "tokens", "buffer", "threads", "checkpoint-minutes"];
  const flags = names.flatMap((name) => [`--${name}`, values[name]]);
  const args = ["sae", "train", "--activations", folder, ...flags, "--out", out, "--json", "--quiet"];
  const { result, samples, checkpoints } = await train(args, out);
  const parameters = (4 * (2 * F * D + F + D)) / MB;
  const buffer = (4 * D * Math.min(Math.ceil(Number(values.buffer) / 128) * 128, rows)) / MB;
  const known = 4 * parameters + buffer; // parameters, two moments, gradients
  const row = {
    d: D,
    features: F,
    batch: values.batch,
    steps: result.steps,
    checkpoints,
    rss_start_mb: result.rss_start_mb.toFixed(0),
    state_mb: (4 * parameters).toFixed(0),
    buffer_mb: buffer.toFixed(0),
    peak_rss_mb: result.peak_rss_mb.toFixed(0),
    besides_mb: (result.peak_rss_mb - known).toFixed(0),
    mb_per_minute: slope(samples.slice(Math.floor(samples.length / 2))).toFixed(2),
    samples: samples.length,
  };
  console.log(`| ${Object.keys(row).join(" | ")} |`);
  console.log(`|${"---|".repeat(Object.keys(row).length)}`);
  console.log(`| ${Object.values(row).join(" | ")} |`);
} finally {
  rmSync(temp, { recursive: true, force: true });
}
