/** @import {Box, Point} from "./types.js" */

const LARGEST = 64; // CSS pixels a picture pixel
const KEPT = 40; // CSS pixels of the picture that always stay visible

/** Which part of a picture stands where on the canvas. Positions are device pixels. */
export class View {
  scale = 1; // device pixels a picture pixel
  x = 0; // of the picture's left side
  y = 0;
  ratio = 1; // device pixels a CSS pixel
  canvas = { width: 1, height: 1 }; // device pixels
  picture = { width: 1, height: 1 };

  /** Where a point of the picture is on the canvas. @param {Point} point @returns {Point} */
  toCanvas([x, y]) {
    return [this.x + x * this.scale, this.y + y * this.scale];
  }

  /** Which point of the picture is at a point of the canvas. @param {Point} point @returns {Point} */
  toPicture([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  /** What one sees: pixels of the picture, not rounded; never more than the picture. @returns {Box} */
  visible() {
    const [left, upper] = this.toPicture([0, 0]);
    const [right, lower] = this.toPicture([this.canvas.width, this.canvas.height]);
    const { width, height } = this.picture;
    return [Math.max(0, left), Math.max(0, upper), Math.min(width, right), Math.min(height, lower)];
  }

  /** The scale at which the whole picture is seen. */
  get fitting() {
    const margin = 16 * this.ratio;
    const across = Math.max(1, this.canvas.width - margin) / this.picture.width;
    return Math.min(across, Math.max(1, this.canvas.height - margin) / this.picture.height);
  }

  /** Show the whole picture, small ones not larger than eight times. */
  fit() {
    this.scale = Math.min(this.fitting, 8 * this.ratio);
    this.centre([this.picture.width / 2, this.picture.height / 2]);
  }

  /** Bring a point of the picture into the canvas's middle. @param {Point} point */
  centre([x, y]) {
    this.x = this.canvas.width / 2 - x * this.scale;
    this.y = this.canvas.height / 2 - y * this.scale;
    this.#settle();
  }

  /** @param {number} scale  device pixels a picture pixel @param {Point} at  of the canvas, which stays where it is */
  zoomTo(scale, at) {
    const [x, y] = this.toPicture(at);
    this.scale = Math.min(LARGEST * this.ratio, Math.max(Math.min(this.fitting, this.ratio) / 2, scale));
    this.x = at[0] - x * this.scale;
    this.y = at[1] - y * this.scale;
    this.#settle();
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#settle();
  }

  /** Keep some of the picture visible, and its pixels on the canvas's. */
  #settle() {
    const kept = KEPT * this.ratio;
    const [width, height] = [this.picture.width * this.scale, this.picture.height * this.scale];
    this.x = Math.round(Math.min(this.canvas.width - kept, Math.max(kept - width, this.x)));
    this.y = Math.round(Math.min(this.canvas.height - kept, Math.max(kept - height, this.y)));
  }

  /** @param {{width: number, height: number}} canvas  device pixels @param {number} ratio  device pixels a CSS pixel */
  resize(canvas, ratio) {
    const middle = this.toPicture([this.canvas.width / 2, this.canvas.height / 2]);
    this.scale *= ratio / this.ratio;
    this.canvas = canvas;
    this.ratio = ratio;
    this.centre(middle);
  }
}
