/**
 * A server that behaves like the hub, and misbehaves on request: revisions, listings, files with redirects and ranges, and a
 * fault for each request of a path if a test wants one.
 */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";

export interface HubRepo {
  readonly type?: "model" | "dataset";
  readonly name: string;
  readonly commit?: string;
  /** Contents by path; those in `lfs` are listed by SHA-256 and served by the other host. */
  readonly files: Readonly<Record<string, string | Buffer>>;
  readonly lfs?: readonly string[];
  /** Needs this token. */
  readonly gated?: string;
}

/** What to do instead of answering; `undefined` answers as usual. The number is that of the request for this path, from 0. */
export type Fault =
  | { readonly kind: "status"; readonly status: number; readonly headers?: Record<string, string> }
  /** Sends so many bytes of the body, and cuts the connection. */
  | { readonly kind: "cut"; readonly after: number }
  /** Sends so many bytes of the body, and then nothing. */
  | { readonly kind: "stall"; readonly after: number }
  /** Sends this instead of the file. */
  | { readonly kind: "body"; readonly body: Buffer; readonly length?: number }
  /** The whole file, whatever range was asked for. */
  | { readonly kind: "whole" }
  /** The whole file packed, whatever encoding was asked for. */
  | { readonly kind: "gzip" };

export interface Seen {
  readonly host: "hub" | "files";
  readonly method: string;
  readonly path: string;
  readonly range?: string;
  readonly authorization?: string;
}

export interface HubServer {
  readonly endpoint: string;
  /** Another origin, which files in LFS are on. */
  readonly files: string;
  readonly seen: Seen[];
  fault: (path: string, count: number) => Fault | undefined;
  [Symbol.asyncDispose](): Promise<void>;
}

export const COMMIT = "0123456789abcdef0123456789abcdef01234567";
export const sha256 = (bytes: Buffer): string => createHash("sha256").update(bytes).digest("hex");
export const gitSha1 = (bytes: Buffer): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

const listen = (server: Server): Promise<string> =>
  new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () =>
      resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    );
  });

