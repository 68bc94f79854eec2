// Starts Scalar on /api-reference. It stands in a file of its own because the page allows no inline script.
Scalar.createApiReference("#app", {
  url: "/openapi.json",
  withDefaultFonts: false, // they would come from another host
  telemetry: false,
  authentication: { preferredSecurityScheme: "bearer" },
  hideClientButton: true,
  agent: { disabled: true },
  mcp: { disabled: true },
  showDeveloperTools: "never",
});
