/**
 * Measures what runs/boost.sh trained, on held-out text of each domain and on general text, and writes the tables and pictures of
 * docs/results/boost.md. What is measured already (measured.json) is not measured again.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import {
  disposeAny,
  evaluateAllOnModel,
  type LanguageModel,
  loadBoosted,
  openLanguageModel,
  openTextTokens,
} from "sluice/recipes";
import { type AnySae, disposeSae, loadSae } from "sluice/sae";
import { createDevice, type Device } from "sluice/tensor";
import { writeJson } from "sluice/util";
import { type Series, writeChart } from "../src/report/chart.ts";
import { fillPage, markdownTable, showSpread, spreadOf } from "./lib/page.ts";

const [out = "out/boost"] = process.argv.slice(2);
const PAGE = "docs/results/boost.md";
const FIGURES = "docs/results/boost";
const HOOK = "blocks.3.hook_resid_post";
const SEEDS = [0, 1, 2];
const TOKENS = 10_000;

const TEXTS = {
  general: ["sotu", "brown", "austen", "anarchism", "moby-dick", "web"],
  russian: ["fortunes-ru", "quran-ru"],
  code: ["code"],
  biomedical: ["go"],
} as const;
type Text = keyof typeof TEXTS;
const DOMAINS = ["russian", "code", "biomedical"] as const;
type Domain = (typeof DOMAINS)[number];

const CURVE = ["25k", "50k", "100k", "200k"] as const;
const RATES = ["8e-4", "1.6e-3", "3.2e-3", "6.4e-3"] as const;

/** Of a domain and seed, by name: the folder of an SAE, or parts of the base. */
const WHOLE = ["random", "active", "tuned", "beside", "replaced"] as const;
const PARTS = ["boost", ...CURVE.map((n) => `boost-${n}`), "boost-k8", "boost-k16"] as const;

interface Candidate {
  readonly name: string;
  readonly folder: string;
  readonly parts: readonly string[];
}

interface Measured {
  readonly on: Text;
  readonly name: string;
  readonly metrics: Readonly<Record<string, number>>;
}

const baseOf = (seed: number): string => join(out, "bases", `base-seed${seed}`);
const partOf = (domain: Domain, seed: number, name: string): string => join(out, domain, `seed${seed}`, name);

/** What is measured on a text. */
function candidates(on: Text): Candidate[] {
  const domains = on === "general" ? DOMAINS : [on];
  return SEEDS.flatMap((seed) => [
    { name: `base/${seed}`, folder: baseOf(seed), parts: [] },
    { name: `wide/${seed}`, folder: join(out, "bases", `wide-seed${seed}`), parts: [] },
    {
      name: `all/${seed}`,
      folder: baseOf(seed),
      parts: DOMAINS.map((domain) => partOf(domain, seed, "boost")),
    },
    ...domains.flatMap((domain) => [
      ...WHOLE.map((name) => ({
        name: `${domain}/${name}/${seed}`,
        folder: partOf(domain, seed, name),
        parts: [],
      })),
      ...PARTS.map((name) => ({
        name: `${domain}/${name}/${seed}`,
        folder: baseOf(seed),
        parts: [partOf(domain, seed, name)],
      })),
    ]),
  ]);
}

/** The runs that chose the learning rates, measured on the domain only. */
const rateRuns: readonly Candidate[] = RATES.flatMap((rate) => [
  { name: `lr/boost/${rate}`, folder: baseOf(0), parts: [join(out, "lr", `boost-${rate}`)] },
  ...["random", "active", "tuned"].map((name) => ({
    name: `lr/${name}/${rate}`,
    folder: join(out, "lr", `${name}-${rate}`),
    parts: [],
  })),
]);

/** SAEs held at once. */
const GROUP = 16;

async function measureAll(device: Device, lm: LanguageModel): Promise<Measured[]> {
  const file = join(out, "measured.json");
  const done: Measured[] = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : [];
  for (const on of Object.keys(TEXTS) as Text[]) {
    const wanted = [...candidates(on), ...(on === "russian" ? rateRuns : [])];
    const missing = wanted.filter(({ name }) => !done.some((one) => one.on === on && one.name === name));
    for (let at = 0; at < missing.length; at += GROUP) {
      const group = missing.slice(at, at + GROUP);
      const metrics = await measure(device, lm, on, group);
      done.push(...group.map(({ name }, i) => ({ on, name, metrics: metrics[i] })));
      await writeJson(file, done);
      console.error(`${on}: ${at + group.length} of ${missing.length} measured`);
    }
  }
  return done;
}

