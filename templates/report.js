"use strict";
// Filters what is on the page already. Without it everything is shown.
(() => {
  const of = (id) => document.getElementById(id);
  const [form, node, component, state] = ["filter", "filter-node", "filter-component", "filter-state"].map(of);
  // With no more holders than this left, their certificates are shown at once.
  const FEW = 20;
  const blocks = [...document.querySelectorAll("details[data-node]")].map((element) => ({
    element,
    name: element.dataset.node.toLowerCase(),
    open: element.open,
    rows: [...element.querySelectorAll("tbody tr")].map((row) => ({
      element: row,
      name: row.cells[0].textContent,
      component: row.cells[1].textContent,
      state: row.dataset.state,
      column: row.dataset.column,
    })),
  }));
  const total = blocks.reduce((sum, block) => sum + block.rows.length, 0);
  const bars = [...document.querySelectorAll(".bars td")].map((cell) => ({
    number: cell.querySelector("span"),
    every: cell.querySelector(".every"),
    some: cell.querySelector(".some"),
    all: Number(cell.querySelector("span").textContent.replaceAll(",", "")),
  }));
  const calendar = [...document.querySelectorAll(".calendar tr[data-row]")].map((row) => ({
    element: row,
    name: row.dataset.row,
    cells: [...row.querySelectorAll("td")],
  }));
  const words = (count, one) => `${count.toLocaleString("en-US")} ${one}${count === 1 ? "" : "s"}`;

  const draw = (counts) => {
    const sums = bars.map(() => 0);
    for (const { element, name, cells } of calendar) {
      const found = counts.get(name) ?? [];
      element.hidden = counts.size > 0 && !counts.has(name);
      cells.forEach((cell, at) => {
        cell.textContent = found[at] ? found[at].toLocaleString("en-US") : "";
        sums[at] += found[at] ?? 0;
      });
    }
    const most = Math.max(4, ...calendar.flatMap(({ name }) => Object.values(counts.get(name) ?? [])));
    for (const { name, cells } of calendar) {
      cells.forEach((cell, at) => {
        const number = (counts.get(name) ?? [])[at] ?? 0;
        cell.className = number ? `shade-${Math.ceil((number * 4) / most)}` : "";
      });
    }
    bars.forEach(({ number, every, some, all }, at) => {
      const bottom = Number(every.getAttribute("y")) + Number(every.getAttribute("height"));
      const high = all ? (Number(every.getAttribute("height")) * sums[at]) / all : 0;
      some.setAttribute("y", bottom - high);
      some.setAttribute("height", high);
      number.textContent = sums[at].toLocaleString("en-US");
    });
  };

  const filter = () => {
    const wanted = node.value.trim().toLowerCase();
    const counts = new Map();
    let holders = 0;
    let shown = 0;
    for (const block of blocks) {
      const named = block.name.includes(wanted);
      let here = 0;
      for (const row of block.rows) {
        const fits = named && (!component.value || row.component === component.value) && (!state.value || row.state === state.value);
        row.element.hidden = !fits;
        here += fits;
        if (fits) {
          const found = counts.get(row.name) ?? {};
          if (row.column) found[row.column] = (found[row.column] ?? 0) + 1;
          counts.set(row.name, found);
        }
      }
      block.fits = named && (here > 0 || (!component.value && !state.value));
      block.element.hidden = !block.fits;
      holders += block.fits;
      shown += here;
    }
    const active = Boolean(wanted || component.value || state.value);
    form.toggleAttribute("data-active", active);
    for (const block of blocks) block.element.open = active && holders <= FEW ? block.fits : block.open;
    of("none").hidden = holders > 0;
    of("filter-result").textContent = active
      ? `Shows ${words(shown, "certificate")} of ${total.toLocaleString("en-US")}, of ${words(holders, "holder")}`
      : `Shows all ${words(total, "certificate")}`;
    draw(counts);
  };

  for (const block of blocks) {
    block.element.querySelector("summary").addEventListener("click", () => {
      block.open = !block.element.open;
    });
  }
  const openAll = (open) => () => {
    for (const block of blocks) {
      block.open = open;
      block.element.open = open;
    }
  };
  of("open-all").addEventListener("click", openAll(true));
  of("close-all").addEventListener("click", openAll(false));
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  // The controls have their first values only after the event.
  form.addEventListener("reset", () => setTimeout(filter));
  form.hidden = false;
  of("openers").hidden = false;
  // A browser keeps what was chosen before a reload.
  filter();
})();
