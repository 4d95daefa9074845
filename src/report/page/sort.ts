/**
 * Tables that sort: a click on a column's title, and again for the other way round.
 */

/** What a cell is sorted by: its `data-value`, else its text. */
function sortKey(row: HTMLTableRowElement, column: number): number | string {
  const cell = row.cells[column];
  const value = cell?.dataset.value;
  return value === undefined ? (cell?.textContent ?? "") : Number(value);
}

/** Numbers first, then texts as people order them; cells without a value come last either way. */
function compare(a: number | string, b: number | string, sign: number): number {
  const empty = (v: number | string): boolean => v === "" || v === "–";
  if (empty(a) || empty(b)) return Number(empty(a)) - Number(empty(b));
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(table: HTMLTableElement, column: number): void {
  const header = table.tHead?.rows[0].cells[column];
  const body = table.tBodies[0];
  if (!header || !body) return;
  const rows = [...body.rows];
  const numbers = rows.some((row) => typeof sortKey(row, column) === "number");
  const before = header.getAttribute("aria-sort");
  const first = numbers ? "descending" : "ascending"; // the largest number is looked for
  const other = numbers ? "ascending" : "descending";
  const order = before === first ? other : first;
  for (const cell of table.tHead?.rows[0].cells ?? []) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => compare(sortKey(a, column), sortKey(b, column), sign));
  body.append(...rows);
}

export function wakeTables(): void {
  for (const table of document.querySelectorAll<HTMLTableElement>("table.sortable")) {
    for (const [column, cell] of [...(table.tHead?.rows[0].cells ?? [])].entries()) {
      cell.querySelector("button")?.addEventListener("click", () => sortBy(table, column));
    }
  }
}
