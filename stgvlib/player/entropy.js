// Reads entropy-coded integers (docs/FORMAT.md, "Integers"). Numbers are doubles: they reach 2^35 and are exact.

const PRECISION = 14; // bits of a token's count: they sum to 2^14
const SMALL = 16; // integers below it are their own token
const TOKENS = SMALL + 28 * 4;
const WEIGHTS = [0, ...Array.from({ length: 43 }, (_, level) => Math.floor(16 * 2 ** (level / 3) + 0.5))];

/** A file that cannot be shown. Its message is one line for the page. */
export class FileError extends Error {}

/** Reads the bytes of a GoP's section from its start. Raises FileError where they end too early. */
export class Reader {
  /** @param {Uint8Array} data bytes of the section */
  constructor(data) {
    this.data = data;
    this.view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    this.at = 0;
  }

  /** Whether no byte is left. */
  get atEnd() {
    return this.at === this.data.length;
  }

  /** @returns {number} where the next `count` bytes begin; they are passed over */
  take(count) {
    const start = this.at;
    if (start + count > this.data.length) throw new FileError("is cut off");
    this.at = start + count;
    return start;
  }

  /** @returns {number} */
  uint16() {
    return this.view.getUint16(this.take(2), true);
  }

  /** @returns {number} */
  uint32() {
    return this.view.getUint32(this.take(4), true);
  }

  /** @returns {number} */
  int32() {
    return this.view.getInt32(this.take(4), true);
  }

  /** @returns {number} */
  float32() {
    return this.view.getFloat32(this.take(4), true);
  }

  /** @returns {number} of seven bits a byte, lowest first */
  varint() {
    let value = 0;
    for (let part = 0; part < 5; part++) {
      const byte = this.data[this.take(1)];
      value += (byte & 127) * 2 ** (7 * part);
      if (byte < 128) return value;
    }
    throw new FileError("has a number of more than 35 bits");
  }

  /** @returns {Float64Array} numbers of `widths[i]` raw bits each, in one string of bits that is padded at its end */
  bits(widths) {
    const out = new Float64Array(widths.length);
    const take = new BitTaker(this);
    for (let i = 0; i < widths.length; i++) out[i] = take.next(widths[i]);
    return out;
  }

  /** @returns {Float64Array} a run of `count` integers */
  integers(count) {
    const kind = this.data[this.take(1)];
    const coded = this.varint();
    const origin = coded % 2 ? -(coded + 1) / 2 : coded / 2;
    if (kind > 2) throw new FileError("has integers of an unknown kind");
    if (kind === 2) return this.rawIntegers(count, origin);
    const alphabet = this.varint();
    const words = this.varint();
    if (alphabet < 1 || alphabet > TOKENS) throw new FileError("has a histogram of too many tokens or none");
    const counts = countsOf(this.levels(alphabet));
    const out = this.tokens(count, counts, words);
    const take = new BitTaker(this);
    for (let i = 0; i < count; i++) {
      let u = out[i];
      if (u >= SMALL) {
        const raw = ((u - SMALL) >> 2) + 2;
        u = (4 + ((u - SMALL) & 3)) * 2 ** raw + take.next(raw);
      }
      if (kind === 0) u = u % 2 ? -(u + 1) / 2 : u / 2;
      out[i] = origin + u;
    }
    return out;
  }

  rawIntegers(count, origin) {
    const width = this.varint();
    if (width > 32) throw new FileError("has raw integers of more than 32 bits");
    if (Math.ceil((width * count) / 8) > this.data.length - this.at) throw new FileError("is cut off");
    const out = new Float64Array(count);
    const take = new BitTaker(this);
    for (let i = 0; i < count; i++) out[i] = origin + take.next(width);
    return out;
  }

  levels(count) {
    const levels = [];
    let place = 2 * this.at; // in nibbles
    const nibble = () => {
      if (place >= 2 * this.data.length) throw new FileError("is cut off");
      const value = (this.data[place >> 1] >> (4 * (place & 1))) & 15;
      place += 1;
      return value;
    };
    for (let level = 0; levels.length < count; levels.push(level)) {
      const change = nibble();
      if (change < 15) level += change - 7;
      else level = nibble() + 16 * nibble();
    }
    this.at = (place + 1) >> 1;
    if (Math.min(...levels) < 0 || Math.max(...levels) >= WEIGHTS.length || Math.max(...levels) === 0) {
      throw new FileError("has a histogram with levels out of range");
    }
    return levels;
  }

  tokens(count, counts, words) {
    const data = this.data;
    let word = this.take(2 * words);
    const end = this.at;
    const out = new Float64Array(count);
    if (counts.length === 1 || count === 0) return out;
    if (words < 2) throw new FileError("has tokens that do not decode");
    const tokenOf = new Uint8Array(1 << PRECISION);
    const starts = new Float64Array(counts.length);
    for (let k = 0, start = 0; k < counts.length; start += counts[k++]) {
      starts[k] = start;
      tokenOf.fill(k, start, start + counts[k]);
    }
    let state = 0;
    for (let k = 0; k < 2; k++, word += 2) state = state * 65536 + data[word] + 256 * data[word + 1];
    for (let i = 0; i < count; i++) {
      const slot = state & 16383;
      const k = tokenOf[slot];
      state = counts[k] * (state >>> PRECISION) + slot - starts[k];
      if (state < 65536) {
        if (word === end) throw new FileError("has tokens that do not decode");
        state = state * 65536 + data[word] + 256 * data[word + 1];
        word += 2;
      }
      out[i] = k;
    }
    if (state !== 65536 || word !== end) throw new FileError("has tokens that do not decode");
    return out;
  }
}

/** Takes raw bits from a reader, lowest first; what is left of a byte is lost when it is dropped. */
class BitTaker {
  constructor(reader) {
    this.reader = reader;
    this.held = 0;
    this.have = 0;
  }

  next(width) {
    const reader = this.reader;
    while (this.have < width) {
      this.held += reader.data[reader.take(1)] * 2 ** this.have;
      this.have += 8;
    }
    const size = 2 ** width;
    const value = this.held % size;
    this.held = (this.held - value) / size;
    this.have -= width;
    return value;
  }
}

function countsOf(levels) {
  const weights = levels.map((level) => WEIGHTS[level]);
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const total = sum(weights);
  const counts = weights.map((weight) => (weight ? Math.max(1, Math.floor((weight * 16384) / total)) : 0));
  for (let off = 16384 - sum(counts); off !== 0; off = 16384 - sum(counts)) {
    const most = counts.indexOf(Math.max(...counts));
    counts[most] += Math.max(off, -Math.floor(counts[most] / 2));
  }
  return counts;
}
