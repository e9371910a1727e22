// An answer as a line of tokens: coloured by what steering did, one stop for Tab, arrows between tokens.

import { el } from "./dom.js";
import { colour, liftOf } from "./lift.js";
import { percent, signed } from "./numbers.js";
import { lineNeighbour, neighbour, stopAt } from "./roving.js";

/** Make one; `show(token, place)` is called for the token that is pointed at or has the focus. */
export function createTokenLine({ label, coloured, show = null }) {
  const root = el("div", { class: "tokens", role: "listbox", "aria-orientation": "horizontal", "aria-label": label });
  let tokens = [];
  let items = [];

  const pick = (item) => {
    if (!item || !show) return;
    const place = items.indexOf(item);
    for (const each of items) each.toggleAttribute("data-shown", each === item);
    show(tokens[place], place);
  };
  const itemOf = (event) => event.target.closest("[role=option]");

  root.addEventListener("pointerover", (event) => pick(itemOf(event)));
  root.addEventListener("focusin", (event) => {
    const item = itemOf(event);
    if (!item) return;
    for (const each of items) each.setAttribute("aria-selected", String(each === item));
    stopAt(item, items, false);
    pick(item);
  });
  root.addEventListener("keydown", (event) => {
    const item = itemOf(event);
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const direction = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const next = direction ? lineNeighbour(direction, item, items) : neighbour(event.key, item, items);
    if (direction || next) event.preventDefault();
    if (next) stopAt(next, items, true);
  });

  return {
    root,
    get tokens() {
      return tokens;
    },
    /** Add a token with its details. */
    push(token) {
      const item = optionOf(token, coloured, items.length === 0);
      tokens.push(token);
      items.push(item);
      root.append(item);
    },
    /** Show one as if it were pointed at. */
    pick(place) {
      pick(items[place]);
    },
    /** Add text of which nothing else is known. */
    pushText(text) {
      root.append(text);
    },
    /** Tokens after so many characters are no part of the text: a stop text, or the token that ends answers. */
    cut(length, ended) {
      let end = 0;
      if (ended && tokens.at(-1)?.token === "") {
        items.at(-1).setAttribute("data-end", "");
        items
          .at(-1)
          .setAttribute("aria-label", spoken({ ...tokens.at(-1), token: "end of the answer" }, liftOf(tokens.at(-1))));
      }
      tokens.forEach((token, place) => {
        end += token.token.length;
        items[place].toggleAttribute("data-unsaid", end > length);
      });
    },
    /** Show where this answer departs from another: a mark before the token, or none. */
    markFork(place) {
      root.querySelector("[data-fork]")?.removeAttribute("data-fork");
      items[place]?.setAttribute("data-fork", "");
    },
    clear() {
      tokens = [];
      items = [];
      root.replaceChildren();
    },
  };
}

function optionOf(token, coloured, first) {
  const lift = liftOf(token);
  const item = el(
    "span",
    {
      class: "token",
      role: "option",
      "aria-selected": "false",
      "aria-label": spoken(token, lift),
      tabindex: first ? "0" : "-1",
      "data-empty": token.token === "",
      "data-newline": token.token.startsWith("\n"),
    },
    token.token,
  );
  if (coloured) colour(item, lift);
  return item;
}

function spoken(token, lift) {
  const word =
    token.token.trim() || (token.token.includes("\n") ? "line end" : token.token ? "space" : "part of a character");
  return `${word}: ${percent(token.logprob)}, base ${percent(token.reference_logprob)}, ${signed(lift, 1)} nats`;
}
