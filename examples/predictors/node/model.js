// What is believed of one device: solo times, what each pair costs, and how far forecasts were off. Nothing of gRPC.
//
// A batch that needs `work` alone and took `elapsed` lost 1 - work / elapsed of its time to its neighbours. That loss is
// shared out over the pairs it met, in proportion to how long it met them; each pair keeps the running average.

const RECENT = 300; // ratios kept per class for its bounds
const MEMORY = 200; // batches after which a pair's average has forgotten half
const MAX_CLASSES = 4096; // the class that ran least recently is forgotten beyond that
const LONGEST_NS = 3600e9;

const keyOf = (c) => JSON.stringify([c.model, c.version, c.batch_size, c.shape_bucket]);
const finite = (x) => Number.isFinite(x) && x > 0 && x <= LONGEST_NS;

class Device {
  constructor() {
    this.classes = new Map(); // key -> what is known of a class, in the order in which they ran
  }

  touch(batchClass) {
    const key = keyOf(batchClass);
    const known = this.classes.get(key) || { batchClass, work: 0, count: 0, pairs: new Map(), ratios: [] };
    this.classes.delete(key);
    this.classes.set(key, known);
    if (this.classes.size > MAX_CLASSES) this.classes.delete(this.classes.keys().next().value);
    return known;
  }

  // A solo measurement. Returns the class if it was learned.
  profiled({ batch_class: batchClass, work_ns: work }) {
    if (!batchClass || !batchClass.model || !finite(Number(work))) return undefined;
    const known = this.touch(batchClass);
    known.work = Number(work);
    return known;
  }

  // A batch that ran. Returns its class if anything was learned.
  finished({ batch_class: batchClass, duration_ns: duration, slices, forecast, failed, timed }) {
    const elapsed = Number(duration);
    const told = slices.reduce((sum, part) => sum + Number(part.duration_ns), 0);
    const crowded = slices.some((part) => part.co_runners.length > 64);
    if (failed || crowded || !batchClass || !batchClass.model || !finite(elapsed)) return undefined;
    if (Math.abs(told - elapsed) > 0.01 * elapsed + 1e4) return undefined;

    const known = this.touch(batchClass);
    const expected = forecast ? Number(forecast.duration_ns) : 0;
    if (!known.work) known.work = (forecast && Number(forecast.work_ns)) || elapsed;
    const ratio = elapsed / expected;
    if (expected && !timed && ratio > 1e-3 && ratio < 1e3) {
      known.ratios.push(ratio);
      if (known.ratios.length > RECENT) known.ratios.shift();
    }
    this.shareOut(known, slices, elapsed);
    known.count += 1;
    return known;
  }

  shareOut(known, slices, elapsed) {
    const met = new Map(); // key of a neighbour -> for what part of the time, counted as often as it ran
    for (const part of slices) {
      for (const other of part.co_runners) {
        const key = keyOf(other);
        const share = Number(part.duration_ns) / elapsed;
        met.set(key, { other, share: ((met.get(key) || {}).share || 0) + share });
      }
    }
    if (met.size === 0) {
      known.work += 0.1 * Math.max(-0.25, Math.min(0.25, elapsed / known.work - 1)) * known.work;
      return;
    }
    const loss = Math.max(0, Math.min(0.95, 1 - known.work / elapsed));
    const shares = [...met.values()].reduce((sum, { share }) => sum + share, 0);
    for (const [key, { other, share }] of met) {
      const pair = known.pairs.get(key) || { other, loss: 0, weight: 0, count: 0 };
      pair.weight = pair.weight * (1 - Math.LN2 / MEMORY) + share;
      pair.loss += (share / pair.weight) * (loss / Math.max(1, shares) - pair.loss);
      pair.count += 1;
      known.pairs.set(key, pair);
      if (known.pairs.size > 256) known.pairs.delete(known.pairs.keys().next().value);
    }
  }

  // Slowdown beside these: losses add up.
  slowdown(known, others) {
    const losses = others.map((other) => {
      const pair = known.pairs.get(keyOf(other));
      return pair ? pair.loss : 0.5;
    });
    return 1 / (1 - Math.min(0.98, losses.reduce((sum, loss) => sum + loss, 0)));
  }

  // What a forecast must be multiplied by to be exceeded by 1 - level of batches: the rank of split conformal
  // prediction among the last ratios; wide while they are too few.
  factor(known, level) {
    const sorted = [...known.ratios].sort((a, b) => a - b);
    const rank = Math.ceil((sorted.length + 1) * level);
    if (rank <= sorted.length) return Math.max(1, sorted[rank - 1]);
    return Math.max(1.5, sorted.length ? 1.05 * sorted[sorted.length - 1] : 1);
  }

  quantiles(known, levels) {
    return levels.map((level) => ({ level, factor: this.factor(known, level), co_runner_count: 0 }));
  }
}

module.exports = { Device, keyOf };
