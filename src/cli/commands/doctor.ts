/**
 * `sluice doctor`: what this machine can do, and what to do about what it cannot.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { access, constants, mkdir } from "node:fs/promises";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { createDevice, type Device, matmul } from "../../tensor/index.ts";
import { buildCommand, loadAddon } from "../../tensor/native/addon.ts";
import { defaultCacheDir, listCorpora } from "../../text/index.ts";
import { formatBytes } from "../../util/index.ts";
import { defineCommand } from "../command.ts";

type State = "ok" | "note" | "bad";

/** One line of the report. */
interface Finding {
  readonly name: string;
  readonly state: State;
  readonly value: string;
  /** The way out, if there is something to do. */
  readonly advice?: string;
}

const OLDEST_NODE = 20;
const COMFORTABLE_MEMORY = 4e9;

function platform(): Finding {
  const model = cpus()[0]?.model.trim() || "unknown processor";
  const value = `${process.platform}-${process.arch}, ${model}, ${availableParallelism()} threads`;
  return { name: "machine", state: "ok", value };
}

function node(): Finding {
  const old = Number(process.versions.node.split(".")[0]) < OLDEST_NODE;
  return {
    name: "node",
    state: old ? "bad" : "ok",
    value: process.versions.node,
    advice: old ? `install Node ${OLDEST_NODE} or newer` : undefined,
  };
}

function memory(): Finding {
  const low = totalmem() < COMFORTABLE_MEMORY;
  return {
    name: "memory",
    state: low ? "note" : "ok",
    value: `${formatBytes(totalmem())} in all, ${formatBytes(freemem())} free`,
    advice: low ? "use a smaller --buffer and fewer --features" : undefined,
  };
}

function compiler(nativeWorks: boolean): Finding {
  for (const name of [process.env.CXX, "c++", "g++", "clang++"].filter((c) => c !== undefined)) {
    const found = spawnSync(name, ["--version"], { encoding: "utf8" });
    if (found.status === 0) return { name: "compiler", state: "ok", value: found.stdout.split("\n")[0] };
  }
  return {
    name: "compiler",
    state: nativeWorks ? "note" : "bad",
    value: "no C++ compiler found",
    advice: nativeWorks
      ? undefined
      : `install one (Debian: apt-get install g++ make python3), then \`${buildCommand()}\``,
  };
}

function kernels(): { finding: Finding; isas: readonly string[] } {
  try {
    const addon = loadAddon();
    const isas = addon.isas();
    const count = Object.keys(addon.kernels()).length;
    const value = `${count} kernels, ${addon.isa()} (usable: ${isas.join(", ")})`;
    return { finding: { name: "native kernels", state: "ok", value }, isas };
  } catch (error) {
    const advice = `run \`${buildCommand()}\`; until then commands compute with the slow reference loops, and benchmarks do not run`;
    const value = (error as Error).message.split("\n")[0];
    return { finding: { name: "native kernels", state: "bad", value, advice }, isas: [] };
  }
}

/** Best of a few 1024³ products in GFLOP/s, two operations per multiply-add; the result is read back each time. */
async function gemmSpeed(device: Device): Promise<number> {
  const n = 1024;
  const ones = new Float32Array(n * n).fill(1);
  const a = device.tensor(ones, [n, n]);
  let best = 0;
  for (let i = 0; i < 6; i++) {
    const began = performance.now();
    const product = matmul(a, a);
    await device.read(product);
    best = Math.max(best, (2 * n ** 3) / (performance.now() - began) / 1e6);
    product.dispose();
  }
  a.dispose();
  return best;
}

async function speed(threads: number): Promise<Finding> {
  try {
    const device = await createDevice({ backend: "native", threads });
    const value = `${(await gemmSpeed(device)).toFixed(0)} GFLOP/s (f32 product 1024³, ${threads} threads, best of 6)`;
    device.close();
    return { name: "speed", state: "ok", value };
  } catch (error) {
    return { name: "speed", state: "bad", value: `not measured: ${(error as Error).message}` };
  }
}

async function texts(): Promise<Finding[]> {
  const folder = defaultCacheDir();
  const names = listCorpora().map((corpus) => corpus.name);
  const there = names.filter((name) => existsSync(join(folder, "corpora", `${name}.json`)));
  const corpora: Finding = {
    name: "texts",
    state: "ok",
    value: `${there.length} of ${names.length} corpora prepared${there.length > 0 ? `: ${there.join(", ")}` : ""}`,
  };
  const writable = await mkdir(folder, { recursive: true })
    .then(() => access(folder, constants.W_OK))
    .then(
      () => true,
      () => false,
    );
  const cache: Finding = writable
    ? { name: "cache", state: "ok", value: folder }
    : {
        name: "cache",
        state: "bad",
        value: `${folder} is not writable`,
        advice: "set SLUICE_CACHE to a folder that is",
      };
  return [corpora, cache];
}

const MARK: Record<State, string> = { ok: "✓", note: "·", bad: "✗" };

function asText(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map((f) => f.name.length));
  const indent = " ".repeat(width + 4);
  const lines = findings.map(({ name, state, value, advice }) => {
    const line = `${MARK[state]} ${name.padEnd(width)}  ${value}`;
    return advice ? `${line}\n${indent}→ ${advice}` : line;
  });
  const bad = findings.filter((f) => f.state === "bad").length;
  const verdict =
    bad === 0 ? "All is well. Try: sluice --help" : `${bad} of ${findings.length} need attention (✗).`;
  return [...lines, "", verdict].join("\n");
}

export const doctor = defineCommand({
  name: "doctor",
  summary: "what this machine can do: kernels, threads, memory, compiler, texts",
  description:
    "Looks at the platform, Node, the native kernels and the instruction sets they may use, memory, the compiler and " +
    "the cache of texts, measures one matrix product, and says what to do about what is missing. " +
    "Ends with exit code 1 if something needs attention.",
  schema: z.object({
    measure: z.boolean().default(true).describe("measure the speed of a matrix product (about a second)"),
    threads: z
      .number()
      .int()
      .min(1)
      .optional()
      .describe("threads for the measurement (default: all that the machine offers)"),
  }),
  examples: ["sluice doctor", "sluice doctor --json --no-measure"],
  async run({ measure, threads }) {
    const native = kernels();
    const works = native.finding.state === "ok";
    const findings = [platform(), node(), memory(), native.finding, compiler(works)];
    if (measure && works) findings.push(await speed(threads ?? availableParallelism()));
    findings.push(...(await texts()));
    const failed = findings.some((f) => f.state === "bad");
    const checks = Object.fromEntries(findings.map(({ name, ...rest }) => [name.replaceAll(" ", "_"), rest]));
    return { json: { ok: !failed, isas: native.isas, checks }, text: asText(findings), failed };
  },
});
