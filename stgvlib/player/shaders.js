// GLSL of the player: the deformation field of one configuration, the splat, and the pass to the screen.

export const ROW = 2048; // texels of a row of a texture that holds a list
export const CUT = Math.log(255); // sigma at which a weight is 1/255
const MIN_SCALE = 0.3; // px; docs/CONVENTIONS.md, "Gaussians"
const FADE_SCALE = 8;
const HEAD = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
vec4 entry(sampler2D list, int k) { return texelFetch(list, ivec2(k % ${ROW}, k / ${ROW}), 0); }
`;

const float = (value) => (Number.isInteger(value) ? `${value}.0` : String(value));
const list = (type, values) => `${type}[${values.length}](${values.join(", ")})`;

/** A triangle that covers the target; its fragments do the work. */
export const COVER = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }
`;

/**
 * Where the numbers of an MLP lie in uniform blocks, or null where the shader does not know the field.
 * Inputs of each encoding are padded to whole vec4; a layer's outputs j are cut into blocks of at most `blockBytes`.
 * @returns {{rows: number[], inputs: number, quads: number, layers: object[], rest: number} | null}
 */
export function layoutOf(field, blockBytes, mostBlocks) {
  if (field.encoding === "none") return { rows: [], inputs: 0, quads: 0, layers: [], rest: 0 };
  if (field.encoding === "planes" || field.head_layers !== 1 || field.width % 4 || field.width > 256) return null;
  const rows = []; // row of the first layer's weight that each input takes; -1: none
  const add = (from, count) => {
    for (let i = 0; i < Math.ceil(count / 4) * 4; i++) rows.push(i < count ? from + i : -1);
    return from + count;
  };
  if (field.encoding === "positional") add(0, field.inputs);
  field.grids.reduce((from, grid) => add(from, field.levels * grid.features), 0);
  const inputs = rows.length / 4;
  const quads = field.width / 4;
  const layers = [["first", inputs], ["second", quads]].map(([name, from]) => {
    const most = from ? Math.floor(blockBytes / (64 * from)) : quads;
    const blocks = [];
    for (let start = 0; start < quads && most > 0 && from > 0; start += most) {
      blocks.push({ name: `${name}${blocks.length}`, start, count: Math.min(most, quads - start) });
    }
    return { name, from, blocks, fits: most > 0 };
  });
  const rest = 10 * quads + 2;
  const total = layers[0].blocks.length + layers[1].blocks.length + 1;
  if (total > mostBlocks || rest * 16 > blockBytes || layers.some((layer) => !layer.fits)) return null;
  return { rows, inputs, quads, layers, rest };
}

function gridCode({ name, dims, features, levels }) {
  const [vec, uvec] = [`vec${dims}`, `uvec${dims}`];
  const out = features === 2 ? "vec2" : "vec4";
  const scales = levels.map(({ scales }) => `${vec}(${scales.map(float).join(", ")})`);
  const points = levels.map(({ points }) => `uvec2(${points[0]}u, ${(points[0] * points[1]) % 2 ** 32}u)`);
  const sizes = levels.map(({ size }) => `${size}u`);
  const offsets = levels.map(({ offset }) => offset);
  const hashed = levels.map((level) => level.hashed);
  const z = dims === 3;
  return `
uniform sampler2D ${name};
const ${vec} ${name}Scale[${levels.length}] = ${list(vec, scales)};
const uvec2 ${name}Stride[${levels.length}] = ${list("uvec2", points)};
const uint ${name}Size[${levels.length}] = ${list("uint", sizes)};
const int ${name}Offset[${levels.length}] = ${list("int", offsets)};
const bool ${name}Hashed[${levels.length}] = ${list("bool", hashed)};
${out} ${name}Level(int l, ${vec} where) {
  ${out} sum = ${out}(0.0);
  if (l >= ${levels.length}) return sum;
  ${vec} position = where * ${name}Scale[l] + 0.5;
  ${vec} cell = floor(position);
  ${vec} far = position - cell;
  for (int corner = 0; corner < ${2 ** dims}; corner++) {
    ${uvec} corners = ${uvec}(corner & 1, corner >> 1 & 1${z ? ", corner >> 2" : ""});
    ${uvec} c = ${uvec}(cell) + corners;
    ${vec} weight = mix(1.0 - far, far, ${vec}(corners));
    uint row = ${name}Hashed[l]
      ? c.x ^ c.y * 2654435761u${z ? " ^ c.z * 805459861u" : ""}
      : c.x + c.y * ${name}Stride[l].x${z ? ` + c.z * ${name}Stride[l].y` : ""};
    int k = ${name}Offset[l] + int(row % ${name}Size[l]);
    sum += weight.x * weight.y${z ? " * weight.z" : ""} * entry(${name}, k).${features === 2 ? "xy" : "xyzw"};
  }
  return sum;
}
`;
}

