// A person with a browser: opens an address, follows redirects, and fills in the forms of the provider.
// node person.mjs URL NAME [deny]; prints the text of the last page.
const [start, name, deny] = process.argv.slice(2);
const jar = new Map();
const attribute = (tag, of) => tag.match(new RegExp(`\\b${of}="([^"]*)"`))?.[1].replaceAll('&amp;', '&');

let [url, request] = [start, { method: 'GET' }];
for (let step = 0; step < 30; step++) {
  const cookie = [...jar].map(([key, value]) => `${key}=${value}`).join('; ');
  const answer = await fetch(url, { ...request, redirect: 'manual', headers: { ...request.headers, cookie } });
  for (const line of answer.headers.getSetCookie()) {
    const [pair] = line.split(';');
    jar.set(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1));
  }
  const location = answer.headers.get('location');
  if (location) {
    [url, request] = [new URL(location, url).href, { method: 'GET' }];
    continue;
  }
  const page = await answer.text();
  const form = page.match(/<form[^>]*>[\s\S]*?<\/form>/)?.[0];
  const abort = page.match(/href="([^"]*\/abort)"/)?.[1];
  if (!form) {
    console.log(page);
    process.exit(0);
  }
  if (deny && abort && page.includes('name="prompt" value="consent"')) {
    [url, request] = [new URL(abort, url).href, { method: 'GET' }];
    continue;
  }
  const fields = new URLSearchParams();
  for (const [tag] of form.matchAll(/<input[^>]*>/g)) {
    const field = attribute(tag, 'name');
    if (field) fields.set(field, { login: name, password: 'any' }[field] ?? attribute(tag, 'value') ?? '');
  }
  url = new URL(attribute(form, 'action') ?? url, url).href;
  const headers = { 'content-type': 'application/x-www-form-urlencoded' };
  request = { method: 'POST', body: fields.toString(), headers };
}
throw new Error(`no end after 30 pages: ${url}`);
