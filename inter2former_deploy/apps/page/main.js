/** @import {Action} from "./keys.js" */
/** @import {Tool} from "./gestures.js" */
/** @import {Point} from "./types.js" */
/** @import {Scene} from "./viewer.js" */
import { Api, ApiError } from "./api.js";
import { Workspace } from "./workspace.js";
import { askForToken, conflictDialog, exportDialog, importDialog, makeHelp, messageOf } from "./dialogs.js";
import { byId, icon, iconButton, make, painted, write } from "./dom.js";
import { Gestures } from "./gestures.js";
import { listen, shown } from "./keys.js";
import { maskOf } from "./masks.js";
import { Panels } from "./panels.js";
import { Pointer } from "./pointer.js";
import { set, settings, wide } from "./settings.js";
import { followTheme } from "./theme.js";
import { Viewer } from "./viewer.js";

const TOKEN = "i2f-token";
const STEP = 12; // CSS pixels of the keyboard's cursor
const PAN = 80; // CSS pixels of a key
const ZOOM = 1.3;
const SOON = 100; // milliseconds in which a mask mostly comes: a person sees no delay in them
const WHERE = 100; // milliseconds between two numbers of the pointer's place
const [LARGEST_BRUSH, BRUSH_POWER] = [500, 2.2]; // pixels of the picture; the slider is finer for small ones

const canvas = byId("canvas", HTMLCanvasElement);

// The token comes behind the # of the address, where no server log sees it.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(TOKEN, given);
  window.history.replaceState(null, "", location.pathname);
}
const api = new Api(sessionStorage.getItem(TOKEN) ?? "");

/** Where the pointer or the keyboard's cursor is, pixels of the picture. @type {Point | null} */
let at = null;
let byKeyboard = false;

const viewer = new Viewer(canvas, {
  tile: (picture, tile, signal) => api.tile(picture, tile, signal),
  scene,
  refused: (message) => {
    if (message.startsWith("a tile of") && workspace.opened) workspace.opened.broken = `What is shown is not what is segmented: ${message}.`;
    notice(`A part of the picture could not be shown: ${message}`);
  },
  resized: () => changed(),
});
const { view } = viewer;
const workspace = new Workspace(api, view, {
  changed,
  soon,
  repaint: () => viewer.repaint(),
  saving: renderSoon,
  notice,
  say: (text) => (spoken = text),
  shown: (opened) => {
    viewer.show(opened.picture);
    at = null;
    gestures.cancel();
    document.title = `${opened.picture.name} – Annotate`;
    sessionStorage.setItem("i2f-picture", opened.picture.id);
  },
});
const gestures = new Gestures({
  picture: () => workspace.opened?.picture ?? null,
  scale: () => view.scale / view.ratio,
  add: (prompt) => workspace.add(prompt),
  preview: (prompt) => workspace.wish(prompt),
  repaint: () => viewer.repaint(),
});
const pointer = new Pointer(canvas, view, gestures, {
  moved,
  pick,
  at: (point) => {
    at = point;
    byKeyboard = false;
    whereTimer ||= setTimeout(renderWhere, WHERE);
    if (gestures.tool === "brush" || gestures.tool === "eraser") viewer.repaint();
  },
});
const panels = new Panels(workspace, (id) => void show(() => workspace.show(id)));
const openExport = exportDialog(workspace);
const openImport = importDialog(workspace);
const showConflicts = conflictDialog(workspace, (picture, context, small) => {
  if (workspace.opened?.picture.id === picture) viewer.tiles.drawKept(context, small);
});

// What is seen

/** @returns {Scene} */
function scene() {
  const opened = workspace?.opened;
  const brush = gestures.tool === "brush" || gestures.tool === "eraser";
  const cursor = at && (byKeyboard || brush) ? { point: at, radius: brush ? gestures.radius : null } : null;
  const colour = workspace.colourOf(opened?.entry?.class ?? workspace.class);
  const preview = workspace.preview.shown;
  const objects = (opened?.sorted ?? [])
    .filter((entry) => !entry.hidden)
    .map((entry) => ({ mask: entry.mask, colour: workspace.colourOf(entry.class), active: entry.id === opened?.active }));
  return {
    objects,
    preview: preview && { mask: preview.answer.mask, colour },
    prompts: opened && settings.masks && !opened.entry?.hidden ? opened.promptsOf(opened.active) : [],
    region: opened && opened.active !== null ? opened.window : null,
    live: gestures.live,
    colour,
    cursor,
    crosshair: byKeyboard,
    look: settings,
  };
}

