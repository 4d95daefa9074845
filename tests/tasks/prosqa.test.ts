/**
 * Graph questions, read back from their text: every check here starts from the prompt, not from what made it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  generateProsqa,
  makeProsqaSplits,
  type ProsqaSample,
  prosqaStatistics,
  prosqaVocabulary,
} from "../../src/tasks/index.ts";
import { drawReachGraph } from "../../src/tasks/reach-graph.ts";
import { Rng } from "../../src/util/index.ts";

interface Read {
  readonly facts: readonly (readonly [string, string])[];
  readonly name: string;
  readonly options: readonly [string, string];
  readonly right: string;
  readonly steps: readonly string[];
}

function read({ prompt, completion }: ProsqaSample): Read {
  const question = / Is (\w+) a (\w+) or (\w+)\?\n$/.exec(prompt)!;
  const facts = prompt.slice(0, question.index).match(/[^.]+\./g)!;
  const lines = completion.split("\n");
  const end = /^So (\w+) is a (\w+)\.$/.exec(lines[lines.length - 1])!;
  assert.equal(end[1], question[1]);
  return {
    facts: facts.map((fact) => {
      const [, from, to] = /^\s*(?:Every ([a-z]+)|[A-Z][a-z]+) is a ([a-z]+)\.$/.exec(fact)!;
      return [from ?? /[A-Z][a-z]+/.exec(fact)![0], to] as const;
    }),
    name: question[1],
    options: [question[2], question[3]],
    right: end[2],
    steps: lines.slice(0, -1),
  };
}

/** Breadth first; `both` walks edges backwards too. */
function distances(facts: Read["facts"], start: string, both = false): Map<string, number> {
  const found = new Map([[start, 0]]);
  for (let frontier = [start], depth = 1; frontier.length > 0; depth++) {
    const next = facts.flatMap(([a, b]) => [
      ...(frontier.includes(a) && !found.has(b) ? [b] : []),
      ...(both && frontier.includes(b) && !found.has(a) ? [a] : []),
    ]);
    for (const node of next) found.set(node, depth);
    frontier = [...new Set(next)];
  }
  return found;
}

const samples = makeProsqaSplits({ train: 2000, valid: 0, test: 0, seed: 11 }).train;
const questions = samples.map(read);

test("exactly one option is reached from the name, by a shortest path as long as the steps", () => {
  questions.forEach(({ facts, name, options, right, steps }, i) => {
    const reached = distances(facts, name);
    assert.deepEqual(
      options.filter((option) => reached.has(option)),
      [right],
    );
    assert.equal(reached.get(right), steps.length);
    assert.equal(right, samples[i].answer);
    assert.deepEqual([...options].sort(), [right, samples[i].distractor].sort());
  });
});

test("the steps are facts of the question, each beginning where the last one ended", () => {
  samples.forEach(({ prompt, steps }, i) => {
    const { name, right, steps: lines } = questions[i];
    for (const line of lines) assert.ok(prompt.includes(line), line);
    assert.match(lines[0], new RegExp(`^${name} is a `));
    const kinds = lines.map((line) => /a (\w+)\.$/.exec(line)![1]);
    lines.slice(1).forEach((line, k) => {
      assert.match(line, new RegExp(`^Every ${kinds[k]} is a `));
    });
    assert.equal(kinds[kinds.length - 1], right);
    assert.equal(lines.length, steps.length);
  });
});

test("graphs have no cycle, no fact twice, no edge to a name, and hang together", () => {
  for (const { facts, name } of questions) {
    assert.equal(new Set(facts.map((fact) => fact.join(" "))).size, facts.length);
    assert.ok(facts.every(([, to]) => /^[a-z]+$/.test(to)));
    const nodes = new Set(facts.flat());
    assert.equal(distances(facts, name, true).size, nodes.size);
    const left = new Set(nodes);
    for (let before = -1; left.size !== before; ) {
      before = left.size;
      for (const node of left) if (!facts.some(([a, b]) => b === node && left.has(a))) left.delete(node);
    }
    assert.equal(left.size, 0, "a cycle is left when sources are taken away");
  }
});

test("sizes and path lengths are those of ProsQA", () => {
  const statistics = prosqaStatistics(samples);
  assert.equal(statistics.questions, 2000);
  assert.ok(Math.abs(statistics.nodes - 22.8) < 0.4, `${statistics.nodes} nodes`);
  assert.ok(Math.abs(statistics.edges - 36) < 0.7, `${statistics.edges} edges`);
  assert.ok(statistics.names >= 2 && statistics.names < 6);
  const wanted = { 3: 40 / 99, 4: 43 / 99, 5: 14 / 99, 6: 2 / 99 };
  for (const [length, share] of Object.entries(wanted)) {
    const found = questions.filter(({ steps }) => steps.length === Number(length)).length / 2000;
    assert.ok(Math.abs(found - share) < 0.035, `${length} steps: ${found}`);
    assert.equal(statistics.steps[Number(length)], found);
  }
  assert.deepEqual(Object.keys(statistics.steps), ["3", "4", "5", "6"]);
});

