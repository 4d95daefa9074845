/**
 * Texts with a label each, for probes: which sets there are, and their documents. Installed into the cache like the corpora.
 */
import { join } from "node:path";
import { usageError } from "../util/errors.ts";
import { didYouMean } from "../util/names.ts";
import { corpusByName } from "./catalogue.ts";
import { type InstallOptions, installPackages } from "./install.ts";
import { htmlToText, tidy } from "./markup.ts";
import { readBrown } from "./readers/brown.ts";
import { listFiles, onlyRoot, type Roots, readText } from "./readers/files.ts";
import { readQuran } from "./readers/json.ts";
import type { CorpusSource } from "./types.ts";

export interface LabelledDocument {
  /** Documents of one group say nearly the same or have one author: they belong on one side of a split. */
  readonly group: string;
  readonly text: string;
  readonly label: string;
}

export interface LabelledSet {
  readonly name: string;
  readonly title: string;
  readonly classes: readonly string[];
  /** As the package states it. */
  readonly licence: string;
  readonly source: CorpusSource;
  read(roots: Roots): AsyncGenerator<LabelledDocument>;
}

const languages = ["en", "es", "fr", "sv", "tr"];
const genres = ["learned", "belles_lettres", "lore", "news", "hobbies"];

const sets: readonly LabelledSet[] = [
  {
    name: "spam",
    title: "SpamAssassin's public mails, without their headers",
    classes: ["ham", "spam"],
    licence: "PDDL-1.0 / CC0-1.0 (data)",
    source: corpusByName("sotu").source,
    read: readMails,
  },
  {
    name: "brown-genres",
    title: "the five largest genres of the Brown corpus",
    classes: genres,
    licence: "MIT (package); the corpus: redistribution permitted",
    source: corpusByName("brown").source,
    async *read(roots) {
      for await (const { id, text, meta } of readBrown(roots)) {
        if (meta && genres.includes(meta.genre)) yield { group: id, text, label: meta.genre };
      }
    },
  },
  {
    name: "languages",
    title: "the same verses of the Qur'an in five languages of Latin script",
    classes: languages,
    licence: "CC-BY-SA-4.0 (LICENSE.txt; package.json: CC-BY-4.0)",
    source: corpusByName("quran-ru").source,
    async *read(roots) {
      for (const language of languages) {
        for await (const { id, text } of readQuran({ kind: "quran", language, versesPerDocument: 8 }, roots))
          yield { group: id, text, label: language };
      }
    },
  },
  {
    name: "sentiment",
    title: "one-sentence reviews of telephones at Amazon, negative and positive",
    classes: ["negative", "positive"],
    licence: "MIT (package); UCI sentiment labelled sentences",
    source: { kind: "npm", packages: [{ name: "wink-sentiment", version: "5.0.2" }] },
    async *read(roots) {
      const text = await readText(join(onlyRoot(roots), "test/data/amazon_cells_labelled.txt"));
      for (const [i, line] of text.split("\n").entries()) {
        const found = /^(.*)\t([01])\s*$/.exec(line);
        if (!found) continue;
        yield { group: String(i), text: found[1].trim(), label: found[2] === "1" ? "positive" : "negative" };
      }
    },
  },
];

/** All sets. */
export const listLabelledSets = (): readonly LabelledSet[] => sets;

/** The set of that name; an unknown one is answered with the nearest. */
export function labelledSet(name: string): LabelledSet {
  const found = sets.find((set) => set.name === name);
  if (found) return found;
  const names = sets.map((set) => set.name);
  throw usageError(
    `no labelled set is called "${name}" (there are ${names.join(", ")})${didYouMean(name, names)}`,
  );
}

/** Documents of a set in a fixed order; its packages are installed when they are not there. */
export async function* labelledDocuments(
  name: string,
  options: InstallOptions = {},
): AsyncGenerator<LabelledDocument> {
  const set = labelledSet(name);
  const packages = await installPackages(set, options);
  yield* set.read(new Map(packages.map((found) => [found.name, found.folder])));
}

async function* readMails(roots: Roots): AsyncGenerator<LabelledDocument> {
  const folder = join(onlyRoot(roots), "spam-assassin", "data");
  for (const path of await listFiles(folder)) {
    if (!path.endsWith(".txt")) continue;
    const text = mailText(await readText(join(folder, path), "replace"));
    if (text !== "") yield { group: path, text, label: path.startsWith("spam") ? "spam" : "ham" };
  }
}

/** What a mail says, without headers and markup; empty where it is encoded as base64. */
export function mailText(mail: string): string {
  const unix = mail.replace(/\r\n?/g, "\n");
  const end = unix.indexOf("\n\n");
  const [head, body] = end < 0 ? ["", unix] : [unix.slice(0, end), unix.slice(end + 2)];
  if (/^content-transfer-encoding:\s*base64/im.test(head)) return "";
  return /<(?:html|body|table|p|br)\b/i.test(body) ? htmlToText(body) : tidy(body);
}
