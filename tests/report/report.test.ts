/**
 * The page in a real browser, opened from a file as a person would.
 */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { type ReportData, renderReport } from "../../src/report/index.ts";
import { findChromium, launch } from "./browser.ts";
import { sampleReport } from "./sample.ts";

const executable = findChromium();
const skip = executable ? false : "no Chromium found on the PATH";

interface Opened {
  readonly page: Page;
  /** Console errors, exceptions, and every request beyond the file itself. */
  readonly troubles: string[];
}

describe("report in a browser", { skip, concurrency: false }, () => {
  let browser: Browser | undefined;
  let folder: string | undefined;
  after(async () => {
    await browser?.close();
    if (folder) await rm(folder, { recursive: true });
  });

  async function open(data: ReportData, options: BrowserContextOptions = {}): Promise<Opened> {
    browser ??= await launch(executable as string);
    folder ??= await mkdtemp(join(tmpdir(), "sluice-report-"));
    const file = join(folder, "report.html");
    await writeFile(file, renderReport(data));
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

  const shownCards = (page: Page): Promise<string[]> =>
    page.$$eval(".card:not([hidden])", (cards) => cards.map((card) => card.id));

  test("draws every chart and card without an error or a request", async () => {
    const { page, troubles } = await open(sampleReport(12));
    assert.equal(await page.locator(".chart").count(), 7);
    for (const chart of await page.locator(".chart").all()) {
      await chart.scrollIntoViewIfNeeded();
      assert.ok((await chart.locator("svg path, svg rect, svg circle").count()) > 0);
    }
    assert.equal((await shownCards(page)).length, 12);
    assert.equal(await page.locator("#features mark.peak").count(), 12 * 5);
    assert.equal(await page.locator("#count").textContent(), "12 features");
    assert.deepEqual(troubles, []);
  });

  test("search narrows the cards by text, token and id", async () => {
    const { page } = await open(sampleReport(12));
    await page.fill("#find", "#114");
    assert.deepEqual(await shownCards(page), ["feature-114"]);
    assert.equal(await page.locator("#count").textContent(), "1 of 12 features");
    await page.fill("#find", "no such words");
    assert.deepEqual(await shownCards(page), []);
    assert.ok(await page.locator(".empty").isVisible());
    await page.fill("#find", "ago—NEVER");
    assert.ok((await shownCards(page)).length > 0, "text across byte tokens is found");
    await page.fill("#find", "");
    assert.equal((await shownCards(page)).length, 12);
  });

  test("sorting reorders the cards and can be undone", async () => {
    const data = sampleReport(12);
    const { page } = await open(data);
    const ids = (order: (a: ReportData["cards"][0], b: ReportData["cards"][0]) => number): string[] =>
      [...data.cards].sort(order).map((card) => `feature-${card.id}`);
    await page.selectOption("#sort", "density-down");
    assert.deepEqual(
      await shownCards(page),
      ids((a, b) => b.density - a.density),
    );
    await page.selectOption("#sort", "max");
    assert.deepEqual(
      await shownCards(page),
      ids((a, b) => b.maxActivation - a.maxActivation),
    );
    await page.selectOption("#sort", "rank");
    assert.deepEqual(
      await shownCards(page),
      ids(() => 0),
    );
  });

  test("pointing at a token shows its activation", async () => {
    const { page } = await open(sampleReport(2));
    const peak = page.locator("mark.peak").first();
    await peak.hover();
    assert.equal(await page.locator("#tip").textContent(), await peak.getAttribute("data-value"));
    assert.ok(await page.locator("#tip").isVisible());
  });

  test("the remaining contexts come on demand, by keyboard too", async () => {
    const { page } = await open(sampleReport(1));
    assert.equal(await page.locator(".contexts li").count(), 5);
    await page.locator(".more").focus();
    await page.keyboard.press("Enter");
    assert.equal(await page.locator(".contexts li").count(), 10);
  });

  test("bytes that make a character together are shown as that character, others in hexadecimal", async () => {
    const data = sampleReport(1);
    const contexts = [
      {
        tokens: ["a", { bytes: "e2 80" }, { bytes: "94" }, { bytes: "d0" }, "\n"],
        activations: [0, 1, 2, 3, 0],
      },
    ];
    const { page } = await open({ ...data, cards: [{ ...data.cards[0], contexts }] });
    const marks = await page.$$eval(".contexts mark", (found) =>
      found.map((m) => [m.textContent, (m as unknown as { dataset: Record<string, string> }).dataset.value]),
    );
    assert.deepEqual(marks, [
      ["—", "1.00 + 2.00"],
      ["d0", "3.00"],
    ]);
    assert.match((await page.textContent(".contexts .text")) ?? "", /↵/);
  });

  test("hostile text stays text", async () => {
    const hostile = `</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\u0000\u202e`;
    const data = sampleReport(1);
    const card = {
      ...data.cards[0],
      label: hostile,
      contexts: [{ tokens: [hostile, " b"], activations: [2, 1], source: hostile }],
      promoted: [{ token: hostile, weight: 1 }],
    };
    const { page, troubles } = await open({
      ...data,
      title: hostile,
      cards: [card],
      run: { ...data.run, command: hostile, config: { [hostile]: hostile } },
    });
    assert.equal(await page.evaluate("window.hacked"), undefined);
    assert.equal(await page.locator("img").count(), 0);
    assert.match((await page.textContent(".contexts mark")) ?? "", /<img src=x/);
    assert.deepEqual(troubles, []);
  });

  test("nothing is wider than a phone, in dark as in light", async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { page, troubles } = await open(sampleReport(3), {
        viewport: { width: 360, height: 740 },
        colorScheme,
      });
      await page.waitForTimeout(200);
      assert.equal(await page.evaluate("document.documentElement.scrollWidth"), 360);
      assert.deepEqual(troubles, []);
    }
  });
});
