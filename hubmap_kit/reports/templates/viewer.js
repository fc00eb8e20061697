// Filters, sorting and marks of a page, and the dialog that shows one image. Without it the page can be read all the same.
"use strict";
(() => {
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const meta = JSON.parse(one("#meta").textContent);
const form = one(".controls");

// An item is an image: its card, its row of the table, and its facts. Items are in the page's order.
const items = all(".cards > .card").map((card) => ({ key: card.dataset.key, card, facts: meta.cards[card.dataset.key] }));
const byKey = new Map(items.map((item) => [item.key, item]));
const heads = all(".sortable th[data-sort]");
for (const row of all(".sortable tbody tr")) {
  const item = byKey.get(row.dataset.key);
  item.row = row;
  item.values = heads.map((_, number) => {
    const { dataset, textContent } = row.cells[number];
    if (dataset.value === undefined) return textContent || null;
    return dataset.value === "" ? null : Number(dataset.value);
  });
}

// ---------------------------------------------------------------- marks, kept by the browser under a key of this page
const place = `hubmap-kit marks ${meta.page}`;
let kept = true;
const marks = (() => {
  try {
    localStorage.setItem(`${place} test`, "1");
    localStorage.removeItem(`${place} test`);
    return new Map(Object.entries(JSON.parse(localStorage.getItem(place) || "{}")));
  } catch {
    kept = false;
    return new Map();
  }
})();
const markOf = (item) => marks.get(item.key) || { mark: "", note: "" };

function setMark(item, change) {
  const { mark, note } = { ...markOf(item), ...change };
  if (mark || note) marks.set(item.key, { mark, note });
  else marks.delete(item.key);
  try {
    localStorage.setItem(place, JSON.stringify(Object.fromEntries(marks)));
  } catch {
    kept = false;
  }
  showMarks();
}

function showMarks() {
  for (const item of items) {
    const { mark, note } = markOf(item);
    const line = one(".mark", item.card);
    line.hidden = !mark && !note;
    line.textContent = [mark && `Marked ${mark}`, note].filter(Boolean).join(": ");
  }
  form.elements.export.disabled = !marks.size;
  form.elements.export.textContent = marks.size ? `Export ${marks.size} marks` : "Export marks";
  one(".not-kept").hidden = kept;
}

// Every field in quotes; a field that a spreadsheet would run as a formula gets an apostrophe before it.
const field = (text) => `"${String(text).replace(/^(?=[=+\-@\t\r])/, "'").replaceAll('"', '""')}"`;

function exportMarks() {
  const unique = new Set(items.map((item) => item.facts.id)).size === items.length;
  const lines = items.filter((item) => marks.has(item.key)).map((item) => {
    const { mark, note } = markOf(item);
    return [unique ? item.facts.id : item.key, mark, note].map(field).join(",");
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["id,mark,note", ...lines, ""].join("\r\n")], { type: "text/csv" }));
  link.download = "marks.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---------------------------------------------------------------- filters and order, shared by cards, table and viewer
const step = Number(one(".cards").dataset.first);
let limit = step;
let listed = items;
const chosen = (name) => form.elements[name]?.value.trim() ?? "";

function fits(item) {
  const { facts } = item;
  const mark = markOf(item).mark;
  const among = (wanted, values) => !wanted || (wanted === "*" ? values.length > 0 : values.includes(wanted));
  return ["organ", "source", "split"].every((name) => !chosen(name) || facts[name] === chosen(name))
    && among(chosen("flag"), facts.flags)
    && (chosen("mark") === "-" ? !mark : among(chosen("mark"), mark ? [mark] : []))
    && `${item.key} ${item.facts.name}`.toLowerCase().includes(chosen("find").trim().toLowerCase())
    && (!chosen("least") || (facts.dice !== null && facts.dice >= Number(chosen("least"))))
    && (!chosen("most") || (facts.dice !== null && facts.dice <= Number(chosen("most"))));
}

function sorted() {
  const [number, direction] = chosen("sort").split(" ");
  if (!direction) return items;
  const sign = direction === "ascending" ? 1 : -1;
  return [...items].sort((left, right) => {
    const [a, b] = [left.values[number], right.values[number]];
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
}

function list({ reorder = false } = {}) {
  const order = sorted();
  listed = order.filter(fits);
  if (reorder) {
    one(".cards").append(...order.map((item) => item.card));
    one(".sortable tbody").append(...order.map((item) => item.row));
    const [number, direction] = chosen("sort").split(" ");
    heads.forEach((head, n) => {
      if (direction && n === Number(number)) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    });
  }
  const shown = new Set(listed);
  const first = new Set(listed.slice(0, limit));
  for (const item of items) {
    item.row.hidden = !shown.has(item);
    item.card.hidden = !first.has(item);
  }
  for (const dot of all("a[data-dot]")) dot.classList.toggle("aside", byKey.has(dot.dataset.dot) && !shown.has(byKey.get(dot.dataset.dot)));
  one(".more").hidden = listed.length <= limit;
  const some = listed.length === items.length ? `${items.length} images` : `${listed.length} of ${items.length} images`;
  one(".count").textContent = some + (listed.length > limit ? `; the first ${limit} are shown` : "");
}

function startList() {
  form.hidden = false;
  const choices = [["", "page's order"]];
  heads.forEach((head, number) => {
    const label = head.textContent;
    const [low, high] = items.some((item) => typeof item.values[number] === "number") ? ["lowest", "highest"] : ["A to Z", "Z to A"];
    choices.push([`${number} ascending`, `${label}: ${low}`], [`${number} descending`, `${label}: ${high}`]);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      form.elements.sort.value = `${number} ${up ? "ascending" : "descending"}`;
      list({ reorder: true });
    });
  });
  form.elements.sort.append(...choices.map(([value, label]) => new Option(label, value)));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    limit = step;
    list({ reorder: event.target.name === "sort" });
  });
  form.addEventListener("reset", () => setTimeout(() => {
    limit = step;
    list({ reorder: true });
  }));
  form.elements.export.addEventListener("click", exportMarks);
  form.elements.keys.addEventListener("click", () => one("dialog.keys").showModal());
  one("[name=more]").addEventListener("click", () => more(limit + step));
  one("[name=all]").addEventListener("click", () => more(Infinity));
  showMarks();
  list();
}

