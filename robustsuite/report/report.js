"use strict";
(() => {
  const table = document.querySelector(".comparison");
  if (!table) return;
  const body = table.tBodies[0];
  const planned = [...body.rows];
  const heads = [...table.tHead.rows[1].cells];
  const numeric = (row, column) => {
    const value = row.cells[column].dataset.value;
    return value === undefined ? null : Number(value);
  };
  const compare = (column, sign) => (a, b) => {
    if (column === 0) return sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
    const left = numeric(a, column), right = numeric(b, column);
    if (left === null || right === null) return (left === null) - (right === null);
    return sign * (left - right);
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const was = head.getAttribute("aria-sort");
      const now = was === "descending" ? "ascending" : was === "ascending" ? null : "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (now) head.setAttribute("aria-sort", now);
      const rows = now ? [...planned].sort(compare(column, now === "ascending" ? 1 : -1)) : planned;
      body.append(...rows);
    });
  });
  const open = () => {
    for (let node = document.querySelector(":target"); node; node = node.parentElement) {
      if (node.tagName === "DETAILS") node.open = true;
    }
  };
  window.addEventListener("hashchange", open);
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.gallery").forEach((node) => { node.open = true; });
  });
  open();
})();
