/**
 * Arithmetic expressions with their solutions, one operation a line. The task of LIMe (arXiv 2502.09245,
 * section 5.3.2), generated as by Feng et al. (arXiv 2305.15408): grow an expression from its value;
 * backwards, that is the solution. Differs from Feng et al.: plain whole numbers instead of a prime field, so
 * ranges are capped and divisions exact.
 */
import { Rng, usageError } from "../util/index.ts";
import { drawDistinct, type Splits } from "./distinct.ts";
import { OPERATORS, type Operator } from "./expression.ts";
import { type TaskSample, TaskVocabulary } from "./vocabulary.ts";

export interface ArithmeticOptions {
  /** Size of an expression; what is counted, `count` says. The paper has 4, 5 and 6. */
  readonly operands: number;
  /**
   * `operands` (default): numbers in the expression. `operators`: one number more. The paper says operands,
   * but its example has 7 numbers, and the sizes 4, 5, 6 of Feng et al. count operators.
   */
  readonly count?: "operands" | "operators";
  /** Largest absolute value of any number in any line; default 127, so that the paper's 100 to 103 occur. */
  readonly max?: number;
  /** Whether numbers below 0 occur; default false, as the paper shows none. */
  readonly negatives?: boolean;
}

export interface ArithmeticSample extends TaskSample {
  readonly expression: string;
  /** The expression after each operation; the last is the answer. */
  readonly steps: readonly string[];
  readonly answer: number;
}

const DEFAULT_MAX = 127;

interface Settings {
  readonly operators: number;
  readonly low: number;
  readonly high: number;
}

function checkRange(max: number): number {
  if (!Number.isInteger(max) || max < 1 || max > 1e6)
    throw usageError(`arithmetic: max=${max} must be a whole number between 1 and 1000000`);
  return max;
}

function resolve(options: ArithmeticOptions): Settings {
  const { operands, count = "operands", max = DEFAULT_MAX, negatives = false } = options;
  if (count !== "operands" && count !== "operators")
    throw usageError(`arithmetic: count=${JSON.stringify(count)} must be "operands" or "operators"`);
  const operators = count === "operators" ? operands : operands - 1;
  if (!Number.isInteger(operators) || operators < 1 || operators > 63)
    throw usageError(
      `arithmetic: operands=${operands} counted as ${count} must be a whole number with 1 to 63 operators`,
    );
  const high = checkRange(max);
  return { operators, low: negatives ? -high : 0, high };
}

interface Tree {
  readonly value: number;
  node?: { readonly operator: Operator; readonly left: Tree; readonly right: Tree };
}

/** Brackets where the value would change without them; a + (b + c) and a * (b / c) need none. */
function needsBrackets(parent: Operator, child: Operator, side: "left" | "right"): boolean {
  const loose = child === "+" || child === "-";
  if (parent === "*" || parent === "/") return loose || (parent === "/" && side === "right");
  return parent === "-" && side === "right" && loose;
}

function render({ value, node }: Tree): string {
  if (!node) return String(value);
  const part = (tree: Tree, side: "left" | "right"): string => {
    const text = render(tree);
    return tree.node && needsBrackets(node.operator, tree.node.operator, side) ? `(${text})` : text;
  };
  return `${part(node.left, "left")} ${node.operator} ${part(node.right, "right")}`;
}

const between = (rng: Rng, low: number, high: number): number => low + rng.int(high - low + 1);

function nonZero(rng: Rng, low: number, high: number): number {
  const drawn = between(rng, low < 0 ? low : 1, low < 0 ? high - 1 : high);
  return low < 0 && drawn >= 0 ? drawn + 1 : drawn;
}

function divisors(n: number): number[] {
  const found: number[] = [];
  for (let d = 1; d * d <= n; d++) if (n % d === 0) found.push(...(d * d === n ? [d] : [d, n / d]));
  return found;
}

/**
 * Numbers a, b in [low, high] with `a operator b` = value: a uniform among those that have a b, then b among
 * what is left.
 */
function takeApart(value: number, operator: Operator, { low, high }: Settings, rng: Rng): [number, number] {
  switch (operator) {
    case "+": {
      const a = between(rng, Math.max(low, value - high), Math.min(high, value - low));
      return [a, value - a];
    }
    case "-": {
      const a = between(rng, Math.max(low, low + value), Math.min(high, high + value));
      return [a, a - value];
    }
    case "*": {
      if (value === 0) {
        const a = between(rng, low, high);
        return [a, a === 0 ? between(rng, low, high) : 0];
      }
      const positive = divisors(Math.abs(value));
      const all = low < 0 ? positive.concat(positive.map((d) => -d)) : positive;
      const a = all[rng.int(all.length)];
      return [a, value / a];
    }
    case "/": {
      if (value === 0) return [0, nonZero(rng, low, high)];
      const most = Math.floor(high / Math.abs(value));
      const b = nonZero(rng, low < 0 ? -most : 0, most);
      return [b * value, b];
    }
    default:
      return operator satisfies never;
  }
}

