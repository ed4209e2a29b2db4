(() => {
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (mark, x, y) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.height - 4)) + "px";
  };
  const pointed = (event) => {
    const mark = event.target.closest && event.target.closest("[data-tip]");
    if (mark) show(mark, event.clientX, event.clientY); else hide();
  };
  addEventListener("pointermove", pointed);
  addEventListener("pointerdown", pointed);
  addEventListener("focusin", (event) => {
    if (!event.target.matches("[data-tip]")) return;
    const box = event.target.getBoundingClientRect();
    show(event.target, box.right, box.bottom);
  });
  addEventListener("focusout", hide);
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
})();

(() => {
  const LONG = 6;
  const UNITS = { ms: 1e-3, s: 1, min: 60, h: 3600, k: 1e3, M: 1e6 };
  const make = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const value = (cell) => {
    const text = cell ? cell.textContent.trim() : "";
    const found = /^[<>~]?\s*[-+]?\$?([-+]?[\d,]*\.?\d+)\s*(ms|min|[shkM])?/.exec(text);
    if (!found) return text;
    const sign = /^[<>~]?\s*-/.test(text) && !found[1].startsWith("-") ? -1 : 1;
    return sign * Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1);
  };
  const compared = (one, other) => {
    const words = [typeof one === "string", typeof other === "string"];
    if (words[0] !== words[1]) return words[0] ? 1 : -1;
    return words[0] ? one.localeCompare(other) : one - other;
  };
  const sortable = (table) => {
    const [body, head] = [table.tBodies[0], table.tHead && table.tHead.rows[0]];
    if (!head || body.rows.length < 2 || [...head.cells].some((cell) => cell.colSpan > 1)) return;
    const at = [...body.rows];
    [...head.cells].forEach((title, place) => {
      const sort = make("button", { type: "button", class: "sort" }, ...(title.childNodes.length ? title.childNodes : ["name"]));
      title.replaceChildren(sort);
      sort.addEventListener("click", () => {
        const way = { ascending: "descending", descending: "" }[title.getAttribute("aria-sort")] ?? "ascending";
        for (const one of head.cells) one.removeAttribute("aria-sort");
        if (way) title.setAttribute("aria-sort", way);
        const sign = way === "descending" ? -1 : 1;
        const sums = at.filter((row) => row.className === "sum");
        const rows = at.filter((row) => row.className !== "sum");
        if (way) rows.sort((one, other) => sign * compared(value(one.cells[place]), value(other.cells[place])));
        body.append(...rows, ...sums);
      });
    });
  };
  const searched = (name, before, items) => {
    const search = make("input", { type: "search", "aria-label": `search ${name}`, placeholder: "search" });
    const told = make("span", { class: "soft", role: "status" });
    const kept = { is: () => true };
    const apply = () => {
      const words = search.value.toLowerCase();
      let shown = 0;
      for (const item of items) {
        item.hidden = !(kept.is(item) && item.textContent.toLowerCase().includes(words));
        shown += item.hidden ? 0 : 1;
      }
      told.textContent = shown < items.length ? `${shown} of ${items.length}` : "";
    };
    search.addEventListener("input", apply);
    const bar = make("div", { class: "search" }, search, told);
    before.before(bar);
    return { bar, kept, apply };
  };
  for (const table of document.querySelectorAll(".scroll table")) {
    sortable(table);
    const rows = [...table.tBodies[0].rows].filter((row) => row.className !== "sum");
    if (rows.length >= LONG) searched("the table", table.parentElement, rows);
  }
  for (const section of document.querySelectorAll("section")) {
    const rows = [...section.querySelectorAll(":scope > [data-row]")];
    if (rows.length < 2) continue;
    const { bar, kept, apply } = searched("the rows", rows[0], rows);
    const choice = make("select", { "aria-label": "which rows" });
    for (const [name, words] of [["", "all rows"], ["failed", "not ok"], ["differs", "answers differ"]]) {
      choice.append(make("option", { value: name }, words));
    }
    choice.addEventListener("change", () => {
      kept.is = (row) => choice.value === "" || choice.value in row.dataset;
      apply();
    });
    bar.prepend(choice);
  }
})();
