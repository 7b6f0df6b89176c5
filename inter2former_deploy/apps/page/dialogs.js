/** @import {Action} from "./keys.js" */
/** @import {Workspace} from "./workspace.js" */
/** @import {Entry} from "./types.js" */
import { byId, icon, make } from "./dom.js";
import { shown } from "./keys.js";
import { maskOf } from "./masks.js";
import { Overlay } from "./overlay.js";
import { View } from "./view.js";

const NAMES = /** @type {Record<string, string>} */ ({
  coco: "COCO", labelme: "LabelMe", png: "PNG, one for each object", index: "PNG with palette, one for each picture", cvat: "CVAT for images 1.1", "label-studio": "Label Studio", yolo: "YOLO segmentation",
});
const POLYGONS = new Set(["coco", "labelme"]); // formats that can hold them

for (const button of document.querySelectorAll("dialog .close")) button.append(icon("close"));

/** @param {Action[]} actions */
export function makeHelp(actions) {
  const groups = [...new Set(actions.map(({ group }) => group))];
  byId("help-keys", HTMLElement).replaceChildren(
    ...groups.map((group) =>
      make(
        "section",
        {},
        make("h3", {}, group),
        make(
          "dl",
          {},
          ...actions
            .filter((action) => action.group === group && action.keys.length)
            .flatMap(({ label, keys }) => [make("dt", {}, label), make("dd", {}, ...keys.slice(0, 2).map((key) => make("kbd", {}, shown(key))))]),
        ),
      ),
    ),
  );
}

/** @param {HTMLSelectElement} select @param {string[]} formats */
const offer = (select, formats) => select.replaceChildren(...formats.map((value) => make("option", { value }, NAMES[value] ?? value)));

/** @param {unknown} error */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error));

/** @param {Workspace} workspace */
export function exportDialog(workspace) {
  const dialog = byId("export", HTMLDialogElement);
  const format = byId("export-format", HTMLSelectElement);
  const pictures = byId("export-pictures", HTMLSelectElement);
  const note = byId("export-note", HTMLElement);
  const polygons = byId("export-polygons", HTMLInputElement);
  const choose = () => (byId("export-outlines", HTMLElement).hidden = !POLYGONS.has(format.value));
  format.addEventListener("change", choose);
  byId("export-form", HTMLFormElement).addEventListener("submit", async (event) => {
    event.preventDefault();
    note.textContent = "Writing …";
    try {
      const one = workspace.opened?.picture.id ?? "all";
      const outlines = polygons.checked && POLYGONS.has(format.value);
      const blob = await workspace.api.export(format.value, pictures.value === "all" ? "all" : one, outlines);
      const link = make("a", { href: URL.createObjectURL(blob), download: `annotations-${format.value}.zip` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      note.textContent = `${link.download} is written.`;
    } catch (error) {
      note.textContent = `Nothing was written: ${messageOf(error)}`;
    }
  });
  return () => {
    offer(format, workspace.formats);
    choose();
    const { unsaved } = workspace.saver;
    note.textContent = unsaved ? `${unsaved} changes are not saved yet, and will be missing.` : "";
    dialog.showModal();
  };
}

/** @param {Workspace} workspace */
export function importDialog(workspace) {
  const dialog = byId("import", HTMLDialogElement);
  const format = byId("import-format", HTMLSelectElement);
  const files = byId("import-files", HTMLInputElement);
  const note = byId("import-note", HTMLElement);
  byId("import-form", HTMLFormElement).addEventListener("submit", async (event) => {
    event.preventDefault();
    note.textContent = "Reading …";
    try {
      const { objects, notes } = await workspace.api.import(format.value, files.files ?? []);
      note.replaceChildren(make("p", {}, `${objects} objects came in.`), make("ul", {}, ...notes.map((one) => make("li", {}, one))));
      await workspace.load();
    } catch (error) {
      note.textContent = `Nothing was read: ${messageOf(error)}`;
    }
  });
  return () => {
    offer(format, workspace.imports);
    note.textContent = "";
    dialog.showModal();
  };
}

/** Shows what two people made of an object, one conflict after the other. @param {Workspace} workspace @param {(picture: string, context: CanvasRenderingContext2D, view: View) => void} drawPicture */
export function conflictDialog(workspace, drawPicture) {
  const dialog = byId("conflict", HTMLDialogElement);
  /** @type {import("./workspace.js").Conflict | undefined} */
  let current;
  const close = (/** @type {"mine" | "theirs"} */ keep) => () => {
    const { decide } = /** @type {import("./workspace.js").Conflict} */ (current);
    workspace.conflicts = workspace.conflicts.filter((one) => one !== current);
    current = undefined;
    dialog.close();
    decide(keep);
  };
  byId("keep-mine", HTMLButtonElement).addEventListener("click", close("mine"));
  byId("keep-theirs", HTMLButtonElement).addEventListener("click", close("theirs"));
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // it must be decided

  /** @param {string} side @param {string} who @param {Entry | null} entry */
  const draw = (side, who, entry) => {
    const canvas = byId(`conflict-${side}`, HTMLCanvasElement);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.clearRect(0, 0, canvas.width, canvas.height);
    const text = byId(`conflict-${side}-text`, HTMLElement);
    if (!entry) {
      text.textContent = `${who}: deleted`;
      return;
    }
    const mask = maskOf(entry.mask);
    const view = new View();
    view.resize(canvas, 1);
    view.picture = mask;
    view.fit();
    drawPicture(/** @type {import("./workspace.js").Conflict} */ (current).picture, context, view);
    new Overlay().draw(context, [{ mask, look: { colour: workspace.colourOf(entry.class), fill: 0.5, outline: 1 } }], view);
    const when = entry.changed ? `, ${new Date(entry.changed).toLocaleString()}` : "";
    text.textContent = `${who}: ${entry.class}, ${entry.prompts.length} prompts${when}`;
  };
  return () => {
    if (current || !workspace.conflicts.length) return;
    current = workspace.conflicts[0];
    draw("mine", "Yours", current.mine);
    draw("theirs", current.theirs?.author ? `By ${current.theirs.author}` : "The other one", current.theirs);
    document.querySelectorAll("dialog[open]").forEach((open) => /** @type {HTMLDialogElement} */ (open).close());
    dialog.showModal();
  };
}

/** Ask for the server's token, until it is right. @returns {Promise<string>} */
export function askForToken() {
  const dialog = byId("token", HTMLDialogElement);
  const value = byId("token-value", HTMLInputElement);
  value.value = "";
  dialog.showModal();
  return new Promise((done) => {
    byId("token-form", HTMLFormElement).addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        dialog.close();
        done(value.value.trim());
      },
      { once: true },
    );
  });
}
