#!/usr/bin/env node
/**
 * Runs sluice and the PyTorch peers in turn on this machine and writes the table of README.md; --help has the options.
 * Sections that were not run keep their last results (results.jsonl), so a table can be made piece by piece.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { SECTIONS } from "./sections.mjs";
import { render } from "./table.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const cli = join(here, "..", "dist", "src", "cli", "main.js");
const resultsFile = join(here, "results.jsonl");
const readme = join(here, "README.md");
const TIMEOUT_MS = 240_000;
const ROUNDS = { full: 3, quick: 1 };

const HELP = `Usage: node bench/side-by-side.mjs [options]

Runs sluice and the PyTorch peers in turn and writes the table of bench/README.md.

  --sections <a,b,…>  only these; the others keep their last results:
                      ${SECTIONS.map((s) => s.name).join(", ")}
  --quick             ${ROUNDS.quick} round of the smaller sections, with fewer steps
  --all               the plain PyTorch model too where Hugging Face's is there
  --rounds <n>        rounds of each section (default: ${ROUNDS.full}; with --quick ${ROUNDS.quick})
  --threads <n>       threads of every program (default: 2)
  --python <path>     interpreter of the peers (default: bench/venv/bin/python, or python3)
  --table             run nothing, write the table anew
  --dry-run           run nothing, print the commands
  -h, --help          show this help
`;

const { values: options } = readOptions({
  quick: { type: "boolean", default: false },
  all: { type: "boolean", default: false },
  sections: { type: "string" },
  rounds: { type: "string" },
  threads: { type: "string", default: "2" },
  python: { type: "string" },
  table: { type: "boolean", default: false },
  "dry-run": { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
});
if (options.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

function readOptions(known) {
  try {
    return parseArgs({ options: known });
  } catch (error) {
    console.error(`${error.message}\n\n${HELP}`);
    process.exit(2);
  }
}

const venv = join(here, "venv", "bin", "python");
const python = options.python ?? (existsSync(venv) ? venv : "python3");

/** Version of a Python package, or undefined. */
function versionOf(name) {
  const code = `import ${name}; print(${name}.__version__)`;
  const { status, stdout } = spawnSync(python, ["-c", code], { encoding: "utf8" });
  return status === 0 ? stdout.trim().split("\n").at(-1) : undefined;
}

const versions = Object.fromEntries(
  ["torch", "numpy", "transformers"].map((name) => [name, versionOf(name)]),
);
const [major, minor] = (versions.torch ?? "0.0").split(".").map(Number);
const setup = {
  quick: options.quick,
  all: options.all,
  transformers: versions.transformers !== undefined && versions.torch !== undefined,
  /** Adam can be fused on a CPU from PyTorch 2.4 on. */
  oldTorch: versions.torch !== undefined && (major < 2 || (major === 2 && minor < 4)),
};

function commandOf({ sluice, python: script }) {
  const common = ["--threads", options.threads, "--json"];
  if (sluice) return [process.execPath, [cli, "bench", ...sluice, ...common]];
  return [python, [join(here, script.file), ...script.args, ...common]];
}

/** The JSON line that a program prints, or undefined with a line that says why. */
function runProgram(program) {
  const [command, args] = commandOf(program);
  if (options["dry-run"]) {
    console.log(`  ${command} ${args.join(" ")}`);
    return undefined;
  }
  const began = performance.now();
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
    maxBuffer: 1 << 26,
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1", HF_HUB_OFFLINE: "1" },
  });
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  if (status !== 0) {
    const reason = error?.message ?? stderr.trim().split("\n").at(-1);
    console.log(`  ${program.label}: failed after ${seconds} s: ${reason}`);
    return undefined;
  }
  const record = JSON.parse(stdout.trim().split("\n").at(-1));
  console.log(`  ${program.label}: ${seconds} s, others ${record.other_busy_cpus ?? "?"} CPUs`);
  return record;
}

