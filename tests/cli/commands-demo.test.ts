/**
 * The demo on a model of two thousand parameters: its numbers, its page in a browser, and what it does when run again.
 */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { METRIC_NAMES, type PageData } from "../../src/report/index.ts";
import { tinyWorld } from "../recipes/tiny.ts";
import { findChromium, launch } from "../report/browser.ts";
import { type TemporaryFolder, temporaryFolder } from "../temporary.ts";
import { type Ran, sluice } from "./sluice.ts";

let temp: TemporaryFolder;
let world: { model: string; text: string };
let out: string;
before(async () => {
  temp = temporaryFolder();
  const { cache, ...rest } = await tinyWorld(temp.path);
  world = rest;
  out = path.join(temp.path, "demo");
  process.env.SLUICE_CACHE = cache;
});
after(() => temp[Symbol.dispose]());

const FEATURES = 48;

function demo(folder: string, ...more: string[]): Promise<Ran> {
  const size = [
    "--hook",
    "blocks.1.hook_resid_post",
    "--features",
    String(FEATURES),
    "--k",
    "4",
    "--batch",
    "64",
  ];
  const lengths = ["--eval-tokens", "300", "--read-tokens", "3000", "--buffer", "1024", "--cards", "8"];
  const source = ["--model", world.model, "--text", world.text];
  return sluice([
    "demo",
    ...source,
    ...size,
    ...lengths,
    "--tokens",
    "6400",
    "--out",
    folder,
    "--json",
    ...more,
  ]);
}

const pageData = (folder: string): PageData => {
  const page = fs.readFileSync(path.join(folder, "report.html"), "utf8");
  const json = /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)?.[1];
  return JSON.parse(json ?? "null") as PageData;
};

type Metrics = Record<string, number>;
const metricsIn = (folder: string): Metrics & { budgets: Metrics[] } =>
  JSON.parse(fs.readFileSync(path.join(folder, "metrics.json"), "utf8"));

test("writes metrics of every name, the SAE, and a page whose cards hold real passages", async () => {
  const ran = await demo(out);
  assert.equal(ran.code, 0, ran.stderr);
  const metrics = metricsIn(out);
  for (const name of METRIC_NAMES) assert.ok(Number.isFinite(metrics[name]), name);
  assert.ok(metrics.explained_variance > 0.3, `explained variance ${metrics.explained_variance}`);
  assert.equal(JSON.parse(ran.stdout).explained_variance, metrics.explained_variance);
  assert.ok(fs.existsSync(path.join(out, "sae", "sae_weights.safetensors")));

  const { cards, density, curves } = pageData(out);
  assert.ok(cards.length > 0 && cards.length <= 8);
  assert.equal(density.counts.reduce((a, b) => a + b, 0) + density.never, FEATURES);
  assert.ok((curves?.tokens.length ?? 0) >= 10);
  const words = fs.readFileSync(world.text, "utf8");
  for (const card of cards) {
    assert.ok(card.density > 0 && card.density <= 1);
    assert.ok(card.promoted.length > 0 && card.suppressed.length > 0);
    const peaks = card.contexts.map(({ activations }) => Math.max(...activations));
    assert.ok(Math.abs(peaks[0] - card.maxActivation) < 1e-5 * card.maxActivation, "the largest comes first");
    assert.deepEqual(
      peaks,
      peaks.toSorted((a, b) => b - a),
    );
    for (const { tokens } of card.contexts) {
      const passage = tokens.map((token) => (typeof token === "string" ? token : "")).join("");
      assert.ok(words.includes(passage), `not in the text: ${passage}`);
    }
  }
});

test("one SAE is measured at k and its halves: more features keep more, and the top names its k", () => {
  const { budgets, ...top } = metricsIn(out);
  assert.deepEqual(
    budgets.map(({ k }) => k),
    [1, 2, 4],
  );
  assert.deepEqual(top, budgets[2], "the largest that is not above 32");
  for (const [i, metrics] of budgets.entries()) {
    for (const name of METRIC_NAMES) assert.ok(Number.isFinite(metrics[name]), name);
    assert.ok(
      metrics.l0 <= metrics.k && metrics.l0 > 0.9 * metrics.k,
      `L0 ${metrics.l0} at k = ${metrics.k}`,
    );
    assert.equal(metrics.ce_clean, top.ce_clean);
    if (i > 0) assert.ok(metrics.explained_variance > budgets[i - 1].explained_variance);
  }
});

