/**
 * Runs one op: checks, allocates, calls the kernel (or the decomposition) and records it on the tape.
 */
import { usageError } from "../util/errors.ts";
import type { Device } from "./device.ts";
import { mutated, type Op } from "./op.ts";
import type { Tensor } from "./tensor.ts";
import { describe, type Kernel, type KernelTensor } from "./types.ts";
import { cast, contiguous } from "./views.ts";

/** Runs `op` on tensors of one device. `device` is needed only when there are no inputs. */
export function dispatch<A>(op: Op<A>, inputs: readonly Tensor[], attrs: A, device?: Device): Tensor[] {
  const home = device ?? deviceOf(op.name, inputs);
  checkCount(op, inputs);
  checkTypes(op, inputs);
  const types = op.infer(inputs, attrs);
  const kernel = (home.backend.kernels as Readonly<Record<string, Kernel<A> | undefined>>)[op.name];
  if (!kernel) {
    if (!op.decompose)
      throw usageError(`${op.name}: the ${home.name} backend has no kernel for this primitive`);
    const { decompose, vjp } = op;
    if (!vjp) return home.scope(() => decompose(inputs, attrs));
    // The op's own gradient holds, also where it is not that of its parts (straight-through gradients).
    const outputs = home.untracked(() => home.scope(() => decompose(inputs, attrs)));
    record(home, op, vjp, inputs, outputs, attrs);
    return outputs;
  }
  const written = mutated(op, inputs.length, attrs);
  for (const i of written) {
    if (home.tape?.tracks(inputs[i])) {
      throw usageError(
        `${op.name}: input ${i}, ${describe(inputs[i])}, takes part in the gradient being taken and cannot be overwritten`,
      );
    }
  }
  const ready = inputs.map((t, i) => prepare(op, t, i, written.includes(i)));
  const outputs = types.map((t) => home.empty(t.shape, t.dtype));
  try {
    kernel(ready, outputs, attrs);
  } catch (error) {
    for (const t of outputs) t.dispose();
    throw error;
  } finally {
    ready.forEach((t, i) => {
      if (t !== inputs[i]) t.dispose();
    });
  }
  if (op.vjp) record(home, op, op.vjp, inputs, outputs, attrs);
  return outputs;
}

/** A kernel finds its outputs behind its inputs. */
function checkCount<A>(op: Op<A>, inputs: readonly Tensor[]): void {
  if (op.variadic || op.cases.some((c) => c.inputs.length === inputs.length)) return;
  const counts = [...new Set(op.cases.map((c) => c.inputs.length))].join(" or ");
  throw usageError(`${op.name}: ${inputs.length} inputs, expected ${counts}`);
}

/** Indices must be i32 and numbers floats: a kernel would misread the bits. */
function checkTypes<A>(op: Op<A>, inputs: readonly Tensor[]): void {
  if (op.anyType) return;
  for (let i = 0; i < inputs.length; i++) {
    const whole = inputs[i].dtype === "i32";
    if (whole !== (op.ints?.includes(i) ?? false)) {
      throw usageError(
        `${op.name}: input ${i} is ${describe(inputs[i])}, expected ${whole ? "floats" : "i32"}; cast() it first`,
      );
    }
  }
}

function record<A>(
  home: Device,
  op: Op<A>,
  vjp: NonNullable<Op<A>["vjp"]>,
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
  attrs: A,
): void {
  const carries = (t: Tensor, i: number) => t.dtype !== "i32" && !op.saved?.includes(i);
  home.tape?.record(
    op.name,
    inputs,
    outputs,
    (grads, needs, sums) => vjp({ inputs, outputs, grads, attrs, needs, sums }),
    {
      carries,
    },
  );
}

/** The tensor in a form that the op's kernels take: as it is, or a contiguous copy widened to f32. */
function prepare<A>(op: Op<A>, t: Tensor, index: number, written: boolean): Tensor & KernelTensor {
  const accepted = (x: Tensor) =>
    op.accepts ? op.accepts(x, index) : x.isContiguous && (x.dtype === "f32" || x.dtype === "i32");
  if (accepted(t)) return t;
  if (written) {
    throw usageError(
      `${op.name}: input ${index}, ${describe(t)}, is written in place and must be contiguous f32`,
    );
  }
  return t.device.untracked(() => {
    const dense = t.isContiguous ? t : contiguous(t);
    if (accepted(dense)) return dense;
    const wide = cast(dense, "f32");
    if (dense !== t) dense.dispose();
    return wide;
  });
}

function deviceOf(name: string, inputs: readonly Tensor[]): Device {
  const home = inputs[0]?.device;
  if (!home) throw usageError(`${name}: no inputs and no device`);
  for (const t of inputs) {
    if (t.device !== home) {
      throw usageError(
        `${name}: inputs live on different devices (${home.name}, ${t.device.name}); copy one over first`,
      );
    }
  }
  return home;
}
