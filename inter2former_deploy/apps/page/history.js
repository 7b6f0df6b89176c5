/** @import {Class, Entry} from "./types.js" */

/**
 * One object before and after a step, null where there is none; or all classes; or the old and the new name of a class.
 * @typedef {{before: Entry | null, after: Entry | null} | {classesBefore: Class[], classesAfter: Class[]} | {renamed: [string, string]}} Change
 */

/** @param {Change} change @returns {Change} */
function reversed(change) {
  if ("classesBefore" in change) return { classesBefore: change.classesAfter, classesAfter: change.classesBefore };
  if ("renamed" in change) return { renamed: [change.renamed[1], change.renamed[0]] };
  return { before: change.after, after: change.before };
}

/**
 * A change as it would have been with another name of a class; that of the name itself stays.
 * @param {Change} change @param {string} name @param {string} newName
 * @returns {Change}
 */
function withName(change, name, newName) {
  if ("renamed" in change) return change;
  if ("classesBefore" in change) {
    const named = (/** @type {Class[]} */ classes) => classes.map((one) => (one.name === name ? { ...one, name: newName } : one));
    return { classesBefore: named(change.classesBefore), classesAfter: named(change.classesAfter) };
  }
  const named = (/** @type {Entry | null} */ entry) => (entry?.class === name ? { ...entry, class: newName } : entry);
  return { before: named(change.before), after: named(change.after) };
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
    const of = (/** @type {Change} */ change) => ("before" in change ? (change.before ?? change.after)?.id : null);
    const others = (/** @type {Change} */ change) => of(change) !== id;
    const clean = (/** @type {Change[][]} */ steps) => steps.map((step) => step.filter(others)).filter((step) => step.length);
    this.#done = clean(this.#done);
    this.#undone = clean(this.#undone);
  }

  /** A class has another name: what comes back has it, too. @param {string} name @param {string} newName */
  renamed(name, newName) {
    const anew = (/** @type {Change[][]} */ steps) => steps.map((step) => step.map((change) => withName(change, name, newName)));
    this.#done = anew(this.#done);
    this.#undone = anew(this.#undone);
  }
}
