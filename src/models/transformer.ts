/**
 * The decoder-only transformer, driven by its spec.
 * B batch · T position · d model width · H heads · G key-value heads · Dh head width · V vocabulary.
 */
import {
  add,
  attend,
  attention,
  attentionCached,
  attentionPattern,
  contiguous,
  type Device,
  expand,
  gatherRows,
  layerNorm,
  limeRoute,
  linear,
  mul,
  reshape,
  rmsNorm,
  rope,
  slice,
  swiglu,
  type Tensor,
  tanh,
} from "../tensor/index.ts";
import { inputError, usageError } from "../util/index.ts";
import type { KvCache } from "./cache.ts";
import type { Json } from "./families/index.ts";
import { type HookRequest, HookRun } from "./hooks.ts";
import type { BlockParams, BlockRole, ModelParams, ParamSlot } from "./params.ts";
import { depthAverage, type HyperParams, hyperRead, hyperStreams, hyperSum } from "./residual.ts";
import { Rotary } from "./rotary.ts";
import { averageRouter, ROUTINGS, routedLayers, routes } from "./routing.ts";
import type { ModelSpec } from "./spec.ts";
import { headsOf, mixStreams, routeWeights } from "./streams.ts";

export interface ForwardOptions extends HookRequest {
  /**
   * Document of each token, i32 [B, T]: attention stays within it; not with a cache. Rotary positions go on across
   * documents, which changes nothing that attention sees (scores depend on distances only); learned ones must begin anew,
   * so a model that has them needs `positions` as well.
   */
  readonly segments?: Tensor;
  /** Position of each token, [B·T], below the model's context; default 0, 1, 2 … (continuing after the cache). */
  readonly positions?: ArrayLike<number>;
  /** Keys and values so far; this call appends its own. */
  readonly cache?: KvCache;
  /** `all` (default): logits of every position; `last`: of the last one only; `none`: skip the unembedding. */
  readonly logits?: "all" | "last" | "none";
}

export interface ForwardResult {
  /** [B, T, V] (T = 1 for `last`); undefined when skipped or stopped early. */
  readonly logits?: Tensor;
  /** After the final norm, [B, T, d]; undefined when stopped early. */
  readonly final?: Tensor;
  /** Captured values by canonical hook name. */
  readonly captured: Readonly<Record<string, Tensor>>;
}

interface Pass {
  readonly hooks: HookRun;
  readonly positions: Tensor;
  readonly segments?: Tensor;
  readonly cache?: KvCache;
  /** Keys and values of the layers so far, before routing, [B, T, G, Dh]; only of models that route them. */
  readonly made: { readonly k: Tensor; readonly v: Tensor }[];
  /** What entered the layers so far, [B, T, d]; only of models that route keys and values. */
  readonly entered: Tensor[];
}

export class Transformer {
  readonly device: Device;
  readonly spec: ModelSpec;
  readonly params: ModelParams;
  /** What each parameter is, and its tensor, in the order of the forward pass. */
  readonly slots: readonly (ParamSlot & { readonly tensor: Tensor })[];
  /** The `config.json` that it was made from, if any. */
  readonly config: Json | undefined;
  readonly #rotary: Rotary;
  /** Routers of the layers that take the mean over several. */
  readonly #averages: readonly (Tensor | undefined)[];
  /** Gain of norms that have none, [d]; of several streams. */
  readonly #ones: Tensor | undefined;

  constructor(
    device: Device,
    spec: ModelSpec,
    { params, slots, config }: Pick<Transformer, "params" | "slots" | "config">,
  ) {
    this.device = device;
    this.spec = spec;
    this.params = params;
    this.slots = slots;
    this.config = config;
    this.#rotary = new Rotary(device, spec);
    this.#averages = averageRouters(device, spec);
    this.#ones = spec.residual?.kind === "hyper" ? device.full([spec.dModel], 1).keep() : undefined;
  }

