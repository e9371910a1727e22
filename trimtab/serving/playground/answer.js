// One answer that streams into a token line. Starting again aborts what still runs; the old text stays, faint, until
// the first of the new arrives, so that nothing flickers while a slider moves.

import { fetchChunks } from "./api.js";
import { throttled } from "./debounce.js";
import { el } from "./dom.js";
import { isAbort, isOurs } from "./failures.js";
import { failureCard } from "./failure-card.js";
import { createTokenLine } from "./token-line.js";

const PACE = 80; // milliseconds between two looks at an answer that grows
const LEAD = 140; // characters of a prompt that are shown before its answer

/** Make one; `changed(answer)` is called when tokens arrive, `ended(answer)` when the answer is whole. */
export function createAnswer({ label, coloured, show = null, changed = () => undefined, ended = () => undefined }) {
  const line = createTokenLine({ label, coloured, show });
  const trouble = el("div", { class: "trouble" });
  const lead = el("span", { class: "asked" });
  const root = el("div", { class: "answer", "data-state": "idle" }, lead, line.root, trouble);
  const tell = throttled(() => changed(answer), PACE);
  let running = null;
  let text = "";

  const answer = {
    root,
    line,
    kl: null, // mean, in nats, once the answer is whole
    finish: null,
    get text() {
      return text;
    },
    get state() {
      return root.dataset.state;
    },
    /** Stream what a request is answered; `key` says whose answer it is. */
    async start(route, body) {
      answer.stop();
      const own = new AbortController();
      running = own;
      lead.textContent = endOf(body.prompt ?? "");
      root.dataset.state = "waiting";
      root.setAttribute("aria-busy", "true");
      try {
        await consume(route, body, own);
        if (running === own) finish("done");
      } catch (error) {
        if (isAbort(error) || running !== own) return;
        finish("failed");
        trouble.replaceChildren(failureCard(error, () => answer.start(route, body)));
        if (isOurs(error)) throw error;
      }
    },
    /** Abort what runs; what has arrived stays. */
    stop() {
      if (!running) return;
      running.abort();
      finish("stopped");
    },
    clear() {
      answer.stop();
      begin();
      root.dataset.state = "idle";
      changed(answer);
    },
  };

  function begin() {
    line.clear();
    trouble.replaceChildren();
    text = "";
    answer.kl = null;
    answer.finish = null;
  }

  function finish(state) {
    running = null;
    root.dataset.state = state;
    root.removeAttribute("aria-busy");
    if (state !== "failed") ended(answer);
  }

  async function consume(route, body, own) {
    let first = true;
    for await (const chunk of fetchChunks(route, body, own.signal)) {
      if (running !== own) return;
      for (const choice of chunk.choices ?? []) {
        if (first && !isOpening(choice)) {
          first = false;
          begin();
          root.dataset.state = "streaming";
        }
        take(choice);
      }
    }
  }

  function take(choice) {
    const piece = pieceOf(choice);
    const tokens = choice.trimtab?.tokens ?? [];
    for (const token of tokens) line.push(token);
    if (piece && !tokens.length && !line.tokens.length) line.pushText(piece);
    text += piece;
    if (choice.finish_reason) {
      answer.finish = choice.finish_reason;
      answer.kl = choice.trimtab?.kl ?? null;
      line.cut(text.length, choice.finish_reason === "stop");
    }
    if (piece || tokens.length) tell();
  }

  return answer;
}

/** Mean KL of what an answer has so far, in nats a token; null where nothing is known. */
export function meanKlOf(answer) {
  const { tokens } = answer.line;
  if (answer.kl !== null || !tokens.length || tokens.some((token) => token.kl === null)) return answer.kl;
  return tokens.reduce((sum, token) => sum + token.kl, 0) / tokens.length;
}

/** Chats begin with a piece that only says who speaks. */
const isOpening = (choice) => !pieceOf(choice) && !choice.finish_reason && !choice.trimtab;

const pieceOf = (choice) => choice.text ?? choice.delta?.content ?? "";

/** The last words of a prompt, which an answer goes on from. */
export function endOf(prompt) {
  if (prompt.length <= LEAD) return prompt;
  return `…${prompt.slice(-LEAD).replace(/^\S*\s/, " ")}`;
}
