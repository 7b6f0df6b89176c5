// A session of prompts with a bundle of inter2former-deploy: all that it must know stands in the bundle's manifest.json.
// The same file runs in Node.js and in browsers: onnxruntime and the way to read files are given to it.

const SCHEMA = 5; // of manifest.json
const f32 = Math.fround; // round like float32, so that the masks are those of the Python runtime, pixel by pixel

/** A bundle, loaded: `await Segmenter.load({ ort, read })`. */
export class Segmenter {
  static family = "inter2former";

  /**
   * @param {object} given
   * @param {any} given.ort onnxruntime-node or onnxruntime-web
   * @param {(file: string) => Promise<Uint8Array>} given.read gives a file of the bundle by its name
   * @param {object} [given.options] of onnxruntime's sessions
   * @param {string} [given.decoder] the first of the bundle if not given
   */
  static async load({ ort, read, options = {}, decoder = undefined }) {
    const manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    if (manifest.schema_version !== SCHEMA) {
      throw new Error(`the bundle has schema ${manifest.schema_version}, this program knows ${SCHEMA}`);
    }
    if (manifest.family !== this.family) {
      throw new Error(`the bundle is of the family ${manifest.family}, this program knows ${this.family}`);
    }
    const stated = manifest.decoders[decoder ?? Object.keys(manifest.decoders)[0]];
    const load = async (graph) => {
      const { file, weights_file: weights } = graph; // large graphs have their weights beside them
      const data = weights && { externalData: [{ path: weights.split("/").pop(), data: await read(weights) }] };
      return ort.InferenceSession.create(await read(file), { ...options, ...data });
    };
    const [encoder, prepare, click] = [await load(manifest.encoder.graph), await load(stated.prepare), await load(stated.click)];
    return Object.assign(new this(), { ort, manifest, size: manifest.size, encoder, prepare, click });
  }

  /**
   * Encode a picture once for all its prompts.
   * @param {{data: Uint8Array | Uint8ClampedArray, width: number, height: number, channels?: number}} picture
   *   its pixels row by row, red, green, blue and, where there are four channels, one that is ignored
   */
  async open({ data, width, height, channels = 3 }) {
    const { ort, size, manifest } = this;
    const frame = this.frame(width, height);
    const pixels = padAndResize({ data, width, height, channels }, manifest.preprocessing.pad_rgb.map(f32), frame, size);
    // What a graph takes of those before it bears the same names there.
    const pick = (graph, tensors) => Object.fromEntries(graph.inputNames.flatMap((n) => (tensors[n] ? [[n, tensors[n]]] : [])));
    const image = { image: new ort.Tensor("float32", pixels, [size, size, 3]) };
    const encoded = { ...image, ...(await this.encoder.run(image)) };
    const tensors = { ...encoded, ...(await this.prepare.run(pick(this.prepare, encoded))) };
    return this.session(pick(this.click, tensors), frame);
  }

  /** Where a picture lies in the model's square: its padded sides, height first, and how many pixels they become there. */
  frame(width, height) {
    const multiple = this.manifest.preprocessing.pad_multiple;
    const side = Math.ceil(Math.max(width, height) / multiple) * multiple;
    return { width, height, side, padded: [side, side], resized: [this.size, this.size] };
  }

  session(tensors, frame) {
    return new LabelSession(this, tensors, frame);
  }
}

/** One picture being segmented. Coordinates are its pixels; masks are Uint8Array, 1 where the object is, row by row. */
export class Session {
  steps = []; // of each prompt what was decoded and what came of it: all that undo needs

  /**
   * @param {Segmenter} segmenter
   * @param {object} tensors what the click graph takes of the picture
   * @param {any} frame where the picture lies in the model's square
   */
  constructor(segmenter, tensors, frame) {
    Object.assign(this, { segmenter, tensors, frame });
  }

  /** How many prompts there are. */
  get length() {
    return this.steps.length;
  }

  /** Take the last prompt back: everything is as if it had never been made. */
  undo() {
    if (!this.steps.pop()) throw new Error("there is no prompt to undo");
    return this.mask();
  }

  checkClick(x, y) {
    const { width, height } = this.frame;
    if (!(x >= 0 && x < width && y >= 0 && y < height)) throw new RangeError(`click ${x},${y} lies outside the image`);
  }

