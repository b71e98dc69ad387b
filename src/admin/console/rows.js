// The table of held events, dead letters or blocked keys: one row each, kept while it is there.

import { make, mark, say } from "./dom.js";
import { UNKNOWN, count, counted, time } from "./format.js";

const HEADS = {
  events: ["Event", "Key", "Topic", "Error", "Tries", "Next try", "Held"],
  dead: ["Event", "Key", "Topic", "Error", "Tries", "Given up", "Held"],
  keys: ["Key", "Topic", "Waits for", "Error", "Behind it", "Next try", "Held"],
};

/** What is asked of an event and not done yet. */
const asked = (event) => event.request && make("span", { class: "asked" }, `${event.request} is filed`);

const tries = ({ attempts, max_attempts: most }) => (most === null ? count(attempts) : `${count(attempts)} of ${count(most)}`);

const error = (event) => [
  event.error_code && make("span", { class: "code" }, event.error_code, " "),
  make("span", { class: "message" }, event.last_error ?? (event.error_code ? "" : UNKNOWN)),
];

/** When it is tried again; what is due goes as soon as it can. */
const isDue = ({ due_at: due }) => Date.parse(due ?? "") <= Date.now();
const next = (event) => (isDue(event) ? "now" : time(event.due_at, true));

/** The cells of a row: class, label on a narrow screen, and what is in it. */
function cells(kind, event, open) {
  const opener = (text) => make("button", { type: "button", class: "opener", onclick: open }, text);
  const id = make("span", { class: "id" }, event.event_id);
  const key = event.key ?? UNKNOWN;
  const topic = event.topic ?? UNKNOWN;
  const [heads, rest] = [HEADS[kind], [
    ["error", error(event)],
    ["tries", [kind === "keys" ? counted(event.waiting, "event") : tries(event)]],
    ["due", [kind === "dead" ? (event.attempts === 0 ? "at once" : "after its tries") : next(event)]],
    ["since", [time(event.since, true)]],
  ]];
  const type = event.event_type ?? event.event_id;
  const first = kind === "keys"
    ? [["key", [opener(key)]], ["topic", [topic]], ["event", [make("span", {}, type), id, asked(event)]]]
    : [["event", [opener(type), id, asked(event)]], ["key", [key]], ["topic", [topic]]];
  return [...first, ...rest].map(([name, content], index) => [name, heads[index], content]);
}

export class Rows {
  /** `open` is called with the event of a row; `picked` whenever other rows are picked. */
  constructor(table, { open, picked }) {
    Object.assign(this, { table, open, picked, selected: new Set(), rows: new Map(), kind: null });
  }

  /** Shows these, and keeps the rows of those that were there: with focus and mark. */
  show(kind, events, mayPick) {
    if (this.kind !== kind || this.mayPick !== mayPick) this.start(kind, mayPick);
    const before = this.rows;
    this.rows = new Map();
    for (const event of events) {
      const said = JSON.stringify([event, isDue(event)]);
      let row = before.get(event.event_id);
      before.delete(event.event_id);
      if (!row) row = this.row(event);
      if (row.said !== said) this.fill(row, event, said);
      for (const moment of row.element.querySelectorAll("time")) {
        say(moment, time(moment.dateTime, true).textContent);
      }
      this.rows.set(event.event_id, row);
    }
    for (const [id, { element }] of before) {
      element.remove();
      this.selected.delete(id);
    }
    [...this.rows.values()].forEach(({ element }, index) => {
      const there = this.body.children[index];
      if (there !== element) this.body.insertBefore(element, there ?? null);
    });
    this.table.hidden = events.length === 0;
    this.tell();
  }

  start(kind, mayPick) {
    Object.assign(this, { kind, mayPick, rows: new Map() });
    this.selected.clear();
    this.all = make("input", { type: "checkbox", "aria-label": "Pick all on this page", onchange: () => this.pickAll() });
    const heads = HEADS[kind].map((head) => make("th", { role: "columnheader", scope: "col" }, head));
    if (mayPick) heads.unshift(make("th", { role: "columnheader", scope: "col", class: "pick" }, make("label", { class: "box" }, this.all)));
    this.body = make("tbody", { role: "rowgroup" });
    this.table.setAttribute("role", "table");
    this.table.replaceChildren(make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), this.body);
  }

  row(event) {
    return { element: make("tr", { role: "row", "data-id": event.event_id }), said: null };
  }

  fill(row, event, said) {
    const hadFocus = row.element.contains(document.activeElement) && document.activeElement.className;
    const filled = cells(this.kind, event, () => this.open(event)).map(([name, label, content]) => make(
      "td",
      { role: "cell", class: name, "data-label": label },
      ...content.filter(Boolean),
    ));
    if (this.mayPick) {
      row.box = make("input", { type: "checkbox", "aria-label": `Pick ${event.event_id}`, onchange: () => this.pick(event.event_id, row.box.checked) });
      row.box.checked = this.selected.has(event.event_id);
      filled.unshift(make("td", { role: "cell", class: "pick" }, make("label", { class: "box" }, row.box)));
    }
    row.element.replaceChildren(...filled);
    row.said = said;
    if (hadFocus === "opener") row.element.querySelector(".opener").focus();
    else if (hadFocus === "") row.box?.focus();
  }

  pick(id, isPicked) {
    if (isPicked) this.selected.add(id);
    else this.selected.delete(id);
    this.tell();
  }

  pickAll() {
    for (const [id, { box }] of this.rows) {
      box.checked = this.all.checked;
      if (box.checked) this.selected.add(id);
      else this.selected.delete(id);
    }
    this.tell();
  }

  tell() {
    const some = this.selected.size > 0;
    this.all.checked = some && this.selected.size === this.rows.size;
    this.all.indeterminate = some && this.selected.size < this.rows.size;
    for (const [id, { element }] of this.rows) mark(element, "data-picked", this.selected.has(id));
    this.picked(this.selected);
  }
}
