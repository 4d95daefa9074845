/**
 * What is compared: sections of programs that run one after the other, round by round. Each program prints one JSON line;
 * `rows` says which numbers of a round stand in the table. Higher is better in every row, as in tokens a second.
 */

/** Peers as given in peers/, our own counterparts for what they lack in compat/. */
const peer = (file, ...args) => ({ file: `peers/${file}`, args });
const compat = (file, ...args) => ({ file: `compat/${file}`, args });
const flags = (sizes) => Object.entries(sizes).flatMap(([name, value]) => [`--${name}`, String(value)]);

const GEMM_SHAPES = [
  { key: "1024,1024,1024", title: "1024³" },
  { key: "4096,512,8192", title: "[4096, 512] × [512, 8192]" },
];

const gemm = {
  name: "gemm",
  title: "Matrix products, GFLOP/s",
  unit: "GFLOP/s",
  programs: () => [
    { label: "sluice", sluice: ["gemm", "--steps", "10"] },
    { label: "PyTorch", python: compat("torch_gemm.py", "--steps", "10"), needs: ["torch"] },
    { label: "numpy", python: compat("numpy_gemm.py", "--steps", "10"), needs: ["numpy"] },
  ],
  rows: GEMM_SHAPES.map(({ key, title }, i) => ({
    title,
    ours: (r) => r.all[i].gflops,
    theirs: (r) => r.gflops[key],
    targets: { PyTorch: 0.9 },
  })),
};

/** The best PyTorch variant, and the two that do what public libraries do. */
const SAE_TARGETS = { "sparsify-topk": 1.6, "dictlearn-topk": 5, "saelens-topk": 6 };

const saeStep = (name, sizes, { inQuick, big = false } = {}) => ({
  name,
  title: `TopK SAE step, ${Object.entries(sizes)
    .map(([flag, v]) => `${flag} ${v}`)
    .join(", ")}; tokens/s`,
  unit: "tokens/s",
  inQuick,
  programs: ({ quick, oldTorch }) => [
    { label: "sluice", sluice: ["sae-step", ...flags(sizes), "--steps", quick ? "4" : "6", "--warmup", "2"] },
    ...Object.keys(SAE_TARGETS).map((label) => ({
      label,
      python: peer(
        "torch_sae_step.py",
        label,
        ...flags(sizes),
        ...flags({ steps: label === "sparsify-topk" ? 4 : big ? 1 : 2, warmup: 1 }),
        ...(oldTorch ? ["--adam", "plain"] : []),
      ),
      needs: ["torch"],
      once: quick && label !== "sparsify-topk",
    })),
  ],
  rows: [
    {
      title: "step",
      ours: (r) => r.tokens_per_second,
      theirs: (r) => r.tokens_per_second,
      targets: SAE_TARGETS,
    },
  ],
  /** The step beside PyTorch's bare encoder product of the same round. */
  multiple: {
    ours: (r) => r.step_ms,
    theirs: (r) => r.gemm_ms,
    own: (r) => r.gemm_multiple ?? r.step_per_gemm,
    most: 1.4,
  },
});

/**
 * One step of another architecture or objective beside our own TopK step and the peers that do the same.
 * `most`: how much longer than TopK it may take; `least`: how many times faster it must be.
 */
const saeZoo = (name, title, sizes, { label, args, peers, most, least, inQuick }) => ({
  name,
  title: `${title}, ${Object.entries(sizes)
    .map(([flag, v]) => `${flag} ${v}`)
    .join(", ")}; tokens/s`,
  unit: "tokens/s",
  inQuick,
  programs: ({ quick, oldTorch }) => [
    { label: "sluice", sluice: ["sae-step", ...flags(sizes), "--steps", quick ? "4" : "6", "--warmup", "2"] },
    {
      label,
      sluice: [
        "sae-step",
        ...flags(withoutIdle(sizes, args)),
        ...args,
        "--steps",
        quick ? "4" : "6",
        "--warmup",
        "2",
      ],
    },
    ...Object.keys(peers).map((peerLabel) => ({
      label: peerLabel,
      python: peer(
        "torch_sae_step.py",
        peerLabel,
        ...flags(sizes),
        ...flags({ steps: 2, warmup: 1 }),
        ...(oldTorch ? ["--adam", "plain"] : []),
      ),
      needs: ["torch"],
    })),
  ],
  rows: [
    {
      title: "step",
      program: label,
      peers: ["sluice", ...Object.keys(peers)],
      ours: (r) => r.tokens_per_second,
      theirs: (r) => r.tokens_per_second,
      targets: { ...peers, ...(most && { sluice: 1 / most }), ...(least && { sluice: least }) },
    },
  ],
  multiple: {
    ours: (r) => r.step_ms,
    theirs: (r) => r.gemm_ms,
    own: (r) => r.gemm_multiple ?? r.step_per_gemm,
    most: 1.4,
  },
});

