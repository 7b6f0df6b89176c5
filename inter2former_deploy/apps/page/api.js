/** @import {Answer, Box, Classes, Encoding, Entry, Listing, Picture, Prompt, Renamed} from "./types.js" */

/** What the server refused, or that it could not be reached (`status` 0). */
export class ApiError extends Error {
  /** @param {number} status @param {string} code @param {string} message @param {any} [data]  the whole answer */
  constructor(status, code, message, data = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.data = data;
  }
}

/** A random identifier, also where the page has no secure context. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** @param {number} milliseconds @returns {Promise<void>} */
export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** The server's routes. All reject with ApiError. */
export class Api {
  #client = uuid();
  #sequence = 0;

  /** @param {string} token  empty: none */
  constructor(token) {
    this.token = token;
  }

  /** @param {string} method @param {string} path @param {{body?: any, signal?: AbortSignal}} [more] */
  async #send(method, path, { body, signal } = {}) {
    /** @type {Record<string, string>} */
    const headers = { "X-I2F": "1" };
    if (this.token) headers["Authorization"] = `Bearer ${this.token}`;
    if (body !== undefined && !(body instanceof FormData)) {
      headers["Content-Type"] = "application/json";
      body = JSON.stringify(body);
    }
    let answer;
    try {
      answer = await fetch(path, { method, headers, body, signal, cache: method === "GET" ? "default" : "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, "unreachable", "the server does not answer");
    }
    if (answer.ok) return answer;
    const data = await answer.json().catch(() => null);
    const { code = "error", message = `the server answered with ${answer.status}` } = data?.error ?? {};
    throw new ApiError(answer.status, code, message, data);
  }

  /** @param {string} method @param {string} path @param {any} [body] @param {AbortSignal} [signal] */
  async #json(method, path, body, signal) {
    const answer = await this.#send(method, path, { body, signal });
    return answer.status === 204 ? null : answer.json();
  }

  /** @returns {Promise<Listing>} */
  pictures() {
    return this.#json("GET", "/v1/pictures");
  }

  /** @param {string} id @returns {Promise<Picture>} */
  picture(id) {
    return this.#json("GET", `/v1/pictures/${id}`);
  }

  /** @param {string} id @param {{level: number, column: number, row: number}} tile @param {AbortSignal} signal */
  async tile(id, { level, column, row }, signal) {
    const answer = await this.#send("GET", `/v1/pictures/${id}/tiles/${level}/${column}/${row}`, { signal });
    return answer.blob();
  }

  /** Begin an encoding. @param {string} id @param {Box | null} region @param {string[]} ahead @returns {Promise<Encoding>} */
  open(id, region, ahead) {
    return this.#json("POST", `/v1/pictures/${id}/open`, { region, ahead });
  }

  /**
   * @param {string} id
   * @param {{prompts: Prompt[], region: Box | null}} what
   * @param {boolean} preview  that newer ones replace
   * @returns {Promise<Answer>}
   */
  predict(id, { prompts, region }, preview) {
    const asked = { prompts, region, client: this.#client, sequence: ++this.#sequence, preview };
    return this.#json("POST", `/v1/pictures/${id}/predict`, asked);
  }

  /** @param {string} picture @param {Entry} entry  with the version it replaces @returns {Promise<Entry>} */
  put(picture, { id, version, class: name, order, hidden, locked, region, prompts, mask, author }) {
    const body = { version, class: name, order, hidden, locked, region, prompts, mask, author };
    return this.#json("PUT", `/v1/pictures/${picture}/objects/${id}`, body);
  }

  /**
   * @param {string} picture
   * @param {string} id
   * @param {number} version  that is deleted
   * @param {string} author
   * @returns {Promise<{version: number}>}
   */
  remove(picture, id, version, author) {
    const query = new URLSearchParams({ version: String(version), author });
    return this.#json("DELETE", `/v1/pictures/${picture}/objects/${id}?${query}`);
  }

  /** @param {Classes} classes  with the version they replace @returns {Promise<Classes>} */
  putClasses(classes) {
    return this.#json("PUT", "/v1/classes", classes);
  }

  /** @param {number} version  of the classes @param {string} name @param {string} newName @param {string} author @returns {Promise<Renamed>} */
  renameClass(version, name, newName, author) {
    return this.#json("POST", "/v1/classes/rename", { version, name, new_name: newName, author });
  }

  /** @param {string} format @param {string} pictures  "all" or an identifier @param {boolean} polygons @returns {Promise<Blob>} */
  async export(format, pictures, polygons) {
    const query = new URLSearchParams({ format, pictures, polygons: String(polygons) });
    return (await this.#send("GET", `/v1/export?${query}`)).blob();
  }

  /** @param {string} format @param {Iterable<File>} files @returns {Promise<{objects: number, notes: string[]}>} */
  import(format, files) {
    const body = new FormData();
    body.append("format", format);
    for (const file of files) body.append("file", file);
    return this.#json("POST", "/v1/import", body);
  }

  /**
   * Hear of what the server does and of what others draw, for as long as the page lives.
   * @param {(event: any) => void} hear
   * @param {(connected: boolean) => void} tell
   */
  async listen(hear, tell) {
    for (let wait = 500; ; wait = Math.min(10_000, wait * 2)) {
      try {
        const answer = await this.#send("GET", "/v1/events");
        const body = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body);
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        tell(true);
        wait = 500;
        let rest = "";
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          const events = (rest + part.value).replaceAll("\r\n", "\n").split("\n\n");
          rest = /** @type {string} */ (events.pop());
          for (const event of events) {
            const data = event.split("\n").filter((line) => line.startsWith("data:"));
            if (data.length) hear(JSON.parse(data.map((line) => line.slice(5)).join("\n")));
          }
        }
      } catch {
        // told below, and tried again
      }
      tell(false);
      await sleep(wait);
    }
  }
}
