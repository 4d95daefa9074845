/**
 * Text into HTML and data into a script element, so that nothing in a corpus can become markup.
 */

const ENTITIES: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};

/** HTML that is ready to be placed; everything else is escaped by `html`. */
export class Html {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export function escapeHtml(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is replaced here
  return text.replace(/[&<>"']/g, (c) => ENTITIES[c]).replace(/[\0-\x08\x0b\x0c\x0e-\x1f\x7f]/g, "\ufffd");
}

type Part = Html | string | number | null | undefined | false | readonly Part[];

function render(part: Part): string {
  if (part === null || part === undefined || part === false) return "";
  if (part instanceof Html) return part.text;
  if (typeof part === "object") return part.map(render).join("");
  return escapeHtml(String(part));
}

/** Tagged template: strings and numbers are escaped, `Html` and arrays of it are placed as they are. */
export function html(strings: TemplateStringsArray, ...parts: readonly Part[]): Html {
  return new Html(strings.map((text, i) => text + (i < parts.length ? render(parts[i]) : "")).join(""));
}

/** JSON that may stand inside a script element: no `<`, and no line separator that old parsers trip over. */
export function embedJson(value: unknown): Html {
  const text = JSON.stringify(value, (_, v) => (typeof v === "number" ? shorten(v) : v));
  const unicode = (c: string): string => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return new Html(text.replace(/[<>&\u2028\u2029]/g, unicode));
}

/** Four significant digits are more than a page can show; whole numbers stay exact. */
function shorten(x: number): number | null {
  if (!Number.isFinite(x)) return null;
  return Number.isInteger(x) ? x : Number(x.toPrecision(4));
}
