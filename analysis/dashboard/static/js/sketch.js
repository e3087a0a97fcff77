// A figure on a canvas at once. plotly.js takes its time to load; until it has drawn the same figure in the same
// place, this is what there is to see. It knows what the figures of this page use, and no more.

const FIRST_PX = 11;

function sketch(figure, layout, width) {
  const { height } = layout, scale = window.devicePixelRatio || 1;
  const canvas = el("canvas", { width: Math.round(width * scale), height: Math.round(height * scale), "aria-hidden": "true",
    style: { width: `${width}px`, height: `${height}px`, display: "block" } });
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colours = { text: style("--text"), muted: style("--muted"), grid: style("--grid"), line: style("--line"), paper: style("--paper"), font: getComputedStyle(document.body).fontFamily };
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, width, height);
  const planes = planesOf(layout, width, figure);
  for (const plane of planes.values()) drawAxes(pen, plane, colours);
  for (const trace of figure.data) {
    const plane = planes.get(trace.xaxis || "x");
    if (!plane || !trace.x || !trace.x.length) continue;
    pen.save();
    pen.beginPath();
    pen.rect(plane.left, plane.top - 3, plane.width, plane.height + 6);
    pen.clip();
    drawTrace(pen, trace, plane);
    pen.restore();
  }
  for (const shape of layout.shapes || []) drawShape(pen, shape, planes);
  for (const note of layout.annotations || []) drawNote(pen, note, planes, layout, width, colours);
  return canvas;
}
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Every panel: its rectangle in pixels, and from data to pixels.
function planesOf(layout, width, figure) {
  const { l, r, t, b } = layout.margin, inner = width - l - r, tall = layout.height - t - b;
  const planes = new Map();
  for (const name of Object.keys(layout).filter(key => /^xaxis\d*$/.test(key))) {
    const id = name.replace("axis", ""), yName = name.replace("x", "y");
    const x = layout[name], y = layout[yName];
    if (!y) continue;
    const [x0, x1] = x.domain || [0, 1], [y0, y1] = y.domain || [0, 1];
    const plane = { x, y: withCategories(y, figure), left: l + x0 * inner, width: (x1 - x0) * inner, top: t + (1 - y1) * tall, height: (y1 - y0) * tall };
    const toX = pixels(x, plane.width), toY = plane.y.places ? value => plane.y.places.get(value) * plane.height : pixels(y, plane.height);
    plane.toX = value => plane.left + toX(value);
    plane.toY = value => plane.top + plane.height - toY(value);
    planes.set(id, plane);
  }
  return planes;
}

function withCategories(axis, figure) {
  if (axis.type !== "category") return axis;
  const names = [...new Set(figure.data.flatMap(trace => trace.y))];
  const places = new Map(names.map((name, at) => [name, (at + 0.5) / names.length]));
  return { ...axis, places, tickvals: names, ticktext: names };
}

function drawAxes(pen, plane, colours) {
  const { x, y, left, top, width, height } = plane, bottom = top + height;
  pen.lineWidth = 1;
  pen.font = `12px ${colours.font}`;
  pen.textAlign = "center";
  pen.textBaseline = "top";
  (x.tickvals || []).forEach((value, at) => {
    const place = Math.round(plane.toX(value)) + 0.5;
    stroke(pen, colours.grid, [[place, top], [place, bottom]]);
    stroke(pen, colours.line, [[place, bottom], [place, bottom + 5]]);
    pen.fillStyle = colours.muted;
    if (x.showticklabels !== false) pen.fillText(plain(x.ticktext[at]), place, bottom + 8);
  });
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  (y.tickvals || []).forEach((value, at) => {
    const place = Math.round(plane.toY(value)) + 0.5;
    stroke(pen, colours.grid, [[left, place], [left + width, place]]);
    if (y.showticklabels === false) return;
    stroke(pen, colours.line, [[left - 5, place], [left, place]]);
    pen.fillStyle = colours.muted;
    pen.fillText(plain(y.ticktext[at]), left - 8, place);
  });
  stroke(pen, colours.line, [[left, top], [left, bottom], [left + width, bottom]]);
  drawTitles(pen, plane, colours);
}

function drawTitles(pen, { x, y, left, top, width, height }, colours) {
  pen.fillStyle = colours.text;
  pen.font = `14px ${colours.font}`;
  pen.textAlign = "center";
  pen.textBaseline = "top";
  if (x.title?.text) pen.fillText(plain(x.title.text), left + width / 2, top + height + 28);
  if (!y.title?.text) return;
  pen.save();
  pen.translate(Math.max(FIRST_PX, left - 60), top + height / 2);
  pen.rotate(-Math.PI / 2);
  pen.textBaseline = "middle";
  pen.fillText(plain(y.title.text), 0, 0);
  pen.restore();
}

