/** @import {Api} from "./api.js" */
/** @import {Change} from "./history.js" */
/** @import {Answer, Box, Class, Encoding, Entry, Picture, Prompt} from "./types.js" */
import { ApiError, sleep } from "./api.js";
import { History } from "./history.js";

const LOOK_AGAIN = 2000; // milliseconds after which the server is asked for an encoding of which nothing was heard
const UNDER_WAY = new Set(["queued", "encoding"]);
const WAIT = 1500; // milliseconds until a server that has no time, or does not answer, is asked again

/**
 * A prompt that waits for its mask.
 * @typedef {{id: string, prompt: Prompt, region: Box | null, draft: Omit<Entry, "mask" | "prompts">}} Pending
 */

/** A picture on which somebody works: its objects, what was done to them, and prompts that wait for their masks. */
export class OpenPicture {
  /** @type {Map<string, Entry>} */
  entries = new Map();
  history = new History();
  /** The object that prompts go to; maybe one that has no mask yet. @type {string | null} */
  active = null;
  /** @type {Pending[]} */
  waiting = [];
  /** Encodings by their window. @type {Map<string, Encoding>} */
  encodings = new Map();
  /** The window in which new objects are segmented. @type {Box | null} */
  region = null;
  /** Whether others may have changed objects that nothing was heard of. */
  stale = false;
  /** Why nothing can be drawn here. @type {string | null} */
  broken = null;
  #working = false;
  /** Windows whose encodings are followed. @type {Set<string>} */
  #followed = new Set();
  /** @type {(() => void)[]} */
  #watchers = [];

  /**
   * @param {Api} api
   * @param {Picture} picture
   * @param {{changed: () => void, soon: () => void, save: (id: string, entry: Entry | null) => void, saveClasses: (classes: Class[]) => void, rename: (name: string, newName: string) => void, given: (entry: Entry, answer: Answer) => void, failed: (message: string) => void}} tell
   */
  constructor(api, picture, tell) {
    this.api = api;
    this.picture = picture;
    this.tell = tell;
    for (const entry of picture.objects) this.entries.set(entry.id, entry);
  }

  /** Objects from the lowest to the highest. */
  get sorted() {
    return [...this.entries.values()].sort((a, b) => a.order - b.order || (a.id < b.id ? -1 : 1));
  }

  /** The active object, if it has a mask. */
  get entry() {
    return this.active === null ? undefined : this.entries.get(this.active);
  }

  /** The window of the active object, or of a new one. */
  get window() {
    return this.#draft()?.region ?? (this.entry ? this.entry.region : this.region);
  }

