// Ticks of logarithmic axes, chosen as in the figures of the notebook.

const STEPS = [[1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9], [1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]];

function logTicks(low, high, room) {
  const first = Math.floor(Math.log10(low)) - 1, last = Math.ceil(Math.log10(high)) + 1;
  const inside = ticks => ticks.filter(t => low * (1 - 1e-9) <= t && t <= high * (1 + 1e-9));
  const grid = steps => {
    const ticks = [];
    for (let decade = first; decade <= last; decade++) for (const step of steps) ticks.push(step * 10 ** decade);
    return inside(ticks);
  };
  let labelled = [];
  for (const steps of STEPS) {
    labelled = grid(steps);
    if (labelled.length <= room) break;
  }
  if (labelled.length > room) {
    const every = Math.ceil(labelled.length / room);
    labelled = labelled.filter(t => Math.round(Math.log10(t)) % every === 0);
  }
  if (labelled.length < 3 && high < 10 * low) labelled = evenTicks(low, high, room);
  const fine = grid([1, 2, 3, 4, 5, 6, 7, 8, 9]).filter(t => !labelled.includes(t));
  return [labelled, fine.length <= 60 ? fine : []];
}

function evenTicks(low, high, room) {
  const decade = 10 ** Math.floor(Math.log10((high - low) / room));
  for (const factor of [1, 2, 5, 10]) {
    const step = factor * decade, ticks = [];
    for (let n = Math.ceil(low / step); n <= Math.floor(high / step); n++) ticks.push(n * step);
    if (ticks.length >= 3 && ticks.length <= room) return ticks;
  }
  return [low, high];
}

function logAxis(title, values, text, { pad = 0.05, room = 8 } = {}) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value > 0 && value < Infinity) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  let [from, to] = high > 0 ? [Math.log10(low), Math.log10(high)] : [0, 1];
  const margin = Math.max(pad * (to - from), 0.04);
  from -= margin;
  to += margin;
  const [labelled, rest] = logTicks(10 ** from, 10 ** to, Math.max(2, room));
  return { type: "log", title: { text: title }, range: [from, to], automargin: false, tickmode: "array", tickvals: labelled,
    ticktext: labelled.map(t => text(t)), write: text, minor: { tickmode: "array", tickvals: rest, ticks: "outside", ticklen: 3, showgrid: false } };
}

function linearAxis(title, values, { pad = 0.05, room = 7 } = {}) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (Number.isFinite(value)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (!(high >= low)) [low, high] = [0, 1];
  const margin = Math.max(pad * (high - low), 1e-3 * Math.abs(high), 1e-9);
  return { title: { text: title }, automargin: false, tickmode: "array", ...linearTicks(low - margin, high + margin, room) };
}

function linearTicks(low, high, room) {
  const decade = 10 ** Math.floor(Math.log10((high - low) / room));
  const step = decade * ([1, 2, 5, 10].find(factor => (high - low) / (factor * decade) <= room) || 10);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const tickvals = [];
  for (let n = Math.ceil(low / step); n <= Math.floor(high / step); n++) tickvals.push(Number((n * step).toPrecision(12)));
  return { range: [low, high], tickvals, ticktext: tickvals.map(value => value.toFixed(places)) };
}

// The ticks of an axis whose range was changed by zooming.
function ticksAnew(axis) {
  const [from, to] = [...axis.range].sort((a, b) => a - b);
  if (axis.type !== "log") {
    const { tickvals, ticktext } = linearTicks(from, to, 7);
    return { tickvals, ticktext };
  }
  const [labelled, rest] = logTicks(10 ** from, 10 ** to, 7);
  return { tickvals: labelled, ticktext: labelled.map(value => (axis.write || plainTick)(value)), "minor.tickvals": rest };
}
const plainTick = t => sig(Number(t.toPrecision(3)), 3).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
