// Keys, pointers and dropped files, as calls of the player's methods.

const PAN = 4; // px that a pointer moves before a click becomes a drag

/** Keys of the player; `target` is the document of a page, or the player's element in a notebook. */
export function listenToKeys(target, player) {
  const actions = {
    " ": () => player.toggle(),
    ArrowLeft: (event) => player.go(player.frame - (event.shiftKey ? 10 : 1)),
    ArrowRight: (event) => player.go(player.frame + (event.shiftKey ? 10 : 1)),
    Home: () => player.go(0),
    End: () => player.go(player.total - 1),
    f: () => player.fullScreen(),
    "+": () => player.zoomBy(1.25),
    "=": () => player.zoomBy(1.25),
    "-": () => player.zoomBy(0.8),
    0: () => player.fit(),
  };
  target.addEventListener("keydown", (event) => {
    const { tagName, type } = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || tagName === "SELECT") return;
    if (event.key === " " && (tagName === "BUTTON" || type === "checkbox")) return;
    if (event.target.classList?.contains("split") && event.key.startsWith("Arrow")) return;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action(event);
  });
}

/** Wheel and two fingers zoom, one finger or the mouse drags, a click picks a Gaussian. */
export function listenToPointers(stage, player) {
  const pointers = new Map();
  let travelled = 0;
  const place = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const spread = () => {
    const [[x0, y0], [x1, y1]] = [...pointers.values()];
    return { distance: Math.hypot(x1 - x0, y1 - y0), middle: [(x0 + x1) / 2, (y0 + y1) / 2] };
  };
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    player.zoomBy(2 ** (-event.deltaY * (event.deltaMode ? 16 : 1) / 400), place(event));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.target.closest("input, .message")) return;
    if (pointers.size === 0) travelled = 0;
    pointers.set(event.pointerId, place(event));
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const [before, now] = [pointers.get(event.pointerId), place(event)];
    const pair = pointers.size === 2 ? spread() : null;
    pointers.set(event.pointerId, now);
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (travelled < PAN) return;
    stage.classList.add("dragged");
    if (pair) {
      const { distance, middle } = spread();
      player.panBy(middle[0] - pair.middle[0], middle[1] - pair.middle[1]);
      player.zoomBy(distance / Math.max(pair.distance, 1), middle);
    } else player.panBy(now[0] - before[0], now[1] - before[1]);
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (pointers.size === 0) stage.classList.remove("dragged");
    if (event.type === "pointerup" && travelled < PAN) player.pick(place(event));
  };
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);
}

/** Files that are dropped anywhere on `root`, or chosen. */
export function listenToFiles(root, parts, player) {
  parts.choose.addEventListener("click", () => parts.input.click());
  parts.input.addEventListener("change", () => {
    if (parts.input.files.length) player.take([...parts.input.files]);
    parts.input.value = "";
  });
  let inside = 0;
  root.addEventListener("dragenter", () => root.classList.toggle("over", (inside += 1) > 0));
  root.addEventListener("dragleave", () => root.classList.toggle("over", (inside -= 1) > 0));
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    inside = 0;
    root.classList.remove("over");
    if (event.dataTransfer.files.length) player.take([...event.dataTransfer.files]);
  });
}
