// The page: makes the state, binds its parts to it, and asks the server what it serves.

import { fetchJson } from "./api.js";
import { announce } from "./announce.js";
import { setUpCompare } from "./compare.js";
import { setUpCompose } from "./compose.js";
import { debounced } from "./debounce.js";
import { byId, el } from "./dom.js";
import { setUpExport } from "./export.js";
import { failureCard } from "./failure-card.js";
import { Refused, isOurs } from "./failures.js";
import { setUpFormula } from "./formula.js";
import { setUpKnobs } from "./knobs.js";
import { fromFragment, policyIn, toFragment } from "./link.js";
import { anySeed, setUpSampling } from "./sampling.js";
import { setUpSearch } from "./search.js";
import { hasQuestion } from "./request.js";
import { INITIAL, adopt } from "./state.js";
import { setUpSteer } from "./steer.js";
import { createStore } from "./store.js";
import { setUpTheme } from "./theme.js";
import { VIEWS, setUpViews } from "./views.js";

const store = createStore({ ...INITIAL, sampling: { ...INITIAL.sampling, seed: anySeed() } });

setUpTheme();
setUpViews(store);
setUpKnobs(store);
setUpSampling(store);
setUpFormula(store);
const views = { steer: setUpSteer(store), compare: setUpCompare(store), search: setUpSearch(store) };
setUpExport(store);
const stopAll = () => Object.values(views).forEach((view) => view.stop());
const run = () => (views[store.get().view] ?? views.steer).start();
const compose = setUpCompose(store, {
  run: () => {
    if (store.get().view === "export") store.set({ view: "steer" });
    run();
  },
  answerOf: () => views.steer.answers[1].text,
  clear: () => {
    stopAll();
    views.steer.clear();
  },
});

byId("stop").addEventListener("click", stopAll);
document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || byId("key-dialog").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    compose.submit();
  }
  if (event.key === "Escape") stopAll();
});

const chooser = byId("policy");
chooser.addEventListener("change", () => {
  stopAll();
  views.steer.clear();
  const chosen = store.get().policies.find((policy) => policy.id === chooser.value);
  store.set(adopt(chosen, store.get()));
});
store.listen((state) => {
  chooser.replaceChildren(...state.policies.map((policy) => el("option", { value: policy.id }, policy.id)));
}, "policies");
store.listen(
  (state) => {
    const { policy } = state;
    if (!policy) return;
    chooser.value = policy.id;
    chooser.parentElement.hidden = state.policies.length < 2;
    const models = policy.models.map((model) => model.name).join(", ");
    byId("about").textContent =
      `${policy.id} · ${models} · ${policy.context_length} tokens of context · ${policy.engine}`;
  },
  "policy",
  "policies",
);

const keep = debounced(() => history.replaceState(null, "", `#${toFragment(store.get())}`), 200);
store.listen((state) => state.policy && keep());
window.addEventListener("hashchange", () => {
  stopAll();
  load(location.hash.slice(1));
});

/** Take the state of a fragment, or that of the first policy. */
function load(fragment) {
  const { policies } = store.get();
  const chosen = policies.find((policy) => policy.id === policyIn(fragment)) ?? policies[0];
  store.set(adopt(chosen, store.get()));
  if (fragment) store.set(fromFragment(fragment, store.get(), VIEWS));
  if (fragment && hasQuestion(store.get())) views[store.get().view]?.start();
}

/** Ask what is served, until there is an answer. */
async function connect() {
  const place = byId("connection");
  place.hidden = false;
  place.replaceChildren(el("p", { class: "working" }, "Asking the server what it serves."));
  try {
    const { data } = await fetchJson("v1/policies");
    if (!data.length) throw new Refused(404, { message: "The server serves no policy." });
    store.set({ policies: data });
    load(location.hash.slice(1));
    place.hidden = true;
    document.documentElement.dataset.ready = "";
    announce("Ready.");
  } catch (error) {
    place.replaceChildren(failureCard(error, connect));
    if (isOurs(error)) throw error;
  }
}

/** What runs shows its stop button. */
function watchRunning() {
  const seen = new MutationObserver(() => {
    byId("stop").disabled = !document.querySelector('[aria-busy="true"]');
  });
  seen.observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-busy"] });
}

watchRunning();
connect();
