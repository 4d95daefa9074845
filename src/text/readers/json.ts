/**
 * Readers of JSON packages: SPDX licence texts, the World Factbook, Qur'an translations.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { decodeEntities, tidy, unwrap } from "../markup.ts";
import type { Document, ReaderSpec } from "../types.ts";
import { listFiles, onlyRoot, type Roots, readText } from "./files.ts";

/** One document per licence text; exact copies (after lower-casing and dropping all but letters) appear once. */
export async function* readSpdx(roots: Roots): AsyncGenerator<Document> {
  const licences = JSON.parse(await readText(join(onlyRoot(roots), "spdx-full.json"))) as Record<
    string,
    { name: string; licenseText?: string }
  >;
  const seen = new Set<string>();
  for (const [id, { name, licenseText }] of Object.entries(licences)) {
    if (!licenseText) continue;
    const letters = licenseText.toLowerCase().replace(/[^a-z]+/g, "");
    const digest = createHash("sha256").update(letters).digest("hex");
    if (seen.has(digest)) continue;
    seen.add(digest);
    yield { id, text: unwrap(licenseText), meta: { name } };
  }
}

/** One document per country or region: headings, then `Field: text` lines. */
export async function* readFactbook(roots: Roots): AsyncGenerator<Document> {
  const root = onlyRoot(roots);
  for (const path of await listFiles(root)) {
    if (!/^[a-z-]+\/[a-z0-9_]+\.json$/.test(path) || path.startsWith("meta/")) continue;
    const country = JSON.parse(await readText(join(root, path))) as Record<string, unknown>;
    const sections = Object.entries(country).map(
      ([title, fields]) => `${title}\n\n${fieldLines(fields, "").join("\n")}`,
    );
    const text = tidy(decodeEntities(sections.join("\n\n").replaceAll("++", "\n")));
    if (text.length > 200) yield { id: path.replace(/\.json$/, ""), text };
  }
}

function fieldLines(value: unknown, label: string): string[] {
  if (typeof value === "string") return [label === "" ? value : `${label}: ${value}`];
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([key, inner]) => fieldLines(inner, key === "text" ? label : key));
}

interface Sura {
  id: number;
  translation: string;
  verses: { id: number; translation: string }[];
}

/** A few consecutive verses of one translation per document. */
export async function* readQuran(
  spec: ReaderSpec & { kind: "quran" },
  roots: Roots,
): AsyncGenerator<Document> {
  const file = join(onlyRoot(roots), "dist", `quran_${spec.language}.json`);
  const suras = JSON.parse(await readText(file)) as Sura[];
  for (const sura of suras) {
    for (let i = 0; i < sura.verses.length; i += spec.versesPerDocument) {
      const verses = sura.verses
        .slice(i, i + spec.versesPerDocument)
        .map((verse) => verse.translation.trim());
      const text = `${sura.translation}\n\n${verses.join("\n")}`;
      yield { id: `${sura.id}:${i + 1}`, text, meta: { language: spec.language, sura: String(sura.id) } };
    }
  }
}
