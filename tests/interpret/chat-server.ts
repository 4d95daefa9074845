/**
 * A server that speaks the chat-completions protocol, with an answer and faults of the test's choice.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export interface ChatBody {
  readonly model: string;
  readonly messages: readonly { readonly role: string; readonly content: string }[];
  readonly [field: string]: unknown;
}

export interface Received {
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: ChatBody;
  /** Milliseconds. */
  readonly at: number;
}

/** Answers by itself, and says so. */
export type Fault = (response: ServerResponse) => void;

export interface ChatServer {
  readonly url: string;
  /** All requests, also those that met a fault. */
  readonly received: Received[];
  /** Most requests that were under way together. */
  readonly busiest: () => number;
  close(): Promise<void>;
}

export const completion = (content: string): string =>
  JSON.stringify({
    id: "c",
    object: "chat.completion",
    choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }],
    usage: { prompt_tokens: 100, completion_tokens: 7, total_tokens: 107 },
  });

export const faults = {
  status:
    (status: number, headers: Record<string, string> = {}, message = "no"): Fault =>
    (response) => {
      response.writeHead(status, { "content-type": "application/json", ...headers });
      response.end(JSON.stringify({ error: { message } }));
    },
  body:
    (text: string): Fault =>
    (response) => {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(text);
    },
  /** Half an answer, then the connection is gone. */
  cut: ((response) => {
    response.writeHead(200, { "content-type": "application/json", "content-length": "1000" });
    response.write('{"choices":[');
    setTimeout(() => response.destroy(), 5);
  }) as Fault,
  /** Never an answer. */
  silence: (() => {}) as Fault,
};

/** `faultOf` is asked with the number of the request, from 0; `delayMs` is what every answer takes. */
export async function startChatServer(
  answer: (body: ChatBody) => string,
  {
    faultOf = () => undefined,
    delayMs = 0,
  }: { faultOf?: (number: number, body: ChatBody) => Fault | undefined; delayMs?: number } = {},
): Promise<ChatServer> {
  const received: Received[] = [];
  let running = 0;
  let busiest = 0;
  const server = createServer((request, response) => {
    let text = "";
    busiest = Math.max(busiest, ++running);
    response.on("close", () => {
      running--;
    });
    request.on("data", (chunk) => {
      text += chunk;
    });
    request.on("end", () => {
      const body = JSON.parse(text) as ChatBody;
      const number = received.length;
      received.push({ path: request.url ?? "", headers: request.headers, body, at: performance.now() });
      const fault = faultOf(number, body);
      if (fault) fault(response);
      else setTimeout(() => faults.body(completion(answer(body)))(response), delayMs);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    received,
    busiest: () => busiest,
    async close() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
