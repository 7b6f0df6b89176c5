/** @import {Answer} from "./types.js" */

/**
 * A question about a mask, and what tells it apart from others.
 * @typedef {{key: string, ask: () => Promise<Answer>}} Question
 */

/** The mask under the pointer: one question at a time, and then the newest. */
export class Preview {
  /** @type {Question | null} */
  #wanted = null;
  /** @type {{key: string, answer: Promise<Answer | null>} | null} */
  #asked = null;
  /** The last answer, for as long as it is wanted. @type {{key: string, answer: Answer} | null} */
  shown = null;
  /** How many answers have come, for whoever measures. */
  answered = 0;

  /** @param {() => void} repaint */
  constructor(repaint) {
    this.repaint = repaint;
  }

  /** @param {Question | null} question  null: nothing is to be shown */
  want(question) {
    this.#wanted = question;
    if (!question && this.shown) {
      this.shown = null;
      this.repaint();
    }
    if (!this.#asked) void this.#work();
  }

  async #work() {
    while (this.#wanted && this.#wanted.key !== this.shown?.key) {
      const { key, ask } = this.#wanted;
      const answer = ask().catch(() => null);
      this.#asked = { key, answer };
      const got = await answer;
      this.#asked = null;
      this.answered++;
      if (!got) {
        if (this.#wanted?.key === key) this.#wanted = null; // asked again when the pointer moves
      } else if (this.#wanted) {
        this.shown = { key, answer: got };
        this.repaint();
      }
    }
  }

  /** The answer to a question that was asked already, or is being asked. @param {string} key @returns {Promise<Answer | null>} */
  async known(key) {
    if (this.shown?.key === key) return this.shown.answer;
    return this.#asked?.key === key ? this.#asked.answer : null;
  }
}
