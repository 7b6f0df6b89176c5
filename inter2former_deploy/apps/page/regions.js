/** @import {Box, Point} from "./types.js" */

const [SMALLEST, LARGEST] = [0.5, 1.25]; // of what one sees, for which a window stays in use

/**
 * The window of a picture in which a new object is segmented: what one looks at, and not less than the model's square.
 * @param {{width: number, height: number}} picture
 * @param {number} size  the model's resolution
 * @param {Box} visible
 * @returns {Box | null}  whole pixels; null: the whole picture
 */
export function windowOf({ width, height }, size, visible) {
  if (Math.max(width, height) <= size) return null;
  const side = Math.ceil(Math.max(size, visible[2] - visible[0], visible[3] - visible[1]));
  if (side >= width && side >= height) return null;
  const place = (/** @type {number} */ from, /** @type {number} */ to, /** @type {number} */ length) => {
    const first = Math.round((from + to) / 2 - side / 2);
    const start = Math.max(0, Math.min(length - side, first));
    return [start, Math.min(length, start + side)];
  };
  const [x0, x1] = place(visible[0], visible[2], width);
  const [y0, y1] = place(visible[1], visible[3], height);
  return [x0, y0, x1, y1];
}

/**
 * Whether a window still suits what one looks at, so that no new one must be encoded.
 * @param {Box | null} region
 * @param {{width: number, height: number}} picture
 * @param {number} size
 * @param {Box} visible
 * @param {Point} [at]  where a prompt is to be
 */
export function suits(region, { width, height }, size, visible, at) {
  const [x0, y0, x1, y1] = region ?? [0, 0, width, height];
  const seen = Math.max(size, visible[2] - visible[0], visible[3] - visible[1]);
  const share = Math.min(Math.max(x1 - x0, y1 - y0), Math.max(width, height)) / Math.min(seen, Math.max(width, height));
  const [x, y] = at ?? [(visible[0] + visible[2]) / 2, (visible[1] + visible[3]) / 2];
  return share >= SMALLEST && share <= LARGEST && x >= x0 && y >= y0 && x < x1 && y < y1;
}

/** Whether a prompt may be at a point. @param {Box | null} region @param {Point} point */
export function holds(region, [x, y]) {
  return !region || (x >= region[0] && y >= region[1] && x < region[2] && y < region[3]);
}
