// A headless Chromium that listens for Playwright's clients until it is ended.
// Called with the path of the program, a port of the loopback interface, and the path of its socket.
import { chromium } from "playwright-core";

// What the browser would say to other hosts by itself is switched off: the tests need none, and some machines reach none.
const FLAGS =
  "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";

const [executablePath, port, wsPath] = process.argv.slice(2);
const server = await chromium.launchServer({
  executablePath,
  host: "127.0.0.1",
  port: Number(port),
  wsPath,
  args: FLAGS.split(" "),
});
console.log(server.wsEndpoint());
