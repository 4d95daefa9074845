/**
 * The script of a sweep's page: a key that switches series on and off, charts of those that are on, and tables that sort.
 */
import type { TrainingCurves } from "../data.ts";
import type { Ink, Spread, SweepPageData, SweepSetting } from "../sweep-data.ts";
import { copyCommand } from "./copy.ts";
import { byId, element } from "./dom.ts";
import { CURVE_FORMAT, type CurveName, curvesChart, keepDrawn, linesChart, type Span } from "./plots.ts";
import { wakeTables } from "./sort.ts";

type Sae = SweepPageData["saes"][number];
type Setting = SweepPageData["settings"][number];

const data: SweepPageData = JSON.parse(byId("data")?.textContent ?? "{}");
const settings = new Map<string, Setting>(data.settings.map((setting) => [setting.name, setting]));
/** Names of the SAEs that are switched off. */
const off = new Set<string>();
const shown = (): Sae[] => data.saes.filter(({ name }) => !off.has(name));
const inkOf = ({ setting }: Sae): Ink => settings.get(setting) ?? { color: "var(--ink)" };

const nothing = (text: string): Element => element("p", { class: "empty" }, text);

function curves(name: CurveName, width: number): Element {
  const series = shown().flatMap((sae) => {
    const { tokens = [], [name]: values = [] } = sae.curves ?? ({} as Partial<TrainingCurves>);
    const points = tokens.map((x, i) => ({ x, y: values[i] }));
    return points.some(({ y }) => Number.isFinite(y)) ? [{ label: sae.name, ...inkOf(sae), points }] : [];
  });
  if (series.length === 0) return nothing("No series is switched on.");
  return curvesChart(series, {
    width,
    height: 230,
    format: CURVE_FORMAT[name],
    share: name === "deadFraction",
    several: true,
  });
}

const finite = ({ x, y }: { x: number; y: number }): boolean => Number.isFinite(x) && Number.isFinite(y);

/** What is kept against L0: a line along the budgets of an SAE, or its one point. */
function frontier(metric: string, width: number): Element {
  const on = shown();
  const series = on.flatMap((sae) => {
    const { metrics, budgets } = sae;
    if (!metrics) return [];
    const own = { x: metrics.l0, y: metrics[metric], large: true };
    const others = (budgets ?? [])
      .map(({ k, ...at }) => ({ x: at.l0, y: at[metric], note: ` at k = ${k}` }))
      .filter((p) => p.x !== own.x);
    const points = [own, ...others].filter(finite).sort((a, b) => a.x - b.x);
    return points.length > 0 ? [{ label: sae.name, ...inkOf(sae), points }] : [];
  });
  if (series.length === 0) return nothing("No series is switched on.");
  const names = new Set(on.map(({ setting }) => setting));
  const spans = data.settings.filter(({ name }) => names.has(name)).flatMap((one) => spansOf(one, metric));
  const xs = series.flatMap(({ points }) => points.map(({ x }) => x));
  const wide = Math.max(...xs) > 4 * Math.min(...xs) && Math.min(...xs) > 0;
  return linesChart(series, {
    width,
    height: 320,
    x: { label: "L0, active features per token", type: wide ? "log" : "linear" },
    format: (y) => y.toFixed(4),
    tick: (y) => String(+y.toPrecision(3)).replace("-", "−"),
    spans,
    legend: false,
  });
}

/** The extremes of a setting's seeds, at each of its budgets, whichever of them are switched on. */
function spansOf({ color, metrics, budgets, saes }: SweepSetting & Ink, metric: string): Span[] {
  if (saes.length < 2) return [];
  return (budgets?.map((budget) => budget.metrics) ?? [metrics]).flatMap((at) => {
    const { [metric]: y, l0 } = at as Readonly<Record<string, Spread | undefined>>;
    return y && l0 && y.min < y.max ? [{ color, x: l0, y }] : [];
  });
}

const redraw = keepDrawn((target, width) => {
  const { curve, frontier: metric } = target.dataset;
  if (curve) return curves(curve as CurveName, width);
  return metric ? frontier(metric, width) : undefined;
});

/** A button for each setting, and one for each seed of those that have several. */
function wakeKey(): void {
  const key = byId("key");
  if (!key) return;
  const updates: (() => void)[] = [];
  const update = (): void => {
    for (const one of updates) one();
  };
  const toggle = (
    label: string,
    names: readonly string[],
    attributes: Record<string, string>,
  ): HTMLElement => {
    const button = element("button", { type: "button", ...attributes }, label);
    const isOn = (): boolean => names.some((name) => !off.has(name));
    updates.push(() => button.setAttribute("aria-pressed", String(isOn())));
    button.addEventListener("click", () => {
      const hide = isOn();
      for (const name of names) {
        if (hide) off.add(name);
        else off.delete(name);
      }
      update();
      redraw();
    });
    return button;
  };
  for (const { name, saes, color, dash } of data.settings) {
    const style = `--c:${color}`;
    const group = element(
      "span",
      { class: dash === undefined ? "setting" : "setting hollow" },
      toggle(name, saes, { style }),
    );
    if (saes.length > 1) {
      for (const sae of data.saes.filter((one) => saes.includes(one.name))) {
        group.append(toggle(sae.seed, [sae.name], { style, class: "seed", "aria-label": sae.name }));
      }
    }
    key.append(group);
  }
  const all = element("button", { type: "button", class: "all" });
  updates.push(() => {
    all.textContent = off.size < data.saes.length ? "none" : "all";
  });
  all.addEventListener("click", () => {
    if (off.size < data.saes.length) for (const { name } of data.saes) off.add(name);
    else off.clear();
    update();
    redraw();
  });
  key.append(all);
  update();
}

wakeKey();
wakeTables();
copyCommand();
