// The search box over all bundled models: a combobox as https://www.w3.org/WAI/ARIA/apg/patterns/combobox/ describes it.

import { make } from './make.js';
import { state } from './state.js';
import { count, say, short } from './text.js';

// `framed` puts the label around it, `choose` takes the name.
export function modelSearch(models, modelNamed, framed, choose) {
  const input = make('input', {
    type: 'text',
    role: 'combobox',
    'aria-expanded': 'false',
    'aria-controls': 'models',
    'aria-autocomplete': 'list',
    spellcheck: 'false',
    value: state.fields.model_name ?? '',
  });
  const list = make('ul', {
    class: 'list',
    role: 'listbox',
    id: 'models',
    hidden: true,
    'aria-label': say('model_name'),
  });
  const hint = make('p', { class: 'hint' });
  let marked = -1;
  let found = [];

  const close = () => {
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  };
  const mark = (index) => {
    marked = index;
    [...list.children].forEach((item, place) => item.setAttribute('aria-selected', String(place === index)));
    input.setAttribute('aria-activedescendant', `model-${index}`);
    list.children[index]?.scrollIntoView({ block: 'nearest' });
  };
  const take = (name) => {
    input.value = name;
    close();
    if (name !== (state.fields.model_name ?? '')) choose(name);
  };
  const item = (model, index) =>
    make(
      'li',
      {
        role: 'option',
        id: `model-${index}`,
        'aria-selected': 'false',
        onmousedown: (event) => {
          event.preventDefault(); // the focus stays in the box
          take(model.name);
        },
      },
      model.name,
      ' ',
      make(
        'small',
        {},
        [model.family, model.parameter_count ? short(model.parameter_count) : ''].filter(Boolean).join(' · '),
      ),
    );
  const show = (text) => {
    found = matching(models(), text);
    list.replaceChildren(
      ...(found.length
        ? found.map(item)
        : [make('li', { role: 'option', 'aria-disabled': 'true' }, say(models().length ? 'no_match' : 'waiting'))]),
    );
    list.hidden = false;
    input.setAttribute('aria-expanded', 'true');
    input.removeAttribute('aria-activedescendant');
    marked = -1;
  };
  const everything = () => {
    show('');
    const chosen = found.findIndex((each) => each.name === state.fields.model_name);
    if (chosen >= 0) mark(chosen);
  };

  input.addEventListener('focus', () => input.select());
  input.addEventListener('click', () => (list.hidden ? everything() : close()));
  input.addEventListener('input', () => show(input.value));
  input.addEventListener('blur', () => take(input.value.trim()));
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      const step = event.key === 'ArrowDown' ? 1 : -1;
      if (list.hidden) everything();
      if (found.length) mark(Math.max(0, Math.min(found.length - 1, marked + step)));
    } else if (event.key === 'Enter') {
      event.preventDefault();
      const exact = found.find((each) => each.name.toLowerCase() === input.value.trim().toLowerCase());
      const chosen = list.hidden ? null : (found[marked] ?? exact ?? found[0]);
      take(chosen?.name ?? input.value.trim());
    } else if (event.key === 'Escape') {
      input.value = state.fields.model_name ?? '';
      close();
    }
  });

  const box = framed(make('div', { class: 'search' }, input, list));
  box.append(hint);
  box.refresh = () => {
    if (!list.hidden && !found.length) show(input.value);
    input.placeholder = say('search', { count: count(models().length) });
    const model = modelNamed(state.fields.model_name);
    hint.textContent = model
      ? [
          model.hub_id,
          say('parameters', { count: count(model.parameter_count) }),
          model.max_context ? say('made_for', { count: count(model.max_context) }) : '',
        ]
          .filter(Boolean)
          .join(' · ')
      : '';
  };
  return box;
}

// Every word must be somewhere in the name, the hub id, the family or the size.
function matching(models, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const size = (model) => (model.parameter_count ? short(model.parameter_count) : '');
  const searched = (model) =>
    [model.name, model.hub_id, model.family, model.model_type, size(model)].join(' ').toLowerCase();
  return models.filter((model) => words.every((word) => searched(model).includes(word)));
}
