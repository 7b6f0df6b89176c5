// node segment.mjs BUNDLE PICTURE FOLDER +X,Y -X,Y undo ...: writes FOLDER/1.png, FOLDER/2.png, ..., a mask a step.
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import sharp from "sharp";
import { Segmenter } from "./inter2former.js";

const [bundle, picture, folder, ...steps] = process.argv.slice(2);
const form = /^([+-])(\d+),(\d+)$/;
if (!steps.length || !steps.every((step) => step === "undo" || form.test(step))) {
  console.error("usage: node segment.mjs BUNDLE PICTURE FOLDER +X,Y (on the object) | -X,Y (not on it) | undo ...");
  process.exit(2);
}
// Upright, sRGB, three bytes a pixel.
const image = sharp(picture).rotate().toColourspace("srgb").removeAlpha().raw();
const { data, info } = await image.toBuffer({ resolveWithObject: true });
const { width, height } = info;
const segmenter = await Segmenter.load({ ort, read: (file) => readFile(join(bundle, file)) });
const session = await segmenter.open({ data, width, height });
await mkdir(folder, { recursive: true });
for (const [i, step] of steps.entries()) {
  const [, sign, x, y] = form.exec(step) ?? [];
  const mask = sign ? await session.click(Number(x), Number(y), sign === "+") : session.undo();
  const path = join(folder, `${i + 1}.png`);
  const pixels = mask.map((inside) => 255 * inside);
  await sharp(pixels, { raw: { width, height, channels: 1 } }).toColourspace("b-w").png().toFile(path);
  console.log(`${path}: ${step}, ${mask.reduce((a, b) => a + b)} pixels`);
}
