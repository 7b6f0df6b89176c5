// A session of clicks with a bundle of inter2former-deploy: all that it must know stands in the bundle's manifest.json.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-node";

const SCHEMA = 5; // of manifest.json
const f32 = Math.fround; // round like float32, so that the masks are those of the Python runtime, pixel by pixel

/** A bundle, loaded: `const segmenter = await Segmenter.load("bundle")`; its first decoder, or the one that is named. */
export class Segmenter {
  static async load(folder, options = {}, name = undefined) {
    const read = (name) => readFile(join(folder, name)); // in a browser: fetch
    const manifest = JSON.parse((await read("manifest.json")).toString());
    if (manifest.schema_version !== SCHEMA) {
      throw new Error(`${folder} has schema ${manifest.schema_version}, this example knows ${SCHEMA}`);
    }
    const stated = manifest.decoders[name ?? Object.keys(manifest.decoders)[0]];
    const load = async (graph) => ort.InferenceSession.create(await read(graph.file), options);
    const [encoder, prepare, click] = await Promise.all([manifest.encoder.graph, stated.prepare, stated.click].map(load));
    return Object.assign(new Segmenter(), { manifest, size: manifest.size, encoder, prepare, click });
  }

  /** Encode an image once for all its clicks: `data` holds its RGB bytes row by row. */
  async open({ data, width, height }) {
    const { size, manifest } = this;
    const { pad_rgb, pad_multiple } = manifest.preprocessing;
    const side = Math.ceil(Math.max(width, height) / pad_multiple) * pad_multiple; // of the padded square
    const pad = pad_rgb.map(f32);
    const padded = (row, column, channel) =>
      row < height && column < width ? data[(row * width + column) * 3 + channel] : pad[channel];
    const picture = resize(padded, side, size, size, size, 3);
    // What a graph takes of those before it bears the same names there.
    const pick = (graph, tensors) => Object.fromEntries(graph.inputNames.flatMap((n) => (tensors[n] ? [[n, tensors[n]]] : [])));
    const image = { image: new ort.Tensor("float32", picture, [size, size, 3]) };
    const encoded = { ...image, ...(await this.encoder.run(image)) };
    const tensors = { ...encoded, ...(await this.prepare.run(pick(this.prepare, encoded))) };
    return new Session(this, pick(this.click, tensors), { width, height, side });
  }
}

/** One image being segmented. Masks are Uint8Array, 1 where the object is, row by row. */
class Session {
  constructor(segmenter, tensors, frame) {
    Object.assign(this, { segmenter, tensors, frame, rules: segmenter.manifest.prompts.labels, steps: [] });
  }

  /** Add a click, in pixels of the image, and segment again. */
  async click(x, y, positive = true) {
    const { size, click } = this.segmenter;
    const { width, height, side } = this.frame;
    if (!(x >= 0 && x < width && y >= 0 && y < height)) throw new RangeError(`click ${x},${y} lies outside the image`);
    const labels = this.#foldedLabels();
    const [column, row] = [x, y].map((v) => Math.min(Math.floor((size / side) * v), size - 1));
    this.#paintDisc(labels, row, column, positive);
    const feeds = { labels: new ort.Tensor("uint8", labels, [size, size]), ...this.tensors };
    this.steps.push({ labels, logits: this.#paste(await click.run(feeds)) }); // as decoded: all that undo needs
    return this.mask();
  }

  /** Take the last click back: everything is as if it had never been made. */
  undo() {
    if (!this.steps.pop()) throw new Error("there is no click to undo");
    return this.mask();
  }

  /** The mask of the clicks so far. */
  mask() {
    const { width, height, side } = this.frame;
    const { size } = this.segmenter;
    const last = this.steps.at(-1);
    if (!last) return new Uint8Array(width * height);
    const logits = resize((row, column) => last.logits[row * size + column], size, side, height, width, 1);
    return Uint8Array.from(logits, (logit) => logit > this.segmenter.manifest.postprocessing.threshold);
  }

  /** The map of logits, of which the graph gives a box. */
  #paste({ box, box_logits }) {
    const { size, manifest } = this.segmenter;
    const [left, top, right, bottom] = Array.from(box.data, Number);
    const logits = new Float32Array(size * size).fill(manifest.postprocessing.outside_logit);
    for (let row = top; row < bottom; row++) {
      const start = (row - top) * (right - left);
      logits.set(box_logits.data.subarray(start, start + right - left), row * size + left);
    }
    return logits;
  }

  /** A copy of the label map that the last click was decoded with, moved one step towards its prediction. */
  #foldedLabels() {
    const { start, prediction } = this.rules;
    const last = this.steps.at(-1);
    if (!last) return new Uint8Array(this.segmenter.size ** 2).fill(start);
    return last.labels.map((label, i) => (last.logits[i] > 0 ? prediction.foreground : prediction.background)[label]);
  }

  #paintDisc(labels, row, column, positive) {
    const { size } = this.segmenter;
    const { radius, ...values } = this.rules.click;
    for (let y = Math.max(row - radius, 0); y <= Math.min(row + radius, size - 1); y++) {
      for (let x = Math.max(column - radius, 0); x <= Math.min(column + radius, size - 1); x++) {
        if ((y - row) ** 2 + (x - column) ** 2 > radius ** 2) continue;
        labels[y * size + x] = positive ? values.positive : values.negative;
      }
    }
  }
}

/** For each of `target` pixels: which two of `source` pixels it mixes, and how much of the second. */
function taps(source, target) {
  const step = f32(f32(source) / f32(target));
  return Array.from({ length: target }, (_, i) => {
    const position = f32(Math.max(step * (i + 0.5) - 0.5, 0));
    const lower = Math.floor(position);
    return [lower, Math.min(lower + 1, source - 1), f32(position - lower)];
  });
}

/** The top left height x width pixels of a square that is resized bilinearly (align_corners=False) to target pixels. */
function resize(read, source, target, height, width, channels) {
  const mix = (a, b, share) => f32(f32(a * f32(1 - share)) + f32(b * share));
  const along = taps(source, target);
  const result = new Float32Array(height * width * channels);
  for (let row = 0, i = 0; row < height; row++) {
    const [above, below, down] = along[row];
    for (let column = 0; column < width; column++) {
      const [left, right, across] = along[column];
      for (let channel = 0; channel < channels; channel++, i++) {
        const upper = mix(read(above, left, channel), read(above, right, channel), across);
        result[i] = mix(upper, mix(read(below, left, channel), read(below, right, channel), across), down);
      }
    }
  }
  return result;
}
