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
import { sampleEveryK, sampleReport } from "./sample.ts";

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

  const text = (page: Page, selector: string): Promise<string | null> =>
    page.locator(selector).first().textContent();

  test("the slider moves by keyboard from one measured k to the next, and says which", async () => {
    const { page, troubles } = await open(sampleEveryK(3));
    const slider = page.getByRole("slider", { name: "Active features per token" });
    assert.equal(await slider.getAttribute("aria-valuetext"), "k = 32");
    await slider.focus();
    const seen: (string | null)[] = [];
    for (const key of ["End", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft"]) {
      await page.keyboard.press(key);
      seen.push(await slider.getAttribute("aria-valuetext"));
    }
    assert.deepEqual(seen, ["k = 64", "k = 32", "k = 16", "k = 8", "k = 4", "k = 4"]);
    assert.equal(await text(page, "#slider output"), "k = 4");
    assert.deepEqual(troubles, []);
  });

  test("numbers, charts and titles are those of the chosen k", async () => {
    const data = sampleEveryK(3);
    const { page } = await open(data);
    const ladder = page.locator("[data-chart=ladder] svg");
    const before = await ladder.textContent();
    assert.match(before ?? "", new RegExp(data.metrics.ce_spliced.toFixed(3)));
    await page.focus("#k");
    await page.keyboard.press("Home");
    const { metrics, density } = data.budgets![0];
    const variance = metrics.explained_variance;
    assert.equal(await text(page, "[data-metric=explained_variance] dd"), `${(100 * variance).toFixed(1)}%`);
    assert.equal(await text(page, "[data-metric=l0] dd"), "4.0");
    assert.equal(await text(page, "tr:has(code:text-is('kl')) td.number"), metrics.kl.toFixed(4));
    assert.match(
      (await text(page, "#density .lead")) ?? "",
      new RegExp(`${density.never.toLocaleString("en-US")} of`),
    );
    for (const id of ["loss", "density", "metrics", "features"]) {
      assert.match((await text(page, `#${id} h2`)) ?? "", / at k = 4$/);
    }
    assert.match((await ladder.textContent()) ?? "", new RegExp(metrics.ce_spliced.toFixed(3)));
    const curve = page.locator("[data-chart=budgets] svg");
    assert.match((await curve.textContent()) ?? "", new RegExp(`${(100 * variance).toFixed(1)}%`));
    assert.match((await page.getAttribute("[data-chart=ladder] svg", "aria-label")) ?? "", /at k = 4$/);
  });

  test("passages shade what is among its token's k strongest; one without any is grey", async () => {
    const data = sampleEveryK(1);
    const context = {
      tokens: ["a", " b", " c", " d"],
      activations: [0, 3, 2, 1],
      ranks: [0, 20, 5, 60],
    };
    const { page } = await open({ ...data, cards: [{ ...data.cards[0], contexts: [context] }] });
    const shaded = async () => ({
      marks: await page.locator(".contexts mark").allTextContents(),
      peak: await page.locator(".contexts mark.peak").allTextContents(),
      value: await text(page, ".contexts .value"),
      grey: await page.locator(".contexts li.silent").count(),
    });
    assert.deepEqual(await shaded(), { marks: ["b", "c"], peak: ["b"], value: "3.00", grey: 0 });
    await page.focus("#k");
    await page.keyboard.press("End");
    assert.deepEqual(await shaded(), { marks: ["b", "c", "d"], peak: ["b"], value: "3.00", grey: 0 });
    await page.keyboard.press("Home");
    assert.deepEqual(await shaded(), { marks: [], peak: [], value: "–", grey: 1 });
    assert.equal(await text(page, ".card .measures dd"), "silent");
    await page.keyboard.press("ArrowRight");
    assert.equal(await page.getAttribute(".contexts mark", "data-value"), "2.00, rank 5");
    assert.deepEqual(await shaded(), { marks: ["c"], peak: ["c"], value: "2.00", grey: 0 });
    assert.notEqual(await text(page, ".card .measures dd"), "silent");
  });

  test("passages that come on demand are of the chosen k, and sorting goes by its densities", async () => {
    const data = sampleEveryK(3);
    const falling = data.cards.map((card, n) => ({
      ...card,
      budgets: card.budgets!.map((budget, i) => ({
        ...budget,
        density: i === 0 ? (n + 1) / 100 : 0.5 / (n + 1),
      })),
    }));
    const { page } = await open({ ...data, cards: falling });
    const ids = data.cards.map((card) => `feature-${card.id}`);
    await page.selectOption("#sort", "density-down");
    assert.deepEqual(await shownCards(page), ids);
    await page.focus("#k");
    await page.keyboard.press("Home");
    await page.selectOption("#sort", "density-up");
    assert.deepEqual(await shownCards(page), ids);
    const silent = page.locator(`#${ids[0]}`);
    await silent.locator(".more").click();
    assert.equal(await silent.locator(".contexts li.silent").count(), 10);
  });

  test("a card that is linked to is not covered by the bars above it", async () => {
    for (const width of [1200, 360]) {
      const { page } = await open(sampleEveryK(6), { viewport: { width, height: 740 } });
      await page.evaluate("location.hash = 'feature-308'"); // of card 3
      await page.waitForTimeout(100);
      const covered = await page.evaluate(`(() => {
        const heading = document.querySelector("#feature-308 h3 a");
        const { left, top } = heading.getBoundingClientRect();
        return document.elementFromPoint(left + 2, top + 4) !== heading;
      })()`);
      assert.equal(covered, false, `${width} px`);
    }
  });

  test("a finger on the track moves the slider", async () => {
    const { page } = await open(sampleEveryK(1), { viewport: { width: 360, height: 740 }, hasTouch: true });
    await page.locator("#k").scrollIntoViewIfNeeded();
    const box = (await page.locator("#k").boundingBox())!;
    assert.ok(box.height >= 24, `${box.height} px are enough for a finger`);
    await page.touchscreen.tap(box.x + box.width - 5, box.y + box.height / 2);
    assert.equal(await page.getAttribute("#k", "aria-valuetext"), "k = 64");
  });

  test("a report of one k has no slider", async () => {
    const { page } = await open(sampleReport(1));
    assert.equal(await page.locator("#slider, #k-says, [data-chart=budgets], h2 small").count(), 0);
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
      const { page, troubles } = await open(sampleEveryK(3), {
        viewport: { width: 360, height: 740 },
        colorScheme,
      });
      await page.waitForTimeout(200);
      assert.equal(await page.evaluate("document.documentElement.scrollWidth"), 360);
      assert.deepEqual(troubles, []);
    }
  });
});
