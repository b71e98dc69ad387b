// Everything about one event, in a sheet: its value only on demand, what was done with it, and actions.

import { mayChange } from "./access.js";
import { ACTIONS, act } from "./act.js";
import { read } from "./api.js";
import { make, place } from "./dom.js";
import { UNKNOWN, bytes, count, time } from "./format.js";

/** A longer value is cut in the page, not in Kafka. */
const VALUE_MAX = 100_000;

/** What can be done, by reason; with an event that blocks its key, also that. */
let tabs = {};
const blocks = ({ reason, key }) => key !== null && (reason === "retry" || reason === "topic");

export function setUpDetail(all) {
  tabs = all;
  const dialog = place("detail");
  // A press beside the sheet closes it.
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}

const address = (id) => `events/${encodeURIComponent(id)}`;

export async function openDetail(id) {
  const dialog = place("detail");
  const body = make("div", { class: "sheet-body" }, make("p", { role: "status" }, "Looking…"));
  dialog.replaceChildren(head("Event", id, dialog), body);
  dialog.showModal();
  try {
    const event = await read(address(id));
    dialog.replaceChildren(head(event.event_type ?? "Event", id, dialog), ...content(event, dialog));
  } catch (error) {
    body.replaceChildren(make("p", { class: "field-error", role: "alert" }, `${error.code ?? ""} ${error.message}`));
  }
}

function head(title, id, dialog) {
  return make(
    "header",
    { class: "sheet-head" },
    make("div", {}, make("h2", { id: "detail-title" }, title), make("p", { class: "id" }, id)),
    make("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×"),
  );
}

function content(event, dialog) {
  const parts = [];
  if (event.last_error) {
    parts.push(make("p", { class: "notice", "data-tone": "bad" }, make("strong", {}, event.error_code ?? ""), ` ${event.last_error}`));
  }
  parts.push(facts(event), value(event), headers(event.headers), history(event.audit));
  const body = make("div", { class: "sheet-body" }, ...parts);
  return mayChange() ? [body, actions(event, dialog)] : [body];
}

function facts(event) {
  const reason = tabs[event.reason]?.name ?? event.reason;
  const tries = `${count(event.attempts)}${event.max_attempts === null ? "" : ` of ${count(event.max_attempts)}`}${event.exhausted ? ", none is left" : ""}`;
  const known = [
    ["Held as", reason],
    ["Topic", event.topic],
    ["Key", event.key],
    ["Partition", event.partition],
    ["Tries", tries],
    ["Next try", event.reason === "dead" ? null : event.due_at && time(event.due_at)],
    ["Failed", event.failed_at && time(event.failed_at)],
    ["Held since", event.since && time(event.since)],
    ["Position", event.position],
    ["Filed", event.request],
  ];
  const pairs = known.filter(([, said]) => said !== null && said !== undefined && said !== "");
  return make("dl", { class: "pairs" }, ...pairs.flatMap(([name, said]) => [make("dt", {}, name), make("dd", {}, typeof said === "number" ? count(said) : said)]));
}

function value(event) {
  const section = make("section", {}, make("h3", {}, "Value"));
  if (event.value_bytes === null) {
    section.append(make("p", { class: "says" }, "There is none here; a scheduled event is read from its row when it is due."));
  } else if (!mayChange()) {
    section.append(make("p", { class: "says" }, `${bytes(event.value_bytes)}. Unlock to see it.`));
  } else {
    const button = make("button", { type: "button", onclick: () => showValue(event, section, button) }, `Show the value, ${bytes(event.value_bytes)}`);
    section.append(button);
  }
  return section;
}

async function showValue(event, section, button) {
  button.disabled = true;
  try {
    const { value: text, value_base64: base64 } = await read(address(event.event_id), { value: true });
    const whole = text ?? base64 ?? "";
    const pre = make("pre", { class: "payload", tabindex: "0", "aria-label": "Value" }, whole.slice(0, VALUE_MAX));
    const notes = [];
    if (base64 !== undefined) notes.push("It is not text; this is its base64.");
    if (whole.length > VALUE_MAX) notes.push(`Only its first ${count(VALUE_MAX)} characters are shown.`);
    button.replaceWith(pre, ...notes.map((note) => make("p", { class: "says" }, note)));
    pre.focus();
  } catch (error) {
    button.replaceWith(make("p", { class: "field-error", role: "alert" }, error.message));
  }
}

function headers(pairs) {
  const section = make("section", {}, make("h3", {}, "Headers"));
  if (!Array.isArray(pairs) || pairs.length === 0) section.append(make("p", { class: "says" }, "None."));
  else section.append(make("dl", { class: "pairs mono" }, ...pairs.flatMap(([name, said]) => [make("dt", {}, name), make("dd", {}, said ?? UNKNOWN)])));
  return section;
}

function history(audit) {
  const section = make("section", {}, make("h3", {}, "What was asked of it"));
  if (!Array.isArray(audit) || audit.length === 0) section.append(make("p", { class: "says" }, "Nothing yet."));
  else section.append(make("ol", { class: "history" }, ...audit.map(({ at, actor, action }) => make("li", {}, make("strong", {}, action), ` by ${actor}, `, time(at)))));
  return section;
}

function actions(event, dialog) {
  const names = [...(tabs[event.reason]?.actions ?? []), ...(blocks(event) ? ["unblock"] : [])];
  return make("footer", { class: "sheet-actions" }, ...names.map((name) => make(
    "button",
    {
      type: "button",
      class: ACTIONS[name].danger ? "danger" : "primary",
      "data-action": name,
      onclick: () => {
        dialog.close();
        act(name, { ids: [event.event_id] }, `${ACTIONS[name].name} ${event.event_type ?? event.event_id}?`);
      },
    },
    `${ACTIONS[name].name}…`,
  )));
}
