/**
 * bench/side-by-side.mjs without running a benchmark: its help, its rounds, and how its table speaks of memory.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const bench = new URL("../../../bench/", import.meta.url);

function sideBySide(...args: string[]) {
  return spawnSync(process.execPath, [fileURLToPath(new URL("side-by-side.mjs", bench)), ...args], {
    encoding: "utf8",
  });
}

test("--help names every option and runs nothing; an unknown one is refused", () => {
  const { status, stdout } = sideBySide("--help");
  assert.equal(status, 0);
  for (const name of ["--sections", "--quick", "--rounds", "--threads", "--python", "--table", "--dry-run"]) {
    assert.match(stdout, new RegExp(name));
  }
  assert.match(stdout, /gemm, sae-1, sae-2, sae-3, sae-hierarchical/);
  const unknown = sideBySide("--round", "3");
  assert.equal(unknown.status, 2);
  assert.match(unknown.stderr, /'--round'/);
});

test("every section runs three rounds, one with --quick", () => {
  const commands = (...more: string[]) =>
    sideBySide("--dry-run", "--python", "no-such-python", "--sections", "gemm,sae-3,generate-16", ...more)
      .stdout.split("\n")
      .filter((line) => /cli.main\.js bench/.test(line)).length;
  assert.equal(commands(), 3 * 4); // generation runs with f32 and with f16 weights
  assert.equal(commands("--quick"), 4);
});

test("the table gives the memory of our SAE step with and without the bare product", async () => {
  const [{ SECTIONS }, { render }] = await Promise.all(
    ["sections.mjs", "table.mjs"].map((name) => import(new URL(name, bench).href)),
  );
  const common = { tokens_per_second: 10, step_ms: 5, gemm_ms: 4, gemm_multiple: 1.25 };
  const rounds = [
    {
      sluice: { ...common, peak_rss_steps_mb: 259, peak_rss_mb: 605 },
      "sparsify-topk": { ...common, peak_rss_mb: 799 },
    },
  ];
  const text: string = render(SECTIONS, { "sae-1": { rounds, machine: "m", versions: "v", when: "today" } });
  assert.match(text, /sluice 1\.25, 259 MB \(605 MB with the bare product\); sparsify-topk 1\.25, 799 MB\./);
});
