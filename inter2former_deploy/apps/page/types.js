/**
 * The shapes of what server and page exchange, for the type checker; nothing here runs.
 *
 * All coordinates are pixels of the upright picture, x to the right and y down; pixel i spans [i, i + 1).
 *
 * @typedef {[number, number]} Point
 * @typedef {[number, number, number, number]} Box  left, upper, right, lower side
 * @typedef {{size: [number, number], counts: number[]}} Runs  height and width; lengths down the columns, background first
 *
 * @typedef {{click: Point, positive: boolean}} ClickPrompt
 * @typedef {{box: Box}} BoxPrompt
 * @typedef {{stroke: Point[], positive: boolean}} StrokePrompt
 * @typedef {{mask: Runs}} MaskPrompt  a mask to go on from
 * @typedef {{paint: Point[], radius: number, erase: boolean}} PaintPrompt
 * @typedef {ClickPrompt | BoxPrompt | StrokePrompt | MaskPrompt | PaintPrompt} Prompt
 *
 * @typedef {object} Entry  an object of a picture; never changed, but replaced
 * @property {string} id
 * @property {number} version  as the server counts; 0 before it knows the object
 * @property {string} class
 * @property {number} order  of drawing, whole, the highest on top
 * @property {boolean} hidden
 * @property {boolean} locked
 * @property {Box | null} region  the window in which it is segmented; null: the whole picture
 * @property {Prompt[]} prompts
 * @property {Runs} mask
 * @property {string} author
 * @property {string} [changed]  ISO time
 * @property {boolean} [deleted]  as others tell of it
 *
 * @typedef {{id: string, name: string, width: number | null, height: number | null, state: string, objects: number}} Summary
 *
 * @typedef {object} Listing
 * @property {Summary[]} pictures
 * @property {Class[]} classes
 * @property {number} classes_version
 * @property {string[]} format_names  for export
 * @property {string[]} import_names  of these, the ones that can be read
 *
 * @typedef {object} Picture
 * @property {string} id
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {number} tile  side of a tile, pixels of its level
 * @property {{width: number, height: number}[]} levels  level 0 is the picture, each next half of it
 * @property {number} region_size  the model's resolution
 * @property {Entry[]} objects
 *
 * @typedef {object} Encoding
 * @property {string} id
 * @property {number} width
 * @property {number} height
 * @property {"none" | "queued" | "encoding" | "ready" | "failed"} state
 * @property {number} position  in the queue, from 1
 * @property {string | null} error
 * @property {Box | null} [region]
 *
 * @typedef {{mask: Runs, box: Box | null, area: number, sequence: number}} Answer
 * @typedef {{name: string, colour: string}} Class
 * @typedef {{version: number, classes: Class[]}} Classes
 * @typedef {{version: number, classes: Class[], name: string, new_name: string, objects: Record<string, number>}} Renamed  with the versions that objects have now
 */
export {};
