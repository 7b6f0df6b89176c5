/** @import {Answer} from "./types.js" */

/**
 * A question about a mask, and what tells it apart from others.
 * @typedef {{key: string, ask: () => Promise<Answer>}} Question
 */

const MOST = 2; // questions at a time: one that is decoded while the other is on its way or painted

/** The mask under the pointer: few questions at a time, and then the newest. */
export class Preview {
  /** @type {Question | null} */
  #wanted = null;
  /** From the oldest to the newest. @type {{key: string, answer: Promise<Answer | null>}[]} */
  #asked = [];
  /** The last answer, for as long as it is wanted. @type {{key: string, answer: Answer} | null} */
  shown = null;
  /** How many were shown, for whoever measures. */
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
    this.#work();
  }

  #work() {
    const wanted = this.#wanted;
    if (!wanted || this.#asked.length >= MOST) return;
    if (wanted.key !== this.shown?.key && !this.#asked.some(({ key }) => key === wanted.key)) void this.#ask(wanted);
  }

  /** @param {Question} question */
  async #ask({ key, ask }) {
    const asked = { key, answer: ask().catch(() => null) };
    this.#asked.push(asked);
    const answer = await asked.answer;
    const at = this.#asked.indexOf(asked); // -1 where a newer one was answered before
    if (at >= 0) this.#asked.splice(answer ? 0 : at, answer ? at + 1 : 1); // with it those that were asked before
    if (!answer) {
      if (this.#wanted?.key === key) this.#wanted = null; // asked again when the pointer moves
    } else if (at >= 0 && this.#wanted) {
      this.shown = { key, answer };
      this.answered++;
      this.repaint();
    }
    this.#work();
  }

  /** The answer to a question that was asked already, or is being asked. @param {string} key @returns {Promise<Answer | null>} */
  async known(key) {
    if (this.shown?.key === key) return this.shown.answer;
    return this.#asked.find((asked) => asked.key === key)?.answer ?? null;
  }
}
