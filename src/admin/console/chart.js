// A chart of the last minutes, drawn from samples that stay in this page.

import { draw, make, mark, say } from "./dom.js";
import { UNKNOWN, clockTime } from "./format.js";

/** What is shown, and what is kept: a sample per second, and never more. */
const KEPT = 330;
/** The widths of time that fit what there is, with the step and the unit of their axis. */
const WIDTHS = [
  { ms: 60_000, step: 15_000, unit: "s", per: 1_000 },
  { ms: 120_000, step: 30_000, unit: "s", per: 1_000 },
  { ms: 300_000, step: 60_000, unit: "min", per: 60_000 },
];
/** A longer silence is a gap in the line. */
const GAP_MS = 5_000;

const HEIGHT = 168;
const PAD = { top: 10, right: 8, bottom: 22, left: 58 };

/** Steps that people count in: the smallest that needs at most four of them. */
export function ticks(most) {
  if (!(most > 0)) return [0, 1];
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const steps = Math.max(1, Math.ceil(most / step - 1e-9));
  return Array.from({ length: steps + 1 }, (_, index) => index * step);
}

/** The samples of a series as a path: lines, broken where nothing is known. */
export function path(samples, name, x, y) {
  let text = "";
  let last = null;
  for (const sample of samples) {
    const value = sample[name];
    if (typeof value !== "number") {
      last = null;
      continue;
    }
    const isOn = last !== null && sample.at - last <= GAP_MS;
    text += `${isOn ? "L" : "M"}${x(sample.at).toFixed(1)} ${y(value).toFixed(1)}`;
    last = sample.at;
  }
  return text;
}

export class Chart {
  /** `series` are names of a sample's members with what they are; `write` makes text of a value. */
  constructor(figure, { title, unit, write, series }) {
    Object.assign(this, { title, write, series, samples: [], width: 0 });
    this.legend = series.map(([, words], index) => {
      const value = make("span", { class: "legend-value" }, UNKNOWN);
      const item = make("li", { "data-series": index }, make("span", { class: "swatch" }), words, " ", value);
      return { item, value };
    });
    this.when = make("span", { class: "when" });
    const caption = make(
      "figcaption",
      {},
      make("span", { class: "chart-title" }, make("strong", {}, title), " ", make("span", { class: "unit" }, unit), this.when),
      make("ul", { class: "legend" }, ...this.legend.map(({ item }) => item)),
    );
    this.grid = draw("g", { class: "grid" });
    this.lines = series.map((_, index) => draw("path", { class: "series", "data-series": index }));
    this.cursor = draw("line", { class: "cursor", y1: PAD.top, y2: HEIGHT - PAD.bottom, visibility: "hidden" });
    this.svg = draw("svg", { role: "img", height: HEIGHT }, this.grid, ...[...this.lines].reverse(), this.cursor);
    figure.replaceChildren(caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(([entry]) => {
      this.width = Math.floor(entry.contentRect.width);
      this.render();
    }).observe(figure);
  }

  add(at, values) {
    this.samples.push({ at, ...values });
    if (this.samples.length > KEPT) this.samples.shift();
    this.render();
  }

  render() {
    const { width, samples } = this;
    if (width < PAD.left + PAD.right + 20) return;
    const end = samples.at(-1)?.at ?? Date.now();
    const since = end - (samples[0]?.at ?? end);
    const time = WIDTHS.find(({ ms }) => since <= ms) ?? WIDTHS.at(-1);
    this.x = (at) => width - PAD.right - ((end - at) / time.ms) * (width - PAD.left - PAD.right);
    const seen = samples.filter(({ at }) => end - at <= time.ms);
    const values = seen.flatMap((sample) => this.series.map(([name]) => sample[name] ?? 0));
    const steps = ticks(Math.max(0, ...values));
    const y = (value) => HEIGHT - PAD.bottom - (value / steps.at(-1)) * (HEIGHT - PAD.top - PAD.bottom);
    mark(this.svg, "width", width);
    mark(this.svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawGrid(steps, y, end, time);
    this.series.forEach(([name], index) => mark(this.lines[index], "d", path(seen, name, this.x, y)));
    this.tell(this.pointed ?? samples.at(-1));
  }

  drawGrid(steps, y, end, time) {
    const { width } = this;
    const rows = steps.flatMap((step) => [
      draw("line", { x1: PAD.left, x2: width - PAD.right, y1: y(step), y2: y(step) }),
      draw("text", { x: PAD.left - 8, y: y(step) + 4, "text-anchor": "end" }, step === 0 ? "0" : this.write(step)),
    ]);
    const moments = [];
    for (let ago = 0; ago <= time.ms; ago += time.step) {
      const words = ago === 0 ? "now" : `−${ago / time.per} ${time.unit}`;
      const anchor = ago === 0 ? "end" : ago === time.ms ? "start" : "middle";
      moments.push(draw("text", { x: this.x(end - ago), y: HEIGHT - 5, "text-anchor": anchor }, words));
    }
    this.grid.replaceChildren(...rows, ...moments);
  }

  /** Shows the values of where somebody points. */
  point(event) {
    this.pointed = null;
    if (event && this.x && this.samples.length > 0) {
      const at = event.clientX - this.svg.getBoundingClientRect().left;
      const distance = (sample) => Math.abs(this.x(sample.at) - at);
      this.pointed = this.samples.reduce((best, each) => (distance(each) < distance(best) ? each : best));
    }
    this.tell(this.pointed ?? this.samples.at(-1));
  }

  tell(sample) {
    const isPointed = sample !== undefined && sample === this.pointed;
    mark(this.cursor, "visibility", isPointed ? "visible" : "hidden");
    if (isPointed) {
      mark(this.cursor, "x1", this.x(sample.at));
      mark(this.cursor, "x2", this.x(sample.at));
    }
    say(this.when, isPointed ? ` at ${clockTime(sample.at)}` : "");
    const written = this.series.map(([name]) => {
      const value = sample?.[name];
      return typeof value === "number" ? this.write(value) : UNKNOWN;
    });
    written.forEach((text, index) => say(this.legend[index].value, text));
    const words = this.series.map(([, words], index) => `${words}: ${written[index]}`);
    mark(this.svg, "aria-label", `${this.title} over the last minutes. Now: ${words.join(", ")}.`);
  }
}
