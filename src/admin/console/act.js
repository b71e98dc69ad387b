// Actions: first a dry run that says how many events it is about, then a question, then the request.

import { look, mayChange } from "./access.js";
import { Refused, post } from "./api.js";
import { make, place } from "./dom.js";
import { counted } from "./format.js";

/** What can be asked for: its address, its words, and what it does. */
export const ACTIONS = {
  retry: { path: "events/retry", name: "Retry", says: "They are tried again now, with all their attempts." },
  skip: { path: "events/skip", name: "Skip", says: "They are never published; what waits behind them goes on.", danger: true },
  unblock: { path: "keys/unblock", name: "Unblock", says: "What blocks the keys becomes a dead letter, and the keys go on.", danger: true },
  redrive: { path: "dlq/redrive", name: "Redrive", says: "They are published after all, behind what their keys published meanwhile." },
  discard: { path: "dlq/discard", name: "Discard", says: "They are forgotten; their rows stay FAILED.", danger: true },
};

const PAUSES = {
  pause: "Nothing is read or published until it is resumed, also through restarts. The slot keeps its WAL meanwhile.",
  resume: "It goes on with what waits.",
};

let whenDone = () => {};

/** A question, with what is found out about it before, and what its answer does. */
async function question({ title, find, perform }) {
  const dialog = place("confirm");
  const text = make("p", { role: "status" }, "Looking…");
  const cancel = make("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
  const go = make("button", { type: "button", class: "primary", hidden: true });
  dialog.replaceChildren(
    make("h2", { id: "confirm-title" }, title),
    text,
    make("div", { class: "dialog-actions" }, cancel, go),
  );
  dialog.showModal();
  const end = (words) => {
    text.replaceChildren(...[words].flat());
    go.hidden = true;
    cancel.textContent = "Close";
    cancel.focus();
  };
  try {
    const { says, label, danger } = await find();
    text.replaceChildren(...says);
    if (!label) return end(says);
    go.textContent = label;
    go.classList.toggle("danger", danger === true);
    go.hidden = false;
    cancel.focus();
    go.addEventListener("click", async () => {
      go.disabled = true;
      try {
        end(await perform());
      } catch (error) {
        end(complaint(error));
      }
      whenDone();
    });
  } catch (error) {
    end(complaint(error));
  }
}

function complaint(error) {
  if (error instanceof Refused && error.status === 401) {
    look().catch(() => {});
    return "The relay no longer takes this token.";
  }
  const told = [make("strong", {}, error.code ?? ""), ` ${error.message} `];
  return error.remedy ? [...told, make("span", { class: "says" }, error.remedy)] : told;
}

/** Asks whether to do that with the events that are meant, and does it. `meant` is a request's body. */
export function act(name, meant, title) {
  const { path, name: label, says, danger } = ACTIONS[name];
  const word = name === "unblock" ? "key" : "event";
  return question({
    title,
    find: async () => {
      const { count } = await post(path, { ...meant, dry_run: true, brief: true });
      if (count === 0) return { says: ["There is nothing like that any more."] };
      const about = make("strong", {}, `This is about ${counted(count, word)}.`);
      return { says: [about, ` ${says}`], label: `${label} ${counted(count, word)}`, danger };
    },
    perform: async () => {
      const { count, message } = await post(path, { ...meant, brief: true });
      return `${label}: ${counted(count, word)}: ${message}.`;
    },
  });
}

/** Asks whether to pause or resume, everything or a topic, and does it. */
export function pause(which, topic) {
  const what = topic === null ? "the relay" : `topic ${topic}`;
  const verb = which === "pause" ? "Pause" : "Resume";
  return question({
    title: `${verb} ${what}?`,
    find: async () => ({ says: [topic === null || which === "resume" ? PAUSES[which] : "Its events are held until it is resumed; other topics go on."], label: `${verb} ${what}` }),
    perform: async () => {
      const { message } = await post(which, topic === null ? null : { topic });
      return `${verb} ${what}: ${message}.`;
    },
  });
}

/** Sets up the buttons that pause; `done` is called after each action. */
export function setUpPause(done) {
  whenDone = done;
  place("pause").addEventListener("click", ({ currentTarget }) => pause(currentTarget.dataset.which, null));
  place("pause-topic").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = place("topic-name");
    pause("pause", field.value.trim());
    field.value = "";
  });
}

let shown = "";

/** What is paused, with the ways back for those who may. */
export function showPause({ state, paused_topics: topics }) {
  const now = JSON.stringify([state, topics, mayChange()]);
  if (now === shown) return;
  shown = now;
  const button = place("pause");
  button.dataset.which = state === "paused" ? "resume" : "pause";
  button.textContent = state === "paused" ? "Resume" : "Pause";
  button.hidden = !mayChange() || state === "halted";
  place("pause-topic").hidden = !mayChange();
  const items = topics.map((topic) => make(
    "li",
    {},
    make("span", { class: "topic" }, topic),
    mayChange() && make("button", { type: "button", "aria-label": `Resume topic ${topic}`, onclick: () => pause("resume", topic) }, "Resume"),
  ));
  place("paused-topics").replaceChildren(...(items.length > 0 ? items : [make("li", { class: "none" }, "No topic is paused.")]));
}
