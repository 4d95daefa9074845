/**
 * Small text clean-ups shared by the readers: HTML and OSIS to text, entities, hard-wrapped lines, POD, reStructuredText, roff.
 * They keep prose readable; they are no parsers and never throw.
 */

const entities: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: " ",
  mdash: "—",
  ndash: "–",
  hellip: "…",
  lsquo: "‘",
  rsquo: "’",
  ldquo: "“",
  rdquo: "”",
  copy: "©",
  reg: "®",
  trade: "™",
  deg: "°",
  eacute: "é",
  egrave: "è",
  agrave: "à",
  ccedil: "ç",
  ouml: "ö",
  uuml: "ü",
  auml: "ä",
  oacute: "ó",
  aacute: "á",
  iacute: "í",
  ntilde: "ñ",
  uacute: "ú",
  pound: "£",
  sect: "§",
  middot: "·",
  times: "×",
  frac12: "½",
  bull: "•",
  laquo: "«",
  raquo: "»",
  shy: "",
};

/** Character references replaced by their characters; unknown names are left as they stand. */
export function decodeEntities(text: string): string {
  return text.replace(/&(#x?[0-9a-f]+|[a-z][a-z0-9]*);/gi, (whole, name: string) => {
    if (name[0] !== "#") return entities[name] ?? whole;
    const code =
      name[1] === "x" || name[1] === "X"
        ? Number.parseInt(name.slice(2), 16)
        : Number.parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff)
      ? String.fromCodePoint(code)
      : "\ufffd";
  });
}

const blockTags =
  /<\/?(?:p|div|h[1-6]|blockquote|li|ul|ol|table|tr|hr|dl|dt|dd|section|article|center)\b[^>]*>/gi;

/** Visible text of an HTML page: paragraphs separated by one empty line, no tags, `<pre>` flattened like the rest. */
export function htmlToText(html: string): string {
  const visible = html
    .replace(/<!--[\s\S]*?-->/g, " ")
    .replace(/<(script|style|head)\b[\s\S]*?<\/\1\s*>/gi, " ")
    .replace(/\s+/g, " ")
    .replace(/<br\b[^>]*>/gi, "\n")
    .replace(blockTags, "\n\n")
    .replace(/<[^>]*>/g, "");
  return tidy(decodeEntities(visible));
}

/** Text of an OSIS fragment as SWORD modules hold it: notes left out, titles and paragraphs on lines of their own. */
export function osisToText(osis: string): string {
  const text = osis
    .replace(/<note\b[\s\S]*?<\/note>/g, " ")
    .replace(/\s+/g, " ")
    .replace(/<\/title>|<title\b[^>]*>|<chapter\b[^>]*>/g, "\n\n")
    .replace(/<(?:div|p|l|lg|lb)\b[^>]*type="?x-p"?[^>]*>|<\/?(?:p|lg)\b[^>]*>/g, "\n\n")
    .replace(/<lb\b[^>]*>|<\/?l\b[^>]*>/g, "\n")
    .replace(/<[^>]*>/g, "");
  return tidy(decodeEntities(text));
}

/** Runs of blanks to one, at most one empty line in a row, no blanks at line ends, no empty margins. */
export function tidy(text: string): string {
  return text
    .replace(/[ \t\u00a0]+/g, " ")
    .replace(/ ?\n ?/g, "\n")
    .replace(/\n{3,}/g, "\n\n")
    .trim();
}

/**
 * Hard-wrapped prose as one line per paragraph. Paragraphs end at an empty line; a line indented by more than the
 * paragraph's first line (verse, code, lists) stays a line of its own. Line ends become `\n`.
 */
export function unwrap(text: string): string {
  const paragraphs = text.replace(/\r\n?/g, "\n").split(/\n[ \t]*\n\s*?(?=\S|[ \t]+\S)/);
  return paragraphs
    .map(joinLines)
    .filter((paragraph) => paragraph !== "")
    .join("\n\n");
}

function joinLines(paragraph: string): string {
  const lines = paragraph.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) return "";
  const margin = Math.max(indent(lines[0]), lines.length > 1 ? indent(lines[1]) : 0);
  let out = "";
  for (const line of lines) {
    const keepBreak = indent(line) > margin;
    const body = keepBreak ? line.trimEnd() : line.trim();
    if (out === "") out = body;
    else out += keepBreak ? `\n${body}` : ` ${body}`;
  }
  return out.trimStart();
}

function indent(line: string): number {
  return line.length - line.trimStart().length;
}