/** Programs whose packages are there; says which are left out. */
function runnable(programs) {
  return programs.filter(({ label, needs = [] }) => {
    const missing = needs.filter((name) => versions[name] === undefined);
    if (missing.length > 0) console.log(`  ${label}: left out, ${python} has no ${missing.join(", ")}`);
    return missing.length === 0;
  });
}

/** Every other round runs backwards, so that no program always comes first; `once` programs run in the first only. */
function runSection(section) {
  const count = Number(options.rounds ?? ROUNDS[options.quick ? "quick" : "full"]);
  const programs = runnable(section.programs(setup));
  const rounds = [];
  for (let i = 0; i < count; i++) {
    const records = {};
    const order = i % 2 ? [...programs].reverse() : programs;
    for (const program of order.filter(({ once }) => !once || i === 0)) {
      const record = runProgram(program);
      if (record) records[program.label] = record;
    }
    if (Object.keys(records).length > 0) rounds.push(records);
  }
  return rounds;
}

/** Short hash, with `-dirty` if a tracked file differs from it, other than those that this script writes. */
function commitOf(folder) {
  const git = (...args) => spawnSync("git", ["-C", folder, ...args], { encoding: "utf8" }).stdout?.trim();
  const hash = git("rev-parse", "--short", "HEAD");
  const own = [":!bench/results.jsonl", ":!bench/README.md"];
  const changed = hash && git("status", "--porcelain", "--untracked-files=no", "--", ".", ...own);
  return changed ? `${hash}-dirty` : hash;
}

/** Results by section; one line of the file each. */
function readResults() {
  if (!existsSync(resultsFile)) return {};
  const lines = readFileSync(resultsFile, "utf8").split("\n").filter(Boolean);
  return Object.fromEntries(lines.map((line) => JSON.parse(line)).map((result) => [result.section, result]));
}

function writeResults(results) {
  const lines = SECTIONS.filter(({ name }) => results[name]).map(({ name }) => JSON.stringify(results[name]));
  writeFileSync(resultsFile, `${lines.join("\n")}\n`);
}

function writeTable(results) {
  const [start, end] = ["<!-- table -->", "<!-- /table -->"];
  const text = readFileSync(readme, "utf8");
  const [a, b] = [text.indexOf(start), text.indexOf(end)];
  if (a < 0 || b < a) throw new Error(`${readme}: the markers ${start} and ${end} are missing`);
  writeFileSync(
    readme,
    `${text.slice(0, a + start.length)}\n\n${render(SECTIONS, results)}\n\n${text.slice(b)}`,
  );
}

const wanted =
  options.sections?.split(",") ??
  SECTIONS.filter((s) => !options.quick || s.inQuick !== false).map((s) => s.name);
const unknown = wanted.filter((name) => !SECTIONS.some((s) => s.name === name));
if (unknown.length > 0) {
  console.error(
    `unknown section ${unknown.join(", ")}; there are: ${SECTIONS.map((s) => s.name).join(", ")}`,
  );
  process.exit(2);
}
if (!existsSync(cli)) {
  console.error("sluice is not built: run `npm ci` or `npm run build` first");
  process.exit(2);
}

const results = readResults();
const machine = `${cpus().length} × ${cpus()[0].model.trim()}, ${Math.round(totalmem() / 1e9)} GB, ${options.threads} threads`;
const commit = commitOf(join(here, ".."));
const named = Object.entries(versions)
  .filter(([, version]) => version)
  .map(([name, version]) => `${name} ${version}`);
if (commit) named.unshift(`sluice ${commit}`);
console.log(`${machine}; ${named.join(", ")}`);

if (options.table) {
  writeTable(results);
  process.exit(0);
}
const began = performance.now();
for (const section of SECTIONS.filter(({ name }) => wanted.includes(name))) {
  console.log(section.title);
  const rounds = runSection(section);
  if (rounds.length === 0) continue;
  const when = new Date().toISOString().slice(0, 10);
  results[section.name] = { section: section.name, when, machine, versions: named.join(", "), rounds };
  writeResults(results);
  writeTable(results);
}
console.log(`${((performance.now() - began) / 60_000).toFixed(1)} minutes; the table is in bench/README.md`);
