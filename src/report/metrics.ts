/**
 * The metrics in words and formulas. x activation, x̂ its reconstruction, x̄ mean activation, z codes;
 * L cross-entropy of the model with the hook point untouched, spliced, zeroed, or at its mean.
 */
import type { MetricName } from "./data.ts";
import { Html, html } from "./html.ts";

export interface MetricText {
  readonly label: string;
  /** MathML. */
  readonly formula: Html;
  readonly meaning: string;
  readonly format: (value: number) => string;
}

const fixed = (digits: number) => (value: number) => value.toFixed(digits).replace("-", "−");
const percent = (value: number): string => `${(100 * value).toFixed(1).replace("-", "−")}%`;

const i = (name: string): string => `<mi>${name}</mi>`;
const o = (symbol: string): string => `<mo>${symbol}</mo>`;
const n = (number: number): string => `<mn>${number}</mn>`;
const row = (...parts: readonly string[]): string => `<mrow>${parts.join("")}</mrow>`;
const frac = (above: string, below: string): string => `<mfrac>${above}${below}</mfrac>`;
const hat = (base: string): string => `<mover accent="true">${base}<mo>^</mo></mover>`;
const bar = (base: string): string => `<mover accent="true">${base}<mo>¯</mo></mover>`;
const sub = (base: string, below: string): string => `<msub>${base}${below}</msub>`;
const side = (form: string): string => `<mo form="${form}" stretchy="false" lspace="0" rspace="0">‖</mo>`;
const norm = (inner: string): string => row(side("prefix"), inner, side("postfix"));
const square = (inner: string): string => `<msup>${norm(inner)}${n(2)}</msup>`;
const total = (inner: string): string => row(sub(o("∑"), i("t")), inner);
const mean = (inner: string): string =>
  row(`<msub><mtext>mean</mtext>${i("t")}</msub>`, `<mspace width="0.25em"/>`, inner);
const paren = (inner: string): string => row(o("("), inner, o(")"));
const loss = (name: string): string => `<msub>${i("L")}<mtext>${name}</mtext></msub>`;
const math = (...parts: readonly string[]): Html =>
  new Html(`<math displaystyle="true">${parts.join("")}</math>`);

const x = sub(i("x"), i("t"));
const xHat = `<msub>${hat(i("x"))}${i("t")}</msub>`;
const error = row(x, o("−"), xHat);
const centred = row(x, o("−"), bar(i("x")));
const recovered = (baseline: string): Html =>
  math(frac(row(loss(baseline), o("−"), loss("spliced")), row(loss(baseline), o("−"), loss("clean"))));

export const METRICS: Record<MetricName, MetricText> = {
  explained_variance: {
    label: "explained variance",
    formula: math(n(1), o("−"), frac(total(square(error)), total(square(centred)))),
    meaning:
      "Share of the activations’ variance that the reconstruction keeps, over all tokens together. 1 is perfect.",
    format: fixed(4),
  },
  explained_variance_per_token: {
    label: "… per token",
    formula: math(mean(paren(row(n(1), o("−"), frac(square(error), square(centred)))))),
    meaning: "The same ratio taken for each token and then averaged; tokens near the mean weigh more.",
    format: fixed(4),
  },
  l0: {
    label: "L0",
    formula: math(mean(sub(norm(sub(i("z"), i("t"))), n(0)))),
    meaning: "Features that are active on a token, on average.",
    format: fixed(2),
  },
  mse: {
    label: "squared error",
    formula: math(mean(row(frac(n(1), i("D")), square(error)))),
    meaning: "Mean squared error per token and dimension, in the activations’ own units.",
    format: (value) =>
      Math.abs(value) >= 0.01 && Math.abs(value) < 1e4 ? value.toFixed(4) : value.toExponential(2),
  },
  cosine: {
    label: "cosine",
    formula: math(mean(frac(row(x, o("·"), xHat), row(norm(x), norm(xHat))))),
    meaning: "Cosine between an activation and its reconstruction, averaged over tokens.",
    format: fixed(4),
  },
  dead_fraction: {
    label: "dead features",
    formula: math(frac(`<mtext>never active</mtext>`, i("F"))),
    meaning: "Share of the dictionary that never fired on the evaluated tokens.",
    format: percent,
  },
  ce_clean: {
    label: "cross-entropy, clean",
    formula: math(loss("clean")),
    meaning: "The model’s own loss on the evaluated text, in nats per token.",
    format: fixed(4),
  },
  ce_spliced: {
    label: "… spliced",
    formula: math(loss("spliced")),
    meaning: "Its loss when the activations at the hook point are replaced by their reconstructions.",
    format: fixed(4),
  },
  ce_zero: {
    label: "… zero-ablated",
    formula: math(loss("zero")),
    meaning: "Its loss when the hook point is set to zero.",
    format: fixed(4),
  },
  ce_mean: {
    label: "… mean-ablated",
    formula: math(loss("mean")),
    meaning: "Its loss when the hook point is set to its mean over the text, a harder baseline than zero.",
    format: fixed(4),
  },
  loss_recovered: {
    label: "loss recovered (zero)",
    formula: recovered("zero"),
    meaning: "How much of the loss between zero ablation and the clean model the reconstruction wins back.",
    format: fixed(4),
  },
  loss_recovered_mean: {
    label: "loss recovered (mean)",
    formula: recovered("mean"),
    meaning: "The same against mean ablation.",
    format: fixed(4),
  },
  kl: {
    label: "KL divergence",
    formula: math(
      mean(
        row(
          i("KL"),
          paren(
            row(
              `<msub>${i("p")}<mtext>clean</mtext></msub>`,
              o("‖"),
              `<msub>${i("p")}<mtext>spliced</mtext></msub>`,
            ),
          ),
        ),
      ),
    ),
    meaning:
      "How far the predicted distributions move when the reconstruction is spliced in, in nats per token.",
    format: fixed(4),
  },
};

/** The letters of the formulas. */
export const notation: Html = html`<p class="note"><i>x</i> is an activation at the hook point, <i>x̂</i> its reconstruction, <i>x̄</i> the mean activation, <i>z</i> the codes, <i>t</i> runs over tokens, <i>D</i> is the model’s width, <i>F</i> the number of features, <i>L</i> the language model’s cross-entropy.</p>`;
