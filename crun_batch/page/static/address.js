// What is shown stands in the address: run, filters, order, columns, page, open row.

export function asked() {
  return new URLSearchParams(location.search);
}

// edit(parameters) changes a copy of them; `push`: the way back leads here.
export function change(edit, { push = false, keepPage = false } = {}) {
  const parameters = asked();
  if (!keepPage) parameters.delete("page");
  edit(parameters);
  const text = parameters.toString();
  if (text === asked().toString()) return false;
  history[push ? "pushState" : "replaceState"](null, "", text ? `?${text}` : location.pathname);
  return true;
}

export function put(parameters, name, value) {
  if (value === null || value === undefined || value === "" || value === false) parameters.delete(name);
  else parameters.set(name, value === true ? "1" : value);
}

export function putAll(parameters, name, values) {
  parameters.delete(name);
  for (const value of values) parameters.append(name, value);
}
