/** @import {Gestures} from "./gestures.js" */
/** @import {View} from "./view.js" */
/** @import {Point} from "./types.js" */

const WHEEL_STEP = 120; // of a mouse wheel; trackpads send other numbers
const ZOOM = 0.0016; // a wheel unit, in powers of e

/** Mouse, pen, fingers and wheel over the canvas: pans and zooms the view, and hands the rest to the tool. */
export class Pointer {
  /** Fingers and buttons that are down, device pixels. @type {Map<number, Point>} */
  #down = new Map();
  #panning = false;
  /** Whether the space bar is held. */
  holding = false;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {View} view
   * @param {Gestures} gestures
   * @param {{moved: () => void, pick: (at: Point) => void, at: (point: Point | null) => void}} tell
   *   `moved`: the view is another; `pick`: a click with the hand; `at`: where the pointer is
   */
  constructor(canvas, view, gestures, tell) {
    this.canvas = canvas;
    this.view = view;
    this.gestures = gestures;
    this.tell = tell;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", (event) => this.#release(event, true));
    canvas.addEventListener("pointerleave", () => {
      if (this.#down.size) return;
      gestures.hover(null);
      tell.at(null);
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Where an event is, device pixels of the canvas. @param {MouseEvent} event @returns {Point} */
  #place(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [(event.clientX - left) * this.view.ratio, (event.clientY - top) * this.view.ratio];
  }

  /** @param {PointerEvent} event */
  #press(event) {
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.#place(event);
    this.#down.set(event.pointerId, at);
    if (this.#down.size > 1) {
      this.gestures.cancel(); // two fingers move the picture
      this.#panning = true;
    } else if (event.button === 1 || this.holding || this.gestures.tool === "hand") {
      this.#panning = true;
      if (event.button === 0 && !this.holding) this.tell.pick(this.view.toPicture(at));
    } else if (event.button === 0 || event.button === 2) {
      const negative = event.button === 2 || event.altKey || event.ctrlKey;
      this.gestures.down(this.view.toPicture(at), negative);
    }
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const at = this.#place(event);
    this.tell.at(this.view.toPicture(at));
    const before = this.#down.get(event.pointerId);
    if (before && this.#panning) {
      this.#drag(event.pointerId, before, at);
      this.#down.set(event.pointerId, at);
      return this.tell.moved();
    }
    if (before) this.#down.set(event.pointerId, at);
    if (!before && event.pointerType === "touch") return;
    const events = this.gestures.pressed ? event.getCoalescedEvents?.() ?? [] : [];
    for (const one of events.slice(0, -1)) this.gestures.move(this.view.toPicture(this.#place(one)));
    this.gestures.move(this.view.toPicture(at), event.altKey || event.ctrlKey);
  }

  /** One pointer pans; of two, the other one stays where it is. @param {number} id @param {Point} before @param {Point} at */
  #drag(id, before, at) {
    const other = [...this.#down].find(([key]) => key !== id)?.[1];
    if (!other) return this.view.pan(at[0] - before[0], at[1] - before[1]);
    const apart = (/** @type {Point} */ a) => Math.max(1, Math.hypot(a[0] - other[0], a[1] - other[1]));
    const middle = (/** @type {Point} */ a) => [(a[0] + other[0]) / 2, (a[1] + other[1]) / 2];
    const [[x0, y0], [x1, y1]] = [middle(before), middle(at)];
    this.view.pan(x1 - x0, y1 - y0);
    this.view.zoomTo((this.view.scale * apart(at)) / apart(before), [x1, y1]);
  }

  /** @param {PointerEvent} event @param {boolean} [cancelled] */
  #release(event, cancelled = false) {
    this.#down.delete(event.pointerId);
    if (this.#panning) this.#panning = this.#down.size > 0;
    else if (cancelled) this.gestures.cancel();
    else this.gestures.up(this.view.toPicture(this.#place(event)));
  }

  /** A mouse wheel zooms, two fingers on a trackpad pan, a pinch zooms. @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : 30;
    const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
    const wheel = event.deltaMode !== WheelEvent.DOM_DELTA_PIXEL || (dx === 0 && Math.abs(dy) >= 100 && dy % (WHEEL_STEP / 12) === 0);
    if (event.ctrlKey || event.metaKey || (wheel && !event.shiftKey)) {
      const speed = event.ctrlKey && !wheel ? 6 : 1; // pinches send small numbers
      this.view.zoomTo(this.view.scale * Math.exp(-dy * ZOOM * speed), this.#place(event));
    } else {
      const across = event.shiftKey && dx === 0 ? dy : dx;
      this.view.pan(-across * this.view.ratio, event.shiftKey && dx === 0 ? 0 : -dy * this.view.ratio);
    }
    this.tell.moved();
    this.gestures.move(this.view.toPicture(this.#place(event)));
  }
}