/** Architectures without a k refuse one. */
const withoutIdle = ({ k, ...sizes }, args) =>
  ["jumprelu", "relu", "gated"].some((arch) => args.includes(arch)) ? sizes : { k, ...sizes };

const SIZE_1 = { d: 512, features: 8192, k: 32, batch: 4096 };
const KRON_PEERS = { "kron-best": 2.5, "kron-listing": 8 };

/** Hugging Face's model where transformers is installed; the plain one where it is not, or with --all. */
const languageModel = (mode, { transformers, all, oldTorch }, ...args) => [
  ...(transformers
    ? [
        {
          label: "Hugging Face",
          python: peer("torch_lm.py", mode, ...args),
          needs: ["torch", "transformers"],
        },
      ]
    : []),
  ...(all || !transformers
    ? [
        {
          label: "plain PyTorch",
          python: compat("torch_lm_plain.py", mode, ...args, ...(oldTorch ? ["--adam", "plain"] : [])),
          needs: ["torch"],
        },
      ]
    : []),
];

const everyPeer = (ratio) => ({ "Hugging Face": ratio, "plain PyTorch": ratio });

const lmForward = {
  name: "lm-forward",
  title: "Llama forward, one layer captured, d 512, 8 layers, vocab 32000, 8 × 128; tokens/s",
  unit: "tokens/s",
  programs: (setup) => [
    { label: "sluice", sluice: ["lm-forward", "--steps", "5"] },
    ...languageModel("forward", setup, "--arch", "llama", "--steps", "5"),
  ],
  rows: [
    ["with logits", "logits"],
    ["without the head", "no_head"],
    ["stopped after the layer", "stopped"],
  ].map(([title, key]) => ({
    title,
    ours: (r) => r[`${key}_tokens_per_second`],
    theirs: (r) => r[`${key}_tokens_per_second`],
    targets: everyPeer(1),
  })),
};

const GPT2_SMALL = flags({ d: 768, layers: 12, heads: 12, "kv-heads": 12, ffn: 3072, vocab: 50_257 });
const LLAMA_512 = flags({ d: 512, layers: 8, heads: 8, "kv-heads": 2, ffn: 1408, vocab: 32_000 });

/**
 * Stopped after the captured layer, weights in f32 and bf16, each beside the same type of PyTorch's. A CPU without matrix
 * instructions for bfloat16 multiplies it so slowly there that GPT-2's pass of 8 × 256 takes minutes: `peerHalf` is what it gets.
 */
const lmForwardHalf = (name, title, arch, sizes, { peerHalf = { batch: 8, ctx: 256 } } = {}) => {
  const half = `Hugging Face bfloat16${peerHalf.batch === 8 ? "" : `, ${peerHalf.batch} × ${peerHalf.ctx}`}`;
  return {
    name: `lm-forward-${name}`,
    title: `${title} forward, stopped after the captured middle layer, 8 × 256; tokens/s`,
    unit: "tokens/s",
    programs: () => [
      ...["f32", "bf16"].map((dtype) => ({
        label: dtype === "f32" ? "sluice" : `sluice ${dtype}`,
        sluice: ["lm-forward", "--arch", arch, ...sizes, "--ctx", "256", "--dtype", dtype, "--steps", "3"],
      })),
      {
        label: "Hugging Face float32",
        python: compat(
          "torch_forward_half.py",
          ...["--arch", arch, ...sizes, "--ctx", "256", "--dtype", "float32", "--steps", "3"],
        ),
        needs: ["torch", "transformers"],
      },
      {
        label: half,
        python: compat("torch_forward_half.py", "--arch", arch, ...sizes, ...flags(peerHalf), "--steps", "1"),
        needs: ["torch", "transformers"],
      },
    ],
    rows: [
      ["f32", "sluice", "Hugging Face float32"],
      ["bf16", "sluice bf16", half],
    ].map(([dtype, program, peer]) => ({
      title: `${dtype} weights`,
      program,
      ours: (r) => r.stopped_tokens_per_second,
      theirs: (r) => r.stopped_tokens_per_second,
      targets: { [peer]: 1 },
    })),
  };
};

