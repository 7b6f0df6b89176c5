/** @import {Class, Entry} from "./types.js" */

/**
 * One object before and after a step, null where there is none; or all classes.
 * @typedef {{before: Entry | null, after: Entry | null} | {classesBefore: Class[], classesAfter: Class[]}} Change
 */

/** @param {Change} change @returns {Change} */
function reversed(change) {
  if ("classesBefore" in change) return { classesBefore: change.classesAfter, classesAfter: change.classesBefore };
  return { before: change.after, after: change.before };
}

/** What was done to a picture, to be undone and done again. */
export class History {
  /** @type {Change[][]} */
  #done = [];
  /** @type {Change[][]} */
  #undone = [];

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** @param {Change[]} step */
  add(step) {
    this.#done.push(step);
    this.#undone = [];
  }

  /** What is to be done now to undo the last step. @returns {Change[]} */
  undo() {
    const step = this.#done.pop();
    if (!step) return [];
    this.#undone.push(step);
    return step.map(reversed).reverse();
  }

  /** @returns {Change[]} */
  redo() {
    const step = this.#undone.pop();
    if (!step) return [];
    this.#done.push(step);
    return step;
  }

  /**
   * Somebody else changed something: what was done to it here must not come back over that.
   * @param {string | null} id  of an object; null: the classes
   */
  forget(id) {
    const of = (/** @type {Change} */ change) => ("classesBefore" in change ? null : (change.before ?? change.after)?.id);
    const others = (/** @type {Change} */ change) => of(change) !== id;
    const clean = (/** @type {Change[][]} */ steps) => steps.map((step) => step.filter(others)).filter((step) => step.length);
    this.#done = clean(this.#done);
    this.#undone = clean(this.#undone);
  }
}
