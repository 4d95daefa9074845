/**
 * The model card of a language model trained on a mixture of corpora: Markdown with Hugging Face's front matter, from plain
 * data. Every number in it is measured or counted by whoever calls; nothing is read here.
 */
import { formatCount, formatDuration, mean, signed } from "../util/index.ts";

/** One corpus of the training mixture. */
export interface CardCorpus {
  readonly name: string;
  readonly title: string;
  readonly domain: string;
  /** `package@version`, several joined by commas. */
  readonly packages: string;
  readonly licence: string;
  /** Tokens of the mixture file that come from it, repetitions included. */
  readonly tokens: number;
  /** Passes over the corpus in the whole mixture file. */
  readonly epochs: number;
}

/** Held-out results of one domain, all on the same tokens. */
export interface CardLoss {
  readonly domain: string;
  /** Tokens scored. */
  readonly tokens: number;
  /** Mean cross-entropy of the model, nats a token. */
  readonly loss: number;
  /** Of that mean, from the spread between windows. */
  readonly standardError: number;
  /** The same loss in bits for each UTF-8 byte of the text scored; what EOS costs is counted, EOS itself has no bytes. */
  readonly bitsPerByte: number;
  /** Mean cross-entropy of the n-gram model, nats a token. */
  readonly ngram: number;
  /** Of the model that it is compared with, if there is one; the error is that of the difference, window by window. */
  readonly twin?: { readonly loss: number; readonly standardError: number };
}

/** A continuation, sampled with a seed. */
export interface CardSample {
  readonly domain: string;
  readonly prompt: string;
  readonly text: string;
}

export interface ModelCard {
  readonly name: string;
  /** SPDX identifier of the weights' licence, lower case. */
  readonly license: string;
  /** ISO 639-1 codes of the languages in the mixture. */
  readonly languages: readonly string[];
  readonly parameters: { readonly total: number; readonly blocks: number };
  /** Whether Python's transformers knows the architecture. */
  readonly inTransformers: boolean;
  /** Label and value, in the order of the table. */
  readonly architecture: readonly (readonly [string, string])[];
  readonly context: number;
  readonly vocabSize: number;
  readonly training: CardTraining;
  readonly mixture: { readonly tokens: number; readonly corpora: readonly CardCorpus[] };
  readonly losses: readonly CardLoss[];
  /** The model whose losses stand beside these. */
  readonly twin?: CardTwin;
  /** Windows a domain. */
  readonly windows: number;
  readonly ngram: { readonly order: number; readonly tokens: number; readonly ngrams: number };
  readonly sampling: { readonly temperature: number; readonly topP: number; readonly seed: number };
  readonly samples: readonly CardSample[];
  /** The command line that made this card. */
  readonly command: string;
}

export interface CardTwin {
  readonly name: string;
  /** Settings that differ: label, this model's, the twin's. */
  readonly differences: readonly (readonly [string, string, string])[];
}

export interface CardTraining {
  /** Runs the whole recipe. */
  readonly recipe: string;
  /** Tokens seen, BOS and EOS included. */
  readonly tokens: number;
  readonly steps: number;
  /** Time spent in training steps. */
  readonly seconds: number;
  /** Mean training loss over the last records, nats a token. */
  readonly loss: number;
  readonly machine?: string;
  /** Label and value, in the order of the table; empty if the run does not say. */
  readonly settings: readonly (readonly [string, string])[];
}

/** The card as a Markdown file. */
export function renderModelCard(card: ModelCard): string {
  const sections = [
    frontMatter(card),
    introduction(card),
    useSection(card),
    modelSection(card),
    dataSection(card),
    trainingSection(card),
    resultsSection(card),
    ...(card.twin ? [twinSection(card, card.twin)] : []),
    sampleSection(card),
    limitSection(card),
  ];
  return `${sections.join("\n\n")}\n`;
}

const TAGS = ["interpretability", "sparse-autoencoders", "sluice"];

const frontMatter = (card: ModelCard): string =>
  [
    "---",
    `license: ${card.license}`,
    "language:",
    ...card.languages.map((code) => `  - ${code}`),
    ...(card.inTransformers ? ["library_name: transformers"] : []),
    "pipeline_tag: text-generation",
    "tags:",
    ...(card.inTransformers ? ["llama"] : []).concat(TAGS).map((tag) => `  - ${tag}`),
    "---",
  ].join("\n");