// Focus goes to the first of the cards that come in, as the button may be gone.
function more(wanted) {
  const next = listed[limit];
  limit = wanted;
  list();
  if (next) one(".open", next.card).focus();
}

// Links with a thumbnail, and one tab stop for each chart; arrow keys go from dot to dot.
function startCharts() {
  for (const link of all("a[data-picture]")) {
    const frame = byKey.has(link.dataset.picture) && one(".frame", byKey.get(link.dataset.picture).card);
    if (frame) link.prepend(frame.cloneNode(true));
  }
  for (const chart of all(".chart")) {
    const dots = all("a[data-dot]", chart);
    dots.forEach((dot, number) => dot.setAttribute("tabindex", number ? -1 : 0));
    chart.addEventListener("keydown", (event) => {
      const from = dots.indexOf(event.target);
      const to = { ArrowRight: from + 1, ArrowDown: from + 1, ArrowLeft: from - 1, ArrowUp: from - 1, Home: 0, End: dots.length - 1 }[event.key];
      if (from < 0 || to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (!dots[to]) return;
      dots[from].setAttribute("tabindex", -1);
      dots[to].setAttribute("tabindex", 0);
      dots[to].focus();
    });
  }
}

// ---------------------------------------------------------------- the viewer
const viewer = one("dialog.viewer");
const stage = one(".picture-of", viewer);
const slider = one("#threshold", viewer);
const NS = "http://www.w3.org/2000/svg";
const [MOST, LEAST] = [1 / 16, 1.02]; // image px by screen px: at least 1 / 16; at most the whole image and a margin
let shown = null; // the item in the viewer
let opener = null; // what had the focus before
let view = { x: 0, y: 0, scale: 1 }; // corner in image px, image px by screen px
let paths = {}; // outline of each layer of the shown image
let maps = {}; // probability map of each layer: {width, height, values}
let urls = [];
let pair = []; // reference and compared layer
const off = new Set(); // outlines that are hidden
const areas = new Set(); // areas that are shown: missed, extra, agreed

const blobs = (key) => all(`script[data-card="${CSS.escape(key)}"]`);
const imageOf = (script) => new Blob([Uint8Array.from(atob(script.textContent.trim()), (c) => c.charCodeAt(0))], { type: "image/webp" });

function urlOf(script) {
  if (script.dataset.url) return script.dataset.url;
  const url = URL.createObjectURL(imageOf(script));
  urls.push(url);
  return url;
}

async function show(key) {
  const item = byKey.get(key);
  if (!item) return;
  if (!viewer.open) {
    opener = document.activeElement;
    viewer.showModal();
    stage.focus();
  }
  clear();
  shown = item;
  const { facts } = item;
  const [height, width] = facts.shape;
  const dice = facts.dice === null ? "" : `Dice ${facts.dice.toFixed(3)}`;
  one("#shown").textContent = [facts.id, facts.name, facts.organ, facts.source, facts.split, dice].filter((text) => text !== "").join(" · ");
  const number = listed.indexOf(item) + 1;
  one(".place", viewer).textContent = number ? `${number} of ${listed.length}` : "not among the listed images";
  one(".empty", viewer).hidden = facts.crop !== null;
  one(".zoom", viewer).hidden = facts.crop === null;
  one(".empty", viewer).textContent = one(".flag.error", item.card)?.textContent ?? "no picture";
  for (const name of ["thumb", "view", "crop"]) one(`image.${name}`, stage).removeAttribute("href");
  const place = (element, x, y, w, h) => Object.entries({ x, y, width: w, height: h }).forEach(([name, value]) => element.setAttribute(name, value));
  for (const name of ["thumb", "view"]) place(one(`image.${name}`, stage), 0, 0, width, height);
  const thumb = one("img", item.card);
  if (thumb) one("image.thumb", stage).setAttribute("href", thumb.src);
  if (facts.crop) {
    const [y, x, h, w] = facts.crop;
    for (const name of ["image.crop", "rect.native"]) place(one(name, stage), x, y, w, h);
  }
  const drawn = [];
  for (const script of blobs(key)) {
    const { kind, layer } = script.dataset;
    if (kind === "outline") paths[layer] = script.textContent.trim();
    else if (kind === "map") drawn.push(readMap(script).then((map) => { if (shown === item) maps[layer] = map; }));
    else one(`image.${kind}`, stage).setAttribute("href", urlOf(script));
  }
  one("rect.native", stage).toggleAttribute("hidden", !one("image.crop", stage).hasAttribute("href"));
  const truth = facts.compare?.[0] === "truth" || !facts.compare;
  one("[name=native]", viewer).textContent = !facts.compare ? "Native pixels" : truth ? "Largest error" : "Largest difference";
  const present = meta.layers.filter((layer) => layer.key in paths);
  const both = (layers) => layers?.length === 2 && layers.every((layer) => layer in paths);
  pair = [pair, facts.compare, present.slice(0, 2).map((layer) => layer.key)].find(both) ?? [];
  showLayers(present);
  showAbout(item);
  showMark();
  whole();
  await Promise.all(drawn);
  if (shown === item) showThreshold();
}

function clear() {
  for (const url of urls) URL.revokeObjectURL(url);
  [shown, paths, maps, urls] = [null, {}, {}, []];
}

function showAbout(item) {
  const remarks = all(".flag, .note, .related", item.card).map((element) => element.cloneNode(true));
  one(".remarks", viewer).replaceChildren(...remarks);
  const list = one(".about-image dl", viewer);
  list.replaceChildren();
  const add = (name, text) => {
    const line = list.appendChild(document.createElement("div"));
    line.appendChild(document.createElement("dt")).textContent = name;
    line.appendChild(document.createElement("dd")).textContent = text;
  };
  const [height, width] = item.facts.shape;
  if (item.facts.crop) add("Size", `${height} × ${width} px`);
  if (item.facts.crop && item.facts.um) add("Pixel size", `${Number(item.facts.um.toPrecision(4))} µm`);
  heads.forEach((head, number) => {
    const text = item.row.cells[number].textContent;
    if (!["id", "organ", "source", "split", "dice", "flags", "pixel"].includes(head.dataset.sort) && text && text !== "–") add(head.textContent, text);
  });
}

// ---- layers
function showLayers(present) {
  const group = one("g.outlines", stage);
  const toggles = one(".outlines-of", viewer);
  group.replaceChildren();
  toggles.replaceChildren();
  meta.layers.forEach((layer, number) => {
    if (!present.includes(layer)) return;
    for (const name of ["casing", `outline o${number % 6}`]) {
      const path = group.appendChild(document.createElementNS(NS, "path"));
      path.setAttribute("class", name);
      path.dataset.layer = layer.key;
    }
    const button = toggles.appendChild(document.createElement("button"));
    button.type = "button";
    button.dataset.layer = layer.key;
    const swatch = button.appendChild(document.createElementNS(NS, "svg"));
    for (const [name, value] of [["width", 34], ["height", 14], ["aria-hidden", true]]) swatch.setAttribute(name, value);
    for (const name of ["casing", `outline o${number % 6}`]) {
      const line = swatch.appendChild(document.createElementNS(NS, "path"));
      line.setAttribute("class", name);
      line.setAttribute("d", "M2 7H32");
    }
    button.appendChild(document.createElement("span")).textContent = layer.label;
    if (number < 9) button.appendChild(document.createElement("kbd")).textContent = number + 1;
    button.addEventListener("click", () => toggle(off, layer.key));
  });
  one(".compare", viewer).hidden = present.length < 3;
  ["reference", "compared"].forEach((name, number) => {
    const select = one(`[name=${name}]`, viewer);
    select.replaceChildren(...present.map((layer) => new Option(layer.label, layer.key, false, layer.key === pair[number])));
  });
  one(".areas", viewer).hidden = !pair.length;
  one(".layers", viewer).hidden = !present.length;
  drawLayers();
}

function toggle(set, name) {
  if (!set.delete(name)) set.add(name);
  drawLayers();
}

// Missed is the reference outside the compared layer, extra the other way round; both are clipped, so they follow a path
// that changes.
function drawLayers() {
  if (!shown) return;
  const [reference, compared] = [paths[pair[0]] ?? "", paths[pair[1]] ?? ""];
  const [height, width] = shown.facts.shape;
  const outside = (path) => `M0 0H${width}V${height}H0z${path}`;
  for (const path of all("g.outlines path", stage)) {
    path.setAttribute("d", paths[path.dataset.layer]);
    path.toggleAttribute("hidden", off.has(path.dataset.layer));
  }
  for (const [id, path] of [["in-compared", compared], ["off-compared", outside(compared)], ["off-reference", outside(reference)]])
    one(`#${id} path`, stage).setAttribute("d", path);
  for (const area of all(".area", stage)) {
    area.toggleAttribute("hidden", !pair.length || !areas.has(area.dataset.area));
    area.setAttribute("d", area.dataset.area === "extra" ? compared : reference);
  }
  for (const button of all("[data-layer]", one(".side"))) button.setAttribute("aria-pressed", !off.has(button.dataset.layer));
  for (const button of all("[data-area]", one(".side"))) button.setAttribute("aria-pressed", areas.has(button.dataset.area));
}

// ---- threshold
async function readMap(script) {
  const bitmap = await createImageBitmap(imageOf(script));
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, values: Uint8Array.from({ length: width * height }, (_, n) => pixels[4 * n]) };
}