/** One expression, drawn anew: value, places and operators uniform. */
export function generateArithmetic(rng: Rng, options: ArithmeticOptions): ArithmeticSample {
  return generate(rng, resolve(options));
}

function generate(rng: Rng, settings: Settings): ArithmeticSample {
  const root: Tree = { value: between(rng, settings.low, settings.high) };
  const leaves = [root];
  const history = [render(root)];
  for (let i = 0; i < settings.operators; i++) {
    const at = rng.int(leaves.length);
    const leaf = leaves[at];
    const operator = OPERATORS[rng.int(OPERATORS.length)];
    const [left, right] = takeApart(leaf.value, operator, settings, rng).map((value): Tree => ({ value }));
    leaf.node = { operator, left, right };
    leaves.splice(at, 1, left, right);
    history.push(render(root));
  }
  const [expression, ...steps] = history.reverse();
  return {
    expression,
    steps,
    answer: root.value,
    prompt: `${expression} =\n`,
    completion: steps.map((step) => `= ${step}`).join("\n"),
  };
}

export interface ArithmeticSplitOptions extends ArithmeticOptions {
  /** Samples to train on; default 50,000, as in the paper. */
  readonly train?: number;
  /** Held-out samples for choosing settings; default 0. */
  readonly valid?: number;
  /** Held-out samples to report; default 1,000 (the paper does not say). */
  readonly test?: number;
  readonly seed: number;
}

/** Splits without any expression twice. A seed's test set stays the same whatever the size of the others. */
export function makeArithmeticSplits(options: ArithmeticSplitOptions): Splits<ArithmeticSample> {
  const { train = 50_000, valid = 0, test = 1000, seed } = options;
  const settings = resolve(options);
  return drawDistinct("arithmetic", {
    rng: new Rng(seed).fork("arithmetic").fork(settings.operators),
    draw: (rng) => generate(rng, settings),
    key: (sample) => sample.expression,
    sizes: { test, valid, train },
    wayOut: "raise max or operands, or ask for fewer",
  });
}

export interface ArithmeticVocabularyOptions {
  /**
   * `whole` (default): a token a number, up to `max`, as Feng et al. have it and as the paper's plot of the
   * tokens 100 to 103 suggests. `digits`: a token a digit.
   */
  readonly numbers?: "whole" | "digits";
  /** As in the samples. */
  readonly max?: number;
  /** As in the samples. */
  readonly negatives?: boolean;
}

/**
 * Tokens of the arithmetic texts: newline, =, the operators, brackets, numbers or digits. Spaces are none:
 * they follow.
 */
export function arithmeticVocabulary(options: ArithmeticVocabularyOptions = {}): TaskVocabulary {
  const { numbers = "whole", max = DEFAULT_MAX, negatives = false } = options;
  if (numbers !== "whole" && numbers !== "digits")
    throw usageError(`arithmetic: numbers=${JSON.stringify(numbers)} must be "whole" or "digits"`);
  checkRange(max);
  const signs = ["\n", "=", ...OPERATORS, "(", ")"];
  const count = (n: number, sign = ""): string[] => Array.from({ length: n }, (_, i) => `${sign}${i}`);
  if (numbers === "digits")
    return new TaskVocabulary([...signs, ...count(10)], {
      split: (text) => text.match(/\n|\S/g) ?? [],
      join: joinSigns,
    });
  const below = negatives ? count(max + 1, "-").slice(1) : [];
  return new TaskVocabulary([...signs, ...count(max + 1), ...below], {
    split: (text) => text.match(/\n|(?<![\d)]\s*)-\d+|\d+|\S/g) ?? [],
    join: (words) => joinSigns(words, " "),
  });
}

/**
 * Spaces between all words but inside brackets, around newlines, in numbers (`gap`) and after a minus that is
 * a sign.
 */
function joinSigns(words: readonly string[], gap = ""): string {
  let text = "";
  words.forEach((word, i) => {
    const before = words[i - 1];
    const digits = /^\d+$/.test(word);
    const isSign = before === "-" && gap === "" && !/^(\d+|\))$/.test(words[i - 2] ?? "");
    const touches = i === 0 || word === "\n" || word === ")" || before === "\n" || before === "(";
    if (digits && (isSign || /^\d+$/.test(before ?? ""))) text += gap;
    else if (!touches) text += " ";
    text += word;
  });
  return text;
}
