// What can go wrong between the page and its server, as errors with all that the page can say about them.

/** The server refused; its message says what was given, what it expected and what to try. */
export class Refused extends Error {
  constructor(status, error, retryAfter = null) {
    super(error?.message ?? `status ${status}`);
    this.name = "Refused";
    this.status = status;
    this.code = error?.code ?? null;
    this.retryAfter = retryAfter;
  }
}

/** The server did not answer, or stopped in the middle of an answer. */
export class Gone extends Error {
  constructor(message = "The server does not answer.") {
    super(message);
    this.name = "Gone";
  }
}

/** The reader wants no more of this; nothing is shown for it. */
export const isAbort = (error) => error?.name === "AbortError";

/** A mistake of the page itself: it is shown like the others, and goes on to the console. */
export const isOurs = (error) => !(error instanceof Refused || error instanceof Gone || isAbort(error));
