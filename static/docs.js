// The forms of the API page: each sends its request to this server and shows what came back.

import { make } from './make.js';

const values = (form, place) => [...form.querySelectorAll(`[data-in=${place}]`)].filter((input) => input.value !== '');

function address(form) {
  let path = form.dataset.path;
  for (const input of values(form, 'path'))
    path = path.replace(`{${input.name}}`, input.value.split('/').map(encodeURIComponent).join('/'));
  const query = new URLSearchParams(values(form, 'query').map((input) => [input.name, input.value])).toString();
  return query ? `${path}?${query}` : path;
}

function curl(form) {
  const where = `'${location.origin}${address(form)}'`;
  const body = form.elements.body?.value;
  return body === undefined ? `curl -s ${where}` : `curl -s ${where} -d '${body.replaceAll("'", "'\\''")}'`;
}

async function send(form) {
  const place = form.querySelector('.reply');
  const body = form.elements.body?.value;
  const began = performance.now();
  try {
    const headers = body === undefined ? {} : { 'Content-Type': 'application/json' };
    const response = await fetch(address(form), { method: form.dataset.method, body, headers });
    const text = await response.text();
    const took = Math.round(performance.now() - began);
    show(place, `${response.status} ${response.statusText} · ${took} ms`, response.ok, pretty(text));
  } catch (fault) {
    show(place, 'No answer', false, fault.message);
  }
}

function show(place, line, good, text) {
  const region = { tabindex: 0, role: 'region', 'aria-label': 'Reply' };
  place.replaceChildren(make('p', { class: `verdict ${good ? 'yes' : 'no'}` }, line), make('pre', region, text));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

async function copy(form, button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(curl(form));
    button.textContent = 'Copied';
  } catch {
    // no clipboard here: show it instead
    show(form.querySelector('.reply'), 'curl', true, curl(form));
  }
  setTimeout(() => {
    button.textContent = words;
  }, 1500);
}

for (const form of document.querySelectorAll('form.try')) {
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    send(form);
  });
  form.querySelector('[data-copy]').addEventListener('click', (event) => copy(form, event.currentTarget));
  for (const button of form.querySelectorAll('[data-example]')) {
    button.addEventListener('click', () => {
      form.elements.body.value = JSON.stringify(JSON.parse(button.dataset.example), null, 2);
    });
  }
}

// A link to a body opens it.
function open() {
  const named = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named?.tagName !== 'DETAILS') return;
  named.open = true;
  named.scrollIntoView();
}

addEventListener('hashchange', open);
open();
