// The picture of a search: one button a chunk, curves between them, arrow keys along the tree.

import { el, svg } from "./dom.js";
import { visible } from "./inspector.js";
import { plain, signed } from "./numbers.js";
import { stopAt } from "./roving.js";
import { BOX, curveTo, layOut, outcomeOf } from "./tree.js";

/** Draw it; `show(box)` is called for the chunk that is pointed at or has the focus. */
export function drawTree(found, show) {
  const boxes = layOut(found);
  const buttons = boxes.map((box) => buttonOf(box));
  const width = Math.max(...boxes.map((box) => box.left)) + BOX.width + 16;
  const height = Math.max(...boxes.map((box) => box.top)) + BOX.down;
  const board = el("div", {
    class: "board",
    role: "group",
    "aria-label": "Tree of the search; arrow keys move along it",
  });
  board.style.width = `${width}px`;
  board.style.height = `${height}px`;
  board.append(linesOf(boxes, width, height), ...headsOf(boxes), ...buttons);
  const boxAt = (event) => boxes[buttons.indexOf(event.target.closest("button"))] ?? null;
  for (const name of ["pointerover", "focusin"]) {
    board.addEventListener(name, (event) => {
      const box = boxAt(event);
      if (!box) return;
      if (name === "focusin") stopAt(buttons[box.node.number], buttons, false);
      show(box);
    });
  }
  board.addEventListener("keydown", (event) => {
    const box = boxAt(event);
    const next = box && step(event.key, box, boxes);
    if (!next) return;
    event.preventDefault();
    stopAt(buttons[next.node.number], buttons, true);
  });
  stopAt(buttons[boxes.find((box) => box.best)?.node.number ?? 0], buttons, false);
  return el("div", { class: "scroll" }, board);
}

function buttonOf(box) {
  const { node } = box;
  const made = el(
    "button",
    {
      type: "button",
      class: "chunk",
      "data-state": box.best ? "best" : node.kept ? "kept" : "dropped",
      "data-ends": node.finish !== null,
      "aria-label": `Boundary ${node.depth + 1}, score ${signed(node.score)}, ${outcomeOf(box)}: ${node.text}`,
    },
    el("span", { class: "words" }, visible(node.text.trim() || node.text)),
    el("span", { class: "score" }, plain(node.score)),
  );
  made.style.left = `${box.left}px`;
  made.style.top = `${box.top}px`;
  made.dataset.side = Math.abs(box.share - 0.5) < 0.02 ? "none" : box.share > 0.5 ? "more" : "less";
  made.style.setProperty("--strength", (Math.abs(box.share - 0.5) * 2).toFixed(3));
  return made;
}

function linesOf(boxes, width, height) {
  const rank = (box) => (box.best ? 2 : box.node.kept ? 1 : 0);
  const lines = [...boxes].sort((a, b) => rank(a) - rank(b));
  return svg(
    "svg",
    { "aria-hidden": "true", width, height, viewBox: `0 0 ${width} ${height}` },
    ...lines.map((box) => svg("path", { class: ["dropped", "kept", "best"][rank(box)], d: curveTo(box, boxes) })),
    svg("circle", { cx: 9, cy: BOX.top + BOX.height / 2, r: 5 }),
  );
}

function headsOf(boxes) {
  const depths = 1 + Math.max(...boxes.map((box) => box.node.depth));
  return Array.from({ length: depths }, (_, depth) => {
    const head = el("span", { class: "column" }, `boundary ${depth + 1}`);
    head.style.left = `${BOX.left + BOX.across * depth}px`;
    return head;
  });
}

/** Left to the parent, right to the best child, up and down within the column. */
function step(key, box, boxes) {
  const { node } = box;
  if (key === "ArrowLeft") return node.parent === null ? null : boxes[node.parent];
  if (key === "ArrowRight") {
    const children = boxes.filter((each) => each.node.parent === node.number);
    return children.sort((a, b) => Number(b.best) - Number(a.best) || a.top - b.top)[0] ?? null;
  }
  const direction = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (!direction) return null;
  return boxes.find((each) => each.left === box.left && each.top === box.top + direction * BOX.down) ?? null;
}