function encodingCode(field) {
  if (field.encoding === "positional") {
    const count = 1 + 2 * field.position_frequencies;
    const plain = field.position_code === "plain";
    const turn = plain ? "v * exp2(float(k)) / 6.28318530718" : "v * exp2(float(k - 1))";
    return `
  for (int i = 0; i < ${2 * count}; i++) { // x and y, then the waves of x, sines first, then those of y
    int wave = i - 2;
    bool ofY = i == 1 || wave >= ${count - 1};
    float v = ofY ? point.y : point.x;
    int k = ofY ? wave - ${count - 1} : wave;
    bool cosine = k >= ${field.position_frequencies};
    if (cosine) k -= ${field.position_frequencies};
    float angle = fract(${turn}) * 6.28318530718;
    x[i / 4][i % 4] = i < 2 ? v : cosine ? cos(angle) : sin(angle);
  }
`;
  }
  let at = 0;
  return field.grids.map(({ name, dims, features }) => {
    const kept = dims === 2 ? "heard.x" : "heard.y";
    const place = dims === 2 ? "where" : "vec3(where, clamp(t, 0.0, 1.0))";
    const quads = Math.ceil((field.levels * features) / 4);
    const [first, call] = [at, (l) => `${name}Level(${l}, ${place})`];
    at += quads;
    const value = features === 4 ? call("k") : `vec4(${call("2 * k")}, ${call("2 * k + 1")})`;
    return `  for (int k = 0; k < ${quads}; k++) x[${first} + k] = ${kept} * ${value};\n`;
  }).join("");
}

/** Loops end at uniforms, so that no compiler unrolls them. */
function networkCode(layout) {
  const { layers, quads } = layout;
  const sums = (block, from, values) => `
    for (int k = 0; k < ${from}; k++) {
      int i = (j * ${from} + k) * 4;
      sum += ${values}[k].x * ${block}[i] + ${values}[k].y * ${block}[i + 1];
      sum += ${values}[k].z * ${block}[i + 2] + ${values}[k].w * ${block}[i + 3];
    }`;
  const first = layers[0].blocks.map(({ name, start, count }) => `
  for (int j = 0; j < ${count} * one; j++) {
    vec4 sum = rest[j + ${start}];${sums(name, "loops.x", "x")}
    hidden[j + ${start}] = rectified(sum);
  }`);
  if (!layers[0].blocks.length) first.push(`\n  for (int j = 0; j < ${quads}; j++) hidden[j] = rectified(rest[j]);`);
  const second = layers[1].blocks.map(({ name, start, count }) => `
  for (int j = 0; j < ${count} * one; j++) {
    vec4 sum = rest[j + ${quads + start}];${sums(name, "loops.y", "hidden")}
    sum = rectified(sum);
    int i = ${2 * quads + 2} + (j + ${start}) * 8;
    out0 += sum.x * rest[i] + sum.y * rest[i + 2] + sum.z * rest[i + 4] + sum.w * rest[i + 6];
    out1 += sum.x * rest[i + 1] + sum.y * rest[i + 3] + sum.z * rest[i + 5] + sum.w * rest[i + 7];
  }`);
  return first.join("") + second.join("");
}

const LATTICE = (points) => `
uniform sampler2D lattice;
const ivec3 POINTS = ivec3(${points[2]}, ${points[1]}, ${points[0]}); // x, y, t
vec2 displacement(vec2 where) {
  vec3 most = vec3(POINTS - 1);
  vec3 place = clamp(vec3(where * most.xy, latticeTime), vec3(0.0), most);
  vec3 cell = min(floor(place), max(most - 1.0, 0.0));
  vec3 far = place - cell;
  vec2 sum = vec2(0.0);
  for (int corner = 0; corner < 8; corner++) {
    ivec3 corners = ivec3(corner & 1, corner >> 1 & 1, corner >> 2);
    ivec3 c = min(ivec3(cell) + corners, POINTS - 1);
    vec3 weight = mix(1.0 - far, far, vec3(corners));
    sum += weight.x * weight.y * weight.z * entry(lattice, (c.z * POINTS.y + c.y) * POINTS.x + c.x).xy;
  }
  return sum;
}
`;

