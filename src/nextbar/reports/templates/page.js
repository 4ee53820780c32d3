"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const phone = matchMedia("(max-width: 600px)");

function colours() {
  const css = getComputedStyle(document.documentElement);
  return ["--fore", "--back", "--line"].map((name) => css.getPropertyValue(name).trim());
}

// Axes and text take the page's colours, whichever the reader prefers.
function themed(layout) {
  const [fore, back, line] = colours();
  const changed = { ...layout, font: { ...layout.font, color: fore }, hoverlabel: { bgcolor: back, font: { color: fore } } };
  if (phone.matches) changed.margin = { ...layout.margin, l: 4, r: 8 };
  for (const key of new Set(["xaxis", "yaxis", ...Object.keys(layout).filter((name) => /^[xy]axis/.test(name))])) {
    changed[key] = { ...layout[key], gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true };
  }
  return changed;
}

// What is black in a figure is drawn as text is: white on a dark page.
function inked(trace) {
  const [fore] = colours();
  const found = { ...trace };
  for (const part of ["line", "marker"]) {
    if (found[part]?.color === "black") found[part] = { ...found[part], color: fore };
  }
  return found;
}

// A chart in a closed part of the page has no width: it is drawn when the part opens.
function draw(part) {
  for (const place of part.querySelectorAll(".chart")) {
    if (place.closest("details:not([open])")) continue;
    const figure = figures[place.id];
    Plotly.react(place, figure.data.map(inked), themed(figure.layout), { responsive: true, displayModeBar: false });
  }
}

function sortBy(table, column, button) {
  const head = button.closest("th");
  const up = head.getAttribute("aria-sort") === "descending";
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => {
    const cell = row.cells[column];
    if (cell.dataset.value === undefined) return cell.textContent;
    return cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value);
  };
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [left, right] = [value(a), value(b)];
    return (left < right ? -1 : left > right ? 1 : 0) * (up ? 1 : -1);
  });
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead button").forEach((button, column) => {
    button.addEventListener("click", () => sortBy(table, column, button));
  });
}
for (const part of document.querySelectorAll("details")) {
  part.addEventListener("toggle", () => part.open && draw(part));
}
dark.addEventListener("change", () => draw(document));
draw(document);
