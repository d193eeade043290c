// Renders frames with WebGL2: the field deforms a GoP's Gaussians into textures, quads add them up in a float target.

import { FileError } from "./entropy.js";
import { deform, latticeTime, timeBias } from "./field.js";
import { blocksOf, packed, unpacked } from "./pack.js";
import { COVER, ROW, SCREEN, SPLAT_FRAGMENT, SPLAT_VERTEX, deformShader, layoutOf } from "./shaders.js";

const KEPT = 6; // GoPs on the GPU
const MOST_COMPUTED = 128e6; // bytes of frames that JavaScript deformed
const FORMATS = { 1: ["R32F", "RED"], 2: ["RG32F", "RG"], 4: ["RGBA32F", "RGBA"] };

/** Frames of one file on one canvas. Raises FileError where the browser or the GPU cannot show it. */
export class Renderer {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {object} header of the file
   * @param {function(number): object} gopOf gives a decoded GoP, or null where it is damaged
   * @param {boolean} shader whether the GPU runs the field; unset, where there is a GPU: a CPU is faster in JavaScript
   */
  constructor(canvas, header, gopOf, shader = undefined) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: true, preserveDrawingBuffer: true });
    if (!gl) throw new FileError("This browser has no WebGL2, or it is switched off: the file cannot be played here.");
    if (!gl.getExtension("EXT_color_buffer_float")) {
      throw new FileError("This GPU cannot render to textures of floats: the file cannot be played here.");
    }
    this.gl = gl;
    this.canvas = canvas;
    this.header = header;
    this.gopOf = gopOf;
    this.blends32 = gl.getExtension("EXT_float_blend") !== null;
    this.most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    const { field } = header;
    const longest = Math.max(header.gaussians * Math.max(field.ownNumbers, 1), ...field.tensors.map((t) => t.length));
    if (longest / ROW > this.most) throw new FileError("The file is too large for this GPU.");
    const blockBytes = Math.min(gl.getParameter(gl.MAX_UNIFORM_BLOCK_SIZE), 65536);
    this.layout = layoutOf(field, blockBytes, gl.getParameter(gl.MAX_FRAGMENT_UNIFORM_BLOCKS));
    this.moves = field.encoding !== "none" || field.ownNumbers > 0 || field.lattice.length > 0;
    this.rows = Math.max(1, Math.ceil(header.gaussians / ROW));
    this.deformProgram = null;
    if (this.layout && this.moves && (shader ?? !this.isSoftware())) {
      this.deformProgram = this.program(COVER, deformShader(field, this.layout));
    }
    this.splatProgram = this.program(SPLAT_VERTEX, SPLAT_FRAGMENT);
    this.screenProgram = this.program(COVER, SCREEN);
    this.deformed = [0, 1].map(() => this.texture("RGBA32F", ROW, this.rows));
    this.deformTarget = this.framebuffer(this.deformed);
    this.picture = { width: 0, height: 0, texture: null, framebuffer: null };
    this.referenceTexture = this.texture("RGBA8", 1, 1);
    this.gops = new Map();
    this.computed = new Map(); // frames of the field in JavaScript
    this.deformedFrame = null;
    gl.bindVertexArray(gl.createVertexArray());
    const error = gl.getError();
    if (error === gl.OUT_OF_MEMORY) throw new FileError("The file is too large for this GPU.");
  }

  isSoftware() {
    const { gl } = this;
    const about = gl.getExtension("WEBGL_debug_renderer_info");
    const name = gl.getParameter(about ? about.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
    return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
  }

  program(vertex, fragment) {
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
      const reason = [gl.getProgramInfoLog(program), ...logs].join(" ").slice(0, 200);
      throw new FileError(`This GPU does not take the player's shaders: ${reason}`);
    }
    const uniforms = {};
    for (let k = 0; k < gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS); k++) {
      const { name } = gl.getActiveUniform(program, k);
      uniforms[name] = gl.getUniformLocation(program, name);
    }
    return { program, uniforms };
  }

  /** An empty texture that is read texel by texel. */
  texture(format, width, height) {
    const { gl } = this;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl[format], width, height);
    this.sampling(gl.NEAREST);
    return texture;
  }

  sampling(filter) {
    const { gl } = this;
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  }

  framebuffer(textures) {
    const { gl } = this;
    const framebuffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    textures.forEach((texture, k) => {
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + k, gl.TEXTURE_2D, texture, 0);
    });
    gl.drawBuffers(textures.map((_, k) => gl.COLOR_ATTACHMENT0 + k));
    return framebuffer;
  }

  /** A texture that holds a list of entries of 1, 2 or 4 floats, ROW a row. */
  list(values, floats, rows = Math.max(1, Math.ceil(values.length / floats / ROW))) {
    const [format, layout] = FORMATS[floats];
    const texture = this.texture(format, ROW, rows);
    this.fill(texture, values, floats, layout);
    return texture;
  }

  fill(texture, values, floats, layout) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    const rows = Math.ceil(values.length / floats / ROW);
    if (!rows) return;
    const padded = values.length === rows * ROW * floats ? values : new Float32Array(rows * ROW * floats);
    if (padded !== values) padded.set(values);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, rows, gl[layout], gl.FLOAT, padded);
  }

  /** A GoP on the GPU, decoded when it is first asked for; null where it is damaged. */
  gop(number) {
    if (this.gops.has(number)) {
      const found = this.gops.get(number);
      this.gops.delete(number);
      this.gops.set(number, found);
      return found;
    }
    const decoded = this.gopOf(number);
    const made = decoded && this.upload(decoded);
    this.gops.set(number, made);
    if (this.gops.size > KEPT) {
      const [oldest, old] = this.gops.entries().next().value;
      this.gops.delete(oldest);
      if (old) this.free(old);
    }
    return made;
  }

  upload(decoded) {
    const { gl, layout } = this;
    const { field } = this.header;
    const made = { decoded, count: decoded.count, lists: {}, blocks: {} };
    const [a, b] = packed(decoded);
    made.canonical = [this.list(a, 4, this.rows), this.list(b, 4, this.rows)];
    if (!this.deformProgram) return made;
    if (field.ownNumbers) made.lists.own = this.list(decoded.own, 1);
    if (field.lattice.length) made.lists.lattice = this.list(decoded.tensors.lattice, 2);
    for (const { name, features } of field.grids) made.lists[name] = this.list(decoded.tensors[name], features);
    for (const [name, values] of Object.entries(blocksOf(field, layout, decoded.tensors))) {
      const buffer = gl.createBuffer();
      gl.bindBuffer(gl.UNIFORM_BUFFER, buffer);
      gl.bufferData(gl.UNIFORM_BUFFER, values, gl.DYNAMIC_DRAW);
      made.blocks[name] = buffer;
    }
    return made;
  }

  free(made) {
    for (const texture of [...made.canonical, ...Object.values(made.lists)]) this.gl.deleteTexture(texture);
    for (const buffer of Object.values(made.blocks)) this.gl.deleteBuffer(buffer);
  }

  use({ program, uniforms }, values, textures) {
    const { gl } = this;
    gl.useProgram(program);
    Object.entries(textures).forEach(([name, texture], unit) => {
      if (!(name in uniforms)) return;
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(uniforms[name], unit);
    });
    for (const [name, value] of Object.entries(values)) {
      if (!(name in uniforms)) continue;
      if (name === "loops") gl.uniform2iv(uniforms[name], value);
      else if (Array.isArray(value)) gl.uniform2fv(uniforms[name], value);
      else if (["one", "mode", "paint", "average"].includes(name)) gl.uniform1i(uniforms[name], value);
      else gl.uniform1f(uniforms[name], value);
    }
  }

  /** Writes the Gaussians of a frame into `deformed`. @returns {object} the GoP on the GPU, null where it is damaged */
  deform(gopNumber, index, silent = null) {
    const { gl, header } = this;
    const { field, size } = header;
    const made = this.gop(gopNumber);
    const name = `${gopNumber}/${index}/${silent}`;
    if (!made || !this.moves || this.deformedFrame === name) return made;
    this.deformedFrame = name;
    const t = Math.fround((index + 1) / header.frames[gopNumber]);
    if (!this.deformProgram) {
      const found = this.computed.get(name) ?? packed(deform(made.decoded, header, t, silent));
      this.computed.set(name, found);
      if (this.computed.size * made.count * 32 > MOST_COMPUTED) this.computed.delete(this.computed.keys().next().value);
      found.forEach((values, k) => this.fill(this.deformed[k], values, 4, "RGBA"));
      return made;
    }
    if (made.blocks.rest) {
      gl.bindBuffer(gl.UNIFORM_BUFFER, made.blocks.rest);
      gl.bufferSubData(gl.UNIFORM_BUFFER, 0, timeBias(field, made.decoded.tensors, t));
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.deformTarget);
    gl.viewport(0, 0, ROW, this.rows);
    gl.disable(gl.BLEND);
    gl.disable(gl.SCISSOR_TEST);
    const values = {
      t,
      latticeTime: latticeTime(field, t),
      extent: [size[1], size[0]],
      unit: field.unit,
      heard: [silent === "spatial" ? 0 : 1, silent === "temporal" ? 0 : 1],
      loops: [this.layout.inputs, this.layout.quads],
      one: 1,
    };
    const textures = { canonicalA: made.canonical[0], canonicalB: made.canonical[1], ...made.lists };
    this.use(this.deformProgram, values, textures);
    Object.entries(made.blocks).forEach(([block, buffer], k) => {
      const { program } = this.deformProgram;
      gl.uniformBlockBinding(program, gl.getUniformBlockIndex(program, `${block}Block`), k);
      gl.bindBufferBase(gl.UNIFORM_BUFFER, k, buffer);
    });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    return made;
  }

  /** Gaussians of a frame as they are rendered. @returns {{mu, cholesky, rgb, home}} px */
  gaussians(gopNumber, index, { canonical, silent } = {}) {
    const { gl } = this;
    const made = this.deform(gopNumber, index, silent);
    if (!made) return { mu: [], cholesky: [], rgb: [], home: [] };
    const { mu, cholesky, rgb } = made.decoded;
    if (canonical || !this.moves) return { mu, cholesky, rgb, home: mu };
    const parts = [0, 1].map((k) => {
      const values = new Float32Array(4 * ROW * this.rows);
      gl.bindFramebuffer(gl.FRAMEBUFFER, this.deformTarget);
      gl.readBuffer(gl.COLOR_ATTACHMENT0 + k);
      gl.readPixels(0, 0, ROW, this.rows, gl.RGBA, gl.FLOAT, values);
      return values;
    });
    return { ...unpacked(parts, made.count), home: mu };
  }

  target(width, height) {
    const { gl, picture } = this;
    if (picture.width === width && picture.height === height) return;
    if (Math.max(width, height) > this.most) {
      throw new FileError(`A picture of ${width}x${height} is too large for this GPU.`);
    }
    gl.deleteTexture(picture.texture);
    gl.deleteFramebuffer(picture.framebuffer);
    const texture = this.texture(this.blends32 ? "RGBA32F" : "RGBA16F", width, height);
    this.picture = { width, height, texture, framebuffer: this.framebuffer([texture]) };
  }

  /**
   * Adds up the Gaussians of a frame in the float target.
   * @param {object} view {scale: [x, y], offset: [x, y]} from px of the fitted frame to px of the target
   * @param {object} how {canonical, silent: a hash that gives zeros, paint: 0, 1 (motion) or 2 (size)}
   */
  splat(gopNumber, index, [width, height], view, how = {}) {
    const { gl } = this;
    const made = this.deform(gopNumber, index, how.silent);
    this.target(width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.picture.framebuffer);
    gl.viewport(0, 0, width, height);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!made || !made.count) return;
    const [fittedHeight, fittedWidth] = this.header.size;
    const corner = view.offset.map(Math.floor);
    const end = [fittedWidth, fittedHeight].map((side, d) => Math.ceil(side * view.scale[d] + view.offset[d]));
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(corner[0], corner[1], Math.max(0, end[0] - corner[0]), Math.max(0, end[1] - corner[1]));
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    const [a, b] = how.canonical || !this.moves ? made.canonical : this.deformed;
    const values = {
      scale: view.scale,
      offset: view.offset,
      target: [width, height],
      paint: how.paint ?? 0,
      most: Math.max(fittedWidth, fittedHeight) / 60,
    };
    this.use(this.splatProgram, values, { gaussianA: a, gaussianB: b, canonicalA: made.canonical[0] });
    gl.drawArrays(gl.TRIANGLES, 0, 6 * made.count);
    gl.disable(gl.BLEND);
    gl.disable(gl.SCISSOR_TEST);
  }

  /** Shows what `splat` made on the canvas; `ratio` px of the target lie in one of the canvas. */
  show(view, ratio, how = {}) {
    const { gl, canvas, header } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, canvas.width, canvas.height);
    const values = {
      canvas: [canvas.width, canvas.height],
      offset: view.offset,
      size: [header.size[1] * view.scale[0], header.size[0] * view.scale[1]],
      ratio,
      split: how.split ?? 0.5,
      gain: how.gain ?? 8,
      mode: how.mode ?? 0,
      average: how.paint ? 1 : 0,
    };
    this.use(this.screenProgram, values, { picture: this.picture.texture, reference: this.referenceTexture });
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** A frame at `ratio` times the fitted size. @returns {{width, height, rgb: Float32Array}} not clamped */
  pixels(gopNumber, index, ratio = 1) {
    const { gl, header } = this;
    const [height, width] = header.size.map((side) => Math.max(1, Math.round(side * ratio)));
    const view = { scale: [width / header.size[1], height / header.size[0]], offset: [0, 0] };
    this.splat(gopNumber, index, [width, height], view);
    const values = new Float32Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, values);
    const rgb = new Float32Array(3 * width * height);
    for (let i = 0; i < width * height; i++) for (let c = 0; c < 3; c++) rgb[3 * i + c] = values[4 * i + c];
    return { width, height, rgb };
  }

  /** The picture that split and error map compare with: anything that a texture takes. */
  setReference(source) {
    const { gl } = this;
    gl.deleteTexture(this.referenceTexture);
    this.referenceTexture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.referenceTexture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
    this.sampling(gl.LINEAR);
  }

  /** Frees what a file holds on the GPU; the canvas can take another. */
  close() {
    for (const made of this.gops.values()) if (made) this.free(made);
    this.gops.clear();
    this.computed.clear();
    const textures = [...this.deformed, this.picture.texture, this.referenceTexture];
    for (const texture of textures) this.gl.deleteTexture(texture);
    for (const made of [this.deformProgram, this.splatProgram, this.screenProgram]) {
      if (made) this.gl.deleteProgram(made.program);
    }
  }
}
