// Samples of a payload's use → curves. Pure.

/** @param {{at: number, usage: any}[]} samples
 *  @returns {{at: number[], cores: (number | null)[], memory: number[], disk: number[], gpus: (number | null)[], gpuMemory: number[]}}
 *  `gpus`: how many devices were busy; empty if none was ever */
export function series(samples) {
  // a payload that was shorter than a heartbeat has its final figures alone: they hold for all of it
  const [only] = samples;
  if (samples.length === 1 && only.usage.wall_s > 0) {
    const { cpu_s: cpu = 0, wall_s: wall, disk_mb: disk = 0, gpu_s: gpu = 0, max_gpu_memory_mb: theirs = 0 } = only.usage;
    const both = (/** @type {number} */ n) => [n, n];
    return { at: [only.at - wall, only.at], cores: both(cpu / wall), memory: both(peakMemory(samples)), disk: both(disk * 1048576), gpus: gpu || theirs ? both(gpu / wall) : [], gpuMemory: both(theirs * 1048576) };
  }
  const rate = (/** @type {string} */ name) => samples.map((sample, index) => {
    const before = samples[index - 1];
    const sum = sample.usage[name] ?? 0;
    if (!before) return sample.usage.wall_s ? sum / sample.usage.wall_s : null;
    const seconds = sample.at - before.at;
    // a counter that goes back belongs to another process tree: nothing to say between the two
    return seconds > 0 && sum >= (before.usage[name] ?? 0) ? (sum - (before.usage[name] ?? 0)) / seconds : null;
  });
  const cores = rate("cpu_s");
  return {
    at: samples.map((sample) => sample.at),
    cores,
    memory: samples.map((sample) => (sample.usage.rss_kb ?? 0) * 1024),
    disk: samples.map((sample) => (sample.usage.disk_mb ?? 0) * 1048576),
    gpus: samples.some(({ usage }) => usage.gpu_s || usage.max_gpu_memory_mb) ? rate("gpu_s") : [],
    gpuMemory: samples.map((sample) => (sample.usage.gpu_memory_mb ?? 0) * 1048576),
  };
}

/** The most memory that was used, as an attempt's row says it: by the last sample, whose figures are the
 *  final ones once it has ended. @param {{usage: any}[]} samples */
export function peakMemory(samples) {
  const last = samples[samples.length - 1]?.usage ?? {};
  const said = Math.max(last.max_pss_kb ?? 0, last.max_rss_kb ?? 0);
  return 1024 * (said || Math.max(0, ...samples.map((sample) => sample.usage.rss_kb ?? 0)));
}

/** The curve with at most two points a column, its lowest and its highest: no peak is lost.
 *  @param {number[]} x @param {(number | null)[]} y @param {number} columns @returns {[number, number][]} */
export function thinned(x, y, columns) {
  /** @type {[number, number][]} */
  const points = [];
  x.forEach((at, index) => {
    const value = y[index];
    if (value !== null) points.push([at, value]);
  });
  if (points.length <= 2 * columns) return points;
  const size = Math.ceil(points.length / columns);
  /** @type {[number, number][]} */
  const kept = [];
  for (let from = 0; from < points.length; from += size) {
    const part = points.slice(from, from + size);
    const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
    kept.push(...(low === high ? [low] : low[0] < high[0] ? [low, high] : [high, low]));
  }
  return kept;
}

/** The index of the value in sorted `x` that is nearest to `at`. @param {number[]} x @param {number} at */
export function nearest(x, at) {
  let [low, high] = [0, x.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] < at) low = middle;
    else high = middle;
  }
  return Math.abs(x[low] - at) <= Math.abs(x[high] - at) ? low : high;
}
