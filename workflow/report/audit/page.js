// The page reads without this: it adds sorting, filtering, copying and enlarging.
"use strict";

function make(name, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(name), attributes);
  element.append(...children);
  return element;
}

// The rows of a part of a table, each with the row below it that gives more details, if there is one.

function rowsOf(body) {
  return [...body.querySelectorAll("tr:not(.group, .more)")];
}

function withMore(row) {
  const next = row.nextElementSibling;
  return next?.className === "more" ? [row, next] : [row];
}

// Sorting: a button in each column's head. Fields with a data-value are numbers, others are text;
// empty ones stay at the end.

const words = new Intl.Collator("en-GB", { numeric: true });

function keyOf(row, column) {
  const { dataset, textContent } = row.cells[column];
  if (!("value" in dataset)) return textContent.trim() || null;
  return dataset.value === "" ? null : Number(dataset.value);
}

function compare(one, other, sign) {
  if (one === null || other === null) return (one === null) - (other === null);
  if (one === other) return 0;
  return sign * (typeof one === "number" ? (one < other ? -1 : 1) : words.compare(one, other));
}

function sort(table, head) {
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  for (const body of table.tBodies) {
    const keyed = rowsOf(body).map((row) => [keyOf(row, head.cellIndex), withMore(row)]);
    keyed.sort(([one], [other]) => compare(one, other, ascending ? 1 : -1));
    body.append(...keyed.flatMap(([, rows]) => rows));
  }
}

function addSorting(table) {
  if ([...table.tBodies].flatMap(rowsOf).length < 2) return;
  for (const head of table.tHead.rows[0].cells) {
    const button = make("button", { type: "button", className: "sort" }, ...head.childNodes);
    button.addEventListener("click", () => sort(table, head));
    head.append(button);
  }
}

// Filtering: rows that have every word of the text. What a filter hides in the table of cells is
// hidden wherever else these cells are shown, and there is a second field for the filter there.

function addFilter(table) {
  const rows = [...table.tBodies].flatMap(rowsOf);
  const places = [table.parentElement, ...document.querySelectorAll(`[data-filters="${table.caption.id}"]`)];
  const fields = places.map((place) => {
    const input = make("input", { type: "search", autocomplete: "off", spellcheck: false });
    const count = make("output");
    const line = make("p", { className: "filter" }, make("label", {}, `${table.dataset.filter} `, input), " ", count);
    if (place === table.parentElement) place.before(line);
    else place.append(line);
    return { input, count };
  });
  const filter = (text) => {
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const words = row.textContent.toLowerCase();
      const hidden = !wanted.every((word) => words.includes(word));
      for (const each of withMore(row)) each.hidden = hidden;
    }
    hideWith(rows);
    hideEmptyGroups(table);
    for (const { input, count } of fields) {
      if (input.value !== text) input.value = text;
      count.value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
    }
  };
  for (const { input } of fields) input.addEventListener("input", () => filter(input.value));
  filter("");
}

function hideWith(rows) {
  const hidden = new Set(rows.filter((row) => row.hidden).map((row) => row.dataset.record));
  if (!rows.some((row) => row.dataset.record)) return;
  for (const element of document.querySelectorAll("[data-records]")) {
    element.toggleAttribute("hidden", element.dataset.records.split(" ").every((record) => hidden.has(record)));
  }
  document.querySelectorAll("#found table").forEach(hideEmptyGroups);
}

function hideEmptyGroups(table) {
  for (const group of table.querySelectorAll("tr.group")) {
    const rows = [...group.parentElement.querySelectorAll("tr:not(.group)")];
    group.hidden = rows.length > 0 && rows.every((row) => row.hidden);
  }
}

// Copying: a button beside each command, which then shows the result.

function addCopying(block) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(block.querySelector("code"));
    try {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
  block.after(make("p", { className: "copy", ariaLive: "polite" }, button));
}

// Enlarging: the image once more, in a dialog as large as the window.

function addEnlarging(figure) {
  const image = figure.querySelector("img");
  const title = figure.querySelector("figcaption strong").textContent.replace(/\.$/, "");
  const button = make("button", { type: "button", className: "enlarge" }, `Enlarge ${title.toLowerCase()}`);
  const enlarge = () => {
    const close = make("button", { type: "button" }, "Close");
    const dialog = make("dialog", { ariaLabel: title }, close, make("div", { tabIndex: 0 }, image.cloneNode()));
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close());
    dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
    document.body.append(dialog);
    dialog.showModal();
  };
  button.addEventListener("click", enlarge);
  image.addEventListener("click", enlarge);
  image.after(button);
}

// A region that does not scroll is skipped by the keyboard.

function stopWhereItScrolls(region) {
  const scrolls = region.scrollWidth > region.clientWidth || region.scrollHeight > region.clientHeight;
  if (scrolls) region.tabIndex = 0;
  else region.removeAttribute("tabindex");
}

const sizes = new ResizeObserver((seen) => seen.forEach(({ target }) => stopWhereItScrolls(target)));
document.querySelectorAll(".scroll").forEach((region) => sizes.observe(region));

for (const table of document.querySelectorAll("table")) {
  if (!table.closest(".plain")) addSorting(table);
  if (table.dataset.filter) addFilter(table);
}
document.querySelectorAll("pre.command").forEach(addCopying);
document.querySelectorAll("figure").forEach(addEnlarging);

// A phone shows all findings at a glance, and the figure below them.
if (matchMedia("(max-width: 40rem)").matches) {
  for (const finding of document.querySelectorAll(".finding")) finding.open = false;
}

// A link to what is folded opens it, and all that it is folded in.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let it = target; it; it = it.parentElement) {
    if (it.tagName === "DETAILS") it.open = true;
  }
  target?.scrollIntoView();
}

addEventListener("hashchange", openTarget);
openTarget();
