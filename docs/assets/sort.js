// A click on the head of a column sorts its table: numbers from large to small, words from A to Z, and back again.
for (const head of document.querySelectorAll(".md-typeset table:not([class]) th")) {
  head.style.cursor = "pointer";
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const back = (head.dataset.sorted = head.dataset.sorted === "down" ? "up" : "down") === "up";
    const text = (row) => row.cells[head.cellIndex].textContent.trim();
    const number = (row) => parseFloat(text(row).replaceAll(",", "").replace(/^([\d.]+)k$/, "$1e3"));
    const order = (one, other) => {
      const difference = number(other) - number(one);
      if (!isNaN(difference)) return back ? -difference : difference;
      if (isNaN(number(one)) !== isNaN(number(other))) return isNaN(number(one)) ? 1 : -1;
      return text(one).localeCompare(text(other)) * (back ? -1 : 1);
    };
    body.append(...[...body.rows].sort(order));
  });
}
