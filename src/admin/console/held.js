// Held and dead events: a tab per reason, groups of one kind, a search, pages, and actions.

import { mayChange } from "./access.js";
import { ACTIONS, act } from "./act.js";
import { read } from "./api.js";
import { openDetail, setUpDetail } from "./detail.js";
import { make, mark, place, say } from "./dom.js";
import { count, counted, time } from "./format.js";
import { Rows } from "./rows.js";

/** The tabs: where their events come from, what they are, and what can be done. */
const TABS = {
  retry: { name: "Retrying", path: "events", kind: "events", says: "Kafka refused them; each is tried again, and its key waits.", actions: ["retry", "skip"] },
  topic: { name: "Waiting for topic", path: "events", kind: "events", says: "Their topic takes no records now: it is missing, denied or paused.", actions: ["retry", "skip"] },
  parked: { name: "Behind another", path: "events", kind: "events", says: "They wait behind an event of their key, to keep the order.", actions: ["skip"] },
  scheduled: { name: "Scheduled", path: "events", kind: "events", says: "They are not due yet.", actions: ["retry", "skip"] },
  dead: { name: "Dead letters", path: "dlq", kind: "dead", says: "They were given up. Their keys went on.", actions: ["redrive", "discard"] },
  keys: { name: "Blocked keys", path: "keys", kind: "keys", says: "Keys that wait for one of their events.", actions: ["unblock"] },
};

const PAGE = 50;
/** So many blocked keys are counted. */
const KEYS = 200;
/** Groups that are shown; the rest is found by searching. */
const GROUPS = 6;
/** Lists are read anew so often, and whenever the relay tells of another number. */
const STALE_MS = 5_000;

const view = { tab: "retry", search: "", since: "", topic: "", error: "", before: [], after: null };
let groups = [];
let rows = null;
let readAt = 0;
let told = "";
let asked = 0;
let chosen = false;

const reload = () => { readAt = 0; };

