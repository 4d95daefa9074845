/**
 * SQLite tables through the `sqlite3` command (Node 20 has no reader of its own).
 */
import { join } from "node:path";
import { runCommand } from "../command.ts";
import type { Document, ReaderSpec } from "../types.ts";
import { onlyRoot, type Roots } from "./files.ts";

/** One document per row; the query gives the columns `id` and `text`. */
export async function* readSqlite(
  spec: ReaderSpec & { kind: "sqlite" },
  roots: Roots,
): AsyncGenerator<Document> {
  const file = join(onlyRoot(roots), spec.file);
  const json = await runCommand("sqlite3", ["-readonly", "-json", file, spec.sql], {
    missing: "this corpus is an SQLite database: install the command with `apt-get install sqlite3`",
  });
  for (const row of JSON.parse(json) as { id: string; text: string }[]) {
    yield { id: row.id, text: row.text };
  }
}