let due = false;
let soonTimer = 0;
let whereTimer = 0;
/** For those who do not see the page. */
let spoken = "";

/** Something is to be shown anew, in the next frame. */
function changed() {
  clearTimeout(soonTimer);
  viewer?.repaint();
  renderSoon();
}

/** Something is to be shown anew, with the mask that comes if that is soon enough. */
function soon() {
  clearTimeout(soonTimer);
  soonTimer = setTimeout(changed, SOON);
}

/** All around the picture is shown anew: after the frame, so that it delays no mask. */
async function renderSoon() {
  if (due) return;
  due = true;
  await painted();
  due = false;
  render();
}

function render() {
  panels.render();
  write(byId("spoken", HTMLElement), spoken);
  renderWhere();
  renderProgress();
  renderSaving();
  showConflicts();
  const { opened } = workspace;
  const index = workspace.summaries.findIndex(({ id }) => id === opened?.picture.id);
  buttons.undo.disabled = !opened || !(opened.history.canUndo || opened.waiting.length);
  buttons.redo.disabled = !opened?.history.canRedo;
  buttons.previous.disabled = index <= 0;
  buttons.next.disabled = index < 0 || index >= workspace.summaries.length - 1;
  write(title, opened ? `${opened.picture.name} (${index + 1} of ${workspace.summaries.length})` : "");
  title.title = opened?.picture.name ?? "";
  const { entry } = opened ?? {};
  canvas.setAttribute("aria-label", opened ? `${opened.picture.name}, ${opened.entries.size} objects, ${entry ? `${entry.class} is active` : "none is active"}` : "No picture");
  for (const [tool, button] of toolButtons) button.setAttribute("aria-pressed", String(tool === gestures.tool));
  canvas.dataset.tool = gestures.tool;
  byId("brush", HTMLElement).hidden = gestures.tool !== "brush" && gestures.tool !== "eraser";
  radius.value = String(100 * (gestures.radius / LARGEST_BRUSH) ** (1 / BRUSH_POWER));
  opacity.value = String(settings.opacity * 100);
  for (const [name, box] of checks) box.checked = settings[name];
  for (const side of /** @type {const} */ (["pictures", "panel"])) {
    document.querySelector("main")?.classList.toggle(`no-${side}`, !settings[side]);
    byId(`toggle-${side}`, HTMLElement).setAttribute("aria-expanded", String(settings[side]));
  }
}

function renderWhere() {
  whereTimer = 0;
  const { opened } = workspace;
  write(zoomText, `${Math.round((100 * view.scale) / view.ratio)} %`);
  const inside = opened && at && at[0] >= 0 && at[1] >= 0 && at[0] < opened.picture.width && at[1] < opened.picture.height;
  const size = opened ? `${opened.picture.width} × ${opened.picture.height}` : "";
  write(byId("where", HTMLElement), inside && at ? `${size}    x ${Math.floor(at[0])}, y ${Math.floor(at[1])}` : size);
}

function renderProgress() {
  const { opened } = workspace;
  const encoding = opened?.encoding(opened.window);
  const state = opened?.waiting.length || opened?.window === opened?.region ? encoding?.state : "ready";
  const busy = state === "queued" || state === "encoding";
  const what = opened?.window ? "this part of the picture" : "the picture";
  const place = state === "queued" && encoding && encoding.position > 1 ? ` (number ${encoding.position} in the queue)` : "";
  const waiting = opened?.waiting.length ?? 0;
  const then = waiting ? `. ${waiting === 1 ? "One prompt waits" : `${waiting} prompts wait`} for it.` : ". You can begin already.";
  byId("progress", HTMLElement).hidden = !busy;
  write(byId("progress-text", HTMLElement), busy ? `The model reads ${what}${place}${then}` : "");
  const words = opened?.broken ? "Cannot be segmented" : state === "ready" ? "Ready" : state === "failed" ? "Not readable by the model" : "";
  write(byId("encoding", HTMLElement), words);
}

