/**
 * Runs another program and explains why it did not work.
 */
import { spawn } from "node:child_process";
import { interruptedError, SluiceError } from "../util/errors.ts";

/** Standard output of a command. Throws with the last lines of its errors, or with `missing` when there is no such command. */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: { cwd?: string; signal?: AbortSignal; missing?: string; failed?: string } = {},
): Promise<string> {
  const { cwd, signal, missing = `install ${command}`, failed = "" } = options;
  const child = spawn(command, args, { cwd, signal, stdio: ["ignore", "pipe", "pipe"] });
  const out: Buffer[] = [];
  let errors = "";
  child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => {
    errors = (errors + chunk.toString("utf8")).slice(-4000);
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  }).catch((cause: NodeJS.ErrnoException) => {
    if (cause.name === "AbortError")
      throw interruptedError(`\`${command}\` was stopped; nothing was written`);
    if (cause.code !== "ENOENT") throw cause;
    throw new SluiceError("io", `\`${command}\` was not found: ${missing}`, { cause });
  });
  if (code !== 0) {
    const tail = errors.trim().split("\n").slice(-4).join("\n");
    throw new SluiceError(
      "io",
      `\`${command} ${args.join(" ")}\` failed (exit ${code})${failed === "" ? "" : `: ${failed}`}\n${tail}`,
    );
  }
  return Buffer.concat(out).toString("utf8");
}
