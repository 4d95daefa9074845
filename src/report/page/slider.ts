/**
 * The slider: its stops are the measured budgets, and all that depends on k follows it.
 */
import type { PageData } from "../data.ts";
import { byId } from "./dom.ts";

/** A measured budget: its place among them, and its k. */
export interface Stop {
  readonly index: number;
  readonly k: number;
}

/** Where the slider stands when the page opens; undefined on a page without one. */
export function openingStop({ budgets, k }: PageData): Stop | undefined {
  const index = budgets?.findIndex((budget) => budget.k === k) ?? -1;
  return k === undefined || index < 0 ? undefined : { index, k };
}

/** Wakes the slider of a page that has one; `follow` is told of every stop that it is moved to. */
export function wakeSlider(data: PageData, follow: (stop: Stop) => void): void {
  const { budgets } = data;
  const form = byId("slider");
  const says = byId("k-says");
  const input = byId<HTMLInputElement>("k");
  if (!budgets || !form || !says || !input) return;
  const announce = (k: number): void => input.setAttribute("aria-valuetext", `k = ${k}`);
  announce(data.k ?? Number.NaN);
  form.addEventListener("submit", (event) => event.preventDefault());
  input.addEventListener("input", () => {
    const index = input.valueAsNumber;
    const { k, texts } = budgets[index];
    announce(k);
    for (const place of document.querySelectorAll<HTMLElement>("[data-text]")) {
      place.textContent = texts[place.dataset.text ?? ""] ?? "–";
    }
    follow({ index, k });
  });
  form.hidden = false;
  says.hidden = false;
}
