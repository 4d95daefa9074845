/**
 * Feature cards: contexts with tokens shaded by activation, logits, histogram, neighbours.
 */
import type { FeatureCard, FeatureContext, Histogram, TokenText, TokenWeight } from "../data.ts";
import { element, showNumber, showShare } from "./dom.ts";
import type { Stop } from "./slider.ts";

type Measures = Pick<FeatureCard, "density" | "maxActivation" | "activations">;

/** What of a card changes with k. */
export function atStop(card: FeatureCard, stop: Stop | undefined): Measures {
  const budget = stop && card.budgets?.[stop.index];
  return budget ? { ...budget, activations: { ...card.activations, counts: budget.counts } } : card;
}

/** A passage as it is at the chosen k: what is not among its token's k strongest is silent. */
function contextAt(context: FeatureContext, stop: Stop | undefined): FeatureContext {
  const { activations, ranks } = context;
  if (!stop || !ranks) return context;
  return { ...context, activations: activations.map((value, i) => (ranks[i] <= stop.k ? value : 0)) };
}

/** Contexts shown before "more" is asked for. */
const FIRST = 5;

/** What is drawn of a context: one or more tokens that belong together. */
interface Piece {
  text: TokenText;
  activation: number;
  /** Values of the tokens, as the tip shows them, with their ranks where there are any. */
  values: string;
}

const encoder = new TextEncoder();

const bytesOf = (text: TokenText): number[] =>
  typeof text === "string"
    ? [...encoder.encode(text)]
    : text.bytes.split(" ").map((hex) => Number.parseInt(hex, 16));

function decode(bytes: readonly number[]): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(bytes));
  } catch {
    return undefined;
  }
}

/** Neighbouring byte tokens that make a character together become one piece. */
function joinBytes(context: FeatureContext): Piece[] {
  const pieces: Piece[] = [];
  const piece = (text: TokenText, from: number, to: number): Piece => {
    const values = context.activations.slice(from, to);
    const ranks = context.ranks?.slice(from, to);
    const rank = ranks ? `, rank ${ranks.join(" + ")}` : "";
    return { text, activation: Math.max(...values), values: values.map(showNumber).join(" + ") + rank };
  };
  for (let i = 0; i < context.tokens.length; i++) {
    const token = context.tokens[i];
    let next = piece(token, i, i + 1);
    if (typeof token !== "string") {
      const bytes: number[] = [];
      for (
        let j = i;
        j < Math.min(i + 4, context.tokens.length) && typeof context.tokens[j] !== "string";
        j++
      ) {
        bytes.push(...bytesOf(context.tokens[j]));
        const text = decode(bytes);
        if (text === undefined) continue;
        next = piece(text, i, j + 1);
        i = j;
        break;
      }
    }
    pieces.push(next);
  }
  return pieces;
}

