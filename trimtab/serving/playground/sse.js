// Server-sent events out of bytes, wherever the network cuts them: in a line, in a line's end, in a character.

/** Collect text and give the data of every event that is complete. */
export function createParser() {
  let rest = "";
  let lines = [];
  return function feed(text) {
    rest += text;
    const found = [];
    for (;;) {
      const end = rest.search(/\r\n|\n|\r/);
      // A \r at the very end may be half of a \r\n whose \n is still on its way.
      if (end < 0 || (rest[end] === "\r" && end === rest.length - 1)) return found;
      const line = rest.slice(0, end);
      rest = rest.slice(end + (rest.startsWith("\r\n", end) ? 2 : 1));
      if (line === "") {
        if (lines.length) found.push(lines.join("\n"));
        lines = [];
      } else if (line === "data" || line.startsWith("data:")) {
        lines.push(line.slice(5).replace(/^ /, ""));
      }
    }
  };
}

/** Yield the data of each event of a response's body; the body is let go of however the loop ends. */
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const feed = createParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      yield* feed(decoder.decode(value, { stream: true }));
    }
    yield* feed(`${decoder.decode()}\n\n`);
  } finally {
    // A body that an abort has broken rejects once more here; the abort itself has been told already.
    reader.cancel().catch(() => undefined);
  }
}
