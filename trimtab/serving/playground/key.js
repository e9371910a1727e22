// The key, where the server wants one: asked for in a dialog, kept for this tab alone, never in a link or an export.

import { byId } from "./dom.js";

const PLACE = "trimtab-key";
let asking = null;

/** The key of this session, or null. */
export const currentKey = () => sessionStorage.getItem(PLACE);

/** Ask for the key once, however many requests want it; gives whether there is one now. */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const field = byId("key-field");
    byId("key-wrong").hidden = currentKey() === null;
    field.value = "";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        const given = dialog.returnValue === "use" && field.value.trim();
        if (given) sessionStorage.setItem(PLACE, field.value.trim());
        field.value = "";
        resolve(Boolean(given));
      },
      { once: true },
    );
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}