/** Starts both hosts; close it with `await using`. */
export async function hubServer(repos: readonly HubRepo[]): Promise<HubServer> {
  const counts = new Map<string, number>();
  const hub = createServer((request, response) => answer("hub", request, response));
  const files = createServer((request, response) => answer("files", request, response));
  const self: HubServer = {
    endpoint: await listen(hub),
    files: await listen(files),
    seen: [],
    fault: () => undefined,
    async [Symbol.asyncDispose]() {
      for (const server of [hub, files]) {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      }
    },
  };
  function answer(host: Seen["host"], request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(new URL(request.url ?? "", self.endpoint).pathname);
    const { range, authorization } = request.headers;
    self.seen.push({ host, method: request.method ?? "", path, range, authorization });
    request.resume();
    const key = `${host} ${path}`;
    const count = counts.get(key) ?? 0;
    counts.set(key, count + 1);
    const fault = self.fault(`${host}:${path}`, count);
    if (fault?.kind === "status") {
      response.writeHead(fault.status, fault.headers).end("fault");
      return;
    }
    if (host === "files") {
      sendStored(path, request, response, fault);
      return;
    }
    if (path.startsWith("/api/")) {
      if (fault?.kind === "cut") {
        response.writeHead(200, { "content-type": "application/json", "content-length": 10_000 });
        response.write(" ".repeat(fault.after), () => setTimeout(() => response.destroy(), 20));
      } else sendApi(path, request, response);
      return;
    }
    sendFile(path, request, response, fault);
  }

  function refuse(response: ServerResponse, status: number, code: string): void {
    response.writeHead(status, { "x-error-code": code }).end(JSON.stringify({ error: code }));
  }

  function find(kind: string | undefined, name: string): HubRepo | undefined {
    return repos.find((r) => r.name === name && `${r.type ?? "model"}s` === kind);
  }

  function sendApi(path: string, request: IncomingMessage, response: ServerResponse): void {
    const match = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)(?:\/(.*))?$/.exec(
      path,
    );
    const repo = match && find(match[1], match[2]);
    if (!match || !repo) {
      refuse(response, 404, "RepoNotFound");
      return;
    }
    const commit = repo.commit ?? COMMIT;
    if (!["main", "HEAD", commit].includes(match[4])) {
      refuse(response, 404, "RevisionNotFound");
      return;
    }
    response.setHeader("content-type", "application/json");
    if (match[3] === "revision") {
      response.end(JSON.stringify({ _id: "1", id: repo.name, sha: commit }));
      return;
    }
    const folder = match[5] ? `${match[5]}/` : "";
    const entries = Object.entries(repo.files)
      .filter(([name]) => name.startsWith(folder))
      .map(([name, content]) => {
        const bytes = Buffer.from(content);
        const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: 130 };
        const stored = repo.lfs?.includes(name);
        return {
          type: "file",
          path: name,
          size: bytes.length,
          oid: gitSha1(bytes),
          ...(stored ? { lfs } : {}),
        };
      });
    if (entries.length === 0) {
      refuse(response, 404, "EntryNotFound");
      return;
    }
    // Two pages, as long listings have.
    const page = Number(new URL(request.url ?? "", self.endpoint).searchParams.get("cursor") ?? 0);
    const half = Math.ceil(entries.length / 2);
    const query = `${self.endpoint}${path}?recursive=true&cursor=1`;
    if (page === 0 && entries.length > half) response.setHeader("link", `<${query}>; rel="next"`);
    response.end(JSON.stringify(page === 0 ? entries.slice(0, half) : entries.slice(half)));
  }

  function sendFile(path: string, request: IncomingMessage, response: ServerResponse, fault?: Fault): void {
    const match = /^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path);
    const repo = match ? find(match[1] ? "datasets" : "models", match[2]) : undefined;
    const content = match ? repo?.files[match[4]] : undefined;
    if (!match || !repo || content === undefined) {
      refuse(response, 404, "EntryNotFound");
      return;
    }
    if (repo.gated !== undefined && request.headers.authorization !== `Bearer ${repo.gated}`) {
      refuse(response, 401, "GatedRepo");
      return;
    }
    if (repo.lfs?.includes(match[4])) {
      response.writeHead(302, { location: `${self.files}/${repo.name}/${match[4]}` }).end();
      return;
    }
    sendBytes(Buffer.from(content), request, response, fault);
  }

  function sendStored(path: string, request: IncomingMessage, response: ServerResponse, fault?: Fault): void {
    const [, org, name, ...rest] = path.split("/");
    const repo = repos.find((r) => r.name === `${org}/${name}`);
    sendBytes(Buffer.from(repo?.files[rest.join("/")] ?? ""), request, response, fault);
  }

  return self;
}

function sendBytes(whole: Buffer, request: IncomingMessage, response: ServerResponse, fault?: Fault): void {
  if (fault?.kind === "gzip") {
    const packed = gzipSync(whole);
    response.writeHead(200, { "content-encoding": "gzip", "content-length": packed.length }).end(packed);
    return;
  }
  const bytes = fault?.kind === "body" ? fault.body : whole;
  const range = fault?.kind === "whole" ? null : /^bytes=(\d+)-/.exec(request.headers.range ?? "");
  const from = range ? Number(range[1]) : 0;
  if (from > 0 && from >= bytes.length) {
    response.writeHead(416, { "content-range": `bytes */${bytes.length}` }).end();
    return;
  }
  const length = fault?.kind === "body" && fault.length !== undefined ? fault.length : bytes.length;
  response.writeHead(range ? 206 : 200, {
    "content-length": length - from,
    ...(range ? { "content-range": `bytes ${from}-${length - 1}/${length}` } : {}),
  });
  if (fault?.kind === "cut" || fault?.kind === "stall") {
    response.write(bytes.subarray(from, from + fault.after), () => {
      if (fault.kind === "cut") setTimeout(() => response.destroy(), 20);
    });
  } else response.end(bytes.subarray(from));
}
