#!/usr/bin/env node
/**
 * The `sluice` binary: argv in, exit code out.
 */
import { readFileSync } from "node:fs";
import { catalogue } from "./catalogue.ts";
import { runCli } from "./run.ts";

const manifest = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8"));

/** A reader that closed the pipe (`sluice … | head`) is no failure. */
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

const code = await runCli(process.argv.slice(2), {
  catalogue,
  version: manifest.version,
  stdout: process.stdout,
  stderr: process.stderr,
  onInterrupt(handler) {
    const signals = ["SIGINT", "SIGTERM"] as const;
    for (const signal of signals) process.on(signal, handler);
    return () => {
      for (const signal of signals) process.off(signal, handler);
    };
  },
  exitNow: (status) => process.exit(status),
});
// Written text must leave before the process does; open handles must not keep it.
process.stdout.write("", () => process.exit(code));
