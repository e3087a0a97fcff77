// Pieces that several views share: headings with their export menu, cells, lines to copy.

function viewHead(title, sentence, view) {
  return el("div", { class: "head" },
    el("div", {}, el("h2", {}, title), el("p", {}, sentence)),
    exportMenu(view));
}

// view: {picture: Figure or null, csv(): {columns, rows}}
function exportMenu(view) {
  const status = el("span", { class: "muted", role: "status" });
  let busy = false;
  const item = (name, what, act) => el("button", { type: "button", "data-export": name, on: { click: async () => {
    if (busy) return;
    busy = true;
    status.textContent = name === "html" ? "Writing the file; loss curves of thousands of runs take a while." : "Saving.";
    try {
      await act();
      status.textContent = "";
      menu.open = false;
    } catch (problem) {
      status.textContent = problem.message;
    } finally {
      busy = false;
    }
  } } }, what);
  const base = () => `${fileName(document.getElementById("title").textContent)}-${route.view}`;
  const picture = format => async () => {
    if (!view.picture) throw new Error("There is no figure in this view.");
    save(await view.picture.picture(format), `${base()}.${format}`);
  };
  const menu = el("details", { class: "menu" }, el("summary", { role: "button" }, "Export"),
    el("div", {}, item("png", "Figure as PNG", picture("png")), item("svg", "Figure as SVG", picture("svg")),
      store.carried ? null : item("pdf", "Figure as PDF", picture("pdf")),
      item("csv", "Table as CSV", async () => save(csvUrl(view.csv()), `${base()}.csv`)),
      item("html", "This page as one file", async () => save(await pageFile(), `${base()}.html`)), status));
  return menu;
}

const fileName = text => text.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").toLowerCase() || "scaling";

function save(url, name) {
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (url.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// The same page with the data inside; a page that already is such a file hands on itself.
async function pageFile() {
  if (store.carried) return URL.createObjectURL(new Blob(["<!doctype html>\n", asWritten().outerHTML], { type: "text/html" }));
  const answer = await fetch(`export.html?start=${encodeURIComponent(address())}`);
  if (!answer.ok) throw new Error("The server did not answer; the page as a file needs it.");
  return URL.createObjectURL(await answer.blob());
}

// This file without what the page has made since it was opened.
function asWritten() {
  const copy = document.documentElement.cloneNode(true);
  for (const id of ["view", "tabs", "controls", "status", "foot"]) copy.querySelector(`#${id}`).replaceChildren();
  for (const addition of copy.querySelectorAll("head > script, head > style ~ style, body > div")) addition.remove();
  return copy;
}

// A text that a spreadsheet would take for a formula is marked as text.
function csvCell(value) {
  if (missing(value)) return "";
  let text = String(value);
  if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csvUrl({ columns, rows }) {
  const text = [columns, ...rows].map(row => row.map(csvCell).join(",")).join("\n") + "\n";
  return URL.createObjectURL(new Blob([text], { type: "text/csv" }));
}

function copyButton(table, words = "Copy the table") {
  const button = el("button", { type: "button", "data-copy": "table", on: { click: async () => {
    const { columns, rows } = table();
    const text = [columns, ...rows].map(row => row.map(cell => (missing(cell) ? "" : cell)).join("\t")).join("\n");
    await navigator.clipboard.writeText(text).then(() => { button.textContent = "Copied"; },
      () => { button.textContent = "The browser refused to copy"; });
    setTimeout(() => { button.textContent = words; }, 2000);
  } } }, words);
  return button;
}

const familyCell = family => el("span", { style: { display: "inline-flex", gap: "6px", alignItems: "center" } },
  familyMark(family), el("span", {}, family || "all runs"));
const budgetCell = budget => el("span", { style: { display: "inline-flex", gap: "6px", alignItems: "center" } },
  el("span", { class: "dot", style: { background: inTheme(store.budgetColour.get(budget) || LOOK.neutral) } }), flopsText(budget));
const runLink = (key, text) => el("a", { href: address({ view: "run", run: key }) }, text);

function note(sentence, warn = false) {
  return sentence ? el("p", { class: warn ? "note warn" : "note" }, sentence) : null;
}

function runsCsv(places) {
  const names = Object.keys(store.runs).filter(name => name !== "nominal");
  return { columns: names, rows: places.map(at => names.map(name => store.runs[name][at])) };
}
