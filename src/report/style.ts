/**
 * The report's looks: paper, ink, one gold for activation and one blue for measurement; system fonts only.
 */

const LIGHT = `
  --paper:#fbfaf6; --raised:#ffffff; --ink:#1d1c1a; --soft:#5d5a53; --line:#dedad0; --hair:#ebe8e0;
  --gold:#d9a021; --gold-ink:#8a5f00; --blue:#1f6286; --blue-soft:#7fa9c0; --rust:#a5462f; --shade:78%;
  --s0:#1f6286; --s1:#b4791a; --s2:#a5462f; --s3:#3c7d4f; --s4:#7a4f9a; --s5:#1d8787; --s6:#b8507f; --s7:#5d5a53;
`;
const DARK = `
  --paper:#131518; --raised:#1a1d21; --ink:#e8e5de; --soft:#a3a099; --line:#33373d; --hair:#24282d;
  --gold:#c58f1e; --gold-ink:#e5b44b; --blue:#79b8d9; --blue-soft:#4d7d97; --rust:#e08a70; --shade:62%;
  --s0:#79b8d9; --s1:#e5b44b; --s2:#e08a70; --s3:#8cc79a; --s4:#bd9fdc; --s5:#6ccdc8; --s6:#e69abb; --s7:#b5b2aa;
`;

