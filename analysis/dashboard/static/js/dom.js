// Elements. Texts of runs only ever become text nodes: nothing in this page is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name === "style") Object.assign(node.style, value);
    else if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, ...children);
  return node;
}

// As node.append, but what is null or false is left out.
const add = (node, ...children) => node.append(...children.flat(3).filter(child => child !== null && child !== undefined && child !== false));

const SHAPES = {
  circle: "M5,0A5,5 0 1,0 -5,0A5,5 0 1,0 5,0Z", square: "M-4.5,-4.5H4.5V4.5H-4.5Z",
  "triangle-up": "M0,-5.5L5.5,4.5H-5.5Z", "triangle-down": "M0,5.5L5.5,-4.5H-5.5Z", diamond: "M0,-6L5,0L0,6L-5,0Z",
  star: "M0,-6L1.4,-1.9H5.7L2.2,.7L3.5,4.9L0,2.3L-3.5,4.9L-2.2,.7L-5.7,-1.9H-1.4Z", cross: "M-1.7,-5V-1.7H-5V1.7H-1.7V5H1.7V1.7H5V-1.7H1.7V-5Z",
  x: "M-4.7,-2.4L-2.4,0L-4.7,2.4L-2.4,4.7L0,2.4L2.4,4.7L4.7,2.4L2.4,0L4.7,-2.4L2.4,-4.7L0,-2.4L-2.4,-4.7Z",
  hexagon: "M0,-5.5L4.8,-2.8V2.8L0,5.5L-4.8,2.8V-2.8Z", bowtie: "M-5,-4.5L0,0L5,-4.5V4.5L0,0L-5,4.5Z",
  pentagon: "M0,-5.5L5.2,-1.7L3.2,4.5H-3.2L-5.2,-1.7Z", hexagram: "M0,-6L1.8,-3H5.2L3.5,0L5.2,3H1.8L0,6L-1.8,3H-5.2L-3.5,0L-5.2,-3H-1.8Z",
};

function familyMark(family) {
  const { colour, symbol } = familyStyle(family);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "-7 -7 14 14");
  svg.setAttribute("class", "mark");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", SHAPES[symbol] || SHAPES.circle);
  path.setAttribute("fill", inTheme(colour));
  svg.append(path);
  return svg;
}

// stacked: on a phone each row stands as a list of its cells with their titles.
// rows: arrays of cells, or functions that make them when they are shown; a cell is a text, a node, or {text, node, class}. columns: {title (text or node), class, sorted}.
function tableOf(columns, rows, { caption = "", most = 200, stacked = false } = {}) {
  const role = name => (stacked ? name : null);  // a browser forgets them where the rows are shown as lists
  const head = el("tr", { role: role("row") }, columns.map(c => (c.title ? el("th", { scope: "col", role: role("columnheader"), class: c.class, "aria-sort": c.sorted }, c.title) : el("td", {}))));
  const body = el("tbody", { role: role("rowgroup") });
  const fill = part => body.append(...part.map(row => el("tr", { role: role("row") }, (typeof row === "function" ? row() : row).map((cell, at) => cellOf(cell, columns[at], stacked)))));
  fill(rows.slice(0, most));
  const table = el("table", { class: role("stacked"), role: role("table") }, caption ? el("caption", {}, el("span", {}, caption)) : null, el("thead", { role: role("rowgroup") }, head), body);
  const box = el("div", { class: "scroll", tabindex: "0", role: caption ? "region" : null, "aria-label": caption || null }, table);
  if (rows.length <= most) return box;
  const more = el("button", { on: { click: () => { fill(rows.slice(most, 3000)); more.remove(); } } },
    `Show ${Math.min(rows.length, 3000) - most} more of ${rows.length}`);
  return el("div", {}, box, more);
}

function cellOf(cell, column, titled = false) {
  const kind = (cell && cell.class) || (column && column.class);
  let content = cell === null || cell === undefined ? "" : cell;
  if (content && typeof content === "object" && !(content instanceof Node)) content = content.node || content.text || "";
  return el("td", { class: kind, role: titled ? "cell" : null, "data-title": titled ? column?.title : null }, content instanceof Node ? content : String(content));
}

const listOf = sentences => el("ul", { class: "plain" }, [...new Set(sentences)].map(s => el("li", {}, s)));

function folded(title, make) {
  const box = el("details", {}, el("summary", {}, title));
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(make()); }, { once: true });
  return box;
}

function emptyState(sentence, more = "") {
  return el("p", { class: "note" }, [sentence, more].filter(Boolean).join(" "));
}