  checkBox(x0, y0, x1, y1) {
    const { width, height } = this.frame;
    if (!(0 <= x0 && x0 < x1 && x1 <= width && 0 <= y0 && y0 < y1 && y1 <= height)) {
      throw new RangeError(`box ${x0},${y0},${x1},${y1} is empty or reaches outside the image`);
    }
  }
}

/** With the prompts as a label map: a step holds the one that was decoded, and the prediction. */
class LabelSession extends Session {
  /** Add a click and segment again. */
  async click(x, y, positive = true) {
    this.checkClick(x, y);
    const labels = this.#foldedLabels();
    this.#paintDisc(labels, this.#toModel(y), this.#toModel(x), positive);
    return this.#decode(labels);
  }

  /** Add a box around the object and segment again; it takes the place of an earlier one. */
  async box(x0, y0, x1, y1) {
    this.checkBox(x0, y0, x1, y1);
    const labels = this.#foldedLabels();
    this.#paintBox(labels, this.#toModel(x0), this.#toModel(y0), this.#endInModel(x1), this.#endInModel(y1));
    return this.#decode(labels);
  }

  /** The mask of the prompts so far. */
  mask() {
    const { width, height, side } = this.frame;
    const { size, manifest } = this.segmenter;
    const { outside_logit, threshold } = manifest.postprocessing;
    const mask = new Uint8Array(width * height);
    const last = this.steps.at(-1);
    if (!last) return mask;
    const { logits, left, top, right, bottom } = last;
    const along = taps(size, side);
    // Only these pixels mix a logit of the box; all others mix -100 with -100.
    const [firstColumn, endColumn] = touching(along.lower, left, right, width);
    const [firstRow, endRow] = touching(along.lower, top, bottom, height);
    const logitAt = (row, column) =>
      row >= top && row < bottom && column >= left && column < right
        ? logits[(row - top) * (right - left) + column - left]
        : outside_logit;
    const mixRow = (row, into) => {
      for (let column = firstColumn; column < endColumn; column++) {
        const near = logitAt(row, along.lower[column]);
        into[column] = mix(near, logitAt(row, along.upper[column]), along.weight[column]);
      }
    };
    const rows = new MixedRows(width, mixRow);
    for (let row = firstRow; row < endRow; row++) {
      const [above, below] = rows.pair(along.lower[row], along.upper[row]);
      const down = along.weight[row];
      for (let column = firstColumn; column < endColumn; column++) {
        mask[row * width + column] = mix(above[column], below[column], down) > threshold ? 1 : 0;
      }
    }
    return mask;
  }

  async #decode(labels) {
    const { ort, size, click } = this.segmenter;
    const feeds = { labels: new ort.Tensor("uint8", labels, [size, size]), ...this.tensors };
    const { box, box_logits } = await click.run(feeds);
    const [left, top, right, bottom] = Array.from(box.data, Number);
    this.steps.push({ labels, left, top, right, bottom, logits: box_logits.data });
    return this.mask();
  }

  /** A copy of the label map that the last prompt was decoded with, moved one step towards its prediction. */
  #foldedLabels() {
    const { size, manifest } = this.segmenter;
    const { start, prediction } = manifest.prompts.labels;
    const last = this.steps.at(-1);
    if (!last) return new Uint8Array(size ** 2).fill(start);
    const { labels, left, top, right, bottom, logits } = last;
    const folded = labels.map((label) => prediction.background[label]);
    for (let row = top, i = 0; row < bottom; row++) {
      for (let at = row * size + left; at < row * size + right; at++, i++) {
        if (logits[i] > 0) folded[at] = prediction.foreground[labels[at]];
      }
    }
    return folded;
  }

  #toModel(v) {
    const { size } = this.segmenter;
    return Math.min(Math.floor((size / this.frame.side) * v), size - 1);
  }

  #endInModel(v) {
    const { size } = this.segmenter;
    return Math.min(Math.ceil((size / this.frame.side) * v), size);
  }

  #paintDisc(labels, row, column, isPositive) {
    const { size, manifest } = this.segmenter;
    const { radius, positive, negative } = manifest.prompts.labels.click;
    for (let y = Math.max(row - radius, 0); y <= Math.min(row + radius, size - 1); y++) {
      for (let x = Math.max(column - radius, 0); x <= Math.min(column + radius, size - 1); x++) {
        if ((y - row) ** 2 + (x - column) ** 2 <= radius ** 2) labels[y * size + x] = isPositive ? positive : negative;
      }
    }
  }

  #paintBox(labels, left, top, right, bottom) {
    const { size, manifest } = this.segmenter;
    const { box: rules, click: definite } = manifest.prompts.labels;
    // Twice the distance of a pixel's centre from the middle, as a share of the ellipse's width or height.
    const share = (i, start, end) => (2 * (i - start) + 1 - (end - start)) / (rules.core_share * (end - start));
    for (let y = 0, i = 0; y < size; y++) {
      for (let x = 0; x < size; x++, i++) {
        if (labels[i] === definite.positive || labels[i] === definite.negative) continue;
        const isInside = x >= left && x < right && y >= top && y < bottom;
        const isCore = isInside && share(x, left, right) ** 2 + share(y, top, bottom) ** 2 <= 1;
        labels[i] = isCore ? rules.core : isInside ? rules.inside : rules.outside;
      }
    }
  }
}

