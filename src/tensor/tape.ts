/**
 * Reverse-mode differentiation: a tape records what touched the watched tensors and is walked backwards once.
 */
import type { Tensor } from "./tensor.ts";

/** Gradients of a node's inputs from the gradients of its outputs; see `VjpContext`. */
type Backward = (
  grads: readonly (Tensor | undefined)[],
  needs: readonly boolean[],
  sums: readonly (Tensor | undefined)[],
) => readonly (Tensor | undefined)[];

interface Node {
  readonly name: string;
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly backward: Backward;
}

export class Tape {
  readonly #tracked: Set<Tensor>;
  readonly #watched: ReadonlySet<Tensor>;
  #nodes: Node[] = [];

  constructor(watched: Iterable<Tensor>) {
    this.#watched = new Set(watched);
    this.#tracked = new Set(this.#watched);
  }

  /** True when a gradient flows through `t`. */
  tracks(t: Tensor): boolean {
    return this.#tracked.has(t);
  }

  /** Adds a node if a gradient flows through an input; it then flows through the outputs that `carries` names. */
  record(
    name: string,
    inputs: readonly Tensor[],
    outputs: readonly Tensor[],
    backward: Backward,
    { carries = () => true }: { carries?: (output: Tensor, index: number) => boolean } = {},
  ): void {
    if (!inputs.some((t) => this.#tracked.has(t))) return;
    outputs.forEach((t, i) => {
      if (carries(t, i)) this.#tracked.add(t);
    });
    this.#nodes.push({ name, inputs, outputs, backward });
  }

  /**
   * Gradients of the watched tensors given that of `root`. Consumes the tape: activations are released as the walk
   * passes them, except those for which `held` is true. `add` makes a tensor, `accumulate` writes its first.
   */
  gradients(
    root: Tensor,
    seed: Tensor,
    add: (a: Tensor, b: Tensor) => Tensor,
    accumulate: (sum: Tensor, g: Tensor) => void,
    alias: (t: Tensor) => Tensor,
    isolate: <T>(fn: () => T) => T,
    held: (t: Tensor) => boolean,
  ): Map<Tensor, Tensor> {
    const grads = new Map<Tensor, Tensor>([[root, seed]]);
    for (let n = this.#nodes.pop(); n; n = this.#nodes.pop()) {
      const node = n;
      const upstream = node.outputs.map((t) => grads.get(t));
      if (upstream.some((g) => g)) {
        const needs = node.inputs.map((t) => this.#tracked.has(t));
        const downstream = isolate(() => {
          const open = node.inputs.map((t, i) => {
            const before = needs[i] && node.inputs.indexOf(t) === i ? grads.get(t) : undefined;
            return before && writable(before) ? before : undefined;
          });
          const found = node.backward(upstream, needs, open);
          const sums = new Map<Tensor, Tensor>();
          const taken = new Set<Tensor | undefined>(upstream); // a rule may hand one tensor to several inputs
          node.inputs.forEach((t, i) => {
            let g = found[i];
            if (!g || !needs[i] || g === open[i]) return;
            if (taken.has(g)) g = alias(g);
            taken.add(g);
            const before = sums.get(t) ?? grads.get(t);
            if (before && writable(before)) accumulate(before, g);
            else sums.set(t, before ? add(before, g) : g);
          });
          return [...sums.entries()];
        });
        for (const [t, g] of downstream) {
          const before = grads.get(t);
          if (before && before !== g) before.dispose();
          grads.set(t, g);
        }
      }
      for (const t of node.outputs) {
        if (this.#watched.has(t)) continue;
        grads.get(t)?.dispose();
        grads.delete(t);
        if (!held(t)) t.dispose();
      }
    }
    return grads;
  }
}

/** Whether a gradient, which is the tape's own, may be written: no other tensor shows it, no number is repeated. */
function writable(g: Tensor): boolean {
  return g.storage.refs === 1 && g.isContiguous;
}
