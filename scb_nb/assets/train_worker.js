// Samples of a task, and training on them: the formulas of scb_nb.objective, stages, proximal and screening.
// V (N, N) is one array with entry (m, n) at m * N + n, A (T, N) one with entry (t, k) at k * T + t: a query's attention lies side by side.

// The generator xoshiro128** of Blackman and Vigna, seeded by splitmix32: 32 random bits at a time.
class Random {
  constructor(seed) {
    this.state = Uint32Array.from({ length: 4 }, () => {
      seed = (seed + 0x9e3779b9) | 0;
      let z = seed;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return z ^ (z >>> 15);
    });
  }

  bits() {
    const s = this.state, five = Math.imul(s[1], 5), drawn = Math.imul((five << 7) | (five >>> 25), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3]; s[2] ^= shifted;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return drawn;
  }

  // An outcome, by inversion: `edges` are the upper ends of the intervals, in units of 2^-32.
  outcome(edges) {
    const drawn = this.bits();
    let n = 0;
    while (drawn >= edges[n]) n++;
    return n;
  }
}

// The last interval that is not empty ends at 2^32, so that rounding leaves no gap.
function edges(probabilities) {
  let sum = 0;
  const last = probabilities.findLastIndex((p) => p > 0);
  return Float64Array.from(probabilities, (p, n) => (n >= last ? 2 ** 32 : Math.round((sum += p) * 2 ** 32)));
}

class Stream {
  constructor({ P, Q, mu }, seed) {
    this.length = Q.length;
    this.random = new Random(seed);
    this.tokens = edges(mu);
    this.answers = mu.map((_, n) => edges(P.map((row) => row[n])));
    this.positions = mu.map((_, k) => edges(Q.map((row) => row[k])));
  }

  draw(count) {
    const { random, length } = this;
    const tokens = new Uint8Array(count * length), query = new Uint8Array(count), target = new Uint8Array(count);
    for (let i = 0; i < tokens.length; i++) tokens[i] = random.outcome(this.tokens);
    for (let b = 0; b < count; b++) {
      query[b] = random.outcome(this.tokens);
      const position = random.outcome(this.positions[query[b]]);
      target[b] = random.outcome(this.answers[tokens[b * length + position]]);
    }
    return { tokens, query, target };
  }
}

// The mean loss of a batch and its gradients, as objective.batch_gradients.
function gradients(V, A, { tokens, query, target }) {
  const count = query.length, T = tokens.length / count, N = Math.sqrt(V.length);
  const of_V = new Float64Array(N * N), of_A = new Float64Array(T * N);
  const histogram = new Float64Array(N), residual = new Float64Array(N), pull = new Float64Array(N);
  let loss = 0;
  for (let b = 0; b < count; b++) {
    const first = b * T, column = query[b] * T;
    histogram.fill(0);
    for (let t = 0; t < T; t++) histogram[tokens[first + t]] += A[column + t];
    pull.fill(0);
    for (let m = 0; m < N; m++) {
      residual[m] = m === target[b] ? -1 : 0;
      for (let n = 0; n < N; n++) residual[m] += V[m * N + n] * histogram[n];
      loss += residual[m] ** 2 / 2;
      for (let n = 0; n < N; n++) {
        of_V[m * N + n] += residual[m] * histogram[n];
        pull[n] += residual[m] * V[m * N + n];
      }
    }
    for (let t = 0; t < T; t++) of_A[column + t] += pull[tokens[first + t]];
  }
  return { loss: loss / count, V: of_V.map((value) => value / count), A: of_A.map((value) => value / count) };
}

// Tools for the columns of A, each an array of T numbers

const sum = (values) => values.reduce((total, value) => total + value, 0);
const median = (values) => values.slice().sort()[(values.length - 1) >> 1]; // the lower one of two, as in PyTorch

// As screening.outstanding: 1 where an entry lies above its column's median by more than noise explains, else 0.
function outstanding(columns, mu, critical) {
  const heights = columns.map((a) => { const middle = median(a); return a.map((value) => value - middle); });
  const T = columns[0].length, apart = new Float64Array(T * mu.length);
  heights.forEach((height, k) => apart.set(height.map((value) => Math.abs(value) * Math.sqrt(mu[k])), k * T));
  const noise = 1.4826 * median(apart);
  return heights.map((height, k) => height.map((value) => Number(value > (critical * noise) / Math.sqrt(mu[k]))));
}

// As screening.attention_on.
function attentionOn(support, a) {
  const middle = median(a), kept = a.map((value, t) => (support[t] ? value - middle : 0)), whole = sum(kept);
  return sum(support) ? kept.map((value) => value / whole) : a.map(() => 1 / a.length);
}

// As proximal.restrict: what a column lacks of one is spread evenly over its support.
function restrict(a, support) {
  const allowed = sum(support) ? support : support.map(() => 1);
  const inside = a.map((value, t) => value * support[t]), share = (1 - sum(inside)) / sum(allowed);
  return inside.map((value, t) => value + share * allowed[t]);
}

// As proximal.sparse_sum_to_one.
function sparseSumToOne(a, threshold) {
  const thin = a.map((value) => Math.sign(value) * Math.max(Math.abs(value) - threshold, 0));
  return restrict(thin, thin.map((value) => Number(value !== 0)));
}

