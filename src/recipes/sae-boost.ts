/**
 * SAE Boost (arXiv 2507.12990) on disk: parts that name their base by its content, and are refused on any other.
 */
import {
  type AnySae,
  type BoostedSae,
  boostedSae,
  disposeSae,
  inParts,
  loadSae,
  type Sae,
  saeHash,
} from "../sae/index.ts";
import type { Device } from "../tensor/index.ts";
import { inputError } from "../util/index.ts";

export interface LoadedBoost {
  readonly sae: BoostedSae;
  readonly warnings: readonly string[];
}

/** The base in `folder` with the parts in the other folders, none or several. Freed by `disposeAny`. */
export async function loadBoosted(
  device: Device,
  folder: string,
  partFolders: readonly string[] = [],
): Promise<LoadedBoost> {
  const base = await loadSae(device, folder);
  const parts: Sae[] = [];
  const warnings = [...base.warnings];
  try {
    if (baseHashOf(base.sae) !== undefined) {
      throw inputError(
        `${folder} is the residual part of a boosted SAE; name its base, and this folder as a part`,
      );
    }
    const hash = partFolders.length > 0 ? await saeHash(base.sae) : "";
    for (const partFolder of partFolders) {
      const part = await loadSae(device, partFolder);
      parts.push(part.sae);
      warnings.push(...part.warnings);
      refuseOtherBase(part.sae, hash, partFolder, folder);
    }
    return { sae: boostedSae(base.sae, parts), warnings };
  } catch (error) {
    for (const sae of [base.sae, ...parts]) disposeSae(sae);
    throw error;
  }
}

export function disposeAny(sae: AnySae): void {
  const { base, parts } = inParts(sae);
  for (const one of [base, ...parts]) disposeSae(one);
}

/** The base that a residual part was trained on; undefined of other SAEs. */
export function baseHashOf({ provenance }: Sae): string | undefined {
  const boost = provenance?.boost as { readonly base?: unknown } | undefined;
  return typeof boost?.base === "string" ? boost.base : undefined;
}

function refuseOtherBase(part: Sae, hash: string, partFolder: string, folder: string): void {
  const wanted = baseHashOf(part);
  if (wanted === undefined)
    throw inputError(
      `${partFolder} does not say which SAE it is a part of; make one with \`sluice sae boost\``,
    );
  if (wanted === hash) return;
  const brief = (h: string): string => h.replace(/^sha256:/, "").slice(0, 12);
  throw inputError(
    `${partFolder} corrects the errors of the SAE ${brief(wanted)}, but ${folder} is ${brief(hash)}; use the base that it was trained on`,
  );
}
