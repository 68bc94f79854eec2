// The official SDK listens to a collection. Called with the SDK's base address; prints a line for each thing that happens.
import { EventSource } from "eventsource";
import PocketBase from "pocketbase";

const { base } = JSON.parse(process.argv[2]);
globalThis.EventSource = EventSource;
const say = (what) => console.log(JSON.stringify(what));
const pb = new PocketBase(base);
await pb.collection("notes").subscribe("*", (told) => say([told.action, told.record.title]));
say("listening");
// The greeting comes before the topics are submitted again, so the end of that is waited for.
await pb.realtime.subscribe("PB_CONNECT", async () => {
  while (pb.realtime.lastSentSubscriptions?.length < 1) await new Promise((done) => setTimeout(done, 5));
  setTimeout(() => say("connected again"), 300);
});
