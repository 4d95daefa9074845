/**
 * Where an SAE belongs, as other libraries spell it, in the names of hook points. What is not surely one of these stays unnamed.
 */

/** `layers.5`, `h.5.mlp`, `gpt_neox.layers.5.attention` of a Hugging Face model: the output of that module. */
export function hookOfModule(name: string): string | undefined {
  if (/^(?:.*\.)?(?:embed_tokens|wte|embed_in)$/.test(name)) return "hook_embed";
  const found = /^(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(mlp|attn|self_attn|attention))?$/.exec(name);
  if (!found) return undefined;
  const [, layer, part] = found;
  if (part === undefined) return `blocks.${layer}.hook_resid_post`;
  return `blocks.${layer}.${part === "mlp" ? "hook_mlp_out" : "hook_attn_out"}`;
}

/** The inverse, for the names that it gives. */
export function moduleOfHook(hook: string): string | undefined {
  if (hook === "hook_embed") return "embed_tokens";
  const found = /^blocks\.(\d+)\.hook_(resid_post|mlp_out|attn_out)$/.exec(hook);
  if (!found) return undefined;
  return `layers.${found[1]}${{ resid_post: "", mlp_out: ".mlp", attn_out: ".attn" }[found[2]]}`;
}

/** `resid_post_layer_8` of dictionary_learning. */
export function hookOfSubmodule(name: string | undefined): string | undefined {
  const found = /^(resid_post|mlp_out|attn_out)_layer_(\d+)$/.exec(name ?? "");
  return found ? `blocks.${found[2]}.hook_${found[1]}` : undefined;
}

/** Layer and submodule of a hook point, as dictionary_learning names them. */
export function submoduleOfHook(hook: string): { layer: number; submodule: string } | undefined {
  const found = /^blocks\.(\d+)\.hook_(resid_post|mlp_out|attn_out)$/.exec(hook);
  return found ? { layer: Number(found[1]), submodule: `${found[2]}_layer_${found[1]}` } : undefined;
}

export interface GemmaPlace {
  readonly model?: string;
  readonly hook?: string;
  readonly hookOut?: string;
  /** Reads embeddings, whose scale differs from that of the hook point by √D. */
  readonly embedding: boolean;
  readonly width?: string;
  readonly l0?: number;
}

/** What the path of a Gemma Scope file says: `…/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz`. */
export function gemmaScopePlace(path: string): GemmaPlace {
  const text = path.replaceAll("\\", "/");
  const release = /gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)(?=[/-]|$)/.exec(text);
  const layer = /(?:^|\/)layer_(\d+)(?:\/|$)/.exec(text)?.[1];
  const embedding = release?.[3] === "res" && /\/embedding(?:\/|$)/.test(text);
  const model = release && `gemma-2-${release[1]}${release[2] === "it" ? "-it" : ""}`;
  const width = /(?:^|\/)width_(\w+?)(?:\/|$)/.exec(text)?.[1];
  const l0 = /average_l0_(\d+)/.exec(text)?.[1];
  const hooks: Partial<Record<string, string>> = {
    res: `blocks.${layer}.hook_resid_post`,
    mlp: `blocks.${layer}.hook_mlp_out`,
    att: `blocks.${layer}.attn.hook_z`,
  };
  const hook = embedding ? "hook_embed" : release && layer !== undefined ? hooks[release[3]] : undefined;
  return {
    ...(model && { model }),
    ...(hook && { hook }),
    ...(release?.[3] === "transcoders" && layer !== undefined && { hookOut: `blocks.${layer}.hook_mlp_out` }),
    embedding,
    ...(width && { width }),
    ...(l0 && { l0: Number(l0) }),
  };
}

export interface Gemma2Place {
  readonly model?: string;
  readonly hook?: string;
  readonly hookOut?: string;
  readonly transcoder: boolean;
}

/** What the folders of Gemma Scope 2 read, and what its transcoders give back, as its configs spell it. */
const GEMMA_SITES = {
  resid_post: { reads: "output" },
  attn_out: { reads: "self_attn.o_proj.input" },
  mlp_out: { reads: "post_feedforward_layernorm.output" },
  transcoder: { reads: "pre_feedforward_layernorm.output", gives: "post_feedforward_layernorm.output" },
} as const satisfies Record<string, { reads: GemmaModule; gives?: GemmaModule }>;

/** Places in a block of Gemma 3. Attention SAEs read the heads side by side, not what attention adds to the stream. */
const GEMMA_MODULES = {
  output: "hook_resid_post",
  "self_attn.o_proj.input": "attn.hook_z",
  "post_feedforward_layernorm.output": "hook_mlp_out",
  "pre_feedforward_layernorm.output": "ln2.hook_normalized",
} as const;
type GemmaModule = keyof typeof GEMMA_MODULES;

/** `model.layers.12.output` of a Gemma Scope 2 config. */
export function hookOfGemma3(name: string): string | undefined {
  const [, layer, part = ""] = /^(?:.*\.)?layers\.(\d+)\.([\w.]+)$/.exec(name) ?? [];
  return Object.hasOwn(GEMMA_MODULES, part)
    ? `blocks.${layer}.${GEMMA_MODULES[part as GemmaModule]}`
    : undefined;
}

/** What a path says: `…/gemma-scope-2-4b-pt/resid_post/layer_12_width_16k_l0_medium/params.safetensors` */
export function gemmaScope2Place(path: string): Gemma2Place {
  const text = path.replaceAll("\\", "/");
  const model = /gemma-scope-2-(\d+[bm])-(pt|it)/.exec(text);
  const site = /(?:^|\/)(resid_post|attn_out|mlp_out|transcoder)(?:_all)?\//.exec(text)?.[1];
  const layer = /(?:^|\/)layer_(\d+)_/.exec(text)?.[1];
  const known: { reads: GemmaModule; gives?: GemmaModule } | undefined =
    layer === undefined ? undefined : GEMMA_SITES[site as keyof typeof GEMMA_SITES];
  return {
    ...(model && { model: `gemma-3-${model[1]}-${model[2]}` }),
    ...(known && { hook: `blocks.${layer}.${GEMMA_MODULES[known.reads]}` }),
    ...(known?.gives && { hookOut: `blocks.${layer}.${GEMMA_MODULES[known.gives]}` }),
    transcoder: site === "transcoder",
  };
}
