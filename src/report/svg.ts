/** What all pictures share. */
import { writeAtomicSync } from "../util/index.ts";

export const SVG_STYLE = {
  background: "white",
  color: "#222",
  fontFamily: "sans-serif",
  fontSize: "12px",
} as const;

/** Text for an attribute, which linkedom writes as it is. */
export const attribute = (text: string): string => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

/** An SVG element as the text of a file; the same text from the same numbers. */
export function finishSvg(svg: {
  setAttribute(name: string, value: string): void;
  outerHTML: string;
}): string {
  svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return svg.outerHTML.replace(/plot-[0-9a-f]{6}/g, "plot");
}

/** Writes a picture, making its folder. */
export function writeSvg(file: string, svg: string): void {
  writeAtomicSync(file, `${svg}\n`);
}
