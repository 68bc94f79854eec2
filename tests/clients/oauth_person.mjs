// A person with a browser that runs no scripts, for the programs of this folder: cookies, forms and redirects by fetch alone.

const unescaped = (text) =>
  text.replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (_, decimal, hex, name) =>
    decimal || hex ? String.fromCodePoint(parseInt(decimal ?? hex, decimal ? 10 : 16)) : { amp: "&", lt: "<", gt: ">", quot: '"' }[name],
  );

const attributesOf = (tag) =>
  Object.fromEntries([...tag.matchAll(/([a-z-]+)(?:="([^"]*)")?/gi)].slice(1).map(([, name, value]) => [name, unescaped(value ?? "")]));

// Every form of a page: its action, what it would send untouched, and its buttons.
function formsOf(html) {
  return [...html.matchAll(/<form[\s\S]*?<\/form>/g)].map(([form]) => {
    const found = { action: attributesOf(form.match(/<form[^>]*>/)[0]).action, fields: [], buttons: [] };
    for (const [tag, kind] of form.matchAll(/<(input|button)[^>]*>/g)) {
      const given = attributesOf(tag);
      if (!given.name) continue;
      if (kind === "button") found.buttons.push([given.name, given.value ?? ""]);
      else if (given.type !== "checkbox" || "checked" in given) found.fields.push([given.name, given.value ?? "", given.type]);
    }
    return found;
  });
}

export class Person {
  #cookies = new Map();

  constructor(site, email, password) {
    Object.assign(this, { site, email, password });
  }

  async #send(url, options = {}) {
    const cookie = [...this.#cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const answer = await fetch(url, { redirect: "manual", ...options, headers: { ...options.headers, ...(cookie && { cookie }) } });
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = line.match(/^([^=]+)=([^;]*)/);
      if (/max-age=0|expires=Thu, 01 Jan 1970/i.test(line)) this.#cookies.delete(name);
      else this.#cookies.set(name, value);
    }
    return answer;
  }

  // Opens an address; follows redirects while they stay on the site. `left` is the address of the app that they led to.
  async open(url, options) {
    let answer = await this.#send(url, options);
    for (let steps = 0; steps < 12; steps += 1) {
      // A page may lead on by itself, which begins a way of its own: browsers follow that like a redirect.
      const location = answer.headers.get("location") ?? answer.headers.get("refresh")?.split("url=")[1];
      if (!location) {
        return { status: answer.status, url: String(url), html: await answer.text() };
      }
      url = new URL(location, url);
      if (url.origin !== this.site) return { left: url };
      answer = await this.#send(url);
    }
    throw new Error(`redirected without end: ${url}`);
  }

  async submit(page, form, values = {}, untick = []) {
    const body = new URLSearchParams();
    for (const [name, value, type] of form.fields) {
      if (!(name in values) && !(type === "checkbox" && untick.includes(value))) body.append(name, value);
    }
    for (const [name, value] of Object.entries(values)) body.append(name, value);
    return this.open(new URL(form.action, page.url), { method: "POST", body, headers: { origin: this.site } });
  }

  // Goes through all pages, signing in and deciding when asked; the app's address that the last one leads to.
  async authorize(url, { decision = "allow", untick = [], values = {} } = {}) {
    let page = await this.open(url);
    for (let steps = 0; steps < 8 && !page.left; steps += 1) {
      const forms = formsOf(page.html);
      const login = forms.find((form) => form.fields.some(([name]) => name === "password"));
      const choice = forms.find((form) => form.buttons.some(([name, value]) => name === "decision" && value === decision));
      const other = forms.find((form) => Object.keys(values).some((name) => form.fields.some(([field]) => field === name)));
      if (login) page = await this.submit(page, login, { identifier: this.email, password: this.password });
      else if (choice) page = await this.submit(page, choice, { decision }, untick);
      else if (other) page = await this.submit(page, other, values);
      else break;
    }
    if (!page.left && page.status !== 200) throw new Error(`stuck at ${page.url} (${page.status}): ${page.html}`);
    return page.left ?? page;
  }
}