const last = ({ facts }: Read, option: string) => facts.findLastIndex((fact) => fact.includes(option));
const first = ({ facts }: Read, option: string) => facts.findIndex((fact) => fact.includes(option));
const into = ({ facts }: Read, option: string) => facts.filter(([, to]) => to === option).length;
const outOf = ({ facts }: Read, option: string) => facts.filter(([from]) => from === option).length;
const back = ({ facts }: Read, option: string) =>
  distances(
    facts.map(([from, to]) => [to, from] as const),
    option,
  );

/** Each gives an option a score; the guess is the option with the higher one, ties count half. */
const HEURISTICS: Record<string, (question: Read, option: string) => number> = {
  "the option named first in the question": ({ options }, option) => -options.indexOf(option),
  "the option mentioned last in the facts": last,
  "the option mentioned first in the facts": (question, option) => -first(question, option),
  "the option mentioned most often": (question, option) => into(question, option) + outOf(question, option),
  "the option with more facts that lead to it": into,
  "the option with more facts that lead on": outOf,
  "the option with more ancestors": (question, option) => back(question, option).size,
  "the option that lies deeper": (question, option) => Math.max(...back(question, option).values()),
  "the option that more names reach": (question, option) =>
    [...back(question, option).keys()].filter((node) => /^[A-Z]/.test(node)).length,
  "the option nearer to the name's facts in the text": (question, option) =>
    -Math.abs(last(question, option) - last(question, question.name)),
  "the option whose word comes first in the alphabet": ({ options }, option) =>
    option === [...options].sort()[0] ? 1 : 0,
};

for (const [name, score] of Object.entries(HEURISTICS)) {
  test(`no better than chance: ${name}`, () => {
    let hits = 0;
    for (const question of questions) {
      const [a, b] = question.options.map((option) => score(question, option));
      hits += a === b ? 0.5 : question.options[a > b ? 0 : 1] === question.right ? 1 : 0;
    }
    assert.ok(Math.abs(hits / 2000 - 0.5) < 0.05, `${(hits / 20).toFixed(1)} %`);
  });
}

test("splits share no question in whatever order, and repeat with their seed", () => {
  const options = { train: 150, valid: 30, test: 40, seed: 4 };
  const splits = makeProsqaSplits(options);
  const all = [...splits.train, ...splits.valid, ...splits.test];
  const keys = all.map(({ facts, options, name }) =>
    [name, ...[...options].sort(), ...facts.map(String).sort()].join(),
  );
  assert.equal(new Set(keys).size, 220);
  assert.deepEqual(makeProsqaSplits(options), splits);
  assert.deepEqual(makeProsqaSplits({ ...options, train: 10, valid: 0 }).test, splits.test);
  assert.notDeepEqual(makeProsqaSplits({ ...options, seed: 5 }).test, splits.test);
});

test("other sizes and lengths are followed", () => {
  const rng = new Rng(2);
  const few = Array.from({ length: 200 }, () =>
    generateProsqa(rng, { nodes: 16, edges: 24, steps: { 1: 1, 2: 3 } }),
  );
  const statistics = prosqaStatistics(few);
  assert.deepEqual(Object.keys(statistics.steps), ["1", "2"]);
  assert.ok(Math.abs(statistics.nodes - 16) < 1 && Math.abs(statistics.edges - 24) < 1.5);
  assert.ok(Math.abs(statistics.steps[2] - 0.75) < 0.12);
});

test("the densest graphs around the longest paths are still found, impossible ones refused", () => {
  const rng = new Rng(3);
  for (let i = 0; i < 20; i++) {
    const { edges } = drawReachGraph(rng, { nodes: 17, edges: 34, steps: 6 });
    assert.equal(edges.length, 34);
  }
  assert.throws(
    () => drawReachGraph(rng, { nodes: 6, edges: 14, steps: 2 }),
    /no graph with 6 nodes, 14 edges/,
  );
});

test("options that make no sense are refused", () => {
  const rng = new Rng(0);
  assert.throws(() => generateProsqa(rng, { nodes: 15 }), /nodes=15 must be between 22 and 115/);
  assert.throws(() => generateProsqa(rng, { edges: 10 }), /edges=10 must be one to two a node/);
  assert.throws(() => generateProsqa(rng, { edges: 46 }), /edges=46 must be one to two a node/);
  assert.throws(() => generateProsqa(rng, { steps: { 0: 1 } }), /steps 0: 1/);
  assert.throws(() => generateProsqa(rng, { steps: {} }), /some path length/);
  assert.throws(() => prosqaStatistics([]), /no questions/);
});

test("questions decode to their text, a token a word", () => {
  const vocabulary = prosqaVocabulary();
  assert.equal(new Set(vocabulary.words).size, vocabulary.size);
  for (const sample of samples.slice(0, 200)) {
    const { ids, promptLength } = vocabulary.encodeSample(sample);
    assert.equal(vocabulary.decode(ids), sample.prompt + sample.completion);
    assert.equal(vocabulary.decode(ids.subarray(promptLength)), sample.completion);
  }
  const words = vocabulary.encode("Every lamek is a depir.").map((id) => vocabulary.words[id]);
  assert.deepEqual(words, ["Every", "lamek", "is", "a", "depir", "."]);
  assert.throws(() => vocabulary.encode("Every cat is a lamek."), /"cat" is not among/);
});
