/** @import {Api} from "./api.js" */
/** @import {Box, Class, Classes, Encoding, Entry, Point, Prompt, Renamed, Summary} from "./types.js" */
/** @import {View} from "./view.js" */
import { sleep, uuid } from "./api.js";
import { Preview } from "./preview.js";
import { holds, suits, windowOf } from "./regions.js";
import { Saver } from "./saver.js";
import { settings } from "./settings.js";
import { OpenPicture } from "./open-picture.js";

const KEPT = 50; // pictures whose history stays
const AHEAD = 2; // pictures that are encoded before one comes to them
const REST = 600; // milliseconds for which the view must rest before its window is encoded
const MORE = 300; // milliseconds after which the list of pictures is read again when there are more
const PATIENCE = 3000; // milliseconds that a class waits for changes to be saved before it is renamed
const UNKNOWN = "#8a8f98"; // colour of a class that is not in the list

/** @typedef {{id: string, picture: string, mine: Entry | null, theirs: Entry | null, decide: (keep: "mine" | "theirs") => void}} Conflict */

/** What the page works with: the folder's pictures, the classes, the picture that is seen, and what is to be saved. */
export class Workspace {
  /** @type {Summary[]} */
  summaries = [];
  /** That can be exported. @type {string[]} */
  formats = [];
  /** That can be imported. @type {string[]} */
  imports = [];
  /** @type {Class[]} */
  classes = [];
  /** The class of the next object. */
  class = "";
  /** @type {Map<string, OpenPicture>} */
  openPictures = new Map();
  /** @type {OpenPicture | null} */
  opened = null;
  /** @type {Conflict[]} */
  conflicts = [];
  connected = true;
  /** The picture to begin with, where there is one. @type {string | null} */
  first = null;
  /** The picture that is to be seen, maybe not loaded yet. @type {string | null} */
  #wanted = null;
  #rest = 0;
  #more = 0;
  /** Pictures of the objects. @type {Map<string, string>} */
  #pictureOf = new Map();

