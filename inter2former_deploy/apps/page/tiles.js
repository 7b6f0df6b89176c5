/** @import {Picture} from "./types.js" */
/** @import {View} from "./view.js" */

const KEPT = 240; // tiles in memory, a megabyte each
const AT_ONCE = 6; // requests

/**
 * @typedef {object} Tile
 * @property {string} key
 * @property {number} level
 * @property {number} column
 * @property {number} row
 */

/** The picture's pixels: tiles of the level at which one looks, and coarser ones until these have come. */
export class Tiles {
  /** @type {Picture | null} */
  #picture = null;
  /** In the order of their last use. @type {Map<string, ImageBitmap>} */
  #have = new Map();
  /** @type {Map<string, AbortController>} */
  #asked = new Map();
  /** @type {Set<string>} */
  #failed = new Set();
  /** Another number whenever `draw` may give something else. */
  version = 0;
  /** What is to be fetched, the most wanted first. @type {Tile[]} */
  #wanted = [];

  /**
   * @param {(picture: string, tile: Tile, signal: AbortSignal) => Promise<Blob>} fetchTile
   * @param {() => void} arrived
   * @param {(message: string) => void} refused  a tile is not what the server said that it would be
   */
  constructor(fetchTile, arrived, refused) {
    this.fetchTile = fetchTile;
    this.arrived = arrived;
    this.refused = refused;
  }

  /** @param {Picture | null} picture */
  show(picture) {
    for (const request of this.#asked.values()) request.abort();
    for (const bitmap of this.#have.values()) bitmap.close();
    this.#have.clear();
    this.#asked.clear();
    this.#failed.clear();
    this.#picture = picture;
    this.version++;
  }

  /** Ask again for what could not be fetched. */
  retry() {
    this.#failed.clear();
    this.version++;
  }

  /** @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context  in device pixels @param {View} view */
  draw(context, view) {
    const picture = this.#picture;
    if (!picture) return;
    const last = picture.levels.length - 1;
    const level = Math.min(last, Math.max(0, Math.floor(-Math.log2(view.scale) + 0.01)));
    const seen = this.#seen(picture, level, view);
    const complete = seen.every(({ key }) => this.#have.has(key));
    context.save();
    context.imageSmoothingEnabled = view.scale < 2;
    context.imageSmoothingQuality = "low"; // tiles are at most halved; "medium" makes coarser pictures of each, every frame
    if (!complete) {
      for (let coarse = last; coarse > level; coarse--) this.#paint(context, picture, this.#seen(picture, coarse, view), view);
    }
    this.#paint(context, picture, seen, view);
    context.restore();
    this.#wanted = [...(complete ? [] : this.#seen(picture, last, view)), ...seen];
    this.#fetch(picture);
  }

  /** Draw what is there, and ask for nothing. @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context @param {View} view */
  drawKept(context, view) {
    const picture = this.#picture;
    if (!picture) return;
    for (let level = picture.levels.length - 1; level >= 0; level--) this.#paint(context, picture, this.#seen(picture, level, view), view);
  }

  /**
   * The tiles of a level that one sees, from the middle outwards.
   * @param {Picture} picture @param {number} level @param {View} view
   * @returns {Tile[]}
   */
  #seen(picture, level, view) {
    const { width, height } = picture.levels[level];
    const side = (picture.tile * picture.width) / width; // of a tile, pixels of the picture
    const [left, upper, right, lower] = view.visible();
    const across = Math.ceil(width / picture.tile);
    const down = Math.ceil(height / picture.tile);
    const [middleX, middleY] = [(left + right) / 2 / side - 0.5, (upper + lower) / 2 / side - 0.5];
    const tiles = [];
    for (let row = Math.floor(upper / side); row < Math.min(down, Math.ceil(lower / side)); row++) {
      for (let column = Math.floor(left / side); column < Math.min(across, Math.ceil(right / side)); column++) {
        tiles.push({ key: `${level}/${column}/${row}`, level, column, row });
      }
    }
    const distance = (/** @type {Tile} */ t) => Math.hypot(t.column - middleX, t.row - middleY);
    return tiles.sort((a, b) => distance(a) - distance(b));
  }

  /** @param {CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D} context @param {Picture} picture @param {Tile[]} tiles @param {View} view */
  #paint(context, picture, tiles, view) {
    for (const { key, level, column, row } of tiles) {
      const bitmap = this.#have.get(key);
      if (!bitmap) continue;
      this.#have.delete(key);
      this.#have.set(key, bitmap);
      const across = picture.width / picture.levels[level].width;
      const down = picture.height / picture.levels[level].height;
      const [x, y] = [column * picture.tile, row * picture.tile];
      const left = Math.round(view.x + x * across * view.scale);
      const upper = Math.round(view.y + y * down * view.scale);
      const right = Math.round(view.x + (x + bitmap.width) * across * view.scale);
      const lower = Math.round(view.y + (y + bitmap.height) * down * view.scale);
      context.drawImage(bitmap, left, upper, right - left, lower - upper);
    }
  }

  /** @param {Picture} picture */
  #fetch(picture) {
    const wanted = new Set(this.#wanted.map(({ key }) => key));
    for (const [key, request] of this.#asked) if (!wanted.has(key)) request.abort();
    for (const tile of this.#wanted) {
      if (this.#asked.size >= AT_ONCE) return;
      if (this.#have.has(tile.key) || this.#asked.has(tile.key) || this.#failed.has(tile.key)) continue;
      void this.#load(picture, tile);
    }
  }

  /** @param {Picture} picture @param {Tile} tile */
  async #load(picture, tile) {
    const request = new AbortController();
    this.#asked.set(tile.key, request);
    try {
      const blob = await this.fetchTile(picture.id, tile, request.signal);
      const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
      if (picture !== this.#picture) return bitmap.close();
      this.#check(picture, tile, bitmap);
      this.#have.set(tile.key, bitmap);
      for (const [key, old] of this.#have) {
        if (this.#have.size <= KEPT) break;
        old.close();
        this.#have.delete(key);
      }
    } catch (error) {
      if (!request.signal.aborted && picture === this.#picture) {
        this.#failed.add(tile.key);
        this.refused(error instanceof Error ? error.message : String(error));
      }
    } finally {
      if (this.#asked.get(tile.key) === request) this.#asked.delete(tile.key);
      this.version++;
      this.arrived();
    }
  }

  /** What is drawn must be what is segmented. @param {Picture} picture @param {Tile} tile @param {ImageBitmap} bitmap */
  #check(picture, { level, column, row }, bitmap) {
    const width = Math.min(picture.tile, picture.levels[level].width - column * picture.tile);
    const height = Math.min(picture.tile, picture.levels[level].height - row * picture.tile);
    if (bitmap.width !== width || bitmap.height !== height) {
      throw new Error(`a tile of ${bitmap.width} x ${bitmap.height} pixels came where the server's size needs ${width} x ${height}`);
    }
  }
}
