// Copies what the documentation pages load into the Python package, where the server reads it and the wheel carries it.
// The list is complete on purpose: hapta/http/docs.py serves exactly these names.
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";

const FILES = {
  "swagger-ui.js": "node_modules/swagger-ui-dist/swagger-ui-bundle.js",
  "swagger-ui.css": "node_modules/swagger-ui-dist/swagger-ui.css",
  "swagger-ui.license.txt": "node_modules/swagger-ui-dist/LICENSE",
  "swagger-ui.js.license.txt": "node_modules/swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt",
  "scalar.js": "node_modules/@scalar/api-reference/dist/browser/standalone.js",
  "docs.js": "src/docs.js",
  "docs.css": "src/docs.css",
  "api-reference.js": "src/api-reference.js",
  "icon.svg": "src/icon.svg",
};

// What must have run before a viewer's own code stands at the head of its file.
const HEADS = {
  "scalar.js": "src/scalar-head.js",
};

const from = (path) => new URL(path, import.meta.url);
const target = from("../hapta/http/assets/");
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
for (const [name, source] of Object.entries(FILES)) {
  copyFileSync(from(source), new URL(name, target));
}
for (const [name, head] of Object.entries(HEADS)) {
  const file = new URL(name, target);
  writeFileSync(file, Buffer.concat([readFileSync(from(head)), readFileSync(file)]));
}
console.log(`${Object.keys(FILES).length} files in hapta/http/assets`);