  /** Runs tokens i32 [B, T] through the model. Call inside a scope, or dispose what comes back. */
  forward(tokens: Tensor, options: ForwardOptions = {}): ForwardResult {
    const { cache, segments } = options;
    const [B, T] = tokens.shape;
    if (tokens.rank !== 2 || tokens.dtype !== "i32" || T === 0) {
      throw inputError(`forward: tokens are ${tokens}, expected i32 [B, T] with T > 0`);
    }
    if (cache && segments)
      throw usageError("forward: segments and a cache cannot go together; leave one of them out");
    if (segments && !options.positions && this.spec.positions.kind === "learned") {
      throw usageError(
        "forward: this model has learned positions, which begin anew in each document; give positions with the segments",
      );
    }
    const decoding = cache && { seen: cache.length, padding: cache.firsts };
    const hooks = new HookRun(this.spec, options, decoding);
    const result = hooks.run(() => {
      const pass: Pass = {
        hooks,
        positions: options.positions ? this.#given(options.positions, B, T) : this.#positions(B, T, cache),
        segments,
        cache,
        made: [],
        entered: [],
      };
      const x = this.#blocks(this.#embed(tokens, pass), pass);
      cache?.advance(T);
      const { lnFinal, lnFinalBias } = this.params;
      const final = hooks.at("ln_final.hook_normalized", this.#norm(x, lnFinal, lnFinalBias));
      return { final, logits: this.#logits(final, options.logits ?? "all") };
    });
    return { captured: hooks.captured, ...result };
  }

  /** What the first block reads, [B, T, d]. */
  #embed(tokens: Tensor, { hooks, positions }: Pass): Tensor {
    const { embed, posEmbed } = this.params;
    const rows = gatherRows(embed, tokens);
    const x = hooks.at("hook_embed", this.spec.embedScale ? mul(rows, this.spec.embedScale) : rows);
    return posEmbed ? add(x, hooks.at("hook_pos_embed", gatherRows(posEmbed, positions))) : x;
  }

  #blocks(x: Tensor, pass: Pass): Tensor {
    const { residual } = this.spec;
    const { blocks } = this.params;
    if (residual?.kind === "hyper") {
      const streams = hyperStreams(x, residual.streams);
      return hyperSum(blocks.reduce((all, block, l) => this.#hyperBlock(all, block, l, pass), streams));
    }
    const left = [x];
    return blocks.reduce((stream, block, l) => {
      const y = this.#block(stream, block, l, pass);
      if (!block.depth) return y;
      left.push(y);
      return depthAverage(block.depth, left);
    }, x);
  }

  /** [B, T, n, d] -> [B, T, n, d] */
  #hyperBlock(streams: Tensor, p: BlockParams, l: number, pass: Pass): Tensor {
    const at = this.#points(`blocks.${l}.`, pass);
    const ones = this.#ones as Tensor; // there are several streams
    const attn = hyperRead(streams, hyperParams(p, "attn"), ones);
    const attnIn = at("ln1.hook_normalized", layerNorm(at("hook_resid_pre", attn.input), ones));
    const between = attn.write(at("hook_attn_out", this.#attention(attnIn, p, l, pass)));
    const mlp = hyperRead(between, hyperParams(p, "mlp"), ones);
    const mlpIn = at("hook_mlp_in", at("hook_resid_mid", mlp.input));
    return mlp.write(at("hook_mlp_out", this.#mlp(at("ln2.hook_normalized", layerNorm(mlpIn, ones)), p, at)));
  }

  /** [B, T, d] -> [B, T, d] */
  #block(x: Tensor, p: BlockParams, l: number, pass: Pass): Tensor {
    const at = this.#points(`blocks.${l}.`, pass);
    const pre = at("hook_resid_pre", x);
    if (this.spec.kvRouting) pass.entered.push(pre);
    const attnIn = at("ln1.hook_normalized", this.#norm(pre, p.ln1, p.ln1Bias));
    const attended = this.#attention(attnIn, p, l, pass);
    const attn = at(
      "hook_attn_out",
      p.ln1Post ? this.#norm(at("attn.hook_out", attended), p.ln1Post, p.ln1PostBias) : attended,
    );
    const sum = add(pre, attn);
    const mid = this.spec.parallelResidual ? sum : at("hook_resid_mid", sum);
    const mlpIn = at("hook_mlp_in", this.spec.parallelResidual ? pre : mid);
    const moved = this.#mlp(at("ln2.hook_normalized", this.#norm(mlpIn, p.ln2, p.ln2Bias)), p, at);
    const mlp = at(
      "hook_mlp_out",
      p.ln2Post ? this.#norm(at("mlp.hook_out", moved), p.ln2Post, p.ln2PostBias) : moved,
    );
    return at("hook_resid_post", add(mid, mlp));
  }

  /** Passes values through the points of a part of the model. */
  #points(part: string, { hooks }: Pass): (point: string, value: Tensor) => Tensor {
    return hooks.idle ? (_, value) => value : (point, value) => hooks.at(part + point, value);
  }

  #mlp(x: Tensor, p: BlockParams, at: (point: string, value: Tensor) => Tensor): Tensor {
    return linear(at("mlp.hook_post", this.#hidden(x, p)), p.wDown, { bias: p.bDown });
  }

  /** [B, T, dMlp] */
  #hidden(x: Tensor, p: BlockParams): Tensor {
    const { activation } = this.spec.mlp;
    if (!p.wGate) return linear(x, p.wUp, { bias: p.bUp, activation });
    const fuses = activation === "silu";
    const gate = linear(x, p.wGate, { bias: p.bGate, activation: fuses ? "none" : activation });
    const up = linear(x, p.wUp, { bias: p.bUp });
    return fuses ? swiglu(gate, up) : mul(gate, up);
  }

  #attention(x: Tensor, p: BlockParams, l: number, pass: Pass): Tensor {
    const { nHeads: H, nKvHeads: G, headDim: Dh } = this.spec;
    const [B, T] = x.shape;
    const at = this.#points(`blocks.${l}.attn.`, pass);
    const q = at("hook_q", reshape(linear(x, p.wQ, { bias: p.bQ }), [B, T, H, Dh]));
    const mixed = routes(this.spec, l, "streams") ? this.#mixed(p, l, pass) : undefined; // [G, B·T, d]
    const make = (w: Tensor, bias?: Tensor) =>
      reshape(mixed ? headsOf(mixed, w, bias) : linear(x, w, { bias }), [B, T, G, Dh]);
    const k = at("hook_k", make(p.wK, p.bK));
    const v = at("hook_v", make(p.wV, p.bV));
    const read = this.#route({ k, v }, p, l, pass);
    const turned = { q: this.#turn(q, p.qNorm, l, pass), k: this.#turn(read.k, p.kNorm, l, pass) };
    const z = at("hook_z", this.#mix(turned.q, turned.k, read.v, l, pass)); // [B, T, H, Dh]
    return linear(reshape(z, [B, T, H * Dh]), p.wO, { bias: p.bO });
  }

  /** Keys and values that a layer reads: its own, or mixed from several layers by one router for both. */
  #route(own: { k: Tensor; v: Tensor }, p: BlockParams, l: number, pass: Pass): { k: Tensor; v: Tensor } {
    const { kvRouting } = this.spec;
    if (!kvRouting || ROUTINGS[kvRouting.kind].mixes !== "keysAndValues") return own;
    pass.made.push(own);
    const router = p.router ?? this.#averages[l];
    if (!router) return own;
    const made = routedLayers(this.spec, l).map((layer) => pass.made[layer]);
    const mixed = limeRoute(
      router,
      made.map(({ k }) => k),
      made.map(({ v }) => v),
    );
    const at = this.#points(`blocks.${l}.attn.`, pass);
    return { k: at("hook_k_routed", mixed.keys), v: at("hook_v_routed", mixed.values) };
  }

  /** What the keys and values of each head are made of, where that is a mixture of streams: [G, B·T, d]. */
  #mixed(p: BlockParams, l: number, { hooks, entered }: Pass): Tensor {
    const streams = routedLayers(this.spec, l).map((layer) => this.#norm(entered[layer], p.routeNorm));
    const [B, T] = streams[0].shape;
    const weights = routeWeights(streams[streams.length - 1], p, this.spec.nKvHeads);
    const point = `blocks.${l}.attn.hook_route`;
    if (!hooks.wants(point)) return mixStreams(streams, weights);
    const every = contiguous(expand(weights, [B, T, ...weights.shape.slice(-2)]));
    return mixStreams(streams, hooks.at(point, every));
  }

  /** Queries or keys as the scores see them: normed and turned where the model does so. */
  #turn(x: Tensor, gain: Tensor | undefined, l: number, { positions }: Pass): Tensor {
    const normed = gain ? this.#norm(x, gain) : x;
    const table = this.#rotary.of(l);
    return table ? rope(normed, table.cos, table.sin, positions) : normed;
  }

  /** Softmax-weighted values [B, T, H, Dh]. The weights are formed only where a hook looks at them. */
  #mix(q: Tensor, k: Tensor, v: Tensor, l: number, { hooks, segments, cache }: Pass): Tensor {
    const { attnScale: scale, attnSoftcap: softcap, windowPattern } = this.spec;
    const window = windowPattern[l];
    const point = `blocks.${l}.attn.hook_pattern`;
    if (cache) {
      if (hooks.wants(point)) throw inputError(`hook ${point}: not available while decoding with a cache`);
      const own = cache.append(l, k, v);
      return attentionCached(q, own.k, own.v, cache.starts, {
        length: cache.length + q.shape[1],
        scale,
        softcap,
        window,
      });
    }
    const attrs = { scale, softcap, window, causal: true };
    if (!hooks.wants(point)) return attention(q, k, v, { ...attrs, segments });
    return attend(hooks.at(point, attentionPattern(q, k, attrs, segments)), v);
  }

  #norm(x: Tensor, gain?: Tensor, bias?: Tensor): Tensor {
    const { norm } = this.spec;
    if (!gain) throw new Error("transformer: a norm has no gain");
    return norm.kind === "rms" ? rmsNorm(x, gain, norm) : layerNorm(x, gain, bias, norm);
  }

  #logits(final: Tensor, which: "all" | "last" | "none"): Tensor | undefined {
    const [B, T, d] = final.shape;
    if (which === "none") return undefined;
    const wanted = which === "last" ? slice(final, [0, T - 1, 0], [B, 1, d]) : final;
    const logits = linear(wanted, this.params.head);
    const { logitSoftcap: cap } = this.spec;
    return cap ? mul(tanh(mul(logits, 1 / cap)), cap) : logits;
  }

