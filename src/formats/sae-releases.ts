/**
 * Public releases of SAEs: where they are on the hub, how their paths are made, and in which format. Only what is known is
 * listed; a repository may hold more. Braces stand for what varies: {layer}, {width}, {l0}, {trainer}.
 */
import type { SaeFormat } from "./plain-sae.ts";

export interface SaeRelease {
  readonly name: string;
  /** Language model, as the hub or TransformerLens calls it. */
  readonly model: string;
  /** Repository on the Hugging Face hub. */
  readonly repo: string;
  readonly format: SaeFormat;
  /** Folder or file of one SAE in the repository. */
  readonly path: string;
  /** Hook point that it reads; absent where none of ours is surely meant. */
  readonly hook?: string;
  /** What one must know besides. */
  readonly note?: string;
}

const gemmaScope = (size: string, tune: "pt" | "it", site: "res" | "mlp" | "att"): SaeRelease => ({
  name: `gemma-scope-${size}-${tune}-${site}`,
  model: `gemma-2-${size}${tune === "it" ? "-it" : ""}`,
  repo: `google/gemma-scope-${size}-${tune}-${site}`,
  format: "gemma-scope",
  path: "layer_{layer}/width_{width}/average_l0_{l0}/params.npz",
  hook: {
    res: "blocks.{layer}.hook_resid_post",
    mlp: "blocks.{layer}.hook_mlp_out",
    att: "blocks.{layer}.attn.hook_z",
  }[site],
});

const gemmaScope2 = (size: string, tune: "pt" | "it"): SaeRelease => ({
  name: `gemma-scope-2-${size}-${tune}`,
  model: `gemma-3-${size}-${tune}`,
  repo: `google/gemma-scope-2-${size}-${tune}`,
  format: "gemma-scope-2",
  path: "resid_post/layer_{layer}_width_{width}_l0_{l0}/params.safetensors",
  hook: "blocks.{layer}.hook_resid_post",
  note:
    "attn_out (reads attn.hook_z), mlp_out (hook_mlp_out) and transcoder (ln2.hook_normalized to hook_mlp_out) in place of " +
    "resid_post; {l0} is small, medium or big",
});

const SITES = { R: "res", A: "att", M: "mlp", TC: "transcoder" } as const;

const llamaScope = (site: keyof typeof SITES, expansion: 8 | 32): SaeRelease => ({
  name: `llama-scope-lx${site.toLowerCase()}-${expansion}x`,
  model: "meta-llama/Llama-3.1-8B",
  repo: `fnlp/Llama3_1-8B-Base-LX${site}-${expansion}x`,
  format: "llama-scope",
  path: `Llama3_1-8B-Base-L{layer}${site}-${expansion}x`,
  note: `${SITES[site]}; the hook point stands in hyperparams.json`,
});

export const SAE_RELEASES: readonly SaeRelease[] = [
  {
    name: "gpt2-small-res-jb",
    model: "gpt2-small",
    repo: "jbloom/GPT2-Small-SAEs-Reformatted",
    format: "sae-lens",
    path: "blocks.{layer}.hook_resid_pre",
    hook: "blocks.{layer}.hook_resid_pre",
  },
  {
    name: "gemma-2b-res-jb",
    model: "gemma-2b",
    repo: "jbloom/Gemma-2b-Residual-Stream-SAEs",
    format: "sae-lens",
    path: "gemma_2b_blocks.{layer}.hook_resid_post_16384",
    hook: "blocks.{layer}.hook_resid_post",
    note: "layer 12 needs --norm-factor 0.21381938399317255, which is not in its files; layers 0 and 6 have a suffix to the path",
  },
  {
    name: "gemma-2b-it-res-jb",
    model: "gemma-2b-it",
    repo: "jbloom/Gemma-2b-IT-Residual-Stream-SAEs",
    format: "sae-lens",
    path: "gemma_2b_it_blocks.12.hook_resid_post_16384",
    hook: "blocks.12.hook_resid_post",
  },
  gemmaScope("2b", "pt", "res"),
  gemmaScope("2b", "pt", "mlp"),
  gemmaScope("2b", "pt", "att"),
  gemmaScope("9b", "pt", "res"),
  gemmaScope("9b", "pt", "mlp"),
  gemmaScope("9b", "pt", "att"),
  gemmaScope("9b", "it", "res"),
  gemmaScope("27b", "pt", "res"),
  gemmaScope2("1b", "pt"),
  gemmaScope2("1b", "it"),
  gemmaScope2("4b", "pt"),
  gemmaScope2("4b", "it"),
  gemmaScope2("12b", "it"),
  gemmaScope2("27b", "it"),
  llamaScope("R", 8),
  llamaScope("R", 32),
  llamaScope("A", 8),
  llamaScope("A", 32),
  llamaScope("M", 8),
  llamaScope("M", 32),
  llamaScope("TC", 8),
  llamaScope("TC", 32),
  {
    name: "saebench-pythia-160m-topk-16k",
    model: "EleutherAI/pythia-160m-deduped",
    repo: "adamkarvonen/saebench_pythia-160m-deduped_width-2pow14_date-0108",
    format: "dictionary-learning",
    path: "TopK_pythia-160m-deduped__0108/resid_post_layer_{layer}/trainer_{trainer}",
    hook: "blocks.{layer}.hook_resid_post",
    note: "the folders of its other trainings are built likewise",
  },
  {
    name: "sparsify-pythia-160m-32k",
    model: "EleutherAI/pythia-160m",
    repo: "EleutherAI/sae-pythia-160m-32k",
    format: "sparsify",
    path: "layers.{layer}",
    hook: "blocks.{layer}.hook_resid_post",
  },
  {
    name: "sparsify-llama-3-8b-32x",
    model: "meta-llama/Meta-Llama-3-8B",
    repo: "EleutherAI/sae-llama-3-8b-32x",
    format: "sparsify",
    path: "layers.{layer}",
    hook: "blocks.{layer}.hook_resid_post",
  },
  {
    name: "sparsify-smollm2-135m-64x",
    model: "SmolLM2-135M",
    repo: "EleutherAI/sae-SmolLM2-135M-64x",
    format: "sparsify",
    path: "layers.{layer}.mlp",
    hook: "blocks.{layer}.hook_mlp_out",
  },
];

/** Releases in which every word of the text occurs: in name, model, repository or format. */
export function findReleases(text = ""): SaeRelease[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return SAE_RELEASES.filter(({ name, model, repo, format }) => {
    const all = `${name} ${model} ${repo} ${format}`.toLowerCase();
    return words.every((word) => all.includes(word));
  });
}