async function measure(
  device: Device,
  lm: LanguageModel,
  on: Text,
  group: readonly Candidate[],
): Promise<Record<string, number>[]> {
  const text = await openTextTokens({ text: TEXTS[on], split: "heldout", tokenizer: lm.tokenizer });
  const saes: AnySae[] = [];
  try {
    for (const { folder, parts } of group) saes.push((await loadBoosted(device, folder, parts)).sae);
    const all = await evaluateAllOnModel(
      device,
      saes.map((sae) => ({ sae, hook: HOOK })),
      { lm, text, excludeTokens: lm.tokenizer.specialIds },
      { tokens: TOKENS },
    );
    return all.map(([{ metrics, splice }]) => ({ ...metrics, ...splice }) as Record<string, number>);
  } finally {
    for (const sae of saes) disposeAny(sae);
    text.close();
  }
}

/** Decoder rows beyond those of the base: mean over them of the largest cosine with a row of the base. */
async function redundancy(device: Device, seed: number, folder: string, from: number): Promise<number> {
  const { sae: base } = await loadSae(device, baseOf(seed));
  const { sae } = await loadSae(device, folder);
  const [rows, own] = [await sae.params.wDec.floats(), await base.params.wDec.floats()];
  const D = base.config.dIn;
  disposeSae(base);
  disposeSae(sae);
  let total = 0;
  const count = rows.length / D - from;
  for (let f = from; f < from + count; f++) {
    let largest = -1;
    for (let g = 0; g < own.length / D; g++) {
      let [dot, a, b] = [0, 0, 0];
      for (let d = 0; d < D; d++) {
        dot += rows[f * D + d] * own[g * D + d];
        a += rows[f * D + d] ** 2;
        b += own[g * D + d] ** 2;
      }
      largest = Math.max(largest, dot / Math.sqrt(Math.max(a * b, 1e-30)));
    }
    total += largest;
  }
  return total / count;
}

const device = await createDevice();
const lm = await openLanguageModel(device, "models/brook");
const measured = await measureAll(device, lm);
lm.model.dispose();

/** A metric over the seeds; `increase` is that of the cross-entropy over the untouched model's. */
function over(on: Text, name: (seed: number) => string, metric: string) {
  return spreadOf(
    SEEDS.map((seed) => {
      const found = measured.find((one) => one.on === on && one.name === name(seed));
      if (!found) throw new Error(`${name(seed)} was not measured on ${on}`);
      const { metrics } = found;
      return metric === "increase" ? metrics.ce_spliced - metrics.ce_clean : metrics[metric];
    }),
  );
}

const METHODS: readonly (readonly [label: string, name: (domain: Domain) => (seed: number) => string])[] = [
  ["base", () => (seed) => `base/${seed}`],
  ["base trained at that size", () => (seed) => `wide/${seed}`],
  ["**base + residual SAE**", (domain) => (seed) => `${domain}/boost/${seed}`],
  ["extended, random start", (domain) => (seed) => `${domain}/random/${seed}`],
  ["extended, most active", (domain) => (seed) => `${domain}/active/${seed}`],
  ["full fine-tuning", (domain) => (seed) => `${domain}/tuned/${seed}`],
  ["stitched: beside", (domain) => (seed) => `${domain}/beside/${seed}`],
  ["stitched: in their place", (domain) => (seed) => `${domain}/replaced/${seed}`],
  ["base + all three residual SAEs", () => (seed) => `all/${seed}`],
];

function methodTable(domain: Domain): string {
  const rows = METHODS.map(([label, name]) => {
    const of = name(domain);
    return [
      label,
      showSpread(over(domain, of, "explained_variance"), 3),
      showSpread(over(domain, of, "increase"), 3),
      showSpread(over(domain, of, "l0"), 1),
      showSpread(over("general", of, "explained_variance"), 3),
      showSpread(over("general", of, "increase"), 3),
      showSpread(over("general", of, "l0"), 1),
    ];
  });
  return markdownTable(
    [
      "",
      `EV, ${domain}`,
      `CE increase, ${domain}`,
      `L0, ${domain}`,
      "EV, general",
      "CE increase, general",
      "L0, general",
    ],
    rows,
  );
}

