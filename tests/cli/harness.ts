/**
 * A catalogue made for the tests, and a runner that catches what would go to the terminal.
 */
import { z } from "zod";
import {
  type CatalogueEntry,
  type Command,
  type CommandContext,
  defineCommand,
} from "../../src/cli/command.ts";
import { runCli } from "../../src/cli/run.ts";
import { interruptedError } from "../../src/util/index.ts";

export const trainSchema = z.object({
  features: z.number().int().min(1).default(4096).describe("width of the dictionary"),
  lr: z.number().positive().optional().describe("learning rate (default: 2e-4/√(features/16k))"),
  batch: z.number().int().optional().describe("rows per step [4096, or fewer]"),
  arch: z.enum(["topk", "relu"]).default("topk").describe("activation").meta({ group: "Model" }),
  hooks: z.array(z.string()).default(["blocks.3.hook_resid_post"]).describe("hook points"),
  layers: z.array(z.number().int()).default([]).describe("layers"),
  normalize: z.boolean().default(true).describe("scale the input to mean norm √D"),
  resume: z.boolean().default(false).describe("go on from the last checkpoint"),
  tokens: z.number().int().positive().default(500_000).describe("tokens to train on"),
  out: z.string().describe("folder for the result"),
});

/** Gives back the options it got. */
export const train = defineCommand({
  name: "sae train",
  summary: "train it",
  description: "Trains an autoencoder.",
  schema: trainSchema,
  positional: ["out"],
  examples: ["sluice sae train out/x --features 8k"],
  async run(options, context) {
    context.log("working");
    context.write("partial ");
    return { json: { ...options }, text: `trained into ${options.out}` };
  },
});

const empty = z.object({});

function simple(name: string, run: Command<typeof empty>["run"]): Command<typeof empty> {
  return defineCommand({ name, summary: `${name} it`, description: name, schema: empty, examples: [], run });
}

const nap = (context: CommandContext): Promise<never> =>
  new Promise((_, reject) => {
    context.signal.addEventListener("abort", () =>
      reject(interruptedError("stopped at step 7; saved to out/x")),
    );
  });

const commands = [
  train,
  simple("sae eval", async () => ({ json: { l0: 32 } })),
  simple("crash", async () => {
    throw new TypeError("x is undefined");
  }),
  simple("unwell", async () => ({ json: { ok: false }, text: "unwell", failed: true })),
  simple("sleep", async (_, context) => nap(context)),
];

export const catalogue: readonly CatalogueEntry[] = commands.map((command) => ({
  name: command.name,
  summary: command.summary,
  load: async () => command,
}));

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly exits: readonly number[];
}

/** Runs a command line against the catalogue; `interrupts` Ctrl-C come once the command runs. */
export async function run(argv: readonly string[], interrupts = 0): Promise<Outcome> {
  let stdout = "";
  let stderr = "";
  const exits: number[] = [];
  const code = await runCli(argv, {
    catalogue,
    version: "1.2.3",
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    onInterrupt(handler) {
      setImmediate(() => {
        for (let i = 0; i < interrupts; i++) handler();
      });
      return () => {};
    },
    exitNow: (status) => void exits.push(status),
  });
  return { code, stdout, stderr, exits };
}
