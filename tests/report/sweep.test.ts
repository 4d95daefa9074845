/**
 * A sweep's page, as text and in a real browser, opened from a file as a person would.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { renderSweep, type SweepReportData } from "../../src/report/index.ts";
import { findChromium, launch } from "./browser.ts";
import { sampleSweep } from "./sample-sweep.ts";

/** The page without its script, which is long and not what the tests look at. */
const rendered = (data: SweepReportData): string =>
  renderSweep(data).replace(/<script>[\s\S]*?<\/script>/, "<script></script>");

test("the page is self-contained, and its tables stand in it without the script", () => {
  const page = rendered(sampleSweep(6));
  assert.ok(renderSweep(sampleSweep(60)).length < 2e6);
  assert.doesNotMatch(page, /<(?:link|img|iframe)\b|<script[^>]+src=|@import|url\(/);
  assert.match(page, /default-src &#39;none&#39;/);
  const rows = /<table class="sortable" id="saes">[\s\S]*?<\/table>/
    .exec(page)?.[0]
    .match(/<th scope="row">/g);
  assert.equal(rows?.length, 13);
  assert.match(page, /<b>wild-seed0<\/b> failed: step 7 has loss NaN/);
});

test("columns are what varies and what was measured", () => {
  const titles = (data: SweepReportData) =>
    [...rendered(data).matchAll(/<th scope="col"[^>]*><button type="button">([^<]+)/g)].map((m) => m[1]);
  const data = sampleSweep();
  assert.deepEqual(titles(data).slice(0, 10), [
    "SAE",
    "explained variance",
    "L0",
    "dead features",
    "loss recovered (zero)",
    "cross-entropy, spliced",
    "KL divergence",
    "arch",
    "k",
    "seed",
  ]);
  const [first] = data.saes;
  const metrics = { explained_variance: 0.5, l0: 3 };
  const single = {
    ...data,
    saes: [{ ...first, metrics, budgets: undefined }],
    settings: [{ name: "topk", saes: [first.name], metrics: {} }],
  };
  assert.deepEqual(titles(single), ["SAE", "explained variance", "L0"]);
  assert.doesNotMatch(rendered(single), /id="seeds"|data-frontier="loss_recovered"/);
});

test("what does not fit together is refused by name", () => {
  const data = sampleSweep();
  const [first, ...others] = data.saes;
  const curves = { ...first.curves!, loss: [1] };
  assert.throws(
    () => renderSweep({ ...data, saes: [{ ...first, curves }, ...others] }),
    /topk-seed0: curves\.loss has 1 points, curves\.tokens has 50/,
  );
  assert.throws(
    () => renderSweep({ ...data, settings: data.settings.slice(1) }),
    /topk-seed0 is of the setting topk, which is missing/,
  );
});

test("names and reasons cannot leave their place", () => {
  const hostile = `</script><img src=x onerror="alert(1)">`;
  const data = sampleSweep();
  const saes = data.saes.map((sae) => ({ ...sae, name: hostile, failure: hostile }));
  assert.doesNotMatch(rendered({ ...data, saes, title: hostile, summary: hostile }), /<img|<\/script><img/);
});

const executable = findChromium();
const skip = executable ? false : "no Chromium found on the PATH";

describe("a sweep's page in a browser", { skip, concurrency: false }, () => {
  let browser: Browser | undefined;
  let folder: string | undefined;
  after(async () => {
    await browser?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  async function open(data: SweepReportData, options: BrowserContextOptions = {}) {
    browser ??= await launch(executable as string);
    folder ??= await mkdtemp(join(tmpdir(), "sluice-sweep-"));
    const file = join(folder, "report.html");
    await writeFile(file, renderSweep(data));
    const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
    const page = await context.newPage();
    const troubles: string[] = [];
    page.on("console", (message) => {
      if (message.type() === "error" || message.type() === "warning") troubles.push(message.text());
    });
    page.on("pageerror", (error) => troubles.push(String(error)));
    page.on("request", (request) => {
      if (request.url() !== pathToFileURL(file).href) troubles.push(`request for ${request.url()}`);
    });
    await page.goto(pathToFileURL(file).href);
    await page.waitForSelector(".chart svg");
    return { page, troubles };
  }

  /** Paths of curves and lines that a chart shows. */
  const lines = (page: Page, chart: string): Promise<number> =>
    page.locator(`${chart} svg g[aria-label=line] path`).count();
  const dots = (page: Page): Promise<number> =>
    page.locator("[data-frontier=explained_variance] svg g[aria-label=dot] circle").count();
  const firstColumn = (page: Page, table: string): Promise<string[]> =>
    page.$$eval(`${table} tbody th`, (cells) => cells.map((cell) => cell.textContent ?? ""));

  test("every chart has a series for each SAE, without an error or a request", async () => {
    const { page, troubles } = await open(sampleSweep(8));
    assert.equal(await page.locator(".chart").count(), 6);
    for (const name of ["loss", "explainedVariance", "l0", "deadFraction"])
      assert.equal(await lines(page, `[data-curve=${name}]`), 14, name);
    assert.equal(await lines(page, "[data-frontier=explained_variance]"), 14);
    assert.equal(await dots(page), 3 * 4 + 2 + 1 + 8);
    const bars = page.locator("[data-frontier=explained_variance] svg g[aria-label=rule] line");
    assert.equal(await bars.count(), 4 + 2, "four budgets of topk; jumprelu in both directions");
    assert.deepEqual(troubles, []);
  });

  test("the key switches settings, single seeds and everything off and on", async () => {
    const { page, troubles } = await open(sampleSweep());
    const button = (name: string) => page.locator("#key").getByRole("button", { name, exact: true });
    assert.equal(await lines(page, "[data-curve=loss]"), 6);
    await button("topk").click();
    assert.equal(await button("topk").getAttribute("aria-pressed"), "false");
    assert.equal(await button("topk-seed1").getAttribute("aria-pressed"), "false");
    assert.equal(await lines(page, "[data-curve=loss]"), 3);
    assert.equal(await dots(page), 3);
    await button("topk-seed1").focus();
    await page.keyboard.press("Enter");
    assert.equal(await button("topk").getAttribute("aria-pressed"), "true");
    assert.equal(await button("topk-seed0").getAttribute("aria-pressed"), "false");
    assert.equal(await lines(page, "[data-curve=loss]"), 4);
    await button("none").click();
    assert.equal(await page.locator(".chart svg").count(), 0);
    assert.match((await page.textContent("[data-curve=loss]")) ?? "", /No series is switched on/);
    await button("all").click();
    assert.equal(await lines(page, "[data-curve=loss]"), 6);
    assert.deepEqual(troubles, []);
  });

  test("a column's title sorts by it, largest first, and the other way round; what failed stays last", async () => {
    const data = sampleSweep();
    const { page } = await open(data);
    const measured = data.saes.filter((sae) => sae.metrics);
    const byVariance = [...measured]
      .sort((a, b) => b.metrics!.explained_variance - a.metrics!.explained_variance)
      .map(({ name }) => name);
    const title = page.locator("#saes").getByRole("button", { name: "explained variance" });
    await title.click();
    assert.deepEqual(await firstColumn(page, "#saes"), [...byVariance, "wild-seed0"]);
    const header = page.locator("#saes th[aria-sort]");
    assert.equal(await header.getAttribute("aria-sort"), "descending");
    await title.press("Enter");
    assert.deepEqual(await firstColumn(page, "#saes"), [...byVariance.reverse(), "wild-seed0"]);
    assert.equal(await header.getAttribute("aria-sort"), "ascending");
    await page.locator("#saes").getByRole("button", { name: "SAE" }).click();
    assert.deepEqual(await firstColumn(page, "#saes"), data.saes.map(({ name }) => name).sort());
    await page.locator("#settings").getByRole("button", { name: "seeds" }).click();
    assert.deepEqual((await firstColumn(page, "#settings")).slice(0, 2), ["topk", "jumprelu"]);
  });

  test("nothing is wider than a phone, in dark as in light", async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { page, troubles } = await open(sampleSweep(10), {
        viewport: { width: 360, height: 740 },
        colorScheme,
      });
      await page.waitForTimeout(200);
      assert.equal(await page.evaluate("document.documentElement.scrollWidth"), 360);
      assert.deepEqual(troubles, []);
    }
  });
});
