// One answer that streams into a token line. Starting again aborts what still runs; the old text stays, faint, until
// the first of the new arrives, so that nothing flickers while a slider moves.

import { fetchChunks } from "./api.js";
import { el } from "./dom.js";
import { Refused, isAbort, isOurs } from "./failures.js";
import { failureCard } from "./failure-card.js";
import { createTokenLine } from "./token-line.js";

const DETAILS_REFUSED = new Map(); // policy id to the server's reason

/** Make one; `changed(answer)` is called when tokens arrive, `ended(answer)` when the answer is whole. */
export function createAnswer({ label, coloured, show = null, changed = () => undefined, ended = () => undefined }) {
  const line = createTokenLine({ label, coloured, show });
  const trouble = el("div", { class: "trouble" });
  const root = el("div", { class: "answer", "data-state": "idle" }, line.root, trouble);
  let running = null;
  let text = "";

  const answer = {
    root,
    line,
    kl: null,
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
      root.dataset.state = "waiting";
      root.setAttribute("aria-busy", "true");
      try {
        await stream(route, body, own);
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

  async function stream(route, body, own) {
    try {
      await consume(route, withDetails(body), own);
    } catch (error) {
      const asked = withDetails(body).trimtab?.details !== undefined;
      // An engine that tells no details refuses; the answer is still worth having, and the reason is shown with it.
      if (!(error instanceof Refused && error.status === 400 && asked && text === "")) throw error;
      await consume(route, without(body), own);
      DETAILS_REFUSED.set(body.model, error.message);
      trouble.replaceChildren(el("p", { class: "note" }, `No details of tokens: ${error.message}`));
    }
  }

  async function consume(route, body, own) {
    let first = true;
    for await (const chunk of fetchChunks(route, body, own.signal)) {
      if (running !== own) return;
      if (first) begin();
      first = false;
      root.dataset.state = "streaming";
      for (const choice of chunk.choices ?? []) take(choice);
    }
  }

  function take(choice) {
    const piece = choice.text ?? choice.delta?.content ?? "";
    const tokens = choice.trimtab?.tokens ?? [];
    for (const token of tokens) line.push(token);
    if (!tokens.length && piece && !line.tokens.length) line.pushText(piece);
    text += piece;
    if (choice.finish_reason) {
      answer.finish = choice.finish_reason;
      answer.kl = choice.trimtab?.kl ?? null;
    }
    if (piece || tokens.length) changed(answer);
  }

  return answer;
}

const withDetails = (body) => (DETAILS_REFUSED.has(body.model) ? without(body) : body);

function without(body) {
  const { details: _, ...rest } = body.trimtab ?? {};
  return { ...body, trimtab: Object.keys(rest).length ? rest : undefined };
}
