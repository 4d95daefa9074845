import assert from "node:assert/strict";
import * as fs from "node:fs";
import * as path from "node:path";
import { test } from "node:test";
import { familyOf } from "../../src/models/families/index.ts";
import {
  addVector,
  atPositions,
  type HookRequest,
  hookPoints,
  hookWidth,
  replaceWith,
  resolveHook,
  type Transformer,
} from "../../src/models/index.ts";
import { type Device, type KernelTensor, mul, slice, type Tensor } from "../../src/tensor/index.ts";
import { packageRoot } from "../golden.ts";
import { assertNear, someTokens, tinyModel, tinySpec, withDevice } from "./helpers.ts";

/** A tiny model and tokens [2, 7] on the native backend, freed afterwards. */
function withModel(body: (model: Transformer, tokens: Tensor) => Promise<void>): Promise<void> {
  return withDevice("native", async (device) => {
    const model = tinyModel(device);
    const tokens = someTokens(device, 2, 7);
    await body(model, tokens).finally(() => {
      tokens.dispose();
      model.dispose();
    });
  });
}

/** Reads tensors made in a scope. */
async function values(device: Device, make: () => Tensor): Promise<Float32Array> {
  const t = device.scope(make);
  return await t.floats().finally(() => t.dispose());
}

test("hook points stand in the order of the forward pass", () => {
  const points = hookPoints(tinySpec);
  assert.equal(points[0], "hook_embed");
  assert.equal(points.at(-1), "ln_final.hook_normalized");
  assert.ok(
    points.indexOf("blocks.0.attn.hook_pattern") < points.indexOf("blocks.0.hook_resid_post") &&
      points.indexOf("blocks.0.hook_resid_post") < points.indexOf("blocks.1.hook_resid_pre"),
  );
});

test("a mistyped hook is refused with the nearest names", () => {
  assert.throws(
    () => resolveHook(tinySpec, "blocks.1.hook_resid_pots"),
    /blocks\.1\.hook_resid_pots.*did you mean.*blocks\.1\.hook_resid_post/,
  );
  assert.throws(() => resolveHook(tinySpec, "blocks.3.hook_resid_post"), /3 layers \(0 to 2\)/);
});

test("module names of Hugging Face are hook points", () => {
  const names = {
    "model.layers.2": "blocks.2.hook_resid_post",
    "layers.0.self_attn": "blocks.0.hook_attn_out",
    "model.layers.1.mlp": "blocks.1.hook_mlp_out",
    "model.embed_tokens": "hook_embed",
    "model.norm": "ln_final.hook_normalized",
  };
  for (const [typed, canonical] of Object.entries(names))
    assert.equal(resolveHook(tinySpec, typed), canonical);
  assert.throws(() => resolveHook(tinySpec, "model.layers.9"), /does not exist/);
});

test("module names of every family are hook points, by what the module gives out there", () => {
  const of = (family: string) => {
    const file = path.join(packageRoot(), "tests", "golden", "models", family, "config.json");
    const config = JSON.parse(fs.readFileSync(file, "utf8"));
    return familyOf(config).spec(config);
  };
  const layer = (family: string, prefix: string, names: Readonly<Record<string, string>>) => {
    for (const [module, point] of Object.entries(names))
      assert.equal(
        resolveHook(of(family), `${prefix}.1${module}`),
        `blocks.1.${point}`,
        `${family}${module}`,
      );
  };
  const top = (family: string, names: Readonly<Record<string, string>>) => {
    for (const [module, point] of Object.entries(names)) assert.equal(resolveHook(of(family), module), point);
  };
  top("gpt2", {
    "transformer.wte": "hook_embed",
    "transformer.wpe": "hook_pos_embed",
    "transformer.ln_f": "ln_final.hook_normalized",
    wte: "hook_embed",
  });
  top("gpt_neox", {
    "gpt_neox.embed_in": "hook_embed",
    "gpt_neox.final_layer_norm": "ln_final.hook_normalized",
  });
  layer("gpt2", "transformer.h", {
    "": "hook_resid_post",
    ".attn": "hook_attn_out",
    ".mlp": "hook_mlp_out",
    ".ln_1": "ln1.hook_normalized",
    ".ln_2": "ln2.hook_normalized",
  });
  layer("gpt_neox", "gpt_neox.layers", {
    "": "hook_resid_post",
    ".attention": "hook_attn_out",
    ".mlp": "hook_mlp_out",
    ".post_attention_layernorm": "ln2.hook_normalized",
  });
  layer("qwen3", "model.layers", { ".self_attn": "hook_attn_out", ".mlp": "hook_mlp_out" });
  layer("gemma2", "model.layers", {
    ".self_attn": "attn.hook_out",
    ".post_attention_layernorm": "hook_attn_out",
    ".pre_feedforward_layernorm": "ln2.hook_normalized",
    ".mlp": "mlp.hook_out",
    ".post_feedforward_layernorm": "hook_mlp_out",
  });
  assert.throws(() => resolveHook(of("llama"), "transformer.wpe"), /does not exist/);
  assert.throws(() => resolveHook(of("gpt_neox"), "blocks.0.hook_resid_mid"), /does not exist/);
  assert.throws(() => resolveHook(of("llama"), "blocks.0.attn.hook_out"), /does not exist/);
});

