/**
 * Readers of files that hold text as it is: one document per file, perhaps hard-wrapped or lightly marked up.
 */
import { join } from "node:path";
import { htmlToText, podToText, roffToText, rstToText, unwrap } from "../markup.ts";
import type { Document, PlainClean, ReaderSpec } from "../types.ts";
import { listFiles, onlyRoot, type Roots, readText } from "./files.ts";

const cleaners: Record<PlainClean, (text: string) => string> = {
  none: (text) => text.replace(/\r\n?/g, "\n").trim(),
  unwrap,
  pod: podToText,
  rst: rstToText,
  roff: roffToText,
};

/** One document per file that matches; the id is the path without its extensions. */
export async function* readPlain(
  spec: ReaderSpec & { kind: "plain" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  const clean = cleaners[spec.clean];
  for (const path of await listFiles(folder)) {
    if (!spec.match.test(path) || spec.exclude?.test(path)) continue;
    const text = clean(await readText(join(folder, path), "replace"));
    if (text.length >= 40) yield { id: path.replace(/(\.(txt|rst|pod|gz|[1-8]))+$/, ""), text };
  }
}

/** One document per HTML page. */
export async function* readHtml(spec: ReaderSpec & { kind: "html" }, roots: Roots): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  for (const path of await listFiles(folder)) {
    if (!spec.match.test(path)) continue;
    const text = htmlToText(await readText(join(folder, path), "replace"));
    if (text.length >= 200) yield { id: path.replace(/\.html?(\.gz)?$/, ""), text };
  }
}

/** One document per chapter file `{title, text}` with unwrapped paragraphs. */
export async function* readChapters(
  spec: ReaderSpec & { kind: "chapters-json" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  for (const path of await listFiles(folder)) {
    if (!spec.match.test(path)) continue;
    const chapter = JSON.parse(await readText(join(folder, path))) as { title: string; text: string };
    const id = path.replace(/\.json$/, "");
    yield { id, text: `${chapter.title}\n\n${chapter.text}`, meta: { title: chapter.title } };
  }
}

/** The Jargon File: one document per entry (`:name: ...`) and per essay between them. */
export async function* readJargon(
  spec: ReaderSpec & { kind: "jargon" },
  roots: Roots,
): AsyncGenerator<Document> {
  const text = await readText(join(onlyRoot(roots), spec.file));
  const parts = text.split(/\n(?= {2,4}:[^\s:][^\n]*:)/);
  let index = 0;
  for (const part of parts) {
    const body = unwrap(part.replace(/═+/g, ""));
    const head = /^:([^:\n]+):/.exec(body)?.[1] ?? "front";
    if (body.length >= 40) yield { id: `${index}-${head.replace(/\s+/g, "_")}`, text: body };
    index++;
  }
}

/** Fortune files: records end with a line `%`; neighbouring records form one document, their texts separated by an empty line. */
export async function* readFortunes(
  spec: ReaderSpec & { kind: "fortunes" },
  roots: Roots,
): AsyncGenerator<Document> {
  const folder = join(onlyRoot(roots), spec.folder);
  for (const path of await listFiles(folder)) {
    if (/\.(dat|u8)$/.test(path) || spec.exclude?.test(path)) continue;
    const records = (await readText(join(folder, path), "replace"))
      .replace(/\r\n?/g, "\n")
      .split(/^%[ \t]*$/m)
      .map((record) => record.replace(/\n\t+/g, "\n").trim())
      .filter((record) => record.length > 0);
    for (let i = 0; i < records.length; i += spec.perDocument) {
      yield { id: `${path}/${i}`, text: records.slice(i, i + spec.perDocument).join("\n\n") };
    }
  }
}