  /** What waits of the active object. */
  #draft() {
    return this.waiting.find(({ id }) => id === this.active);
  }

  /** Prompts of an object, those that wait included. @param {string | null} id @returns {Prompt[]} */
  promptsOf(id) {
    const waiting = this.waiting.filter((pending) => pending.id === id).map(({ prompt }) => prompt);
    return [...((id !== null && this.entries.get(id)?.prompts) || []), ...waiting];
  }

  // Encodings

  /** @param {Box | null} region @returns {Encoding | undefined} */
  encoding(region) {
    return this.encodings.get(JSON.stringify(region));
  }

  /** @param {Encoding} encoding @param {Box | null} region */
  heard(encoding, region) {
    this.encodings.set(JSON.stringify(region), encoding);
    const { width, height } = this.picture;
    if (encoding.width !== width || encoding.height !== height) {
      this.broken = `The server segments ${encoding.width} x ${encoding.height} pixels, but this page shows ${width} x ${height}. Reload the page.`;
    }
    for (const watcher of this.#watchers.splice(0)) watcher();
    this.tell.changed();
  }

  /** Have a window encoded. @param {Box | null} region @param {string[]} [ahead]  pictures that come next */
  async open(region, ahead = []) {
    const before = this.encoding(region);
    const encoding = await this.api.open(this.picture.id, region, ahead);
    const now = this.encoding(region);
    if (now === before || now?.state !== "ready") this.heard(encoding, region); // else an event was faster
    void this.#follow(region);
  }

  /** Ask for an encoding as long as it is under way: events may be lost. @param {Box | null} region */
  async #follow(region) {
    const key = JSON.stringify(region);
    if (this.#followed.has(key)) return;
    this.#followed.add(key);
    for (;;) {
      await Promise.race([this.#news(), sleep(LOOK_AGAIN)]);
      const known = this.encodings.get(key);
      if (!known || !UNDER_WAY.has(known.state)) break;
      const encoding = await this.api.open(this.picture.id, region, []).catch(() => null);
      if (encoding && this.encodings.get(key) === known) this.heard(encoding, region);
    }
    this.#followed.delete(key);
  }

  /** Until something is heard of an encoding. @returns {Promise<void>} */
  #news() {
    return new Promise((done) => this.#watchers.push(done));
  }

  /** Wait until a window is encoded. @param {Box | null} region */
  async #ready(region) {
    for (;;) {
      const encoding = this.encoding(region);
      if (encoding?.state === "ready") return;
      if (encoding?.state === "failed") {
        this.encodings.delete(JSON.stringify(region)); // the next prompt tries again
        throw new Error(encoding.error ?? "the picture could not be encoded");
      }
      if (encoding && UNDER_WAY.has(encoding.state)) await this.#news();
      else await this.open(region);
    }
  }

  // Prompts

  /** @param {Pending} pending */
  add(pending) {
    this.waiting.push(pending);
    this.tell.soon();
    if (!this.#working) void this.#work();
  }

  /** @param {Pending} pending @param {Answer} answer */
  #given(pending, answer) {
    const { size } = answer.mask;
    if (size[0] !== this.picture.height || size[1] !== this.picture.width) {
      throw new Error(`the server's mask has ${size[1]} x ${size[0]} pixels, the picture ${this.picture.width} x ${this.picture.height}`);
    }
    const before = this.entries.get(pending.id) ?? null;
    const prompts = [...(before?.prompts ?? []), pending.prompt];
    const after = { ...(before ?? pending.draft), prompts, mask: answer.mask };
    this.commit([{ before, after }]);
    this.tell.given(after, answer);
  }

  async #work() {
    this.#working = true;
    for (let pending = this.waiting[0]; pending; pending = this.waiting[0]) {
      try {
        await this.#ready(pending.region);
        const prompts = [...(this.entries.get(pending.id)?.prompts ?? []), pending.prompt];
        const answer = await this.ask(prompts, pending.region);
        if (this.waiting[0] !== pending) continue; // taken back meanwhile
        this.waiting.shift();
        this.#given(pending, answer);
      } catch (error) {
        if (this.waiting[0] !== pending) continue;
        if (error instanceof ApiError && (error.status === 0 || error.status === 503)) {
          await sleep(WAIT); // the prompts wait, too
          continue;
        }
        this.waiting = this.waiting.filter(({ id }) => id !== pending.id);
        if (this.active === pending.id && !this.entries.has(pending.id)) this.active = null;
        this.tell.failed(error instanceof Error ? error.message : String(error));
        this.tell.changed();
      }
    }
    this.#working = false;
  }

  /** The mask of prompts; what is known already need not be asked for. @type {(prompts: Prompt[], region: Box | null) => Promise<Answer>} */
  ask = (prompts, region) => this.api.predict(this.picture.id, { prompts, region }, false);

  // Changes

  /** Do something that can be undone. @param {Change[]} step */
  commit(step) {
    this.history.add(step);
    this.#apply(step);
  }

  /** @param {Change[]} step */
  #apply(step) {
    for (const change of step) {
      if ("classesBefore" in change) {
        this.tell.saveClasses(change.classesAfter);
        continue;
      }
      if ("renamed" in change) {
        this.tell.rename(...change.renamed);
        continue;
      }
      const { before, after } = change;
      const id = /** @type {Entry} */ (before ?? after).id;
      if (after) this.entries.set(id, after);
      else this.entries.delete(id);
      if (!after && this.active === id) this.active = null;
      this.tell.save(id, after);
    }
    this.tell.changed();
  }

  undo() {
    const last = this.waiting.pop();
    if (last) {
      if (last.id === this.active && !this.entries.has(last.id) && !this.#draft()) this.active = null;
      this.tell.changed();
      return;
    }
    this.#step(this.history.undo());
  }

  redo() {
    if (!this.waiting.length) this.#step(this.history.redo());
  }

  /** @param {Change[]} step */
  #step(step) {
    this.#apply(step);
    const last = step.at(-1);
    if (last && "after" in last && last.after) this.active = last.after.id;
    this.tell.changed();
  }

  /** What somebody else made of an object, or what a conflict was decided to. @param {string} id @param {Entry | null} entry */
  replace(id, entry) {
    this.history.forget(id);
    this.waiting = this.waiting.filter((pending) => pending.id !== id);
    if (entry) this.entries.set(id, entry);
    else this.entries.delete(id);
    if (!entry && this.active === id) this.active = null;
    this.tell.changed();
  }

  /** A class has another name, and these objects with it. @param {string} name @param {string} newName @param {Entry[]} entries */
  renamed(name, newName, entries) {
    this.history.renamed(name, newName);
    for (const { draft } of this.waiting) if (draft.class === name) draft.class = newName;
    for (const entry of entries) this.entries.set(entry.id, entry);
  }

  /** Change some of an object's entries. @param {string} id @param {Partial<Entry>} what */
  change(id, what) {
    const before = this.entries.get(id);
    if (before) this.commit([{ before, after: { ...before, ...what } }]);
  }

  /** @param {string} id */
  remove(id) {
    this.waiting = this.waiting.filter((pending) => pending.id !== id);
    const before = this.entries.get(id);
    if (before) this.commit([{ before, after: null }]);
    else if (this.active === id) this.active = null;
    this.tell.changed();
  }

  /** Move an object by one in the order of drawing. @param {string} id @param {1 | -1} by */
  move(id, by) {
    const sorted = this.sorted;
    const at = sorted.findIndex((entry) => entry.id === id);
    const other = at + by;
    if (at < 0 || other < 0 || other >= sorted.length) return;
    [sorted[at], sorted[other]] = [sorted[other], sorted[at]];
    const step = sorted.flatMap((before, order) => (before.order === order ? [] : [{ before, after: { ...before, order } }]));
    this.commit(step);
  }
}
