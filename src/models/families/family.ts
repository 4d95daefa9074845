/**
 * What a checkpoint family is: data.
 */
import type { ParamNames } from "../params.ts";
import type { ModelSpec } from "../spec.ts";
import type { Json } from "./config.ts";

export interface Family {
  readonly names: ParamNames;
  /** Spec of a `config.json`; whatever it cannot express is refused by name. */
  readonly spec: (config: Json) => ModelSpec;
  /** What names of parameters begin with; checkpoints of the bare model leave it out. */
  readonly prefix: string;
  /** Tensors of a checkpoint that hold no parameter, by name without the prefix. */
  readonly buffers: RegExp;
}
