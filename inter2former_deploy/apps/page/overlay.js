/** @import {Mask} from "./masks.js" */
/** @import {View} from "./view.js" */

const MARGIN = 0.25; // of the view on each side, so that panning needs no new pixels at once
const CRISP = 2; // device pixels a picture pixel from which on outlines are lines instead of pixels
const FREE = 4; // canvases that are kept for the masks of later frames
const SIZES = 256; // their sides are multiples of it, so that they suit other masks

/**
 * How a mask is painted.
 * @typedef {{colour: string, fill: number, outline: number}} Look  "#rrggbb", opacity inside, opacity of the border
 */

/**
 * Paints masks. Of each that was seen in the last frame it keeps pixels of what one looks at, at the resolution at which
 * one looks. Canvases are used again: to make one takes longer than to paint it.
 */
export class Overlay {
  /** @type {Map<Mask, Painted>} */
  #painted = new Map();
  /** @type {OffscreenCanvas[]} */
  #free = [];

  /**
   * Paint the masks of a frame.
   * @param {CanvasRenderingContext2D} context  in device pixels
   * @param {{mask: Mask, look: Look}[]} masks  from the lowest to the highest
   * @param {View} view
   */
  draw(context, masks, view) {
    const seen = new Set(masks.map(({ mask }) => mask));
    for (const [mask, { canvas }] of this.#painted) {
      if (seen.has(mask)) continue;
      this.#painted.delete(mask);
      this.#free.push(canvas);
    }
    for (const { mask, look } of masks) this.#draw(context, mask, view, look);
    this.#free.length = Math.min(this.#free.length, FREE);
  }

  /** @param {CanvasRenderingContext2D} context @param {Mask} mask @param {View} view @param {Look} look */
  #draw(context, mask, view, look) {
    const [left, upper, right, lower] = view.visible();
    const box = mask.box;
    if (!box || box[0] >= right || box[2] <= left || box[1] >= lower || box[3] <= upper) return;
    const step = 2 ** Math.max(0, Math.round(-Math.log2(view.scale)));
    const lines = view.scale >= CRISP;
    const key = [step, lines, look.colour, look.fill, look.outline].join();
    let painted = this.#painted.get(mask);
    if (!painted || painted.key !== key || !covers(painted, box, view.visible())) {
      const [across, down] = [(right - left) * MARGIN, (lower - upper) * MARGIN];
      const window = [
        Math.max(box[0], Math.floor((left - across) / step) * step),
        Math.max(box[1], Math.floor((upper - down) / step) * step),
        Math.min(box[2], Math.ceil(right + across)),
        Math.min(box[3], Math.ceil(lower + down)),
      ];
      const columns = Math.ceil((window[2] - window[0]) / step);
      const rows = Math.ceil((window[3] - window[1]) / step);
      if (painted) this.#free.push(painted.canvas);
      const canvas = this.#canvas(columns, rows);
      const outline = paint(canvas, mask, [window[0], window[1], columns, rows], step, look, lines);
      painted = { canvas, columns, rows, window, lines: outline, key };
      this.#painted.set(mask, painted);
    }
    context.save();
    context.imageSmoothingEnabled = step > 1 && view.scale * step < 1;
    context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
    const { canvas, columns, rows, window } = painted;
    context.drawImage(canvas, 0, 0, columns, rows, window[0], window[1], columns * step, rows * step);
    if (painted.lines && look.outline > 0) {
      context.lineWidth = 2 / view.scale;
      context.lineCap = "square";
      context.strokeStyle = look.colour;
      context.globalAlpha = look.outline;
      context.stroke(painted.lines);
    }
    context.restore();
  }

  /** A canvas of at least a size. @param {number} columns @param {number} rows */
  #canvas(columns, rows) {
    const fits = this.#free.findIndex(({ width, height }) => width >= columns && height >= rows);
    if (fits >= 0) return this.#free.splice(fits, 1)[0];
    const [width, height] = [columns, rows].map((length) => Math.ceil(length / SIZES) * SIZES);
    return new OffscreenCanvas(width, height);
  }
}

