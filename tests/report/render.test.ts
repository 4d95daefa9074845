import assert from "node:assert/strict";
import { test } from "node:test";
import {
  densityHistogram,
  linearHistogram,
  METRIC_NAMES,
  type ReportData,
  renderReport,
  tokenText,
} from "../../src/report/index.ts";
import { sampleEveryK, sampleReport } from "./sample.ts";

/** The JSON that the page's script reads. */
function embedded(page: string): Pick<ReportData, "cards" | "metrics"> {
  const match = /<script type="application\/json" id="data">([^<]*)<\/script>/.exec(page);
  assert.ok(match, "the data element holds no markup");
  return JSON.parse(match[1]);
}

/** The page without its script, which is long and not what the tests look at. */
const rendered = (data: ReportData): string =>
  renderReport(data).replace(/<script>[\s\S]*?<\/script>/, "<script></script>");

const small = (): ReportData => sampleReport(2);

test("the page is self-contained and under 3 MB", () => {
  const { length } = renderReport(sampleEveryK(100));
  assert.ok(length < 3e6, `${length} bytes`);
  const page = rendered(sampleReport(1));
  assert.doesNotMatch(page, /<(?:link|img|iframe)\b|<script[^>]+src=|@import|url\(/);
  assert.match(page, /default-src &#39;none&#39;/);
});

test("every metric stands in the table with its name, value and formula", () => {
  const page = rendered(small());
  for (const name of METRIC_NAMES)
    assert.match(
      page,
      new RegExp(
        `<code>${name}</code></th><td class="number"><span data-text="metric.${name}">[^<–]+</span></td>`,
      ),
    );
  assert.equal(page.match(/<math\b/g)?.length, METRIC_NAMES.length);
});

test("metrics that were not measured are left out, unknown ones are listed, NaN is a dash", () => {
  const page = rendered({ ...small(), metrics: { l0: 32, mse: Number.NaN, my_metric: 7 } });
  assert.match(page, /<code>mse<\/code><\/th><td class="number"><span[^>]*>–</);
  assert.match(page, /<dt><code>my_metric<\/code><\/dt><dd><span[^>]*>7</);
  assert.doesNotMatch(page, /ce_clean<\/code>/);
  assert.doesNotMatch(page, /data-chart="ladder"/);
  assert.doesNotMatch(page, /data-metric="explained_variance"/);
});

test("text from a corpus cannot leave its place", () => {
  const hostile = `</script><img src=x onerror="alert(1)"><!--\u0000\u2028'"&\ud800`;
  const data = small();
  const page = rendered({
    ...data,
    title: hostile,
    summary: hostile,
    facts: [[hostile, hostile]],
    metrics: { ...data.metrics, [hostile]: 1 },
    cards: [
      {
        ...data.cards[0],
        label: hostile,
        contexts: [{ tokens: [hostile], activations: [1], source: hostile }],
      },
    ],
    run: {
      command: hostile,
      config: { [hostile]: hostile },
      timings: [{ name: hostile, seconds: 1 }],
      machine: hostile,
    },
  });
  assert.doesNotMatch(page, /<img/);
  assert.equal(page.match(/<\/script>/g)?.length, 2);
  assert.equal(embedded(page).cards[0].contexts[0].tokens[0], hostile);
});

test("numbers are shortened and those that JSON lacks become null", () => {
  const data = small();
  const card = { ...data.cards[0], density: 0.123456789, maxActivation: Number.POSITIVE_INFINITY };
  const [first] = embedded(renderReport({ ...data, cards: [card] })).cards;
  assert.equal(first.density, 0.1235);
  assert.equal(first.maxActivation, null);
});

test("a report without features, curves or timings is a page too", () => {
  const { curves: _, ...data } = small();
  const page = rendered({
    ...data,
    cards: [],
    density: densityHistogram([]),
    run: { ...data.run, timings: [] },
  });
  assert.doesNotMatch(page, /id="features"|id="training"|NaN|undefined/);
});

test("lengths that disagree are refused by name", () => {
  const data = small();
  const curves = { ...data.curves!, l0: [1, 2] };
  assert.throws(() => renderReport({ ...data, curves }), /curves\.l0 has 2 points, curves\.tokens has 400/);
  const contexts = [{ tokens: ["a", "b"], activations: [1] }];
  const card = { ...data.cards[0], contexts };
  assert.throws(
    () => renderReport({ ...data, cards: [card] }),
    /feature 17, context 0: 2 tokens but 1 activations/,
  );
  const density = { edges: [0, 1], counts: [1, 2], never: 0 };
  assert.throws(() => renderReport({ ...data, density }), /2 counts needs one edge more, it has 2/);
});

test("budgets that a slider cannot show are refused", () => {
  const data = sampleEveryK(2);
  const [first, second] = data.budgets!;
  const refused = (part: Partial<ReportData>, message: RegExp) =>
    assert.throws(() => renderReport({ ...data, ...part }), message);
  refused({ budgets: [first], k: 4 }, /budgets of k=4; a slider needs two/);
  refused({ budgets: [second, first] }, /budgets of k=8,4; .* ascending/);
  refused({ k: 7 }, /k=7 is none of the budgets 4,8,16,32,64/);
  const { budgets: _, ...bare } = data.cards[0];
  refused({ cards: [bare] }, /feature 17 has 0 budgets, the report 5/);
  const contexts = [{ tokens: ["a"], activations: [1] }];
  refused({ cards: [{ ...data.cards[0], contexts }] }, /feature 17, context 0: 1 tokens but no ranks/);
});

test("the density histogram counts whole decades and keeps silent features apart", () => {
  const { edges, counts, never } = densityHistogram([0, 0, 0.001, 0.05, 0.5, 1], 1);
  assert.deepEqual(edges, [-3, -2, -1, 0]);
  assert.deepEqual(counts, [1, 1, 2]);
  assert.equal(never, 2);
  assert.equal(densityHistogram([0, 0]).never, 2);
});

test("the linear histogram reaches from zero to the largest value", () => {
  const { edges, counts } = linearHistogram([0.5, 1, 4], { bins: 4 });
  assert.deepEqual(edges, [0, 1, 2, 3, 4]);
  assert.deepEqual(counts, [1, 1, 0, 1]);
  assert.deepEqual(linearHistogram([], { bins: 2 }).counts, [0, 0]);
  assert.deepEqual(linearHistogram([1, 2], { bins: 4, range: [0.5, 4] }), { edges, counts: [0, 1, 1, 0] });
});

test("token bytes become text where they are valid UTF-8, and hexadecimal elsewhere", () => {
  assert.equal(tokenText(new TextEncoder().encode(" мир")), " мир");
  assert.deepEqual(tokenText(new Uint8Array([0xe2, 0x80])), { bytes: "e2 80" });
  assert.equal(tokenText(new Uint8Array([])), "");
});
