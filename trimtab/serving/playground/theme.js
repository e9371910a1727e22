// Light, dark, or what the system says; the choice is kept.

import { byId } from "./dom.js";

const PLACE = "trimtab-theme";
const ORDER = ["system", "light", "dark"];
const WORDS = { system: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

/** Put the kept choice in force and let the button change it. */
export function setUpTheme() {
  const kept = localStorage.getItem(PLACE);
  let theme = ORDER.includes(kept) ? kept : "system";
  const button = byId("theme");
  const show = () => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.dataset.theme = theme;
    button.setAttribute("aria-label", WORDS[theme]);
    button.title = WORDS[theme];
  };
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    localStorage.setItem(PLACE, theme);
    show();
  });
  show();
}