/**
 * Pixels of a mask's window.
 * @typedef {object} Painted
 * @property {OffscreenCanvas} canvas
 * @property {number} columns  of it that are painted, from the left
 * @property {number} rows
 * @property {number[]} window  pixels of the picture
 * @property {Path2D | null} lines  the outline, in pixels of the picture
 * @property {string} key  how it was painted
 */

/**
 * Whether all that one sees of a mask is painted.
 * @param {Painted} painted
 * @param {number[]} box  of the mask
 * @param {number[]} visible
 */
function covers({ window }, box, visible) {
  return (
    window[0] <= Math.max(box[0], visible[0]) &&
    window[1] <= Math.max(box[1], visible[1]) &&
    window[2] >= Math.min(box[2], visible[2]) &&
    window[3] >= Math.min(box[3], visible[3])
  );
}

/** Memory for what is painted, used again. */
let grid = new Uint8Array(0);
let colours = new Uint32Array(0);

/**
 * @param {OffscreenCanvas} canvas
 * @param {Mask} mask
 * @param {number[]} place  left and upper side, pixels of the picture; columns and rows of the canvas
 * @param {number} step  pixels of the picture a painted pixel
 * @param {Look} look
 * @param {boolean} crisp  the outline as lines
 * @returns {Path2D | null}  these lines
 */
function paint(canvas, mask, [x0, y0, columns, rows], step, look, crisp) {
  const [across, down] = [columns + 2, rows + 2]; // with what lies around, so that the border is known
  if (grid.length < across * down) grid = new Uint8Array(across * down);
  if (colours.length < columns * rows) colours = new Uint32Array(columns * rows);
  mask.pixels(x0 - step, y0 - step, across, down, step, grid);
  const inside = packed(look.colour, look.fill);
  const border = crisp || look.outline === 0 ? inside : packed(look.colour, look.outline);
  for (let j = 0; j < rows; j++) {
    for (let i = 0; i < columns; i++) {
      const at = (j + 1) * across + i + 1;
      const deep = grid[at - 1] & grid[at + 1] & grid[at - across] & grid[at + across];
      colours[j * columns + i] = grid[at] ? (deep ? inside : border) : 0;
    }
  }
  const image = new ImageData(new Uint8ClampedArray(colours.buffer, 0, 4 * columns * rows), columns, rows);
  /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  return crisp ? outline(grid, across, down, x0 - step, y0 - step) : null;
}

/** A colour as canvases keep it. @param {string} colour  "#rrggbb" @param {number} alpha  0 to 1 */
function packed(colour, alpha) {
  const bytes = new Uint8Array(4);
  bytes.set([1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  bytes[3] = Math.round(alpha * 255);
  return new Uint32Array(bytes.buffer)[0];
}

/**
 * Lines along the pixel corners between object and background.
 * @param {Uint8Array} grid
 * @param {number} across  pixels in a row
 * @param {number} down
 * @param {number} x0  of the first pixel in the picture
 * @param {number} y0
 */
function outline(grid, across, down, x0, y0) {
  const path = new Path2D();
  /** @type {(differs: (at: number, along: number) => boolean, lines: number, length: number, line: (at: number, from: number, to: number) => void) => void} */
  const trace = (differs, lines, length, line) => {
    for (let at = 1; at < lines; at++) {
      let from = -1;
      for (let along = 0; along <= length; along++) {
        const edge = along < length && differs(at, along);
        if (edge && from < 0) from = along;
        if (!edge && from >= 0) {
          line(at, from, along);
          from = -1;
        }
      }
    }
  };
  trace((y, x) => grid[y * across + x] !== grid[(y - 1) * across + x], down, across, (y, from, to) => {
    path.moveTo(x0 + from, y0 + y);
    path.lineTo(x0 + to, y0 + y);
  });
  trace((x, y) => grid[y * across + x] !== grid[y * across + x - 1], across, down, (x, from, to) => {
    path.moveTo(x0 + x, y0 + from);
    path.lineTo(x0 + x, y0 + to);
  });
  return path;
}
