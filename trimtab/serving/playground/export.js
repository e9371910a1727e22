// The fourth view: the settings as texts to take away, and a link to this very state.

import { ROOT } from "./api.js";
import { setUpCopy } from "./copy.js";
import { byId } from "./dom.js";
import { currentKey } from "./key.js";
import { toFragment } from "./link.js";
import { curlCommand, policyFile, pythonProgram } from "./snippets.js";

/** Keep the texts in step with the state. */
export function setUpExport(store) {
  const texts = {
    yaml: policyFile,
    curl: (state) => curlCommand(state, ROOT, currentKey() !== null),
    python: (state) => pythonProgram(state, ROOT),
  };
  for (const name of Object.keys(texts)) setUpCopy(byId(`copy-${name}`), byId(`text-${name}`));
  byId("with-search").addEventListener("change", (event) => store.set({ withSearch: event.target.checked }));
  setUpCopy(byId("copy-link"), byId("text-link"));
  store.listen((state) => {
    byId("with-search").parentElement.hidden = !state.policy?.searches.length;
    if (!state.policy || state.view !== "export") return;
    for (const [name, write] of Object.entries(texts)) byId(`text-${name}`).textContent = write(state);
    byId("text-link").textContent = `${location.origin}${location.pathname}#${toFragment(state)}`;
  });
}