/** The fragment shader that writes the deformed Gaussians of one frame: (mu, l1, l2) and (l3, red, green, blue). */
export function deformShader(field, layout) {
  const network = layout.quads > 0;
  const blocks = layout.layers.flatMap(({ from, blocks }) => blocks.map(({ name, count }) => [name, count * from * 4]));
  if (network) blocks.push(["rest", layout.rest]);
  const uniforms = blocks.map(([name, size]) => `layout(std140) uniform ${name}Block { vec4 ${name}[${size}]; };\n`);
  const plain = field.encoding === "positional" && field.position_code === "plain";
  const numbers = field.ownNumbers;
  const own = numbers ? "uniform sampler2D own;\n" : "";
  const moves = [];
  if (network) moves.push("delta += out0.xy * unit;");
  if (field.lattice.length) moves.push("delta += displacement(mu / extent);");
  for (let k = 0; k < field.polynomial; k++) {
    const coefficient = (d) => `entry(own, i * ${numbers} + ${2 * k + d}).x`;
    moves.push(`power *= t; delta += vec2(${coefficient(0)}, ${coefficient(1)}) * power * unit;`);
  }
  const tanh = `
  if (all(greaterThanEqual(mu, vec2(0.0))) && all(lessThanEqual(mu, extent))) {
    vec2 inside = atanh(clamp(mu / extent * 2.0 - 1.0, -0.999999, 0.999999)) + delta;
    moved = (tanh(clamp(inside, -20.0, 20.0)) + 1.0) * 0.5 * extent;
  } else moved = mu;`;
  return `${HEAD}
uniform sampler2D canonicalA, canonicalB;
uniform float t, latticeTime;
uniform vec2 extent, unit, heard;
uniform ivec2 loops;
uniform int one;
${own}${uniforms.join("")}
layout(location = 0) out vec4 outA;
layout(location = 1) out vec4 outB;
vec4 rectified(vec4 v) { return max(v, 0.0) + ${float(field.slope)} * min(v, 0.0); }
${field.grids.map(gridCode).join("")}${field.lattice.length ? LATTICE(field.lattice) : ""}
void main() {
  ivec2 texel = ivec2(gl_FragCoord.xy);
  int i = texel.y * ${ROW} + texel.x;
  vec4 a = texelFetch(canonicalA, texel, 0), b = texelFetch(canonicalB, texel, 0);
  vec2 mu = a.xy, delta = vec2(0.0), point = mu / extent, where = clamp(point, 0.0, 1.0);
  ${plain ? "point = 2.0 * point - 1.0;" : ""}
  float power = 1.0;
  vec4 out0 = ${network ? `rest[${2 * layout.quads}]` : "vec4(0.0)"};
  vec4 out1 = ${network ? `rest[${2 * layout.quads + 1}]` : "vec4(0.0)"};
  ${network ? `vec4 x[${Math.max(layout.inputs, 1)}], hidden[${layout.quads}];` : ""}
  ${network && layout.inputs ? `for (int k = 0; k < ${layout.inputs}; k++) x[k] = vec4(0.0);` : ""}
${network ? encodingCode(field) + networkCode(layout) : ""}
  ${moves.join("\n  ")}
  vec2 moved = mu + delta;${field.position_space === "tanh" ? tanh : ""}
  vec3 rgb = b.yzw;
  ${field.fade ? `rgb *= 1.0 + ${float(FADE_SCALE)} * entry(own, i).x * (2.0 * t - 1.0);` : ""}
  vec3 shape = vec3(a.zw, b.x);
  ${field.deform_shape && network ? `shape += out1.yzw * ${float(field.shapeUnit)};` : ""}
  outA = vec4(moved, shape.xy);
  outB = vec4(shape.z, rgb + vec3(out0.zw, out1.x));
}
`;
}

/**
 * A parallelogram around each Gaussian's ellipse: two triangles, not an instance, since small instances are slow.
 * `paint` 1 colours by motion, 2 by size, weighted. */