function renderSaving() {
  const unsaved = workspace.saver.unsaved + workspace.classSaver.unsaved;
  const error = workspace.saver.error ?? workspace.classSaver.error;
  const state = !unsaved ? (workspace.connected ? "saved" : "failed") : error ? "failed" : "saving";
  const lost = `Not saved (${unsaved} ${unsaved === 1 ? "change" : "changes"}): ${error}`;
  const text = { saved: "Saved", saving: "Saving …", failed: unsaved ? lost : "The server does not answer" }[state];
  write(byId("saving-text", HTMLElement), text);
  byId("saving", HTMLElement).dataset.state = state;
  byId("saving-retry", HTMLButtonElement).hidden = state !== "failed" || !unsaved;
}

let noticeTimer = 0;

/** @param {string} message */
function notice(message) {
  byId("notice-text", HTMLElement).textContent = message;
  byId("notice", HTMLElement).hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (byId("notice", HTMLElement).hidden = true), 9000);
}

// What is done

/** @param {() => Promise<void>} turn */
async function show(turn) {
  try {
    await turn();
  } catch (error) {
    notice(`The picture could not be opened: ${messageOf(error)}`);
  }
}

/** The view is another. */
function moved() {
  workspace.moved();
  changed();
}

/** @param {number} scale  device pixels a pixel of the picture */
function zoom(scale) {
  const middle = /** @type {Point} */ ([canvas.width / 2, canvas.height / 2]);
  view.zoomTo(scale, byKeyboard && at ? view.toCanvas(at) : middle);
  moved();
}

/** Choose the highest object there. @param {Point} point */
function pick(point) {
  const found = workspace.opened?.sorted.reverse().find((entry) => !entry.hidden && maskOf(entry.mask).has(...point));
  workspace.activate(found?.id ?? null);
}

/** @param {Tool} tool */
function choose(tool) {
  gestures.cancel();
  gestures.tool = tool;
  changed();
}

/** Move the keyboard's cursor. @param {number} dx  CSS pixels @param {number} dy @param {boolean} fine  by a pixel of the picture */
function step(dx, dy, fine) {
  const { opened } = workspace;
  if (!opened) return;
  const size = fine ? 1 : (STEP * view.ratio) / view.scale;
  const { width, height } = opened.picture;
  const from = at ?? view.toPicture([canvas.width / 2, canvas.height / 2]);
  const to = /** @type {Point} */ ([from[0] + dx * size, from[1] + dy * size]);
  at = [Math.min(width - 0.5, Math.max(0.5, to[0])), Math.min(height - 0.5, Math.max(0.5, to[1]))];
  byKeyboard = true;
  const [x, y] = view.toCanvas(at);
  const margin = 30 * view.ratio;
  const over = (/** @type {number} */ place, /** @type {number} */ length) => Math.max(0, place - length + margin) + Math.min(0, place - margin);
  view.pan(-over(x, canvas.width), -over(y, canvas.height));
  gestures.move(at);
  moved();
}

/** @param {boolean} negative */
function clickAtCursor(negative) {
  if (!at) return step(0, 0, false);
  if (gestures.pressed) return gestures.up(at);
  if (gestures.tool === "hand") return pick(at);
  gestures.down(at, negative);
  gestures.up(at);
}

function drawAtCursor() {
  if (!at) return step(0, 0, false);
  if (gestures.pressed) gestures.up(at);
  else gestures.down(at, false);
}

/** @param {number} by */
function neighbour(by) {
  const sorted = workspace.opened?.sorted ?? [];
  if (!sorted.length) return;
  const now = sorted.findIndex(({ id }) => id === workspace.opened?.active);
  workspace.activate(sorted[now < 0 ? (by > 0 ? 0 : sorted.length - 1) : (now + by + sorted.length) % sorted.length].id);
}

