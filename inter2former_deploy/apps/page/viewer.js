/** @import {Live} from "./gestures.js" */
/** @import {Runs, Box, Picture, Point, Prompt} from "./types.js" */
import { maskOf } from "./masks.js";
import { Overlay } from "./overlay.js";
import { Tiles } from "./tiles.js";
import { View } from "./view.js";

const [POSITIVE, NEGATIVE] = ["#1fa463", "#e0443e"];

/**
 * What is to be seen above the picture.
 * @typedef {object} Scene
 * @property {{mask: Runs, colour: string, active: boolean}[]} objects  from the lowest to the highest
 * @property {{mask: Runs, colour: string} | null} preview
 * @property {Prompt[]} prompts  of the active object
 * @property {Box | null} region  the window of the active object
 * @property {Live | null} live
 * @property {string} colour  of what is being drawn
 * @property {{point: Point, radius: number | null} | null} cursor  of the keyboard, or of a brush
 * @property {boolean} crosshair
 * @property {{opacity: number, outline: boolean, masks: boolean, alone: boolean}} look
 */

/** The canvas: the picture's tiles, masks, prompts, and what is being drawn. Paints once a frame, if something changed. */
export class Viewer {
  view = new View();
  #overlay = new Overlay();
  #due = false;
  /** The picture without masks, once it was painted twice from the same view: hovering and drawing change only what is above. */
  #still = { key: "", canvas: new OffscreenCanvas(1, 1), painted: false };
  /** How many times it has painted, for whoever measures. */
  painted = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{tile: (picture: string, tile: {level: number, column: number, row: number}, signal: AbortSignal) => Promise<Blob>, scene: () => Scene, refused: (message: string) => void, resized: () => void}} host
   */
  constructor(canvas, host) {
    this.canvas = canvas;
    this.host = host;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    this.tiles = new Tiles(host.tile, () => this.repaint(), host.refused);
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** @param {Picture | null} picture */
  show(picture) {
    this.tiles.show(picture);
    if (picture) {
      this.view.picture = picture;
      this.view.fit();
    }
    this.repaint();
  }

  #resize() {
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(this.canvas.clientWidth * ratio), Math.round(this.canvas.clientHeight * ratio)];
    if (!width || !height || (width === this.canvas.width && height === this.canvas.height && ratio === this.view.ratio)) return;
    const fits = Math.abs(this.view.scale - this.view.fitting) < 1e-9;
    [this.canvas.width, this.canvas.height] = [width, height];
    this.view.resize({ width, height }, ratio);
    if (fits) this.view.fit();
    this.#paint();
    this.host.resized();
  }

  /** Paint in the next frame. */
  repaint() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#paint();
    });
  }

  #paint() {
    const { context, view } = this;
    const scene = this.host.scene();
    const { look } = scene;
    this.#ground(look.alone);
    this.#overlay.draw(context, this.#masks(scene), view);
    if (!look.alone) {
      if (scene.region) this.#frame(scene.region);
      for (const prompt of scene.prompts) this.#prompt(prompt);
    }
    if (scene.live) this.#live(scene.live, scene.colour);
    if (scene.cursor) this.#cursor(scene.cursor, scene.crosshair);
    this.painted++;
  }

  /** What is painted of the scene's masks. @param {Scene} scene */
  #masks({ objects, preview, look }) {
    const masks = (look.masks || look.alone ? objects : []).map(({ mask, colour, active }) => {
      const outline = look.alone || !look.outline ? 0 : active ? 1 : 0.65;
      return { mask: maskOf(mask), look: { colour, fill: look.alone ? 1 : look.opacity, outline } };
    });
    if (preview && !look.alone) {
      const { mask, colour } = preview;
      masks.push({ mask: maskOf(mask), look: { colour, fill: look.opacity * 0.6, outline: 0.6 } });
    }
    return masks;
  }

  /** The picture, or black in its place, and what is around it. @param {boolean} black */
  #ground(black) {
    const { context, view } = this;
    const { width, height } = this.canvas;
    const around = getComputedStyle(this.canvas).getPropertyValue("--ground");
    const paint = (/** @type {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} */ target) => {
      target.fillStyle = around;
      target.fillRect(0, 0, width, height);
      target.fillStyle = "#000";
      if (black) target.fillRect(view.x, view.y, view.picture.width * view.scale, view.picture.height * view.scale);
      else this.tiles.draw(target, view);
    };
    const key = [view.scale, view.x, view.y, width, height, this.tiles.version, black, around].join();
    const still = this.#still;
    if (still.key !== key) {
      still.key = key;
      still.painted = false;
      return paint(context);
    }
    if (!still.painted) {
      if (still.canvas.width !== width || still.canvas.height !== height) still.canvas = new OffscreenCanvas(width, height);
      paint(/** @type {OffscreenCanvasRenderingContext2D} */ (still.canvas.getContext("2d", { alpha: false })));
      still.painted = true;
    }
    context.drawImage(still.canvas, 0, 0);
  }

  /** A dark line below a light one is seen on any picture. @param {() => void} path @param {string} colour @param {number} width  CSS pixels */
  #line(path, colour, width = 1.5) {
    const { context, view } = this;
    context.lineJoin = context.lineCap = "round";
    for (const [style, more] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 55%)", 1.5], [colour, 0]])) {
      context.beginPath();
      path();
      context.strokeStyle = style;
      context.lineWidth = (width + more) * view.ratio;
      context.stroke();
    }
  }

  /** @param {Box} box */
  #rectangle([x0, y0, x1, y1]) {
    const [left, upper] = this.view.toCanvas([x0, y0]);
    const [right, lower] = this.view.toCanvas([x1, y1]);
    this.context.rect(left, upper, right - left, lower - upper);
  }

  /** @param {Point[]} points */
  #polyline(points) {
    points.map((point) => this.view.toCanvas(point)).forEach(([x, y], i) => (i ? this.context.lineTo(x, y) : this.context.moveTo(x, y)));
    if (points.length === 1) this.context.lineTo(...this.view.toCanvas(points[0]));
  }

  /** The window of an object; the rest of the picture is not its. @param {Box} region */
  #frame(region) {
    const { context, view } = this;
    context.save();
    context.setLineDash([6 * view.ratio, 5 * view.ratio]);
    this.#line(() => this.#rectangle(region), "#fff", 1);
    context.restore();
  }

  /** @param {Prompt} prompt */
  #prompt(prompt) {
    if ("click" in prompt) {
      const [x, y] = this.view.toCanvas(prompt.click);
      const { context, view } = this;
      const [radius, half] = [6 * view.ratio, 3 * view.ratio];
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fillStyle = prompt.positive ? POSITIVE : NEGATIVE;
      context.fill();
      context.lineWidth = 1.5 * view.ratio;
      context.strokeStyle = "#fff";
      context.stroke();
      context.beginPath();
      context.moveTo(x - half, y);
      context.lineTo(x + half, y);
      if (prompt.positive) {
        context.moveTo(x, y - half);
        context.lineTo(x, y + half);
      }
      context.stroke();
    } else if ("box" in prompt) this.#line(() => this.#rectangle(prompt.box), "#fff");
    else if ("stroke" in prompt) this.#line(() => this.#polyline(prompt.stroke), prompt.positive ? POSITIVE : NEGATIVE, 2.5);
  }

  /** @param {Live} live @param {string} colour */
  #live(live, colour) {
    const { context, view } = this;
    if (live.kind === "box") return this.#line(() => this.#rectangle(live.box), "#fff");
    if (live.kind === "line") return this.#line(() => this.#polyline(live.points), live.positive ? POSITIVE : NEGATIVE, 2.5);
    context.save();
    context.globalAlpha = 0.6;
    context.lineJoin = context.lineCap = "round";
    context.lineWidth = 2 * live.radius * view.scale;
    context.strokeStyle = live.erase ? NEGATIVE : colour;
    context.beginPath();
    this.#polyline(live.points);
    context.stroke();
    context.restore();
  }

  /** @param {{point: Point, radius: number | null}} cursor @param {boolean} crosshair */
  #cursor({ point, radius }, crosshair) {
    const { context, view } = this;
    const [x, y] = view.toCanvas(point);
    if (radius !== null) {
      this.#line(() => {
        context.moveTo(x + radius * view.scale, y);
        context.arc(x, y, radius * view.scale, 0, 2 * Math.PI);
      }, "#fff", 1);
    }
    if (!crosshair) return;
    const [inner, outer] = [4 * view.ratio, 14 * view.ratio];
    this.#line(() => {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + dx * inner, y + dy * inner);
        context.lineTo(x + dx * outer, y + dy * outer);
      }
    }, "#fff");
  }
}