/** A token's text with white space and control characters made visible. */
function visible(text: TokenText): Node {
  const shown = document.createDocumentFragment();
  if (typeof text !== "string") {
    shown.append(element("span", { class: "raw" }, text.bytes));
    return shown;
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is made visible
  for (const part of text.split(/([\n\r\t\0-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff])/)) {
    if (part === "") continue;
    const code = part.charCodeAt(0);
    const isControl =
      part.length === 1 &&
      (code < 32 || code === 127 || (code >= 0x200b && /\p{Cf}|\p{Zl}|\p{Zp}/u.test(part)));
    if (!isControl) shown.append(part);
    else if (part === "\n") shown.append(element("span", { class: "control" }, "↵ "));
    else if (part === "\t") shown.append(element("span", { class: "control" }, "→ "));
    else shown.append(element("span", { class: "raw" }, code.toString(16).padStart(2, "0")));
  }
  return shown;
}

/** Fills a passage's line. */
function fillLine(line: HTMLLIElement, context: FeatureContext, largest: number): void {
  const pieces = joinBytes(context);
  if (typeof pieces[0]?.text === "string") pieces[0].text = pieces[0].text.replace(/^ +(?=\S)/, "");
  const peak = Math.max(...pieces.map((piece) => piece.activation));
  const text = element("span", { class: "text" });
  let framed = false;
  for (const piece of pieces) {
    if (!(piece.activation > 0)) {
      text.append(visible(piece.text));
      continue;
    }
    const isPeak: boolean = !framed && piece.activation === peak;
    framed ||= isPeak;
    const strength = Math.min(1, piece.activation / largest);
    const mark = element("mark", {
      style: `--a:${strength.toFixed(3)}`,
      "data-value": piece.values,
    });
    if (isPeak) mark.className = "peak";
    // The space before a word stays unshaded: at a line's end it would hang there as a stray block.
    const space = typeof piece.text === "string" ? /^ +(?=\S)/.exec(piece.text)?.[0] : undefined;
    if (space) text.append(space);
    mark.append(visible(space ? (piece.text as string).slice(space.length) : piece.text));
    text.append(mark);
  }
  if (context.source) text.append(element("span", { class: "source" }, context.source));
  line.classList.toggle("silent", !(peak > 0));
  line.replaceChildren(element("span", { class: "value" }, peak > 0 ? showNumber(peak) : "–"), text);
}

interface Lines {
  readonly nodes: readonly Node[];
  readonly show: (stop: Stop | undefined) => void;
}

function contextList(card: FeatureCard, opening: Stop | undefined): Lines {
  const lines = element("ol", { class: "contexts", "aria-label": `contexts of feature ${card.id}` });
  const shown: { context: FeatureContext; line: HTMLLIElement }[] = [];
  const largest = Math.max(card.maxActivation, ...(card.budgets ?? []).map((b) => b.maxActivation));
  let stop = opening;
  const add = (contexts: readonly FeatureContext[]): void => {
    for (const context of contexts) {
      const line = element("li");
      shown.push({ context, line });
      lines.append(line);
      fillLine(line, contextAt(context, stop), largest);
    }
  };
  const show = (now: Stop | undefined): void => {
    stop = now;
    for (const { context, line } of shown) fillLine(line, contextAt(context, stop), largest);
  };
  add(card.contexts.slice(0, FIRST));
  const rest = card.contexts.slice(FIRST);
  if (rest.length === 0) return { nodes: [lines], show };
  const more = element("button", { type: "button", class: "more" }, `${rest.length} more`);
  more.addEventListener("click", () => {
    add(rest);
    more.remove();
    const first = lines.children[FIRST] as HTMLElement;
    first.tabIndex = -1; // the keyboard goes on where the new lines begin
    first.focus({ preventScroll: true });
  });
  return { nodes: [lines, more], show };
}

const SVG = "http://www.w3.org/2000/svg";

function bars({ edges, counts }: Histogram): Node[] {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "bars");
  svg.setAttribute("viewBox", `0 0 ${counts.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "histogram of the activations above zero, square-root scale");
  const most = Math.sqrt(Math.max(...counts, 1));
  counts.forEach((count, i) => {
    const height = Math.sqrt(count) / most;
    const bar = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: i + 0.06, y: 1 - height, width: 0.88, height })) {
      bar.setAttribute(name, String(value));
    }
    svg.append(bar);
  });
  const last = edges[edges.length - 1] ?? 0;
  const axis = element(
    "div",
    { class: "axis" },
    element("span", {}, "0"),
    element("span", {}, showNumber(last)),
  );
  return [svg, axis];
}

function logitList(
  title: string,
  side: "up" | "down",
  weights: readonly TokenWeight[],
): HTMLElement | undefined {
  if (weights.length === 0) return undefined;
  const most = Math.max(...weights.map((w) => Math.abs(w.weight)), 1e-9);
  const list = element("ol", { class: side });
  for (const { token, weight } of weights) {
    const code = element("code");
    const space = typeof token === "string" ? (/^ +/.exec(token)?.[0] ?? "") : "";
    if (space) code.append(element("span", { class: "control" }, "·".repeat(space.length)));
    code.append(visible(typeof token === "string" ? token.slice(space.length) : token));
    const sign = weight > 0 ? "+" : "";
    const row = element("li", { style: `--w:${((100 * Math.abs(weight)) / most).toFixed(1)}%` }, code);
    row.append(element("span", {}, sign + showNumber(weight)));
    list.append(row);
  }
  return element("div", {}, element("h4", {}, title), list);
}

function neighbours(card: FeatureCard, shown: ReadonlySet<number>): HTMLElement | undefined {
  if (card.nearest.length === 0) return undefined;
  const line = element("p", { class: "near" }, "Nearest: ");
  card.nearest.forEach(({ id, cosine }, i) => {
    if (i > 0) line.append(", ");
    const name = shown.has(id) ? element("a", { href: `#feature-${id}` }, `#${id}`) : `#${id}`;
    line.append(element("span", {}, name, ` (${cosine.toFixed(2).replace("-", "−")})`));
  });
  return line;
}

/** A card, and what brings it to another stop of the slider. */
export function cardElement(
  card: FeatureCard,
  shown: ReadonlySet<number>,
  opening: Stop | undefined,
): { article: HTMLElement; show: (stop: Stop) => void } {
  const heading = element(
    "div",
    { class: "heading" },
    element("h3", {}, element("a", { href: `#feature-${card.id}` }, `Feature ${card.id}`)),
    card.label !== undefined && element("p", { class: "label" }, card.label),
  );
  const density = element("dd");
  const largest = element("dd");
  const measures = element(
    "dl",
    { class: "measures" },
    element("dt", {}, "density"),
    density,
    element("dt", {}, "largest"),
    largest,
  );
  const histogram = element("div");
  const aside = element("aside", {}, heading, measures, histogram, neighbours(card, shown));
  const logits = element(
    "div",
    { class: "logits" },
    logitList("raises the logit of", "up", card.promoted),
    logitList("lowers the logit of", "down", card.suppressed),
  );
  const contexts = contextList(card, opening);
  const body = element(
    "div",
    {},
    ...contexts.nodes,
    card.promoted.length + card.suppressed.length > 0 && logits,
  );
  const article = element(
    "article",
    { class: "card", id: `feature-${card.id}`, "aria-label": `feature ${card.id}` },
    aside,
    body,
  );
  const measure = (stop: Stop | undefined): void => {
    const at = atStop(card, stop);
    density.textContent = at.density > 0 ? showShare(at.density) : "silent";
    largest.textContent = at.maxActivation > 0 ? showNumber(at.maxActivation) : "–";
    histogram.replaceChildren(...bars(at.activations));
  };
  measure(opening);
  const show = (stop: Stop): void => {
    measure(stop);
    contexts.show(stop);
  };
  return { article, show };
}

const plain = (text: TokenText): string =>
  typeof text === "string" ? text : (decode(bytesOf(text)) ?? text.bytes);

/** All that a search may find in a card, in lower case. */
export function searchText(card: FeatureCard): string {
  const contexts = card.contexts.map((context) =>
    joinBytes(context)
      .map((piece) => plain(piece.text))
      .join(""),
  );
  const tokens = [...card.promoted, ...card.suppressed].map((weight) => plain(weight.token));
  return [`#${card.id}`, card.label ?? "", ...contexts, ...tokens].join("\n").toLowerCase();
}
