/**
 * Chat templates: a model's own way to write a conversation as text, in Jinja (tokenizer_config.json, or chat_template.jinja).
 */
import { Template } from "@huggingface/jinja";
import { inputError, usageError } from "../util/errors.ts";

export interface ChatMessage {
  /** As the template knows them: system, user, assistant, tool … */
  readonly role: string;
  readonly content: string;
  /** What else the template reads, such as tool_calls. */
  readonly [key: string]: unknown;
}

export interface ChatOptions {
  /** End with what begins an answer of the model; default false. */
  readonly addGenerationPrompt?: boolean;
  /** JSON schemas of functions that the model may call. */
  readonly tools?: readonly unknown[];
  /** Further variables of the template, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

export class ChatTemplate {
  /** Jinja by name; "default" unless the model has several. */
  readonly #sources: ReadonlyMap<string, string>;
  readonly #specialTokens: Readonly<Record<string, string>>;
  readonly #compiled = new Map<string, Template>();

  /** `chat_template` of tokenizer_config.json; undefined where there is none. */
  static from(config: Readonly<Record<string, unknown>>): ChatTemplate | undefined {
    const { chat_template: found } = config;
    if (typeof found === "string") return new ChatTemplate(new Map([["default", found]]), config);
    if (!Array.isArray(found)) return undefined;
    const named = found.filter((t) => typeof t?.name === "string" && typeof t.template === "string");
    return named.length === 0
      ? undefined
      : new ChatTemplate(new Map(named.map((t) => [t.name as string, t.template as string])), config);
  }

  private constructor(sources: ReadonlyMap<string, string>, config: Readonly<Record<string, unknown>>) {
    this.#sources = sources;
    this.#specialTokens = specialTokens(config);
  }

  /** The conversation as text. What the template refuses (`raise_exception`), and templates that do not work, throw. */
  render(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const { addGenerationPrompt = false, tools, variables } = options;
    if (messages.length === 0) throw usageError("chat: no messages");
    const template = this.#template(tools ? ["tool_use", "default"] : ["default"]);
    try {
      return template.render({
        ...this.#specialTokens,
        tools: tools ?? null,
        documents: null,
        ...variables,
        messages,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (cause) {
      const roles = messages.map(({ role }) => role).join(", ");
      throw inputError(
        `the model's chat template does not take these messages (${roles}): ${(cause as Error).message}`,
        cause,
      );
    }
  }

  #template(names: readonly string[]): Template {
    const name = names.find((n) => this.#sources.has(n)) ?? [...this.#sources.keys()][0];
    let template = this.#compiled.get(name);
    if (!template) {
      try {
        template = new Template(this.#sources.get(name) as string);
      } catch (cause) {
        throw inputError(
          `the model's chat template is no Jinja that can be read here: ${(cause as Error).message}`,
          cause,
        );
      }
      this.#compiled.set(name, template);
    }
    return template;
  }
}

/** `bos_token`, `eos_token` and their like by name. */
function specialTokens(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const entries = Object.entries(config)
    .filter(([key]) => key.endsWith("_token"))
    .map(([key, value]) => [
      key,
      typeof value === "object" ? (value as { content?: unknown } | null)?.content : value,
    ]);
  return Object.fromEntries(entries.filter(([, value]) => typeof value === "string"));
}
