// What a screen reader is told: short sentences at the ends of things, not every token.

import { byId } from "./dom.js";

/** Say it politely. */
export function announce(text) {
  byId("announcer").textContent = text;
}
