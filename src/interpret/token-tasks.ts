/**
 * Classes of tokens that a probe can be asked for, by the token's own letters.
 */

export interface TokenClass {
  readonly name: string;
  /** Whether a token of this text belongs to it. */
  has(text: string): boolean;
}

export interface TokenTask {
  /** What the task is, for help. */
  readonly summary: string;
  /** Whether a token of this text takes part. */
  considers(text: string): boolean;
  readonly classes: readonly TokenClass[];
}

const matching = (name: string, pattern: RegExp): TokenClass => ({
  name,
  has: (text) => pattern.test(text),
});

const letters = [..."abcdefghijklmnopqrstuvwxyz"];

export const TOKEN_TASKS = {
  "first-letter": {
    summary: "the first letter of tokens of English letters, as in the paper",
    considers: (text) => /^ ?[A-Za-z]+$/.test(text),
    classes: letters.map((letter) => matching(letter, new RegExp(`^ ?${letter}`, "i"))),
  },
  "token-form": {
    summary: "how a token is written: word starts, capitals, endings, digits, marks, Cyrillic",
    considers: (text) => !/\uFFFD/.test(text),
    classes: [
      matching("word start", /^ \p{L}/u),
      matching("continuation", /^\p{Ll}+$/u),
      matching("capital", /^ ?\p{Lu}\p{Ll}/u),
      matching("upper case", /^ ?\p{Lu}{2,}$/u),
      matching("-ing", /\p{L}ing$/u),
      matching("-ed", /\p{L}ed$/u),
      matching("-s", /\p{L}s$/u),
      matching("digits", /^ ?\d+$/),
      matching("marks", /^ ?[\p{P}\p{S}]+$/u),
      matching("Cyrillic", /\p{Script=Cyrillic}/u),
    ],
  },
} as const satisfies Record<string, TokenTask>;

export type TokenTaskName = keyof typeof TOKEN_TASKS;
export const TOKEN_TASK_NAMES = Object.keys(TOKEN_TASKS) as TokenTaskName[];
