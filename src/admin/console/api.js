// Asking `/api/v1` of the address that the page is from.

/**
 * The token lives in this variable alone. Browsers write sessionStorage to disk to bring tabs back
 * after a crash; a reload asks for the token again instead.
 */
let token = null;

export const keep = (text) => { token = text; };
export const forget = () => { token = null; };

/** The relay answered, and said no. */
export class Refused extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.code = error.code ?? "";
    this.remedy = error.remedy ?? "";
  }
}

const base = new URL("../api/v1/", document.baseURI);

async function ask(method, path, conditions, body, patience, bearer) {
  const url = new URL(path, base);
  for (const [name, value] of Object.entries(conditions ?? {})) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = { accept: "application/json" };
  if (bearer) headers.authorization = `Bearer ${bearer}`;
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(url, {
    method,
    headers,
    body: body ? JSON.stringify(body) : undefined,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(patience),
  });
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let error = null;
  try {
    error = JSON.parse(text).error;
  } catch {
    // The guard answers in plain words.
  }
  throw new Refused(answer.status, error ?? { message: text.trim() || `the relay answered ${answer.status}` });
}

/** Reads. `conditions` become the query; what is empty is left out. */
export const read = (path, conditions) => ask("GET", path, conditions, null, 10_000, token);

/** Files a request. The relay is waited for, five seconds at most, so this waits longer. */
export const post = (path, body) => ask("POST", path, {}, body, 30_000, token);

/** What somebody with this token may do; with the one that is kept, if none is given. */
export const access = (tried = token) => ask("GET", "access", {}, null, 10_000, tried);
