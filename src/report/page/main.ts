/**
 * The report's script: draws charts and cards from the embedded data, and keeps search, order and tips going.
 */
import type { FeatureCard, PageData } from "../data.ts";
import { cardElement, searchText } from "./cards.ts";
import { drawCharts } from "./charts.ts";
import { byId, element } from "./dom.ts";

const ORDER: Record<string, (a: FeatureCard, b: FeatureCard) => number> = {
  rank: () => 0,
  "density-down": (a, b) => b.density - a.density,
  "density-up": (a, b) => a.density - b.density,
  max: (a, b) => b.maxActivation - a.maxActivation,
  id: (a, b) => a.id - b.id,
};

function showCards(cards: readonly FeatureCard[]): void {
  const place = byId("cards");
  const find = byId<HTMLInputElement>("find");
  const sort = byId<HTMLSelectElement>("sort");
  const count = byId("count");
  if (!place || !find || !sort || !count) return;
  const ids = new Set(cards.map((card) => card.id));
  const items = cards.map((card) => ({ card, text: searchText(card), article: cardElement(card, ids) }));
  const nothing = element("p", { class: "empty", hidden: "" }, "No feature matches.");
  place.append(...items.map((item) => item.article), nothing);

  const filter = (): void => {
    const wanted = find.value.trim().toLowerCase();
    const byNumber = /^#?\d+$/.test(wanted) && ids.has(Number(wanted.replace("#", "")));
    let shown = 0;
    for (const { card, text, article } of items) {
      const hit = byNumber ? card.id === Number(wanted.replace("#", "")) : text.includes(wanted);
      article.hidden = !hit;
      if (hit) shown++;
    }
    nothing.hidden = shown > 0;
    count.textContent = shown === items.length ? `${shown} features` : `${shown} of ${items.length} features`;
  };
  const reorder = (): void => {
    const order = ORDER[sort.value] ?? ORDER.rank;
    const sorted = items.map((item, rank) => ({ item, rank }));
    sorted.sort((a, b) => order(a.item.card, b.item.card) || a.rank - b.rank);
    place.append(...sorted.map(({ item }) => item.article), nothing);
  };

  find.addEventListener("input", filter);
  sort.addEventListener("change", reorder);
  find.form?.addEventListener("submit", (event) => event.preventDefault());
  // A link to a card that the search hides shows it.
  addEventListener("hashchange", () => {
    const target = items.find(({ article }) => `#${article.id}` === location.hash);
    if (!target?.article.hidden) return;
    find.value = "";
    filter();
    target.article.scrollIntoView();
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target instanceof HTMLInputElement) return;
    event.preventDefault();
    find.focus();
  });
  filter();
  if (location.hash.startsWith("#feature-")) byId(location.hash.slice(1))?.scrollIntoView();
}

/** A token's activation above it, or below where there is no room. */
function showTips(): void {
  const tip = byId("tip");
  if (!tip) return;
  let current: HTMLElement | null = null;
  const place = (mark: HTMLElement | null): void => {
    current = mark;
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.value ?? "";
    const box = mark.getClientRects()[0];
    const middle = box.left + box.width / 2 - tip.offsetWidth / 2;
    const above = box.top - tip.offsetHeight - 5;
    tip.style.left = `${Math.min(Math.max(4, middle), innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 5}px`;
  };
  document.addEventListener("pointerover", (event) => {
    place((event.target as Element).closest<HTMLElement>("mark[data-value]"));
  });
  addEventListener("scroll", () => place(current?.matches(":hover") ? current : null), { passive: true });
}

function copyCommand(): void {
  const button = byId("copy");
  button?.addEventListener("click", () => {
    const code = button.parentElement?.querySelector("code");
    if (!code) return;
    const done = (text: string): void => {
      button.textContent = text;
      setTimeout(() => {
        button.textContent = "Copy";
      }, 1500);
    };
    const select = (): void => {
      getSelection()?.selectAllChildren(code);
      done("Selected");
    };
    // The clipboard may be closed to pages opened from a file.
    if (navigator.clipboard)
      navigator.clipboard.writeText(code.textContent ?? "").then(() => done("Copied"), select);
    else select();
  });
}

const data: PageData = JSON.parse(byId("data")?.textContent ?? "{}");
drawCharts(data);
showCards(data.cards);
showTips();
copyCommand();