test("cards know what each k leaves of a feature", () => {
  const { k, budgets = [], cards } = pageData(out);
  assert.equal(k, 4);
  assert.deepEqual(
    budgets.map((budget) => budget.k),
    [1, 2, 4],
  );
  let fewer = 0;
  for (const { density, maxActivation, activations, contexts, budgets = [] } of cards) {
    assert.deepEqual(
      budgets.map((b) => b.density),
      budgets.map((b) => b.density).toSorted((a, b) => a - b),
      "a larger k adds tokens",
    );
    assert.deepEqual(budgets[2], { density, maxActivation, counts: activations.counts });
    if (budgets[0].density < density) fewer++;
    for (const { activations, ranks = [] } of contexts) {
      activations.forEach((value, i) => {
        assert.ok(
          value > 0 ? ranks[i] >= 1 && ranks[i] <= 4 : ranks[i] === 0,
          `${value} has rank ${ranks[i]}`,
        );
      });
    }
  }
  assert.ok(fewer > 0, "some feature is not always the strongest");
});

test("the page stands in a browser, without an error or a request", { skip: !findChromium() }, async () => {
  const browser = await launch(findChromium() as string);
  try {
    const page = await browser.newPage();
    const troubles: string[] = [];
    page.on("pageerror", (error) => troubles.push(String(error)));
    page.on("console", (message) => {
      if (message.type() !== "log") troubles.push(message.text());
    });
    const url = pathToFileURL(path.join(out, "report.html")).href;
    page.on("request", (request) => {
      if (request.url() !== url) troubles.push(request.url());
    });
    await page.goto(url);
    await page.waitForSelector(".chart svg");
    assert.equal(await page.locator(".card").count(), pageData(out).cards.length);
    assert.ok((await page.locator("mark.peak").count()) > 0);
    assert.equal(
      await page
        .locator("tr th code")
        .allTextContents()
        .then((all) => all.length),
      METRIC_NAMES.length,
    );
    const unnamed = await page.$$eval(
      ".chart svg, .chart figure",
      (charts) =>
        charts.filter((chart) => chart.getAttribute("role") === "img" && !chart.getAttribute("aria-label"))
          .length,
    );
    assert.equal(unnamed, 0);
    const shaded = await page.locator("mark").count();
    await page.focus("#k");
    await page.keyboard.press("Home");
    assert.equal(await page.locator("#slider output").textContent(), "k = 1");
    assert.ok((await page.locator("mark").count()) < shaded, "fewer tokens are shaded");
    assert.deepEqual(troubles, []);
  } finally {
    await browser.close();
  }
});

test("run again it measures again and keeps the SAE; other settings train another one", async () => {
  const weights = path.join(out, "sae", "sae_weights.safetensors");
  const before = fs.statSync(weights).mtimeMs;
  const metrics = fs.readFileSync(path.join(out, "metrics.json"));
  const again = await demo(out);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /not trained again/);
  assert.equal(fs.statSync(weights).mtimeMs, before);
  assert.deepEqual(fs.readFileSync(path.join(out, "metrics.json")), metrics);

  const other = await demo(out, "--seed", "1");
  assert.equal(other.code, 0, other.stderr);
  assert.ok(fs.statSync(weights).mtimeMs > before);
});

test("a plain TopK SAE is measured at its k, and its page has no slider", async () => {
  const folder = path.join(temp.path, "topk");
  const ran = await demo(folder, "--objective", "mse");
  assert.equal(ran.code, 0, ran.stderr);
  const { budgets, ...top } = metricsIn(folder);
  assert.deepEqual(budgets, [top]);
  assert.equal(top.k, 4);
  const { k, budgets: stops, cards } = pageData(folder);
  assert.equal(k ?? stops ?? cards[0].budgets, undefined);
});

test("a k that the SAE does not reach is not measured", async () => {
  const ran = await demo(path.join(temp.path, "beyond"), "--eval-k", "2,8");
  assert.equal(ran.code, 2);
  assert.match(ran.stderr, /at most k=4 active features, so it cannot be measured at 8/);
});

test("an unfinished run with other settings is refused, not thrown away", async () => {
  const folder = path.join(temp.path, "unfinished");
  fs.cpSync(out, folder, { recursive: true });
  const file = path.join(folder, "sae", "run.json");
  fs.writeFileSync(file, JSON.stringify({ ...JSON.parse(fs.readFileSync(file, "utf8")), outcome: null }));
  const ran = await demo(folder, "--seed", "2");
  assert.equal(ran.code, 2);
  assert.match(ran.stderr, /unfinished run with other settings/);
  assert.ok(fs.existsSync(file));
});
