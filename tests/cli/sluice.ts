/**
 * The real commands in this process: what they print, their exit code, and Ctrl-C at a chosen moment.
 */
import { catalogue } from "../../src/cli/catalogue.ts";
import { runCli } from "../../src/cli/run.ts";

export interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** stdout as the object that --json prints. */
  json<T = Record<string, unknown>>(): T;
}

/**
 * Runs `sluice …argv`. With `interruptWhen`, Ctrl-C comes as soon as that is true (looked at on every turn of the event
 * loop).
 */
export async function sluice(argv: readonly string[], interruptWhen?: () => boolean): Promise<Ran> {
  let stdout = "";
  let stderr = "";
  const code = await runCli(argv, {
    catalogue,
    version: "0.0.0",
    stdout: { write: (text) => (stdout += text) },
    stderr: { write: (text) => (stderr += text) },
    onInterrupt(handler) {
      if (!interruptWhen) return () => {};
      let timer: NodeJS.Immediate;
      const look = (): void => {
        if (interruptWhen()) handler();
        else timer = setImmediate(look);
      };
      timer = setImmediate(look);
      return () => clearImmediate(timer);
    },
  });
  return { code, stdout, stderr, json: () => JSON.parse(stdout) };
}
