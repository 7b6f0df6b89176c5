// The page: shows a picture and its mask, turns clicks and boxes into calls of the worker.
import { Model } from "./model.js";

const DRAG = 6; // screen pixels that tell a box from a click
const OBJECT = [0, 120, 255]; // colour of the mask

const $ = (id) => /** @type {any} */ (document.getElementById(id));
const model = new Model((bytes) => say(`Loading the model: ${(bytes / 1e6).toFixed(0)} MB`));
/** @type {{name: string, width: number, height: number, mask: Uint8Array} | null} */
let picture = null;
/** @type {({click: number[], positive: boolean} | {box: number[]})[]} */
let prompts = [];
let isOpening = false; // a picture is read; what is shown is still the one before
let waiting = 0; // calls of the worker that have not been answered
/** @type {{at: number[], screen: number[]} | null} */
let drag = null;

/** @param {string} text */
function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

/** Do one thing after another; errors are told to the user. */
async function during(text, work) {
  waiting += 1;
  update();
  if (text) say(text);
  try {
    await work();
  } catch (error) {
    say(String(/** @type {Error} */ (error).message ?? error), true);
  } finally {
    waiting -= 1;
    update();
  }
}

function update() {
  document.body.ariaBusy = String(waiting > 0);
  for (const id of ["undo", "clear"]) $(id).disabled = !prompts.length || waiting > 0;
  $("save").disabled = !picture || !prompts.length || waiting > 0;
  $("stage").hidden = !picture;
  $("welcome").hidden = picture !== null;
}

const loaded = model.load().then(
  ({ threads, size }) => say(`Ready: model at ${size} x ${size}, ${threads === 1 ? "one thread" : `${threads} threads`}.`),
  (error) => {
    say(`The model cannot be loaded: ${error.message}`, true);
    throw error;
  },
);
loaded.catch(() => {}); // said already

/** @param {File} file */
function open(file) {
  if (isOpening) return;
  isOpening = true;
  during("Reading the picture ...", async () => {
    await loaded;
    say("The model looks at the picture ...");
    const started = performance.now();
    const { bitmap, width, height } = await model.open(file);
    picture = { name: file.name || "picture.png", width, height, mask: new Uint8Array(width * height) };
    prompts = [];
    for (const id of ["picture", "mask"]) Object.assign($(id), { width, height });
    $("picture").getContext("2d").drawImage(bitmap, 0, 0);
    $("stage").style.aspectRatio = `${width} / ${height}`;
    $("stage").style.setProperty("--ratio", String(width / height));
    show(picture.mask);
    say(`${picture.name}: ${width} x ${height} pixels, encoded in ${seconds(started)}. Click on an object.`);
  }).finally(() => (isOpening = false));
}

/** Ask for the next mask. */
function prompt(entry) {
  if (!picture || isOpening) return;
  prompts.push(entry);
  drawPrompts();
  during("", async () => {
    const started = performance.now();
    try {
      show(await ("box" in entry ? model.box(...entry.box) : model.click(...entry.click, entry.positive)));
    } catch (error) {
      prompts.splice(prompts.indexOf(entry), 1);
      drawPrompts();
      throw error;
    }
    const area = picture?.mask.reduce((sum, inside) => sum + inside, 0) ?? 0;
    say(`${prompts.length} prompt${prompts.length > 1 ? "s" : ""}, ${area} pixels, ${seconds(started)}.`);
  });
}

function undo() {
  if (!prompts.length || waiting) return;
  prompts.pop();
  during("", async () => show(await model.undo()));
}

function clear() {
  if (waiting) return;
  during("", async () => {
    let mask = picture?.mask;
    for (; prompts.length; prompts.pop()) mask = await model.undo();
    if (mask) show(mask);
    say("Click on an object.");
  });
}

const seconds = (started) => `${((performance.now() - started) / 1000).toFixed(2)} s`;

