// Takes the addresses out of the package-lock.json of the folder it is called in: each machine has its own registry, and
// the integrity hashes say what is accepted. With --check it changes nothing and fails when there is an address.
import { readFileSync, writeFileSync } from "node:fs";

const file = "package-lock.json"; // npm runs a package's scripts in the package's folder
const lock = JSON.parse(readFileSync(file, "utf8"));
let addresses = 0;
for (const entry of Object.values(lock.packages)) {
  if (entry.resolved?.includes("://")) {
    delete entry.resolved;
    addresses += 1;
  }
}
if (process.argv.includes("--check")) {
  if (addresses) {
    console.error(`package-lock.json names ${addresses} addresses; run: npm run lock`);
    process.exit(1);
  }
} else {
  writeFileSync(file, JSON.stringify(lock, null, 2) + "\n");
}
