/**
 * A folder of its own for one test, removed at the end of the block: `using temp = temporaryFolder()`.
 */
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";

export interface TemporaryFolder {
  readonly path: string;
  [Symbol.dispose](): void;
}

export function temporaryFolder(): TemporaryFolder {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "sluice-test-"));
  return { path: folder, [Symbol.dispose]: () => fs.rmSync(folder, { recursive: true, force: true }) };
}