function stroke(pen, colour, points, width = 1) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  points.forEach(([x, y], at) => (at ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

const plain = text => String(text).replace(/<[^>]*>/g, "").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
const DASH_PX = { dash: [9, 6], dot: [2.5, 4], dashdot: [9, 4, 2.5, 4], longdash: [14, 6], longdashdot: [14, 4, 2.5, 4] };

function drawTrace(pen, trace, plane) {
  const { x, y, mode = "lines" } = trace;
  const at = n => [plane.toX(x[n]), plane.toY(y[n])];
  if (mode.includes("lines")) {
    pen.beginPath();
    let open = false;
    for (let n = 0; n < x.length; n++) {
      const [px, py] = missing(x[n]) || missing(y[n]) ? [NaN, NaN] : at(n);
      if (!Number.isFinite(px) || !Number.isFinite(py)) { open = false; continue; }
      open ? pen.lineTo(px, py) : pen.moveTo(px, py);
      open = true;
    }
    if (trace.fill === "toself") {
      pen.fillStyle = trace.fillcolor;
      pen.fill();
    } else {
      pen.strokeStyle = trace.line?.color || LOOK.neutral;
      pen.lineWidth = trace.line?.width ?? 2;
      pen.setLineDash(DASH_PX[trace.line?.dash] || []);
      pen.stroke();
      pen.setLineDash([]);
    }
  }
  if (mode.includes("markers")) drawMarkers(pen, trace, plane);
}

const PATHS = Object.fromEntries(Object.entries(SHAPES).map(([name, path]) => [name, new Path2D(path)]));

function drawMarkers(pen, trace, plane) {
  const { x, y, marker = {} } = trace;
  const pick = (value, n) => (Array.isArray(value) ? value[n] : value);
  for (let n = 0; n < x.length; n++) {
    if (missing(x[n]) || missing(y[n])) continue;
    const px = plane.toX(x[n]), py = plane.toY(y[n]), colour = pick(marker.color, n) || LOOK.neutral;
    if (trace.error_x) drawBar(pen, trace, n, plane, "x");
    if (trace.error_y) drawBar(pen, trace, n, plane, "y");
    const [shape, hollow] = String(pick(marker.symbol, n) || "circle").split("-open");
    const size = (pick(marker.size, n) || 6) / 10;
    pen.save();
    pen.globalAlpha = marker.opacity ?? 1;
    pen.translate(px, py);
    pen.scale(size, size);
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = 1.4 / size;
    hollow === undefined ? pen.fill(PATHS[shape] || PATHS.circle) : pen.stroke(PATHS[shape] || PATHS.circle);
    pen.restore();
  }
}

function drawBar(pen, trace, n, plane, kind) {
  const bars = trace[`error_${kind}`], { x, y } = trace;
  const up = bars.array[n] || 0, down = (bars.arrayminus || bars.array)[n] || 0;
  const point = amount => (kind === "x" ? [plane.toX(x[n] + amount), plane.toY(y[n])] : [plane.toX(x[n]), plane.toY(y[n] + amount)]);
  stroke(pen, bars.color || LOOK.neutral, [point(-down), point(up)], bars.thickness || 1.2);
}

function drawShape(pen, shape, planes) {
  const plane = planes.get((shape.xref || "x").replace(/ domain|paper/, "") || "x") || planes.get("x");
  if (!plane || shape.type !== "line") return;
  const y = plane.toY(shape.y0);
  pen.setLineDash(DASH_PX[shape.line.dash] || []);
  stroke(pen, shape.line.color, [[plane.left, y], [plane.left + plane.width, y]], shape.line.width);
  pen.setLineDash([]);
}

function drawNote(pen, note, planes, layout, width, colours) {
  const { l, r, t, b } = layout.margin, bold = note.text.startsWith("<b>");
  const plane = planes.get("x");
  const x = note.xref === "paper" ? l + note.x * (width - l - r) : plane.toX(note.x);
  const y = note.yref === "paper" ? t + (1 - note.y) * (layout.height - t - b) : plane.toY(10 ** note.y);
  pen.fillStyle = note.font?.color || colours.muted;
  pen.font = `${bold ? "600 " : ""}${note.font?.size || 12}px ${colours.font}`;
  pen.textAlign = note.xanchor || "left";
  pen.textBaseline = note.yanchor === "bottom" ? "bottom" : "middle";
  pen.fillText(plain(note.text), x + (note.xshift || 0), y - 2);
}
