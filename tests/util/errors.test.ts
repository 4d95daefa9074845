import assert from "node:assert/strict";
import { test } from "node:test";
import {
  didYouMean,
  editDistance,
  errnoOf,
  exitCodeOf,
  formatBytes,
  formatCount,
  formatDuration,
  interruptedError,
  ioError,
  nearestNames,
  SluiceError,
  throwIfAborted,
  usageError,
} from "../../src/util/index.ts";

test("an error of the file system becomes one that says what to do", () => {
  const error = ioError("write out/cfg.json", Object.assign(new Error("no space"), { code: "ENOSPC" }));
  assert.equal(error.code, "io");
  assert.match(
    error.message,
    /^cannot write out\/cfg\.json: the disk is full; free some space.* \(ENOSPC\)$/,
  );
  assert.match(ioError("read x", new Error("odd")).message, /^cannot read x: odd$/);
  const own = usageError("k=0");
  assert.equal(ioError("write x", own), own);
  assert.equal(errnoOf(new Error("plain")), undefined);
});

test("exit codes are 2 for wrong usage, 130 for an interruption, 1 for the rest", () => {
  assert.equal(exitCodeOf(usageError("x")), 2);
  assert.equal(exitCodeOf(interruptedError("x")), 130);
  assert.equal(exitCodeOf(new SluiceError("input", "x")), 1);
  assert.equal(exitCodeOf(new Error("x")), 1);
});

test("a raised signal throws, and says what is saved", () => {
  throwIfAborted(undefined);
  const abort = new AbortController();
  throwIfAborted(abort.signal);
  abort.abort();
  assert.throws(() => throwIfAborted(abort.signal, "step 12 is saved"), /interrupted; step 12 is saved/);
});

test("edit distance counts insertions, deletions, changes and swaps", () => {
  assert.equal(editDistance("", "abc"), 3);
  assert.equal(editDistance("kitten", "sitting"), 3);
  assert.equal(editDistance("resid_psot", "resid_post"), 1);
  assert.equal(editDistance("same", "same"), 0);
});

test("the nearest names come first", () => {
  const hooks = [
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_resid_mid",
    "blocks.0.hook_resid_post",
    "hook_embed",
  ];
  assert.equal(nearestNames("blocks.0.hook_resid_psot", hooks)[0], "blocks.0.hook_resid_post");
  assert.equal(nearestNames("embed", hooks)[0], "hook_embed");
  assert.deepEqual(nearestNames("zzzzzzzz", hooks), []);
  assert.equal(didYouMean("tpok", ["topk", "jumprelu"]), "; did you mean topk?");
  assert.equal(didYouMean("zzzzzzz", ["topk", "jumprelu"]), "; there are: topk, jumprelu");
  assert.equal(didYouMean("x", []), "");
});

test("numbers are short for people", () => {
  assert.deepEqual([0, 7, 950, 12_345, 4_560_000, 1.2e9, -1500].map(formatCount), [
    "0",
    "7",
    "950",
    "12.3k",
    "4.56M",
    "1.20G",
    "-1.50k",
  ]);
  assert.equal(formatCount(0.12345), "0.123");
  assert.deepEqual([0.44, 12, 245, 7620, Number.NaN].map(formatDuration), [
    "0.4s",
    "12s",
    "4m 05s",
    "2h 07m",
    "?",
  ]);
  assert.deepEqual([512, 1_500_000].map(formatBytes), ["512 B", "1.50 MB"]);
});
