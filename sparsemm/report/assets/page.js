"use strict";
// Data, state in the address, filters, tables, colours. All text from data goes in by textContent.

const element = (id) => document.getElementById(id);
const read = (id) => JSON.parse(element(id).textContent);
const report = read("data");
const cells = report.cells;
const methodOf = new Map(report.methods.map((method) => [method.name, method]));
const ablationOf = new Map(report.ablations.map((ablation) => [ablation.name, ablation]));

// A row of the sample grid: a line, and its seed where it has several.
{
  const seeds = new Map();
  const key = (cell) => JSON.stringify([cell.group, cell.line, cell.column]);
  for (const cell of cells) seeds.set(key(cell), (seeds.get(key(cell)) ?? 0) + 1);
  for (const cell of cells) {
    cell.variant = seeds.get(key(cell)) > 1 && cell.seed !== null ? `${cell.line}, seed ${cell.seed}` : cell.line;
  }
}

/** A new element with text, attributes and children. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value, text })));
  select.value = chosen;
  if (select.selectedIndex < 0 && entries.length) select.selectedIndex = 0;
}

const unique = (values) => [...new Set(values)];

// --- state: what is chosen, kept in the address after # ---------------------------------------------------

const LISTS = ["tasks", "methods"];
const WORDS = ["at", "prompt", "task", "doc", "show", "line", "column", "right", "open"];
const state = {};

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of WORDS) state[name] = given.get(name);
  // An empty list is written as one empty name.
  for (const name of LISTS) state[name] = given.has(name) ? given.getAll(name).filter((one) => one) : null;
}

function writeAddress() {
  const given = new URLSearchParams();
  for (const name of WORDS) if (state[name] !== null && state[name] !== undefined) given.set(name, state[name]);
  for (const name of LISTS) {
    if (state[name] === null) continue;
    for (const one of state[name].length ? state[name] : [""]) given.append(name, one);
  }
  const text = given.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

/** Change the state, keep it in the address. */
function choose(changes) {
  Object.assign(state, changes);
  writeAddress();
}

// --- what the charts and tables show ------------------------------------------------------------------------

const defaultMethods = () => {
  const main = report.methods.filter((method) => method.figure === "main").map((method) => method.name);
  return main.length ? main : report.methods.map((method) => method.name);
};
const shownMethods = () => new Set(state.methods ?? defaultMethods());
const shownGroups = () => {
  const names = state.tasks === null ? null : new Set(state.tasks);
  return report.groups.flatMap((group, index) => (names === null || names.has(group.name) ? [index] : []));
};
const promptShown = (prompt) => !state.prompt || !prompt || state.prompt === prompt;

function chip(text, pressed, color, onclick) {
  const made = make("button", { type: "button", class: "chip", "aria-pressed": String(pressed), onclick });
  if (color) made.append(swatch(color));
  made.append(make("span", { text }));
  return made;
}

function swatch(color) {
  const made = make("i", { class: "swatch", "aria-hidden": "true" });
  made.style.background = color;
  return made;
}

function toggled(names, name, order) {
  const chosen = new Set(names);
  if (!chosen.delete(name)) chosen.add(name);
  return order.filter((one) => chosen.has(one));
}

