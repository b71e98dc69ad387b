// Who may change something: the token is asked for once, tried, and kept in memory.

import { Refused, access, forget, keep } from "./api.js";
import { place, say } from "./dom.js";

let known = { token_configured: true, may_change: false };
let changed = () => {};

/** Whether actions are offered. */
export const mayChange = () => known.may_change;

/** Sets up the dialog; `whenChanged` is called whenever what may be done is another. */
export function setUpAccess(whenChanged) {
  changed = whenChanged;
  const dialog = place("token");
  const field = place("token-text");
  place("unlock").addEventListener("click", openDialog);
  place("token-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { field.value = ""; });
  place("lock").addEventListener("click", () => {
    forget();
    look();
  });
  place("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const complaint = await unlock(field.value.trim());
    say(place("token-error"), complaint);
    if (complaint === "") dialog.close();
    else field.select();
  });
}

function openDialog() {
  say(place("token-error"), "");
  place("token").showModal();
}

/** Tries a token and keeps it if it is right; gives what is wrong otherwise. */
async function unlock(text) {
  // What no header can carry is no token.
  if (!/^[\x21-\x7e]+$/.test(text)) return "A token has no spaces and only ASCII characters.";
  try {
    const found = await access(text);
    if (!found.may_change) return "This is not the token of this relay.";
    keep(text);
    show(found);
    return "";
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return "This is not the token of this relay.";
    return `The token could not be tried: ${error.message}`;
  }
}

/** Asks what may be done; a relay that was restarted can have another token. */
export async function look() {
  try {
    show(await access());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    // Off loopback nothing is read without the token.
    forget();
    show({ token_configured: true, may_change: false, may_read: false });
  }
}

function show(found) {
  const before = known;
  known = { may_read: true, ...found };
  place("unlock").hidden = known.may_change || !known.token_configured;
  place("lock").hidden = !known.may_change;
  if (known.version) say(place("version"), `outboxd ${known.version}`);
  let words = "Read-only";
  if (known.may_change) words = "Unlocked";
  else if (!known.token_configured) words = "Read-only: no admin.token_file";
  else if (!known.may_read) words = "Locked";
  say(place("access-says"), words);
  place("access-says").dataset.open = String(known.may_change);
  if (before.may_change !== known.may_change || before.may_read !== known.may_read) changed(known);
}
