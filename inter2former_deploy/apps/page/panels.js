/** @import {Workspace} from "./workspace.js" */
/** @import {Class, Entry} from "./types.js" */
import { byId, icon, iconButton, make } from "./dom.js";
import { maskOf } from "./masks.js";

const COLOURS = ["#2f7dff", "#e8710a", "#12a37b", "#c13fa8", "#d9a400", "#7a5af0", "#d33f49", "#1f9bc1", "#7c9a1d", "#a5673f"];

/** The lists beside the picture. */
export class Panels {
  #pictures = byId("picture-list", HTMLUListElement);
  #objects = byId("object-list", HTMLUListElement);
  #classes = byId("class-list", HTMLUListElement);
  #filter = byId("filter", HTMLInputElement);
  /** @type {import("./types.js").Summary[]} */
  #listed = [];
  /** @type {Map<string, {row: HTMLLIElement, button: HTMLButtonElement, count: HTMLSpanElement}>} */
  #rows = new Map();
  /** What the lists show, so that they are made anew only when that changes. @type {Map<HTMLElement, string>} */
  #states = new Map();
  /** The class whose name is being written. @type {string | null} */
  #renaming = null;

  /** @param {Workspace} workspace @param {(id: string) => void} show */
  constructor(workspace, show) {
    this.workspace = workspace;
    this.show = show;
    this.#filter.addEventListener("input", () => this.#applyFilter());
    byId("class-add", HTMLButtonElement).append(icon("plus"));
    const name = byId("class-name", HTMLInputElement);
    byId("class-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      const chosen = name.value.trim();
      if (!chosen || workspace.classes.some((one) => one.name === chosen)) return;
      const colour = COLOURS.find((one) => !workspace.classes.some((other) => other.colour === one)) ?? COLOURS[workspace.classes.length % COLOURS.length];
      workspace.changeClasses([...workspace.classes, { name: chosen, colour }]);
      workspace.choose(chosen);
      name.value = "";
    });
  }

  render() {
    this.#renderPictures();
    this.#renderObjects();
    this.#renderClasses();
  }

  /** Make a list anew if it would be another, and keep the focus in it. @param {HTMLElement} list @param {unknown} state @param {() => Node[]} rows */
  #renew(list, state, rows) {
    const text = JSON.stringify(state);
    if (this.#states.get(list) === text) return;
    this.#states.set(list, text);
    const focused = list.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).dataset.focus : null;
    list.replaceChildren(...rows());
    if (focused) /** @type {HTMLElement | null} */ (list.querySelector(`[data-focus="${CSS.escape(focused)}"]`))?.focus();
  }

  #renderPictures() {
    const { summaries, opened, openPictures } = this.workspace;
    if (this.#listed !== summaries) {
      this.#listed = summaries;
      this.#rows = new Map(
        summaries.map(({ id, name }) => {
          const count = make("span", { className: "count" });
          const label = make("bdi", {}, name);
          const button = make("button", { type: "button", title: name, onclick: () => this.show(id) }, make("span", { className: "name" }, label), count);
          return [id, { row: make("li", {}, button), button, count }];
        }),
      );
      this.#pictures.replaceChildren(...[...this.#rows.values()].map(({ row }) => row));
      this.#applyFilter();
      byId("empty", HTMLElement).hidden = summaries.length > 0;
    }
    for (const summary of summaries) {
      const { button, count } = /** @type {{button: HTMLButtonElement, count: HTMLSpanElement}} */ (this.#rows.get(summary.id));
      const loaded = openPictures.get(summary.id);
      if (loaded) summary.objects = loaded.entries.size;
      const text = summary.objects ? String(summary.objects) : "";
      if (count.textContent !== text) {
        count.textContent = text;
        button.setAttribute("aria-label", `${summary.name}, ${summary.objects} ${summary.objects === 1 ? "object" : "objects"}`);
      }
      const current = String(opened?.picture.id === summary.id);
      if (button.getAttribute("aria-current") !== current) {
        button.setAttribute("aria-current", current);
        if (current === "true") button.scrollIntoView({ block: "nearest" });
      }
    }
  }

  #applyFilter() {
    const wanted = this.#filter.value.trim().toLowerCase();
    for (const { id, name } of this.#listed) {
      const row = this.#rows.get(id)?.row;
      if (row) row.hidden = !name.toLowerCase().includes(wanted);
    }
  }

  #renderObjects() {
    const { opened, classes } = this.workspace;
    const entries = opened ? opened.sorted.reverse() : [];
    const draft = opened && opened.active !== null && !opened.entry ? this.workspace.class || "object" : null;
    const state = [entries.map((entry) => [entry.id, entry.class, entry.hidden, entry.locked, maskOf(entry.mask).box === null]), opened?.active, classes, draft, opened?.picture.id];
    this.#renew(this.#objects, state, () => [
      ...(draft === null ? [] : [make("li", { className: "row active" }, swatch(this.workspace.colourOf(draft)), make("span", { className: "pick" }, `${draft} …`))]),
      ...entries.map((entry) => this.#objectRow(entry, names(entries).get(entry.id) ?? "")),
      ...(entries.length || draft !== null ? [] : [make("li", { className: "quiet" }, "None yet. Click on one in the picture.")]),
    ]);
  }

  /** @param {Entry} entry @param {string} name */
  #objectRow(entry, name) {
    const { workspace } = this;
    const opened = /** @type {import("./open-picture.js").OpenPicture} */ (workspace.opened);
    const { id, hidden, locked } = entry;
    const active = opened.active === id;
    const empty = maskOf(entry.mask).box === null ? " (empty)" : "";
    const tools = active
      ? [
          iconButton("up", `Move ${name} up`, () => opened.move(id, 1), { "data-focus": `up ${id}` }),
          iconButton("down", `Move ${name} down`, () => opened.move(id, -1), { "data-focus": `down ${id}` }),
          iconButton("trash", `Delete ${name}`, () => opened.remove(id), { disabled: locked, "data-focus": `delete ${id}` }),
        ]
      : [];
    return make(
      "li",
      { className: `row${active ? " active" : ""}${hidden ? " dimmed" : ""}` },
      swatch(workspace.colourOf(entry.class)),
      make("button", { type: "button", className: "pick", "aria-pressed": active, onclick: () => workspace.activate(active ? null : id), "data-focus": `pick ${id}` }, name + empty),
      ...tools,
      iconButton(locked ? "locked" : "open", `Lock ${name}`, () => opened.change(id, { locked: !locked }), { "aria-pressed": locked, "data-focus": `lock ${id}` }),
      iconButton(hidden ? "hidden" : "seen", `Hide ${name}`, () => opened.change(id, { hidden: !hidden }), { "aria-pressed": hidden, "data-focus": `hide ${id}` }),
    );
  }

  #renderClasses() {
    const { workspace } = this;
    this.#renew(this.#classes, [workspace.classes, workspace.class, this.#renaming], () => workspace.classes.map((one, at) => this.#classRow(one, at)));
  }

  /** Have a class's name written anew, or end that. @param {string | null} name */
  #rename(name) {
    this.#renaming = name;
    this.#renderClasses();
    /** @type {HTMLInputElement | null} */ (this.#classes.querySelector("input.rename"))?.focus();
  }

  /** @param {string} name */
  #nameField(name) {
    const { workspace } = this;
    const field = make("input", { className: "rename", value: name, maxLength: 200, "aria-label": `New name of ${name}`, autocomplete: "off" });
    const end = (/** @type {boolean} */ keep) => {
      if (this.#renaming !== name) return;
      const chosen = field.value.trim();
      this.#rename(null);
      if (!keep || !chosen || chosen === name) return;
      if (workspace.classes.some((one) => one.name === chosen)) return workspace.tell.notice(`There is a class ${chosen} already: choose it for the objects instead.`);
      void workspace.rename(name, chosen);
    };
    field.addEventListener("focus", () => field.select());
    field.addEventListener("blur", () => end(true));
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      end(event.key === "Enter");
      byId("canvas", HTMLCanvasElement).focus();
    });
    return field;
  }

  /** @param {Class} one @param {number} at */
  #classRow({ name, colour }, at) {
    const { workspace } = this;
    const chosen = workspace.class === name;
    const others = workspace.classes.filter((other) => other.name !== name);
    const recolour = (/** @type {Event} */ event) => {
      const { value } = /** @type {HTMLInputElement} */ (event.target);
      workspace.changeClasses(workspace.classes.map((other) => (other.name === name ? { name, colour: value } : other)));
    };
    const rename = () => this.#rename(name);
    if (this.#renaming === name) return make("li", { className: "row active" }, this.#nameField(name));
    return make(
      "li",
      { className: `row${chosen ? " active" : ""}` },
      make("span", { className: "key", "aria-hidden": "true" }, at < 9 ? String(at + 1) : ""),
      make("input", { type: "color", value: colour, title: `Colour of ${name}`, "aria-label": `Colour of ${name}`, onchange: recolour, "data-focus": `colour ${name}` }),
      make("button", { type: "button", className: "pick", "aria-pressed": chosen, onclick: () => workspace.choose(name), ondblclick: rename, "data-focus": `class ${name}` }, name),
      ...(chosen ? [iconButton("pen", `Rename the class ${name}`, rename, { "data-focus": `rename ${name}` })] : []),
      iconButton("close", `Remove the class ${name}`, () => workspace.changeClasses(others), { disabled: others.length === 0, "data-focus": `remove ${name}` }),
    );
  }
}

/** @param {string} colour */
function swatch(colour) {
  const element = make("span", { className: "swatch" });
  element.style.setProperty("--colour", colour);
  return element;
}

/** Names of objects: their class, numbered from the first drawn. @param {Entry[]} entries  the highest first */
function names(entries) {
  /** @type {Map<string, number>} */
  const numbers = new Map();
  return new Map(
    [...entries].reverse().map((entry) => {
      const number = (numbers.get(entry.class) ?? 0) + 1;
      numbers.set(entry.class, number);
      return [entry.id, `${entry.class || "object"} ${number}`];
    }),
  );
}
