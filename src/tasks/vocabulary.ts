/**
 * Fixed vocabularies of the synthetic tasks: one id a word, with PAD, BOS and EOS in front. What a word is,
 * each task says.
 */
import { inputError } from "../util/index.ts";

/**
 * What a model is shown and what it must write. Prompt and completion are text; the prompt ends with a
 * newline.
 */
export interface TaskSample {
  readonly prompt: string;
  readonly completion: string;
}

export interface VocabularyRules {
  /** The words of a text, in order; what is no word of the vocabulary is refused by `encode`. */
  readonly split: (text: string) => readonly string[];
  /** The text of words; for words of a text that `split` read, the text itself. */
  readonly join: (words: readonly string[]) => string;
}

const SPECIAL = ["<pad>", "<bos>", "<eos>"] as const;

export class TaskVocabulary {
  /** Words by id. */
  readonly words: readonly string[];
  readonly pad = 0;
  readonly bos = 1;
  readonly eos = 2;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #rules: VocabularyRules;

  constructor(words: readonly string[], rules: VocabularyRules) {
    this.words = [...SPECIAL, ...words];
    this.#ids = new Map(words.map((word, i) => [word, i + SPECIAL.length]));
    this.#rules = rules;
  }

  get size(): number {
    return this.words.length;
  }

  /** Ids of a text, without BOS and EOS. Throws on a word that is not in the vocabulary. */
  encode(text: string): number[] {
    return this.#rules.split(text).map((word) => {
      const id = this.#ids.get(word);
      if (id === undefined)
        throw inputError(
          `task vocabulary: ${JSON.stringify(word)} is not among its ${this.size} words; ` +
            "was the sample made with other options than the vocabulary?",
        );
      return id;
    });
  }

  /** Text up to the first EOS; PAD and BOS are left out. */
  decode(ids: ArrayLike<number>): string {
    const words: string[] = [];
    for (let i = 0; i < ids.length && ids[i] !== this.eos; i++) {
      const word = this.words[ids[i]];
      if (word === undefined)
        throw inputError(
          `task vocabulary: id ${ids[i]} is not in 0 … ${this.size - 1}; use the one of the model`,
        );
      if (ids[i] >= SPECIAL.length) words.push(word);
    }
    return this.#rules.join(words);
  }

  /** Whether a generation ended by itself. */
  isEnded(ids: ArrayLike<number>): boolean {
    return Array.prototype.includes.call(ids, this.eos);
  }

  /** BOS and the prompt: what generation starts from. */
  encodePrompt(sample: TaskSample): number[] {
    return [this.bos, ...this.encode(sample.prompt)];
  }

  /**
   * BOS, prompt, completion, EOS. `promptLength` counts BOS too: a loss on answers only starts with that
   * position as target.
   */
  encodeSample(sample: TaskSample): { readonly ids: Int32Array; readonly promptLength: number } {
    const prompt = this.encodePrompt(sample);
    const ids = Int32Array.from([...prompt, ...this.encode(sample.completion), this.eos]);
    return { ids, promptLength: prompt.length };
  }
}
