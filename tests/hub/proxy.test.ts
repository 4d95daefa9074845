/**
 * The hub behind a proxy: a local one that forwards and tunnels to local servers, whatever the names are.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import * as fs from "node:fs";
import { createServer, request, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { proxyFor } from "../../src/hub/proxy.ts";
import { temporaryFolder } from "../temporary.ts";
import { certificateFor } from "./certificate.ts";
import { COMMIT, hubServer } from "./hub-server.ts";

const via = (url: string, env: Record<string, string>) => proxyFor(new URL(url), env)?.url.href;

test("the proxy is that of the scheme, else of all; small letters go first", () => {
  const env = { HTTPS_PROXY: "http://a:1", HTTP_PROXY: "b:2", ALL_PROXY: "http://c:3" };
  assert.equal(via("https://hub.test", env), "http://a:1/");
  assert.equal(via("http://hub.test", env), "http://b:2/");
  assert.equal(via("https://hub.test", { ALL_PROXY: "http://c:3" }), "http://c:3/");
  assert.equal(via("https://hub.test", { ...env, https_proxy: "http://d:4" }), "http://d:4/");
  assert.equal(via("https://hub.test", { HTTPS_PROXY: " ", HTTP_PROXY: "http://b:2" }), undefined);
  assert.throws(
    () => via("https://hub.test", { HTTPS_PROXY: "socks5://a:1" }),
    /HTTPS_PROXY names a proxy of the kind socks5:/,
  );
  assert.throws(() => via("https://hub.test", { HTTPS_PROXY: "http://" }), /HTTPS_PROXY names no address/);
});

test("NO_PROXY names hosts, with those below them, ports, or all; this machine is never asked through a proxy", () => {
  const straight = (url: string, NO_PROXY: string) =>
    via(url, { ALL_PROXY: "http://p:1", NO_PROXY }) === undefined;
  for (const list of [
    "hub.test",
    ".hub.test",
    "*.hub.test",
    "a, HUB.test",
    "other hub.test",
    "*",
    "hub.test:443",
  ])
    assert.ok(straight("https://x.hub.test/a", list), list);
  for (const list of ["", "ub.test", "hub.test:80", "y.hub.test", "test.hub"])
    assert.ok(!straight("https://x.hub.test/a", list), list);
  for (const host of ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
    assert.ok(straight(`http://${host}:8/`, ""), host);
});

interface TestProxy extends AsyncDisposable {
  readonly address: string;
  /** `CONNECT host:port`, or `GET http://host/path`. */
  readonly seen: string[];
  readonly logins: Set<string | undefined>;
}

const listen = async (server: Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
};

