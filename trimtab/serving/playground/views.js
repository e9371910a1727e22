// The tabs: which view is open.

import { byId } from "./dom.js";
import { neighbour } from "./roving.js";

export const VIEWS = ["steer", "compare", "search", "export"];

/** Bind the tabs to the state. */
export function setUpViews(store) {
  const tabs = VIEWS.map((view) => byId(`tab-${view}`));
  for (const tab of tabs) {
    tab.addEventListener("click", () => store.set({ view: viewOf(tab) }));
    tab.addEventListener("keydown", (event) => {
      const next = neighbour(event.key, tab, tabs);
      if (!next) return;
      event.preventDefault();
      store.set({ view: viewOf(next) });
      next.focus();
    });
  }
  const show = (state) => {
    for (const tab of tabs) {
      const open = viewOf(tab) === state.view;
      tab.setAttribute("aria-selected", String(open));
      tab.tabIndex = open ? 0 : -1;
      byId(`view-${viewOf(tab)}`).hidden = !open;
    }
    document.documentElement.dataset.view = state.view;
  };
  store.listen(show, "view");
  show(store.get());
}

const viewOf = (tab) => tab.id.slice("tab-".length);