// The edges of a cell that a contour enters and leaves by, for each choice of corners above the level (top left 1, top
// right 2, bottom right 4, bottom left 8); edges are 0 top, 1 right, 2 bottom, 3 left. The region is on the right hand.
const CELLS = ["", "03", "10", "13", "21", "0321", "20", "23", "32", "02", "1032", "12", "31", "01", "30", ""];

// SVG path around all of a map that is above a level, in image px: marching squares with linear interpolation. The map
// is padded with zeros, so that a region at the border closes there.
function contour({ width, height, values }, level, imageWidth, imageHeight) {
  const columns = width + 2;
  const at = (x, y) => (x < 1 || y < 1 || x > width || y > height ? 0 : values[(y - 1) * width + x - 1]);
  // An edge is named by its first end: even to the right of it, odd below it. Each edge is left by one line at most.
  const next = new Int32Array(2 * columns * (height + 2)).fill(-1);
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      const corners = [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)];
      const code = corners.reduce((sum, value, n) => sum + ((value > level) << n), 0);
      if (code % 15 === 0) continue;
      const here = 2 * (y * columns + x);
      const edges = [here, here + 3, here + 2 * columns, here + 1];
      // Two opposite corners: the mean of the four says whether they are one region.
      const joined = code % 5 === 0 && corners.reduce((sum, value) => sum + value) > 4 * level;
      const cell = joined ? (code === 5 ? "0123" : "3012") : CELLS[code];
      for (let n = 0; n < cell.length; n += 2) next[edges[cell[n]]] = edges[cell[n + 1]];
    }
  }
  const point = (edge) => {
    const [x, y] = [(edge >> 1) % columns, Math.floor((edge >> 1) / columns)];
    const down = edge % 2;
    const [from, to] = [at(x, y), at(x + 1 - down, y + down)];
    const share = (level - from) / (to - from);
    const inside = (value, most) => Math.min(most, Math.max(0, value)).toFixed(1);
    return `${inside(((x + (down ? 0 : share) - 0.5) * imageWidth) / width, imageWidth)} ${inside(((y + (down ? share : 0) - 0.5) * imageHeight) / height, imageHeight)}`;
  };
  let path = "";
  for (let start = 0; start < next.length; start++) {
    if (next[start] < 0) continue;
    const points = [];
    for (let edge = start; next[edge] >= 0;) {
      points.push(point(edge));
      const following = next[edge];
      next[edge] = -1;
      edge = following;
    }
    path += `M${points.join("L")}z`;
  }
  return path;
}