test("hookWidth is the last extent; a pattern has none", () => {
  assert.equal(hookWidth(tinySpec, "blocks.0.hook_resid_mid"), 16);
  assert.equal(hookWidth(tinySpec, "blocks.0.mlp.hook_post"), 24);
  assert.equal(hookWidth(tinySpec, "blocks.0.attn.hook_z"), 4);
  assert.throws(() => hookWidth(tinySpec, "blocks.0.attn.hook_pattern"), /no fixed width/);
});

test("every point is captured with the shape that it is documented with, and changes nothing", () =>
  withModel(async (model, tokens) => {
    const points = hookPoints(model.spec);
    const plain = await values(model.device, () => model.forward(tokens).logits!);
    const run = model.device.scope(() => model.forward(tokens, { capture: points }));
    assertNear(await run.logits!.floats(), plain, "logits", { absolute: 1e-5, relative: 1e-5 });
    assert.deepEqual(Object.keys(run.captured), points, "in the order of the pass");
    const shapes: Record<string, number[]> = {
      "blocks.1.attn.hook_q": [2, 7, 4, 4],
      "blocks.1.attn.hook_k": [2, 7, 2, 4],
      "blocks.1.attn.hook_pattern": [2, 4, 7, 7],
      "blocks.1.attn.hook_z": [2, 7, 4, 4],
      "blocks.1.mlp.hook_post": [2, 7, 24],
      "blocks.1.hook_resid_post": [2, 7, 16],
    };
    for (const [point, shape] of Object.entries(shapes))
      assert.deepEqual([...run.captured[point].shape], shape);
    for (const t of [run.logits!, run.final!, ...Object.values(run.captured)]) t.dispose();
  }));

test("captured points add up: the stream is what attention and the MLP put into it", () =>
  withModel(async (model, tokens) => {
    const names = ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"].map(
      (p) => `blocks.1.${p}`,
    );
    const { captured } = model.device.scope(() => model.forward(tokens, { capture: names, stopEarly: true }));
    const [pre, attn, mlp, post] = await Promise.all(names.map((n) => captured[n].floats()));
    assertNear(
      post,
      pre.map((x, i) => x + attn[i] + mlp[i]),
      "resid_post",
      { absolute: 1e-5, relative: 0 },
    );
    for (const t of Object.values(captured)) t.dispose();
  }));

test("a replaced value is what later layers see and what is captured", () =>
  withModel(async (model, tokens) => {
    const point = "blocks.1.hook_resid_post";
    const run = model.device.scope(() =>
      model.forward(tokens, {
        capture: [point, "blocks.2.hook_resid_pre"],
        edit: { [point]: replaceWith(0) },
      }),
    );
    assert.ok((await run.captured[point].floats()).every((x) => x === 0));
    assert.ok((await run.captured["blocks.2.hook_resid_pre"].floats()).every((x) => x === 0));
    for (const t of [run.logits!, run.final!, ...Object.values(run.captured)]) t.dispose();
  }));

test("an edit at chosen positions leaves earlier positions as they were", () =>
  withModel(async (model, tokens) => {
    const { device } = model;
    const vector = device.full([16], 3);
    const edit = { "blocks.0.hook_resid_post": atPositions([4, -1], addVector(vector)) };
    const before = await values(device, () => model.forward(tokens).logits!);
    const after = await values(device, () => model.forward(tokens, { edit }).logits!);
    const V = model.spec.vocabSize;
    const moved = (t: number) =>
      [0, 1].some((b) => {
        const row = (b * 7 + t) * V;
        return before.subarray(row, row + V).some((x, i) => Math.abs(x - after[row + i]) > 1e-3);
      });
    assert.deepEqual([0, 1, 2, 3, 4, 5, 6].map(moved), [false, false, false, false, true, true, true]);
    vector.dispose();
  }));

test("hook_mlp_in is the stream before the norm, and editing it changes the MLP's branch only", () =>
  withModel(async (model, tokens) => {
    const point = (name: string) => `blocks.1.${name}`;
    const names = ["hook_resid_mid", "hook_mlp_in", "hook_mlp_out", "hook_resid_post"].map(point);
    const run = async (edit: HookRequest["edit"]) => {
      const { captured } = model.device.scope(() =>
        model.forward(tokens, { capture: names, edit, stopEarly: true }),
      );
      const read = await Promise.all(names.map((n) => captured[n].floats()));
      for (const t of Object.values(captured)) t.dispose();
      return read;
    };
    const [mid, mlpIn] = await run({});
    assert.deepEqual(mlpIn, mid);
    const [midNow, edited, out, post] = await run({ [point("hook_mlp_in")]: replaceWith(0) });
    assert.deepEqual(midNow, mid);
    assert.ok(edited.every((x) => x === 0) && out.every((x) => x === 0), "the MLP of nothing is nothing");
    assert.deepEqual(post, mid);
  }));