/** @param {"hidden" | "locked"} what */
function toggle(what) {
  const entry = workspace.opened?.entry;
  if (entry) workspace.opened?.change(entry.id, { [what]: !entry[what] });
}

/** @param {Partial<typeof settings>} what */
function prefer(what) {
  set(what);
  changed();
}

/** @param {number} factor */
function resizeBrush(factor) {
  gestures.radius = Math.min(LARGEST_BRUSH, Math.max(0.5, gestures.radius * factor));
  changed();
}

function escape() {
  if (gestures.pressed) gestures.cancel();
  else workspace.another();
}

function remove() {
  const { opened } = workspace;
  if (!opened || opened.active === null) return;
  if (opened.entry?.locked) notice("This object is locked. Unlock it (K) to delete it.");
  else opened.remove(opened.active);
}

/** @type {Record<string, Action>} */
const actions = {
  point: { group: "Tools", label: "Click and box", keys: ["P"], run: () => choose("point") },
  stroke: { group: "Tools", label: "Stroke", keys: ["L"], run: () => choose("stroke") },
  brush: { group: "Tools", label: "Brush", keys: ["B"], run: () => choose("brush") },
  eraser: { group: "Tools", label: "Eraser", keys: ["E"], run: () => choose("eraser") },
  hand: { group: "Tools", label: "Move, and choose objects", keys: ["H"], run: () => choose("hand") },
  smaller: { group: "Tools", label: "Smaller brush", keys: ["["], run: () => resizeBrush(1 / 1.25) },
  larger: { group: "Tools", label: "Larger brush", keys: ["]"], run: () => resizeBrush(1.25) },

  up: { group: "Cursor", label: "Up (by one pixel: Shift)", keys: ["ArrowUp", "Shift+ArrowUp"], canvas: true, run: () => {} },
  down: { group: "Cursor", label: "Down", keys: ["ArrowDown", "Shift+ArrowDown"], canvas: true, run: () => {} },
  left: { group: "Cursor", label: "Left", keys: ["ArrowLeft", "Shift+ArrowLeft"], canvas: true, run: () => {} },
  right: { group: "Cursor", label: "Right", keys: ["ArrowRight", "Shift+ArrowRight"], canvas: true, run: () => {} },
  add: { group: "Cursor", label: "Add what is there", keys: ["Enter"], canvas: true, run: () => clickAtCursor(false) },
  take: { group: "Cursor", label: "Take it away", keys: ["Shift+Enter"], canvas: true, run: () => clickAtCursor(true) },
  draw: { group: "Cursor", label: "Begin and end a box or line", keys: ["D"], run: drawAtCursor },

  another: { group: "Objects", label: "New object", keys: ["N"], run: () => workspace.another() },
  following: { group: "Objects", label: "Next object", keys: ["."], run: () => neighbour(1) },
  preceding: { group: "Objects", label: "Previous object", keys: [","], run: () => neighbour(-1) },
  class: { group: "Objects", label: "First to ninth class", keys: ["1 … 9"], run: () => {} },
  raise: { group: "Objects", label: "Up in the order", keys: ["Ctrl+ArrowUp"], run: () => workspace.opened?.active && workspace.opened.move(workspace.opened.active, 1) },
  lower: { group: "Objects", label: "Down in the order", keys: ["Ctrl+ArrowDown"], run: () => workspace.opened?.active && workspace.opened.move(workspace.opened.active, -1) },
  hide: { group: "Objects", label: "Hide or show", keys: ["X"], run: () => toggle("hidden") },
  lock: { group: "Objects", label: "Lock or unlock", keys: ["K"], run: () => toggle("locked") },
  remove: { group: "Objects", label: "Delete", keys: ["Delete", "Backspace"], run: remove },
  escape: { group: "Objects", label: "Leave the object, stop drawing", keys: ["Escape"], run: escape },

  undo: { group: "History", label: "Undo", keys: ["Ctrl+Z", "U"], run: () => workspace.opened?.undo() },
  redo: { group: "History", label: "Redo", keys: ["Ctrl+Shift+Z", "Shift+U", "Ctrl+Y"], run: () => workspace.opened?.redo() },

  next: { group: "Pictures", label: "Next picture", keys: ["PageDown"], run: () => void show(() => workspace.turn(1)) },
  previous: { group: "Pictures", label: "Previous picture", keys: ["PageUp"], run: () => void show(() => workspace.turn(-1)) },
  find: { group: "Pictures", label: "Find a picture", keys: ["/"], run: find },
  export: { group: "Pictures", label: "Export", keys: ["Ctrl+E"], run: () => openExport() },
  import: { group: "Pictures", label: "Import", keys: ["Ctrl+I"], run: () => openImport() },

  zoomIn: { group: "View", label: "Zoom in", keys: ["+", "="], run: () => zoom(view.scale * ZOOM) },
  zoomOut: { group: "View", label: "Zoom out", keys: ["-"], run: () => zoom(view.scale / ZOOM) },
  fit: { group: "View", label: "Whole picture", keys: ["F", "0"], run: () => (view.fit(), moved()) },
  whole: { group: "View", label: "A pixel a pixel", keys: ["Z"], run: () => zoom(view.ratio) },
  panUp: { group: "View", label: "Move the view up", keys: ["Alt+ArrowUp"], run: () => (view.pan(0, PAN * view.ratio), moved()) },
  panDown: { group: "View", label: "Move the view down", keys: ["Alt+ArrowDown"], run: () => (view.pan(0, -PAN * view.ratio), moved()) },
  panLeft: { group: "View", label: "Move the view left", keys: ["Alt+ArrowLeft"], run: () => (view.pan(PAN * view.ratio, 0), moved()) },
  panRight: { group: "View", label: "Move the view right", keys: ["Alt+ArrowRight"], run: () => (view.pan(-PAN * view.ratio, 0), moved()) },
  masks: { group: "View", label: "Masks", keys: ["M"], run: () => prefer({ masks: !settings.masks }) },
  outline: { group: "View", label: "Outlines", keys: ["O"], run: () => prefer({ outline: !settings.outline }) },
  alone: { group: "View", label: "Masks alone", keys: ["A"], run: () => prefer({ alone: !settings.alone }) },
  fainter: { group: "View", label: "Fainter masks", keys: [";"], run: () => prefer({ opacity: Math.max(0, settings.opacity - 0.1) }) },
  stronger: { group: "View", label: "Stronger masks", keys: ["'"], run: () => prefer({ opacity: Math.min(1, settings.opacity + 0.1) }) },
  theme: { group: "View", label: "Dark or light", keys: ["T"], run: followTheme(() => viewer.repaint()) },
  help: { group: "View", label: "These keys", keys: ["?"], run: () => byId("help", HTMLDialogElement).showModal() },
};
const arrows = /** @type {[string, number, number][]} */ ([["Up", 0, -1], ["Down", 0, 1], ["Left", -1, 0], ["Right", 1, 0]]);
listen([
  ...Object.values(actions).filter(({ label, keys }) => label !== actions.class.label && !keys[0].startsWith("Arrow")),
  ...arrows.flatMap(([name, dx, dy]) =>
    [false, true].map((fine) => ({ group: "", label: "", keys: [`${fine ? "Shift+" : ""}Arrow${name}`], canvas: true, run: () => step(dx, dy, fine) })),
  ),
  ...Array.from({ length: 9 }, (_, i) => ({ group: "", label: "", keys: [String(i + 1)], run: () => workspace.classes[i] && workspace.choose(workspace.classes[i].name) })),
]);
makeHelp(Object.values(actions));

