/**
 * Limited-memory BFGS (Liu & Nocedal 1989) for smooth convex functions, in float64. It asks for the value and gradient at
 * `trial` and is told them, so that several problems can be evaluated together.
 */

export interface DescentOptions {
  /** Largest entry of the gradient at the end, as a share of that at the start; default 1e-5. */
  readonly tolerance?: number;
  /** Steps taken at most; default 500. */
  readonly maxIterations?: number;
}

/** Pairs of moves and changes of gradient that stand for the curvature. */
const MEMORY = 10;
/** Halvings after which no shorter step is tried: what is left to gain is within rounding. */
const HALVINGS = 30;

interface Pair {
  readonly move: Float64Array;
  readonly change: Float64Array;
  /** 1 / (move · change) */
  readonly rho: number;
}

export class Descent {
  /** The point whose value and gradient are wanted. */
  readonly trial: Float64Array;
  /** The best point so far. */
  readonly x: Float64Array;
  value = Number.POSITIVE_INFINITY;
  /** Steps taken. */
  iterations = 0;
  done = false;
  #gradient: Float64Array | undefined;
  #direction: Float64Array;
  #step = 1;
  #halvings = 0;
  #first = 0;
  readonly #pairs: Pair[] = [];
  readonly #options: Required<DescentOptions>;

  constructor(start: Float64Array, { tolerance = 1e-5, maxIterations = 500 }: DescentOptions = {}) {
    this.x = start.slice();
    this.trial = start.slice();
    this.#direction = new Float64Array(start.length);
    this.#options = { tolerance, maxIterations };
  }

  /** Value and gradient at `trial`. Sets the next trial, or `done`. The gradient is copied. */
  tell(value: number, gradient: Float64Array): void {
    const last = this.#gradient;
    if (last && !(value <= this.value + 1e-4 * this.#step * dot(last, this.#direction))) {
      this.#shorten();
      return;
    }
    if (last) this.#remember(last, gradient);
    else this.#first = largest(gradient);
    this.x.set(this.trial);
    this.value = value;
    this.#gradient = gradient.slice();
    const { tolerance, maxIterations } = this.#options;
    this.done = this.iterations >= maxIterations || largest(gradient) <= tolerance * this.#first;
    if (this.done) return;
    this.iterations++;
    this.#direction = this.#towards(gradient);
    this.#step = this.#pairs.length > 0 ? 1 : 1 / Math.max(1, Math.sqrt(dot(gradient, gradient)));
    this.#halvings = 0;
    this.#propose();
  }

  #propose(): void {
    for (let i = 0; i < this.x.length; i++) this.trial[i] = this.x[i] + this.#step * this.#direction[i];
  }

  #shorten(): void {
    this.#step /= 2;
    this.done = ++this.#halvings > HALVINGS;
    if (!this.done) this.#propose();
  }

  #remember(last: Float64Array, gradient: Float64Array): void {
    const move = this.trial.map((v, i) => v - this.x[i]);
    const change = gradient.map((v, i) => v - last[i]);
    const curvature = dot(move, change);
    if (!(curvature > 1e-12 * dot(change, change))) return;
    this.#pairs.push({ move, change, rho: 1 / curvature });
    if (this.#pairs.length > MEMORY) this.#pairs.shift();
  }

  /** −H · gradient, by the two loops over the pairs. */
  #towards(gradient: Float64Array): Float64Array {
    const d = gradient.map((v) => -v);
    const alphas = new Float64Array(this.#pairs.length);
    for (let p = this.#pairs.length - 1; p >= 0; p--) {
      const { move, change, rho } = this.#pairs[p];
      alphas[p] = rho * dot(move, d);
      addScaled(d, -alphas[p], change);
    }
    const newest = this.#pairs[this.#pairs.length - 1];
    if (newest) {
      const scale = 1 / (newest.rho * dot(newest.change, newest.change));
      for (let i = 0; i < d.length; i++) d[i] *= scale;
    }
    this.#pairs.forEach(({ move, change, rho }, p) => {
      addScaled(d, alphas[p] - rho * dot(change, d), move);
    });
    return d;
  }
}

function dot(a: Float64Array, b: Float64Array): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}

function addScaled(to: Float64Array, by: number, what: Float64Array): void {
  for (let i = 0; i < to.length; i++) to[i] += by * what[i];
}

const largest = (v: Float64Array): number => v.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
