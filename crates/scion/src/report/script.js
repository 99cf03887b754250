"use strict";
{
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Sorting: a click orders by the column, a second one turns the order round. Missing values stay last.
  for (const button of all("table.sortable th button")) button.onclick = () => {
    const th = button.parentNode, table = th.closest("table"), body = table.tBodies[0];
    const up = th.getAttribute("aria-sort") !== "ascending";
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => {
      const cell = row.cells[th.cellIndex];
      return cell.dataset.v ? +cell.dataset.v : cell.classList.contains("num") ? NaN : cell.textContent;
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)], missing = Number.isNaN(x) - Number.isNaN(y);
      if (missing) return missing;
      const sign = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? sign : -sign;
    };
    body.append(...[...body.rows].sort(order));
  };

  const theme = document.getElementById("theme"), root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.onclick = () => { root.dataset.theme = dark() ? "light" : "dark"; nameTheme(); };
  nameTheme();

  const tip = document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = Math.max(8, Math.min(x + 14, root.clientWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (y > tip.offsetHeight + 20 ? y - tip.offsetHeight - 10 : y + 18) + "px";
  };
  const hide = () => { tip.hidden = true; };
  addEventListener("scroll", hide, { passive: true });

  // SVG titles become tooltips that also work by touch and keyboard.
  for (const title of all("svg title")) {
    const owner = title.parentNode, text = title.textContent;
    owner.setAttribute("aria-label", text);
    title.remove();
    owner.addEventListener("pointermove", event => { event.stopPropagation(); show(text, event.clientX, event.clientY); });
    owner.addEventListener("pointerleave", hide);
    owner.addEventListener("focus", () => {
      const box = owner.getBoundingClientRect();
      show(text, box.right, box.top);
    });
    owner.addEventListener("blur", hide);
  }

  // Values under the pointer, read back from the path coordinates.
  const short = v => v === 0 ? "0" : Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5 ? String(+v.toPrecision(3)) : v.toExponential(2);
  const value = ([low, high, log], share) => log === "true" ? low * (high / low) ** share : +low + (high - low) * share;
  for (const svg of all("svg.plot")) {
    const lines = all("path[data-name]", svg);
    if (!lines.length) continue;
    const [left, top, right, bottom] = svg.dataset.box.split(" ").map(Number);
    const xAxis = svg.dataset.x.split(" "), yAxis = svg.dataset.y.split(" ");
    const points = new Map(lines.map(l => [l, l.getAttribute("d").slice(1).split("L").map(p => p.split(" ").map(Number))]));
    const cross = svg.appendChild(document.createElementNS(svg.namespaceURI, "path"));
    cross.classList.add("cross");
    const nearest = (line, x) => points.get(line).reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    svg.addEventListener("pointermove", event => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const hits = lines.map(line => [line, nearest(line, at.x)]).sort((a, b) => Math.abs(a[1][1] - at.y) - Math.abs(b[1][1] - at.y));
      const shown = lines.length > 6 ? hits.slice(0, 1) : lines.map(line => hits.find(h => h[0] === line));
      for (const line of lines) line.classList.toggle("faded", !shown.some(h => h[0] === line));
      const x = hits[0][1][0];
      cross.setAttribute("d", `M${x} ${top}V${bottom}`);
      const name = svg.querySelector(".name").textContent;
      const rows = shown.map(([line, p]) => `${line.dataset.name}: ${short(value(yAxis, (bottom - p[1]) / (bottom - top)))}`);
      show([`${name} ${short(value(xAxis, (x - left) / (right - left)))}`, ...rows].join("\n"), event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", () => {
      hide();
      cross.removeAttribute("d");
      for (const line of lines) line.classList.remove("faded");
    });
  }

  // A grid in its full size, and larger, over the page.
  const dialog = document.body.appendChild(document.createElement("dialog"));
  dialog.onclick = () => dialog.close();
  for (const image of all(".grids img")) {
    const button = Object.assign(document.createElement("button"), { className: "zoom", textContent: "Enlarge" });
    button.onclick = () => {
      const large = image.cloneNode();
      const fit = Math.min(innerWidth / large.width, innerHeight / large.height) * 0.94;
      large.style.width = large.width * Math.max(fit, devicePixelRatio > 1 ? 1 : 2) + "px";
      dialog.replaceChildren(large);
      dialog.showModal();
    };
    image.before(button);
  }

  // Press and hold a grid to see the first one in its place.
  const grids = all(".grids img");
  for (const image of grids.slice(1)) {
    const own = image.src;
    const swap = on => { image.src = on ? grids[0].src : own; image.classList.toggle("swapped", on); };
    image.draggable = false;
    image.addEventListener("pointerdown", event => { if (event.button === 0) swap(true); });
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) image.addEventListener(end, () => swap(false));
    image.addEventListener("contextmenu", event => { if (image.classList.contains("swapped")) event.preventDefault(); });
  }
}
