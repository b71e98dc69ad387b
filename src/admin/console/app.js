// The console: asks for the status once a second while somebody looks, and shows it.

import { setUpAccess, look } from "./access.js";
import { setUpPause, showPause } from "./act.js";
import { Refused, read } from "./api.js";
import { Chart } from "./chart.js";
import { place, say } from "./dom.js";
import { clockTime, fromNow, perSecond, span } from "./format.js";
import { refreshHeld, setUpHeld } from "./held.js";
import { showError, showStages, showState } from "./stages.js";

const EVERY = 1000;

const rates = new Chart(place("rate-chart"), {
  title: "Rate",
  unit: "events/s",
  write: perSecond,
  series: [["published", "Acknowledged by Kafka"], ["read", "Read from the WAL"]],
});
const latencies = new Chart(place("latency-chart"), {
  title: "Latency",
  unit: "commit to acknowledgement",
  write: span,
  series: [["p50", "Median"], ["p99", "99th percentile"]],
});

let timer = null;
let goneSince = null;
let asked = 0;

/** One look at the relay; the next follows while the page is seen. */
async function turn() {
  timer = null;
  const turnNumber = ++asked;
  try {
    const status = await read("status");
    if (turnNumber !== asked) return;
    if (goneSince !== null) await comeBack();
    show(status);
  } catch (error) {
    if (turnNumber !== asked) return;
    if (error instanceof Refused && error.status === 401) showLocked();
    else showGone(error);
  }
  if (!document.hidden && timer === null) timer = setTimeout(turn, EVERY);
}

function show(status) {
  place("content").hidden = false;
  document.body.dataset.gone = "false";
  say(place("relay"), status.relay);
  document.title = `${status.state.replace("_", " ")} · ${status.relay} · outboxd`;
  showState(status.state);
  showError(status.last_error, status.state);
  showStages(status);
  showPause(status);
  const now = Date.now();
  const { rates: rate, latency } = status;
  rates.add(now, { published: rate.published, read: rate.read });
  latencies.add(now, { p50: latency?.p50_seconds, p99: latency?.p99_seconds });
  say(place("freshness"), `as of ${clockTime(now)}`);
  refreshHeld(status);
}

/** What is on the page stays, marked as old. */
function showGone(error) {
  goneSince ??= Date.now();
  document.body.dataset.gone = "true";
  showState("gone");
  const message = error instanceof Refused
    ? error.message
    : `There has been no answer since ${clockTime(goneSince)}, ${fromNow(goneSince)}.`;
  showError({ code: "No answer", message, remedy: "What is shown is from before. This page asks again every second." });
}

/** Off loopback nothing is shown to those who do not know the token. */
function showLocked() {
  place("content").hidden = true;
  document.body.dataset.gone = "false";
  showState("locked");
  showError({ code: "Locked", message: "Off loopback the token is needed to read, too.", remedy: "" });
  look().catch(showGone);
}

async function comeBack() {
  goneSince = null;
  await look();
}

function again() {
  clearTimeout(timer);
  timer = null;
  if (document.hidden) return;
  turn();
}

setUpHeld();
setUpPause(again);
setUpAccess(() => {
  refreshHeld(null);
  again();
});
document.addEventListener("visibilitychange", again);
look().catch(showGone).finally(again);
