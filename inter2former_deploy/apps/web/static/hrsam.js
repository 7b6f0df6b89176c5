// The same for bundles of HRSAM: clicks and boxes as points, and the logits of the decode before.
import { MixedRows, Segmenter, Session, mix, taps } from "./inter2former.js";

const f32 = Math.fround;

export class HRSAMSegmenter extends Segmenter {
  static family = "hrsam";

  /** Where a picture lies in the model's square: at its top left, the longer side fills it. */
  frame(width, height) {
    const multiple = this.manifest.preprocessing.pad_multiple;
    const padded = [height, width].map((length) => Math.ceil(length / multiple) * multiple);
    const scale = this.size / Math.max(...padded);
    return { width, height, padded, resized: padded.map((length) => Math.floor(scale * length + 0.5)) };
  }

  session(tensors, frame) {
    return new PointSession(this, tensors, frame);
  }
}

/** With the prompts as points: a step holds all clicks so far, the box, and the logits. */
class PointSession extends Session {
  /** Add a click and segment again. */
  click(x, y, positive = true) {
    this.checkClick(x, y);
    const { clicks = [], box } = this.steps.at(-1) ?? {};
    const { positive: add, negative: take } = this.segmenter.manifest.prompts.point_labels.values;
    return this.#decode([...clicks, { at: this.#toModel(x, y), label: positive ? add : take }], box);
  }

  /** Add a box around the object and segment again; it takes the place of an earlier one. */
  box(x0, y0, x1, y1) {
    this.checkBox(x0, y0, x1, y1);
    const { top_left, bottom_right } = this.segmenter.manifest.prompts.point_labels.values;
    const corners = [
      { at: this.#toModel(x0, y0), label: top_left },
      { at: this.#toModel(x1, y1), label: bottom_right },
    ];
    return this.#decode(this.steps.at(-1)?.clicks ?? [], corners);
  }

  /** The mask of the prompts so far. */
  mask() {
    const { width, height, padded, resized: inSquare } = this.frame;
    const { size, manifest } = this.segmenter;
    const mask = new Uint8Array(width * height);
    const last = this.steps.at(-1);
    if (!last) return mask;
    const low = size / manifest.prompts.mask_stride;
    const square = new Float32Array(inSquare[0] * inSquare[1]); // of which only the picture's part is needed
    resize(last.logits, [low, low], [size, size], inSquare, (row, values) => square.set(values, row * inSquare[1]));
    resize(square, inSquare, padded, [height, width], (row, values) => {
      for (let i = 0; i < width; i++) mask[row * width + i] = values[i] > manifest.postprocessing.threshold ? 1 : 0;
    });
    return mask;
  }

  async #decode(clicks, box) {
    const { ort, size, manifest, click } = this.segmenter;
    const { mask_stride, point_labels } = manifest.prompts;
    const points = [...clicks, ...(box ?? [{ at: [0, 0], label: point_labels.values.not_a_point }])];
    const low = size / mask_stride;
    const before = this.steps.at(-1)?.logits;
    const { logits } = await click.run({
      ...this.tensors,
      point_coords: new ort.Tensor("float32", Float32Array.from(points.flatMap(({ at }) => at)), [points.length, 2]),
      point_labels: new ort.Tensor("int64", BigInt64Array.from(points, ({ label }) => BigInt(label)), [points.length]),
      mask_input: new ort.Tensor("float32", before ?? new Float32Array(low * low), [low, low]),
      has_mask_input: new ort.Tensor("float32", Float32Array.of(before ? 1 : 0), [1]),
    });
    this.steps.push({ clicks, box, logits: logits.data });
    return this.mask();
  }

  /** Each axis has its own scale, in float32. */
  #toModel(x, y) {
    const { padded, resized } = this.frame;
    return [f32(f32(x) * f32(resized[1] / padded[1])), f32(f32(y) * f32(resized[0] / padded[0]))];
  }
}

/**
 * Resize bilinearly (align_corners=False), row by row.
 * @param {Float32Array} values row by row
 * @param {number[]} from rows and columns of the values
 * @param {number[]} to rows and columns of the result
 * @param {number[]} wanted of these, the first rows and columns that are computed
 * @param {(row: number, values: Float32Array) => void} take gets each row; its values are written over by the next
 */
function resize(values, from, to, wanted, take) {
  const [down, along] = from.map((length, i) => taps(length, to[i]));
  const rows = new MixedRows(wanted[1], (row, into) => {
    const start = row * from[1];
    for (let i = 0; i < into.length; i++) {
      into[i] = mix(values[start + along.lower[i]], values[start + along.upper[i]], along.weight[i]);
    }
  });
  const result = new Float32Array(wanted[1]);
  for (let row = 0; row < wanted[0]; row++) {
    const [above, below] = rows.pair(down.lower[row], down.upper[row]);
    for (let i = 0; i < result.length; i++) result[i] = mix(above[i], below[i], down.weight[row]);
    take(row, result);
  }
}