export const mix = (a, b, share) => f32(f32(a * f32(1 - share)) + f32(b * share));

/** For each of `target` pixels: which two of `source` pixels it mixes, and how much of the second (align_corners=False). */
export function taps(source, target) {
  const step = f32(f32(source) / f32(target));
  const weight = Float32Array.from({ length: target }, (_, i) => Math.max(step * (i + 0.5) - 0.5, 0));
  const lower = Int32Array.from(weight, Math.floor);
  const upper = lower.map((at) => Math.min(at + 1, source - 1));
  lower.forEach((at, i) => (weight[i] -= at));
  return { lower, upper, weight };
}

/** The pixels, of the first `count`, that mix one of [start, end): the first, and one past the last. */
function touching(lower, start, end, count) {
  const from = (least) => {
    const at = lower.findIndex((index) => index >= least);
    return at < 0 ? count : Math.min(at, count);
  };
  return [from(start - 1), from(end)];
}

/** Rows mixed along the row; the last two are kept, as the next pixel down mostly mixes the same. */
export class MixedRows {
  constructor(length, mixRow) {
    this.mixRow = mixRow;
    this.kept = [0, 1].map(() => ({ row: -1, values: new Float32Array(length) }));
  }

  /** Both rows; what was given before is lost. */
  pair(above, below) {
    if (this.kept[1].row === above) this.kept.reverse();
    return [above, below].map((row, i) => {
      if (i === 1 && row === above) return this.kept[0].values;
      const kept = this.kept[i];
      if (kept.row !== row) {
        this.mixRow(row, kept.values);
        kept.row = row;
      }
      return kept.values;
    });
  }
}

/** A picture, padded and resized bilinearly, in a square of `size`, the rest of which is padding: float32 RGB, 0 to 255. */
function padAndResize({ data, width, height, channels }, pad, { padded, resized }, size) {
  const [down, along] = padded.map((length, i) => taps(length, resized[i]));
  const result = Float32Array.from({ length: size * size * 3 }, (_, i) => pad[i % 3]);
  const rows = new MixedRows(resized[1] * 3, (row, into) => {
    for (let column = 0, i = 0; column < resized[1]; column++) {
      const [left, right, across] = [along.lower[column], along.upper[column], along.weight[column]];
      const isLeftThere = row < height && left < width;
      const isRightThere = row < height && right < width;
      const [atLeft, atRight] = [(row * width + left) * channels, (row * width + right) * channels];
      for (let channel = 0; channel < 3; channel++, i++) {
        const near = isLeftThere ? data[atLeft + channel] : pad[channel];
        into[i] = mix(near, isRightThere ? data[atRight + channel] : pad[channel], across);
      }
    }
  });
  for (let row = 0; row < resized[0]; row++) {
    const [above, below] = rows.pair(down.lower[row], down.upper[row]);
    const into = result.subarray(row * size * 3);
    for (let i = 0; i < resized[1] * 3; i++) into[i] = mix(above[i], below[i], down.weight[row]);
  }
  return result;
}
