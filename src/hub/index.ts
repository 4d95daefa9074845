/**
 * The hub: repositories by id, their files in the cache that Python's huggingface_hub uses too.
 */
export type { RepoFile } from "./cache.ts";
export { isPattern } from "./glob.ts";
export { fetchModel, findModel, findTokenizer, type ModelFiles } from "./model.ts";
export { type HubOptions, type HubProgress, openRepo, Repo } from "./repo.ts";
export {
  isDatasetPath,
  parseDatasetPath,
  parseModelId,
  type RepoId,
  type RepoPath,
  showRepo,
} from "./repo-id.ts";
export { type HubSettings, hubSettings } from "./settings.ts";
