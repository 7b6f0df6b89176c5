/**
 * Something that a key does.
 * @typedef {object} Action
 * @property {string} label  what it does, for the help dialog and for screen readers
 * @property {string} group
 * @property {string[]} keys  such as "Ctrl+Shift+Z" (Ctrl stands for the Mac's command key, too), "?", "PageDown"
 * @property {() => void} run
 * @property {boolean} [canvas]  only while the canvas has the focus, or nothing has it
 */

/** The name of the key that was pressed. @param {KeyboardEvent} event */
export function keyName(event) {
  const printable = event.key.length === 1;
  const letter = printable && event.key.toLowerCase() !== event.key.toUpperCase();
  const key = event.key === " " ? "Space" : letter ? event.key.toUpperCase() : event.key;
  const shift = event.shiftKey && (!printable || letter || key === "Space");
  return [(event.ctrlKey || event.metaKey) && "Ctrl", event.altKey && "Alt", shift && "Shift", key].filter(Boolean).join("+");
}

/**
 * Let keys do what the actions say, wherever nobody writes and no dialog is open.
 * @param {Action[]} actions
 */
export function listen(actions) {
  const byKey = new Map(actions.flatMap((action) => action.keys.map((key) => [key, action])));
  document.addEventListener("keydown", (event) => {
    const name = keyName(event);
    const action = byKey.get(name);
    if (!action || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const writing = target.matches("select, textarea, input:not([type=range], [type=checkbox], [type=color])");
    if (writing && !(name.startsWith("Ctrl+") && !target.matches("input, textarea"))) return;
    const free = target.matches("canvas, body");
    if (!free && (action.canvas || (target.matches("[type=range]") && /Arrow|Page|Home|End/.test(name)))) return;
    event.preventDefault();
    action.run();
  });
}

const NAMES = /** @type {Record<string, string>} */ ({
  ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", PageDown: "Page ↓", PageUp: "Page ↑", Delete: "Del", Escape: "Esc",
});

/** A key as it is shown. @param {string} key */
export function shown(key) {
  const plus = key.endsWith("+") ? ["+"] : [];
  const parts = plus.length ? key.slice(0, -1).split("+").filter(Boolean) : key.split("+");
  return [...parts, ...plus].map((part) => NAMES[part] ?? part).join(" ");
}
