/**
 * What a report says in numbers, as text: made here once for every k, so that the page's script only has to swap it.
 */
import { METRIC_NAMES, type MetricName, type ReportData } from "./data.ts";
import { METRICS } from "./metrics.ts";

/** Numbers of an SAE, at one k where it has several. */
export type Measured = Pick<ReportData, "k" | "metrics" | "density" | "features">;

/** Text by the name of its place, an element's `data-text`. */
export type Texts = Readonly<Record<string, string>>;

export const whole = (value: number): string => Math.round(value).toLocaleString("en-US");
const plain = (value: number): string => String(Number(value.toPrecision(4))).replace("-", "−");
const share = (value: number): string => (100 * value).toFixed(1).replace("-", "−");

interface HeadlineNumber {
  readonly name: string;
  readonly label: string;
  readonly unit?: string;
  /** NaN where it was not measured. */
  readonly value: (data: Measured) => number;
  readonly format: (value: number) => string;
}

const metric = (name: MetricName, number: Pick<HeadlineNumber, "label" | "unit" | "format">) => ({
  name,
  ...number,
  value: ({ metrics }: Measured) => metrics[name] ?? Number.NaN,
});

/** The few numbers that a reader wants first. */
const HEADLINE: readonly HeadlineNumber[] = [
  metric("explained_variance", { label: "of the variance explained", unit: "%", format: share }),
  metric("loss_recovered", { label: "of the model’s loss recovered", unit: "%", format: share }),
  metric("l0", { label: "features active per token", format: (v) => v.toFixed(1) }),
  {
    name: "ce",
    label: "nats of loss when spliced in",
    value: ({ metrics: { ce_spliced, ce_clean } }) => ce_spliced - ce_clean,
    format: (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(3)}`,
  },
  {
    name: "features",
    label: "features in the dictionary",
    value: ({ features }) => features,
    format: whole,
  },
  metric("dead_fraction", { label: "of them dead", unit: "%", format: share }),
];

/** Those that were measured. */
export const headlineOf = (data: Measured): readonly HeadlineNumber[] =>
  HEADLINE.filter(({ value }) => Number.isFinite(value(data)));

const isMetric = (name: string): name is MetricName => (METRIC_NAMES as readonly string[]).includes(name);

/** Every text that depends on k. */
export function textsOf(data: Measured): Texts {
  const { k, metrics, density, features } = data;
  const finite = (value: number, format: (v: number) => string): string =>
    Number.isFinite(value) ? format(value) : "–";
  return {
    ...(k !== undefined && { k: String(k) }),
    ...Object.fromEntries(
      HEADLINE.map(({ name, value, format }) => [`headline.${name}`, finite(value(data), format)]),
    ),
    ...Object.fromEntries(
      Object.entries(metrics).map(([name, value]) => [
        `metric.${name}`,
        finite(value, isMetric(name) ? METRICS[name].format : plain),
      ]),
    ),
    never:
      density.never > 0
        ? `${whole(density.never)} of ${whole(features)} never fired here.`
        : "Every feature fired.",
  };
}
