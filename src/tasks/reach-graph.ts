/**
 * Random directed graphs without cycles for questions of reach: two sources, each with a goal that it alone
 * reaches, at the same distance. The two are made alike and the graph does not know which is asked about, so
 * nothing in it but the paths tells the goals apart. Nodes are numbers; sources come first in the order that
 * all edges follow.
 */
import { type Rng, usageError } from "../util/index.ts";

export type Edge = readonly [from: number, to: number];

export interface ReachGraph {
  readonly nodes: number;
  /** Nodes that no edge leads to, the two chosen ones first (0 and 1). */
  readonly sources: readonly number[];
  readonly edges: readonly Edge[];
  /** From source 0 and from source 1 to its goal, ends included; no path between them is shorter. */
  readonly paths: readonly [readonly number[], readonly number[]];
}

export interface ReachGraphOptions {
  readonly nodes: number;
  readonly edges: number;
  /** Edges of the shortest path from a source to its goal. */
  readonly steps: number;
}

/** Of the nodes on neither path, the share that are further sources; the rest hang on some earlier node. */
const SOURCE_SHARE = 0.15;
const ATTEMPTS = 200;

/** Edges on the shortest path from `start` to each node; -1 where there is none. */
function distancesFrom(start: number, successors: readonly (readonly number[])[]): Int32Array {
  const distance = new Int32Array(successors.length).fill(-1);
  distance[start] = 0;
  const queue = [start];
  for (let i = 0; i < queue.length; i++) {
    for (const next of successors[queue[i]]) {
      if (distance[next] >= 0) continue;
      distance[next] = distance[queue[i]] + 1;
      queue.push(next);
    }
  }
  return distance;
}

/** All nodes hang together when directions are ignored. Throws where so many edges do not fit in. */
export function drawReachGraph(rng: Rng, options: ReachGraphOptions): ReachGraph {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const graph = attemptGraph(rng, options);
    if (graph && isConnected(graph)) return graph;
  }
  const { nodes, edges, steps } = options;
  throw usageError(
    `graph question: no graph with ${nodes} nodes, ${edges} edges and two paths of ${steps} steps in ` +
      `${ATTEMPTS} attempts; ask for one to two edges a node, and for 3 nodes more than two such paths have`,
  );
}

function attemptGraph(rng: Rng, { nodes, edges: wanted, steps }: ReachGraphOptions): ReachGraph | undefined {
  const paths = [0, 1].map((source) => [
    source,
    ...Array.from({ length: steps }, (_, i) => 2 + source * steps + i),
  ]) as [number[], number[]];
  const others = Array.from({ length: nodes - 2 - 2 * steps }, (_, i) => 2 + 2 * steps + i);
  const sources = [0, 1, ...others.filter(() => rng.uniform() < SOURCE_SHARE)];
  const isSource = new Set(sources);
  const rank = drawOrder(rng, paths, others, isSource);

  const successors: number[][] = Array.from({ length: nodes }, () => []);
  const edges: Edge[] = [];
  const keepsTheQuestion = (): boolean =>
    paths.every((path, i) => {
      const distance = distancesFrom(path[0], successors);
      return distance[path[steps]] === steps && distance[paths[1 - i][steps]] < 0;
    });
  const add = (a: number, b: number): boolean => {
    const [from, to] = rank[a] < rank[b] ? [a, b] : [b, a];
    if (rank[a] === rank[b] || isSource.has(to) || successors[from].includes(to)) return false;
    successors[from].push(to);
    if (!keepsTheQuestion()) {
      successors[from].pop();
      return false;
    }
    edges.push([from, to]);
    return true;
  };

  for (const [from, to] of paths.flatMap((path) => path.slice(1).map((to, i) => [path[i], to] as const))) {
    successors[from].push(to);
    edges.push([from, to]);
  }
  for (const node of others) {
    // Some node always fits: 0 and 1 come before all that are no sources, and the paths after every source.
    const fits = (other: number) => (isSource.has(node) ? !isSource.has(other) : rank[other] < rank[node]);
    let other = rng.int(nodes);
    while (!fits(other)) other = rng.int(nodes);
    if (!add(other, node)) return undefined;
  }
  for (let tries = 0; edges.length < wanted && tries < 50 * wanted; tries++)
    add(rng.int(nodes), rng.int(nodes));
  return edges.length === wanted ? { nodes, sources, edges, paths } : undefined;
}

/** A place in the order for each node: sources first, the nodes of a path in the order of the path. */
function drawOrder(
  rng: Rng,
  paths: readonly number[][],
  others: readonly number[],
  isSource: ReadonlySet<number>,
): number[] {
  const rank: number[] = [];
  for (const [source, ...path] of paths) {
    const places = path.map(() => rng.uniform()).sort((a, b) => a - b);
    rank[source] = -1;
    path.forEach((node, i) => {
      rank[node] = places[i];
    });
  }
  for (const node of others) rank[node] = isSource.has(node) ? -1 : rng.uniform();
  return rank;
}

function isConnected({ nodes, edges }: ReachGraph): boolean {
  const neighbours: number[][] = Array.from({ length: nodes }, () => []);
  for (const [from, to] of edges) {
    neighbours[from].push(to);
    neighbours[to].push(from);
  }
  return distancesFrom(0, neighbours).every((distance) => distance >= 0);
}