function find() {
  prefer({ pictures: true });
  render();
  byId("filter", HTMLInputElement).focus();
}

// The page's own buttons

/** A button for an action. @param {string} name  of the icon @param {Action} action */
const buttonOf = (name, { label, keys, run }) => iconButton(name, `${label} (${shown(keys[0])})`, run);

const toolButtons = /** @type {[Tool, HTMLButtonElement][]} */ (
  ["point", "stroke", "brush", "eraser", "hand"].map((tool) => [tool, buttonOf(tool, actions[tool])])
);
byId("tools", HTMLElement).append(...toolButtons.map(([, button]) => button));
const buttons = {
  undo: buttonOf("undo", actions.undo),
  redo: buttonOf("redo", actions.redo),
  previous: buttonOf("left", actions.previous),
  next: buttonOf("right", actions.next),
};
byId("steps", HTMLElement).append(buttons.undo, buttons.redo);
const title = make("output");
byId("turn", HTMLElement).append(buttons.previous, title, buttons.next);
const zoomText = make("output", { "aria-label": "Zoom" });
byId("zoom", HTMLElement).append(buttonOf("minus", actions.zoomOut), zoomText, buttonOf("plus", actions.zoomIn), buttonOf("fit", actions.fit));
byId("more", HTMLElement).append(
  buttonOf("import", actions.import),
  buttonOf("export", actions.export),
  buttonOf("theme", actions.theme),
  buttonOf("help", actions.help),
);
byId("notice-close", HTMLElement).append(icon("close"));
byId("notice-close", HTMLElement).addEventListener("click", () => (byId("notice", HTMLElement).hidden = true));
byId("new-object", HTMLElement).addEventListener("click", () => {
  workspace.another();
  canvas.focus();
});
byId("saving-retry", HTMLElement).addEventListener("click", () => {
  workspace.saver.retry();
  workspace.classSaver.retry();
});
byId("toggle-pictures", HTMLElement).append(icon("list"));
byId("toggle-panel", HTMLElement).append(icon("panel"));
wide.addEventListener("change", () => prefer({ pictures: wide.matches, panel: wide.matches }));
byId("toggle-pictures", HTMLElement).addEventListener("click", () => prefer({ pictures: !settings.pictures }));
byId("toggle-panel", HTMLElement).addEventListener("click", () => prefer({ panel: !settings.panel }));
const radius = byId("radius", HTMLInputElement);
radius.addEventListener("input", () => {
  gestures.radius = Math.max(0.5, LARGEST_BRUSH * (Number(radius.value) / 100) ** BRUSH_POWER);
  viewer.repaint();
});
const opacity = byId("opacity", HTMLInputElement);
opacity.addEventListener("input", () => prefer({ opacity: Number(opacity.value) / 100 }));
const checks = /** @type {["masks" | "outline" | "alone", HTMLInputElement][]} */ (
  ["masks", "outline", "alone"].map((name) => [name, byId(`look-${name}`, HTMLInputElement)])
);
for (const [name, box] of checks) box.addEventListener("change", () => prefer({ [name]: box.checked }));
const author = byId("author", HTMLInputElement);
author.value = settings.author;
author.addEventListener("change", () => set({ author: author.value.trim() }));

