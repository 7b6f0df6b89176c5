import { ApiError, sleep } from "./api.js";
import { painted } from "./dom.js";

const [FIRST_WAIT, LONGEST_WAIT] = [1000, 10_000]; // milliseconds between tries

/**
 * Something that the server keeps, as it is here: an object of a picture, or the classes.
 * @template T
 * @typedef {object} Kept
 * @property {string} id
 * @property {number} version  that the server acknowledged; 0: none
 * @property {T | null} wanted  as it is to be; null: deleted
 * @property {boolean} dirty  the server does not have it so yet
 * @property {boolean} conflict  somebody else wrote it, and it is not decided which version stays
 * @property {{version: number, thing: T | null} | null} heard  what was heard of it while it was dirty
 */

/**
 * @template T
 * @typedef {object} Host
 * @property {(id: string, thing: T | null, version: number) => Promise<{version: number}>} write  over `version`
 * @property {(answer: any) => (T & {version: number}) | null} there  what a refusal says that is stored
 * @property {() => void} changed  what is saved, or why not
 * @property {(id: string, thing: T | null) => void} theirs  take what somebody else wrote
 * @property {(id: string, mine: T | null, theirs: (T & {version: number}) | null, decide: (keep: "mine" | "theirs") => void) => void} conflict
 */

/**
 * Brings every change to the server, one after the other, and tries again until it is there.
 * @template T
 */
export class Saver {
  /** @type {Map<string, Kept<T>>} */
  #kept = new Map();
  #working = false;
  /** Ends the pause between two tries. */
  #hurry = () => {};
  /** What went wrong the last time, until it went well. @type {string | null} */
  error = null;

  /** @param {Host<T>} host */
  constructor(host) {
    this.host = host;
  }

  /** How many things the server does not have yet as they are here. */
  get unsaved() {
    return [...this.#kept.values()].filter(({ dirty }) => dirty).length;
  }

  /** @param {string} id */
  isDirty(id) {
    return this.#kept.get(id)?.dirty ?? false;
  }

  /** @param {string} id @param {T | null} thing  null: delete it */
  save(id, thing) {
    const kept = this.#kept.get(id) ?? { id, version: 0, wanted: null, dirty: false, conflict: false, heard: null };
    kept.wanted = thing;
    kept.dirty = true;
    this.#kept.set(id, kept);
    this.host.changed();
    this.#hurry();
    if (!this.#working) void this.#work();
  }

  /** Try again now. */
  retry() {
    this.#hurry();
  }

  /** The version that the server acknowledged; 0: none. @param {string} id */
  versionOf(id) {
    return this.#kept.get(id)?.version ?? 0;
  }

  /**
   * What the server has, and is the same here already.
   * @param {string} id
   * @param {T | null} thing
   * @param {number} version
   * @returns {boolean}  whether it was news; of what is not saved yet nothing is taken
   */
  know(id, thing, version) {
    if (this.isDirty(id) || version <= this.versionOf(id)) return false;
    this.#kept.set(id, { id, version, wanted: thing, dirty: false, conflict: false, heard: null });
    return true;
  }

  /**
   * What the server has.
   * @param {string} id
   * @param {T | null} thing
   * @param {number} version
   */
  heard(id, thing, version) {
    const kept = this.#kept.get(id);
    if (kept && version <= kept.version) return;
    if (kept?.dirty) kept.heard = { version, thing }; // an answer is on its way: of our own change, or a conflict
    else this.#take(id, thing, version);
  }

  /** @param {string} id @param {T | null} thing @param {number} version */
  #take(id, thing, version) {
    this.#kept.set(id, { id, version, wanted: thing, dirty: false, conflict: false, heard: null });
    this.host.theirs(id, thing);
  }

  async #work() {
    this.#working = true;
    await painted(); // what is seen comes first
    let wait = FIRST_WAIT;
    for (let kept = this.#next(); kept; kept = this.#next()) {
      try {
        await this.#write(kept);
        wait = FIRST_WAIT;
        this.error = null;
      } catch (error) {
        this.error = error instanceof Error ? error.message : String(error);
        this.host.changed();
        const hurried = new Promise((done) => (this.#hurry = () => done(undefined)));
        await Promise.race([sleep(wait), hurried]);
        wait = Math.min(LONGEST_WAIT, wait * 2);
      }
      this.host.changed();
    }
    this.#working = false;
  }

  #next() {
    return [...this.#kept.values()].find(({ dirty, conflict }) => dirty && !conflict);
  }

  /** @param {Kept<T>} kept */
  async #write(kept) {
    const { id, version, wanted } = kept;
    if (!wanted && version === 0) {
      kept.dirty = false; // the server never had it
      return;
    }
    try {
      kept.version = (await this.host.write(id, wanted, version)).version;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 409 || error.code !== "conflict") throw error;
      this.#conflict(kept, this.host.there(error.data));
      return;
    }
    if (kept.wanted === wanted) kept.dirty = false;
    const { heard } = kept;
    kept.heard = null;
    if (heard && heard.version > kept.version && !kept.dirty) this.#take(id, heard.thing, heard.version);
  }

  /** @param {Kept<T>} kept @param {any} there  with its version; also what was deleted */
  #conflict(kept, there) {
    const { id } = kept;
    const version = there?.version ?? 0;
    const theirs = there?.deleted ? null : there;
    if (!kept.wanted && !theirs) return this.#take(id, null, version); // both deleted it
    kept.conflict = true;
    this.host.conflict(id, kept.wanted, theirs, (keep) => {
      kept.conflict = false;
      if (keep === "theirs") {
        this.#take(id, theirs, version);
        this.host.changed();
      } else {
        kept.version = version;
        this.save(id, kept.wanted);
      }
    });
  }
}
