// The model, beside the page: reads the bundle, decodes pictures, answers calls in the order in which they come.
import { HRSAMSegmenter } from "./hrsam.js";
import { Segmenter } from "./inter2former.js";
import * as ort from "./onnxruntime/ort.wasm.min.js";

const LARGEST = 100_000_000; // pixels of a picture: its bytes, canvas and mask lie in memory several times

/** @type {Segmenter} */
let segmenter;
/** @type {Awaited<ReturnType<Segmenter["open"]>>} */
let session;

const calls = {
  /** Load the bundle; tells of the bytes that have come. */
  async load() {
    const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency ?? 1, 8) : 1;
    Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: {
      mjs: new URL("onnxruntime/ort-wasm-simd-threaded.js", import.meta.url).href,
      wasm: new URL("onnxruntime/ort-wasm-simd-threaded.wasm", import.meta.url).href,
    } });
    let received = 0;
    const read = (file) => fetched(`bundle/${file}`, (bytes) => self.postMessage({ progress: (received += bytes) }));
    const { family } = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    const segmenters = Object.fromEntries([Segmenter, HRSAMSegmenter].map((known) => [known.family, known]));
    segmenter = await segmenters[family].load({ ort, read, options: { executionProviders: ["wasm"] } });
    return { threads, size: segmenter.size };
  },

  /** Begin with a picture: a file's content. Gives what to draw. */
  async open(/** @type {Blob} */ file) {
    const bitmap = await createImageBitmap(file).catch(() => {
      throw new Error("this browser cannot read the file: take a JPEG, PNG or WebP picture");
    });
    const { width, height } = bitmap;
    if (width * height > LARGEST) {
      throw new Error(`the picture has ${width} x ${height} pixels, more than ${LARGEST.toLocaleString("en")}: make it smaller`);
    }
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("this browser gives no canvas of the picture's size");
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    session = await segmenter.open({ data, width, height, channels: 4 });
    return { bitmap, width, height };
  },

  click: (x, y, positive) => session.click(x, y, positive),
  box: (...sides) => session.box(...sides),
  undo: async () => session.undo(),
};

/** A file of this site, told piece by piece. */
async function fetched(path, tell) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok || !response.body) throw new Error(`${path} cannot be fetched: ${response.status} ${response.statusText}`);
  const pieces = [];
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    pieces.push(piece.value);
    tell(piece.value.length);
  }
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

let last = Promise.resolve();
self.onmessage = ({ data: { id, call, given } }) => {
  last = last.then(async () => {
    try {
      const result = await calls[call](...given);
      self.postMessage({ id, result }, { transfer: [result?.bitmap ?? result?.buffer].filter(Boolean) });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  });
};
