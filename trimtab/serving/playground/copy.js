// Buttons that copy the text of an element and say that they did.

import { announce } from "./announce.js";

const WHILE = 1800; // milliseconds that a button says so

/** Let a button copy what an element shows. */
export function setUpCopy(button, source) {
  const words = button.textContent;
  let timer = 0;
  button.addEventListener("click", async () => {
    const done = await copied(source);
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    announce(done ? "Copied." : "The text is selected; press Control C to copy it.");
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = words), WHILE);
  });
}

/** Browsers offer the clipboard only to pages from a safe origin; elsewhere the text is selected for Ctrl+C. */
async function copied(source) {
  if (window.isSecureContext && navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(source.textContent);
      return true;
    } catch (error) {
      if (error.name !== "NotAllowedError") throw error;
    }
  }
  window.getSelection().selectAllChildren(source);
  return false;
}
