/**
 * The step of relu, jumprelu and gated SAEs, by autograd over all F activations of each token. Losses are means over tokens.
 * relu: ‖e‖² + l1 Σ f_i ‖W_dec,i‖. jumprelu: ‖e‖² + l0 · L0, or l0 (L0/target − 1)², with straight-through gradients for the
 * thresholds (Rajamanoharan et al. 2024b, section 3). gated: ‖e‖² + l1 Σ relu(gate) + ‖relu(gate) W_dec + b_dec − y‖², the
 * decoder held constant in the last term (Rajamanoharan et al. 2024a, section 3.2).
 * Matryoshka adds ‖e‖² over the prefixes of the dictionary. B tokens · D, E widths · F features.
 */
import {
  add,
  exp,
  greater,
  heaviside,
  jumpRelu,
  linear,
  matmul,
  mul,
  neg,
  relu,
  slice,
  sqrt,
  square,
  stopGradient,
  sub,
  sum,
  sumSquares,
  type Tensor,
  transpose,
} from "../tensor/index.ts";
import { auxKGradients } from "./auxk.ts";
import { widestOf } from "./jump-step.ts";
import { encoderInput, gatedParts, type ParamName, type PerParam, preActivations, type Sae } from "./sae.ts";
import {
  MSE,
  packScalars,
  type StepGradients,
  type StepObjective,
  type StepOptions,
  squaresOf,
} from "./step.ts";

/** See `stepGradients`. */
export function denseStep(sae: Sae, x: Tensor, options: StepOptions): StepGradients {
  const { objective = MSE, target = x, auxK, lap = () => {} } = options;
  const { params } = sae;
  const names = Object.keys(params) as ParamName[];
  const { device } = x;
  const B = x.shape[0];
  const { value, grads: found } = device.valueAndGrad(
    () => {
      const z = encoderInput(sae, x);
      const { acts, penalty, pre } = activations(sae, z, target, objective);
      lap("encode");
      const { loss, error } = reconstruction(sae, acts, x, target, objective.levels);
      lap("decode");
      const near = options.count && pre ? stopGradient(pre) : undefined;
      return { loss: add(loss, penalty), reconstruction: loss, penalty, acts, error, z, near };
    },
    names.map((name) => params[name] as Tensor),
  );
  const grads: Partial<Record<ParamName, Tensor>> = {};
  names.forEach((name, i) => {
    const t = params[name] as Tensor;
    grads[name] = found[i] ?? device.zeros(t.shape);
  });
  lap("backward");

  const sse = mul(sumSquares(value.error), 1 / B);
  let auxLoss: Tensor | undefined;
  if (auxK) {
    const errorSum = sum(value.error, { axes: [0] });
    const aux = auxKGradients(sae, auxK, { z: value.z, error: value.error, loss: sse, errorSum });
    auxLoss = aux.loss;
    for (const name of ["wEnc", "bEnc", "wDec"] as const) {
      grads[name] = add(grads[name] as Tensor, mul(aux[name], 2 / B));
    }
    lap("aux");
  }
  const all = grads as PerParam<Tensor>;
  const scalars = packScalars({
    loss: value.reconstruction,
    sse,
    auxLoss,
    penalty: value.penalty,
    squares: squaresOf(all),
    along: sumSquares(sum(mul(all.wDec, params.wDec), { axes: [1] })),
    widest: value.near && params.logThreshold && nearest(value.near, params.logThreshold, objective),
  });
  lap("backward");
  return { grads: all, scale: 1, scalars, codes: { kind: "dense", values: value.acts }, error: value.error };
}

/** The most features that a token has above the lower end of their window, []. */
function nearest(pre: Tensor, logThreshold: Tensor, { bandwidth }: StepObjective): Tensor {
  return widestOf(sub(pre, add(exp(logThreshold), -bandwidth / 2)));
}

/** All activations [B, F] and what the loss asks for their sparsity, []. */
function activations(
  sae: Sae,
  z: Tensor,
  target: Tensor,
  { l1, l0, targetL0, bandwidth }: StepObjective,
): { acts: Tensor; penalty: Tensor; pre?: Tensor } {
  const { activation } = sae.config;
  const { wDec, bDec, logThreshold } = sae.params;
  const B = z.shape[0];
  switch (activation.kind) {
    case "relu": {
      const acts = relu(preActivations(sae, z));
      const norms = sqrt(sum(square(wDec), { axes: [1] })); // [F]
      return { acts, penalty: mul(sum(mul(acts, norms)), l1 / B) };
    }
    case "jumprelu": {
      if (!logThreshold) throw new Error("dense step: a jumprelu SAE is trained with logThreshold");
      const pre = preActivations(sae, z);
      const threshold = exp(logThreshold);
      const acts = jumpRelu(pre, threshold, { bandwidth });
      const active = mul(sum(heaviside(pre, threshold, { bandwidth })), 1 / B);
      const miss = targetL0 > 0 ? square(add(mul(active, 1 / targetL0), -1)) : active;
      return { acts, penalty: mul(miss, l0), pre };
    }
    case "gated": {
      const { gate, magnitude } = gatedParts(sae, z);
      const open = relu(gate);
      const acts = mul(relu(magnitude), greater(gate, 0));
      const frozen = linear(open, transpose(stopGradient(wDec)), bDec && { bias: stopGradient(bDec) });
      const aux = mul(sum(square(sub(frozen, target))), 1 / B);
      return { acts, penalty: add(mul(sum(open), l1 / B), aux) };
    }
    default:
      throw new Error(`dense step: ${activation.kind}`);
  }
}

/** Sum over nested dictionaries of the mean squared error per token, and the error of the whole one, [B, E]. */
function reconstruction(sae: Sae, acts: Tensor, x: Tensor, target: Tensor, levels: readonly number[]) {
  const { wDec, bDec, wSkip } = sae.params;
  const B = x.shape[0];
  let error = bDec ? sub(bDec, target) : neg(target);
  if (wSkip) error = add(error, matmul(x, transpose(wSkip)));
  let loss: Tensor | undefined;
  let from = 0;
  for (const to of levels.length > 0 ? levels : [sae.config.features]) {
    const part = matmul(
      slice(acts, [0, from], [B, to - from]),
      slice(wDec, [from, 0], [to - from, wDec.shape[1]]),
    );
    error = add(error, part);
    const level = mul(sum(square(error)), 1 / B);
    loss = loss ? add(loss, level) : level;
    from = to;
  }
  if (!loss) throw new Error("dense step: no levels");
  return { loss, error };
}