// Dice of a map above a level and of an outline, in the map's pixels.
function diceOf({ width, height, values }, level, path, imageWidth, imageHeight) {
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.scale(width / imageWidth, height / imageHeight);
  context.fill(new Path2D(path), "evenodd");
  const { data } = context.getImageData(0, 0, width, height);
  let [both, sum] = [0, 0];
  values.forEach((value, n) => {
    const [here, there] = [value > level, data[4 * n + 3] > 127];
    both += here && there;
    sum += here + there;
  });
  return sum ? (2 * both) / sum : 1;
}

const sliding = () => pair[1] in maps && pair[1] in shown.facts.thresholds ? pair[1] : null;

function showThreshold() {
  const layer = sliding();
  one(".threshold", viewer).hidden = !layer;
  if (!layer) return;
  const own = shown.facts.thresholds[layer];
  one(".of", viewer).textContent = meta.layers.find((found) => found.key === layer).label;
  one("#chosen-threshold option", viewer).value = own;
  one("[name=chosen]", viewer).textContent = `Back to ${Number(own.toFixed(3))}, the chosen one`;
  slider.value = own;
  slide();
}

function slide() {
  const layer = sliding();
  if (!layer) return;
  const own = shown.facts.thresholds[layer];
  const back = Math.abs(slider.value - own) < Number(slider.step) / 2 + 1e-9; // the slider has no other place for it
  const level = back ? own : Number(slider.value);
  const [height, width] = shown.facts.shape;
  paths[layer] = back
    ? blobs(shown.key).find((script) => script.dataset.kind === "outline" && script.dataset.layer === layer).textContent.trim()
    : contour(maps[layer], 255 * level, width, height);
  const about = (value) => diceOf(maps[layer], 255 * value, paths[pair[0]] ?? "", width, height).toFixed(3);
  one("output", viewer).textContent = level.toFixed(3);
  one(".about", viewer).textContent = `Dice about ${about(level)}` + (back ? "" : `, at ${Number(own.toFixed(3))} about ${about(own)}`);
  one("[name=chosen]", viewer).disabled = back;
  drawLayers();
}

