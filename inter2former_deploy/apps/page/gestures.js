/** @import {Box, Point, Prompt} from "./types.js" */

const FAR = 4; // CSS pixels after which a press is a drag
const APART = 3; // CSS pixels between the corners of a line
const [MOST_CORNERS, MOST_PAINTED] = [100, 4000]; // of a stroke, whose corners are clicks to the server; of a brush

/** @typedef {"point" | "stroke" | "brush" | "eraser" | "hand"} Tool */

/**
 * What is being drawn.
 * @typedef {{kind: "box", box: Box} | {kind: "line", points: Point[], positive: boolean} | {kind: "paint", points: Point[], radius: number, erase: boolean}} Live
 */

/** Makes prompts of what a hand does with a tool: the same for mouse, pen, finger and the keyboard's cursor. */
export class Gestures {
  /** @type {Tool} */
  tool = "point";
  radius = 10; // of the brush, pixels of the picture
  /** @type {Live | null} */
  live = null;
  /** @type {{from: Point, last: Point, negative: boolean, dragged: boolean} | null} */
  #press = null;

  /**
   * @param {{picture: () => {width: number, height: number} | null, scale: () => number, add: (prompt: Prompt) => void, preview: (prompt: Prompt | null) => void, repaint: () => void}} host
   *   `scale`: CSS pixels a pixel of the picture
   */
  constructor(host) {
    this.host = host;
  }

  /** Whether something is being drawn. */
  get pressed() {
    return this.#press !== null;
  }

  /** @param {Point} point @returns {Point}  within the picture */
  #inside([x, y]) {
    const { width, height } = /** @type {{width: number, height: number}} */ (this.host.picture());
    return [Math.min(Math.max(x, 0), width - 0.01), Math.min(Math.max(y, 0), height - 0.01)];
  }

  /** @param {Point} point */
  #isInside([x, y]) {
    const picture = this.host.picture();
    return picture !== null && x >= 0 && y >= 0 && x < picture.width && y < picture.height;
  }

  /** @param {Point} point @param {boolean} negative */
  down(point, negative) {
    if (!this.host.picture() || this.tool === "hand") return;
    if (this.tool !== "brush" && this.tool !== "eraser" && !this.#isInside(point)) return;
    this.#press = { from: point, last: point, negative, dragged: false };
    const start = round(this.#inside(point));
    if (this.tool === "stroke") this.live = { kind: "line", points: [start], positive: !negative };
    if (this.tool === "brush" || this.tool === "eraser") {
      this.live = { kind: "paint", points: [start], radius: this.radius, erase: (this.tool === "eraser") !== negative };
    }
    this.host.preview(this.tool === "point" ? this.#prompt() : null); // of a finger the mask is wanted before it is lifted
    if (this.live) this.host.repaint();
  }

  /** @param {Point} point @param {boolean} [negative]  what a click there would be */
  move(point, negative = false) {
    const press = this.#press;
    if (!press) return this.hover(point, negative);
    const distance = (/** @type {Point} */ a) => Math.hypot(point[0] - a[0], point[1] - a[1]) * this.host.scale();
    press.dragged ||= distance(press.from) >= FAR;
    if (!press.dragged) return;
    if (this.tool === "point" && !press.negative) {
      const [[x0, y0], [x1, y1]] = [this.#inside(press.from), this.#inside(point)];
      /** @type {Box} */
      const box = [hundredths(Math.min(x0, x1)), hundredths(Math.min(y0, y1)), hundredths(Math.max(x0, x1)), hundredths(Math.max(y0, y1))];
      this.live = { kind: "box", box };
      this.host.preview(this.#prompt());
    } else if (this.live && this.live.kind !== "box" && distance(press.last) >= APART) {
      press.last = point;
      this.live.points.push(round(this.#inside(point)));
    }
    this.host.repaint();
  }

  /** @param {Point} point */
  up(point) {
    if (!this.#press) return;
    this.move(point);
    const prompt = this.#prompt();
    this.cancel(false);
    if (prompt) this.host.add(prompt);
  }

  /** @param {boolean} [preview]  whether that goes, too */
  cancel(preview = true) {
    if (this.live) this.host.repaint();
    this.#press = null;
    this.live = null;
    if (preview) this.host.preview(null);
  }

  /** @param {Point | null} point  of the pointer, null where it left @param {boolean} [negative] */
  hover(point, negative = false) {
    if (this.tool !== "point" || !point || !this.#isInside(point)) this.host.preview(null);
    else this.host.preview({ click: round(point), positive: !negative });
  }

  /** @returns {Prompt | null} */
  #prompt() {
    const press = /** @type {{from: Point, negative: boolean}} */ (this.#press);
    const live = this.live;
    if (!live) return this.tool === "point" ? { click: round(press.from), positive: !press.negative } : null;
    if (live.kind === "box") return live.box[2] > live.box[0] && live.box[3] > live.box[1] ? { box: live.box } : null;
    if (live.kind === "line") return { stroke: thinned(live.points, MOST_CORNERS), positive: live.positive };
    return { paint: thinned(live.points, MOST_PAINTED), radius: live.radius, erase: live.erase };
  }
}

/** @param {number} value */
const hundredths = (value) => Math.round(value * 100) / 100;

/** Hundredths of a pixel are enough, and stay within the picture. @param {Point} point @returns {Point} */
function round([x, y]) {
  return [Math.floor(x * 100) / 100, Math.floor(y * 100) / 100];
}

/** Long lines with every second corner, or fewer. @param {Point[]} points @param {number} most */
function thinned(points, most) {
  const every = Math.ceil(points.length / most);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}
