/**
 * Requests through the proxy that HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY name, read as curl and Python's requests read
 * them. Node's own fetch does not look at them. As in Go, this machine itself is never asked through a proxy.
 */
import type { Dispatcher } from "undici";
import { usageError } from "../util/errors.ts";

/** A proxy, and the variable that named it. */
export interface Proxy {
  readonly variable: string;
  readonly url: URL;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** The proxy for a request to `url`; undefined where it goes straight. */
export function proxyFor(url: URL, env: Environment = process.env): Proxy | undefined {
  const names = [url.protocol === "https:" ? "HTTPS_PROXY" : "HTTP_PROXY", "ALL_PROXY"];
  const variable = names.flatMap((name) => [name.toLowerCase(), name]).find((name) => env[name]?.trim());
  if (variable === undefined || isLoopback(url.hostname)) return undefined;
  if (isExempt(url, env.no_proxy ?? env.NO_PROXY ?? "")) return undefined;
  return { variable, url: parseProxy(variable, env[variable] as string) };
}

/** How errors name a proxy: never with the password that may stand in its address. */
export const showProxy = ({ variable, url }: Proxy): string => `the proxy ${url.host} (${variable})`;

function parseProxy(variable: string, value: string): URL {
  const text = value.trim();
  const address = /^[a-z][a-z\d+.-]*:\/\//i.test(text) ? text : `http://${text}`;
  const url = URL.canParse(address) ? new URL(address) : undefined;
  if (url?.protocol === "http:" || url?.protocol === "https:") return url;
  throw usageError(
    `${variable} names ${url ? `a proxy of the kind ${url.protocol}//` : "no address"}; one as in http://host:port was expected`,
  );
}

const isLoopback = (host: string): boolean => /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(host);

/** A name in NO_PROXY is that host and those below it, `*` every host; a port behind it means only that port. */
function isExempt({ hostname, port, protocol }: URL, list: string): boolean {
  const own = port || (protocol === "https:" ? "443" : "80");
  return list.split(/[\s,]+/).some((entry) => {
    const [, name, only] = /^(?:\*?\.)?(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) ?? [];
    if (!name || (only !== undefined && only !== own)) return false;
    return name === "*" || hostname === name || hostname.endsWith(`.${name}`);
  });
}

const dispatchers = new Map<string, Dispatcher>();

/** `fetch`, through the proxy if there is one for the address. */
export async function proxiedFetch(url: URL, init: RequestInit): Promise<Response> {
  const proxy = proxyFor(url);
  if (!proxy) return fetch(url, init);
  const { fetch: fetchThrough, ProxyAgent } = await import("undici");
  const { href } = proxy.url;
  // What is not encrypted is forwarded, not tunnelled: many proxies tunnel to port 443 only.
  const dispatcher = dispatchers.get(href) ?? new ProxyAgent({ uri: href, proxyTunnel: false });
  dispatchers.set(href, dispatcher);
  const answer = await fetchThrough(url, { ...init, dispatcher } as Parameters<typeof fetchThrough>[1]);
  return answer as unknown as Response;
}