  /**
   * @param {Api} api
   * @param {View} view
   * @param {{changed: () => void, soon: () => void, repaint: () => void, saving: () => void, shown: (opened: OpenPicture) => void, notice: (message: string) => void, say: (text: string) => void}} tell
   *   `changed`: anything; `soon`: what the next mask brings along; `repaint`: the canvas alone; `saving`: what is saved
   */
  constructor(api, view, tell) {
    this.api = api;
    this.view = view;
    this.tell = tell;
    this.preview = new Preview(tell.repaint);
    /** @type {Saver<Entry>} */
    this.saver = new Saver({
      changed: tell.saving,
      write: (id, entry, version) => {
        const picture = /** @type {string} */ (this.#pictureOf.get(id));
        return entry ? api.put(picture, { ...entry, version }) : api.remove(picture, id, version, settings.author);
      },
      there: ({ object }) => object,
      theirs: (id, entry) => this.openPictures.get(this.#pictureOf.get(id) ?? "")?.replace(id, entry),
      conflict: (id, mine, theirs, decide) => {
        this.conflicts.push({ id, picture: this.#pictureOf.get(id) ?? "", mine, theirs, decide });
        tell.changed();
      },
    });
    /** @type {Saver<Classes>} */
    this.classSaver = new Saver({
      changed: tell.saving,
      write: (_, classes, version) => api.putClasses({ version, classes: classes?.classes ?? [] }),
      there: ({ version, classes }) => ({ version, classes }),
      theirs: (_, classes) => {
        for (const opened of this.openPictures.values()) opened.history.forget(null);
        this.#setClasses(classes?.classes ?? []);
      },
      conflict: (_, mine, theirs, decide) => {
        const there = theirs?.classes ?? []; // both lists are wanted
        const missing = (mine?.classes ?? []).filter(({ name }) => !there.some((one) => one.name === name));
        decide("theirs");
        if (missing.length) this.saveClasses([...there, ...missing]);
      },
    });
  }

  // Pictures

  /** Read the folder's list, and the picture that is seen. */
  async load() {
    const { pictures, classes, classes_version: version, format_names: formats, import_names: imports } = await this.api.pictures();
    this.summaries = pictures;
    this.formats = formats;
    this.imports = imports;
    this.classSaver.heard("classes", { version, classes }, version);
    for (const opened of this.openPictures.values()) opened.stale = opened !== this.opened;
    if (this.opened) await this.#again(this.opened);
    else if (pictures.length) await this.show(pictures.find(({ id }) => id === this.first)?.id ?? pictures[0].id);
    this.tell.changed();
  }

  /** What is seen, after the list has changed. @param {OpenPicture} opened */
  async #again(opened) {
    const { id, name } = opened.picture;
    const other = this.summaries.find((summary) => summary.name === name);
    if (!other || this.summaries.some((summary) => summary.id === id)) return this.#refresh(opened);
    this.tell.notice(`The file ${name} holds another picture now. What was drawn on the former one is kept for it.`);
    return this.show(other.id);
  }

  /** Take what changed while nothing was heard. @param {OpenPicture} opened */
  async #refresh(opened) {
    opened.stale = false;
    const picture = await this.api.picture(opened.picture.id);
    for (const entry of picture.objects) this.#hear(picture.id, entry);
    const there = new Set(picture.objects.map(({ id }) => id));
    for (const id of opened.entries.keys()) if (!there.has(id) && !this.saver.isDirty(id)) opened.replace(id, null);
  }

  /** @param {string} picture @param {Entry} entry  as the server has it */
  #hear(picture, entry) {
    this.#pictureOf.set(entry.id, picture);
    this.saver.heard(entry.id, entry.deleted ? null : entry, entry.version);
  }

  /** @param {string} id */
  async show(id) {
    this.#wanted = id;
    let opened = this.openPictures.get(id);
    if (!opened) {
      const picture = await this.api.picture(id);
      opened = this.openPictures.get(id) ?? this.#begin(picture);
    }
    if (opened.stale) await this.#refresh(opened);
    if (this.#wanted !== id) return;
    this.preview.want(null);
    this.opened = opened;
    this.tell.shown(opened);
    this.tell.changed();
    const at = this.summaries.findIndex((summary) => summary.id === id);
    const ahead = this.summaries.slice(at + 1, at + 1 + AHEAD).map((summary) => summary.id);
    await opened.open(null, ahead);
  }

  /** @param {import("./types.js").Picture} picture */
  #begin(picture) {
    const { id } = picture;
    /** @type {OpenPicture} */
    const opened = new OpenPicture(this.api, picture, {
      changed: this.tell.changed,
      soon: this.tell.soon,
      failed: this.tell.notice,
      given: ({ class: name }, { area }) => this.tell.say(`${name || "object"}: ${area} pixels`),
      save: (entryId, entry) => {
        this.#pictureOf.set(entryId, id);
        this.saver.save(entryId, entry);
        this.preview.want(null);
      },
      saveClasses: (classes) => this.saveClasses(classes),
      rename: (name, newName) => void this.#rename(name, newName),
    });
    this.openPictures.set(id, opened);
    for (const [key, { waiting, entries }] of this.openPictures) {
      if (this.openPictures.size <= KEPT) break;
      const unsaved = [...entries.keys()].some((entry) => this.saver.isDirty(entry));
      if (key !== id && key !== this.opened?.picture.id && !waiting.length && !unsaved) this.openPictures.delete(key);
    }
    for (const entry of picture.objects) this.#hear(id, entry);
    opened.ask = async (prompts, region) => {
      const known = await this.preview.known(questionKey(id, prompts, region));
      return known ?? this.api.predict(id, { prompts, region }, false);
    };
    return opened;
  }

  /** @param {1 | -1} by */
  turn(by) {
    const at = this.summaries.findIndex(({ id }) => id === this.#wanted);
    const next = this.summaries[at + by];
    return next ? this.show(next.id) : Promise.resolve();
  }

  /** @param {any} event  of the server */
  hear(event) {
    if (event.type === "image") {
      const { type: _, picture, region, ...encoding } = event;
      this.openPictures.get(picture)?.heard(/** @type {Encoding} */ (encoding), region ?? null);
    } else if (event.type === "object") {
      this.#count(event.picture, event.object);
      this.#hear(event.picture, event.object);
    } else if (event.type === "classes") {
      this.classSaver.heard("classes", event, event.version);
    } else if (event.type === "renamed" && !this.classSaver.isDirty("classes")) {
      this.#hearName(event);
    } else if (event.type === "renamed" || event.type === "pictures") {
      clearTimeout(this.#more);
      this.#more = setTimeout(() => this.load().catch(() => {}), MORE); // the server tells of each as it finds it
    }
  }

  /** Of pictures that are not loaded, the list knows only a number. @param {string} picture @param {Entry} entry */
  #count(picture, { version, deleted }) {
    const summary = this.summaries.find(({ id }) => id === picture);
    if (!summary || this.openPictures.has(picture)) return;
    if (deleted) summary.objects--;
    else if (version === 1) summary.objects++;
    this.tell.changed();
  }

  // Classes

  /** @param {string} name */
  colourOf(name) {
    return this.classes.find((one) => one.name === name)?.colour ?? UNKNOWN;
  }

  /** @param {Class[]} classes */
  #setClasses(classes) {
    this.classes = classes;
    if (!classes.some(({ name }) => name === this.class)) this.class = classes[0]?.name ?? "";
    this.tell.changed();
  }

  /** @param {Class[]} classes */
  saveClasses(classes) {
    this.#setClasses(classes);
    this.classSaver.save("classes", { version: 0, classes });
  }

  /** Change the classes, as a step of the picture's history. @param {Class[]} classes */
  changeClasses(classes) {
    const step = [{ classesBefore: this.classes, classesAfter: classes }];
    for (const opened of this.openPictures.values()) if (opened !== this.opened) opened.history.forget(null);
    if (this.opened) this.opened.commit(step);
    else this.saveClasses(classes);
  }

  /** Give a class another name, as a step of the picture's history. @param {string} name @param {string} newName */
  async rename(name, newName) {
    if ((await this.#rename(name, newName)) && this.opened) this.opened.history.add([{ renamed: [name, newName] }]);
    this.tell.changed();
  }

  /** @param {string} name @param {string} newName @returns {Promise<boolean>}  whether it has the new name */
  async #rename(name, newName) {
    const unsaved = () => this.saver.unsaved + this.classSaver.unsaved > 0;
    for (let waited = 0; unsaved() && waited < PATIENCE; waited += 50) await sleep(50);
    try {
      if (unsaved()) throw new Error("something is not saved yet");
      this.#hearName(await this.api.renameClass(this.classSaver.versionOf("classes"), name, newName, settings.author));
      return true;
    } catch (error) {
      this.tell.notice(`The class ${name} keeps its name: ${error instanceof Error ? error.message : error}.`);
      return false;
    }
  }

  /** A class has another name: here, on what is loaded, and in what can be undone. @param {Renamed} renamed */
  #hearName({ version, classes, name, new_name: newName, objects }) {
    if (!this.classSaver.know("classes", { version, classes }, version)) return; // heard already
    for (const [picture, opened] of this.openPictures) {
      const entries = Object.entries(objects).flatMap(([id, now]) => {
        const before = opened.entries.get(id);
        const after = before && { ...before, version: now, class: newName };
        return this.#pictureOf.get(id) === picture && this.saver.know(id, after ?? null, now) && after ? [after] : [];
      });
      opened.renamed(name, newName, entries);
    }
    if (this.class === name) this.class = newName;
    this.#setClasses(classes);
  }

  /** The class of the active object, and of the next one. @param {string} name */
  choose(name) {
    this.class = name;
    const entry = this.opened?.entry;
    if (entry && !entry.locked && entry.class !== name) this.opened?.change(entry.id, { class: name });
    this.tell.changed();
  }

  // Prompts

  /** The window for a prompt of the active object, or of a new one. @param {OpenPicture} opened @param {Point} at @returns {Box | null} */
  #window(opened, at) {
    if (opened.active !== null) return opened.window;
    const { picture } = opened;
    const visible = this.view.visible();
    if (suits(opened.region, picture, picture.region_size, visible, at)) return opened.region;
    return windowOf(picture, picture.region_size, visible);
  }

