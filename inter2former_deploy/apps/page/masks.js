/** @import {Box, Runs} from "./types.js" */

/** A mask as run lengths of the whole picture, of which only what is looked at becomes pixels. */
export class Mask {
  /** @param {Runs} runs  as COCO has them: down the columns, background first */
  constructor(runs) {
    this.height = runs.size[0];
    this.width = runs.size[1];
    /** Where each run ends, counted down the columns. */
    this.ends = new Float64Array(runs.counts.length);
    let end = 0;
    for (let i = 0; i < runs.counts.length; i++) this.ends[i] = end += runs.counts[i];
    if (end !== this.height * this.width) throw new Error("the runs of a mask do not fill its picture");
    /** The object's sides, or null where there is none. @type {Box | null} */
    this.box = this.#findBox();
  }

  /** @returns {Box | null} */
  #findBox() {
    let [x0, y0, x1, y1] = [this.width, this.height, 0, 0];
    for (let i = 1; i < this.ends.length; i += 2) {
      const [first, last] = [this.ends[i - 1], this.ends[i] - 1];
      if (last < first) continue;
      const [left, right] = [Math.floor(first / this.height), Math.floor(last / this.height)];
      x0 = Math.min(x0, left);
      x1 = Math.max(x1, right + 1);
      y0 = left === right ? Math.min(y0, first % this.height) : 0;
      y1 = left === right ? Math.max(y1, (last % this.height) + 1) : this.height;
    }
    return x1 > x0 ? [x0, y0, x1, y1] : null;
  }

  /**
   * The run that holds a pixel; those with an odd index are the object's.
   * @param {number} at  counted down the columns
   */
  #runAt(at) {
    let [low, high] = [0, this.ends.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle] > at) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Whether the pixel at x, y is the object's. @param {number} x @param {number} y */
  has(x, y) {
    [x, y] = [Math.floor(x), Math.floor(y)];
    return x >= 0 && y >= 0 && x < this.width && y < this.height && this.#runAt(x * this.height + y) % 2 === 1;
  }

  /**
   * Pixels of a window: every `step`-th of the picture, 1 on the object; 0 outside the picture.
   * @param {number} x0  of the window's first pixel
   * @param {number} y0
   * @param {number} columns
   * @param {number} rows
   * @param {number} step  of the pixel in the middle of step x step
   * @param {Uint8Array} grid  where they are written, row by row
   */
  pixels(x0, y0, columns, rows, step, grid) {
    grid.fill(0, 0, columns * rows);
    const middle = step >> 1;
    const row = (/** @type {number} */ y) => Math.ceil((y - y0 - middle) / step); // the first that is not above y
    for (let i = 0; i < columns; i++) {
      const x = x0 + i * step + middle;
      if (x < 0 || x >= this.width) continue;
      const [start, end] = [x * this.height, (x + 1) * this.height];
      for (let run = this.#runAt(start) | 1; run < this.ends.length && this.ends[run - 1] < end; run += 2) {
        const first = Math.max(0, row(Math.max(this.ends[run - 1], start) - start));
        const last = Math.min(rows, row(Math.min(this.ends[run], end) - start));
        for (let j = first; j < last; j++) grid[j * columns + i] = 1;
      }
    }
  }
}

/** @type {WeakMap<Runs, Mask>} */
const read = new WeakMap();

/** The mask of runs, made once. @param {Runs} runs */
export function maskOf(runs) {
  let mask = read.get(runs);
  if (!mask) read.set(runs, (mask = new Mask(runs)));
  return mask;
}