export const STYLE = `
:root{${LIGHT}
  --sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  --serif:"Iowan Old Style","Palatino Linotype",Palatino,"URW Palladio L","Book Antiqua",Georgia,serif;
  --mono:ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;
  --plot-background:var(--raised);
}
@media (prefers-color-scheme:dark){:root{${DARK}}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:4.5rem}
html:has(.slider:not([hidden])){scroll-padding-top:8.2rem}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 var(--sans);font-variant-numeric:tabular-nums lining-nums}
header,main,footer{max-width:68rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:2.25rem}
.brand{margin:0 0 2rem;font-weight:650;letter-spacing:.01em;font-size:.95rem}
.brand::before{content:"";display:inline-block;width:.62em;height:.62em;margin-right:.5em;background:linear-gradient(var(--gold) 0 38%,transparent 38% 62%,var(--blue) 62%)}
.brand span{font-weight:400;color:var(--soft)}
h1{font:500 clamp(1.7rem,1.2rem + 2vw,2.5rem)/1.15 var(--serif);letter-spacing:-.012em;margin:0 0 .9rem;max-width:26em;text-wrap:balance}
h2{font:500 1.45rem/1.2 var(--serif);margin:0 0 .35rem;letter-spacing:-.005em}
.summary{font-size:1.06rem;max-width:44rem;margin:0 0 1.4rem}
.lead{color:var(--soft);max-width:44rem;margin:0 0 1.1rem}
.note{color:var(--soft);font-size:.87rem;max-width:52rem}
dl,dd,figure{margin:0}
.facts{display:flex;flex-wrap:wrap;gap:.5rem 2.2rem;padding:0;font-size:.9rem}
.facts dt{color:var(--soft);font-size:.78rem}
.headline{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.2rem,1fr));margin:2rem 0 0;border-top:2px solid var(--ink);border-bottom:1px solid var(--line)}
.headline div{display:flex;flex-direction:column-reverse;justify-content:flex-end;padding:.9rem 1rem .85rem 0}
.headline dd{font:500 2.05rem/1.1 var(--serif);letter-spacing:-.02em;font-variant-numeric:lining-nums tabular-nums}
.headline dd i{font-style:normal;font-size:.58em;color:var(--soft);margin-left:.08em}
.headline dt{color:var(--soft);font-size:.84rem;line-height:1.3;margin-top:.3rem}
h2 small{font:400 .95rem/1 var(--sans);color:var(--soft);margin-left:.35em;white-space:nowrap}
.slider{--thumb:1.3rem;position:sticky;top:0;z-index:3;display:flex;align-items:center;gap:1.3rem;background:var(--paper);padding:.55rem 0 .5rem;border-bottom:1px solid var(--line)}
.slider[hidden]{display:none}
.slider label{font-size:.95rem;font-weight:600;white-space:nowrap}
.slider div{flex:0 1 24rem;min-width:8rem}
.slider output{font:500 1.45rem/1 var(--serif);min-width:4.4rem;white-space:nowrap}
.slider .kept{margin:0 0 0 auto;font-size:.86rem;line-height:1.35;color:var(--soft);text-align:right}
.slider input{-webkit-appearance:none;appearance:none;display:block;width:100%;height:1.7rem;margin:0;padding:0;border:0;background:none;cursor:pointer;touch-action:pan-y}
.slider input::-webkit-slider-runnable-track{height:.3rem;border-radius:1rem;background:var(--line)}
.slider input::-moz-range-track{height:.3rem;border-radius:1rem;background:var(--line)}
.slider input::-webkit-slider-thumb{-webkit-appearance:none;width:var(--thumb);height:var(--thumb);margin-top:-.5rem;border:2px solid var(--paper);border-radius:50%;background:var(--blue)}
.slider input::-moz-range-thumb{box-sizing:border-box;width:var(--thumb);height:var(--thumb);border:2px solid var(--paper);border-radius:50%;background:var(--blue)}
.slider input:focus-visible{outline:0}
.slider input:focus-visible::-webkit-slider-thumb{outline:2px solid var(--blue)}
.slider input:focus-visible::-moz-range-thumb{outline:2px solid var(--blue)}
.stops{display:flex;justify-content:space-between;margin:-.15rem 0 0;font-size:.74rem;line-height:1;color:var(--soft)}
.stops span{width:var(--thumb);text-align:center}
.slider~section .toolbar{top:3.6rem}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.3rem;margin:0 0 .2rem;font-size:.88rem}
.legend span::before{content:"";display:inline-block;width:1.1em;height:.2em;margin-right:.5em;vertical-align:.25em;background:var(--c)}
.key{position:sticky;top:0;z-index:2;display:flex;flex-wrap:wrap;gap:.35rem .8rem;align-items:center;background:var(--paper);margin-top:2.4rem;padding:.6rem 0;border-bottom:1px solid var(--line)}
.key+section{padding-top:1.6rem}
.key .setting{display:inline-flex;max-width:100%}
.key button{padding:.22rem .55rem;max-width:100%;overflow-wrap:anywhere;text-align:left}
.key .setting button:not(.seed)::before{content:"";display:inline-block;width:.75em;height:.75em;margin-right:.45em;background:var(--c)}
.key .setting button:not(:first-child){border-left:0;border-radius:0}
.key .setting button:first-child:not(:last-child){border-radius:4px 0 0 4px}
.key .setting button:last-child:not(:first-child){border-radius:0 4px 4px 0}
.key button[aria-pressed=false]{color:var(--soft);text-decoration:line-through}
.key .hollow button:not(.seed)::before{background:none;border:.17em solid var(--c)}
.key .setting button[aria-pressed=false]::before{background:var(--line);border-color:var(--line)}
.key .all{margin-left:auto;color:var(--soft)}
section{padding-top:3.1rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1.6rem 2.4rem}
@media (min-width:60rem){.charts figure:last-child:nth-child(odd){grid-column:1/-1}}
figcaption{font-size:.88rem;font-weight:600;margin-bottom:.15rem}
.chart{min-height:11rem}
.chart[data-chart=ladder],.chart[data-curve=learningRate]{min-height:7rem}
.chart svg{display:block;overflow:visible;font-family:var(--sans);font-variant-numeric:tabular-nums;max-width:100%}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.5rem 1.1rem .5rem 0;border-bottom:1px solid var(--hair);font-weight:400}
thead th{color:var(--soft);font-size:.8rem;border-bottom-color:var(--line);padding-bottom:.3rem}
.metrics tbody th{font-weight:600;white-space:nowrap}
.metrics tbody th code{display:block;font:.76rem/1.4 var(--mono);color:var(--soft);font-weight:400}
.metrics td:last-child{min-width:15rem;padding-right:0;color:var(--soft)}
.number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.number{font-weight:600}
.sortable th[scope=row]{white-space:nowrap}
.sortable td small{display:block;font-weight:400;font-size:.76rem;color:var(--soft)}
.sortable thead button{position:relative;border:0;background:none;padding:0;font:inherit;color:inherit;white-space:nowrap}
.sortable thead button:hover{color:var(--ink)}
.sortable thead button::after{position:absolute;left:100%;margin-left:.2em}
.sortable [aria-sort=ascending] button::after{content:"↑"}
.sortable [aria-sort=descending] button::after{content:"↓"}
.sortable [aria-sort] button{color:var(--ink)}
.sortable td.shape{font-weight:400}
.sortable th:first-child{position:sticky;left:0;background:var(--paper)}
.failure{color:var(--rust)}
.swatch{display:inline-block;width:.75em;height:.75em;margin-right:.5em;background:var(--c)}
.swatch.hollow{background:none;border:.17em solid var(--c)}
.formula{white-space:nowrap;min-width:11rem}
math{font-size:1em;font-family:"Latin Modern Math","STIX Two Math","Cambria Math",math,var(--serif)}
.metrics td,.metrics tbody th{padding-top:.65rem;padding-bottom:.65rem}
.others{columns:18rem;column-gap:2.5rem;margin-top:.7rem;font-size:.9rem}
.others div{display:flex;justify-content:space-between;gap:1rem;padding:.22rem 0;border-bottom:1px solid var(--hair);break-inside:avoid}
.others code{font:.78rem var(--mono);color:var(--soft)}
.timings{width:auto;min-width:min(100%,34rem);margin:0 0 1rem}
.timings .bar{width:12rem;vertical-align:middle;padding-right:0}
.timings .bar span{display:block;height:.5rem;min-width:1px;background:var(--blue-soft)}
.command{position:relative;margin:.7rem 0 1rem}
pre{margin:0;overflow:auto;background:var(--raised);border:1px solid var(--line);border-radius:4px;padding:.75rem .95rem;font:.84rem/1.55 var(--mono)}
.command pre{padding-right:5.5rem;white-space:pre-wrap;overflow-wrap:anywhere}
.config{max-height:28rem;margin-top:.6rem}
button,input,select{font:inherit;color:inherit;background:var(--raised);border:1px solid var(--line);border-radius:4px;padding:.34rem .65rem}
button{cursor:pointer;font-size:.85rem}
button:hover,summary:hover{border-color:var(--soft)}
.command button{position:absolute;right:.55rem;top:.5rem}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px;border-radius:3px}
summary{cursor:pointer;color:var(--soft);width:fit-content}
.toolbar{position:sticky;top:0;z-index:2;display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:center;background:var(--paper);padding:.7rem 0;margin-bottom:.4rem;border-bottom:1px solid var(--line)}
.toolbar label{display:flex;align-items:center;gap:.55rem;font-size:.88rem;color:var(--soft)}
.toolbar input,.toolbar select{color:var(--ink)}
.toolbar .grow{flex:1 1 15rem}
.toolbar input{width:100%}
.toolbar output{font-size:.88rem;color:var(--soft);padding:.42rem 0;min-width:7.5rem;text-align:right}
.card{display:grid;grid-template-columns:13.5rem minmax(0,1fr);gap:1rem 2.2rem;padding:1.5rem 0;border-bottom:1px solid var(--line)}
.card:target{box-shadow:-.8rem 0 0 -.6rem var(--gold)}
.card[hidden]{display:none}
.card h3{margin:0;font:600 1.12rem/1.3 var(--sans)}
.card h3 a{color:inherit;text-decoration:none}
.card h3 a:hover{text-decoration:underline}
.card .label{margin:.1rem 0 0;font:italic 1rem/1.35 var(--serif)}
.card .measures{margin:.5rem 0 .6rem;display:grid;grid-template-columns:auto 1fr;gap:.05rem .8rem;font-size:.86rem}
.card .measures dt{color:var(--soft)}
.card .measures dd{text-align:right}
.bars{display:block;width:100%;height:2.6rem;fill:var(--gold)}
.axis{display:flex;justify-content:space-between;font-size:.74rem;color:var(--soft);border-top:1px solid var(--line);padding-top:.1rem}
.near{margin:.75rem 0 0;font-size:.84rem;color:var(--soft)}
.near a{color:var(--blue)}
.near span{white-space:nowrap}
.contexts{list-style:none;margin:0;padding:0}
.contexts li{display:grid;grid-template-columns:3.1rem minmax(0,1fr);gap:.85rem;padding:.34rem 0;border-top:1px solid var(--hair)}
.contexts li:first-child{border-top:0;padding-top:0}
.contexts .value{color:var(--soft);font-size:.84rem;text-align:right;line-height:1.75}
.contexts .text{line-height:1.75;white-space:pre-wrap;overflow-wrap:anywhere}
.contexts .source{display:block;font-size:.74rem;line-height:1.3;color:var(--soft)}
mark{color:inherit;background:color-mix(in srgb,var(--gold) calc(var(--a)*var(--shade)),transparent);border-radius:2px;padding:.13em 0;-webkit-box-decoration-break:clone;box-decoration-break:clone}
mark.peak{outline:1.5px solid var(--gold-ink);font-weight:600}
.control{color:var(--soft);font-size:.86em}
.raw{font:.8rem var(--mono);color:var(--soft);border:1px solid var(--line);border-radius:3px;padding:0 .2em;margin:0 .08em}
.logits{display:grid;grid-template-columns:1fr 1fr;gap:.3rem 2rem;margin-top:1rem}
.logits h4{margin:0 0 .25rem;font:400 .8rem/1.3 var(--sans);color:var(--soft)}
.logits ol{list-style:none;margin:0;padding:0;font-size:.84rem}
.logits li{position:relative;display:flex;align-items:baseline;justify-content:space-between;gap:.6rem;padding:.08rem .4rem;margin-bottom:1px}
.logits li::before{content:"";position:absolute;inset:0 auto 0 0;width:var(--w);background:var(--side);opacity:.2;border-radius:2px}
.logits .up{--side:var(--blue)}
.logits .down{--side:var(--rust)}
.logits code{position:relative;font:.95em var(--mono);white-space:pre;overflow:hidden;text-overflow:ellipsis}
.logits span{position:relative}
.contexts .silent .text{color:var(--soft)}
.more{margin:.5rem 0 0 3.95rem}
#tip{position:fixed;z-index:9;pointer-events:none;max-width:20rem;background:var(--ink);color:var(--paper);font-size:.8rem;line-height:1.35;padding:.2rem .5rem;border-radius:3px;white-space:pre-wrap}
#tip[hidden]{display:none}
.empty{color:var(--soft);padding:2rem 0}
footer{padding-top:3.5rem;padding-bottom:2.5rem;color:var(--soft);font-size:.85rem}
@media (max-width:46rem){
  html:has(.slider:not([hidden])){scroll-padding-top:4.5rem}
  header,main,footer{padding-left:1rem;padding-right:1rem}
  .headline{grid-template-columns:1fr 1fr}
  .card{grid-template-columns:minmax(0,1fr)}
  .card aside{display:grid;grid-template-columns:1fr 1fr;gap:0 1.4rem}
  .card aside .near,.card aside .heading{grid-column:1/-1}
  .toolbar,.key{position:static}
  .slider{gap:1rem}
  .slider label{position:absolute;clip-path:inset(50%)}
  .slider div{flex:1;order:1}
  .slider output{font-size:1.25rem;min-width:3.7rem}
  .slider .kept{display:none}
  .toolbar output{flex:1;min-width:0}
  .toolbar select{max-width:10.5rem}
  .logits{gap:.3rem 1rem}
  .more{margin-left:0}
  .metrics,.metrics tbody,.metrics tr,.metrics td,.metrics tbody th{display:block}
  .metrics thead{display:none}
  .metrics tr{position:relative;padding:.7rem 0;border-bottom:1px solid var(--hair)}
  .metrics tbody th,.metrics td{border:0;padding:.1rem 0}
  .metrics td.number{position:absolute;top:.7rem;right:0}
  .metrics td.formula{padding:.35rem 0}
}
@media print{
  :root{${LIGHT} --paper:#fff}
  .toolbar,.key,.command button,.more,#tip,#k-says,.slider div{display:none!important}
  .slider{position:static}
  body{font-size:10.5pt}
  .card{break-inside:avoid}
  section{padding-top:1.6rem}
  mark{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
`;
