// Where the chunks of a search go: a column a boundary, the children of one parent together, best first, so that no
// lines cross; and which of them led to the best answer.

export const BOX = { width: 148, height: 34, across: 190, down: 42, left: 34, top: 34 };

/** Lay a trace out: [{node, left, top, best, share}], in the order in which chunks were proposed. */
export function layOut(found) {
  const rows = rowsOf(found.trace);
  const best = new Set(wayOf(found));
  const scores = found.trace.map((node) => node.score).filter((score) => score !== null);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return found.trace.map((node) => ({
    node,
    left: BOX.left + BOX.across * node.depth,
    top: BOX.top + BOX.down * rows[node.number],
    best: best.has(node.number),
    share: node.score === null || high <= low ? 0.5 : (node.score - low) / (high - low),
  }));
}

/** Numbers of the chunks of the best answer, first to last. */
export function wayOf({ hypotheses, trace }) {
  const score = hypotheses[0]?.score;
  const ends = trace.filter((node) => node.finish !== null && node.finish !== "error" && node.score === score);
  let node = ends.find((each) => each.kept > 0) ?? ends[0] ?? null;
  const way = [];
  while (node) {
    way.unshift(node.number);
    node = node.parent === null ? null : trace[node.parent];
  }
  return way;
}

/** What became of a chunk, in words. */
export function outcomeOf({ node, best }) {
  if (node.finish === null) return node.kept ? (node.kept === 1 ? "went on" : `went on ${node.kept} times`) : "dropped";
  const words = best ? "the best answer" : node.kept ? "an answer, kept" : "an answer, not among the best";
  return node.finish === "end" ? words : `${words} (${node.finish})`;
}

/** The curve from a chunk's parent, or from the prompt, to the chunk. */
export function curveTo(box, boxes) {
  const parent = box.node.parent === null ? null : boxes[box.node.parent];
  const half = BOX.height / 2;
  const [x0, y0] = parent ? [parent.left + BOX.width, parent.top + half] : [12, BOX.top + half];
  const [x1, y1] = [box.left, box.top + half];
  const bend = (x0 + x1) / 2;
  return `M${x0} ${y0}C${bend} ${y0} ${bend} ${y1} ${x1} ${y1}`;
}

function rowsOf(trace) {
  const rows = [];
  const columns = new Map();
  for (const node of trace) columns.set(node.depth, [...(columns.get(node.depth) ?? []), node]);
  for (const depth of [...columns.keys()].sort((a, b) => a - b)) {
    const above = (node) => (node.parent === null ? -1 : rows[node.parent]);
    const worth = (node) => node.score ?? -Infinity;
    columns
      .get(depth)
      .sort((a, b) => above(a) - above(b) || worth(b) - worth(a) || a.number - b.number)
      .forEach((node, row) => {
        rows[node.number] = row;
      });
  }
  return rows;
}
