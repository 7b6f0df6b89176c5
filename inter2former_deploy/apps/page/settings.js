/** @typedef {{opacity: number, outline: boolean, masks: boolean, alone: boolean}} Look */

const KEY = "i2f-settings";

/** Whether there is room for lists beside the picture; as in style.css. */
export const wide = matchMedia("(min-width: 1101px)");

/** What somebody prefers, kept in the browser. @type {Look & {author: string, pictures: boolean, panel: boolean}} */
export const settings = {
  opacity: 0.45,
  outline: true,
  masks: true,
  alone: false,
  author: "",
  ...read(),
  pictures: wide.matches,
  panel: wide.matches,
};

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? "{}");
  } catch {
    return {};
  }
}

/** @param {Partial<typeof settings>} what */
export function set(what) {
  Object.assign(settings, what);
  const { alone: _, pictures: __, panel: ___, ...kept } = settings;
  localStorage.setItem(KEY, JSON.stringify(kept));
}