// Stage 1 is stages.SmallSteps, stage 2 stages.Descent with sparsity "l1" and average. SGD is stages.Descent that neither
// preconditions nor projects. `settings`: method ("stages" or "sgd"), batch, rate, l1, steps (most of stage 1, and those of
// stage 2), critical, visible. `state`: V, A, stage (0 or 1), step within it, samples.
class Training {
  constructor(mu, length, settings, state) {
    const N = mu.length;
    Object.assign(this, { mu, settings, N, T: length, stage: 0, step: 0, samples: 0, loss: NaN, outcome: "" });
    this.V = Float64Array.from({ length: N * N }, (_, i) => mu[Math.floor(i / N)]);
    this.A = new Float64Array(length * N).fill(1 / length);
    if (state) Object.assign(this, state, { V: Float64Array.from(state.V), A: Float64Array.from(state.A) });
    this.support = this.look();
    this.total = { V: new Float64Array(N * N), A: new Float64Array(length * N) };
  }

  columns(A) { return this.mu.map((_, k) => A.subarray(k * this.T, (k + 1) * this.T)); }

  eachColumn(change) { this.columns(this.A).forEach((a, k) => a.set(change(a, k))); }

  // The positions found: 1 or 0 for each, one array for each query. In stage 2 they are those that are left.
  look() {
    const columns = this.columns(this.A);
    if (this.stage === 1) return columns.map((a) => a.map((value) => Number(value !== 0)));
    return outstanding(columns, this.mu, this.settings.critical);
  }

  take(batch) {
    const { settings, N, T } = this, staged = settings.method === "stages";
    const steps = staged ? settings.steps[this.stage] : sum(settings.steps);
    const found = gradients(this.V, this.A, batch);
    const averaging = this.stage === 1;
    this.descend(found, settings.rate * (averaging ? Math.min(1, 2 * (1 - this.step / steps)) : 1));
    Object.assign(this, { loss: found.loss, step: this.step + 1, samples: this.samples + batch.query.length, support: this.look() });
    if (averaging && this.step > Math.floor(steps / 2)) {
      for (const name of ["V", "A"]) this.total[name].forEach((_, i) => { this.total[name][i] += this[name][i]; });
    }
    const last = this.step === steps;
    if (![...this.V, ...this.A].every(Number.isFinite)) this.outcome = "diverged";
    else if (averaging && last) this.finish(steps - Math.floor(steps / 2));
    else if (staged && !averaging) this.beginSecond(last);
    else if (last) this.outcome = "finished";
  }

  descend({ V, A }, rate) {
    const { mu, settings, N, T } = this, staged = settings.method === "stages";
    const scale = (n) => (staged ? mu[n] : 1 / N);
    const direction = V.map((value, i) => value / scale(i % N));
    if (staged) { // geometry.centre_V
      for (let n = 0; n < N; n++) {
        let mean = 0;
        for (let m = 0; m < N; m++) mean += direction[m * N + n] / N;
        for (let m = 0; m < N; m++) direction[m * N + n] -= mean;
      }
      for (let m = 0; m < N; m++) {
        const row = direction.subarray(m * N, (m + 1) * N), mean = sum(row.map((value, n) => value * mu[n]));
        row.forEach((value, n) => { row[n] = value - mean; });
      }
    }
    this.V = this.V.map((value, i) => value - rate * direction[i]);
    const gradient = this.columns(A);
    this.eachColumn((a, k) => {
      const mean = staged ? sum(gradient[k]) / T : 0; // geometry.centre_A
      const moved = a.map((value, t) => value - (rate * (gradient[k][t] - mean)) / scale(k));
      return this.stage === 1 ? sparseSumToOne(moved, rate * settings.l1) : moved;
    });
  }

  // Go over to stage 2 once what stands out holds enough attention; or give up.
  beginSecond(last) {
    const share = sum(this.columns(this.A).map((a, k) => sum(a.map((value, t) => value * this.support[k][t])))) / this.N;
    if (share >= this.settings.visible) {
      this.eachColumn((a, k) => attentionOn(this.support[k], a));
      Object.assign(this, { stage: 1, step: 0 });
      this.support = this.look();
    } else if (last) this.outcome = "gave up";
  }

  // End at the mean over the second half of stage 2, without what was there for a moment only.
  finish(averaged) {
    this.V = this.total.V.map((value) => value / averaged);
    this.A = this.total.A.map((value) => value / averaged);
    this.eachColumn((a, k) => restrict(a, this.support[k]));
    this.outcome = "finished";
  }

  state() {
    const { V, A, support, stage, step, samples, loss, outcome } = this;
    return { V, A, support, stage, step, samples, loss, outcome };
  }
}

// What the page may ask for; answers come in the order of the questions.
let training, stream;
const answers = {
  begin({ task, settings, seed, state }) {
    stream = new Stream(task, seed);
    training = new Training(task.mu, task.Q.length, settings, state);
    return training.state();
  },
  // Up to so many steps, on given batches or fresh ones, and no more once 40 milliseconds have passed.
  step({ steps, batches }) {
    const until = performance.now() + 40;
    for (let i = 0; i < steps && !training.outcome && (i === 0 || batches || performance.now() < until); i++) {
      training.take(batches ? batches[i] : stream.draw(training.settings.batch));
    }
    return training.state();
  },
  draw: ({ count }) => stream.draw(count),
  gradients: ({ V, A, batch }) => gradients(Float64Array.from(V), Float64Array.from(A), batch),
};
onmessage = ({ data: { ask, ...question } }) => postMessage(answers[ask](question));
