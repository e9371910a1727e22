// Requests to the server that the page came from. A key that is wanted is asked for, and the request made again.

import { Gone, Refused, isAbort } from "./failures.js";
import { askForKey, currentKey } from "./key.js";
import { events } from "./sse.js";

/** Where the server's routes begin, with a slash at the end. */
export const ROOT = new URL(".", document.baseURI).href;

/** GET JSON, or POST it where there is a body. */
export async function fetchJson(path, { body = null, signal = null } = {}) {
  const response = await open(path, body, signal);
  return readJson(response);
}

/** POST and yield the chunks of a streamed answer. */
export async function* fetchChunks(path, body, signal) {
  const response = await open(path, { ...body, stream: true }, signal);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(response.status, chunk.error);
      yield chunk;
    }
  } catch (error) {
    // A connection that breaks is a TypeError, and so is nothing else here.
    throw error instanceof TypeError ? new Gone("The server stopped in the middle of an answer.") : error;
  }
  throw new Gone("The server stopped in the middle of an answer.");
}

async function open(path, body, signal) {
  for (;;) {
    const used = currentKey();
    const response = await send(path, body, signal, used);
    if (response.ok) return response;
    // Another request may have brought the right key while this one was on its way.
    if (response.status === 401 && (used !== currentKey() || (await askForKey()))) continue;
    throw await refusal(response);
  }
}

async function send(path, body, signal, key) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const method = body ? "POST" : "GET";
  try {
    return await fetch(new URL(path, ROOT), { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw isAbort(error) ? error : new Gone();
  }
}

async function refusal(response) {
  const text = await response.text();
  const after = Number(response.headers.get("Retry-After")) || null;
  try {
    return new Refused(response.status, JSON.parse(text).error, after);
  } catch {
    // A proxy in between answers in HTML; its status is all that is worth showing.
    return new Refused(response.status, null, after);
  }
}

async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    throw isAbort(error) ? error : new Gone("The server sent something that cannot be read.");
  }
}
