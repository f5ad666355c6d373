"use strict";
const table = document.querySelector("table");
const body = table?.tBodies[0];
for (const button of table?.querySelectorAll("thead button") ?? []) {
  button.disabled = false;
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = Number(heading.dataset.column);
    const higher = heading.dataset.better === "higher";
    const first = higher ? "descending" : "ascending";
    const other = higher ? "ascending" : "descending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
    for (const cell of table.querySelectorAll("thead th")) cell.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => ({ row, key: row.cells[column].dataset.value ?? "" }));
    const missing = (item) => item.key === "";
    rows.sort((a, b) => missing(a) - missing(b) || sign * compare(a.key, b.key));
    body.append(...rows.map((item) => item.row));
  });
}
function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}
