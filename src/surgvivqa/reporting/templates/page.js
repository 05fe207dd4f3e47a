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
    const more = gallery.querySelector("[data-more]");
    const step = 24;
    let limit = step;
    const matches = new Set(cards);
    const visible = () => [...list.children].filter((card) => !card.hidden);
    const reach = () => {
      const shown = visible();
      cards.forEach((card) => (card.tabIndex = -1));
      if (shown.length) shown[0].tabIndex = 0;
    };
    const apply = () => {
      const only = gallery.querySelector("[data-only-maps]");
      const radio = gallery.querySelector('input[type="radio"]:checked');
      matches.clear();
      cards.forEach((card) => {
        let keep = !radio || !radio.value || card.dataset.outcome === radio.value;
        each("[data-filter]", (input) => {
          if (input.value.trim()) keep = keep && tests[input.dataset.filter](card, input.value.trim());
        }, gallery);
        if (only && only.checked) keep = keep && card.dataset.map;
        if (keep) matches.add(card);
      });
      count.textContent = matches.size;
      show();
    };
    const show = () => {
      const found = [...list.children].filter((card) => matches.has(card));
      cards.forEach((card) => (card.hidden = true));
      found.slice(0, limit).forEach((card) => (card.hidden = false));
      more.hidden = found.length <= limit;
      more.textContent = `Show more (${found.length - Math.min(limit, found.length)} left)`;
      reach();
    };
    more.addEventListener("click", () => {
      const first = limit;
      limit += step;
      show();
      visible()[first].focus({ preventScroll: true });
    });
    addEventListener("beforeprint", () => cards.forEach((card, at) => (card.hidden = at >= step)));
    addEventListener("afterprint", show);
    const reorder = (by) => {
      const sorted = [...cards];
      const compare = (a, b, key) => a.dataset[key].localeCompare(b.dataset[key], "en", { numeric: true });
      if (by === "video") sorted.sort((a, b) => compare(a, b, "video") || compare(a, b, "frame"));
      if (by === "text") sorted.sort((a, b) => compare(a, b, "text"));
      list.append(...sorted);
      show();
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      limit = step;
      if ("order" in event.target.dataset) reorder(event.target.value);
      else if ("map" in event.target.dataset) each(".heat-map", (map) => (map.hidden = map.dataset.method !== event.target.value), gallery);
      else apply();
    });
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

  // Confusion matrix: order of the labels, and the cell under the pointer or the cursor in words.
  each(".confusion-box", (box) => {
    const svg = box.querySelector("svg");
    const frame = box.querySelector(".confusion");
    const readout = box.querySelector(".readout");
    const cursor = box.querySelector(".cursor");
    const orders = JSON.parse(box.dataset.orders);
    const names = [...svg.querySelectorAll("text.name")].map((text) => text.textContent);
    const size = Number(cursor.getAttribute("width"));
    const cells = [...svg.querySelectorAll(".cell")];
    const totals = names.map(() => 0);
    const lookup = new Map();
    cells.forEach((cell) => {
      const [row, column, n] = [cell.dataset.r, cell.dataset.c, cell.dataset.n].map(Number);
      totals[row] += n;
      lookup.set(row * names.length + column, n);
    });
    let place = names.map((_, at) => at);
    let at = [0, 0];
    const shift = (element, dx, dy) => (element.style.transform = `translate(${dx * size}px, ${dy * size}px)`);
    const tell = (row, column) => {
      const n = lookup.get(row * names.length + column) || 0;
      const share = totals[row] ? ` (${((100 * n) / totals[row]).toFixed(1)}%)` : "";
      const verb = row === column ? "answered right" : `answered with ${names[column]}`;
      readout.textContent = `${names[row]}: ${n.toLocaleString("en")} of ${totals[row].toLocaleString("en")} questions ${verb}${share}.`;
      shift(cursor, place[column], place[row]);
      cursor.style.visibility = "visible";
    };
    box.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    box.querySelector("select").addEventListener("change", (event) => {
      place = orders[event.target.value] || names.map((_, index) => index);
      svg.classList.toggle("is-grouped", !event.target.value);
      cursor.style.visibility = "hidden";
      each("[data-row]", (text) => shift(text, 0, place[text.dataset.row] - text.dataset.row), svg);
      each("[data-column]", (text) => shift(text, place[text.dataset.column] - text.dataset.column, 0), svg);
      cells.forEach((cell) => shift(cell, place[cell.dataset.c] - cell.dataset.c, place[cell.dataset.r] - cell.dataset.r));
    });
    svg.addEventListener("pointermove", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const column = Math.floor((point.x - Number(cursor.getAttribute("x"))) / size);
      const row = Math.floor((point.y - Number(cursor.getAttribute("y"))) / size);
      const inside = (value) => value >= 0 && value < names.length;
      if (!inside(row) || !inside(column)) return;
      at = [row, column];
      tell(place.indexOf(row), place.indexOf(column));
    });
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      at = at.map((value, axis) => Math.min(Math.max(value + step[axis], 0), names.length - 1));
      tell(place.indexOf(at[0]), place.indexOf(at[1]));
    });
  });
})();
