// Starts Swagger UI on /docs. It stands in a file of its own because the page allows no inline script.
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#app",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null, // the default sends the document's address to a public service
});
