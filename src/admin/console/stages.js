// The stages that an event passes, and what else tells how the relay is.

import { make, mark, place, say } from "./dom.js";
import { UNKNOWN, bytes, bytesParts, count, counted, perSecond, span, spanParts } from "./format.js";

/** What each state means, and how serious it is. */
const STATES = {
  starting: ["busy", "connecting and checking"],
  catching_up: ["busy", "publishes what was there before it came"],
  streaming: ["good", "publishes events as they are committed"],
  paused: ["warn", "an operator has paused it"],
  standby: ["idle", "another relay has the place; this one waits"],
  stalled: ["bad", "nothing goes"],
  halted: ["bad", "it ended, and a person has to do something"],
  gone: ["bad", "the relay does not answer"],
  locked: ["idle", "the token is needed"],
};

export function showState(name) {
  const [tone, says] = STATES[name] ?? ["idle", ""];
  mark(place("state"), "data-tone", tone);
  say(place("state-name"), name === "gone" ? "no answer" : name.replace("_", " "));
  say(place("state-says"), says);
}

export function showError(error, state) {
  place("error").hidden = !error;
  mark(place("error"), "data-tone", state === "streaming" || state === "catching_up" ? "warn" : "bad");
  say(place("error-code"), error?.code ?? "");
  tell(place("error-message"), error?.message ?? "");
  tell(place("error-remedy"), error?.remedy ?? "");
}

/** Says a text in which commands stand between backticks. */
function tell(element, text) {
  if (element.dataset.told === text) return;
  element.dataset.told = text;
  element.replaceChildren(...text.split("`").map((part, index) => (index % 2 === 1 ? make("code", {}, part) : part)));
}

/** Each stage: its name, its figure with the unit, and two lines about it. */
const STAGES = [
  ["WAL", (s) => [...bytesParts(s.rates.wal_bytes), "/s"], () => "written by PostgreSQL", (s) => `${bytes(s.slot.lag_bytes)} not confirmed`],
  ["Decode", (s) => [perSecond(s.rates.read), "events", "/s"], () => "read from the slot", (s) => `${count(s.totals.read)} since it started`],
  ["In flight", (s) => [count(s.in_flight.events), s.in_flight.events === 1 ? "event" : "events", ""], (s) => `${bytes(s.in_flight.bytes)} not acknowledged`, (s) => `${perSecond(s.rates.published)}/s by Kafka`],
  ["Status", (s) => [perSecond(s.rates.settled), "events", "/s"], () => "settled in the database", (s) => `${count(s.totals.settled)} since it started`],
  ["Confirmed", (s) => [...bytesParts(s.rates.confirmed_bytes), "/s"], () => "WAL given back", (s) => s.slot.confirmed_lsn ?? UNKNOWN],
];

const WAL_WORDS = {
  reserved: ["good", "within its limits"],
  extended: ["good", "above max_wal_size, kept for it"],
  unreserved: ["bad", "about to lose its WAL"],
  lost: ["bad", "its WAL is gone"],
};

/** Each fact: its name, and its tone, value, unit and what it means. */
const FACTS = [
  ["Lag", (s) => [s.lag_seconds > 60 ? "warn" : "", ...spanParts(s.lag_seconds), `oldest commit not settled; ${bytes(s.slot.lag_bytes)} of WAL`]],
  ["Latency", latency],
  ["Slot", slot],
  ["WAL limit", limit],
  ["Blocked keys", (s) => [s.blocked_keys > 0 ? "warn" : "", count(s.blocked_keys), "", `${counted(heldNow(s), "event")} held, ${count(s.held.dead)} dead`]],
];

const heldNow = ({ held }) => held.retry + held.parked + held.scheduled + held.topic;

function latency({ latency: known }) {
  const median = spanParts(known?.p50_seconds);
  if (median[0] === UNKNOWN) return ["", ...median, "nothing was acknowledged just now"];
  return ["", ...median, `median; 99 % within ${span(known.p99_seconds)}`];
}

function slot({ slot: { name, active, wal_status: status } }) {
  const [tone, words] = WAL_WORDS[status] ?? ["", "not looked at yet"];
  const reader = active ? "read by a relay" : "nobody reads it";
  return [status && !active ? "warn" : tone, status ?? UNKNOWN, "", `${name}: ${words}; ${reader}`];
}

function limit({ slot: { safe_wal_bytes: safe, seconds_until_limit: seconds, wal_status: status } }) {
  if (!status) return ["", UNKNOWN, "", "not known yet"];
  if (safe === null || safe === undefined) return ["", "none", "", "max_slot_wal_keep_size is not set"];
  const left = `${bytes(Math.max(0, safe))} left`;
  if (seconds === null || seconds === undefined) return ["", ...bytesParts(Math.max(0, safe)), "left before the slot is in danger"];
  const tone = seconds < 3600 ? "bad" : seconds < 6 * 3600 ? "warn" : "";
  return [tone, ...spanParts(seconds), `at this rate; ${left}`];
}

let shown = null;

function figure() {
  const value = make("span", { class: "value" });
  const unit = make("span", { class: "unit" });
  return { value, unit, whole: make("span", { class: "figure" }, value, " ", unit) };
}

/** Makes the places once; later only their text changes. */
function build() {
  const stages = STAGES.map(([name]) => {
    const { value, unit, whole } = figure();
    const first = make("span", { class: "line" });
    const second = make("span", { class: "line" });
    const item = make("li", { class: "stage" }, make("span", { class: "name" }, name), whole, first, second);
    return { item, value, unit, first, second };
  });
  const facts = FACTS.map(([name]) => {
    const { value, unit, whole } = figure();
    const line = make("dd", { class: "line" });
    const item = make("div", { class: "fact" }, make("dt", {}, name), make("dd", {}, whole), line);
    return { item, value, unit, line };
  });
  place("stages").replaceChildren(...stages.map(({ item }) => item));
  place("facts").replaceChildren(...facts.map(({ item }) => item));
  return { stages, facts };
}

export function showStages(status) {
  shown ??= build();
  const flows = status.rates.read > 0 || status.rates.settled > 0 || status.in_flight.events > 0;
  mark(place("stages"), "data-flows", flows);
  STAGES.forEach(([, figureOf, first, second], index) => {
    const at = shown.stages[index];
    const [value, unit, per] = figureOf(status);
    say(at.value, value);
    say(at.unit, value === UNKNOWN ? "" : `${unit}${per}`);
    say(at.first, first(status));
    say(at.second, second(status));
  });
  FACTS.forEach(([, factOf], index) => {
    const at = shown.facts[index];
    const [tone, value, unit, line] = factOf(status);
    mark(at.item, "data-tone", tone || null);
    say(at.value, value);
    say(at.unit, unit);
    say(at.line, line);
  });
}
