/**
 * The report's script: draws charts and cards from the embedded data, and keeps search, order and tips going.
 */
import type { FeatureCard, PageData } from "../data.ts";
import { atStop, cardElement, searchText } from "./cards.ts";
import { drawCharts } from "./charts.ts";
import { copyCommand } from "./copy.ts";
import { byId, element } from "./dom.ts";
import { openingStop, type Stop, wakeSlider } from "./slider.ts";

type Order = (a: FeatureCard, b: FeatureCard, stop: Stop | undefined) => number;

const ORDER: Record<string, Order> = {
  rank: () => 0,
  "density-down": (a, b, stop) => atStop(b, stop).density - atStop(a, stop).density,
  "density-up": (a, b, stop) => atStop(a, stop).density - atStop(b, stop).density,
  max: (a, b, stop) => atStop(b, stop).maxActivation - atStop(a, stop).maxActivation,
  id: (a, b) => a.id - b.id,
};

/** Returns what brings the cards to another stop of the slider; they keep their order until they are sorted again. */
function showCards(cards: readonly FeatureCard[], opening: Stop | undefined): (stop: Stop) => void {
  let stop = opening;
  const place = byId("cards");
  const find = byId<HTMLInputElement>("find");
  const sort = byId<HTMLSelectElement>("sort");
  const count = byId("count");
  if (!place || !find || !sort || !count) return () => {};
  const ids = new Set(cards.map((card) => card.id));
  const items = cards.map((card) => ({ card, text: searchText(card), ...cardElement(card, ids, opening) }));
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
    sorted.sort((a, b) => order(a.item.card, b.item.card, stop) || a.rank - b.rank);
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
  return (now) => {
    stop = now;
    for (const { show } of items) show(now);
  };
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

const data: PageData = JSON.parse(byId("data")?.textContent ?? "{}");
const redraw = drawCharts(data);
const showAt = showCards(data.cards, openingStop(data));
wakeSlider(data, (stop) => {
  redraw(data.budgets?.[stop.index] ?? data);
  showAt(stop);
});
showTips();
copyCommand();