  /** The view is another: when it rests, what one looks at is encoded, for objects to come. */
  moved() {
    clearTimeout(this.#rest);
    this.#rest = setTimeout(() => {
      const { opened } = this;
      if (!opened || opened.active !== null) return;
      const [x0, y0, x1, y1] = this.view.visible();
      const region = this.#window(opened, [(x0 + x1) / 2, (y0 + y1) / 2]);
      if (JSON.stringify(region) === JSON.stringify(opened.region) && opened.encoding(region)) return;
      opened.region = region;
      if (!opened.encoding(region)) opened.open(region).catch(() => {}); // the first prompt asks again
    }, REST);
  }

  /** Why a prompt is not possible. @param {OpenPicture} opened @param {Prompt} prompt @param {Box | null} region */
  #refusal(opened, prompt, region) {
    if (opened.broken) return opened.broken;
    const { entry } = opened;
    if (entry?.locked) return "This object is locked. Unlock it (K), or begin another one (N).";
    if (entry?.hidden) return "This object is hidden. Show it (X), or begin another one (N).";
    const away = ("positive" in prompt && !prompt.positive) || ("erase" in prompt && prompt.erase);
    if (away && opened.promptsOf(opened.active).length === 0) return "There is nothing to take away from yet: begin with a click on the object.";
    const points = "click" in prompt ? [prompt.click] : "stroke" in prompt ? prompt.stroke : [];
    const box = "box" in prompt && region ? clipped(prompt.box, region) : null;
    if (!points.every((point) => holds(region, point)) || (box && (box[2] <= box[0] || box[3] <= box[1]))) {
      return "This object is segmented in the window with the dashed frame, and this lies outside. Begin another object there (N).";
    }
    return null;
  }

  /** @param {Prompt} prompt */
  add(prompt) {
    const { opened } = this;
    if (!opened) return;
    const region = this.#window(opened, place(prompt));
    const refusal = this.#refusal(opened, prompt, region);
    if (refusal) return this.tell.notice(refusal);
    if ("box" in prompt && region) prompt = { box: clipped(prompt.box, region) };
    const id = opened.active ?? uuid();
    if (opened.active === null) opened.region = region;
    opened.active = id;
    const order = Math.max(-1, ...[...opened.entries.values()].map((entry) => entry.order)) + 1;
    const author = settings.author;
    const draft = { id, version: 0, class: this.class, order, hidden: false, locked: false, region, author };
    opened.add({ id, prompt, region, draft });
  }

  /** Show what a prompt would do, if that can be had at once. @param {Prompt | null} prompt */
  wish(prompt) {
    const { opened } = this;
    if (!opened || !prompt || opened.waiting.length) {
      if (!opened?.waiting.length) this.preview.want(null);
      return;
    }
    const region = this.#window(opened, place(prompt));
    if (opened.encoding(region)?.state !== "ready" || this.#refusal(opened, prompt, region)) return this.preview.want(null);
    const { id } = opened.picture;
    const prompts = [...opened.promptsOf(opened.active), prompt];
    this.preview.want({ key: questionKey(id, prompts, region), ask: () => this.api.predict(id, { prompts, region }, true) });
  }

  /** Begin another object with the next prompt. */
  another() {
    if (!this.opened) return;
    this.opened.active = null;
    this.preview.want(null);
    this.moved();
    this.tell.changed();
  }

  /** @param {string | null} id */
  activate(id) {
    if (!this.opened) return;
    this.opened.active = id;
    this.preview.want(null);
    const entry = this.opened.entry;
    if (entry) this.class = entry.class;
    if (entry && !this.opened.encoding(entry.region)) this.opened.open(entry.region).catch(() => {});
    this.tell.changed();
  }
}

/** What tells questions for a mask apart. @param {string} picture @param {Prompt[]} prompts @param {Box | null} region */
const questionKey = (picture, prompts, region) => JSON.stringify([picture, region, prompts]);

/** A point of a prompt. @param {Prompt} prompt @returns {Point} */
function place(prompt) {
  if ("click" in prompt) return prompt.click;
  if ("box" in prompt) return [(prompt.box[0] + prompt.box[2]) / 2, (prompt.box[1] + prompt.box[3]) / 2];
  if ("stroke" in prompt) return prompt.stroke[0];
  return "paint" in prompt ? prompt.paint[0] : [0, 0];
}

/** @param {Box} box @param {Box} region @returns {Box} */
function clipped([x0, y0, x1, y1], region) {
  return [Math.max(x0, region[0]), Math.max(y0, region[1]), Math.min(x1, region[2]), Math.min(y1, region[3])];
}