/** Perl's POD without its commands: headings stay as lines, `B<x>` becomes x, code blocks keep their indentation. */
export function podToText(pod: string): string {
  let text = pod
    .replace(/^=(?:begin|for)\b[\s\S]*?\n=(?:end|cut)\b.*$/gm, "")
    .replace(/^=(?:encoding|over|back|cut|pod|end).*$/gm, "");
  text = text.replace(/^=(?:head[1-6]|item)[ \t]*/gm, "");
  for (let depth = 0; depth < 4; depth++) {
    text = text.replace(
      /\b[BCFIXSZ](?:<<+\s([^<]*?)\s>>+|<([^<>]*)>)/g,
      (_, a?: string, b?: string) => a ?? b ?? "",
    );
    text = text.replace(
      /\bL<(?:([^<>|]*)\|)?([^<>]*)>/g,
      (_, label: string | undefined, target: string) => label ?? target,
    );
    text = text.replace(
      /\bE<(lt|gt|sol|verbar)>/g,
      (_, name: string) => ({ lt: "‹", gt: "›", sol: "/", verbar: "|" })[name] ?? "",
    );
  }
  return unwrapKeepingCode(text.replaceAll("‹", "<").replaceAll("›", ">"));
}

/** reStructuredText with inline roles reduced to their words; directives and headings stay. */
export function rstToText(rst: string): string {
  const text = rst.replace(
    /^\.\. (?:SPDX|include|highlight|_|index|toctree|kernel-doc|raw|contents|sectnum).*$/gm,
    "",
  );
  return unwrapKeepingCode(text.replace(/:[a-z:]+:`([^`<]+?)(?:\s*<[^`>]*>)?`/g, "$1").replace(/``/g, "`"));
}

/** Paragraphs at the left margin are joined to one line; tables, headings with underlines and indented blocks stay. */
function unwrapKeepingCode(text: string): string {
  const blocks = text.replace(/\r\n?/g, "\n").split(/\n{2,}/);
  const joined = blocks.map((block) => {
    const lines = block.split("\n");
    const asIs = lines.some((line) => /^[ \t]|^(.)\1{2,}$|^[-*+|=.]/.test(line));
    return asIs ? block.trimEnd() : lines.map((line) => line.trim()).join(" ");
  });
  return joined.filter((block) => block.trim() !== "").join("\n\n");
}

/** A manual page without roff requests, fonts and escapes; one line per paragraph, `.nf` blocks keep their lines. */
export function roffToText(roff: string): string {
  const out: string[] = [];
  let paragraph: string[] = [];
  let filled = true;
  const flush = () => {
    if (paragraph.length > 0) out.push(paragraph.join(filled ? " " : "\n"));
    paragraph = [];
  };
  for (const line of roff.replace(/\r\n?/g, "\n").split("\n")) {
    if (/^[.']\s*\\"/.test(line)) continue;
    const request = /^[.']\s*([A-Za-z]{1,3})\b\s*(.*)$/.exec(line);
    if (!request) {
      if (line.trim() === "") flush();
      else if (!/^[.']/.test(line)) paragraph.push(roffEscapes(line));
      continue;
    }
    const [, name, rest] = request;
    const words = roffEscapes(rest.replace(/"/g, ""));
    if (/^(B|I|R|BR|BI|IR|IB|RB|RI|SM|SB)$/.test(name)) {
      paragraph.push(name.length === 2 && name !== "SM" ? words.replace(/ /g, "") : words);
    } else if (/^(SH|SS|TP|IP|HP|PP|P|LP|sp|br|RS|RE|TH|nf|fi|EX|EE|in|ti)$/.test(name)) {
      flush();
      if (name === "nf" || name === "EX") filled = false;
      if (name === "fi" || name === "EE") filled = true;
      if (words !== "" && /^(SH|SS|IP)$/.test(name)) out.push(words);
    }
  }
  flush();
  return tidy(out.join("\n\n"));
}

function roffEscapes(text: string): string {
  return text
    .replace(/\\f(?:\[[^\]]*\]|\(..|.)/g, "")
    .replace(/\\s[-+]?\d/g, "")
    .replace(
      /\\\((..)/g,
      (_, name: string) => ({ em: "—", en: "–", aq: "'", bu: "•", co: "©", lq: "“", rq: "”" })[name] ?? "",
    )
    .replace(/\\[&|^/,]/g, "")
    .replace(/\\-/g, "-")
    .replace(/\\e/g, "\\")
    .replace(/\\ /g, " ");
}