export const SPLAT_VERTEX = `${HEAD}
uniform sampler2D gaussianA, gaussianB, canonicalA;
uniform vec2 scale, offset, target;
uniform int paint;
uniform float most;
flat out vec2 centre;
flat out vec3 whitening;
flat out vec4 color;
vec3 hue(float angle) { return clamp(abs(fract(angle + vec3(1.0, 2.0 / 3.0, 1.0 / 3.0)) * 6.0 - 3.0) - 1.0, 0.0, 1.0); }
vec3 ramp(float v) {
  vec3 low = vec3(0.23, 0.30, 0.75), middle = vec3(0.87), high = vec3(0.71, 0.02, 0.15);
  return v < 0.5 ? mix(low, middle, v * 2.0) : mix(middle, high, v * 2.0 - 1.0);
}
void main() {
  int gaussian = gl_VertexID / 6;
  int corner = gl_VertexID % 6;
  corner -= corner > 2 ? 2 : 0; // 0 1 2, 1 2 3
  vec4 a = entry(gaussianA, gaussian), b = entry(gaussianB, gaussian);
  centre = a.xy * scale + offset;
  float l1 = max(a.z * scale.x, ${MIN_SCALE}), l2 = a.w * scale.y, l3 = max(b.x * scale.y, ${MIN_SCALE});
  whitening = vec3(1.0 / l1, l2 / l3, 1.0 / l3);
  color = vec4(b.yzw, 0.0);
  float weight = dot(abs(b.yzw), vec3(0.3, 0.6, 0.1));
  if (paint == 1) {
    vec2 moved = a.xy - entry(canonicalA, gaussian).xy;
    vec3 shade = hue(atan(moved.y, moved.x) / 6.28318530718 + 0.5);
    color = vec4(mix(vec3(0.12), shade, clamp(length(moved) / most, 0.0, 1.0)), 1.0) * weight;
  } else if (paint == 2) {
    float octaves = log2(max(a.z * b.x, 0.09)) * 0.5;
    color = vec4(ramp(clamp((octaves + 1.0) / 6.0, 0.0, 1.0)), 1.0) * weight;
  }
  vec2 z = vec2(corner & 1, corner >> 1) * 2.0 - 1.0;
  z *= ${Math.sqrt(2 * CUT) * 1.0005};
  vec2 place = centre + vec2(l1 * z.x, l2 * z.x + l3 * z.y);
  gl_Position = vec4(place / target * 2.0 - 1.0, 0.0, 1.0);
}
`;

export const SPLAT_FRAGMENT = `${HEAD}
flat in vec2 centre;
flat in vec3 whitening;
flat in vec4 color;
out vec4 sum;
void main() {
  vec2 d = gl_FragCoord.xy - centre;
  float z1 = d.x * whitening.x;
  float z2 = d.y * whitening.z - z1 * whitening.y;
  float sigma = 0.5 * (z1 * z1 + z2 * z2);
  if (sigma > ${CUT}) discard;
  sum = color * exp(-sigma);
}
`;

/** To the screen: clamped, enlarged where fewer pixels were rendered; or beside a reference, or the difference. */
export const SCREEN = `${HEAD}
uniform sampler2D picture, reference;
uniform vec2 canvas, offset, size;
uniform float ratio, split, gain;
uniform int mode;
uniform bool average;
out vec4 shown;
vec3 texel(ivec2 at) {
  vec4 sum = texelFetch(picture, clamp(at, ivec2(0), textureSize(picture, 0) - 1), 0);
  return clamp(average ? sum.rgb / max(sum.a, 1e-4) * min(sum.a * 8.0, 1.0) : sum.rgb, 0.0, 1.0);
}
void main() {
  vec2 place = vec2(gl_FragCoord.x, canvas.y - gl_FragCoord.y);
  vec2 at = place * ratio;
  vec2 where = (at - offset) / size;
  if (any(lessThan(where, vec2(0.0))) || any(greaterThan(where, vec2(1.0)))) { shown = vec4(0.0); return; }
  vec3 color;
  if (ratio == 1.0) color = texel(ivec2(at));
  else {
    vec2 low = floor(at - 0.5), far = at - 0.5 - low;
    ivec2 p = ivec2(low);
    vec3 top = mix(texel(p), texel(p + ivec2(1, 0)), far.x);
    color = mix(top, mix(texel(p + ivec2(0, 1)), texel(p + ivec2(1, 1)), far.x), far.y);
  }
  if (mode > 0) {
    vec3 other = texture(reference, where).rgb;
    if (mode == 1 && where.x > split) color = other;
    if (mode == 2) color = min(abs(color - other) * gain, 1.0);
  }
  shown = vec4(color, 1.0);
}
`;
