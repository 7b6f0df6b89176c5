// The worker as an object: each call is a promise.

export class Model {
  #worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  #open = new Map(); // calls that have not been answered, by number
  #calls = 0;

  /** @param {(bytes: number) => void} tell how much of the bundle has come */
  constructor(tell) {
    this.#worker.onmessage = ({ data: { id, result, error, progress } }) => {
      if (progress !== undefined) return tell(progress);
      const { resolve, reject } = this.#open.get(id);
      this.#open.delete(id);
      return error === undefined ? resolve(result) : reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#open.values()) reject(new Error(event.message || "a file of this site is missing"));
      this.#open.clear();
    };
  }

  #call(call, ...given) {
    return new Promise((resolve, reject) => {
      this.#open.set(++this.#calls, { resolve, reject });
      this.#worker.postMessage({ id: this.#calls, call, given });
    });
  }

  load = () => this.#call("load");
  open = (/** @type {Blob} */ file) => this.#call("open", file);
  click = (/** @type {number} */ x, /** @type {number} */ y, /** @type {boolean} */ positive) => this.#call("click", x, y, positive);
  box = (/** @type {number[]} */ ...sides) => this.#call("box", ...sides);
  undo = () => this.#call("undo");
}
