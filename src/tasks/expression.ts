/**
 * Reads and checks arithmetic over whole numbers, without looking at how expressions are generated. A chain
 * is what stands beside each other without brackets: a sum of terms, or a product of factors, read from left
 * to right.
 */
import { inputError, SluiceError } from "../util/index.ts";

export const OPERATORS = ["+", "-", "*", "/"] as const;
export type Operator = (typeof OPERATORS)[number];

export type Expression = number | Chain;

/** items[0] operators[0] items[1] operators[1] …, all + and -, or all * and /. */
export interface Chain {
  readonly items: readonly Expression[];
  readonly operators: readonly Operator[];
}

const isSum = (chain: Chain): boolean => chain.operators[0] === "+" || chain.operators[0] === "-";

function compute(operator: Operator, a: number, b: number): number {
  switch (operator) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "/":
      return a / b;
    default:
      return operator satisfies never;
  }
}

/** `a op b`; undefined where that is no whole number (that is exact in float64). */
export function applyOperator(operator: Operator, a: number, b: number): number | undefined {
  const value = compute(operator, a, b);
  return Number.isSafeInteger(value) ? value + 0 : undefined; // + 0: no negative zero
}

/**
 * Numbers, operators and brackets. A minus is a sign where it touches digits and no operand stands before it.
 */
function lex(text: string): string[] {
  const words: string[] = [];
  for (let at = 0; at < text.length; ) {
    const operand = words.length > 0 && /^(-?\d+|\))$/.test(words[words.length - 1]);
    const match = (operand ? /\s*(\d+|[-+*/()])|\s+$/y : /\s*(-?\d+|[-+*/()])|\s+$/y) as RegExp;
    match.lastIndex = at;
    const found = match.exec(text);
    if (!found)
      throw inputError(`expression ${JSON.stringify(text)}: cannot read it from character ${at} on`);
    if (found[1]) words.push(found[1]);
    at = match.lastIndex;
  }
  return words;
}

/** Throws `input` on anything that is not an expression; numbers are written without leading zeros. */
export function parseExpression(text: string): Expression {
  const words = lex(text);
  let at = 0;
  const fail = (expected: string): never => {
    const found = at < words.length ? `found ${words[at]}` : "it ends";
    throw inputError(
      `expression ${JSON.stringify(text)}: expected ${expected}, but ${found} (word ${at + 1})`,
    );
  };
  const chain = (item: () => Expression, signs: readonly string[]): Expression => {
    const items = [item()];
    const operators: Operator[] = [];
    while (signs.includes(words[at])) {
      operators.push(words[at++] as Operator);
      items.push(item());
    }
    return operators.length === 0 ? items[0] : { items, operators };
  };
  const atom = (): Expression => {
    if (words[at] === "(") {
      at++;
      const inner = sum();
      if (words[at] !== ")") fail("a closing bracket");
      at++;
      return inner;
    }
    const value = Number(words[at]);
    if (!Number.isSafeInteger(value) || String(value) !== words[at]) fail("a number or an opening bracket");
    at++;
    return value;
  };
  const product = (): Expression => chain(atom, ["*", "/"]);
  const sum = (): Expression => chain(product, ["+", "-"]);
  const parsed = sum();
  if (at < words.length) fail("an operator or the end");
  return parsed;
}

/** Its value, from left to right; throws `input` where a division is not exact. */
export function evaluateExpression(expression: Expression | string): number {
  const parsed = typeof expression === "string" ? parseExpression(expression) : expression;
  if (typeof parsed === "number") return parsed;
  return parsed.items.slice(1).reduce<number>((left, item, i) => {
    const right = evaluateExpression(item);
    const value = applyOperator(parsed.operators[i], left, right);
    if (value === undefined)
      throw inputError(`expression: ${left} ${parsed.operators[i]} ${right} is not a whole number`);
    return value;
  }, evaluateExpression(parsed.items[0]));
}

/** The text of an expression; brackets stand where the parser read them, but not around numbers. */
export function formatExpression(expression: Expression): string {
  if (typeof expression === "number") return String(expression);
  const parts = expression.items.map((item) => {
    const bare = typeof item === "number" || (isSum(expression) && !isSum(item));
    return bare ? formatExpression(item) : `(${formatExpression(item)})`;
  });
  return parts.slice(1).reduce((text, part, i) => `${text} ${expression.operators[i]} ${part}`, parts[0]);
}

/**
 * Every expression that one step leads to: two numbers beside each other become their exact result. Inside a
 * chain that must not change the value: 9 - 4 + 3 allows 9 - 4 only, 9 + 4 - 3 both.
 */
export function reductions(expression: Expression): Expression[] {
  if (typeof expression === "number") return [];
  const { items, operators } = expression;
  const inside = items.flatMap((item, i) =>
    reductions(item).map((reduced): Expression => ({ items: items.with(i, reduced), operators })),
  );
  const here = operators.flatMap((operator, i): Expression[] => {
    const [a, b] = [items[i], items[i + 1]];
    const bound = i > 0 && (operators[i - 1] === "-" || operators[i - 1] === "/");
    if (bound || typeof a !== "number" || typeof b !== "number") return [];
    const value = applyOperator(operator, a, b);
    if (value === undefined) return [];
    if (operators.length === 1) return [value];
    return [{ items: items.toSpliced(i, 2, value), operators: operators.toSpliced(i, 1) }];
  });
  return [...inside, ...here];
}

/**
 * Whether `after` is `before` with exactly one operation carried out; false too where one of them is no
 * expression.
 */
export function isReduction(before: string, after: string): boolean {
  try {
    const wanted = formatExpression(parseExpression(after));
    return reductions(parseExpression(before)).some((reduced) => formatExpression(reduced) === wanted);
  } catch (error) {
    if (error instanceof SluiceError && error.code === "input") return false;
    throw error;
  }
}
