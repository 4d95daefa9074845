/**
 * Results to Markdown: one table a section, with the median over the rounds, and the ratio to every peer round by round.
 */

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const mid = sorted.length >> 1;
  return sorted.length % 2 ? sorted[mid] : (sorted[mid - 1] + sorted[mid]) / 2;
};

const show = (v) => (v >= 100 ? v.toFixed(0) : v.toPrecision(3));

/** `2.31 (2.20 to 2.44)`; the range only where there are several rounds. */
function spread(values) {
  if (values.length === 0) return "";
  if (values.length === 1) return values[0].toFixed(2);
  return `${median(values).toFixed(2)} (${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)})`;
}

/** Rounds in which both programs ran, as pairs of numbers. */
function pairs(rounds, ours, theirs, row) {
  return rounds
    .filter((round) => round[ours] && round[theirs])
    .map((round) => [row.ours(round[ours]), row.theirs(round[theirs])]);
}

function verdict(ratio, target) {
  if (target === undefined) return "";
  return `${target < 1 ? target.toFixed(2) : target.toFixed(1)} ${ratio >= target ? "✓" : "✗"}`;
}

/** Lines of one section: our program and every peer, for each row of numbers. */
function rowsOf(section, rounds) {
  const lines = [];
  for (const row of section.rows) {
    const own = row.program ?? "sluice";
    const mine = rounds.filter((r) => r[own]).map((r) => row.ours(r[own]));
    if (mine.length === 0) continue;
    lines.push([`**${row.title}**: ${own}`, show(median(mine)), "", ""]);
    const peers = new Set(
      row.peers ?? rounds.flatMap((r) => Object.keys(r)).filter((label) => !label.startsWith("sluice")),
    );
    for (const label of peers) {
      const both = pairs(rounds, own, label, row);
      if (both.length === 0) continue;
      const ratios = both.map(([a, b]) => a / b);
      const target = row.targets?.[label];
      lines.push([
        label,
        show(median(both.map(([, b]) => b))),
        spread(ratios),
        verdict(median(ratios), target),
      ]);
    }
    if (section.name === "gemm") lines.push(bestOfPeers(rounds, own, row, peers));
  }
  return lines;
}

/** Ours beside whichever peer was fastest in that round. */
function bestOfPeers(rounds, own, row, peers) {
  const ratios = rounds
    .filter((r) => r[own])
    .map((r) => row.ours(r[own]) / Math.max(...[...peers].filter((p) => r[p]).map((p) => row.theirs(r[p]))))
    .filter(Number.isFinite);
  return ["best of the peers", "", spread(ratios), ""];
}

/** Peak memory; sluice's own step also without its yardstick product, which no training run makes. */
function memory(records) {
  const middle = (key) => show(median(records.map((r) => r[key])));
  const all = `${middle("peak_rss_mb")} MB`;
  return records.every((r) => r.peak_rss_steps_mb)
    ? `${middle("peak_rss_steps_mb")} MB (${all} with the bare product)`
    : all;
}

/** ×GEMM and memory of the SAE steps. */
function saeNotes({ multiple }, rounds) {
  if (!multiple) return [];
  const labels = [...new Set(rounds.flatMap((r) => Object.keys(r)))];
  const own = labels.map((label) => {
    const of = rounds.filter((r) => r[label]);
    return `${label} ${spread(of.map((r) => multiple.own(r[label])))}, ${memory(of.map((r) => r[label]))}`;
  });
  const against = rounds
    .filter((r) => r.sluice && Object.keys(r).some((label) => !label.startsWith("sluice")))
    .map((r) => {
      const products = Object.keys(r)
        .filter((label) => !label.startsWith("sluice"))
        .map((label) => multiple.theirs(r[label]));
      return multiple.ours(r.sluice) / Math.min(...products);
    });
  const notes = [`×GEMM by each program's own product, and peak memory: ${own.join("; ")}.`];
  if (against.length > 0) {
    const mark = median(against) <= multiple.most ? "✓" : "✗";
    notes.push(
      `Our step beside PyTorch's bare encoder product (the fastest of the round): **${spread(against)}**; at most ${multiple.most} wanted ${mark}.`,
    );
  }
  return notes;
}

/** Figures of our own programs, beside what they may be at most where there is a bound. */
function wantedNotes({ wanted = [] }, rounds) {
  const own = [...new Set(rounds.flatMap((r) => Object.keys(r)))].filter((label) =>
    label.startsWith("sluice"),
  );
  return wanted.flatMap(({ title, of, most, unit }) => {
    const found = own.flatMap((label) => {
      const values = rounds.flatMap((r) => (r[label] ? [of(r[label])] : [])).filter((x) => x !== undefined);
      if (values.length === 0) return []; // an older result, without this figure
      const mark = most === undefined ? "" : median(values) <= most ? " ✓" : " ✗";
      return [`${label} ${spread(values)}${unit && ` ${unit}`}${mark}`];
    });
    if (found.length === 0) return [];
    const bound = most === undefined ? "" : ` (at most ${most}${unit && ` ${unit}`} wanted)`;
    return `${title[0].toUpperCase()}${title.slice(1)}${bound}: ${found.join("; ")}.`;
  });
}

/** Other programs' share of the machine while the section ran. */
function noiseNote(rounds) {
  const busy = rounds.flatMap((r) => Object.values(r).map((record) => record.other_busy_cpus ?? 0));
  const worst = Math.max(...busy);
  const text = `Other programs kept ${median(busy).toFixed(2)} CPUs busy (median over processes; most ${worst.toFixed(2)}).`;
  return median(busy) > 0.3 ? `${text} **That is too noisy for a verdict.**` : text;
}

const markdownTable = (head, lines) =>
  [head, head.map(() => "---"), ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

/** The whole text between the markers of README.md. */
export function render(sections, results) {
  return sections
    .filter(({ name }) => results[name]?.rounds.length > 0)
    .map((section) => {
      const { rounds, machine, versions, when } = results[section.name];
      const head = ["program", section.unit, "sluice / program", "target"];
      const about = `${when}, ${machine}, ${versions}; rounds: ${rounds.length}.`;
      return [
        `### ${section.title}`,
        markdownTable(head, rowsOf(section, rounds)),
        [...saeNotes(section, rounds), ...wantedNotes(section, rounds), noiseNote(rounds), about].join("\n"),
      ].join("\n\n");
    })
    .join("\n\n");
}