document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !/** @type {HTMLElement} */ (event.target).matches("canvas, body")) return;
  event.preventDefault();
  pointer.holding = true;
});
document.addEventListener("keyup", (event) => {
  if (event.key === " ") pointer.holding = false;
});
addEventListener("beforeunload", (event) => {
  const waiting = [...workspace.openPictures.values()].some((opened) => opened.waiting.length);
  if (waiting || workspace.saver.unsaved || workspace.classSaver.unsaved) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && workspace.opened) workspace.load().catch(() => {}); // files may be others meanwhile
});
addEventListener("online", () => {
  workspace.saver.retry();
  workspace.classSaver.retry();
});

// The beginning

async function begin() {
  workspace.first = sessionStorage.getItem("i2f-picture");
  for (;;) {
    try {
      await workspace.load();
      break;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      api.token = await askForToken();
      sessionStorage.setItem(TOKEN, api.token);
    }
  }
  await hearEvents();
}

/** For as long as the page lives. */
function hearEvents() {
  let lost = false;
  return api.listen(
    (event) => workspace.hear(event),
    (connected) => {
      workspace.connected = connected;
      if (connected && lost) {
        workspace.saver.retry();
        workspace.classSaver.retry();
        viewer.tiles.retry();
        workspace.load().catch(() => {});
      }
      lost = !connected;
      changed();
    },
  );
}

/** For whoever measures or looks into the page. */
Object.assign(window, { i2f: { workspace, viewer, gestures, settings } });
begin().catch((error) => notice(`The page cannot begin: ${messageOf(error)}`));