  /** Positions of a call: from 0, or after the cache; padded rows count from their first real token. */
  #positions(B: number, T: number, cache?: KvCache): Tensor {
    const from = cache?.length ?? 0;
    const data = new Int32Array(B * T);
    for (let b = 0; b < B; b++) {
      const first = cache?.firsts[b] ?? 0;
      for (let t = 0; t < T; t++) data[b * T + t] = Math.max(from + t - first, 0);
    }
    this.#reach(from + T - Math.min(...(cache?.firsts ?? [0])));
    return this.device.tensor(data, [B, T], "i32");
  }

  /** Rotary tables grow beyond the spec's context; learned positions end there. */
  #reach(length: number): void {
    const { positions, contextLength } = this.spec;
    if (positions.kind === "learned" && length > contextLength) {
      throw inputError(
        `forward: ${length} tokens, but the model has learned only ${contextLength} positions; give it fewer tokens at once`,
      );
    }
    this.#rotary.ensure(length);
  }

  /** Positions of the caller's: whole numbers within the context. */
  #given(positions: ArrayLike<number>, B: number, T: number): Tensor {
    const { contextLength } = this.spec;
    if (positions.length !== B * T)
      throw inputError(`forward: ${positions.length} positions for tokens [${B}, ${T}]`);
    const strange = Array.from(positions).find((p) => !(Number.isInteger(p) && p >= 0 && p < contextLength));
    if (strange !== undefined) {
      throw inputError(
        `forward: position ${strange} is not in the model's context of ${contextLength}; give whole numbers from 0 to ${contextLength - 1}`,
      );
    }
    const data = Int32Array.from(positions);
    this.#reach(data.reduce((most, p) => Math.max(most, p), 0) + 1);
    return this.device.tensor(data, [B, T], "i32");
  }

  /** What training changes: all that is not set by rule. */
  get learned(): Transformer["slots"] {
    return this.slots.filter(({ fixed }) => !fixed);
  }

  /** Every parameter that is learned, once. */
  parameters(): Tensor[] {
    return this.learned.map((s) => s.tensor);
  }

  dispose(): void {
    for (const { tensor } of this.slots) tensor.dispose();
    this.#rotary.dispose();
    for (const router of this.#averages) router?.dispose();
    this.#ones?.dispose();
  }
}

/** The connections of one module of a block to the streams. */
function hyperParams(p: BlockParams, module: "attn" | "mlp"): HyperParams {
  const of = (part: keyof HyperParams): Tensor => {
    const name = `${module}${part[0].toUpperCase()}${part.slice(1)}` as BlockRole;
    const tensor = p[name];
    if (!tensor) throw new Error(`transformer: the block has no ${name}`);
    return tensor;
  };
  return {
    alpha: of("alpha"),
    beta: of("beta"),
    alphaOf: of("alphaOf"),
    betaOf: of("betaOf"),
    alphaScale: of("alphaScale"),
    betaScale: of("betaScale"),
  };
}

function averageRouters(device: Device, spec: ModelSpec): (Tensor | undefined)[] {
  if (spec.kvRouting?.kind !== "average") return [];
  const { nKvHeads: G } = spec;
  return Array.from({ length: spec.nLayers }, (_, l) => {
    const sources = routedLayers(spec, l).length;
    return sources > 1 ? device.tensor(averageRouter(G, sources), [G, sources * G]).keep() : undefined;
  });
}