const lmLoad = (shape, title) => ({
  name: `lm-load-${shape}`,
  title: `Loading ${title} from a warm disk, a process each time; times a second`,
  unit: "1/s",
  programs: () => [
    ...["f32", "bf16"].map((dtype) => ({
      label: dtype === "f32" ? "sluice" : `sluice ${dtype}`,
      sluice: ["lm-load", "--shape", shape, "--dtype", dtype, "--steps", "5"],
    })),
    {
      label: "Hugging Face",
      python: compat("torch_load.py", "--shape", shape, "--steps", "2"),
      needs: ["torch", "transformers"],
    },
    {
      label: "Hugging Face bf16",
      python: compat("torch_load.py", "--shape", shape, "--dtype", "bf16", "--steps", "1"),
      needs: ["torch", "transformers"],
    },
  ],
  rows: [
    ["f32", "sluice", "Hugging Face"],
    ["bf16", "sluice bf16", "Hugging Face bf16"],
  ].flatMap(([dtype, program, peer]) =>
    [
      ["load", "loads_per_second"],
      ["first captured activation after the process's start", "first_activations_per_second"],
    ].map(([what, key]) => ({
      title: `${what}, ${dtype}`,
      program,
      peers: [peer],
      ours: (r) => r[key],
      theirs: (r) => r[key],
    })),
  ),
  /** Figures of our own, some with a bound. */
  wanted: [
    { title: "loading", of: (r) => r.step_ms / 1000, most: 1, unit: "s" },
    {
      title: "first captured activation beyond reading",
      of: (r) => r.phases_ms.beyond_reading / 1000,
      most: 2,
      unit: "s",
    },
    {
      title: "peak memory that loading adds, × the weights as held",
      of: (r) => r.memory_multiple,
      most: 1.2,
      unit: "",
    },
  ],
});

const lmTrain = {
  name: "lm-train",
  title: "Llama training step, d 256, 6 layers, vocab 4096, 32 × 256; tokens/s",
  unit: "tokens/s",
  programs: (setup) => [
    { label: "sluice", sluice: ["lm-train", "--steps", setup.quick ? "2" : "3"] },
    ...languageModel("train", setup, "--steps", setup.quick ? "2" : "3"),
  ],
  rows: [
    {
      title: "step",
      ours: (r) => r.tokens_per_second,
      theirs: (r) => r.tokens_per_second,
      targets: everyPeer(1.3),
    },
  ],
};

/** What routed keys and values cost a training step, beside the plain model in the same process. */
const limeTrain = (kvHeads, most) => ({
  name: `lime-train-${kvHeads}`,
  title: `LIMe: plain training step / routed one, d 256, 6 layers, 8 heads of which ${kvHeads} hold keys, 32 × 256`,
  unit: "plain / routed",
  inQuick: false,
  programs: () => [
    {
      label: "sluice",
      sluice: ["lm-train", "--kv-heads", String(kvHeads), "--twin", "lime", "--steps", "9"],
    },
    {
      label: "PyTorch, preallocated",
      python: peer("torch_lime.py", "--kv-heads", String(kvHeads), "--steps", "5"),
      needs: ["torch"],
    },
  ],
  rows: [
    {
      title: "step",
      ours: (r) => 1 / (1 + r.twin_overhead_percent / 100),
      theirs: (r) => 1 / (1 + r.prealloc_overhead),
    },
  ],
  wanted: [
    { title: "what routing adds", of: (r) => r.twin_overhead_percent, most, unit: "%" },
    { title: "tensors that a plain step adds at its peak", of: (r) => r.step_adds_mb, unit: "MB" },
    { title: "tensors that a routed step adds at its peak", of: (r) => r.twin_adds_mb, unit: "MB" },
  ],
});

