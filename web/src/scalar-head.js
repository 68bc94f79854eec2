// The viewer's schema library tries, as soon as it is loaded, whether it may compile code at run time. The page's policy says
// no, and the browser would report each try as a violation of it; this switch makes the library not try.
globalThis.__zod_globalConfig = { jitless: true };