export function setUpHeld() {
  rows = new Rows(place("rows"), { open: (event) => openDetail(event.event_id), picked: showBulk });
  setUpDetail(TABS);
  const names = Object.keys(TABS);
  place("tabs").replaceChildren(...names.map((name) => make(
    "button",
    { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", "aria-label": TABS[name].name, onclick: () => choose(name, true) },
    TABS[name].name,
    make("span", { class: "number" }),
  )));
  place("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = names[(names.indexOf(view.tab) + step + names.length) % names.length];
    choose(next, true);
    place(`tab-${next}`).focus();
  });
  const form = place("search");
  let waits = null;
  const search = () => {
    const { search: text, since } = Object.fromEntries(new FormData(form));
    if (text.trim() !== view.search || since !== view.since) change({ search: text.trim(), since });
  };
  form.addEventListener("input", () => {
    clearTimeout(waits);
    waits = setTimeout(search, 250);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
  place("page-first").addEventListener("click", () => turnTo([], null));
  place("page-next").addEventListener("click", ({ currentTarget }) => turnTo([...view.before, view.after], Number(currentTarget.dataset.after)));
  showTabs();
}

function choose(tab, byHand) {
  chosen ||= byHand;
  if (tab === view.tab) return;
  // What is listed is of another tab until the list is here.
  rows.show(TABS[tab].kind, [], mayChange());
  place("empty").hidden = true;
  place("pager").hidden = true;
  say(place("found"), "Looking…");
  change({ tab, topic: "", error: "" });
  showTabs();
  showGroups();
}

function change(to) {
  Object.assign(view, to, { before: [], after: null });
  rows.selected.clear();
  refresh();
}

function turnTo(before, after) {
  Object.assign(view, { before, after });
  rows.selected.clear();
  refresh();
}

/** Called with each status: reads the lists again if it is time. Null for at once. */
export function refreshHeld(status) {
  if (status === null) reload();
  const now = status === null ? told : JSON.stringify([status.held, status.blocked_keys, status.state]);
  if (now === told && Date.now() - readAt < STALE_MS) return;
  told = now;
  refresh();
}

/** What is meant by what is set, as conditions of `/api`. */
function conditions() {
  const { tab, search, since, topic, error } = view;
  const reason = tab === "keys" ? "" : tab;
  return Object.fromEntries(Object.entries({ reason, search, since, topic, error }).filter(([, value]) => value !== ""));
}

async function refresh() {
  readAt = Date.now();
  const turn = ++asked;
  const { path, kind } = TABS[view.tab];
  const set = { ...conditions(), limit: PAGE, after: view.after };
  try {
    const [events, dead, keys, list] = await Promise.all([
      read("events", { grouped: true }),
      read("dlq", { grouped: true }),
      read("keys", { limit: KEYS }),
      read(path, set),
    ]);
    if (turn !== asked) return;
    groups = [...events, ...dead];
    showCounts(keys.length);
    showGroups();
    rows.show(kind, list, mayChange());
    showFound(list);
  } catch (error) {
    if (turn !== asked) return;
    // A relay that is gone says so at the top.
    say(place("found"), error.remedy === undefined ? "" : `The list cannot be read: ${error.message}`);
  }
}

function showTabs() {
  for (const [name] of Object.entries(TABS)) {
    const tab = place(`tab-${name}`);
    mark(tab, "aria-selected", name === view.tab);
    mark(tab, "tabindex", name === view.tab ? "0" : "-1");
  }
  mark(place("panel"), "aria-labelledby", `tab-${view.tab}`);
  say(place("tab-says"), TABS[view.tab].says);
}

const sum = (name) => groups.filter(({ reason }) => reason === name).reduce((all, group) => all + group.count, 0);

function showCounts(keys) {
  for (const name of Object.keys(TABS)) {
    const number = name === "keys" ? keys : sum(name);
    const words = name === "keys" && keys === KEYS ? `${KEYS} or more` : count(number);
    const tab = place(`tab-${name}`);
    say(tab.querySelector(".number"), words);
    mark(tab, "aria-label", `${TABS[name].name}: ${words}`);
    mark(tab, "data-some", number > 0);
  }
  // Who comes to look sees first what there is.
  if (!chosen) {
    chosen = true;
    const first = Object.keys(TABS).find((name) => place(`tab-${name}`).dataset.some === "true");
    if (first && first !== view.tab) choose(first, false);
  }
  const topics = [...new Set(groups.map(({ topic }) => topic).filter(Boolean))];
  place("topics-known").replaceChildren(...topics.map((topic) => make("option", { value: topic })));
}

function showGroups() {
  const here = groups.filter(({ reason }) => reason === view.tab);
  const isSet = ({ topic, error_code: code }) => topic === (view.topic || null) && code === (view.error || null);
  const seen = here.slice(0, GROUPS);
  place("groups").replaceChildren(...(here.length < 2 && !view.topic && !view.error ? [] : seen).map((group) => {
    const pressed = isSet(group);
    const button = make(
      "button",
      {
        type: "button",
        "aria-pressed": pressed,
        title: group.error,
        onclick: () => change(pressed ? { topic: "", error: "" } : { topic: group.topic ?? "", error: group.error_code ?? "" }),
      },
      make("strong", {}, count(group.count)),
      make("span", { class: "what" }, [group.error_code, group.topic].filter(Boolean).join(" · ") || "without a topic"),
      make("span", { class: "says" }, "oldest ", time(group.oldest, true)),
    );
    return make("li", {}, button);
  }));
  if (here.length > GROUPS) place("groups").append(make("li", { class: "says" }, `and ${counted(here.length - GROUPS, "group")} more`));
}

function showFound(list) {
  const isNarrowed = view.search !== "" || view.since !== "" || view.topic !== "" || view.error !== "";
  const empty = isNarrowed ? "Nothing like that is held." : "Nothing. That is how it should be.";
  place("empty").hidden = list.length > 0;
  say(place("empty"), list.length === 0 && view.after === null ? empty : "That was the last page.");
  const word = view.tab === "keys" ? "key" : "event";
  const page = view.before.length + 1;
  const pages = page > 1 || list.length === PAGE;
  say(place("found"), list.length === 0 ? "" : `${counted(list.length, word)}${pages ? ` on page ${page}` : ""}${isNarrowed ? " found" : ""}`);
  place("pager").hidden = !pages;
  place("page-first").disabled = page === 1;
  place("page-next").disabled = list.length < PAGE;
  place("page-next").dataset.after = list.at(-1)?.ordinal ?? "";
}

/** The actions: on what is picked, else on everything that is listed, on all pages. */
function showBulk(selected) {
  const { actions } = TABS[view.tab];
  const word = view.tab === "keys" ? "key" : "event";
  if (!mayChange() || rows.rows.size === 0) {
    place("bulk").replaceChildren(...(rows.rows.size === 0 ? [] : [make("span", { class: "says" }, "Read-only: unlock to act on events.")]));
    return;
  }
  const some = selected.size > 0;
  const what = some ? counted(selected.size, word) : "all";
  const had = place("bulk").contains(document.activeElement) && document.activeElement.dataset.action;
  place("bulk").replaceChildren(...actions.map((name) => {
    const label = `${ACTIONS[name].name} ${what}…`;
    return make("button", { type: "button", "data-action": name, class: ACTIONS[name].danger ? "danger" : null, onclick: () => start(name) }, label);
  }));
  if (had) place("bulk").querySelector(`[data-action="${had}"]`)?.focus();
}

function start(name) {
  const ids = [...rows.selected];
  const set = conditions();
  const meant = ids.length > 0 ? { ids } : Object.keys(set).length > 0 ? set : { all: true };
  const what = ids.length > 0 ? "what is picked" : "everything that is listed";
  act(name, meant, `${ACTIONS[name].name} ${what}?`);
}
