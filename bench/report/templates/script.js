"use strict";
// A number is read from the front of a cell, so that "1.20 [1.09, 1.34]" sorts by its value.
const keyOf = (cell) => {
  const text = cell.textContent.trim().replaceAll(",", "");
  const number = parseFloat(text);
  return { text, number, isEmpty: text === "", isNumber: !Number.isNaN(number) };
};
const compare = (left, right) =>
  left.isNumber && right.isNumber ? left.number - right.number : left.text.localeCompare(right.text);

const sort = (heading) => {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  // Cells without a value stay last in either direction.
  rows.sort((a, b) => a.key.isEmpty - b.key.isEmpty || sign * compare(a.key, b.key));
  table.tBodies[0].append(...rows.map((item) => item.row));
};
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      // A page that was opened from a file may not write to the clipboard: mark the text instead.
      getSelection().selectAllChildren(code);
      button.textContent = "marked";
    }
  });
}
