// What is asked: a prompt to go on from, or a conversation.

import { byId, el } from "./dom.js";
import { hasQuestion } from "./request.js";

/** Bind the fields to the state; `run` starts the view that is open, `answerOf` gives the steered answer so far. */
export function setUpCompose(store, { run, answerOf, clear }) {
  const prompt = byId("prompt");
  const system = byId("system");
  const message = byId("message");
  prompt.addEventListener("input", () => store.set({ prompt: prompt.value }));
  system.addEventListener("input", () => store.set({ system: system.value }));
  for (const mode of ["prompt", "chat"]) {
    byId(`mode-${mode}`).addEventListener("change", () => {
      clear();
      store.set({ mode });
    });
  }
  byId("forget").addEventListener("click", () => {
    clear();
    store.set({ turns: [], asked: "" });
    message.focus();
  });
  for (const each of document.querySelectorAll("[data-example]")) {
    each.addEventListener("click", () => {
      if (store.get().mode === "chat") message.value = each.dataset.example;
      else store.set({ prompt: each.dataset.example });
      submit();
    });
  }

  function submit() {
    if (store.get().mode === "chat") send();
    if (hasQuestion(store.get())) run();
    else (store.get().mode === "chat" ? message : prompt).focus();
  }

  /** Put the answered message and the steered answer among the turns, and the new message in its place. */
  function send() {
    const given = message.value.trim();
    if (!given) return;
    const { asked, turns } = store.get();
    const answer = answerOf().trim();
    const kept =
      asked && answer
        ? [
            { role: "user", content: asked },
            { role: "assistant", content: answer },
          ]
        : [];
    message.value = "";
    store.set({ turns: [...turns, ...kept], asked: given });
  }

  byId("compose").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  message.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });

  store.listen(
    (state) => {
      const chat = state.mode === "chat";
      byId(`mode-${state.mode}`).checked = true;
      byId("prompt-part").hidden = chat;
      byId("chat-part").hidden = !chat;
      const able = state.policy?.chat ?? false;
      byId("mode-chat").disabled = !able;
      byId("no-chat").hidden = able;
      if (document.activeElement !== prompt) prompt.value = state.prompt;
      if (document.activeElement !== system) system.value = state.system;
      byId("turns").replaceChildren(...turnsOf(state));
      byId("turns").scrollTop = byId("turns").scrollHeight;
      byId("forget").hidden = !state.turns.length && !state.asked;
    },
    "mode",
    "policy",
    "prompt",
    "system",
    "turns",
    "asked",
  );
  return { submit };
}

function turnsOf(state) {
  const now = state.asked ? [{ role: "user", content: state.asked }] : [];
  return [...state.turns, ...now].map(({ role, content }) =>
    el(
      "li",
      { "data-role": role },
      el("span", { class: "sr" }, role === "user" ? "You: " : "Steered answer: "),
      content,
    ),
  );
}