// ---- size and place
function look({ x, y, scale }) {
  const [height, width] = shown.facts.shape;
  const { clientWidth: w, clientHeight: h } = stage;
  const most = Math.max(width / w, height / h) * LEAST;
  scale = Math.min(most, Math.max(MOST, scale));
  const hold = (at, seen, size) => (seen >= size ? (size - seen) / 2 : Math.min(size - seen / 2, Math.max(-seen / 2, at)));
  view = { x: hold(x, w * scale, width), y: hold(y, h * scale, height), scale, whole: scale === most };
  stage.setAttribute("viewBox", `${view.x} ${view.y} ${w * scale} ${h * scale}`);
  stage.classList.toggle("coarse", scale < 1);
  for (const pattern of all(".hatch", stage)) pattern.setAttribute("patternTransform", `scale(${scale})`);
  const bar = one(".scale-bar", viewer);
  bar.hidden = !shown.facts.um || !shown.facts.crop;
  if (bar.hidden) return;
  const most_um = 140 * scale * shown.facts.um;
  const ten = 10 ** Math.floor(Math.log10(most_um));
  const length_um = [5, 2, 1].find((digit) => digit * ten <= most_um) * ten;
  one("span", bar).style.width = `${length_um / scale / shown.facts.um}px`;
  one("b", bar).textContent = `${Number(length_um.toPrecision(1))} µm`;
}

