// Training curves: fetched from the server run by run, or unpacked from the file when the first one is shown.

const stories = new Map();
async function loadStory(at) {
  if (store.carried) return carriedStory(at);
  const key = store.runs.key[at], before = stories.get(key);
  if (before && before.etag === store.state.etag) return before;
  try {
    const answer = await fetch(`api/run?key=${encodeURIComponent(key)}`);
    const story = { ...(await answer.json()), etag: store.state.etag };
    stories.set(key, story);
    return story;
  } catch {
    return before || { problem: "The server does not answer." };
  }
}

let carriedCurves = null;
async function carriedStory(at) {
  if (!carriedCurves) carriedCurves = carriedBytes("curves").then(unpackCurves);
  const curves = await carriedCurves;
  if (curves.problem) return { problem: curves.problem };
  if (curves.recorded[at] < 0) return { problem: "There was no time to read the training curve of this run when the file was written." };
  // all held-out curves follow all training curves
  return { curve: { ...carriedCurve(curves, at), recorded: curves.recorded[at] }, held_out: carriedCurve(curves, at + store.runs.key.length) };
}

function carriedCurve(curves, at) {
  const step = summed(curves.steps, curves.starts[at], curves.counts[at]);
  const units = summed(curves.losses, curves.starts[at], curves.counts[at]);
  const loss = units.map(unit => (unit === curves.missing ? null : Number(Math.exp(unit / curves.per_log).toPrecision(5))));
  return { step, loss };
}

// As `analysis.dashboard.curves` packs them: a line of JSON, then steps and losses as planes of bytes.
function unpackCurves(bytes) {
  const end = bytes.indexOf(10);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  if (head.problem) return head;
  let total = 0;
  const starts = head.counts.map(count => (total += count) - count);
  const middle = end + 1 + 4 * total;
  return { ...head, starts, steps: bytes.subarray(end + 1, middle), losses: bytes.subarray(middle, middle + 4 * total) };
}

function summed(planes, start, count) {
  const size = planes.length / 4, values = [];
  let value = 0;
  for (let at = start; at < start + count; at++) {
    const packed = planes[at] + 2 ** 8 * planes[at + size] + 2 ** 16 * planes[at + 2 * size] + 2 ** 24 * planes[at + 3 * size];
    value += packed % 2 ? -(packed + 1) / 2 : packed / 2;
    values.push(value);
  }
  return values;
}

// With tokens and FLOPs up to every step, where the run says its batch; both grow evenly.
function withSpending({ step, recorded, ...measured }, at) {
  const { batch_size, context_length, tokens } = store.runs, flops = flopsColumn();
  const batch = batch_size && context_length ? batch_size[at] * context_length[at] : 0;
  const columns = { step };
  if (batch > 0) {
    columns.tokens = step.map(n => Math.min(n * batch, tokens[at] || Infinity));
    if (flops && flops[at] > 0 && tokens[at] > 0) columns.flops = columns.tokens.map(n => Number((n * flops[at] / tokens[at]).toPrecision(7)));
  }
  return { columns: { ...columns, ...measured }, recorded };
}
