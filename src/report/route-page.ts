/**
 * Routes between layers on one SVG page: a map of their shares, and under it the strongest with their tokens.
 */
import { drawHeatMaps, type HeatMap } from "./heat-map.ts";
import { html } from "./html.ts";

export interface RoutePage {
  readonly title: string;
  /** What was measured, and on what. */
  readonly note: string;
  readonly map: HeatMap;
  /** Names of the columns of the list. */
  readonly head: readonly [route: string, share: string, tokens: string];
  readonly routes: readonly { readonly name: string; readonly share: string; readonly tokens: string }[];
}

const MARGIN = 16;
const LINE = 20;
/** Where the columns of the list begin. */
const COLUMNS = [0, 250, 310] as const;
/** Of a character of the list, about. */
const WIDE = 7;

export function drawRoutePage({ title, note, map, head, routes }: RoutePage): string {
  const picture = drawHeatMaps([map]);
  const [width, height] = ["width", "height"].map((side) => sizeOf(picture, side));
  const cells = [head, ...routes.map(({ name, share, tokens }) => [name, share, tokens] as const)];
  const longest = Math.max(...cells.map((row) => row[2].length));
  const whole = { width: Math.max(width, COLUMNS[2] + WIDE * longest) + 2 * MARGIN, top: 64 };
  const listed = whole.top + height + 2 * LINE;
  const total = listed + LINE * cells.length + MARGIN;
  const rows = cells.map((row, i) =>
    row.map(
      (text, c) =>
        html`<text x="${MARGIN + COLUMNS[c]}" y="${listed + LINE * i}" font-weight="${i === 0 ? "bold" : "normal"}" xml:space="preserve">${text}</text>`,
    ),
  );
  const frame = html`<text x="${MARGIN}" y="28" font-size="16" font-weight="bold">${title}</text><text x="${MARGIN}" y="48">${note}</text>`;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${whole.width}" height="${total}" viewBox="0 0 ${whole.width} ${total}" font-family="sans-serif" font-size="12" fill="#222">`,
    `<rect width="${whole.width}" height="${total}" fill="white"/>`,
    frame.text,
    `<g transform="translate(${MARGIN} ${whole.top})">${picture}</g>`,
    html`${rows.flat()}`.text,
    "</svg>",
  ].join("\n");
}

function sizeOf(svg: string, side: string): number {
  const found = new RegExp(`^<svg[^>]* ${side}="(\\d+(?:\\.\\d+)?)"`).exec(svg)?.[1];
  if (found === undefined) throw new Error(`route page: the map has no ${side}`);
  return Number(found);
}