const COUNTS = [25_000, 50_000, 100_000, 200_000, 400_000];
const curveName = (domain: Domain, i: number) => (seed: number) =>
  `${domain}/${i < CURVE.length ? `boost-${CURVE[i]}` : "boost"}/${seed}`;

function tokenCurve(on: "domain" | "general"): Series[] {
  return DOMAINS.flatMap((domain) => {
    const text = on === "domain" ? domain : "general";
    const base = over(text, (seed) => `base/${seed}`, "explained_variance").mean;
    return [
      {
        name: on === "domain" ? `${domain}, its own text` : `boosted on ${domain}`,
        points: COUNTS.map((x, i) => ({ x, ...over(text, curveName(domain, i), "explained_variance") })),
      },
      ...(on === "domain"
        ? [
            {
              name: `${domain}, base alone`,
              dashed: true,
              points: [COUNTS[0], COUNTS[4]].map((x) => ({ x, mean: base })),
            },
          ]
        : []),
    ];
  });
}

const TOKEN_AXIS = { label: "domain tokens", log: true, ticks: COUNTS };
writeChart(`${FIGURES}/tokens-domain.svg`, {
  title: "Explained variance on the domain's held-out text",
  x: TOKEN_AXIS,
  y: { label: "explained variance" },
  series: tokenCurve("domain"),
});
writeChart(`${FIGURES}/tokens-general.svg`, {
  title: "Explained variance on general held-out text",
  x: TOKEN_AXIS,
  y: { label: "explained variance" },
  series: [
    ...tokenCurve("general"),
    {
      name: "base alone",
      dashed: true,
      points: [COUNTS[0], COUNTS[4]].map((x) => ({
        x,
        mean: over("general", (seed) => `base/${seed}`, "explained_variance").mean,
      })),
    },
  ],
});

function tokenTable(): string {
  const rows = COUNTS.map((count, i) => [
    count.toLocaleString("en"),
    ...DOMAINS.flatMap((domain) => [
      showSpread(over(domain, curveName(domain, i), "explained_variance"), 3),
      showSpread(over("general", curveName(domain, i), "explained_variance"), 3),
    ]),
  ]);
  return markdownTable(["domain tokens", ...DOMAINS.flatMap((d) => [`${d}: domain EV`, "general EV"])], rows);
}

function budgetTable(): string {
  const rows = (["boost", "boost-k8", "boost-k16"] as const).map((name, i) => [
    String([3, 8, 16][i]),
    ...DOMAINS.flatMap((domain) => {
      const of = (seed: number): string => `${domain}/${name}/${seed}`;
      return [
        showSpread(over(domain, of, "explained_variance"), 3),
        showSpread(over("general", of, "explained_variance"), 3),
        showSpread(over("general", of, "l0"), 1),
      ];
    }),
  ]);
  return markdownTable(
    ["k of the part", ...DOMAINS.flatMap((d) => [`${d}: domain EV`, "general EV", "general L0"])],
    rows,
  );
}

function rateTable(): string {
  const cell = (name: string, rate: string): string => {
    const found = measured.find((one) => one.on === "russian" && one.name === `lr/${name}/${rate}`);
    return found ? found.metrics.explained_variance.toFixed(4) : "";
  };
  const rows = ["boost", "random", "active", "tuned"].map((name) => [
    name,
    ...RATES.map((r) => cell(name, r)),
  ]);
  return markdownTable(["EV on Russian", ...RATES], rows);
}

async function redundancyTable(): Promise<string> {
  const rows: string[][] = [];
  for (const [label, name, from] of [
    ["residual SAE", "boost", 0],
    ["extended, random start", "random", 4096],
    ["extended, most active", "active", 4096],
  ] as const) {
    const cells: string[] = [];
    for (const domain of DOMAINS) {
      const values: number[] = [];
      for (const seed of SEEDS) values.push(await redundancy(device, seed, partOf(domain, seed, name), from));
      cells.push(showSpread(spreadOf(values), 3));
    }
    rows.push([label, ...cells]);
  }
  return markdownTable(["mean cosine to the nearest base row", ...DOMAINS], rows);
}

fillPage(PAGE, {
  ...Object.fromEntries(DOMAINS.map((domain) => [domain, methodTable(domain)])),
  tokens: tokenTable(),
  budget: budgetTable(),
  rates: rateTable(),
  redundancy: await redundancyTable(),
});
device.close();
console.log(`${PAGE}: tables and pictures are written`);
