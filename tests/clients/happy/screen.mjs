// Loaded before a program's command line: stands in for the packages that this folder leaves out. Of all of them only the screen
// does anything: where a person would choose how to sign in, it chooses the phone. All else of the program is its own.
import { registerHooks } from "node:module";

const LEFT_OUT =
  /^(@agentclientprotocol\/sdk|@anthropic-ai\/claude-agent-sdk|@modelcontextprotocol\/sdk|ai|fastify|fastify-type-provider-zod|http-proxy|http-proxy-middleware|ink|inquirer|open|react)(\/|$)/;
const SCREEN = `
const nothing = () => {};
export default { createElement: (kind, properties) => ({ kind, properties }) };
export const render = ({ properties }) => {
  queueMicrotask(() => properties.onSelect("mobile"));
  return { unmount: nothing };
};
export class AbortError extends Error {}
export class McpServer {}
export class StreamableHTTPServerTransport {}
export const Box = nothing, Text = nothing, useInput = nothing, useStdout = nothing, query = nothing;
export const useState = nothing, useRef = nothing, useEffect = nothing, useCallback = nothing;
export const validatorCompiler = nothing, serializerCompiler = nothing;
`;

registerHooks({
  resolve: (specifier, context, next) =>
    LEFT_OUT.test(specifier) ? { url: "left-out:screen", format: "module", shortCircuit: true } : next(specifier, context),
  load: (url, context, next) =>
    url === "left-out:screen" ? { format: "module", source: SCREEN, shortCircuit: true } : next(url, context),
});
