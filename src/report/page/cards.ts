/**
 * Feature cards: contexts with tokens shaded by activation, logits, histogram, neighbours.
 */
import type { FeatureCard, FeatureContext, Histogram, TokenText, TokenWeight } from "../data.ts";
import { element, showNumber, showShare } from "./dom.ts";

/** Contexts shown before "more" is asked for. */
const FIRST = 5;

/** What is drawn of a context: one or more tokens that belong together. */
interface Piece {
  text: TokenText;
  activation: number;
  /** Values of the tokens, as the tip shows them. */
  values: number[];
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
  for (let i = 0; i < context.tokens.length; i++) {
    const token = context.tokens[i];
    let piece: Piece = { text: token, activation: context.activations[i], values: [context.activations[i]] };
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
        const values = context.activations.slice(i, j + 1);
        piece = { text, activation: Math.max(...values), values: [...values] };
        i = j;
        break;
      }
    }
    pieces.push(piece);
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

function contextLine(context: FeatureContext, largest: number): HTMLLIElement {
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
      "data-value": piece.values.map(showNumber).join(" + "),
    });
    if (isPeak) mark.className = "peak";
    // The space before a word stays unshaded: at a line's end it would hang there as a stray block.
    const space = typeof piece.text === "string" ? /^ +(?=\S)/.exec(piece.text)?.[0] : undefined;
    if (space) text.append(space);
    mark.append(visible(space ? (piece.text as string).slice(space.length) : piece.text));
    text.append(mark);
  }
  if (context.source) text.append(element("span", { class: "source" }, context.source));
  return element("li", {}, element("span", { class: "value" }, showNumber(peak)), text);
}

function contextList(card: FeatureCard): Node[] {
  const lines = element("ol", { class: "contexts", "aria-label": `contexts of feature ${card.id}` });
  const show = (contexts: readonly FeatureContext[]): void => {
    for (const context of contexts) lines.append(contextLine(context, card.maxActivation));
  };
  show(card.contexts.slice(0, FIRST));
  const rest = card.contexts.slice(FIRST);
  if (rest.length === 0) return [lines];
  const more = element("button", { type: "button", class: "more" }, `${rest.length} more`);
  more.addEventListener("click", () => {
    show(rest);
    more.remove();
    const first = lines.children[FIRST] as HTMLElement;
    first.tabIndex = -1; // the keyboard goes on where the new lines begin
    first.focus({ preventScroll: true });
  });
  return [lines, more];
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

export function cardElement(card: FeatureCard, shown: ReadonlySet<number>): HTMLElement {
  const heading = element(
    "div",
    { class: "heading" },
    element("h3", {}, element("a", { href: `#feature-${card.id}` }, `Feature ${card.id}`)),
    card.label !== undefined && element("p", { class: "label" }, card.label),
  );
  const measures = element(
    "dl",
    { class: "measures" },
    element("dt", {}, "density"),
    element("dd", {}, showShare(card.density)),
    element("dt", {}, "largest"),
    element("dd", {}, showNumber(card.maxActivation)),
  );
  const histogram = element("div", {}, ...bars(card.activations));
  const aside = element("aside", {}, heading, measures, histogram, neighbours(card, shown));
  const logits = element(
    "div",
    { class: "logits" },
    logitList("raises the logit of", "up", card.promoted),
    logitList("lowers the logit of", "down", card.suppressed),
  );
  const body = element(
    "div",
    {},
    ...contextList(card),
    card.promoted.length + card.suppressed.length > 0 && logits,
  );
  return element(
    "article",
    { class: "card", id: `feature-${card.id}`, "aria-label": `feature ${card.id}` },
    aside,
    body,
  );
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