const introduction = ({ name, parameters, mixture, training }: ModelCard): string => `# ${name}

A small language model to look inside: ${formatCount(parameters.total)} parameters (${formatCount(parameters.blocks)} outside
embedding and head), trained from scratch by [sluice](../../README.md) on ${formatCount(training.tokens)} tokens of a
documented mixture of ${mixture.corpora.length} texts from ${countDistinct(mixture.corpora.map((c) => c.domain))} domains. It is
small enough for sparse autoencoders to be trained on its hidden states on a laptop, and its domains are distinct enough
for features to have something to be about.`;

const useSection = (card: ModelCard): string => `## Use

In sluice:

\`\`\`ts
import { generate, loadTransformer } from "sluice/models";
import { createDevice } from "sluice/tensor";
import { loadTokenizer } from "sluice/text";

const device = await createDevice();
const model = await loadTransformer(device, "models/${card.name}");
const tokenizer = await loadTokenizer("models/${card.name}");
const prompt = [tokenizer.bosId ?? 0, ...tokenizer.encode("The history of")];
const [{ text }] = await generate(model, [prompt], { tokenizer, maxNewTokens: 40, temperature: 0.8 });
\`\`\`

${pythonSection(card)}

Texts begin with \`<|bos|>\`, as every window did in training; at most ${card.context} tokens at a time.`;

const pythonSection = (card: ModelCard): string =>
  card.inTransformers
    ? `In Python's transformers (the layout is Llama's):

\`\`\`python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("models/${card.name}")
model = AutoModelForCausalLM.from_pretrained("models/${card.name}")
inputs = tokenizer("The history of", return_tensors="pt")  # puts <|bos|> in front
print(tokenizer.decode(model.generate(inputs.input_ids, max_new_tokens=40, do_sample=True)[0]))
\`\`\``
    : "Python's transformers does not know this architecture.";

const modelSection = ({ architecture, parameters }: ModelCard): string => `## Model

${table(
  ["", ""],
  [
    ...architecture,
    [
      "Parameters",
      `${groups(parameters.total)}, of these ${groups(parameters.blocks)} outside embedding and head`,
    ],
  ],
)}`;

function dataSection({ mixture, training, license }: ModelCard): string {
  const share = training.tokens / mixture.tokens;
  const rows = mixture.corpora.map((c) => [
    c.name,
    c.title,
    c.domain,
    c.packages,
    c.licence,
    formatCount(Math.round(c.tokens * share)),
    (c.epochs * share).toFixed(2),
  ]);
  const copyleft = mixture.corpora.filter((c) => isCopyleft(c.licence)).map((c) => c.name);
  return `## Data

The mixture has ${formatCount(mixture.tokens)} tokens of text. Training took windows of it in random order until
${formatCount(training.tokens)} tokens were seen, ${share.toFixed(2)} times its length; "tokens" and "epochs" below are that share of each text.
Held-out documents (a fixed share of each text, chosen by the hash of the document's name, or a whole work) are not in it.

${table(["Text", "", "Domain", "Package", "Licence", "Tokens", "Epochs"], rows)}

**Licences.** The weights are under the ${license.toUpperCase()} licence, as the package is. The texts are not part of this
folder; each keeps its own licence, as its package states it in the table.${
    copyleft.length === 0
      ? ""
      : ` Some are under copyleft or share-alike licences
such as the GPL, the GFDL or CC BY-SA, wholly, in part or as one choice of several: ${copyleft.join(", ")}. Whether weights trained on such a text are
bound by its licence is not settled. Who needs to be sure takes those parts out of the mixture and runs the recipe again.`
  }`;
}

function trainingSection({ training }: ModelCard): string {
  const { recipe, tokens, steps, seconds, loss, machine, settings } = training;
  return `## Training

\`\`\`sh
${recipe}
\`\`\`

makes it again, from the texts to the weights. ${formatCount(tokens)} tokens in ${groups(steps)} steps, ${formatDuration(seconds)} of training${machine ? ` on ${machine}` : ""} (${groups(Math.round(tokens / seconds))} tokens a second).
Training loss at the end: ${loss.toFixed(3)} nats a token.${settings.length === 0 ? "" : `\n\n${table(["", ""], settings)}`}`;
}

