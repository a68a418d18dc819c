// @ts-check
// What the page does with its record; see record.py for what the record holds.
"use strict";
(() => {
  /** @type {any} */
  const record = JSON.parse(text("record"));
  /** What is chosen: positions of a layer, of a map among those shown, of a point in its grid. */
  const chosen = { layer: -1, map: 0, row: 0, col: 0, class: 0, view: "none" };

  // -------------------------------------------------------------- elements and numbers

  /** @param {string} id */
  function element(id) {
    const found = document.getElementById(id);
    if (!found) throw new Error(id);
    return found;
  }

  /** @param {string} id */
  function text(id) {
    return element(id).textContent || "";
  }

  /** @param {string} id @returns {HTMLCanvasElement} */
  function canvas(id) {
    return /** @type {HTMLCanvasElement} */ (element(id));
  }

  /**
   * @param {string} tag @param {Record<string, string>} [attributes]
   * @param {...(Node | string)} children
   */
  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  /** @type {Map<string, ArrayLike<number>>} */
  const decoded = new Map();

  /** @param {string} packed @param {"u1" | "f4" | "f8"} kind @returns {ArrayLike<number>} */
  function numbers(packed, kind) {
    const before = decoded.get(packed);
    if (before) return before;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const array =
      kind === "u1" ? bytes
      : kind === "f4" ? new Float32Array(bytes.buffer)
      : new Float64Array(bytes.buffer);
    decoded.set(packed, array);
    return array;
  }

  /** A number with `digits` figures, and a true minus sign. @param {number} value */
  function shown(value, digits = 6) {
    if (Number.isNaN(value)) return "NaN";
    const plain = Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-4)
      ? value.toExponential(digits - 1)
      : String(Number(value.toPrecision(digits)));
    return plain.replaceAll("-", "−");
  }

  /** A shown number that keeps all its digits for who asks. @param {number} value */
  function output(value, role = "", digits = 6) {
    return make("output", { "data-value": String(value), "data-role": role }, shown(value, digits));
  }

  // -------------------------------------------------------------- colours

  const LOW_TO_HIGH = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const SIGNED = [[5, 72, 130], [88, 160, 205], [240, 240, 240], [244, 148, 88], [150, 40, 8]];

  /** @param {number} share of the way, 0 to 1 @param {number[][]} palette */
  function colour(share, palette) {
    const place = Math.min(Math.max(share, 0), 1) * (palette.length - 1);
    const first = Math.min(Math.floor(place), palette.length - 2);
    return palette[first].map((c, i) => c + (palette[first + 1][i] - c) * (place - first));
  }

  /** The scale for numbers from low to high: about 0 if they have both signs. */
  function scale(/** @type {number} */ low, /** @type {number} */ high) {
    if (low < 0) {
      const most = Math.max(-low, high) || 1;
      return { low: -most, high: most, palette: SIGNED };
    }
    return { low: 0, high: high || 1, palette: LOW_TO_HIGH };
  }

  /**
   * @param {HTMLCanvasElement} target @param {number} height @param {number} width
   * @param {(index: number) => number[]} paint red, green, blue of an element
   */
  function draw(target, height, width, paint) {
    target.width = width;
    target.height = height;
    const context = target.getContext("2d");
    if (!context) return;
    const image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const [red, green, blue] = paint(i);
      image.data.set([red, green, blue, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  /** @param {HTMLElement} target @param {ReturnType<typeof scale>} range @param {string} what */
  function legend(target, range, what) {
    const bar = /** @type {HTMLCanvasElement} */ (make("canvas"));
    draw(bar, 1, 128, (i) => colour(i / 127, range.palette));
    const middle = (range.low + range.high) / 2;
    const ends = make("div", {}, make("span", {}, shown(range.low, 3)),
      make("span", {}, shown(middle, 3)), make("span", {}, shown(range.high, 3)));
    target.replaceChildren(bar, ends, what);
    target.hidden = false;
  }

  // -------------------------------------------------------------- the picture

  const picture = record.picture;

  function drawPicture() {
    const pixels = numbers(picture.pixels, "u1");
    const c = picture.channels;
    for (const target of [canvas("pixels"), canvas("peekpixels")]) {
      draw(target, picture.height, picture.width, (i) =>
        [pixels[c * i], pixels[c * i + (c > 1 ? 1 : 0)], pixels[c * i + (c > 2 ? 2 : 0)]]);
    }
  }

  /** @param {number} top @param {number} bottom @param {number} left @param {number} right */
  function showBox(top, bottom, left, right) {
    const seen = bottom > top && right > left;
    for (const id of ["box", "peekbox"]) {
      const box = element(id);
      box.hidden = !seen;
      box.style.top = `${(100 * top) / picture.height}%`;
      box.style.height = `${(100 * (bottom - top)) / picture.height}%`;
      box.style.left = `${(100 * left) / picture.width}%`;
      box.style.width = `${(100 * (right - left)) / picture.width}%`;
    }
    element("box").dataset.box = [top, bottom, left, right].join(",");
    element("boxtext").textContent = seen
      ? `The point sees rows ${top} to ${bottom - 1} and columns ${left} to ${right - 1}: ` +
        `${bottom - top}×${right - left} of ${picture.height}×${picture.width} pixels.`
      : "The point sees no pixel: its window lies in the padding.";
  }

  function showHeat() {
    const target = canvas("heat");
    const key = element("heatlegend");
    target.hidden = key.hidden = chosen.view === "none";
    if (chosen.view === "none") return;
    const name = record.classes[chosen.class].name;
    if (chosen.view === "cam") {
      if (!record.cam.maps) {
        target.hidden = true;
        key.textContent = `No Grad-CAM: ${record.cam.why}.`;
        return;
      }
      const [h, w] = record.cam.shape;
      const maps = numbers(record.cam.maps, "f4");
      paintHeat(target, maps, h, w, chosen.class * h * w);
      legend(key, heatScale(maps, h * w, chosen.class * h * w),
        `Grad-CAM of ${record.cam.layer} for ${name}: what raises its score.`);
      return;
    }
    const size = record.occlusion.size;
    const drops = occlusion();
    paintHeat(target, drops, picture.height, picture.width, 0);
    legend(key, heatScale(drops, picture.height * picture.width, 0),
      `How far a grey patch of ${size[0]}×${size[1]} pixels there lowers the probability of ` +
      `${name}, as a share of 1.`);
  }

  /** For each pixel the mean of what the patches over it lower the probability by. */
  function occlusion() {
    const { rows, cols, maps, size } = record.occlusion;
    const drops = numbers(maps, "f4");
    const sums = new Float64Array(picture.height * picture.width);
    const counts = new Float64Array(sums.length);
    rows.forEach((/** @type {number} */ top, /** @type {number} */ a) =>
      cols.forEach((/** @type {number} */ left, /** @type {number} */ b) => {
        const drop = drops[(chosen.class * rows.length + a) * cols.length + b];
        for (let i = top; i < top + size[0]; i++) {
          for (let j = left; j < left + size[1]; j++) {
            sums[i * picture.width + j] += drop;
            counts[i * picture.width + j] += 1;
          }
        }
      }));
    return sums.map((sum, i) => sum / (counts[i] || 1));
  }

  /** @param {ArrayLike<number>} all @param {number} count @param {number} first */
  function heatScale(all, count, first) {
    let low = 0;
    let high = 0;
    for (let i = first; i < first + count; i++) {
      low = Math.min(low, all[i]);
      high = Math.max(high, all[i]);
    }
    return scale(low, high);
  }

  /**
   * @param {HTMLCanvasElement} target @param {ArrayLike<number>} all
   * @param {number} h @param {number} w @param {number} first
   */
  function paintHeat(target, all, h, w, first) {
    const range = heatScale(all, h * w, first);
    draw(target, h, w, (i) =>
      colour((all[first + i] - range.low) / (range.high - range.low), range.palette));
  }

  // -------------------------------------------------------------- layers and maps

  /** @param {number} index */
  function chooseLayer(index) {
    const layer = record.layers[index];
    chosen.layer = index;
    chosen.map = 0;
    for (const button of document.querySelectorAll("button.layer")) {
      const own = button.getAttribute("data-layer") === String(index);
      button.setAttribute("aria-current", String(own));
      for (let up = own ? button.closest("details") : null; up;
        up = up.parentElement ? up.parentElement.closest("details") : null) up.open = true;
    }
    element("layername").textContent = layer.title;
    element("layerkind").textContent = `${layer.kind}${layer.detail ? `(${layer.detail})` : ""}`;
    showFacts(layer);
    element("bigbox").hidden = !layer.maps;
    element("thumbs").replaceChildren();
    if (!layer.maps) {
      element("terms").replaceChildren(make("p", { class: "note" },
        "This layer has no maps to show."));
      return;
    }
    const middle = (/** @type {number[]} */ list) => Math.floor(list.length / 2);
    chosen.row = middle(layer.rows);
    chosen.col = middle(layer.cols);
    showThumbs(layer);
    chooseMap(0);
  }

  /** @param {any} layer */
  function showFacts(layer) {
    /** @type {[string, string][]} */
    const facts = [
      ["output", layer.shape.join("×")],
      ["its size", layer.arithmetic.join("; ")],
      ["reads", layer.inputs.join(", ")],
      ["parameters", layer.params.toLocaleString("en")],
      ["MACs", layer.macs.toLocaleString("en")],
    ];
    if (layer.field) {
      const { size, stride, offset } = layer.field;
      facts.push(["receptive field", `${size.join("×")} pixels` +
        (stride[0] || stride[1] ? `, ${stride.join("×")} apart, the first from ${offset.join(", ")}`
          : ", the same for every point")]);
    }
    if (layer.seconds) facts.push(["time", `${shown(layer.seconds * 1e6, 3)} µs`]);
    element("facts").replaceChildren(...facts.flatMap(([name, value]) =>
      [make("dt", {}, name), make("dd", {}, value.replaceAll("-", "−"))]));
  }

  /** @param {any} layer @param {number} map */
  function range(layer, map) {
    return scale(layer.low[map], layer.high[map]);
  }

  /** @param {HTMLCanvasElement} target @param {any} layer @param {number} map */
  function drawMap(target, layer, map) {
    const pixels = numbers(layer.pixels, "u1");
    const [h, w] = layer.side;
    const own = range(layer, map);
    const [low, high] = [layer.low[map], layer.high[map]];
    draw(target, h, w, (i) => {
      const value = low + (pixels[map * h * w + i] / 255) * (high - low);
      return colour((value - own.low) / (own.high - own.low), own.palette);
    });
  }

  /** @param {any} layer */
  function isUnits(layer) {
    return layer.side[0] * layer.side[1] === 1;
  }

  /** @param {any} layer */
  function showThumbs(layer) {
    element("thumbs").classList.toggle("units", isUnits(layer));
    const buttons = layer.maps.map((/** @type {number} */ channel, /** @type {number} */ k) => {
      const button = make("button", { type: "button", "data-map": String(k),
        "aria-label": `map ${channel}` });
      if (isUnits(layer)) {
        button.append(`${unitName(layer, channel)}: ${shown(layer.low[k], 4)}`);
      } else {
        const small = /** @type {HTMLCanvasElement} */ (make("canvas"));
        drawMap(small, layer, k);
        button.append(small, String(channel));
      }
      button.addEventListener("click", () => chooseMap(k));
      return button;
    });
    element("thumbs").replaceChildren(...buttons);
  }

  /** @param {any} layer @param {number} channel */
  function unitName(layer, channel) {
    const last = layer === record.layers[record.layers.length - 1];
    const known = record.classes.find((/** @type {any} */ c) => c.index === channel);
    return last && known ? known.name : String(channel);
  }

  /** @param {number} map */
  function chooseMap(map) {
    const layer = record.layers[chosen.layer];
    chosen.map = map;
    element("thumbs").querySelectorAll("button").forEach((button, k) =>
      button.setAttribute("aria-pressed", String(k === map)));
    const whole = layer.shape[0];
    const kind = isUnits(layer) ? "unit" : "map";
    element("mapname").textContent = `${kind} ${layer.maps[map]} of ${whole}` +
      (layer.maps.length < whole ? `; shown are the ${layer.maps.length} most active` : "");
    drawMap(canvas("map"), layer, map);
    element("big").hidden = isUnits(layer);
    legend(element("maplegend"), range(layer, map), "");
    const [rows, cols] = [layer.rows.length, layer.cols.length];
    const [h, w] = [layer.shape[1] || 1, layer.shape[2] || 1];
    element("gridtext").textContent = rows * cols === h * w
      ? (h * w > 1 ? "Every point can be chosen." : "")
      : `${rows}×${cols} of ${h}×${w} points can be chosen: a click takes the nearest.`;
    showGrid(layer, rows * cols < h * w);
    choosePoint(chosen.row, chosen.col);
  }

  /** The points that can be chosen, where not all can. @param {any} layer @param {boolean} some */
  function showGrid(layer, some) {
    const [h, w] = [layer.side[0] * layer.factor, layer.side[1] * layer.factor];
    const marks = !some ? [] : layer.rows.flatMap((/** @type {number} */ i) =>
      layer.cols.map((/** @type {number} */ j) => {
        const top = (100 * Math.min(i + 0.5, h)) / h;
        const left = (100 * Math.min(j + 0.5, w)) / w;
        return make("i", { style: `top:${top}%;left:${left}%` });
      }));
    element("grid").replaceChildren(...marks);
  }

  /** @param {number} row @param {number} col */
  function choosePoint(row, col) {
    const layer = record.layers[chosen.layer];
    chosen.row = Math.min(Math.max(row, 0), layer.rows.length - 1);
    chosen.col = Math.min(Math.max(col, 0), layer.cols.length - 1);
    const [i, j] = [layer.rows[chosen.row], layer.cols[chosen.col]];
    const [h, w] = [layer.side[0] * layer.factor, layer.side[1] * layer.factor];
    const dot = element("dot");
    dot.style.top = `${(100 * Math.min(i, h - 1)) / h}%`;
    dot.style.left = `${(100 * Math.min(j, w - 1)) / w}%`;
    dot.style.height = `${100 / h}%`;
    dot.style.width = `${100 / w}%`;
    showBox(layer.box_rows[i][0], layer.box_rows[i][1], layer.box_cols[j][0], layer.box_cols[j][1]);
    showSum(layer, i, j);
  }

  /** The position of the nearest number of a rising list. @param {number[]} list */
  function nearest(list, /** @type {number} */ value) {
    let best = 0;
    list.forEach((each, k) => {
      if (Math.abs(each - value) < Math.abs(list[best] - value)) best = k;
    });
    return best;
  }

  // -------------------------------------------------------------- the sum

  /** @param {any} layer @param {number} i @param {number} j */
  function showSum(layer, i, j) {
    const block = record.blocks[layer.block];
    const k = chosen.map;
    const points = layer.rows.length * layer.cols.length;
    const p = chosen.row * layer.cols.length + chosen.col;
    const at = k * points + p;
    const value = numbers(layer.values, "f4")[at];
    const place = isUnits(layer) ? "" : `, row ${i}, column ${j}`;
    const kind = isUnits(layer) ? "unit" : "map";
    const parts = [make("p", {}, `${layer.title}, ${kind} ${layer.maps[k]}${place}: `,
      output(value, "value", 7))];
    let total = NaN;
    if (block.kind === "conv") total = showConvolution(parts, block, at, k, i, j);
    else if (block.kind === "max") total = showMaximum(parts, block, at, p);
    else if (block.kind === "mean") total = showWeighted(parts, block, at, p);
    else {
      total = numbers(block.numbers, "f8")[at];
      parts.push(line(block.from[k], "", total, "sum"));
    }
    if (layer.steps) {
      for (const step of layer.steps) {
        const other = step.other === null ? "" : `, u = ${shown(numbers(step.other, "f8")[at])}`;
        total = numbers(step.results, "f8")[at];
        parts.push(line(`${step.word}: `, `${step.formulas[k].replaceAll("-", "−")}${other}`, total, "step"));
      }
      const rest = line("together, in float64", "", total, "total");
      rest.classList.add("total");
      parts.push(rest, make("p", { class: "note" },
        `The program's own float32 number is ${shown(value, 9)}: ` +
        `${shown(Math.abs(value - total), 2)} away, by rounding.`));
    } else {
      parts.push(make("p", { class: "note" }, "What follows is not a function of one element."));
    }
    element("terms").replaceChildren(...parts);
  }

  /** @param {string} name @param {string} formula @param {number} value @param {string} role */
  function line(name, formula, value, role) {
    const words = make("span", {}, name);
    if (formula) words.append(make("code", {}, formula));
    return make("div", { class: "line" }, words, output(value, role));
  }

  /** In brackets if it has a minus. @param {number} value */
  function factor(value) {
    return value < 0 ? `(${shown(value)})` : shown(value);
  }

  /**
   * A table of numbers on their colours, with two decimals each if it is large.
   * @param {number} rows @param {number} cols
   * @param {(a: number, b: number) => { value: number, out?: boolean, win?: boolean }} cell
   */
  function grid(rows, cols, cell) {
    let most = 0;
    for (let n = 0; n < rows * cols; n++) {
      const value = cell(Math.floor(n / cols), n % cols).value;
      if (!Number.isNaN(value)) most = Math.max(most, Math.abs(value));
    }
    const large = rows * cols > 25;
    const table = make("table", { class: large ? "window large" : "window" });
    for (let a = 0; a < rows; a++) {
      const row = make("tr");
      for (let b = 0; b < cols; b++) {
        const { value, out, win } = cell(a, b);
        const short = large ? value.toFixed(2).replace("-", "−") : shown(value, 2);
        const td = make("td", {}, out ? (Number.isNaN(value) ? "–" : "0") : short);
        td.title = out ? "outside the map" : shown(value, 9);
        if (out) td.classList.add("out");
        if (win) td.classList.add("win");
        const [red, green, blue] = colour(0.5 + (most ? 0.3 * value / most : 0), SIGNED);
        td.style.background = `rgb(${red},${green},${blue})`;
        row.append(td);
      }
      table.append(row);
    }
    return table;
  }

  /** Which number of maps in a row a dense layer reads. @param {any} block @param {number} channel */
  function channelName(block, channel) {
    const [, h, w] = block.flattened || [0, 1, 1];
    if (h * w === 1) return `channel ${channel}`;
    const [row, col] = [Math.floor((channel % (h * w)) / w), channel % w];
    return `map ${Math.floor(channel / (h * w))}, row ${row}, column ${col}`;
  }

  /**
   * The convolution's sum at row i, column j of its own output.
   * @param {Node[]} parts @param {any} block @param {number} at @param {number} k
   * @param {number} i @param {number} j
   */
  function showConvolution(parts, block, at, k, i, j) {
    const [kh, kw] = block.kernel;
    const channels = block.channels[k];
    const inputs = numbers(block.inputs, "f4");
    const weights = numbers(block.weights, "f4");
    const taps = kh * kw;
    const plain = taps === 1;
    const outside = (/** @type {number} */ a, /** @type {number} */ b) => {
      const row = i * block.stride[0] - block.begin[0] + a * block.dilation[0];
      const col = j * block.stride[1] - block.begin[1] + b * block.dilation[1];
      return row < 0 || col < 0 || row >= block.size[0] || col >= block.size[1];
    };
    parts.push(make("p", {}, plain
      ? `Weighted channels of ${block.source}: value × weight.`
      : `Window of ${block.source} × kernel, channel by channel:`));
    let total = 0;
    channels.forEach((/** @type {number} */ channel, /** @type {number} */ t) => {
      const x = (at * channels.length + t) * taps;
      const w = (k * channels.length + t) * taps;
      let sum = 0;
      for (let n = 0; n < taps; n++) sum += inputs[x + n] * weights[w + n];
      total += sum;
      if (plain) {
        const formula = `${factor(inputs[x])} × ${factor(weights[w])}`;
        parts.push(line(`${channelName(block, channel)}: `, formula, sum, "term"));
        return;
      }
      const window = grid(kh, kw, (a, b) => ({ value: inputs[x + a * kw + b], out: outside(a, b) }));
      const kernel = grid(kh, kw, (a, b) => ({ value: weights[w + a * kw + b] }));
      parts.push(make("div", { class: "scroll" }, make("div", { class: "term" },
        make("span", {}, `channel ${channel}`), window, make("span", {}, "×", kernel),
        make("span", {}, "=", output(sum, "term")))));
    });
    if (block.others > 0) {
      const rest = numbers(block.rest, "f8")[at];
      total += rest;
      parts.push(line(`the other ${block.others} channels together`, "", rest, "term"));
    }
    parts.push(line("sum", "", total, "sum"));
    return total;
  }

  /** @param {Node[]} parts @param {any} block @param {number} at @param {number} p */
  function showMaximum(parts, block, at, p) {
    const [h, w] = block.window;
    const inputs = numbers(block.inputs, "f4");
    let best = -1;
    for (let n = 0; n < h * w; n++) {
      const value = inputs[at * h * w + n];
      if (!Number.isNaN(value) && (best < 0 || value > inputs[at * h * w + best])) best = n;
    }
    const [top, left] = block.first[p];
    const row = top + Math.floor(best / w) * block.step[0];
    const col = left + (best % w) * block.step[1];
    const table = grid(h, w, (a, b) => {
      const value = inputs[at * h * w + a * w + b];
      return { value, out: Number.isNaN(value), win: a * w + b === best };
    });
    parts.push(make("p", {}, `Window of the same map of ${block.source}, from row ${top}, ` +
      `column ${left}; the winner stands at row ${row}, column ${col}:`),
    make("div", { class: "scroll" }, table));
    const value = inputs[at * h * w + best];
    parts.push(line("largest", "", value, "sum"));
    return value;
  }

  /** @param {Node[]} parts @param {any} block @param {number} at @param {number} p */
  function showWeighted(parts, block, at, p) {
    const [h, w] = block.window;
    const inputs = numbers(block.inputs, "f4");
    const factors = numbers(block.factors, "f8");
    let total = 0;
    let alike = true;
    for (let n = 0; n < h * w; n++) {
      const value = inputs[at * h * w + n];
      if (Number.isNaN(value)) continue;
      total += value * factors[p * h * w + n];
      alike = alike && factors[p * h * w + n] === factors[p * h * w];
    }
    const table = grid(h, w, (a, b) => {
      const value = inputs[at * h * w + a * w + b];
      return { value, out: Number.isNaN(value) };
    });
    const [top, left] = block.first[p];
    parts.push(make("p", {}, `Window of the same map of ${block.source}, from row ${top}, ` +
      `column ${left}:`), make("div", { class: "scroll" }, table));
    if (alike) parts.push(line("sum of the window", `, each × ${shown(factors[p * h * w])}`, total, "sum"));
    else {
      parts.push(make("p", {}, "Each times its weight:"), make("div", { class: "scroll" },
        grid(h, w, (a, b) => ({ value: factors[p * h * w + a * w + b] }))));
      parts.push(line("sum", "", total, "sum"));
    }
    return total;
  }

  // -------------------------------------------------------------- the two rows of pictures

  function showLevels() {
    /** @type {Map<string, number>} */
    const last = new Map();
    record.layers.forEach((/** @type {any} */ layer, /** @type {number} */ i) => {
      if (layer.maps && !isUnits(layer)) last.set(layer.shape.slice(1).join("×"), i);
    });
    for (const [size, i] of last) {
      const layer = record.layers[i];
      const small = /** @type {HTMLCanvasElement} */ (make("canvas"));
      drawMap(small, layer, 0);
      const field = layer.field ? `, each point sees ${layer.field.size.join("×")}` : "";
      const button = make("button", { type: "button" }, small,
        `${layer.title}, map ${layer.maps[0]}: ${size}${field}`);
      button.addEventListener("click", () => {
        chooseLayer(i);
        element("layer").scrollIntoView({ block: "nearest" });
      });
      element("levels").append(button);
    }
  }

  function showKernels() {
    if (!record.kernels) return;
    const [count, channels, kh, kw] = record.kernels.shape;
    const colours = channels === 3 ? 3 : 1;
    const weights = numbers(record.kernels.weights, "f4");
    const taps = kh * kw;
    for (let k = 0; k < count; k++) {
      let most = 0;
      for (let n = 0; n < colours * taps; n++) {
        most = Math.max(most, Math.abs(weights[k * colours * taps + n]));
      }
      const small = /** @type {HTMLCanvasElement} */ (make("canvas",
        { role: "img", "aria-label": `kernel ${k}`, title: `kernel ${k}, up to ±${shown(most, 3)}` }));
      draw(small, kh, kw, (i) => {
        const shares = [0, 1, 2].slice(0, colours).map((c) =>
          0.5 + (0.5 * weights[(k * colours + c) * taps + i]) / (most || 1));
        return colours === 3 ? shares.map((s) => 255 * s) : colour(shares[0], SIGNED);
      });
      element("kernelpictures").append(small);
    }
    const key = element("kernellegend");
    if (colours === 1) legend(key, { low: -1, high: 1, palette: SIGNED }, "times the largest weight of the kernel");
    else legend(key, { low: -1, high: 1, palette: [[0, 0, 0], [255, 255, 255]] },
      "for each of red, green and blue, times the largest weight of the kernel");
  }

  // -------------------------------------------------------------- what the reader does

  /** @param {HTMLElement[]} buttons @param {number} step */
  function moveFocus(buttons, step) {
    const open = buttons.filter((button) => button.offsetParent !== null);
    const at = open.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const next = open[at + step];
    if (at >= 0 && next) next.focus();
  }

  /** @param {string} selector @returns {HTMLElement[]} */
  function all(selector) {
    return [...document.querySelectorAll(selector)].map((e) => /** @type {HTMLElement} */ (e));
  }

  function listen() {
    for (const button of all("button.layer")) {
      button.addEventListener("click", () => chooseLayer(Number(button.dataset.layer)));
    }
    element("unfold").addEventListener("click", () => fold(true));
    element("fold").addEventListener("click", () => fold(false));
    element("tree").addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
      event.preventDefault();
      moveFocus(all("#tree summary, #tree button"), event.key === "ArrowDown" ? 1 : -1);
    });
    element("thumbs").addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      moveFocus(all("#thumbs button"), event.key === "ArrowRight" ? 1 : -1);
    });
    element("map").addEventListener("keydown", (event) => {
      const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1],
        ArrowRight: [0, 1] }[event.key] || [0, 0];
      if (!down && !right) return;
      event.preventDefault();
      choosePoint(chosen.row + down, chosen.col + right);
    });
    element("map").addEventListener("click", (event) => {
      const layer = record.layers[chosen.layer];
      const frame = element("map").getBoundingClientRect();
      const [h, w] = [layer.side[0] * layer.factor, layer.side[1] * layer.factor];
      const i = Math.floor(((event.clientY - frame.top) / frame.height) * h);
      const j = Math.floor(((event.clientX - frame.left) / frame.width) * w);
      choosePoint(nearest(layer.rows, i), nearest(layer.cols, j));
    });
    for (const button of all("#classes button")) {
      button.addEventListener("click", () => {
        chosen.class = Number(button.dataset.class);
        for (const other of all("#classes button")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
        showHeat();
      });
    }
    element("views").addEventListener("change", (event) => {
      chosen.view = /** @type {HTMLInputElement} */ (event.target).value;
      showHeat();
    });
  }

  /** @param {boolean} open */
  function fold(open) {
    for (const stage of document.querySelectorAll("details")) stage.open = open;
  }

  drawPicture();
  showLevels();
  showKernels();
  listen();
  const first = record.layers.findIndex((/** @type {any} */ layer) => layer.maps);
  if (first >= 0) chooseLayer(first);
})();
