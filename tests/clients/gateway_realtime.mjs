// The official SDK listens to a collection. Called with the SDK's base address; prints a line for each thing that happens.
import { EventSource } from "eventsource";
import PocketBase from "pocketbase";

const { base } = JSON.parse(process.argv[2]);
globalThis.EventSource = EventSource;
const say = (what) => console.log(JSON.stringify(what));
const pb = new PocketBase(base);
let listens = false;
// Whatever is submitted once it listens, is submitted again after another greeting.
pb.afterSend = (response, data) => {
  if (listens && new URL(response.url).pathname.endsWith("/api/realtime")) {
    listens = false;
    say("connected again");
  }
  return data;
};
await pb.collection("notes").subscribe("*", (told) => say([told.action, told.record.title]));
listens = true;
say("listening");
