// The button that prints this page; without it the browser's own menu does.
"use strict";
(() => {
  const part = document.querySelector("[data-print]");
  part.hidden = false;
  part.addEventListener("click", () => window.print());
})();