/** @param {Uint8Array} mask */
function show(mask) {
  if (!picture) return;
  picture.mask = mask;
  const { width, height } = picture;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const colour = (alpha) => new Uint32Array(Uint8ClampedArray.of(...OBJECT, alpha).buffer)[0];
  const [inside, border] = [colour(110), colour(255)];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const isBorder = (x > 0 && !mask[i - 1]) || (x < width - 1 && !mask[i + 1]) || (y > 0 && !mask[i - width]) || (y < height - 1 && !mask[i + width]);
      pixels[i] = isBorder ? border : inside;
    }
  }
  $("mask").getContext("2d").putImageData(image, 0, 0);
  drawPrompts();
}

/** Marks of the prompts, of the same size on the screen whatever the picture's. */
function drawPrompts(box = /** @type {number[] | null} */ (null)) {
  if (!picture) return;
  const { width, height } = picture;
  const svg = $("prompts");
  svg.replaceChildren();
  const add = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
    svg.append(element);
  };
  const percent = (v, length) => `${(100 * v) / length}%`;
  const addBox = ([x0, y0, x1, y1]) =>
    add("rect", { x: percent(x0, width), y: percent(y0, height), width: percent(x1 - x0, width), height: percent(y1 - y0, height) });
  for (const entry of prompts) {
    if ("box" in entry) addBox(entry.box);
    else add("circle", { cx: percent(entry.click[0], width), cy: percent(entry.click[1], height), r: 6, class: entry.positive ? "positive" : "negative" });
  }
  if (box) addBox(box);
}

/** Where a pointer is, in pixels of the picture: pixel i spans [i, i + 1). */
function position(event) {
  const { left, top, width, height } = $("stage").getBoundingClientRect();
  return [((event.clientX - left) / width) * picture.width, ((event.clientY - top) / height) * picture.height];
}

const clamp = (v, end) => Math.min(Math.max(v, 0), end);

function boxTo([x, y]) {
  const [[x0, y0], { width, height }] = [drag.at, picture];
  return [clamp(Math.min(x0, x), width), clamp(Math.min(y0, y), height), clamp(Math.max(x0, x), width), clamp(Math.max(y0, y), height)];
}

const isDrag = (event) => drag !== null && Math.hypot(event.clientX - drag.screen[0], event.clientY - drag.screen[1]) > DRAG;

$("stage").addEventListener("pointerdown", (event) => {
  if (event.button > 0 || !picture) return;
  drag = { at: position(event), screen: [event.clientX, event.clientY] };
  $("stage").setPointerCapture(event.pointerId);
});
$("stage").addEventListener("pointermove", (event) => {
  if (drag) drawPrompts(isDrag(event) ? boxTo(position(event)) : null);
});
$("stage").addEventListener("pointerup", (event) => {
  if (!drag || !picture) return;
  const [x, y] = drag.at;
  if (isDrag(event)) prompt({ box: boxTo(position(event)) });
  else if (x >= 0 && x < picture.width && y >= 0 && y < picture.height) prompt({ click: [x, y], positive: !event.altKey && !$("away").checked });
  drag = null;
});
$("stage").addEventListener("pointercancel", () => {
  drag = null;
  drawPrompts();
});
$("stage").addEventListener("contextmenu", (event) => {
  event.preventDefault();
  const [x, y] = position(event);
  if (x >= 0 && x < picture.width && y >= 0 && y < picture.height) prompt({ click: [x, y], positive: false });
});

$("file").addEventListener("change", () => {
  if ($("file").files.length) open($("file").files[0]);
  $("file").value = "";
});
for (const id of ["open", "welcome-open"]) $(id).addEventListener("click", () => $("file").click());
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer?.files.length) open(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) open(event.clipboardData.files[0]);
});

$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", clear);
$("opacity").addEventListener("input", () => ($("mask").style.opacity = $("opacity").value));
addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    undo();
  }
});

$("save").addEventListener("click", async () => {
  if (!picture) return;
  const { name, width, height, mask } = picture;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  mask.forEach((inside, i) => (pixels[i] = inside ? 0xffffffff : 0xff000000));
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  link.download = `${name.replace(/\.[^.]*$/, "")}.mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});

update();