/** Whatever host it is asked for, it goes to `port` of this machine; with `login` it asks for that. */
async function startProxy(port: number, login?: string): Promise<TestProxy> {
  const seen: string[] = [];
  const logins = new Set<string | undefined>();
  const sockets = new Set<Socket>();
  const server = createServer((asked, response) => {
    seen.push(`${asked.method} ${asked.url}`);
    logins.add(asked.headers["proxy-authorization"]);
    const { pathname, search } = new URL(asked.url ?? "");
    const { "proxy-authorization": _, ...headers } = asked.headers;
    const onward = request({ port, path: `${pathname}${search}`, headers, method: asked.method }, (got) => {
      response.writeHead(got.statusCode ?? 502, got.headers);
      got.pipe(response);
    });
    asked.pipe(onward);
  });
  server.on("connect", (asked, socket: Socket, head) => {
    seen.push(`CONNECT ${asked.url}`);
    logins.add(asked.headers["proxy-authorization"]);
    sockets.add(socket);
    if (login && asked.headers["proxy-authorization"] !== `Basic ${Buffer.from(login).toString("base64")}`) {
      socket.end("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
      return;
    }
    const onward = connect(port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection Established\r\n\r\n");
      onward.write(head);
      onward.pipe(socket);
      socket.pipe(onward);
    });
    for (const end of [onward, socket]) end.on("error", () => {});
  });
  const address = `127.0.0.1:${await listen(server)}`;
  return {
    address,
    seen,
    logins,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const REPO = {
  name: "org/tiny",
  files: { "config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "w".repeat(100_000) },
};

/** Downloads the model in a process of its own, whose environment is this; what it says, and whether it ended well. */
async function download(cache: string, env: Record<string, string>): Promise<{ said: string; ok: boolean }> {
  const module = new URL("../../src/hub/index.js", import.meta.url).href;
  const code = `
    import { fetchModel, parseModelId } from ${JSON.stringify(module)};
    try { console.log(await fetchModel(parseModelId("org/tiny"), { mostTries: 1 })); }
    catch (error) { console.log(error.message); process.exitCode = 1; }`;
  const base = { PATH: process.env.PATH ?? "", HF_HUB_CACHE: cache, HF_TOKEN: "hf_x" };
  const args = ["--input-type=module", "-e", code];
  return promisify(execFile)(process.execPath, args, { env: { ...base, ...env }, timeout: 60_000 }).then(
    ({ stdout }) => ({ said: stdout, ok: true }),
    ({ stdout }) => ({ said: stdout, ok: false }),
  );
}

test("a hub without encryption is asked through HTTP_PROXY, with name and password", async () => {
  using temp = temporaryFolder();
  await using hub = await hubServer([REPO]);
  await using proxy = await startProxy(Number(new URL(hub.endpoint).port));
  const env = { HF_ENDPOINT: "http://hub.test", HTTP_PROXY: `http://me:se%40cret@${proxy.address}` };
  const { said, ok } = await download(temp.path, env);
  assert.ok(ok, said);
  const folder = join(temp.path, "models--org--tiny", "snapshots", COMMIT);
  assert.equal(fs.readFileSync(join(folder, "model.safetensors"), "utf8"), REPO.files["model.safetensors"]);
  assert.equal(proxy.seen.length, hub.seen.length, "the second page of the listing too");
  assert.ok(
    proxy.seen.every((line) => line.startsWith("GET http://hub.test/")),
    proxy.seen.join("\n"),
  );
  assert.deepEqual([...proxy.logins], [`Basic ${Buffer.from("me:se@cret").toString("base64")}`]);
});

test("a hub with encryption is asked through a tunnel of HTTPS_PROXY, which sees neither path nor token", async () => {
  using temp = temporaryFolder();
  await using hub = await hubServer([REPO]);
  const { cert, key } = certificateFor("hub.test");
  fs.writeFileSync(join(temp.path, "cert.pem"), cert);
  const { port } = new URL(hub.endpoint);
  const tls = createTlsServer({ cert, key }, (asked, response) => {
    const onward = request({ port, path: asked.url, headers: asked.headers }, (got) => {
      response.writeHead(got.statusCode ?? 502, got.headers);
      got.pipe(response);
    });
    asked.pipe(onward);
  });
  await using proxy = await startProxy(await listen(tls as unknown as Server), "me:secret");
  try {
    const env = { HF_ENDPOINT: "https://hub.test", NODE_EXTRA_CA_CERTS: join(temp.path, "cert.pem") };
    const { said, ok } = await download(temp.path, {
      ...env,
      HTTPS_PROXY: `http://me:secret@${proxy.address}`,
    });
    assert.ok(ok, said);
    assert.ok(
      proxy.seen.length > 0 && proxy.seen.every((line) => line === "CONNECT hub.test:443"),
      proxy.seen.join(),
    );
    assert.ok(hub.seen.length > 3 && hub.seen.every(({ authorization }) => authorization === "Bearer hf_x"));

    const refused = await download(join(temp.path, "b"), {
      ...env,
      https_proxy: `http://me:wrong@${proxy.address}`,
    });
    assert.ok(!refused.ok);
    assert.ok(
      refused.said.includes(
        `check the proxy ${proxy.address} (https_proxy), which wants a name and password`,
      ),
      refused.said,
    );
    assert.ok(!refused.said.includes("wrong"), "the password is not shown");

    hub.seen.length = 0;
    proxy.seen.length = 0;
    const straight = await download(join(temp.path, "c"), {
      ...env,
      HTTPS_PROXY: proxy.address,
      NO_PROXY: "hub.test",
    });
    assert.match(straight.said, /https:\/\/hub\.test could not be reached .*check the network/);
    assert.deepEqual(proxy.seen, []);
  } finally {
    tls.closeAllConnections();
    await new Promise((resolve) => tls.close(resolve));
  }
});

test("a proxy that is not there is named", async () => {
  using temp = temporaryFolder();
  const { said, ok } = await download(temp.path, {
    HF_ENDPOINT: "https://hub.test",
    HTTPS_PROXY: "http://127.0.0.1:9",
  });
  assert.ok(!ok);
  assert.match(
    said,
    /https:\/\/hub\.test could not be reached \(ECONNREFUSED\); check the proxy 127\.0\.0\.1:9 \(HTTPS_PROXY\)/,
  );
});