const whole = () => look({ x: 0, y: 0, scale: Infinity });

// The image point under (x, y) of the stage stays where it is.
function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const [left, top] = [view.x + x * view.scale, view.y + y * view.scale];
  const [height, width] = shown.facts.shape;
  const most = Math.max(width / stage.clientWidth, height / stage.clientHeight) * LEAST;
  const scale = Math.min(most, Math.max(MOST, view.scale * factor));
  look({ x: left - x * scale, y: top - y * scale, scale });
}

function native() {
  if (!shown.facts.crop) return;
  const [y, x, h, w] = shown.facts.crop;
  look({ x: x + w / 2 - stage.clientWidth / 2, y: y + h / 2 - stage.clientHeight / 2, scale: 1 });
}

const pan = (x, y) => look({ ...view, x: view.x + x * view.scale, y: view.y + y * view.scale });

function startStage() {
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode ? 30 : 1;
    zoom(Math.exp(event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), event.offsetX, event.offsetY);
  }, { passive: false });
  const fingers = new Map();
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const others = [...fingers.values()].filter((finger) => finger !== before);
    if (others.length) {
      const apart = (finger) => Math.hypot(finger.clientX - others[0].clientX, finger.clientY - others[0].clientY);
      const box = stage.getBoundingClientRect();
      zoom(apart(before) / Math.max(1, apart(event)), (event.clientX + others[0].clientX) / 2 - box.left, (event.clientY + others[0].clientY) / 2 - box.top);
    } else pan(before.clientX - event.clientX, before.clientY - event.clientY);
    fingers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => fingers.delete(event.pointerId));
  new ResizeObserver(() => {
    if (shown) view.whole ? whole() : look(view);
  }).observe(stage);
}

// ---- marks
function showMark() {
  const { mark, note } = markOf(shown);
  for (const button of all("[data-mark]", viewer)) button.setAttribute("aria-pressed", button.dataset.mark === mark);
  const box = one("[name=note]", viewer);
  if (box.value !== note) box.value = note;
}

function mark(name) {
  setMark(shown, { mark: markOf(shown).mark === name ? "" : name });
  showMark();
}

// ---- links, keys and buttons
// In full: in a notebook's frame an address that begins with # would be that of the notebook, which is refused.
const here = () => location.href.split("#")[0];

