// Roving tabindex: a group is one stop for Tab, and the arrow keys move within it.

/** Make one item of a group the stop, and give it the focus if wanted. */
export function stopAt(item, items, focus) {
  for (const each of items) each.tabIndex = each === item ? 0 : -1;
  if (focus) item.focus();
}

/** The item that an arrow, Home or End leads to in a row of items, or null. */
export function neighbour(key, item, items) {
  const place = items.indexOf(item);
  const wanted = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: items.length - 1 }[key];
  return wanted === undefined ? null : (items[wanted] ?? null);
}

/** The item in the next line of text, above (-1) or below (1), nearest across; null at the edge. */
export function lineNeighbour(direction, item, items) {
  const from = item.getBoundingClientRect();
  const middle = (from.left + from.right) / 2;
  let best = null;
  for (const each of items) {
    const box = each.getBoundingClientRect();
    const down = (box.top - from.top) * direction;
    if (down < from.height / 2) continue;
    const far = Math.abs((box.left + box.right) / 2 - middle);
    if (!best || down < best.down - 2 || (Math.abs(down - best.down) <= 2 && far < best.far))
      best = { each, down, far };
  }
  return best?.each ?? null;
}
