// A chart: axes, a line for each curve, marks of events, and a cursor whose readings stand below.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 52, right: 14, top: 14, bottom: 26 };
const EDGE = 6;  // dots at the ends of the axes are whole
const NUM_COLOURS = 8, DASHES = ["", "7 3", "2 3", "9 3 2 3"], PIXELS_PER_DOT = 20;

function svg(name, attributes = {}, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function html(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

const inWords = (step) => step.toLocaleString("en-US");
const colourOf = (run) => `run-${run % NUM_COLOURS}`;
// Runs beyond the colours differ by their dashes.
const dashOf = (run) => DASHES[Math.floor(run / NUM_COLOURS) % DASHES.length];

function swatch(run) {
  const line = svg("line", { x1: 0, y1: 5, x2: 22, y2: 5, class: `line ${colourOf(run)}` });
  if (dashOf(run)) line.setAttribute("stroke-dasharray", dashOf(run));
  return svg("svg", { width: 22, height: 10, "aria-hidden": "true" }, line);
}

class Chart {
  // `view` is shared by all charts: what is shown, and how.
  constructor(figure, described, runs, view, moveCursor) {
    Object.assign(this, { figure, described, runs, view, moveCursor });
    this.curves = described.curves.map(decode);
    this.plot = html("div", {
      class: "plot", tabindex: "0", role: "slider", "aria-orientation": "horizontal",
      "aria-label": `${described.title}: arrow keys move through the steps`,
    });
    this.readings = html("table", { class: "readings" });
    figure.append(this.plot, this.readings);
    this.width = 0;
  }

  get shown() {
    return this.curves.filter((curve) => !this.view.hidden.has(curve.run));
  }

  get height() {
    return this.figure.classList.contains("first") ? 300 : 200;
  }

  draw() {
    this.width = Math.floor(this.plot.clientWidth);
    if (!this.width) return;  // in a folded section
    const { left, right, top, bottom } = MARGIN;
    const inner = { width: this.width - left - right, height: this.height - top - bottom };
    this.smoothed = new Map(this.shown.map((curve) => [curve, this.smooth(curve)]));
    this.x = makeScale(this.view.range, [0, inner.width], false);
    this.isLogarithmic = this.view.isLogarithmic && this.values().some((value) => value > 0);
    this.y = makeScale(this.bounds(), [inner.height, 0], this.isLogarithmic);
    this.stops = null;
    // A nested svg cuts off what lies outside of it.
    const size = { width: inner.width + 2 * EDGE, height: inner.height + 2 * EDGE };
    const viewBox = `${-EDGE} ${-EDGE} ${size.width} ${size.height}`;
    const inside = svg("svg", { x: left - EDGE, y: top - EDGE, ...size, viewBox, class: "inside" });
    inside.append(...this.marks(inner.height), ...this.shown.flatMap((curve) => this.lines(curve)));
    const transform = `translate(${left} ${top})`, axes = svg("g", { transform }, ...this.grid(inner));
    this.cursor = svg("g", { transform });
    const whole = { width: this.width, height: this.height, "aria-hidden": "true" };
    this.plot.replaceChildren(svg("svg", whole, axes, inside, this.cursor));
    this.showCursor();
  }

  smooth(curve) {
    return curve.heldOut ? curve.points : smooth(curve.means, this.view.smoothing);
  }

  values() {
    const [from, to] = this.view.range;
    const found = [];
    for (const { points } of this.shown) {
      const end = placeOf(points.x, to + 1);
      for (let i = placeOf(points.x, from); i < end; i++) if (points.y[i] !== null) found.push(points.y[i]);
    }
    return found;
  }

  // The least and greatest value, with some room around them.
  bounds() {
    let low = Infinity, high = -Infinity;
    for (const value of this.values()) {
      if (this.isLogarithmic && value <= 0) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (low > high) return this.isLogarithmic ? [1, 10] : [0, 1];
    if (this.isLogarithmic) {
      const room = low === high ? 1.5 : (high / low) ** 0.05;
      return [Math.max(low / room, Number.MIN_VALUE), high * room];
    }
    const room = low === high ? Math.abs(low) / 10 || 1 : (high - low) * 0.05;
    // A quantity that is never negative has no axis below zero.
    return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
  }

  grid({ width, height }) {
    const made = [];
    for (const tick of ticksOf(this.y, Math.max(3, height / 34))) {
      const y = Math.round(this.y.at(tick)) + 0.5;
      if (y < -1 || y > height + 1) continue;
      made.push(svg("line", { x1: 0, x2: width, y1: y, y2: y, class: "grid" }));
      made.push(svg("text", { x: -8, y: y + 4, "text-anchor": "end" }, this.tickLabel(tick)));
    }
    for (const tick of ticksOf(this.x, Math.max(2, width / 65)).filter(Number.isInteger)) {
      const x = Math.round(this.x.at(tick)) + 0.5;
      made.push(svg("line", { x1: x, x2: x, y1: height, y2: height + 4, class: "axis" }));
      made.push(svg("text", { x, y: height + 18, "text-anchor": "middle" }, shortNumber(tick)));
    }
    made.push(svg("text", { x: -12, y: height + 18, "text-anchor": "end" }, "step"));
    made.push(svg("line", { x1: 0, x2: width, y1: height + 0.5, y2: height + 0.5, class: "axis" }));
    return made;
  }

  tickLabel(value) {
    return this.described.unit === "%" ? `${shortNumber(100 * value)}%` : shortNumber(value);
  }

  // A line that is smoothed, or of means, lies over all values, fainter.
  lines(curve) {
    const smoothed = this.smoothed.get(curve);
    const isAll = smoothed.y === curve.points.y;
    if (isAll) return this.line(curve, smoothed, curve.heldOut ? "line held-out" : "line");
    return [...this.allValues(curve), ...this.line(curve, smoothed, "line")];
  }

  isDrawn(value) {
    return value !== undefined && value !== null && (!this.isLogarithmic || value > 0);
  }

  line(curve, { x, y }, kind) {
    const width = this.x.at(this.x.high), places = visiblePlaces({ x, y }, this.view.range, width);
    const commands = [], dots = [], every = Math.ceil((places.length * PIXELS_PER_DOT) / width);
    places.forEach((place, number) => {
      if (!this.isDrawn(y[place])) return;
      const begins = !this.isDrawn(y[places[number - 1]]), ends = !this.isDrawn(y[places[number + 1]]);
      const at = `${this.x.at(x[place]).toFixed(1)} ${this.y.at(y[place]).toFixed(1)}`;
      commands.push((begins ? "M" : "L") + at);
      if ((begins && ends) || (curve.heldOut && number % every === 0)) dots.push(at.split(" "));
    });
    const path = svg("path", { d: commands.join(""), class: `${kind} ${colourOf(curve.run)}` });
    if (dashOf(curve.run)) path.setAttribute("stroke-dasharray", dashOf(curve.run));
    const drawn = { r: curve.heldOut ? 3.5 : 2, class: `dot ${colourOf(curve.run)}` };
    return [path, ...dots.map(([cx, cy]) => svg("circle", { cx, cy, ...drawn }))];
  }

  // A thin line or, where there is more than a pixel can show, the area between the least and the greatest.
  allValues(curve) {
    const { x, y } = curve.points, width = this.x.at(this.x.high);
    const areas = areasOf(curve.points, this.view.range, width, (value) => this.isDrawn(value));
    if (!areas) return this.line(curve, { x, y }, "line raw");
    const at = (step, value) => `${this.x.at(step).toFixed(1)} ${this.y.at(value).toFixed(1)}`;
    const drawn = areas.map((area) => {
      const above = area.map(({ step, high }) => at(step, high));
      const below = area.map(({ step, low }) => at(step, low)).reverse();
      return `M${[...above, ...below].join("L")}Z`;
    });
    return [svg("path", { d: drawn.join(""), class: `area ${colourOf(curve.run)}` })];
  }

  // A triangle at the top for steps that were skipped; a dashed line too for a rollback.
  marks(height) {
    const made = [];
    this.runs.forEach((run, number) => {
      if (this.view.hidden.has(number)) return;
      for (const [kind, step, text] of run.events) {
        const x = this.x.at(step), colour = colourOf(number);
        if (kind === "rollback") {
          made.push(svg("line", { x1: x, x2: x, y1: 0, y2: height, class: `mark ${colour}` }));
        }
        const shape = svg("path", { d: `M${x - 5} 0h10l-5 8z`, class: `event ${kind} ${colour}` });
        shape.append(svg("title", {}, `${run.name}, ${text}`));
        made.push(shape);
      }
    });
    return made;
  }

  // The steps at which something shown has a value: the places of the cursor.
  cursorStops() {
    if (!this.stops) {
      const [from, to] = this.view.range, all = new Set();
      for (const { points } of this.shown) {
        for (const step of points.x) if (step >= from && step <= to) all.add(step);
      }
      this.stops = [...all].sort((a, b) => a - b);
    }
    return this.stops;
  }

  showCursor() {
    if (!this.width) return;
    const step = this.view.cursor, [from, to] = this.view.range, marks = [];
    if (step !== null && step >= from && step <= to) {
      const x = this.x.at(step);
      marks.push(svg("line", { x1: x, x2: x, y1: 0, y2: this.y.at(this.y.low), class: "cursor" }));
      for (const curve of this.shown) {
        const point = this.pointAt(curve, this.smoothed.get(curve));
        if (!point || (this.isLogarithmic && point.value <= 0)) continue;
        const place = { cx: this.x.at(point.step), cy: this.y.at(point.value), r: 4.5 };
        marks.push(svg("circle", { ...place, class: `dot at-cursor ${colourOf(curve.run)}` }));
      }
    }
    this.cursor.replaceChildren(...marks);
    this.showReadings();
  }

  // The point next to the cursor, or the last one with a value; none where the cursor is beyond the curve.
  pointAt(curve, { x, y }) {
    const { cursor } = this.view;
    if (cursor === null) {
      let last = y.length - 1;
      while (last >= 0 && y[last] === null) last--;
      return last < 0 ? null : { step: x[last], value: y[last] };
    }
    if (cursor > curve.points.x[curve.points.x.length - 1] || cursor < curve.points.x[0]) return null;
    const place = nearest(x, cursor);
    return { step: x[place], value: y[place] };
  }

  // Whether the line is not made of the values themselves, but smoothed, or of means.
  isMean(curve) {
    return this.smoothed.get(curve).y !== curve.points.y;
  }

  // What a curve says at the cursor; a mean with the value at that very step, if it is kept.
  readingOf(curve) {
    const point = curve && this.pointAt(curve, this.smoothed.get(curve)), { cursor } = this.view;
    if (!point) return { text: "–" };
    const text = reading(point.value, this.described.unit);
    if (cursor === null) return { text };
    if (curve.heldOut) return { text, before: point.step === cursor ? "" : `at ${inWords(point.step)} ` };
    const place = placeOf(curve.points.x, cursor), isKept = curve.points.x[place] === cursor;
    const value = reading(curve.points.y[place], this.described.unit);
    return { text, after: this.isMean(curve) && isKept ? ` (${value})` : "" };
  }

  showReadings() {
    const { cursor, range } = this.view, at = cursor === null ? "last" : `step ${inWords(cursor)}`;
    const kinds = [false, true].filter((heldOut) => this.curves.some((curve) => curve.heldOut === heldOut));
    const isMean = this.shown.some((curve) => this.isMean(curve));
    const training = isMean ? (this.view.smoothing ? "smoothed" : "mean") : "training";
    const titles = kinds.map((heldOut) => (heldOut ? "● held out" : `— ${training}`));
    const head = [at, ...titles].map((title) => html("th", { scope: "col" }, title));
    const spoken = [at], rows = [];
    this.runs.forEach((run, number) => {
      const own = this.shown.filter((curve) => curve.run === number);
      if (!own.length) return;
      const found = kinds.map((heldOut) => this.readingOf(own.find((curve) => curve.heldOut === heldOut)));
      const cells = found.map(({ before = "", text, after = "" }) => {
        return html("td", {}, html("small", {}, before), text, html("small", {}, after));
      });
      rows.push(html("tr", {}, html("th", { scope: "row" }, swatch(number), ` ${run.name}`), ...cells));
      const said = found.map(({ text, after = "" }, i) => {
        return `${kinds[i] ? "held out" : "training"} ${text}${after}`;
      });
      spoken.push(`${run.name}: ${said.join(", ")}`);
    });
    this.readings.replaceChildren(
      html("thead", {}, html("tr", {}, ...head)), html("tbody", {}, ...rows));
    const [min, max] = range, now = cursor === null ? max : cursor;
    const value = { min, max, now, text: spoken.join("; ") };
    for (const [name, said] of Object.entries(value)) this.plot.setAttribute(`aria-value${name}`, said);
  }
}
