/**
 * Documents of a catalogue corpus, split by document into train and held-out.
 */
import { corpusByName } from "./catalogue.ts";
import { hashUnit } from "./hashing.ts";
import { type InstallOptions, installPackages } from "./install.ts";
import { readDocuments } from "./readers/index.ts";
import type { Document, HeldOutRule, Split } from "./types.ts";

/** Whether a document belongs to the held-out part; depends only on the corpus's name, the id and the rule. */
export function isHeldOut(corpus: string, id: string, rule: HeldOutRule): boolean {
  return rule.kind === "named" ? rule.ids.includes(id) : hashUnit(`${corpus}/${id}`) < rule.share;
}

/** Documents of a corpus in their fixed order; the packages are installed when they are not there. */
export async function* corpusDocuments(
  name: string,
  options: InstallOptions & { split?: Split } = {},
): AsyncGenerator<Document> {
  const corpus = corpusByName(name);
  const packages = await installPackages(corpus, options);
  const roots = new Map(packages.map((found) => [found.name, found.folder]));
  const { split = "all" } = options;
  for await (const document of readDocuments(corpus.reader, roots)) {
    if (split === "all" || isHeldOut(name, document.id, corpus.heldOut) === (split === "heldout"))
      yield document;
  }
}
