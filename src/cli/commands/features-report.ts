/**
 * `sluice features report`: features of a database as one page.
 */
import { z } from "zod";
import { openFeatureDatabase } from "../../interpret/index.ts";
import { featureReport } from "../../recipes/index.ts";
import { renderReport } from "../../report/index.ts";
import { writeAtomic } from "../../util/index.ts";
import { defineCommand } from "../command.ts";
import { commandName, packageVersion, shellWord } from "../package.ts";
import { featuresField } from "./features-list.ts";
import { count } from "./shared.ts";

export const featuresReport = defineCommand({
  name: "features report",
  summary: "features of a database as one page to look at",
  description:
    "Writes one self-contained HTML page: the passages of each feature's highest peaks with tokens shaded by activation, the " +
    "tokens it raises and lowers, its neighbours, the distribution of its activations, and its explanation if it has one. " +
    "Without numbers it shows the features with the best detection scores, or a random choice where nothing is explained.",
  schema: z.object({
    id: z.array(z.number().int().min(0)).optional().describe("features to show [see above]"),
    features: featuresField,
    out: z.string().describe("the page, an .html file"),
    count: count().default(60).describe("features to show, where none are named"),
    contexts: count().default(10).describe("passages of each feature"),
    seed: z.number().int().min(0).default(0).describe("seed of a random choice"),
  }),
  positional: ["id"],
  examples: [
    "sluice features report --features out/features --out out/features.html",
    "sluice features report 3 14 15 --features out/features --out out/three.html",
  ],
  async run(options) {
    const { features, out, id } = options;
    const database = await openFeatureDatabase(features);
    try {
      const ids = id ? ` ${id.join(" ")}` : "";
      const data = await featureReport(database, {
        ...options,
        features: id,
        command: `${commandName()} features report${ids} --features ${shellWord(features)} --out ${shellWord(out)}`,
        version: packageVersion(),
      });
      await writeAtomic(out, renderReport(data));
      return {
        json: { out, features: data.cards.map((card) => card.id) },
        text: `${out}: ${data.cards.length} ${data.cardsChoice} features`,
      };
    } finally {
      database.close();
    }
  },
});
