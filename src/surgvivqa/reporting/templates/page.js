"use strict";
(() => {
  document.documentElement.classList.add("js");
  const each = (selector, act, root = document) => root.querySelectorAll(selector).forEach(act);

  // Gallery: filters, order, overlay, arrow keys.
  each(".gallery", (gallery) => {
    const list = gallery.querySelector(".cards");
    const cards = [...list.children];
    const count = gallery.querySelector("[data-count]");
    const form = gallery.querySelector("form");
    const tests = {
      text: (card, wanted) => wanted.toLowerCase().split(/\s+/).every((word) => card.dataset.text.includes(word)),
      labels: (card, wanted) => card.dataset.labels.split(" ").includes(wanted),
      type: (card, wanted) => card.dataset.type === wanted,
      video: (card, wanted) => card.dataset.video === wanted,
    };
    const visible = () => [...list.children].filter((card) => !card.hidden);
    const reach = () => {
      const shown = visible();
      cards.forEach((card) => (card.tabIndex = -1));
      if (shown.length) shown[0].tabIndex = 0;
    };
    const apply = () => {
      const radio = gallery.querySelector('input[type="radio"]:checked');
      let shown = 0;
      cards.forEach((card) => {
        let keep = !radio || !radio.value || card.dataset.outcome === radio.value;
        each("[data-filter]", (input) => {
          if (input.value.trim()) keep = keep && tests[input.dataset.filter](card, input.value.trim());
        }, gallery);
        card.hidden = !keep;
        shown += keep;
      });
      count.textContent = shown;
      reach();
    };
    const reorder = (by) => {
      const sorted = [...cards];
      const compare = (a, b, key) => a.dataset[key].localeCompare(b.dataset[key], "en", { numeric: true });
      if (by === "video") sorted.sort((a, b) => compare(a, b, "video") || compare(a, b, "frame"));
      if (by === "text") sorted.sort((a, b) => compare(a, b, "text"));
      list.append(...sorted);
      reach();
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => ("order" in event.target.dataset ? reorder(event.target.value) : apply()));
    each("[data-overlay]", (button) => button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(gallery.classList.toggle("shows-overlay")));
    }), gallery);
    list.addEventListener("keydown", (event) => {
      const shown = visible();
      const at = shown.indexOf(document.activeElement);
      if (at < 0) return;
      const columns = shown.filter((card) => card.offsetTop === shown[0].offsetTop).length;
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
      let to = event.key in steps ? at + steps[event.key] : { Home: 0, End: shown.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      to = Math.min(Math.max(to, 0), shown.length - 1);
      shown[at].tabIndex = -1;
      shown[to].tabIndex = 0;
      shown[to].focus();
    });
    apply();
  });

  // Tables that sort by a column.
  each("table.sortable", (table) => {
    const body = table.tBodies[0];
    const value = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.value ?? cell.textContent.trim();
    };
    each("thead th:not(.track)", (head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const isNumber = head.classList.contains("n");
        const was = head.getAttribute("aria-sort");
        const order = was === "descending" || (!was && !isNumber) ? "ascending" : "descending";
        each("th[aria-sort]", (other) => other.removeAttribute("aria-sort"), table);
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a, head.cellIndex), value(b, head.cellIndex)];
          return sign * (isNumber ? (parseFloat(x) || 0) - (parseFloat(y) || 0) : x.localeCompare(y, "en", { numeric: true }));
        });
        body.append(...rows);
      });
    }, table);
  });
})();
