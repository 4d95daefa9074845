/**
 * Synthetic reasoning tasks: arithmetic with its solutions, questions of reach in graphs; vocabularies,
 * splits, grading.
 */
export {
  type ArithmeticOptions,
  type ArithmeticSample,
  type ArithmeticSplitOptions,
  type ArithmeticVocabularyOptions,
  arithmeticVocabulary,
  generateArithmetic,
  makeArithmeticSplits,
} from "./arithmetic.ts";
export type { Splits } from "./distinct.ts";
export {
  type Chain,
  type Expression,
  evaluateExpression,
  formatExpression,
  isReduction,
  parseExpression,
  reductions,
} from "./expression.ts";
export {
  type EvaluateOptions,
  evaluateByGeneration,
  type Grade,
  type Grader,
  type GradeSummary,
  gradeAll,
  gradeArithmetic,
  gradeProsqa,
  gradeTokens,
  summarizeGrades,
} from "./grade.ts";
export {
  type Fact,
  factText,
  generateProsqa,
  makeProsqaSplits,
  type ProsqaOptions,
  type ProsqaSample,
  type ProsqaSplitOptions,
  type ProsqaStatistics,
  prosqaStatistics,
  prosqaVocabulary,
} from "./prosqa.ts";
export { type TaskSample, TaskVocabulary, type VocabularyRules } from "./vocabulary.ts";