function drawFilters() {
  const focused = document.activeElement?.dataset?.key;
  const groupNames = report.groups.map((group) => group.name);
  const methodNames = report.methods.map((method) => method.name);
  const groupsOn = new Set(shownGroups());
  const methodsOn = shownMethods();
  element("tasks").replaceChildren(
    ...report.groups.map((group, index) => {
      const made = chip(group.name, groupsOn.has(index), null, () => {
        const now = toggled([...shownGroups()].map((one) => groupNames[one]), group.name, groupNames);
        choose({ tasks: now.length === groupNames.length ? null : now });
        drawShown();
      });
      made.dataset.key = `task ${group.name}`;
      return made;
    }),
  );
  const presets = [["all", () => true]];
  for (const figure of ["main", "controls", "variants"]) {
    if (figure === "main" ? methodNames.length > defaultMethods().length : report.methods.some((one) => one.figure === figure)) {
      presets.push([figure, (one) => one.figure === figure || one.name === "fullkv" || (figure !== "main" && one.name === "sparsemm")]);
    }
  }
  element("methods").replaceChildren(
    ...report.methods.map((method) => {
      const made = chip(method.label, methodsOn.has(method.name), themed(method.color), () => {
        choose({ methods: toggled([...shownMethods()], method.name, methodNames) });
        drawShown();
      });
      made.dataset.key = `method ${method.name}`;
      return made;
    }),
    ...(presets.length > 1 ? presets : []).map(([name, test]) =>
      make("button", {
        type: "button", class: "chip preset", text: name, "data-key": `preset ${name}`,
        onclick: () => {
          choose({ methods: report.methods.filter(test).map((one) => one.name) });
          drawShown();
        },
      }),
    ),
  );
  const prompts = unique(cells.map((cell) => cell.prompt));
  const names = { image_question: "image, question", question_after_compression: "question after compression" };
  element("prompt-field").hidden = prompts.length < 2;
  fill(element("prompt"), [["", "both"], ...prompts.map((one) => [one, names[one] ?? one])], state.prompt ?? "");
  if (focused) [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused)?.focus();
}

function filterTables() {
  const groups = new Set(shownGroups().map(String));
  const methods = shownMethods();
  let shown = 0;
  for (const row of element("summary-table").tBodies[0].rows) {
    const { group, method, prompt } = row.dataset;
    row.hidden = !(groups.has(group) && methods.has(method) && (promptShown(prompt) || method === "fullkv"));
    shown += !row.hidden;
  }
  element("summary-count").textContent = `${shown} of ${cells.length} cells`;
  const table = element("comparisons-table");
  if (!table) return;
  shown = 0;
  for (const row of table.tBodies[0].rows) {
    const { group, prompt } = row.dataset;
    const mean = !element("means-only").checked || "mean" in row.dataset;
    row.hidden = !(groups.has(group) && promptShown(prompt) && mean);
    shown += !row.hidden;
  }
  element("comparisons-count").textContent = `${shown} of ${table.tBodies[0].rows.length} pairs`;
}

/** Filters, charts of accuracy and tables, as the state says. */
function drawShown() {
  drawFilters();
  filterTables();
  drawAccuracy();
}

// --- tables that sort -----------------------------------------------------------------------------------------

function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    if (!head.textContent.trim()) return;
    const button = make("button", { type: "button", text: head.textContent });
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const value = (row) => row.cells[index].dataset.value ?? row.cells[index].textContent.trim();
      const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
      const compare = (one, other) => {
        if (one === "" || other === "") return (one === "") - (other === "");
        const [a, b] = [Number(one), Number(other)];
        const found = Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b;
        return descending ? -found : found;
      };
      rows.sort(([one], [other]) => compare(one, other));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
    head.replaceChildren(button);
  });
}

// --- colours ----------------------------------------------------------------------------------------------------

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
/** A method's colour; black would not be seen on dark. */
const themed = (color) => (isDark() && color === "#000000" ? "#f2f2f2" : color);
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function remember(name, value) {
  try {
    if (value === undefined) return localStorage.getItem(name);
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // A browser may forbid it for files; then nothing is remembered.
  }
  return null;
}

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const name = theme === "light" || theme === "dark" ? theme : "as the system";
  element("theme").setAttribute("aria-label", `Colours: ${name}`);
  element("theme").title = `Colours: ${name}`;
}

function nextTheme() {
  const order = { light: "dark", dark: null };
  const now = document.documentElement.dataset.theme;
  const next = now in order ? order[now] : isDark() ? "light" : "dark";
  setTheme(next);
  remember("sparsemm-theme", next);
  recolour();
}

function paintSwatches() {
  for (const one of document.querySelectorAll("[data-method-color]")) {
    const method = methodOf.get(one.dataset.methodColor) ?? report.efficiency.find((row) => row.method === one.dataset.methodColor);
    if (method) one.style.background = themed(method.color);
  }
}

function recolour() {
  paintSwatches();
  drawShown();
  redrawPlots();
  if (typeof drawSampleGrid === "function") drawSampleGrid();
}
