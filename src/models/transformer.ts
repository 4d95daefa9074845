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
  type Device,
  gatherRows,
  linear,
  reshape,
  rmsNorm,
  rope,
  slice,
  swiglu,
  type Tensor,
} from "../tensor/index.ts";
import { inputError, usageError } from "../util/index.ts";
import type { KvCache } from "./cache.ts";
import { type HookRequest, HookRun } from "./hooks.ts";
import type { BlockParams, ModelParams, ParamSlot } from "./params.ts";
import { rotaryTables } from "./rotary.ts";
import type { ModelSpec } from "./spec.ts";

export interface ForwardOptions extends HookRequest {
  /**
   * Document of each token, i32 [B, T]: attention stays within it. Positions go on across documents, which changes nothing
   * that attention sees (rotary scores depend on distances only); not with a cache.
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
}

export class Transformer {
  readonly device: Device;
  readonly spec: ModelSpec;
  readonly params: ModelParams;
  /** What each parameter is, and its tensor, in the order of the forward pass. */
  readonly slots: readonly (ParamSlot & { readonly tensor: Tensor })[];
  #tables: { cos: Tensor; sin: Tensor };
  #tableLength: number;

  constructor(
    device: Device,
    spec: ModelSpec,
    params: ModelParams,
    slots: readonly (ParamSlot & { readonly tensor: Tensor })[],
  ) {
    this.device = device;
    this.spec = spec;
    this.params = params;
    this.slots = slots;
    this.#tableLength = spec.contextLength;
    this.#tables = rotaryTables(device, spec, spec.contextLength);
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
    const decoding = cache && { seen: cache.length, padding: cache.firsts };
    const hooks = new HookRun(this.spec, options, decoding);
    const result = hooks.run(() => {
      const pass: Pass = {
        hooks,
        positions: options.positions ? this.#given(options.positions, B, T) : this.#positions(B, T, cache),
        segments,
        cache,
      };
      const x = this.#blocks(hooks.at("hook_embed", gatherRows(this.params.embed, tokens)), pass);
      cache?.advance(T);
      const final = hooks.at("ln_final.hook_normalized", this.#norm(x, this.params.lnFinal));
      return { final, logits: this.#logits(final, options.logits ?? "all") };
    });
    return { captured: hooks.captured, ...result };
  }

  #blocks(x: Tensor, pass: Pass): Tensor {
    return this.params.blocks.reduce((stream, block, l) => this.#block(stream, block, l, pass), x);
  }

  /** [B, T, d] -> [B, T, d] */
  #block(x: Tensor, p: BlockParams, l: number, pass: Pass): Tensor {
    const { hooks } = pass;
    const at = (point: string, value: Tensor) =>
      hooks.idle ? value : hooks.at(`blocks.${l}.${point}`, value);
    const pre = at("hook_resid_pre", x);
    const attn = at(
      "hook_attn_out",
      this.#attention(at("ln1.hook_normalized", this.#norm(pre, p.ln1)), p, l, pass),
    );
    const mid = at("hook_resid_mid", add(pre, attn));
    const mlpIn = at("ln2.hook_normalized", this.#norm(at("hook_mlp_in", mid), p.ln2));
    const hidden = at("mlp.hook_post", swiglu(linear(mlpIn, p.wGate), linear(mlpIn, p.wUp))); // [B, T, dMlp]
    const mlp = at("hook_mlp_out", linear(hidden, p.wDown));
    return at("hook_resid_post", add(mid, mlp));
  }

  #attention(x: Tensor, p: BlockParams, l: number, pass: Pass): Tensor {
    const { nHeads: H, nKvHeads: G, headDim: Dh } = this.spec;
    const [B, T] = x.shape;
    const { hooks } = pass;
    const at = (point: string, value: Tensor) =>
      hooks.idle ? value : hooks.at(`blocks.${l}.attn.${point}`, value);
    const { cos, sin } = this.#tables;
    const q = at("hook_q", reshape(linear(x, p.wQ, { bias: p.bQ }), [B, T, H, Dh]));
    const k = at("hook_k", reshape(linear(x, p.wK, { bias: p.bK }), [B, T, G, Dh]));
    const v = at("hook_v", reshape(linear(x, p.wV, { bias: p.bV }), [B, T, G, Dh]));
    const turned = { q: rope(q, cos, sin, pass.positions), k: rope(k, cos, sin, pass.positions) };
    const z = at("hook_z", this.#mix(turned.q, turned.k, v, l, pass)); // [B, T, H, Dh]
    return linear(reshape(z, [B, T, H * Dh]), p.wO);
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

  #norm(x: Tensor, weight: Tensor): Tensor {
    return rmsNorm(x, weight, this.spec.norm);
  }

  #logits(final: Tensor, which: "all" | "last" | "none"): Tensor | undefined {
    const [B, T, d] = final.shape;
    if (which === "none") return undefined;
    const wanted = which === "last" ? slice(final, [0, T - 1, 0], [B, 1, d]) : final;
    return linear(wanted, this.params.head);
  }

  /** Positions of a call: from 0, or after the cache; padded rows count from their first real token. */
  #positions(B: number, T: number, cache?: KvCache): Tensor {
    const from = cache?.length ?? 0;
    this.#ensureTables(from + T);
    const data = new Int32Array(B * T);
    for (let b = 0; b < B; b++) {
      const first = cache?.firsts[b] ?? 0;
      for (let t = 0; t < T; t++) data[b * T + t] = Math.max(from + t - first, 0);
    }
    return this.device.tensor(data, [B, T], "i32");
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
    return this.device.tensor(Int32Array.from(positions), [B, T], "i32");
  }

  /** Longer sequences than the spec's context are allowed: the tables grow. */
  #ensureTables(length: number): void {
    if (length <= this.#tableLength) return;
    this.#tables.cos.dispose();
    this.#tables.sin.dispose();
    this.#tableLength = Math.max(length, 2 * this.#tableLength);
    this.#tables = rotaryTables(this.device, this.spec, this.#tableLength);
  }

  /** Every parameter once. */
  parameters(): Tensor[] {
    return this.slots.map((s) => s.tensor);
  }

  dispose(): void {
    for (const { tensor } of this.slots) tensor.dispose();
    this.#tables.cos.dispose();
    this.#tables.sin.dispose();
  }
}