function resultsSection({ name, losses, ngram, windows, context, command }: ModelCard): string {
  const row = (l: CardLoss) => [
    l.domain,
    groups(l.tokens),
    `${l.loss.toFixed(3)} ± ${l.standardError.toFixed(3)}`,
    Math.exp(l.loss).toFixed(1),
    l.bitsPerByte.toFixed(3),
    l.ngram.toFixed(3),
    (l.loss - l.ngram).toFixed(3),
  ];
  const head = [
    "Domain",
    "Tokens",
    `${name}, nats a token`,
    "Perplexity",
    "Bits a byte",
    `${ngram.order}-gram`,
    "Δ",
  ];
  return `## Results

Cross-entropy on held-out documents: ${windows} windows of ${context} tokens a domain (all, where there are fewer), evenly spread,
± the standard error over windows. Beside it, on the same tokens, an interpolated ${ngram.order}-gram model with modified
Kneser-Ney smoothing (Kneser & Ney 1995; Chen & Goodman 1998), trained on the first ${formatCount(ngram.tokens)} tokens of the same
mixture (${formatCount(ngram.ngrams)} distinct ${ngram.order}-grams). Within a window ${name} sees only the window; the ${ngram.order}-gram model
also sees the tokens before it. Δ below zero: ${name} is better. Δ above zero: texts repeat themselves, and a table of that many
counts remembers more of the repeated passages than a network of this size.

${table(head, losses.map(row), 1)}

\`\`\`sh
${command}
\`\`\``;
}

function twinSection({ name, losses, windows, context }: ModelCard, twin: CardTwin): string {
  const rows = losses.flatMap(({ domain, tokens, loss, twin: other }) =>
    other
      ? [
          [
            domain,
            groups(tokens),
            loss.toFixed(3),
            other.loss.toFixed(3),
            `${signed(loss - other.loss, 4)} ± ${other.standardError.toFixed(4)}`,
            `${signed(100 * Math.expm1(loss - other.loss), 1)} %`,
          ],
        ]
      : [],
  );
  const differences = losses.flatMap(({ loss, twin: other }) => (other ? [loss - other.loss] : []));
  const average = mean(differences);
  return `## Beside ${twin.name}

What differs between the two:

${table(["", name, twin.name], twin.differences)}

Cross-entropy, nats a token, on the same ${windows} windows of ${context} tokens a domain; the difference ± its standard error over windows
(one training run each, so the spread between seeds is not in it). Below zero: ${name} is better.

${table(["Domain", "Tokens", name, twin.name, "Difference", "Perplexity"], rows, 1)}

Mean over the domains: ${signed(average, 4)} nats, ${signed(100 * Math.expm1(average), 1)} % perplexity.`;
}

function sampleSection({ samples, sampling }: ModelCard): string {
  const { temperature, topP, seed } = sampling;
  const blocks = samples.map(({ domain, prompt, text }) => {
    const body = `${prompt}⟦${text}⟧`;
    const fence = fenceFor(body);
    return `**${domain}**\n\n${fence}text\n${body}\n${fence}`;
  });
  return `## Samples

Each begins with the first tokens of a held-out document; what the model wrote stands in ⟦ ⟧. Temperature ${temperature}, top-p ${topP},
seed ${seed}; one try each, nothing chosen.

${blocks.join("\n\n")}`;
}

const limitSection = ({ name, context }: ModelCard): string => `## Intended use and limits

- For research into how language models work, for teaching, and as a test of tools: its size is the point.
- Not for giving information, advice or text that anybody relies on. Its sentences are often grammatical and mostly untrue. What
  looks like law, medicine, a proof or a program is imitation of their form.
- It has not been tuned to follow instructions or to refuse, and it was not tested for safety.
- Its texts are what free packages offer: many are old, religious, political or jokes, with the views and prejudices of their
  authors and times. The model repeats them.
- It can repeat stretches of its training texts word for word, most of all where a text was seen more than once.
- It sees ${context} tokens at a time. ${name}'s vocabulary is small, so words outside its domains and other languages become many
  short tokens.`;

const isCopyleft = (licence: string): boolean => /GPL|GFDL|BY-SA|copyleft/i.test(licence);

const countDistinct = (values: readonly string[]): number => new Set(values).size;

/** `1234567` as `1,234,567`. */
const groups = (n: number): string => n.toLocaleString("en-US");

/** A Markdown table; columns from `rightFrom` on are aligned to the right. */
function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  rightFrom = Number.POSITIVE_INFINITY,
): string {
  const line = (cells: readonly string[]) => `| ${cells.map(escapeCell).join(" | ")} |`;
  const rule = head.map((_, i) => (i >= rightFrom ? "--:" : "---"));
  return [line(head), `| ${rule.join(" | ")} |`, ...rows.map(line)].join("\n");
}

const escapeCell = (cell: string): string => cell.replaceAll("|", "\\|").replaceAll("\n", " ");

/** Backticks enough to fence a text that has some itself. */
function fenceFor(text: string): string {
  const longest = Math.max(0, ...Array.from(text.matchAll(/`+/g), ([run]) => run.length));
  return "`".repeat(Math.max(3, longest + 1));
}
