// The player's elements. Text is set as text only: names in a file are never read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  play: "M6 4l14 8-14 8z",
  pause: "M6 4h4v16H6zM14 4h4v16h-4z",
  back: "M17 5v14L8 12zM5 5h2v14H5z",
  next: "M7 5v14l9-7zM17 5h2v14h-2z",
  full: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z",
  plus: "M11 5h2v6h6v2h-6v6h-2v-6H5v-2h6z",
  minus: "M5 11h14v2H5z",
};
const SPEEDS = [["0.1", "0.1×"], ["0.25", "0.25×"], ["0.5", "0.5×"], ["1", "1×"], ["2", "2×"]];
const VIEWS = [
  ["picture", "Picture"],
  ["canonical", "Canonical (not deformed)"],
  ["motion", "Colour by motion"],
  ["size", "Colour by size"],
];
const HASHES = [["static", "Static only (2D hash)"], ["dynamic", "Dynamic only (3D hash)"]];
const COMPARISONS = [["split", "Split with the reference"], ["error", "Error map, 8 times"]];
const RESOLUTIONS = [["auto", "Auto"], ["1", "Full"], ["0.5", "Half"], ["0.25", "Quarter"]];
const MARKS =
  "Lines: a group of pictures begins; short: it is predicted from the one before. " +
  "Dots: the frame nearest to the canonical Gaussians of its group.";
/** What the colours of a view mean. */
export const LEGENDS = {
  motion: "Hue: direction of the displacement. Brightness: its length.",
  size: "Blue: small Gaussians. Red: large Gaussians.",
  canonical: "The canonical Gaussians of this group, before the field moves them.",
  static: "The 3D hash gives zeros.",
  dynamic: "The 2D hash gives zeros.",
  split: "Left: fitted. Right: reference.",
  error: "Absolute difference to the reference, 8 times.",
};

/** An element with properties and children; children that are strings become text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Shows icon `name` on a button. */
export function setIcon(button, name, label) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  button.replaceChildren(svg);
  button.setAttribute("aria-label", label);
  button.title = label;
}

function iconButton(name, label) {
  const button = element("button", { type: "button", class: "icon" });
  setIcon(button, name, label);
  return button;
}

function menu(label, options) {
  const select = element("select", { "aria-label": label, title: label });
  select.append(...options.map(([value, text]) => element("option", { value }, text)));
  return select;
}

function box(text) {
  const input = element("input", { type: "checkbox" });
  return { input, label: element("label", { class: "box" }, input, text) };
}

/** Fills `root` with the player's elements. @returns {object} them by name */
export function buildControls(root) {
  const parts = {
    name: element("h1", {}, "No file"),
    facts: element("p", { class: "facts" }, "Drop a .stgv file here, or choose one."),
    choose: element("button", { type: "button", class: "choose" }, "Open file"),
    input: element("input", { type: "file", hidden: true, "aria-label": "Open file" }),
    picture: element("canvas", { class: "picture" }),
    overlay: element("canvas", { class: "overlay" }),
    message: element("p", { class: "message", role: "alert", hidden: true }),
    legend: element("p", { class: "legend", hidden: true }),
    numbers: element("dl", { class: "numbers", hidden: true }),
    marks: element("canvas", { class: "marks", title: MARKS, "aria-hidden": "true" }),
    time: element("input", { type: "range", min: 0, max: 0, value: 0, class: "time", "aria-label": "Frame" }),
    play: iconButton("play", "Play (space)"),
    back: iconButton("back", "One frame back (left arrow)"),
    next: iconButton("next", "One frame on (right arrow)"),
    frame: element("output", { class: "frame" }, "–"),
    rate: element("output", { class: "rate", title: "Frames shown in the last second" }),
    speed: menu("Speed", SPEEDS),
    view: menu("View", VIEWS),
    resolution: menu("Resolution", RESOLUTIONS),
    smaller: iconButton("minus", "Zoom out (-)"),
    zoom: element("button", { type: "button", title: "Show the whole frame (0)" }, "100 %"),
    larger: iconButton("plus", "Zoom in (+)"),
    full: iconButton("full", "Full screen (f)"),
    split: element("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0.5, class: "split", hidden: true }),
    ellipses: box("Ellipses"),
    arrows: box("Arrows"),
  };
  parts.split.setAttribute("aria-label", "Where the reference begins");
  parts.speed.value = "1";
  parts.stage = element("div", { class: "stage" });
  parts.stage.append(parts.picture, parts.overlay, parts.split, parts.legend, parts.numbers, parts.message);
  const title = element("div", { class: "title" }, parts.name, parts.facts);
  const zoom = element("div", { class: "group" }, parts.smaller, parts.zoom, parts.larger, parts.full);
  const playing = element("div", { class: "group" }, parts.back, parts.play, parts.next, parts.frame);
  const menus = element("div", { class: "group" }, parts.speed, parts.view, parts.resolution);
  const boxes = element("div", { class: "group" }, parts.ellipses.label, parts.arrows.label);
  root.replaceChildren(
    element("header", {}, title, parts.input, parts.choose),
    parts.stage,
    element("div", { class: "line" }, parts.time, parts.marks),
    element("div", { class: "bar" }, playing, parts.rate, menus, boxes, zoom),
  );
  return parts;
}

/** What the page says of a file, piece by piece. */
export function factsOf({ header, bytes }, frames) {
  const number = (value) => value.toLocaleString("en-US");
  const gops = header.frames.length;
  const pixels = frames * header.size[0] * header.size[1];
  return [
    `${header.size[1]}×${header.size[0]}`,
    `${number(frames)} frames`,
    `${header.durations ? "variable, about " : ""}${number(Math.round(header.fps * 1000) / 1000)} frames/s`,
    `${number(gops)} ${gops > 1 ? "groups" : "group"} of pictures`,
    `up to ${number(header.gaussians)} Gaussians a group`,
    `${number(bytes)} bytes (${((8 * bytes) / pixels).toFixed(4)} bits a pixel)`,
  ];
}

/** Offers the views that a file has: one hash alone, where it has both, and with `compared` those with a reference. */
export function offerViews({ view }, field, compared) {
  const both = field?.grids.length === 2;
  const options = [...VIEWS, ...(both ? HASHES : []), ...(compared ? COMPARISONS : [])];
  view.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

/** Draws where GoPs begin, predicted ones with short lines, and the frames nearest to the canonical Gaussians. */
export function drawMarks(canvas, starts, total, keys, predicted) {
  const ratio = globalThis.devicePixelRatio || 1;
  const sides = [canvas.clientWidth, canvas.clientHeight];
  const [width, height] = sides.map((side) => Math.max(1, Math.round(side * ratio)));
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  const inset = 8 * ratio; // half of the slider's thumb
  const place = (frame) => inset + (total > 1 ? frame / (total - 1) : 0) * (width - 2 * inset);
  starts.forEach((start, g) => {
    const end = starts[g + 1] ?? total - 1;
    context.fillStyle = g % 2 ? "#33373d" : "#454a52";
    context.fillRect(place(start), 0, Math.max(place(end) - place(start), ratio), 3 * ratio);
    context.fillStyle = "#8b929b";
    context.fillRect(place(start), 0, ratio, predicted(g) ? height / 2 : height);
  });
  context.fillStyle = getComputedStyle(canvas).color;
  for (const frame of keys) {
    context.beginPath();
    context.arc(place(frame), height - 3 * ratio, 2.5 * ratio, 0, 7);
    context.fill();
  }
}
