/** Variables of this process's environment, set for a while: `using restored = setEnvironment({ NAME: 'value' })`. */
export function setEnvironment(values: Record<string, string | undefined>): Disposable {
  const before = Object.fromEntries(Object.keys(values).map((name) => [name, process.env[name]]));
  assign(values);
  return { [Symbol.dispose]: () => assign(before) };
}

function assign(values: Record<string, string | undefined>) {
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}
