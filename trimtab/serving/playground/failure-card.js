// What went wrong, in the server's own words, set so that one sees what was given, what was expected and what to try.

import { el } from "./dom.js";
import { Gone, Refused } from "./failures.js";

const TITLES = {
  400: "The server cannot do this",
  401: "The server wants another key",
  403: "The server does not allow this",
  404: "The server does not have this",
  413: "This is too long for the server",
  422: "The server cannot read this",
  429: "Too many requests at once",
  503: "The server is busy",
};
const WORDS = { given: "Given", expected: "Expected", try: "Try" };

/** Make the card; `again` is what its button does, where there is any sense in it. */
export function failureCard(error, again = null) {
  const card = el("div", { class: "failure", role: "alert" }, el("h3", {}, titleOf(error)), ...messageOf(error));
  const hopeless = error instanceof Refused && [400, 403, 404, 413, 422].includes(error.status);
  if (again && !hopeless) {
    card.append(el("button", { type: "button", class: "quiet", onclick: () => again() }, "Try again"));
  }
  return card;
}

function titleOf(error) {
  if (error instanceof Gone) return "The server is gone";
  if (error instanceof Refused) return TITLES[error.status] ?? "The server failed";
  return "The page failed";
}

function messageOf(error) {
  if (error instanceof Gone) {
    return [el("p", {}, `${error.message} Is trimtab serve still running?`)];
  }
  const parts = sectionsOf(error.message);
  const list = el("dl", { class: "facts" });
  for (const [name, text] of parts.named) list.append(el("dt", {}, WORDS[name]), el("dd", {}, text));
  const shown = parts.rest ? [el("p", {}, parts.rest)] : [];
  if (parts.named.length) shown.push(list);
  if (error.retryAfter) shown.push(el("p", {}, `It asks to wait ${error.retryAfter} s.`));
  return shown;
}

/** Split a message into its "given: ..", "expected: .." and "try: .." lines, and what stands before them. */
export function sectionsOf(message) {
  const named = [];
  const rest = [];
  for (const line of message.split("\n")) {
    const found = /^\s*(given|expected|try):\s*(.*)$/.exec(line);
    if (found) named.push([found[1], found[2]]);
    else if (named.length) named[named.length - 1][1] += `\n${line}`;
    else rest.push(line);
  }
  return { named, rest: rest.join("\n").trim() };
}