test("positions of a pattern are its queries, not its heads", () =>
  withModel(async (model, tokens) => {
    const z = "blocks.1.attn.hook_z";
    const read = async (edit: HookRequest["edit"]) => {
      const { captured } = model.device.scope(() =>
        model.forward(tokens, { capture: [z], edit, stopEarly: true }),
      );
      return await captured[z].floats().finally(() => captured[z].dispose());
    };
    const pattern = "blocks.1.attn.hook_pattern";
    const before = await read({});
    const after = await read({ [pattern]: atPositions([2, 5], replaceWith(0)) }); // [B, T, H, Dh]
    const row = (x: Float32Array, t: number) => x.subarray((7 + t) * 16, (8 + t) * 16);
    for (let t = 0; t < 7; t++) {
      if (t === 2 || t === 5)
        assert.ok(
          row(after, t).every((x) => x === 0),
          `position ${t}`,
        );
      else assertNear(row(after, t), row(before, t), `position ${t}`, { absolute: 1e-6, relative: 1e-5 });
    }
  }));

test("a position outside the sequence is refused", () =>
  withModel(async (model, tokens) => {
    const edit = { hook_embed: atPositions([7], replaceWith(0)) };
    assert.throws(
      () => model.device.scope(() => model.forward(tokens, { edit })),
      /position 7 is outside a sequence of 7/,
    );
  }));

test("an edit of the wrong shape is refused with both shapes", () =>
  withModel(async (model, tokens) => {
    const edit = { "blocks.1.hook_mlp_out": (x: Tensor) => slice(x, [0, 0, 0], [2, 7, 8]) };
    assert.throws(
      () => model.device.scope(() => model.forward(tokens, { edit })),
      /blocks\.1\.hook_mlp_out: the edit returned \[2,7,8\], expected \[2,7,16\]/,
    );
  }));

test("an edited pattern mixes the values by the new weights", () =>
  withModel(async (model, tokens) => {
    const pattern = "blocks.1.attn.hook_pattern";
    const z = "blocks.1.attn.hook_z";
    const plain = model.device.scope(() => model.forward(tokens, { capture: [z], stopEarly: true }));
    const doubled = model.device.scope(() =>
      model.forward(tokens, { capture: [z], edit: { [pattern]: (p) => mul(p, 2) }, stopEarly: true }),
    );
    const want = (await plain.captured[z].floats()).map((x) => 2 * x);
    assertNear(await doubled.captured[z].floats(), want, "z", { absolute: 1e-5, relative: 1e-5 });
    for (const { captured } of [plain, doubled]) captured[z].dispose();
  }));

/** Kernel calls that `run` makes. */
function kernelCalls(device: Device, run: () => void): number {
  type Table = Record<string, (...args: [readonly KernelTensor[], readonly KernelTensor[], never]) => void>;
  const kernels = device.backend.kernels as unknown as Table;
  const originals = { ...kernels };
  let calls = 0;
  for (const [name, kernel] of Object.entries(originals)) {
    kernels[name] = (...args) => {
      calls++;
      kernel(...args);
    };
  }
  try {
    run();
  } finally {
    Object.assign(kernels, originals);
  }
  return calls;
}

test("stopEarly computes nothing after the last point asked for", () =>
  withModel(async (model, tokens) => {
    const { device } = model;
    const run = (capture: string[], stopEarly: boolean) =>
      kernelCalls(device, () =>
        device.scope(() => {
          const result = model.forward(tokens, { capture, stopEarly });
          assert.equal(result.logits === undefined, stopEarly);
        }),
      );
    const block = run(["blocks.1.hook_resid_post"], true) - run(["blocks.0.hook_resid_post"], true);
    assert.equal(run(["hook_embed"], true), 1, "the embedding alone is one look-up");
    assert.equal(run(["blocks.0.hook_resid_post", "hook_embed"], true), 1 + block);
    assert.equal(run(["hook_embed"], false), 1 + 3 * block + 2, "three blocks, the final norm and the head");
    assert.throws(() => model.forward(tokens, { stopEarly: true }), /needs at least one point/);
  }));

test("gradients flow through an edit", () =>
  withModel(async (model, tokens) => {
    const { device } = model;
    const vector = device.zeros([16]);
    const edit = { "blocks.0.hook_resid_post": addVector(vector) };
    const { value, grads } = device.valueAndGrad(() => {
      const { logits } = model.forward(tokens, { edit });
      return slice(logits!, [0, 6, 5], [1, 1, 1]);
    }, [vector]);
    const h = 1e-2;
    const at = async (delta: number) => {
      device.write(
        vector,
        Float32Array.from({ length: 16 }, (_, i) => (i === 3 ? delta : 0)),
      );
      return (await values(device, () => model.forward(tokens, { edit }).logits!))[(0 * 7 + 6) * 31 + 5];
    };
    const numeric = ((await at(h)) - (await at(-h))) / (2 * h);
    assertNear([(await grads[0]!.floats())[3]], [numeric], "d logit / d vector", {
      absolute: 2e-3,
      relative: 2e-2,
    });
    for (const t of [value, grads[0]!, vector]) t.dispose();
  }));
