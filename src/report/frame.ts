/**
 * What all pages have in common: one self-contained HTML document with the style, its bundled script and data, and the section
 * on how the page came about.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { ioError } from "../util/index.ts";
import type { ReportData } from "./data.ts";
import { embedJson, Html, html } from "./html.ts";
import { STYLE } from "./style.ts";

/** `page`: the report of one SAE; `sweep-page`: of many. */
type Script = "page" | "sweep-page";

const scripts = new Map<Script, string>();

/** A bundle of src/report/page, made by `npm run build`. */
function pageScript(name: Script): string {
  const known = scripts.get(name);
  if (known !== undefined) return known;
  const url = new URL(`./${name}.js`, import.meta.url);
  try {
    const text = readFileSync(url, "utf8").replaceAll("</script", "<\\/script");
    scripts.set(name, text);
    return text;
  } catch (error) {
    throw ioError(`read the report's page script dist/src/report/${name}.js (run \`npm run build\`)`, error);
  }
}

function duration(seconds: number): string {
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${String(Math.round(seconds % 60)).padStart(2, "0")} s`;
}

function timingsTable(timings: ReportData["run"]["timings"]): Html {
  const longest = Math.max(...timings.map((t) => t.seconds), 1e-9);
  return html`<table class="timings"><tbody>${timings.map(
    ({ name, seconds }) =>
      html`<tr><th scope="row">${name}</th><td class="number">${duration(seconds)}</td><td class="bar"><span style="width:${((100 * seconds) / longest).toFixed(1)}%"></span></td></tr>`,
  )}</tbody></table>`;
}

/** The command, the configuration and the times of what the page shows. */
export function runSection({ command, config, machine, timings }: ReportData["run"]): Html {
  return html`<section id="run"><h2>The run</h2>
<div class="command"><pre><code>${command}</code></pre><button type="button" id="copy">Copy</button></div>
${machine ? html`<p class="lead">${machine}</p>` : false}
${timings.length > 0 ? timingsTable(timings) : false}
<details><summary>Full configuration</summary><pre class="config">${JSON.stringify(config, null, 2) ?? ""}</pre></details></section>`;
}

/** What stands at the head of a page. */
export type PageHead = Pick<ReportData, "title" | "summary" | "createdAt" | "version" | "facts">;

/** One HTML document around `body`: no network, readable from a file, dark and light. `data` is what the script reads. */
export function renderPage(
  { title, summary, createdAt, version, facts }: PageHead,
  body: Html,
  { script, data }: { readonly script: Script; readonly data: unknown },
): string {
  const code = pageScript(script);
  const hash = createHash("sha256").update(code).digest("base64");
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-${hash}'; img-src data:`;
  const page = html`<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="sluice ${version}">
<title>${title}</title>
<style>${new Html(STYLE)}</style></head>
<body>
<header><p class="brand">sluice <span>report</span></p><h1>${title}</h1>
<p class="summary">${summary}</p>
<dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></header>
<main>
${body}
</main>
<footer>Made by sluice ${version} on <time datetime="${createdAt}">${createdAt.replace("T", " ").replace(/\.\d+Z?$|Z$/, " UTC")}</time>.</footer>
<div id="tip" aria-hidden="true" hidden></div>
<script type="application/json" id="data">${embedJson(data)}</script>
<script>${new Html(code)}</script>
</body></html>
`;
  return page.text;
}
