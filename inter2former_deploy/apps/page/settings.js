/** @typedef {{opacity: number, outline: boolean, masks: boolean, alone: boolean}} Look */

const KEY = "i2f-settings";

/** What somebody prefers, kept in the browser. @type {Look & {author: string, pictures: boolean, panel: boolean}} */
export const settings = {
  opacity: 0.45,
  outline: true,
  masks: true,
  alone: false,
  author: "",
  pictures: innerWidth > 1100,
  panel: innerWidth > 1100,
  ...read(),
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
  const { alone: _, ...kept } = settings;
  localStorage.setItem(KEY, JSON.stringify(kept));
}