function linked() {
  try {
    return decodeURIComponent(/^#image=(.*)$/.exec(location.hash)?.[1] ?? "");
  } catch {
    return ""; // a lone % is no text
  }
}

function follow() {
  const key = linked();
  if (byKey.has(key)) { if (shown?.key !== key) show(key); }
  else if (viewer.open) viewer.close();
}

function go(by) {
  if (!listed.length) return;
  const from = listed.indexOf(shown);
  const item = listed[(from < 0 ? 0 : from + by + listed.length) % listed.length];
  history.replaceState(null, "", `${here()}#image=${encodeURIComponent(item.key)}`);
  show(item.key);
}

async function copyLink() {
  let text = "Link copied";
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    text = location.href;
  }
  one(".said", viewer).textContent = text;
  const button = one("[name=link]", viewer);
  button.textContent = text === "Link copied" ? text : "See the address bar";
  setTimeout(() => { button.textContent = "Copy link"; }, 2000);
}

const area = (name) => () => { if (!one(".areas", viewer).hidden) toggle(areas, name); };
const showKeys = () => one("dialog.keys").showModal();
const buttons = {
  previous: () => go(-1), next: () => go(1), link: copyLink, keys: showKeys, close: () => viewer.close(),
  in: () => zoom(1 / 1.5), out: () => zoom(1.5), whole, native, chosen: showThreshold,
};
const keys = {
  n: buttons.next, p: buttons.previous, "+": buttons.in, "=": buttons.in, "-": buttons.out, 0: whole, e: native, c: copyLink,
  m: area("missed"), x: area("extra"), a: area("agreed"), t: () => slider.focus(), g: () => mark("good"), b: () => mark("bad"), l: () => mark("look again"),
};
const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || one("dialog.keys").open) return;
  if (event.target.matches?.("textarea, select, input:not([type=range])")) return;
  let act;
  if (event.key === "?") act = showKeys;
  else if (!viewer.open) act = event.key === "/" && form.offsetParent ? () => form.elements.find.focus() : null;
  else if (event.key in arrows && event.target !== slider) {
    const [x, y] = arrows[event.key];
    if (!view.whole && event.target === stage) act = () => pan(80 * x, 80 * y);
    else if (x) act = () => go(x);
  } else if (/^[1-9]$/.test(event.key)) {
    const layer = meta.layers[event.key - 1]?.key;
    if (layer in paths) act = () => toggle(off, layer);
  } else if (Object.hasOwn(keys, event.key)) act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function startViewer() {
  for (const [name, act] of Object.entries(buttons)) one(`[name=${name}]`, viewer).addEventListener("click", () => act());
  for (const button of all("button[data-area]", viewer)) button.addEventListener("click", () => toggle(areas, button.dataset.area));
  for (const button of all("[data-mark]", viewer)) button.addEventListener("click", () => mark(button.dataset.mark));
  one("[name=note]", viewer).addEventListener("input", (event) => setMark(shown, { note: event.target.value }));
  slider.addEventListener("input", slide);
  for (const name of ["reference", "compared"]) {
    one(`[name=${name}]`, viewer).addEventListener("change", () => {
      pair = ["reference", "compared"].map((which) => one(`[name=${which}]`, viewer).value);
      showThreshold();
      drawLayers();
    });
  }
  viewer.addEventListener("close", () => {
    if (viewer.open) return; // another image was opened before this event came
    const card = shown && one(".open", shown.card);
    clear();
    if (linked()) history.replaceState(null, "", here());
    (opener?.isConnected && opener !== document.body ? opener : card)?.focus();
    list(); // a mark may have changed what is listed
  });
  document.addEventListener("keydown", press);
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#image="]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    history.pushState(null, "", here() + link.getAttribute("href"));
    follow();
  });
  addEventListener("popstate", follow);
  addEventListener("hashchange", follow);
  startStage();
}

for (const note of all(".no-script")) note.hidden = true;
if (items.length) startList();
startCharts();
startViewer();
// Pictures follow this script in the page: a linked image is opened once they are there.
document.addEventListener("DOMContentLoaded", () => follow());
})();
