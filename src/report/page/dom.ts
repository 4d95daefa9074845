/**
 * Making elements. Text always goes through textContent, so that no token can become markup.
 */

type Child = Node | string | false | undefined;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  for (const child of children) if (child) made.append(child);
  return made;
}

export function byId<T extends HTMLElement>(id: string): T | null {
  return document.getElementById(id) as T | null;
}

const minus = (text: string): string => text.replace("-", "−");

/** Three significant digits, without an exponent where it can be helped. */
export function showNumber(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return minus(value.toExponential(1));
  return minus(size >= 100 ? value.toFixed(0) : value.toPrecision(3));
}

/** `0.42%`, `0.0031%`. */
export function showShare(value: number): string {
  const percent = 100 * value;
  return `${percent >= 10 ? percent.toFixed(1) : percent.toPrecision(2)}%`;
}
