// What is drawn over the picture: outlines of Gaussians, arrows of their displacement, and the one that was clicked.

const MARKED = 300; // Gaussians that get an ellipse or an arrow, of the stronger half in view
const COLORS = { ellipse: "#ffd54a", arrow: "#ff6b5e", picked: "#5ab0f6" };

/** Ellipses at one standard deviation, arrows from the canonical place, and the ellipse of Gaussian `picked`. */
export function drawOverlay(context, gaussians, view, { ellipses, arrows, picked }) {
  const { width, height } = context.canvas;
  context.clearRect(0, 0, width, height);
  if (!gaussians) return;
  const ratio = globalThis.devicePixelRatio || 1;
  context.lineWidth = ratio;
  const marked = ellipses || arrows ? markedOf(gaussians, view, width, height) : [];
  if (ellipses) for (const i of marked) outline(context, gaussians, view, i, COLORS.ellipse, 1);
  if (arrows) for (const i of marked) arrow(context, gaussians, view, i, ratio);
  if (picked === null || picked >= gaussians.mu.length / 2) return;
  context.lineWidth = 2 * ratio;
  for (const deviations of [1, Math.sqrt(2 * Math.log(255))]) {
    outline(context, gaussians, view, picked, COLORS.picked, deviations);
  }
}

const strength = ({ cholesky, rgb }, i) => {
  const color = Math.abs(rgb[3 * i]) + Math.abs(rgb[3 * i + 1]) + Math.abs(rgb[3 * i + 2]);
  return color * Math.abs(cholesky[3 * i] * cholesky[3 * i + 2]);
};

/** Evenly over the picture: Gaussians lie in the file as they lie in space. */
function markedOf(gaussians, view, width, height) {
  const inside = [];
  for (let i = 0; i < gaussians.mu.length / 2; i++) {
    const x = gaussians.mu[2 * i] * view.scale[0] + view.offset[0];
    const y = gaussians.mu[2 * i + 1] * view.scale[1] + view.offset[1];
    if (x >= 0 && y >= 0 && x < width && y < height) inside.push(i);
  }
  const all = inside.map((i) => strength(gaussians, i)).sort((a, b) => a - b);
  const strong = inside.filter((i) => strength(gaussians, i) >= all[all.length >> 1]);
  const every = Math.max(1, Math.floor(strong.length / MARKED));
  return strong.filter((_, k) => k % every === 0);
}

function outline(context, { mu, cholesky }, view, i, color, deviations) {
  const [sx, sy] = view.scale;
  context.strokeStyle = color;
  context.beginPath();
  for (let k = 0; k <= 32; k++) {
    const [a, b] = [Math.cos((k * Math.PI) / 16) * deviations, Math.sin((k * Math.PI) / 16) * deviations];
    const x = (mu[2 * i] + cholesky[3 * i] * a) * sx + view.offset[0];
    const y = (mu[2 * i + 1] + cholesky[3 * i + 1] * a + cholesky[3 * i + 2] * b) * sy + view.offset[1];
    if (k === 0) context.moveTo(x, y);
    else context.lineTo(x, y);
  }
  context.stroke();
}

function arrow(context, { mu, home }, view, i, ratio) {
  const place = (from, d) => from[2 * i + d] * view.scale[d] + view.offset[d];
  const [x0, y0, x1, y1] = [place(home, 0), place(home, 1), place(mu, 0), place(mu, 1)];
  const length = Math.hypot(x1 - x0, y1 - y0);
  context.strokeStyle = COLORS.arrow;
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  if (length > 3 * ratio) {
    const angle = Math.atan2(y1 - y0, x1 - x0);
    for (const turn of [2.6, -2.6]) {
      const tip = Math.min(5 * ratio, length / 2);
      context.moveTo(x1, y1);
      context.lineTo(x1 + tip * Math.cos(angle + turn), y1 + tip * Math.sin(angle + turn));
    }
  }
  context.stroke();
}

/** The Gaussian that adds most at a point in px of the fitted frame, or null. */
export function strongestAt(gaussians, x, y) {
  const { mu, cholesky, rgb } = gaussians;
  let best = null;
  let most = 0;
  for (let i = 0; i < mu.length / 2; i++) {
    const z1 = (x - mu[2 * i]) / cholesky[3 * i];
    const z2 = (y - mu[2 * i + 1] - z1 * cholesky[3 * i + 1]) / cholesky[3 * i + 2];
    const sigma = (z1 * z1 + z2 * z2) / 2;
    if (!(sigma <= Math.log(255))) continue;
    const color = Math.abs(rgb[3 * i]) + Math.abs(rgb[3 * i + 1]) + Math.abs(rgb[3 * i + 2]);
    if (color * Math.exp(-sigma) > most) [best, most] = [i, color * Math.exp(-sigma)];
  }
  return best;
}

/** The numbers of Gaussian i: [[name, value], ...]. */
export function numbersOf({ mu, cholesky, rgb, home }, i) {
  const text = (values, start, count, digits) => {
    return Array.from(values.slice(start, start + count), (value) => value.toFixed(digits)).join(", ");
  };
  const moved = Float32Array.from([0, 1], (d) => mu[2 * i + d] - home[2 * i + d]);
  return [
    ["Gaussian", String(i)],
    ["position, px", text(mu, 2 * i, 2, 2)],
    ["moved by, px", text(moved, 0, 2, 2)],
    ["l1, l2, l3, px", text(cholesky, 3 * i, 3, 2)],
    ["red, green, blue", text(rgb, 3 * i, 3, 3)],
  ];
}