const generate = (name, what, { batch, sample = false, weights, inQuick }) => ({
  name,
  title: `Generation, ${what}; Llama d 512, 8 layers, vocab 32000, prompt 16, 64 new tokens; tokens/s`,
  unit: "tokens/s",
  inQuick,
  programs: (setup) => {
    const args = ["--batch", String(batch), ...(sample ? ["--sample"] : [])];
    return [
      ...weights.map(({ dtype }) => ({
        label: dtype === "f32" ? "sluice" : `sluice ${dtype}`,
        sluice: ["generate", ...args, "--steps", "3", "--dtype", dtype],
      })),
      ...languageModel("generate", setup, ...args, "--steps", batch > 1 ? "1" : "3"),
    ];
  },
  rows: weights.flatMap(({ dtype, target }) =>
    [
      ["whole generation", "tokens_per_second", "generate_tokens_per_second"],
      ["decoding alone (bare loop)", "decode_tokens_per_second", "loop_decode_tokens_per_second"],
    ].map(([title, ours, theirs]) => ({
      title: `${title}, ${dtype} weights`,
      program: dtype === "f32" ? "sluice" : `sluice ${dtype}`,
      ours: (r) => r[ours],
      theirs: (r) => r[theirs],
      targets: everyPeer(target),
    })),
  ),
});

const SIXTEEN = ["f32", "f16"].map((dtype) => ({ dtype, target: 3 }));

export const SECTIONS = [
  gemm,
  saeStep("sae-1", { d: 512, features: 8192, k: 32, batch: 4096 }),
  saeStep("sae-2", { d: 768, features: 24576, k: 32, batch: 4096 }, { inQuick: false, big: true }),
  saeStep("sae-3", { d: 2304, features: 16384, k: 64, batch: 2048 }, { inQuick: false, big: true }),
  saeZoo("sae-hierarchical", "HierarchicalTopK step, all budgets up to k", SIZE_1, {
    label: "sluice hierarchical",
    args: ["--objective", "hierarchical"],
    peers: { "hierarchical-best": 2.5, "hierarchical-reference": 8 },
    most: 1.15,
  }),
  saeZoo("sae-kron", "KronSAE step, m = n = 4", SIZE_1, {
    label: "sluice kron",
    args: ["--encoder", "kron"],
    peers: KRON_PEERS,
    least: 1.6,
  }),
  saeZoo(
    "sae-kron-32k",
    "KronSAE step, m = n = 4",
    { ...SIZE_1, features: 32_768 },
    {
      label: "sluice kron",
      args: ["--encoder", "kron"],
      peers: KRON_PEERS,
      least: 1.6,
      inQuick: false,
    },
  ),
  saeZoo("sae-batchtopk", "BatchTopK step", SIZE_1, {
    label: "sluice batchtopk",
    args: ["--arch", "batchtopk"],
    peers: { "batchtopk-best": 2, batchtopk: undefined },
  }),
  saeZoo("sae-jumprelu", "JumpReLU step, thresholds as at the start of training", SIZE_1, {
    label: "sluice jumprelu",
    args: ["--arch", "jumprelu"],
    peers: { jumprelu: 4 },
  }),
  ...[
    ["matryoshka", "Matryoshka TopK step, five levels", ["--objective", "matryoshka"]],
    ["relu", "ReLU step, L1 penalty", ["--arch", "relu"]],
    ["gated", "Gated step, L1 penalty", ["--arch", "gated"]],
  ].map(([name, title, args]) =>
    saeZoo(`sae-${name}`, `${title}, no peer`, SIZE_1, { label: `sluice ${name}`, args, peers: {} }),
  ),
  // The peer computes with all features whatever the thresholds are, so its time is that at the start too.
  saeZoo("sae-jumprelu-sparse", "JumpReLU step, 32 of 8192 features above their thresholds", SIZE_1, {
    label: "sluice jumprelu",
    args: ["--arch", "jumprelu", "--threshold", "2.66"],
    peers: { jumprelu: 4 },
  }),
  lmForward,
  lmForwardHalf("gpt2-small", "GPT-2 small's shape:", "gpt2", GPT2_SMALL, {
    peerHalf: { batch: 1, ctx: 64 },
  }),
  lmForwardHalf("llama-512", "Llama d 512, 8 layers:", "llama", LLAMA_512),
  lmLoad("gpt2-small", "GPT-2 small's size"),
  lmLoad("llama-512", "a Llama of d 512, 8 layers"),
  lmTrain,
  limeTrain(4, 5),
  limeTrain(8, 12),
  generate("generate-1", "batch 1, greedy", {
    batch: 1,
    weights: [
      { dtype: "f32", target: 1.3 },
      { dtype: "f16", target: 2 },
      { dtype: "bf16", target: 2 },
    ],
  }),
  generate("generate-16", "batch 16, greedy", { batch: 16, weights: SIXTEEN }),
  generate("generate-16-sampled", "batch 16, sampled", {
    batch: 16,
    sample: true,
    weights: SIXTEEN,
    inQuick: false,
  }),
];
